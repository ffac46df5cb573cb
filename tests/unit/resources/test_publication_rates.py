"""The rates of publications and the connections of a user, at every door of a server."""

from __future__ import annotations

import json
from typing import Any

import pytest
from twisted.logger import LogLevel

from pushserver.auth.publications import BURST
from pushserver.channels.channel import ChannelOptions
from pushserver.config.limits import Limits
from pushserver.config.settings import Auth, Config
from pushserver.server.embedding import PushServer
from tests.unit.fakes.web import Line, Log, Server, Socket, handshake, parse, request

A = "203.0.113.9"
SLOW: dict[str, Any] = {
    "user_publications_per_second": 1,
    "key_publications_per_second": 1,
    "address_publications_per_second": 1,
}


def make_server(**limits: Any) -> Server:
    app = PushServer()

    @app.authenticate
    def authenticate(visitor: Any) -> Any:
        return visitor.cookies.get("user")

    config = Config(
        limits=Limits(**limits),
        auth=Auth(api_keys=["a-key-of-24-characters--"]),
        defaults=ChannelOptions(publish="anyone"),
    )
    server = Server(config=config, app=app)
    server.service.startService()
    server.clock.advance(0)
    return server


def send(server: Server, path: str, body: bytes, peer: str = A, /, **fields: str) -> Any:
    line = server.connect(peer)
    line.send(request(path, "POST", body, **fields))
    for _ in range(5):
        server.clock.advance(0)
    return line.response("POST")


def session(server: Server, peer: str = A, **fields: str) -> Socket:
    line = server.connect(peer)
    line.send(request("/connection/websocket", **handshake(**fields)))
    server.clock.advance(0)
    return Socket(line, parse(line.take()))


@pytest.mark.parametrize(
    ("fields", "setting", "kind"),
    [
        ({}, "address_publications_per_second", "address"),
        ({"x_api_key": "a-key-of-24-characters--"}, "key_publications_per_second", "API key"),
        ({"cookie": "user=ann"}, "user_publications_per_second", "user"),
    ],
)
def test_post_over_the_rate_gets_429_with_the_time(
    fields: dict[str, str], setting: str, kind: str
) -> None:
    server = make_server(**SLOW)
    for _ in range(BURST):
        assert send(server, "/channels/a", b"1", **fields).status == 201
    with Log(LogLevel.info) as log:
        answer = send(server, "/channels/a", b"1", **fields)
    reason = f"more than 1 publications of this {kind} a second ({setting})"
    assert answer.error == (429, reason)
    assert answer["retry-after"] == "1"
    assert log.take() == [f"refused 429 to {A}: {reason}"]
    assert server.node.metrics.refusals == {setting: 1}
    server.clock.advance(1)
    assert send(server, "/channels/a", b"1", **fields).status == 201


@pytest.mark.parametrize("user", ["", "ann"])
def test_client_of_the_centrifuge_protocol_over_the_rate_gets_error_111(user: str) -> None:
    server = make_server(**SLOW)
    client = session(server, cookie=f"user={user}")
    client.say({"id": 1, "connect": {}})
    replies = [
        json.loads(client.say({"id": n, "publish": {"channel": "a", "data": 1}})[0].payload)
        for n in range(2, 3 + BURST)
    ]
    assert [reply for reply in replies if "error" in reply] == replies[BURST:]
    (error,) = [reply["error"] for reply in replies[BURST:]]
    setting = "user_publications_per_second" if user else "address_publications_per_second"
    assert (error["code"], error["temporary"]) == (111, True)
    assert setting in error["message"]
    assert server.node.metrics.refusals == {setting: 1}


CALLS: list[tuple[str, dict[str, Any], int]] = [
    ("publish", {"channel": "a", "data": 1}, 1),
    ("broadcast", {"channels": ["a", "b", "c"], "data": 1}, 3),
    (
        "batch",
        {
            "commands": [
                {"publish": {"channel": "a", "data": 1}},
                {"broadcast": {"channels": ["a", "b"], "data": 1}},
                {"presence": {"channel": "a"}},
            ]
        },
        3,
    ),
    ("presence", {"channel": "a"}, 0),
]


@pytest.mark.parametrize(("method", "call", "count"), CALLS)
def test_calls_of_the_server_api_count_their_publications(
    method: str, call: dict[str, Any], count: int
) -> None:
    server = make_server(**SLOW)
    body = json.dumps(call).encode()
    answers = [
        send(server, f"/api/{method}", body, x_api_key="a-key-of-24-characters--").status
        for _ in range(BURST + 1)
    ]
    allowed = BURST // count if count else BURST + 1
    assert answers == [200] * allowed + [429] * (BURST + 1 - allowed)


def test_lines_wait_for_the_rate() -> None:
    server = make_server(key_publications_per_second=100)
    body = b"1\n" * 1_300
    line = server.connect(A)
    fields = {"x_api_key": "a-key-of-24-characters--", "content_type": "application/x-ndjson"}
    line.send(request("/channels/a", "POST", body, **fields))
    for _ in range(50):
        server.clock.advance(0)
    assert server.node.history.top("a") == 7 * 128
    assert line.take() == b""
    for _ in range(50):
        server.clock.advance(0.1)
    answer = line.response("POST")
    assert (answer.status, answer.json["published"]) == (201, 1_300)
    assert server.node.metrics.refusals == {}


def test_lines_that_would_wait_too_long_get_429_and_the_number_of_those_that_were_published() -> (
    None
):
    server = make_server(key_publications_per_second=1)
    fields = {"x_api_key": "a-key-of-24-characters--", "content_type": "application/x-ndjson"}
    line = server.connect(A)
    line.send(request("/channels/a", "POST", b"1\n" * 300, **fields))
    for _ in range(50):
        server.clock.advance(0)
    answer = line.response("POST")
    assert answer.status == 429
    assert answer.json["published"] == 128
    assert answer.json["line"] == 129
    assert int(answer["retry-after"]) > 10
    assert server.node.metrics.refusals == {"key_publications_per_second": 1}


def test_programs_on_this_machine_have_no_rate() -> None:
    server = make_server(**SLOW)
    for _ in range(5 * BURST):
        assert send(server, "/channels/a", b"1", "127.0.0.1").status == 201


class TestConnectionsOfAUser:
    def test_over_the_bound_are_closed_with_3504(self) -> None:
        server = make_server(connections_per_user=2)
        clients = [session(server, cookie="user=ann") for _ in range(4)]
        with Log(LogLevel.info) as log:
            ends = [client.say({"id": 1, "connect": {}})[-1] for client in clients]
        reason = "this user has 2 connections already (connections_per_user)"
        assert [frame.close for frame in ends[2:]] == [(3504, reason)] * 2
        assert log.take() == [f"refused 3504 to {A}: {reason}"]
        assert server.node.metrics.refusals == {"connections_per_user": 2}
        assert server.node.metrics.ended["3504"] == 2

    def test_are_admitted_again_when_others_have_left(self) -> None:
        server = make_server(connections_per_user=1)
        first = session(server, cookie="user=ann")
        first.say({"id": 1, "connect": {}})
        first.line.vanish()
        second = session(server, cookie="user=ann")
        assert b'"client"' in second.say({"id": 1, "connect": {}})[0].payload
        other = session(server, cookie="user=bob")
        assert b'"client"' in other.say({"id": 1, "connect": {}})[0].payload

    def test_include_streams_and_raw_websockets(self) -> None:
        server = make_server(connections_per_user=2)

        def stream(**fields: str) -> Line:
            line = server.connect(A)
            line.send(request("/channels/a", **fields, cookie="user=ann"))
            server.clock.advance(0)
            return line

        first = stream(accept="text/event-stream")
        second = stream(**handshake())
        assert parse(first.take()).status == 200
        assert parse(second.take()).status == 101
        for fields in ({"accept": "text/event-stream"}, handshake()):
            answer = stream(**fields).response()
            assert answer.status == 429
            assert answer["retry-after"] == "10"
        client = session(server, cookie="user=ann")
        assert client.say({"id": 1, "connect": {}})[-1].close[0] == 3504
        second.vanish()
        assert parse(stream(**handshake()).take()).status == 101
        first.vanish()
        assert server.node.users._counts == {"ann": 1}
