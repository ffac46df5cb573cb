"""Invalid tokens are counted and slowed by address, and logged, at every door."""

from __future__ import annotations

import json
import time
from typing import Any

import jwt
import pytest
from twisted.logger import LogLevel

from pushserver.config.limits import Limits
from pushserver.config.settings import Auth, Config
from tests.unit.fakes.web import Line, Log, Server, Socket, handshake, parse, request
from tests.unit.web.test_refusal_log import banned, classic

SECRET = "a secret of thirty-two characters"
A, B = "203.0.113.9", "198.51.100.7"


def make_server(count: int = 3) -> Server:
    auth = Auth(token_secret=SECRET)
    return Server(config=Config(auth=auth, limits=Limits(wrong_keys_per_minute=count)))


def token(secret: str = SECRET, seconds: float = 60.0, **claims: Any) -> str:
    return jwt.encode({"sub": "ann", "exp": time.time() + seconds, **claims}, secret, "HS256")


WRONG = token("another secret of forty-one characters !!")


def read(server: Server, text: str, peer: str = A) -> Line:
    line = server.connect(peer)
    line.send(request("/channels/$private", authorization=f"Bearer {text}"))
    server.clock.advance(0)
    return line


def connect(server: Server, text: str, peer: str = A) -> Socket:
    line = server.connect(peer)
    line.send(request("/connection/websocket", **handshake()))
    socket = Socket(line, parse(line.take()))
    socket.seen = socket.say({"id": 1, "connect": {"token": text}})
    return socket


class TestOverHTTP:
    def test_are_answered_after_a_second_when_they_are_too_many(self) -> None:
        server = make_server()
        assert [read(server, WRONG).response().status for _ in range(3)] == [401] * 3
        line = read(server, WRONG)
        assert line.take() == b""
        server.clock.advance(1)
        answer = line.response()
        assert answer.status == 429
        assert "too many wrong tokens (wrong_keys_per_minute)" in answer.error[1]
        assert server.node.metrics.refusals["wrong_token"] == 4

    def test_do_not_slow_valid_ones_nor_those_of_other_addresses(self) -> None:
        server = make_server()
        for _ in range(5):
            read(server, WRONG)
        assert read(server, token(channels=["$private"])).response().status == 200
        assert read(server, WRONG, B).response().status == 401

    def test_that_were_valid_once_are_not_counted(self) -> None:
        server = make_server()
        for _ in range(10):
            assert read(server, token(seconds=-3_600)).response().status == 401
        assert server.node.metrics.refusals["wrong_token"] == 0


class TestOnTheCentrifugeProtocol:
    def test_end_the_connection_and_are_found_by_the_filter(self) -> None:
        server = make_server()
        with Log(LogLevel.info) as log:
            socket = connect(server, WRONG)
        code, reason = socket.seen[-1].close
        assert code == 3500
        (line,) = log.take()
        assert line.startswith(f"refused 3500 to {A}: {reason[:40]}")
        assert (
            banned(f"2026-11-28T21:00:00 [pushserver.web.refusal_log.RefusalLog#info] {line}") == A
        )
        assert WRONG not in line
        assert server.node.metrics.refusals["wrong_token"] == 1

    def test_of_subscriptions_get_an_error_and_are_counted(self) -> None:
        server = make_server()
        socket = connect(server, token())
        with Log(LogLevel.info) as log:
            replies = []
            for n in range(2, 7):
                frames = socket.say({"id": n, "subscribe": {"channel": "$a", "token": WRONG}})
                if n > 4:
                    assert frames == [], "it is slowed"
                    server.clock.advance(1)
                    frames = socket.take()
                replies += [json.loads(frame.payload) for frame in frames]
        assert [reply["error"]["code"] for reply in replies] == [103] * 5
        assert "too many wrong tokens" not in replies[2]["error"]["message"]
        assert "too many wrong tokens (wrong_keys_per_minute)" in replies[3]["error"]["message"]
        assert log.take()[0].startswith(f"refused 103 to {A}: ")
        good = token(channel="$a", sub="ann")
        (frame,) = socket.say({"id": 9, "subscribe": {"channel": "$a", "token": good}})
        assert "subscribe" in json.loads(frame.payload)


@pytest.mark.parametrize("command", ["refresh", "sub_refresh", "subscribe"])
def test_commands_with_too_many_are_answered_after_a_second(command: str) -> None:
    server = make_server()
    socket = connect(server, token())
    channel = {} if command == "refresh" else {"channel": "a"}
    if command == "sub_refresh":
        socket.say({"id": 2, "subscribe": channel})
    for _ in range(3):
        read(server, WRONG)
    assert socket.say({"id": 3, command: {**channel, "token": WRONG}}) == []
    server.clock.advance(1)
    (frame,) = socket.take()
    assert b"too many wrong" in frame.payload or frame.close[0] == 3500


@pytest.mark.parametrize("field", ["x_api_key", "authorization"])
def test_those_of_the_handshake_are_slowed_at_connect(field: str) -> None:
    server = make_server()
    for _ in range(3):
        read(server, WRONG)
    line = server.connect(A)
    text = {"x_api_key": "guessed", "authorization": f"Bearer {WRONG}"}[field]
    line.send(request("/connection/websocket", **handshake(), **{field: text}))
    socket = Socket(line, parse(line.take()))
    assert socket.say({"id": 1, "connect": {}}) == []
    server.clock.advance(1)
    assert socket.take() != []


@pytest.mark.parametrize("path", ["/", "/channels/a"])
def test_a_page_does_not_tell_at_once_whether_a_key_is_right(path: str) -> None:
    server = make_server()
    for n in range(4):
        line = server.connect(A)
        line.send(request(path, accept="text/html", x_api_key="guessed"))
        server.clock.advance(0)
        if n == 3:
            assert line.take() == b""
            server.clock.advance(1)
        assert line.response().status == (429 if n == 3 else 401)


@pytest.mark.parametrize("name", ["$x", "$private"])
def test_command_that_is_not_permitted_is_one_line(name: str) -> None:
    server = make_server()
    socket = connect(server, token())
    with Log(LogLevel.info) as log:
        for n in range(2, 40):
            socket.say({"id": n, "subscribe": {"channel": name}})
    lines = log.take()
    assert len(lines) == 3
    assert all(line.startswith(f"refused 103 to {A}: ") for line in lines)
    assert name in lines[0]
    assert banned(lines[0]) is None


def test_line_of_a_bound_is_found_by_the_filter() -> None:
    server = Server(Limits(connections_per_address=1))
    server.connect(A)
    lines = classic(server, request("/"), A)
    assert [banned(line) for line in lines] == [A]
