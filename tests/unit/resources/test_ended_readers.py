"""The server API ends the streams and long-polls of a user, not only its clients."""

from __future__ import annotations

import json
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from pushserver import PushServer
from pushserver.config.settings import Auth, Config
from tests.unit.fakes.web import Line, Server, handshake

KEY = "correct-horse-battery-staple"
STREAMS = {
    "sse": {"accept": "text/event-stream"},
    "lines": {"accept": "application/x-ndjson"},
    "websocket": handshake(),
}
ENDS: list[tuple[str, dict[str, Any], bytes]] = [
    ("disconnect", {}, b"force disconnect"),
    ("disconnect", {"disconnect": {"code": 4001, "reason": "banned"}}, b"banned"),
    ("unsubscribe", {"channel": "a"}, b"unsubscribed from a"),
    ("refresh", {"expired": True}, b"expired"),
    ("refresh", {"expire_at": 1}, b"expired"),
]


@pytest.fixture
def server() -> Server:
    app = PushServer()
    app.authenticate(lambda visitor: visitor.cookies.get("user"))
    server = Server(config=Config(auth=Auth(api_keys=[KEY])), app=app)
    server.service.startService()
    server.clock.advance(0)
    return server


def opened(server: Server, path: str, user: str, **fields: str) -> Line:
    cookie = {"cookie": f"user={user}"} if user else {}
    line = server.open(path, **fields, **cookie)
    server.clock.advance(0)
    line.take()
    return line


def call(server: Server, method: str, user: str = "ann", **fields: Any) -> None:
    body = json.dumps({"user": user, **fields}).encode()
    answer = server.get(f"/api/{method}", "POST", body, x_api_key=KEY)
    assert answer.json == {"result": {}}
    server.clock.advance(0)


def goes_on(server: Server, line: Line) -> bool:
    server.publish("a", "more")
    server.clock.advance(0)
    return b"more" in line.take()


@pytest.mark.parametrize("form", STREAMS)
@pytest.mark.parametrize("path", ["/channels/a", "/events?channel=b&channel=a"])
@pytest.mark.parametrize(("method", "fields", "reason"), ENDS)
def test_streams_of_the_user_end_with_the_reason(
    server: Server, form: str, path: str, method: str, fields: dict[str, Any], reason: bytes
) -> None:
    line = opened(server, path, "ann", **STREAMS[form])
    others = [opened(server, path, user, **STREAMS[form]) for user in ("bob", "")]
    call(server, method, **fields)
    assert reason in line.take()
    assert not goes_on(server, line)
    assert all(goes_on(server, other) for other in others)
    for each in (line, *others):
        each.vanish()
    assert server.is_empty()
    assert not server.node.sessions.readers("ann")


@pytest.mark.parametrize(("method", "fields", "reason"), ENDS)
def test_long_polls_of_the_user_are_answered(
    server: Server, method: str, fields: dict[str, Any], reason: bytes
) -> None:
    line = opened(server, "/channels/a?since=now&wait=60", "ann")
    call(server, method, **fields)
    assert b'"publications":[]' in line.take()
    assert not server.node.sessions.readers("ann")
    line.vanish()


@pytest.mark.parametrize(
    ("method", "fields"),
    [
        ("unsubscribe", {"channel": "b"}),
        ("refresh", {"expire_at": 9_000_000_000}),
        ("disconnect", {"client": "of-another"}),
        ("disconnect", {"session": "a-secret"}),
    ],
)
def test_a_call_about_something_else_leaves_the_stream_alone(
    server: Server, method: str, fields: dict[str, Any]
) -> None:
    line = opened(server, "/channels/a", "ann", **STREAMS["sse"])
    call(server, method, **fields)
    assert goes_on(server, line)
    line.vanish()


def test_one_stream_is_ended_by_its_client_or_spared(server: Server) -> None:
    lines = [opened(server, "/channels/a", "ann", **STREAMS["sse"]) for _ in range(2)]
    [first, second] = server.node.sessions.readers("ann")
    call(server, "disconnect", client=first.info.client)
    assert server.node.sessions.readers("ann") == [second]
    call(server, "disconnect", whitelist=[second.info.client])
    assert goes_on(server, lines[1])
    for line in lines:
        line.vanish()
    assert not server.node.sessions.readers("ann")


@pytest.mark.parametrize(("user", "ends"), [("ann", True), ("bob", False), ("", False)])
def test_disconnect_ends_a_client_whose_connect_handler_still_runs(user: str, ends: bool) -> None:
    app, waiting = PushServer(), Deferred[None]()

    @app.on("connect")
    async def connect(client: Any) -> None:
        client.user = "ann"
        await waiting

    server = Server(config=Config(auth=Auth(api_keys=[KEY])), app=app)
    server.service.startService()
    server.clock.advance(0)
    socket = server.websocket("/connection/websocket")
    socket.say({"id": 1, "connect": {}})
    call(server, "disconnect", user)
    waiting.callback(None)
    server.clock.advance(0)
    if ends:
        assert socket.close() == (3503, "force disconnect")
    else:
        assert "connect" in socket.texts()[0]
