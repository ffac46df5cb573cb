"""`/health/live` and `/health/ready`: each problem is told by its check, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, cast

import pytest
from twisted.internet.defer import Deferred

from pushserver import PushServer
from pushserver.server.readiness import Readiness
from pushserver.store.batcher import RETRY_SECONDS
from pushserver.store.service import Storage
from tests.e2e.blocks import block_with
from tests.unit.fakes.web import Response, Server
from tests.unit.store.test_sync_broker import World

OK = {
    "application": "ok",
    "broker": "ok",
    "ports": "ok",
    "stop": "ok",
    "store": "ok",
    "workers": "ok",
}


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    server.service.startService()
    server.clock.advance(0)
    yield server
    stop(server)


def stop(server: Server) -> None:
    server.service.stopService()
    for _ in range(10):
        server.clock.advance(1)


def ready(server: Server, **headers: str) -> Response:
    return server.get("/health/ready", **headers)


def problems(answer: Response) -> dict[str, str]:
    assert answer.json["status"] == ("ok" if answer.status == 200 else "failing")
    return {name: text for name, text in answer.json["checks"].items() if text != "ok"}


def test_running_server_is_ready(server: Server) -> None:
    answer = ready(server)
    assert (answer.status, answer.json) == (200, {"status": "ok", "checks": OK})
    assert answer["content-type"] == "application/json"
    assert answer["cache-control"] == "no-store"


def test_server_is_live_whatever_it_is_ready_for() -> None:
    server = Server()
    assert server.get("/health/live").json == {"status": "ok", "checks": {}}
    assert ready(server).status == 503


def test_answers_are_under_every_host(server: Server) -> None:
    for host in ("elsewhere.example", "elsewhere.example:8080", "10.2.3.4"):
        assert ready(server, host=host).status == 200
        assert server.get("/health/live", host=host).status == 200
    assert server.get("/channels/", host="elsewhere.example").status == 403


def test_head_has_the_status_without_a_body(server: Server) -> None:
    answer = server.get("/health/ready", "HEAD")
    assert (answer.status, answer.body) == (200, b"")


@pytest.mark.parametrize(
    ("path", "method", "status"),
    [("/health", "GET", 404), ("/health/other", "GET", 404), ("/health/live", "POST", 405)],
)
def test_other_urls_and_methods_are_refused(
    server: Server, path: str, method: str, status: int
) -> None:
    assert server.get(path, method).status == status


def test_server_waits_for_the_start_handler() -> None:
    app, started = PushServer(), Deferred[None]()

    @app.on("start")
    async def start() -> None:
        await started

    server = Server(app=app)
    server.service.startService()
    server.clock.advance(0)
    answer = ready(server)
    assert answer.status == 503
    assert answer["retry-after"] == "1"
    assert problems(answer) == {"application": "the start handler has not returned yet"}
    started.callback(None)
    assert ready(server).status == 200
    stop(server)


def test_failing_start_handler_does_not_keep_the_server_from_being_ready(
    trouble: list[str],
) -> None:
    app = PushServer()

    @app.on("start")
    async def start() -> None:
        raise RuntimeError

    server = Server(app=app)
    server.service.startService()
    server.clock.advance(0)
    trouble.clear()
    assert ready(server).status == 200
    stop(server)


def test_closed_port_is_a_problem(server: Server) -> None:
    [listener] = server.service.ports._listeners
    listener._port = None
    assert problems(ready(server)) == {"ports": "1 of the ports do not listen"}


def test_stopping_server_is_not_ready(server: Server) -> None:
    line = server.connect()
    server.service.stopService()
    checks = server.service._readiness.checks()
    assert checks["stop"] == "the server is stopping"
    assert checks["ports"]
    line.vanish()


class Store:
    """A storage whose file cannot be written."""

    def __init__(self) -> None:
        self.problem = "cannot write /home/jane/history.db: disk full"
        self.probes = 0

    def probe(self) -> None:
        self.probes += 1


def test_problem_of_the_store_is_told_without_its_path() -> None:
    store = Store()
    readiness = Readiness(cast(Storage, store))
    shown = json.loads(block_with("docs/monitoring.md", '"status": "failing"').text)
    assert shown["checks"] == OK | {"store": readiness.checks()["store"]}
    assert store.probes == 1
    store.problem = ""
    assert readiness.checks()["store"] == ""
    assert store.probes == 1


def test_store_that_can_be_written_again_is_found_without_a_publisher() -> None:
    """A balancer sends nothing to a server that is not ready, so no publisher would find out."""
    world = World()
    world.publish("a")
    world.fail()
    batcher = world.broker.batcher
    batcher.probe()
    world.fail()
    batcher.probe()
    assert not world.committer.jobs, "a second probe within a second"
    world.time.now += RETRY_SECONDS
    batcher.probe()
    world.committer.succeed()
    assert world.committer.problem == ""
    world.time.now += RETRY_SECONDS
    batcher.probe()
    assert not world.committer.jobs, "a probe without a failure"


def test_problem_of_a_part_is_told_and_the_server_stays_ready(server: Server) -> None:
    readiness: Any = server.service._readiness
    readiness.shards = lambda: "shard 1: Redis is away"
    answer = ready(server)
    checks = OK | {"broker": "shard 1: Redis is away"}
    assert (answer.status, answer.json) == (200, {"status": "degraded", "checks": checks})
