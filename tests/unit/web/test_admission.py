"""The bounds on connections, at the door of a whole server."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from twisted.logger import LogLevel

from pushserver.auth.quotas import BURST
from pushserver.config.limits import Limits
from pushserver.config.settings import Config
from pushserver.config.settings import Server as ServerSection
from pushserver.web.turned_away import SECONDS, WAITING
from tests.unit.fakes.heads import TRANSPORTS, connect, head
from tests.unit.fakes.web import Line, Log, Server, handshake, parse, request

A, B = "203.0.113.9", "198.51.100.7"
FEW = Limits(connections_per_address=3)


def counts(server: Server) -> tuple[int, dict[str, int]]:
    """The open connections in all and by address."""
    connections: Any = server.site.admission._connections
    return connections.open, connections._by_name


def fill(server: Server, peer: str = A, count: int = 3) -> list[Line]:
    """Open connections, each with another kind of conversation."""
    lines = []
    for n in range(count):
        line = server.connect(peer)
        if n % 3 == 1:
            line.send(head())
        elif n % 3 == 2:
            line.send(request("/channels/numbers", accept="text/event-stream"))
        lines.append(line)
    return lines


@pytest.mark.parametrize("shortcuts", [True, False])
def test_connection_is_counted_until_it_is_gone_however_it_is_used(shortcuts: bool) -> None:
    server = Server(shortcuts=shortcuts)
    pieces = [
        [],
        [b"G"],
        [head()],
        [head()[:9], head()[9:]],
        [request("/")],
        [request("/channels/a", accept="text/event-stream")],
        [request("/channels/a?wait=9")],
        [b"\r\n\r\n\r\n"],
        [head(target=b"/nowhere")],
        [request("/connection/websocket", **handshake(sec_websocket_key=""))],
    ]
    for ends_by in ("peer", "server", "reset"):
        for data in pieces:
            line = server.connect(A)
            assert counts(server) == (1, {A: 1})
            for piece in data:
                line.send(piece)
            if ends_by == "peer":
                line.vanish()
            elif ends_by == "reset":
                line.abortConnection()
            else:
                server.site.abort()
                for peer in server.node.peers:
                    peer.abort()
            server.clock.advance(40)
            assert line.lost, (data, ends_by)
            assert counts(server) == (0, {}), (data, ends_by)


@pytest.mark.parametrize("kind", TRANSPORTS)
def test_connection_of_each_transport_is_counted_until_it_is_gone(kind: str) -> None:
    for data in (b"", head(), request("/channels/a", accept="text/event-stream")):
        server = Server()
        line = connect(server, kind)
        if data:
            line.send(data)
        assert counts(server)[0] == 1
        line.vanish()
        assert counts(server) == (0, {})


class TestOneTooMany:
    def test_gets_the_reason_with_its_first_request(self) -> None:
        server = Server(FEW)
        fill(server)
        with Log(LogLevel.info) as log:
            line = server.connect(A)
            line.send(request("/channels/a"))
        answer = line.response()
        reason = "this address has 3 connections already (connections_per_address)"
        assert answer.error == (429, reason)
        assert answer["retry-after"] == "10"
        assert answer["server"] == "pushserver"
        assert line.lost
        assert log.take() == [f"refused 429 to {A}: {reason}"]
        assert server.node.metrics.refusals == {"connections_per_address": 1}

    def test_of_another_address_or_after_another_has_left_is_admitted(self) -> None:
        server = Server(FEW)
        first, *_ = fill(server)
        for line in (server.connect(B), server.connect("127.0.0.1")):
            line.send(request("/channels/a"))
            assert line.response().status == 200
        first.vanish()
        line = server.connect(A)
        line.send(request("/channels/a"))
        assert line.response().status == 200

    def test_of_all_gets_503(self) -> None:
        server = Server(Limits(connections=2))
        fill(server, A, 1)
        fill(server, B, 1)
        line = server.connect("192.0.2.1")
        line.send(request("/channels/a"))
        answer = line.response()
        assert answer.error == (503, "this server has its 2 connections already (connections)")
        assert answer["retry-after"] == "10"

    def test_too_soon_gets_429_with_the_time(self) -> None:
        server = Server(Limits(new_connections_per_second=1))
        for _ in range(BURST):
            server.connect(A).vanish()
        line = server.connect(A)
        line.send(head())
        answer = line.response()
        assert (answer.status, answer["retry-after"]) == (429, "1")
        server.clock.advance(1)
        line = server.connect(A)
        line.send(head())
        assert parse(line.take()).status == 101

    def test_of_an_event_source_is_closed_without_an_answer(self) -> None:
        """EventSource gives up after an answer with an error, and reconnects after a loss."""
        server = Server(FEW)
        fill(server)
        line = server.connect(A)
        line.send(request("/channels/a", accept="text/event-stream"))
        assert line.take() == b""
        assert line.lost

    def test_waits_two_seconds_for_its_first_bytes(self) -> None:
        server = Server(FEW)
        fill(server)
        line = server.connect(A)
        server.clock.advance(SECONDS)
        server.clock.advance(0)
        assert line.aborted
        assert line.lost

    def test_is_closed_at_once_while_many_others_wait(self) -> None:
        server = Server(FEW)
        fill(server)
        lines = [server.connect(A) for _ in range(5 * WAITING)]
        assert [line.aborted for line in lines] == [False] * WAITING + [True] * 4 * WAITING
        for line in lines:
            line.vanish()
        assert not server.site.exits.waiting
        assert counts(server) == (3, {A: 3})
        assert server.node.metrics.refusals == {"connections_per_address": 5 * WAITING}


class TestBehindATrustedProxy:
    def make(self, **limits: Any) -> Server:
        section = ServerSection(trusted_proxies=["10.0.0.9"])
        return Server(config=replace(Config(), server=section, limits=Limits(**limits)))

    def open(self, server: Server, client: str, data: str, piece: bool = False) -> Line:
        line = server.connect("10.0.0.9")
        fields = {"x_forwarded_for": client}
        if data == "socket":
            raw = request("/channels/a", **handshake(**fields))
        else:
            raw = request("/channels/a", accept="text/event-stream", **fields)
        line.send(raw[:7] if piece else raw)
        if piece:
            line.send(raw[7:])
        return line

    @pytest.mark.parametrize("piece", [False, True])
    @pytest.mark.parametrize("data", ["socket", "stream"])
    def test_sockets_and_streams_count_for_the_client(self, data: str, piece: bool) -> None:
        server = self.make(connections_per_address=2)
        lines = [self.open(server, A, data, piece) for _ in range(2)]
        assert counts(server) == (2, {A: 2})
        with Log(LogLevel.info) as log:
            answer = self.open(server, A, data, piece).response()
        assert answer.error[0] == 429
        assert answer["retry-after"] == "10"
        assert log.take() == [
            f"refused 429 to {A}: this address has 2 connections already (connections_per_address)"
        ]
        other = self.open(server, B, data, piece)
        assert parse(other.take()).status in (101, 200)
        for line in (*lines, other):
            line.vanish()
        assert self.open(server, A, data, piece).lost is False

    def test_proxy_itself_has_no_bound(self) -> None:
        server = self.make(connections_per_address=2, new_connections_per_second=1)
        for n in range(50):
            line = server.connect("10.0.0.9")
            line.send(request("/channels/a", x_forwarded_for=f"192.0.2.{n}"))
            assert line.response().status == 200
        assert counts(server) == (50, {})

    def test_client_of_a_proxy_that_is_not_trusted_counts_as_the_proxy(self) -> None:
        server = Server(FEW)
        for n in range(3):
            line = server.connect(A)
            line.send(request("/channels/a", **handshake(x_forwarded_for=f"192.0.2.{n}")))
        assert counts(server) == (3, {A: 3})
