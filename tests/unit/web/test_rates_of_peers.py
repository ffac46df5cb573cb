"""The rates of commands of one client, and of requests of one connection."""

from __future__ import annotations

import json
from typing import Any

import pytest
from twisted.logger import LogLevel

from pushserver.config.limits import Limits
from pushserver.config.settings import Config
from pushserver.config.settings import Server as ServerSection
from tests.unit.fakes.web import Log, Server, Socket, handshake, masked, parse, request

A = "203.0.113.9"
REASON = "more than 2 commands a second (commands_per_second)"


def session(server: Server, peer: str = A) -> Socket:
    """A connected client; it has 19 commands left."""
    line = server.connect(peer)
    line.send(request("/connection/websocket", **handshake()))
    socket = Socket(line, parse(line.take()))
    socket.say({"id": 1, "connect": {}})
    return socket


def pings(count: int, first: int = 2) -> list[Any]:
    return [{"id": n, "ping": {}} for n in range(first, first + count)]


class TestCommands:
    # A program on this machine has this bound too: a proxy there may send clients that are not.
    @pytest.mark.parametrize("peer", [A, "127.0.0.1"])
    def test_over_the_rate_get_a_temporary_error(self, peer: str) -> None:
        server = Server(Limits(commands_per_second=2))
        with Log(LogLevel.info) as log:
            client = session(server, peer)
            for ping in pings(22):
                client.line.send(masked(json.dumps(ping).encode()))
            replies = client.texts()
        assert replies[:19] == [{"id": n, "ping": {}} for n in range(2, 21)]
        assert replies[19:] == [
            {"id": n, "error": {"code": 111, "message": REASON, "temporary": True}}
            for n in range(21, 24)
        ]
        assert log.take() == [f"refused 429 to {peer}: {REASON}"]
        assert server.node.metrics.refusals == {"commands_per_second": 3}

    def test_are_answered_again_when_the_rate_allows_it(self) -> None:
        server = Server(Limits(commands_per_second=2))
        client = session(server)
        client.say(*pings(21))
        server.clock.advance(3)
        replies = [json.loads(frame.payload) for frame in client.say(*pings(4, 50))]
        assert [("error" in reply) for reply in replies] == [False, False, False, False]

    @pytest.mark.parametrize(
        "text",
        [b'{"id":9,"ping":{}}', b'{"send":{"data":1}}', b"\n", b" ", b'{"id":9,"ping":{}}\n' * 3],
    )
    def test_without_end_close_the_connection(self, text: bytes) -> None:
        server = Server(Limits(commands_per_second=2))
        client = session(server)
        client.line.send(masked(text) * 100)
        assert client.close() == (3013, REASON)
        assert server.node.metrics.ended["3013"] == 1

    def test_of_another_client_are_answered(self) -> None:
        server = Server(Limits(commands_per_second=2))
        client, other = session(server), session(server)
        client.say(*pings(30))
        assert json.loads(other.say(*pings(1))[0].payload) == {"id": 2, "ping": {}}

    def test_of_requests_to_emulation_count_too(self) -> None:
        server = Server(Limits(commands_per_second=2))
        line = server.connect(A)
        body = b'{"id":1,"connect":{}}'
        line.send(request("/connection/http_stream", "POST", body))
        reply = json.loads(parse(line.take()).body)
        commands = "\n".join(map(json.dumps, pings(22)))
        emulated = {"session": reply["connect"]["session"], "node": "", "data": commands}
        server.get("/emulation", "POST", json.dumps(emulated).encode())
        assert line.take().count(b'"code":111') == 3


class TestRequests:
    def test_over_the_rate_get_429_with_retry_after_and_the_end(self) -> None:
        server = Server(Limits(requests_per_second=2))
        line = server.connect(A)
        for _ in range(20):
            line.send(request("/channels/a"))
            assert line.response().status == 200
        with Log(LogLevel.info) as log:
            line.send(request("/channels/a") * 3)
        answer = line.response()
        reason = "more than 2 requests a second on one connection (requests_per_second)"
        assert answer.error == (429, reason)
        assert answer["retry-after"] == "1"
        assert answer.rest == b""
        assert line.lost
        assert log.take() == [f"refused 429 to {A}: {reason}"]
        assert server.node.metrics.refusals == {"requests_per_second": 1}

    def test_at_the_rate_are_answered(self) -> None:
        server = Server(Limits(requests_per_second=2))
        line = server.connect(A)
        for _ in range(100):
            line.send(request("/channels/a"))
            assert line.response().status == 200
            server.clock.advance(0.51)

    @pytest.mark.parametrize("peer", ["127.0.0.1", "10.0.0.9"])
    def test_of_programs_on_this_machine_and_of_proxies_have_no_rate(self, peer: str) -> None:
        section = ServerSection(trusted_proxies=["10.0.0.9"])
        server = Server(config=Config(server=section, limits=Limits(requests_per_second=2)))
        line = server.connect(peer)
        for _ in range(100):
            line.send(request("/channels/a"))
            assert line.response().status == 200
