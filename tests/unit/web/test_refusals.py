"""Requests that are refused again and again, and connections of which one half is closed."""

from __future__ import annotations

import socket
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from pushserver.config.limits import Limits
from pushserver.web.pipeline import LINGER_SECONDS
from tests.unit.fakes.web import Line, Server, Trouble, parse, request
from tests.unit.web.test_pipeline import Connection, answers, big

LIMITS = Limits(refused_requests_per_second=2)
MOST = 20
REFUSED = {
    "404": request("/nowhere"),
    "404 of a file": request("/static/nowhere"),
    "405": request("/channels/a", "PUT"),
    "405 in lower case": request("/channels/a", "get"),
    "400": request("/channels/a?last=x"),
    "401": request("/channels/a", "POST", b"1", x_api_key="wrong"),
    "403": request("/channels/a", origin="https://elsewhere.example"),
    "403 of a websocket": request("/channels/a", upgrade="websocket", origin="https://b.example"),
}


def statuses(line: Line) -> list[int]:
    return [answer.status for answer in answers(line.take())]


class TestRefusedRequests:
    @pytest.mark.parametrize("sent", REFUSED.values(), ids=REFUSED)
    def test_end_with_429_and_the_connection(self, sent: bytes) -> None:
        server = Server(LIMITS)
        line = server.connect()
        line.send(sent * 50)
        *before, last = answers(line.take())
        assert len(before) == MOST
        assert all(400 <= answer.status < 429 for answer in before)
        assert last.error == (
            429,
            "too many refused requests on one connection (refused_requests_per_second)",
        )
        assert (last["retry-after"], last["connection"]) == ("10", "close")
        assert line.lost
        assert server.is_empty()

    def test_of_head_have_no_body(self) -> None:
        line = Server(LIMITS).connect()
        line.send(request("/nowhere", "HEAD") * 50)
        data = line.take()
        assert data.count(b"HTTP/1.1 404 ") == MOST
        assert data.count(b"HTTP/1.1 429 ") == 1
        assert data.endswith(b"\r\n\r\n")

    def test_do_not_count_against_accepted_ones(self) -> None:
        """A proxy sends the requests of many users over one connection."""
        line = Server(LIMITS).connect()
        line.send(request("/nowhere") * MOST)
        assert statuses(line) == [404] * MOST
        line.send(request("/channels/a") * 50)
        assert statuses(line) == [200] * 50
        line.send(request("/nowhere"))
        assert statuses(line) == [429]

    def test_are_answered_as_usual_at_the_rate(self) -> None:
        server = Server(LIMITS)
        line = server.connect()
        for _ in range(30):
            server.clock.advance(1)
            line.send(request("/nowhere") * 2)
        assert statuses(line) == [404] * 60

    def test_accepted_requests_have_no_rate(self) -> None:
        server = Server(LIMITS)
        line = server.connect()
        posts = request("/channels/a", "POST", b"1")
        line.send(posts * 200 + request("/channels/a") * 200 + request("/channels/a", "HEAD") * 200)
        assert line.value().count(b"HTTP/1.1 201 ") == 200
        assert line.take().count(b"HTTP/1.1 200 ") == 400


class TestLinger:
    """The peer reads the last answer although it has sent more than the server has read."""

    def connection(self) -> Connection:
        connection = Connection(Server(LIMITS), room=1 << 20)
        connection.send(request("/nowhere") * 50)
        connection.turns(20)
        return connection

    def test_closes_the_servers_half_and_drops_what_comes(self) -> None:
        connection = self.connection()
        assert bytes(connection.wire.taken).count(b"HTTP/1.1 429 ") == 1
        assert connection.wire.halves == [socket.SHUT_WR]
        assert not connection.lost
        connection.wire.taken.clear()
        for _ in range(3):
            connection.send(request("/channels/a") * 500)
        connection.turns(5)
        assert not connection.wire.taken

    def test_ends_when_the_peer_closes(self) -> None:
        connection = self.connection()
        connection.end()
        assert connection.lost
        assert connection.server.is_empty()
        assert connection.timers == 0

    def test_ends_in_time(self) -> None:
        connection = self.connection()
        connection.server.clock.advance(LINGER_SECONDS)
        connection.turns(3)
        assert connection.lost
        assert connection.server.is_empty()


class TestHalfClosedConnection:
    """A client that closes its side behind its requests, as `nc -N` does."""

    @pytest.mark.parametrize("version", ["1.0", "1.1"])
    def test_gets_its_answer(self, version: str) -> None:
        connection = Connection(Server(), room=1 << 20)
        connection.send(f"GET /channels/a HTTP/{version}\r\nHost: localhost\r\n\r\n".encode())
        connection.end()
        assert connection.read().startswith(f"HTTP/{version} 200 OK".encode())
        assert connection.lost
        assert connection.server.is_empty()

    def test_gets_all_its_answers_in_order(self) -> None:
        server = big()
        connection = Connection(server)
        names = ["a", "big", "b"] * 20
        connection.send(b"".join(request(f"/channels/{name}") for name in names))
        connection.end()
        data = b""
        while not connection.lost:
            data += connection.read(100_000)
        assert [answer.json["channel"] for answer in answers(data)] == names

    def test_is_closed_without_a_request(self) -> None:
        for sent in (b"", b"GET /channels/a HTTP/1.1\r\nHo", request("/channels/a")[:-2]):
            connection = Connection(Server())
            connection.send(sent)
            connection.end()
            connection.turns(3)
            assert connection.lost
            assert connection.server.is_empty()

    @pytest.mark.parametrize(
        "sent",
        [
            request("/channels/a?wait=60"),
            request("/channels/a?wait=60") + request("/channels/a"),
            request("/channels/a", accept="text/event-stream"),
            request("/channels/a", accept="application/x-ndjson"),
            request("/connection/http_stream", "POST", b'{"id":1,"connect":{}}'),
        ],
    )
    def test_has_left_if_it_waits_for_news(self, sent: bytes, trouble: Trouble) -> None:
        connection = Connection(Server(), room=1 << 20)
        connection.send(sent)
        connection.turns(3)
        assert not connection.lost
        connection.end()
        assert connection.lost
        assert connection.server.is_empty()
        assert trouble.take() == []

    @pytest.mark.parametrize(
        "waits",
        [request("/channels/a?wait=60"), request("/channels/a", accept="text/event-stream")],
    )
    def test_has_left_if_it_would_wait_for_news_later(self, waits: bytes) -> None:
        connection = Connection(big())
        connection.send(request("/channels/big") + waits)
        connection.end()
        (first,) = answers(connection.read(250_000))
        assert first.json["channel"] == "big"
        connection.turns(3)
        assert connection.lost
        assert connection.server.is_empty()

    def test_gets_an_answer_that_is_made_later(self, monkeypatch: pytest.MonkeyPatch) -> None:
        server = Server(shortcuts=False)
        connection = Connection(server, room=1 << 20)
        ready: Any = []
        publish = server.node._broker.publish

        async def later(draft: Any) -> Any:
            await ready[0]
            return await publish(draft)

        ready.append(Deferred())
        monkeypatch.setattr(server.node._broker, "publish", later)
        connection.send(request("/channels/a", "POST", b"1"))
        connection.end()
        connection.turns(3)
        assert not connection.lost
        ready[0].callback(None)
        assert parse(connection.read()).status == 201
        assert connection.lost


def test_reset_connection_is_handled_no_further(monkeypatch: pytest.MonkeyPatch) -> None:
    reset = [False]
    monkeypatch.setattr("pushserver.web.pipeline.is_reset", lambda transport: reset[0])
    server = Server()
    line = server.connect()
    line.protocol.dataReceived(request("/channels/a") * 100)
    before = line.value().count(b"HTTP/1.1 200 ")
    reset[0] = True
    line.settle()
    assert line.value().count(b"HTTP/1.1 200 ") == before < 100
    assert line.lost
    assert server.is_empty()


def test_stream_is_not_opened_for_a_peer_that_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pushserver.transports.response.is_closed", lambda transport: True)
    monkeypatch.setattr("pushserver.transports.websocket.upgrade.is_closed", lambda transport: True)
    server = Server()
    line = server.open("/channels/a", accept="text/event-stream")
    assert (line.value(), line.lost) == (b"", True)
    assert server.is_empty()
