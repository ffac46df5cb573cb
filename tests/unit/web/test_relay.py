"""Requests relayed to another process, byte by byte and to a whole server."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.address import UNIXAddress
from twisted.internet.error import ConnectionLost, ConnectionRefusedError
from twisted.python.failure import Failure
from twisted.web.http_headers import Headers

from pushserver.auth.proxy_header import ProxyHeader, read_proxy_header
from pushserver.config.limits import Limits
from pushserver.config.settings import Config
from pushserver.config.settings import Server as ServerSettings
from pushserver.web.exchange import MAX_HEAD, PORTION
from pushserver.web.proxied import PROXIED
from pushserver.web.relay import Relay
from tests.unit.fakes.web import (
    InnerLine,
    Line,
    Log,
    Response,
    Server,
    Socket,
    Trouble,
    frames,
    handshake,
    masked,
    parse,
    request,
)

CLIENT = ProxyHeader(31, ("127.0.0.1", 50000), ("127.0.0.1", 8080), direct=True)


class Edge:
    """A server that relays all requests; the test, or a server, is the other process."""

    def __init__(self, limits: Limits = Limits(), **bounds: Any):
        self.server = Server(limits, shortcuts=False)
        self.clock = self.server.clock
        self.relay = Relay("/run/author", self.clock, self.clock.seconds, **bounds)
        self.server.site.resource = self.relay
        self.dialled = 0

    def dial(self) -> Any:
        """The factory of the next connection to the other process."""
        path, factory, _, _ = self.clock.unixClients[self.dialled]
        assert path == "/run/author"
        self.dialled += 1
        return factory

    def accept(self) -> InnerLine:
        """Accept the next connection to the other process; returns its end there."""
        line = InnerLine(self.clock)
        line.protocol = self.dial().buildProtocol(None)
        line.protocol.makeConnection(line)
        while line.producer is not None and not line.streaming:
            line.producer.resumeProducing()
        return line

    def ask(self, data: bytes) -> tuple[Line, InnerLine]:
        """Send a request; returns both ends."""
        client = self.server.connect()
        client.send(data)
        return client, self.accept()

    def is_idle(self) -> bool:
        """Whether nothing is left of any request."""
        return not self.relay.waiting and not self.relay.upgraded


def relayed(line: Line) -> tuple[ProxyHeader, bytes, list[bytes], bytes]:
    """Its header of the PROXY protocol, and the first line, the fields and body of a request."""
    data = line.take()
    header = read_proxy_header(data)
    assert header is not None
    head, _, body = data[header.size :].partition(b"\r\n\r\n")
    first, *fields = head.split(b"\r\n")
    return header, first, fields, body


def exchange(data: bytes, answer: Sequence[bytes], method: str = "GET") -> tuple[Edge, Line, bytes]:
    """Relay a request, and answer it with these pieces and the end of the connection."""
    edge = Edge()
    client, other = edge.ask(data)
    for piece in answer:
        other.send(piece)
    other.vanish()
    return edge, client, client.take()


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"


class TestTheRequest:
    """A request as the other process gets it."""

    def test_begins_with_the_addresses_of_the_client(self) -> None:
        _, other = Edge().ask(request("/x"))
        assert relayed(other)[0] == CLIENT

    def test_tells_that_the_client_has_tls(self) -> None:
        edge = Edge()
        client = edge.server.connect("203.0.113.7", secure=True)
        client.send(request("/x"))
        header = relayed(edge.accept())[0]
        assert (header.client, header.tls) == (("203.0.113.7", 50000), True)

    def test_tells_that_a_proxy_is_before_the_client(self) -> None:
        edge = Edge()
        client = edge.server.connect()
        setattr(client, PROXIED, True)
        client.send(request("/x"))
        assert relayed(edge.accept())[0].direct is False

    @pytest.mark.parametrize(
        "target", [b"/", b"//a/../b%2F?x=%zz&x=%FF;&=?#!", b"/%00?a=1?b", b"/~%c3%A4;'\"<>"]
    )
    @pytest.mark.parametrize("method", [b"GET", b"POST", b"DELETE", b"PURGE"])
    def test_has_the_same_method_and_target(self, method: bytes, target: bytes) -> None:
        _, other = Edge().ask(b"%b %b HTTP/1.1\r\nHost: a\r\n\r\n" % (method, target))
        assert relayed(other)[1] == b"%b %b HTTP/1.1" % (method, target)

    def test_has_all_fields_in_order_and_repeated_ones_too(self) -> None:
        sent = b"Host: a\r\nX-B: 2 \xff\r\nCookie: x=1\r\nX-B: 1\r\nX-A:\r\n"
        _, other = Edge().ask(b"GET / HTTP/1.1\r\n" + sent + b"\r\n")
        assert relayed(other)[2] == [
            b"Host: a",
            b"X-B: 2 \xff",
            b"X-B: 1",
            b"Cookie: x=1",
            b"X-A: ",
            b"Connection: close",
        ]

    def test_has_no_fields_of_the_connection(self) -> None:
        sent = (
            b"Host: a\r\nConnection: keep-alive, X-Own\r\nConnection: x-other\r\nKeep-Alive: 5\r\n"
            b"TE: trailers\r\nProxy-Authorization: a\r\nProxy-Connection: b\r\nUpgrade: h2c\r\n"
            b"X-Own: 1\r\nX-Other: 2\r\nX-Third: 3\r\n"
        )
        _, other = Edge().ask(b"GET / HTTP/1.1\r\n" + sent + b"\r\n")
        assert relayed(other)[2] == [b"Host: a", b"X-Third: 3", b"Connection: close"]

    @pytest.mark.parametrize(
        "name",
        ["X-Forwarded-For", "forwarded", "Via", "Origin", "Sec-Fetch-Site", "X-API-Key", "host"],
    )
    def test_keeps_fields_that_are_checked_though_the_client_names_them(self, name: str) -> None:
        value = "a.example"
        data = request("/", **{"connection": f"close, {name}", name: value})
        _, other = Edge().ask(data)
        fields = {field.lower() for field in relayed(other)[2]}
        assert f"{name.lower()}: {value}".encode() in fields

    def test_of_http_1_0_stays_one(self) -> None:
        _, other = Edge().ask(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        assert relayed(other)[1:3] == (b"GET / HTTP/1.0", [b"Connection: close"])

    @given(st.binary(max_size=300), st.lists(st.integers(0, 300), max_size=4), st.booleans())
    def test_has_the_body_with_its_length(
        self, body: bytes, cuts: list[int], chunked: bool
    ) -> None:
        edge = Edge()
        client = edge.server.connect()
        ends = sorted({*(min(cut, len(body)) for cut in cuts), len(body)} - {0})
        pieces = [body[a:b] for a, b in zip([0, *ends], ends, strict=False)]
        if chunked:
            client.send(b"POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
            for piece in pieces:
                client.send(b"%x\r\n%b\r\n" % (len(piece), piece))
            client.send(b"0\r\n\r\n")
        else:
            client.send(b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body))
            for piece in pieces:
                client.send(piece)
        _, _, fields, received = relayed(edge.accept())
        assert received == body
        assert fields == [b"Host: a", b"Content-Length: %d" % len(body), b"Connection: close"]
        client.vanish()

    def test_with_a_long_body_is_read_in_portions(self) -> None:
        edge = Edge(Limits(body_bytes=10 * PORTION))
        body = bytes(range(256)) * 1_000
        client = edge.server.connect()
        client.send(request("/x", "POST", body))
        line = Line(edge.clock, UNIXAddress(""))
        line.protocol = edge.dial().buildProtocol(None)
        line.protocol.makeConnection(line)
        seen, sizes = relayed(line)[3], []
        while line.producer is not None:
            line.producer.resumeProducing()
            data = line.take()
            sizes.append(len(data))
            seen += data
        assert seen == body
        assert max(sizes) == PORTION
        client.vanish()

    def test_leaves_nothing_when_its_client_leaves(self) -> None:
        edge = Edge()
        client, other = edge.ask(request("/x"))
        client.vanish()
        other.settle()
        assert other.lost
        assert edge.is_idle()
        assert not [call for call in edge.clock.getDelayedCalls() if call.getTime() > 50]

    def test_of_a_client_that_leaves_first_is_not_sent(self) -> None:
        edge = Edge()
        client = edge.server.connect()
        client.send(request("/x"))
        client.vanish()
        assert edge.clock.connectors[-1]._disconnected
        late = edge.accept()
        assert late.take() == b""
        assert late.lost
        assert edge.is_idle()


class TestHalfClosedClient:
    """The other process is told that the client has closed its side."""

    def test_gets_its_answer(self) -> None:
        edge = Edge()
        client, other = edge.ask(request("/x", "POST", b"1"))
        assert not other.half_closed
        client.half_close()
        assert other.half_closed
        other.send(OK)
        assert client.response().body == b"ok"
        assert client.lost
        assert edge.is_idle()

    def test_is_told_when_the_connection_is_made(self) -> None:
        edge = Edge()
        client = edge.server.connect()
        client.send(request("/x"))
        client.half_close()
        other = edge.accept()
        assert relayed(other)[1] == b"GET /x HTTP/1.1"
        assert other.half_closed
        other.send(OK)
        assert client.response().body == b"ok"

    def test_is_told_for_the_next_request_too(self) -> None:
        edge = Edge()
        client, first = edge.ask(request("/1") + request("/2"))
        client.half_close()
        first.send(OK)
        assert client.take().endswith(b"ok")
        second = edge.accept()
        assert second.half_closed
        second.send(OK)
        assert client.take().endswith(b"ok")
        assert client.lost

    @pytest.mark.parametrize("begun", [b"", OK[:-1]])
    def test_has_left_if_the_other_process_ends_the_connection(self, begun: bytes) -> None:
        edge = Edge()
        client, other = edge.ask(request("/x"))
        other.send(begun)
        client.take()
        client.half_close()
        other.vanish()
        assert client.take() == b""
        assert client.aborted
        assert edge.is_idle()


FIELDS = st.lists(
    st.tuples(
        st.sampled_from([b"Set-Cookie", b"X-A", b"ETag", b"Vary", b"Location"]),
        st.binary(max_size=20).map(lambda v: bytes(b for b in v if b >= 32).strip()),
    ),
    max_size=5,
)


def split(data: bytes, cuts: Sequence[int]) -> Iterator[bytes]:
    """The data in pieces."""
    ends = [*sorted({cut % (len(data) + 1) for cut in cuts} - {0, len(data)}), len(data)]
    yield from (data[a:b] for a, b in zip([0, *ends], ends, strict=False))


class TestTheAnswer:
    """An answer as the client gets it."""

    @given(
        st.binary(max_size=400),
        FIELDS,
        st.lists(st.integers(0, 1_000), max_size=5),
        st.lists(st.integers(0, 400), max_size=3),
        st.booleans(),
        st.sampled_from([(200, "OK"), (404, "Not Here"), (299, ""), (503, "Later")]),
    )
    def test_has_all_bytes_in_any_pieces(
        self,
        body: bytes,
        fields: list[tuple[bytes, bytes]],
        cuts: list[int],
        chunks: list[int],
        chunked: bool,
        status: tuple[int, str],
    ) -> None:
        head = b"HTTP/1.1 %d %b\r\n" % (status[0], status[1].encode())
        head += b"".join(b"%b: %b\r\n" % field for field in fields) + b"Connection: close\r\n"
        if chunked:
            parts = [b"%x\r\n%b\r\n" % (len(p), p) for p in split(body, chunks) if p]
            data = head + b"Transfer-Encoding: chunked\r\n\r\n" + b"".join(parts) + b"0\r\n\r\n"
        else:
            data = head + b"Content-Length: %d\r\n\r\n" % len(body) + body
        edge, client, received = exchange(request("/x"), list(split(data, cuts)))
        answer = parse(received)
        assert received.startswith(head[: head.index(b"\r\n") + 2])
        assert (answer.body, answer.whole, answer.rest) == (body, True, b"")
        assert ("content-length" in answer) is not chunked
        expected = Headers()
        for name, value in fields:
            expected.addRawHeader(name, value)
        for name, values in expected.getAllRawHeaders():
            assert [v.encode("latin-1") for v in answer.headers[name.decode().lower()]] == values
        assert "connection" not in answer
        assert "content-security-policy" not in answer
        assert edge.is_idle()
        assert not client.lost

    def test_is_passed_on_as_it_arrives(self) -> None:
        client, other = Edge().ask(request("/x"))
        other.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        assert client.take().endswith(b"\r\nTransfer-Encoding: chunked\r\n\r\n")
        other.send(b"5\r\nfirst\r\n")
        assert client.take() == b"5\r\nfirst\r\n"
        other.send(b"0\r\n\r\n")
        assert client.take() == b"0\r\n\r\n"

    def test_lets_the_next_request_follow(self) -> None:
        edge = Edge()
        client, other = edge.ask(request("/1") + request("/2"))
        other.send(OK)
        assert parse(client.take()).body == b"ok"
        assert relayed(edge.accept())[1] == b"GET /2 HTTP/1.1"

    @pytest.mark.parametrize(
        ("method", "status", "fields"),
        [
            ("HEAD", 200, b"Content-Length: 10\r\n"),
            ("HEAD", 200, b"Transfer-Encoding: chunked\r\n"),
            ("HEAD", 200, b""),
            ("GET", 204, b""),
            ("GET", 304, b"Content-Length: 10\r\nETag: x\r\n"),
        ],
    )
    def test_without_a_body_ends_with_its_head(
        self, method: str, status: int, fields: bytes
    ) -> None:
        edge = Edge()
        client, other = edge.ask(request("/x", method))
        other.send(b"HTTP/1.1 %d Fine\r\n%b\r\n" % (status, fields))
        data = client.take()
        kept = fields.replace(b"Transfer-Encoding: chunked\r\n", b"")
        assert data == b"HTTP/1.1 %d Fine\r\n%b\r\n" % (status, kept)
        assert edge.is_idle()
        # The connection is in order for another request.
        client.send(request("/y"))
        edge.accept().send(OK)
        assert parse(client.take()).body == b"ok"

    def test_after_an_interim_one_is_passed_on(self) -> None:
        data = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + OK
        for pieces in ([data], [bytes([byte]) for byte in data]):
            assert parse(exchange(request("/x"), pieces)[2]).body == b"ok"

    @pytest.mark.parametrize(
        "part",
        [
            b"Content-Length: 10\r\n\r\n",
            b"Content-Length: 10\r\n\r\n123456789",
            b"Transfer-Encoding: chunked\r\n\r\n",
            b"Transfer-Encoding: chunked\r\n\r\n5\r\nwhole\r\n",
            b"Transfer-Encoding: chunked\r\n\r\n5\r\nhal",
            b"Transfer-Encoding: chunked\r\n\r\n5\r\nwhole\r\n0\r\n",
            b"Transfer-Encoding: chunked\r\n\r\n5\r\nwhole\r\nnonsense\r\n",
        ],
    )
    def test_that_breaks_off_breaks_off_for_the_client(self, part: bytes) -> None:
        edge, client, data = exchange(request("/x"), [b"HTTP/1.1 200 OK\r\n" + part])
        answer = parse(data)
        assert not answer.whole
        assert client.aborted
        assert edge.is_idle()

    def test_until_the_end_of_the_connection_is_whole_with_it(self) -> None:
        old = b"GET /x HTTP/1.0\r\nHost: a\r\n\r\n"
        _, client, data = exchange(old, [b"HTTP/1.1 200 OK\r\n\r\nall"])
        assert data == b"HTTP/1.0 200 OK\r\n\r\nall"
        assert client.lost
        assert not client.aborted

    def test_until_the_end_of_the_connection_breaks_off_with_an_error_of_it(self) -> None:
        client, other = Edge().ask(b"GET /x HTTP/1.0\r\nHost: a\r\n\r\n")
        other.send(b"HTTP/1.1 200 OK\r\n\r\nha")
        other._lose(ConnectionLost())
        client.settle()
        assert client.aborted

    def test_waits_for_a_client_that_does_not_read(self) -> None:
        edge = Edge()
        client, other = edge.ask(request("/x"))
        client.reading = False
        size = 200_000
        other.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        other.send(bytes(70_000))
        assert other.producerState == "paused"
        client.read()
        client.settle()
        assert other.producerState == "producing"
        other.send(bytes(size - 70_000))
        assert len(parse(client.take()).body) == size
        assert edge.is_idle()


def failed(edge: Edge, client: Line, trouble: Trouble) -> Response:
    """The answer to a request that was not relayed."""
    answer = client.response()
    assert (answer.status, answer["retry-after"]) == (503, "1")
    assert answer.json["error"]["code"] == 503
    assert edge.is_idle()
    assert not client.lost
    trouble.clear()
    return answer


class TestWithoutAnAnswer:
    """The client gets a refusal, and may send the request again."""

    def test_a_process_that_is_away_is_503(self, trouble: Trouble) -> None:
        edge = Edge()
        client = edge.server.connect()
        client.send(request("/x"))
        edge.dial().clientConnectionFailed(None, Failure(ConnectionRefusedError()))
        assert "is away" in failed(edge, client, trouble).error[1]

    def test_an_event_source_comes_back_after_its_stream_has_ended(self, trouble: Trouble) -> None:
        edge = Edge()
        client = edge.server.connect()
        client.send(request("/channels/a?as=html", accept="text/event-stream"))
        edge.dial().clientConnectionFailed(None, Failure(ConnectionRefusedError()))
        trouble.clear()
        answer = client.response()
        assert (answer.status, answer["content-type"]) == (200, "text/event-stream")
        reason = "another process of the server is away; try again later"
        data = f'{{"code":1013,"reason":"{reason}"}}'
        assert answer.body.decode() == f"event: pushserver-end\ndata: {data}\n\n"

    def test_no_file_for_the_connection_is_503(
        self, trouble: Trouble, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        edge = Edge()

        def full(*_: object) -> None:
            raise OSError(24, "Too many open files")

        monkeypatch.setattr(edge.clock, "connectUNIX", full)
        client = edge.server.connect()
        client.send(request("/x"))
        assert "Too many open files" in failed(edge, client, trouble).error[1]

    @pytest.mark.parametrize(
        "data",
        [
            b"",
            b"HTTP/1.1 200 OK\r\nContent-Le",
            b"HTTP/1.1 100 Continue\r\n\r\n",
            b"nonsense\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nnonsense\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n1",
            b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n1",
            b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nX: ".ljust(MAX_HEAD + 1, b"x"),
        ],
    )
    def test_an_end_without_an_answer_is_503(self, data: bytes, trouble: Trouble) -> None:
        edge = Edge()
        client, other = edge.ask(request("/x"))
        other.send(data)
        other.vanish()
        failed(edge, client, trouble)

    def test_no_answer_in_time_is_503(self, trouble: Trouble) -> None:
        edge = Edge(seconds=5)
        client, other = edge.ask(request("/x"))
        edge.clock.advance(5)
        assert "has not answered in 5 s" in failed(edge, client, trouble).error[1]
        other.settle()
        assert other.lost

    def test_an_answer_that_has_begun_may_take_any_time(self) -> None:
        edge = Edge(seconds=5)
        client, other = edge.ask(request("/x"))
        other.send(OK[:-1])
        edge.clock.advance(50)
        other.send(OK[-1:])
        assert client.response().body == b"ok"

    def test_a_request_too_many_is_503_and_the_next_one_is_not(self, trouble: Trouble) -> None:
        edge = Edge(at_once=2)
        waiting = [edge.ask(request("/x")) for _ in range(2)]
        client = edge.server.connect()
        client.send(request("/x"))
        answer = client.response()
        assert (answer.status, answer["retry-after"]) == (503, "1")
        waiting[0][1].send(OK)
        client.send(request("/x"))
        edge.accept().send(OK)
        assert client.response().body == b"ok"

    def test_the_log_is_bounded(self, trouble: Trouble) -> None:
        edge = Edge()
        for _ in range(50):
            edge.ask(request("/x"))[1].vanish()
        assert len(trouble.take()) == 10

    def test_the_stop_answers_or_drops_all(self, trouble: Trouble) -> None:
        edge = Edge()
        waits, begun, upgraded = (edge.ask(request("/x", **h)) for h in ({}, {}, handshake()))
        begun[1].send(OK[:-1])
        upgraded[1].send(UPGRADED)
        edge.relay.stop()
        assert waits[0].response().status == 503
        for client, other in (begun, upgraded):
            client.settle()
            assert client.aborted
            assert other.lost
        assert edge.is_idle()
        trouble.clear()


UPGRADED = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: x\r\n\r\n"
)


class TestUpgrades:
    """Connections whose protocol another process changes."""

    def open(self, more: bytes = b"", **bounds: Any) -> tuple[Edge, Line, Line]:
        edge = Edge(**bounds)
        client, other = edge.ask(request("/x", **handshake()) + more)
        fields = relayed(other)[2]
        assert fields[-2:] == [b"Connection: Upgrade", b"Upgrade: websocket"]
        return edge, client, other

    def test_bytes_go_in_both_directions(self) -> None:
        edge, client, other = self.open(b"early")
        other.send(UPGRADED + b"first")
        assert client.take() == UPGRADED + b"first"
        assert other.take() == b"early"
        client.send(b"ping")
        assert other.take() == b"ping"
        other.send(b"pong")
        assert client.take() == b"pong"
        assert len(edge.relay.upgraded) == 1
        # It is no longer a connection of HTTP, but counts as one of its client.
        assert not edge.server.site.channels

    @pytest.mark.parametrize("first", [0, 1])
    def test_either_end_ends_the_other_after_its_last_bytes(self, first: int) -> None:
        edge, client, other = self.open()
        other.send(UPGRADED)
        client.take()
        ends = (client, other)
        ends[first].send(b"last")
        ends[first].vanish()
        assert ends[1 - first].take() == b"last"
        assert ends[1 - first].lost
        assert not ends[1 - first].aborted
        assert edge.is_idle()

    @pytest.mark.parametrize("slow", [0, 1])
    def test_an_end_that_does_not_read_pauses_the_other(self, slow: int) -> None:
        _, client, other = self.open()
        other.send(UPGRADED)
        ends = (client, other)
        ends[slow].reading = False
        ends[1 - slow].send(bytes(70_000))
        assert ends[1 - slow].producerState == "paused"
        ends[slow].read()
        ends[slow].settle()
        assert ends[1 - slow].producerState == "producing"

    @pytest.mark.parametrize("slow", [0, 1])
    def test_an_end_that_never_reads_is_dropped_after_the_other(self, slow: int) -> None:
        edge, client, other = self.open(limits=Limits(request_seconds=5))
        other.send(UPGRADED)
        ends = (client, other)
        ends[slow].reading = False
        ends[1 - slow].send(bytes(70_000))
        ends[1 - slow].vanish()
        assert not ends[slow].lost
        for _ in range(20):
            edge.clock.advance(1)
        assert ends[slow].aborted
        assert edge.is_idle()

    def test_it_counts_for_its_client_until_both_ends_are_gone(self) -> None:
        edge = Edge()
        client = edge.server.connect("203.0.113.7")
        client.send(request("/x", **handshake()))
        other = edge.accept()
        other.send(UPGRADED)
        counted = edge.server.site.admission._connections._by_name
        assert counted == {"203.0.113.7": 1}
        client.vanish()
        other.settle()
        assert counted == {}

    def test_another_answer_is_passed_on(self) -> None:
        edge, client, other = self.open()
        other.send(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno")
        assert client.response().body == b"no"
        assert edge.is_idle()

    def test_an_upgrade_too_many_is_503_and_a_request_is_not(self) -> None:
        edge, _, other = self.open(upgraded_at_once=1)
        other.send(UPGRADED)
        client = edge.server.connect()
        client.send(request("/x", **handshake()))
        assert client.response().status == 503
        client.send(request("/x"))
        edge.accept().send(OK)
        assert client.response().body == b"ok"
        other.vanish()
        other.settle()
        client.send(request("/x", **handshake()))
        assert edge.accept().take()


class Pair:
    """An edge before a whole server, with a link between them that carries all bytes at once."""

    def __init__(self) -> None:
        self.edge = Edge()
        settings = ServerSettings(trusted_proxies=["unix"], proxy_protocol=True)
        self.author = Server(config=Config(server=settings), clock=self.edge.clock)
        wrap: Any = self.author.service.ports._wrap
        self._factory = wrap(self.author.site)
        self._factory.of_processes = True
        self._links: list[tuple[InnerLine, InnerLine]] = []

    def pump(self) -> None:
        """Carry bytes until none are left."""
        while len(self.edge.clock.unixClients) > self.edge.dialled:
            there = InnerLine(self.edge.clock)
            here = self.edge.accept()
            there.protocol = self._factory.buildProtocol(UNIXAddress(""))
            there.protocol.makeConnection(there)
            self._links.append((here, there))
        moved = True
        while moved:
            moved = False
            for here, there in self._links:
                for source, target in ((here, there), (there, here)):
                    if data := source.take():
                        target.send(data)
                        moved = True
        for here, there in self._links:
            if here.lost or there.lost:
                here.vanish()
                there.vanish()

    def open(self, path: str, method: str = "GET", body: bytes = b"", /, **headers: str) -> Line:
        line = self.edge.server.connect()
        line.send(request(path, method, body, **headers))
        self.pump()
        return line


class TestBeforeAServer:
    """The answers of a whole server are the same through the relay."""

    @pytest.mark.parametrize(
        ("path", "method", "body", "headers"),
        [
            ("/channels/numbers", "GET", b"", {"accept": "application/json"}),
            ("/channels/numbers", "HEAD", b"", {"accept": "application/json"}),
            ("/channels/numbers", "POST", b"[1,2]", {}),
            ("/channels/numbers", "OPTIONS", b"", {"origin": "http://localhost:8080"}),
            ("/channels/a%2Fb?since=%zz", "GET", b"", {"accept": "application/json"}),
            ("/nothing", "GET", b"", {"accept": "text/html"}),
            ("/channels/numbers", "POST", b"1", {"origin": "http://evil.example"}),
            ("/channels/numbers", "POST", b"1", {"x_forwarded_for": "1.2.3.4"}),
            ("/channels/numbers", "PURGE", b"", {}),
            ("/static/pushserver.css", "GET", b"", {"range": "bytes=0-9"}),
        ],
    )
    def test_answers_are_the_same(
        self, path: str, method: str, body: bytes, headers: dict[str, str], trouble: Trouble
    ) -> None:
        pair, alone = Pair(), Server()
        relayed = parse(pair.open(path, method, body, **headers).take(), method)
        direct = parse(alone.open(path, method, body, **headers).take(), method)
        for answer in (relayed, direct):
            answer.headers.pop("date")
        assert (relayed.status, [*relayed.headers]) == (direct.status, [*direct.headers])
        if direct.status == 201:
            assert json.loads(relayed.body)["offset"] == json.loads(direct.body)["offset"] == 1
        elif b"epoch" not in direct.body and method != "HEAD":
            assert relayed == direct
        trouble.clear()

    @pytest.mark.parametrize("scheme", ["http", "https"])
    def test_pages_have_the_scheme_of_the_edge(self, scheme: str) -> None:
        pair = Pair()
        line = pair.edge.server.connect(secure=scheme == "https")
        line.send(request("/channels/numbers", "POST", b"1", origin="https://localhost:8080"))
        with Log():
            pair.pump()
        assert line.response().status == (201 if scheme == "https" else 403)

    def test_a_websocket_is_spliced(self) -> None:
        pair = Pair()
        line = pair.open("/channels/numbers", **handshake())
        answer = parse(line.take())
        assert answer.status == 101
        assert b"subscribed" in frames(answer.rest)[0].payload
        socket = Socket(line, answer)
        pair.author.publish("numbers", 7)
        pair.pump()
        assert socket.texts()[0]["data"] == 7
        line.send(masked((1000).to_bytes(2, "big"), 8))
        pair.pump()
        assert socket.close()[0] == 1000
        line.vanish()
        pair.pump()
        assert pair.edge.is_idle()
        assert not len(pair.author.node.peers)
