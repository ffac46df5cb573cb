"""A stop while a commit with sync durability is running: its publishers get their answers first."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from twisted.internet.defer import Deferred

from pushserver import PushServer
from pushserver.channels.channel import ChannelOptions
from pushserver.config.limits import Limits
from pushserver.config.settings import Config, Store
from pushserver.config.settings import Server as ServerSection
from tests.unit.fakes.web import Line, Server, Socket, Trouble, parse
from tests.unit.store.runs import Answer, Thread

DRAIN = 4.0
NDJSON = "application/x-ndjson"
FULL = "the store failed: the disk is full"


class Stage:
    """A server with a sync store, whose commits end when the test says so."""

    def __init__(self, folder: Path):
        self.app = PushServer()
        config = Config(
            server=ServerSection(listen=[]),
            sources={},
            defaults=ChannelOptions(client_publish=True),
            store=Store(path=str(folder / "s.db"), durability="sync"),
            limits=Limits(drain_seconds=DRAIN),
        )
        self.server = Server(config=config, app=self.app)
        self.thread = Thread()
        cast(Any, self.server.service)._storage._committer._thread = self.thread
        self.server.service.privilegedStartService()
        self.server.service.startService()
        self.advance(0)
        self.stopped: Answer | None = None
        self.lines: list[Line] = []

    def post(self, path: str, body: object) -> Line:
        """Send a request of the server API, or publish to a channel."""
        text = json.dumps(body).encode()
        return self.server.open(path, "POST", text, content_type="application/json")

    def session(self) -> Socket:
        """A connected client of the Centrifuge protocol."""
        socket = self.server.session()
        self.lines.append(socket.line)
        return socket

    def publish_in_app(self, channel: str) -> Answer:
        """Publish from a coroutine of the application."""

        async def publish() -> object:
            return await self.app.publish(channel, 1)

        return Answer(Deferred.fromCoroutine(publish()))

    def stop(self) -> None:
        """Let the server stop, as far as it does without a commit."""
        self.stopped = Answer(self.server.service.stopService())
        self.advance(0)

    def advance(self, seconds: float) -> None:
        """Let time pass, and all turns of the reactor that are due."""
        self.server.clock.advance(seconds)
        for _ in range(9):
            self.server.clock.advance(0)

    def finish(self) -> None:
        """Make all commits, and end the server."""
        for _ in range(9):
            self.thread.finish()
            self.advance(0)
        for line in self.lines:
            line.vanish()
        self.advance(DRAIN)
        self.thread.finish()
        assert self.stopped is not None
        assert self.stopped.result is None
        assert not self.thread.jobs


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    stage = Stage(tmp_path)
    yield stage
    stage.finish()


def test_every_publisher_is_answered_before_its_connection_closes(stage: Stage) -> None:
    post = stage.post("/channels/a", 1)
    # These wait for the next commit.
    api = stage.post("/api/publish", {"channel": "b", "data": 1})
    batch = stage.post("/api/broadcast", {"channels": ["c", "d"], "data": 1})
    removal = stage.post("/api/history_remove", {"channel": "a"})
    inside = stage.publish_in_app("e")
    socket, stream = stage.session(), stage.server.websocket("/channels/f")
    stage.lines.append(stream.line)
    assert socket.say({"id": 2, "publish": {"channel": "f", "data": 1}}) == []
    lines = stage.server.open("/connection/http_stream", "POST", b'{"id":1,"connect":{}}')
    first = lines.take()
    secret = json.loads(parse(first).body.splitlines()[0])["connect"]["session"]
    command = json.dumps({"id": 2, "publish": {"channel": "g", "data": 1}})
    stage.post("/emulation", {"session": secret, "data": command})
    stage.stop()
    stage.thread.finish()
    assert [parse(line.take()).status for line in (post, api, batch, removal)] == [
        201,
        200,
        200,
        200,
    ]
    assert inside.result.offset == 1
    reply, close = socket.take()
    assert json.loads(reply.payload) == {"id": 2, "publish": {}}
    assert close.close[0] == 3001
    publication, close = stream.take()
    assert json.loads(publication.payload)["channel"] == "f"
    assert close.close[0] == 1001
    assert b'{"id":2,"publish":{}}' in lines.take()


def test_failed_commit_is_answered_too(stage: Stage, trouble: Trouble) -> None:
    post, inside = stage.post("/channels/a", 1), stage.publish_in_app("b")
    socket = stage.session()
    socket.say({"id": 2, "publish": {"channel": "c", "data": 1}})
    stage.stop()
    stage.thread.fail()
    stage.thread.fail()
    assert parse(post.take()).error == (503, FULL)
    assert inside.refused == FULL
    reply, _ = socket.take()
    assert json.loads(reply.payload)["error"]["message"] == FULL
    assert trouble.take() == ["the disk is full"]


def test_publisher_that_comes_during_the_stop_is_refused(stage: Stage) -> None:
    keep_alive = stage.server.connect()
    stage.post("/channels/a", 1)
    stage.stop()
    keep_alive.send(
        b"POST /channels/a HTTP/1.1\r\nHost: localhost:8080\r\nContent-Length: 1\r\n\r\n2"
    )
    assert parse(keep_alive.take()).error == (503, "the server is shutting down")


def test_commit_that_does_not_end_holds_the_connections_for_a_bounded_time(stage: Stage) -> None:
    post, socket = stage.post("/channels/a", 1), stage.session()
    stage.stop()
    stage.advance(DRAIN / 2 - 0.1)
    assert not post.disconnecting
    assert socket.take() == []
    stage.advance(0.1)
    assert not post.disconnecting
    assert socket.close() == (3001, "the server is shutting down")
    socket.line.vanish()
    stage.advance(DRAIN / 2)
    assert post.lost


def test_request_is_answered_when_its_commit_ends_late(stage: Stage) -> None:
    post = stage.post("/channels/a", 1)
    lines = stage.server.open("/channels/b", "POST", b"1\n2\n3", content_type=NDJSON)
    stage.stop()
    stage.advance(DRAIN - 0.1)
    stage.thread.finish()
    assert parse(post.take()).status == 201
    answer = lines.response()
    assert (answer.status, answer.json["published"]) == (201, 3)
    stage.advance(0)
    assert (post.lost, lines.lost) == (True, True)


def test_publisher_that_left_does_not_hold_the_stop(stage: Stage) -> None:
    stage.post("/channels/a", 1).vanish()
    stage.stop()
    stage.thread.finish()
    assert cast(Answer, stage.stopped).result is None
