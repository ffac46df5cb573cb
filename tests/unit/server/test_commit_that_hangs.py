"""A commit with sync durability that does not end: further publishers are refused at once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from pushserver import PushServer
from pushserver.channels.channel import ChannelOptions
from pushserver.config.settings import Config, Store
from pushserver.errors import Unavailable
from pushserver.store import waiting
from tests.unit.fakes.web import Line, Server, parse
from tests.unit.store.runs import Thread

TOO_SLOW = "the store is too slow: "


@pytest.fixture
def app() -> PushServer:
    return PushServer()


@pytest.fixture
def server(tmp_path: Path, app: PushServer, monkeypatch: pytest.MonkeyPatch) -> Server:
    """A server whose first commit does not end, and with as many publishers as may wait."""
    monkeypatch.setattr(waiting, "MAX_WAITING_BYTES", 50_000)
    options = ChannelOptions(client_publish=True)
    store = Store(path=str(tmp_path / "s.db"), durability="sync")
    server = Server(config=Config(sources={}, defaults=options, store=store), app=app)
    server.service._storage._committer._thread = Thread()  # type: ignore[union-attr]
    server.service.startService()
    server.clock.advance(0)
    while not (line := post(server, json.dumps("x" * 10_000))).take():
        waits.append(line)
        assert len(waits) < 10, "no bound"
    return server


waits: list[Line] = []


@pytest.fixture(autouse=True)
def _end(server: Server) -> Any:
    yield
    waits.clear()
    thread: Any = server.service._storage._committer._thread  # type: ignore[union-attr]
    thread.finish()
    server.service.stopService()
    server.clock.advance(0)
    thread.finish()
    server.clock.advance(5)
    thread.finish()


def post(server: Server, body: str, path: str = "/channels/a") -> Line:
    return server.open(path, "POST", body.encode(), content_type="application/json")


def test_by_http(server: Server) -> None:
    refused = parse(post(server, "2").take())
    assert (refused.status, refused["retry-after"]) == (503, "1")
    assert refused.error[1].startswith(TOO_SLOW)
    for method, more in (("publish", {"data": 1}), ("history_remove", {})):
        command = json.dumps({"channel": "a", **more})
        answer = parse(post(server, command, f"/api/{method}").take())
        assert TOO_SLOW in answer.body.decode()
        assert json.loads(answer.body)["error"]["code"] in (100, 503)


def test_by_a_client_of_the_centrifuge_protocol(server: Server) -> None:
    socket = server.session()
    [frame] = socket.say({"id": 2, "publish": {"channel": "a", "data": 1}})
    error = json.loads(frame.payload)["error"]
    assert (error["code"], error.get("temporary")) == (100, True)
    assert TOO_SLOW in error["message"]


def test_by_the_application(server: Server, app: PushServer) -> None:
    with pytest.raises(Unavailable, match=TOO_SLOW):
        app.publish("b", 1)


def test_when_it_ends_everything_continues(server: Server, app: PushServer) -> None:
    waiting_for_it = list(waits)
    thread: Any = server.service._storage._committer._thread  # type: ignore[union-attr]
    thread.finish()
    assert [parse(line.take()).status for line in waiting_for_it] == [201] * len(waiting_for_it)
    done: list[Any] = []

    async def publish() -> None:
        done.append(await app.publish("a", 1))

    Deferred.fromCoroutine(publish())
    thread.finish()
    assert done[0].offset == len(waiting_for_it) + 1
