"""Two whole servers as one: the first has the log and the application, the second the clients."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pushserver import Client, PushServer
from pushserver.config.limits import Limits
from pushserver.config.settings import Config, Source, Store
from pushserver.server.build import build
from pushserver.server.front import make_front
from pushserver.server.meter import REPORT_SECONDS
from pushserver.server.place import Place
from pushserver.testing.reactor import InlinePool
from tests.unit.fakes.processes import Processes
from tests.unit.fakes.web import Log, Response, Server, Socket, memory_reactor


class Both(Processes):
    """The two servers on one reactor."""

    @property
    def first(self) -> Server:
        """The main process."""
        return self.main

    @property
    def second(self) -> Server:
        """The worker."""
        return self.workers[0]


@pytest.fixture
def app() -> PushServer:
    return PushServer()


@pytest.fixture
def make(app: PushServer, tmp_path: Path) -> Iterator[Callable[[], Both]]:
    """Makes both servers, once the application has its handlers."""
    with Log():
        yield lambda: Both(tmp_path, app)


def test_stream_at_the_second_has_publications_of_the_first(make: Callable[[], Both]) -> None:
    both = make()
    socket = both.websocket(both.second, "/channels/numbers")
    both.settle()
    both.first.publish(data=5)
    both.settle()
    received = [value for value in socket.texts() if "data" in value]
    assert [value["data"] for value in received] == [5]


def test_client_of_the_second_talks_to_the_application_of_the_first(
    make: Callable[[], Both], app: PushServer
) -> None:
    gone: list[str] = []

    @app.on("connect")
    def connect(client: Client) -> None:
        client.user = "anna"
        client.join("room")

    @app.on("greet")
    def greet(client: Client, name: str) -> str:
        client.send("before")
        return f"hello {name} from {client.user} at {client.address}"

    @app.on("disconnect")
    def disconnect(client: Client) -> None:
        gone.append(client.user)

    both = make()
    socket = both.second.websocket("/connection/websocket")
    socket.say({"id": 1, "connect": {}})
    both.settle()
    (reply,) = socket.texts()
    assert list(reply["connect"]["subs"]) == ["room"]
    app.publish("room", "news")
    socket.say({"id": 2, "rpc": {"method": "greet", "data": "Bo"}})
    both.settle()
    news, before, answer = socket.texts()
    assert news["push"]["pub"]["data"] == "news"
    assert before["push"]["message"]["data"] == "before"
    assert answer["rpc"]["data"] == "hello Bo from anna at 127.0.0.1"
    app.disconnect("anna")
    both.settle()
    socket.line.vanish()
    both.settle()
    assert gone == ["anna"]


def get(both: Both, path: str, method: str = "GET", body: bytes = b"", **headers: str) -> Response:
    """The answer of the second server."""
    line = both.second.open(path, method, body, **headers)
    both.settle()
    response = line.response(method)
    line.vanish()
    return response


@pytest.mark.parametrize("query", ["", "last=2", "since=oldest&limit=2", "since={}:1", "wait=5"])
def test_history_at_the_second_is_that_of_the_first(make: Callable[[], Both], query: str) -> None:
    both = make()
    for n in range(3):
        both.first.publish(data=n)
    path = f"/channels/numbers?{query.replace('{}', both.first.hub.history.epoch)}"
    answer = get(both, path)
    assert answer.json == both.first.get(path).json
    assert len(answer.json["publications"]) >= 2
    assert get(both, path, "HEAD").headers.keys() == both.first.get(path, "HEAD").headers.keys()


def test_reader_of_a_faster_server_misses_nothing_in_the_history_of_the_second(
    make: Callable[[], Both],
) -> None:
    both = make()
    both.first.publish(data=0)
    before = get(both, "/channels/numbers").json["id"]
    both.first.publish(data=1)
    both.first.publish(data=2)
    after = both.first.get(f"/channels/numbers?since={before}&limit=1").json["id"]
    answer = get(both, f"/channels/numbers?since={after}").json
    assert [row["data"] for row in answer["publications"]] == [2]
    assert "reason" not in answer


def test_long_poll_at_the_second_gets_the_next_publication_of_the_first(
    make: Callable[[], Both],
) -> None:
    both = make()
    both.first.publish(data=0)
    line = both.second.open("/channels/numbers?since=now&wait=5")
    both.settle()
    assert line.take() == b""
    both.first.publish(data=1)
    both.settle()
    answer = line.response()
    assert [row["data"] for row in answer.json["publications"]] == [1]
    line.vanish()
    both.settle()
    assert both.second.is_empty()


@pytest.mark.parametrize("query", ["", "wait=5"])
def test_reader_that_leaves_while_the_history_is_loaded_leaves_nothing(
    make: Callable[[], Both], query: str
) -> None:
    both = make()
    line = both.second.open(f"/channels/numbers?{query}")
    line.vanish()
    both.settle()
    assert both.second.is_empty()
    assert both.first.node.hub.channels() == {}


def test_call_of_the_api_at_the_second_reads_the_history_of_the_first(
    make: Callable[[], Both],
) -> None:
    both = make()
    both.first.publish(data=5)
    epoch = both.first.hub.history.epoch
    call = b'{"channel": "numbers", "limit": -1}'
    result = get(both, "/api/history", "POST", call).json["result"]
    assert [row["data"] for row in result["publications"]] == [5]
    since = f'{{"channel": "a", "user": "x", "recover_since": {{"epoch": "{epoch}", "offset": 1}}}}'
    both.first.publish("a")
    assert get(both, "/api/subscribe", "POST", since.encode()).json == {"result": {}}


@pytest.mark.parametrize("path", ["/channels/numbers", "/api/publish"])
def test_publication_at_the_second_is_one_of_the_first(make: Callable[[], Both], path: str) -> None:
    both = make()
    body = b'{"channel": "numbers", "data": 7}' if path.startswith("/api") else b"7"
    answer = get(both, path, "POST", body)
    assert answer.status == (200 if path.startswith("/api") else 201)
    assert both.first.hub.history.top("numbers") == 1


def test_worker_has_no_store_and_runs_no_source(tmp_path: Path) -> None:
    app = PushServer()
    app.source("own", every=1.0)(lambda: 1)
    path = tmp_path / "p.db"
    sources = {"numbers": Source("random", "numbers"), "wrong": Source("unknown", "a")}
    config = Config(sources=sources, store=Store(path=str(path)))
    reactor = memory_reactor()
    service = build(config, reactor, app=app, threads=InlinePool(), place=Place(str(tmp_path), 1))
    assert service.sources.statuses == []
    base = service.live._base
    again = make_front(replace(config, sources={"other": sources["numbers"]}), base)
    assert again.sources == []
    assert not path.exists()


def test_connections_of_the_second_count_for_the_whole_server(make: Callable[[], Both]) -> None:
    both = make()
    socket = both.websocket(both.second, "/channels/numbers")
    both.settle()
    assert [each.node.connections.open for each in (both.first, both.second)] == [1, 1]
    socket.line.vanish()
    both.settle()
    assert both.first.node.connections.open == 0


def test_reload_of_the_second_changes_its_bounds(make: Callable[[], Both]) -> None:
    both = make()
    follower: Any = both.second.node._broker
    follower.reconfigure(Limits(channels=7), frozenset({"a"}))
    assert both.second.node.history.room.most_channels == 7


def api(server: Server, method: str, **fields: str) -> Any:
    answer = server.get(f"/api/{method}", "POST", json.dumps(fields).encode())
    assert answer.status == 200, answer
    return answer.json["result"]


def test_api_of_the_first_has_the_clients_and_sums_of_both(
    make: Callable[[], Both], app: PushServer
) -> None:
    @app.on("connect")
    def connect(client: Client) -> None:
        client.user = f"user {len(sockets) % 2}"
        client.join("numbers")

    both, sockets = make(), list[Socket]()
    for _ in range(3):
        sockets.append(both.second.websocket("/connection/websocket"))
        sockets[-1].say({"id": 1, "connect": {}})
        both.settle()
    stream = both.second.open("/channels/numbers", accept="text/event-stream")
    both.settle()
    both.first.publish(data=5)
    both.settle()
    both.first.clock.advance(REPORT_SECONDS)
    both.wires[0].pump()
    (info,) = api(both.first, "info")["nodes"]
    # The stream is of nobody.
    assert (info["num_clients"], info["num_users"], info["num_subs"]) == (4, 3, 4)
    items = info["metrics"]["items"]
    assert (items["publications"], items["deliveries"]) == (1, 4)
    assert items["opened.centrifuge-websocket"] == 3
    stats = api(both.first, "presence_stats", channel="numbers")
    assert stats == {"num_clients": 4, "num_users": 3}
    assert api(both.first, "channels")["channels"] == {"numbers": {"num_clients": 4}}
    top = api(both.first, "top")
    assert top["channels"][0]["num_clients"] == 4
    assert {row["transport"]: row["count"] for row in top["connections"]} == {
        "sse": 1,
        "websocket": 3,
    }
    for line in (stream, *(socket.line for socket in sockets)):
        line.vanish()
    both.settle()
    both.first.clock.advance(REPORT_SECONDS)
    both.wires[0].pump()
    top = api(both.first, "top")
    assert (top["num_clients"], top["num_users"], top["connections"]) == (0, 0, [])
