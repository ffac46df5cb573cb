from __future__ import annotations

import socket
from collections.abc import Callable
from itertools import count as count_up
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.tcp import Server as TCPServer
from twisted.internet.unix import Server as UnixServer
from twisted.logger import LogLevel
from twisted.protocols.policies import WrappingFactory
from twisted.python.failure import Failure

from pushserver import PushServer
from pushserver.config.limits import Limits
from pushserver.config.settings import Config
from pushserver.config.settings import Server as Section
from pushserver.web.pipeline import CHUNKS, MAX_BEHIND, PER_TURN, DeadlineChannel
from pushserver.web.sockets import unsent
from tests.unit.fakes.sockets import FakeSocket, make_transport, turn
from tests.unit.fakes.web import (
    Line,
    Log,
    Response,
    Server,
    Trouble,
    frames,
    handshake,
    masked,
    parse,
    request,
)

SECONDS = 15


def big(size: int = 200_000, **limits: Any) -> Server:
    """A server with a channel whose history is so long."""
    server = Server(Limits(request_seconds=SECONDS, **limits))
    server.publish("big", "x" * size)
    return server


def answers(data: bytes) -> list[Response]:
    """The answers in these bytes."""
    parsed = []
    while data:
        parsed.append(parse(data))
        data = parsed[-1].rest
    return parsed


def http(line: Line) -> DeadlineChannel:
    """twisted.web's side of the connection."""
    assert isinstance(line.protocol, DeadlineChannel)
    return line.protocol


def count(server: Server, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The URLs of the requests that started."""
    started: list[str] = []
    process = server.site.requestFactory.process

    def counted(self: Any) -> None:
        started.append(self.uri.decode())
        process(self)

    monkeypatch.setattr(server.site.requestFactory, "process", counted)
    return started


class NamedWire(FakeSocket):
    """A socket with an address."""

    def __init__(self, room: int, name: Any):
        super().__init__(room)
        self._name = name

    def getsockname(self) -> Any:
        return self._name


class Connection:
    """A connection on Twisted's own transport, over a socket that takes a set number of bytes."""

    def __init__(
        self,
        server: Server,
        room: int = 0,
        kind: type[TCPServer] = TCPServer,
        wrap: bool = False,
    ):
        self.server = server
        self.idle = len(server.clock.getDelayedCalls())
        unix = issubclass(kind, UnixServer)
        self.wire = NamedWire(room, "/run/a" if unix else ("127.0.0.1", 8080))
        factory: Any = WrappingFactory(server.site) if wrap else server.site
        protocol = factory.buildProtocol(IPv4Address("TCP", "127.0.0.1", 5))
        self.transport = make_transport(self.wire, server.clock, protocol, kind)
        self.protocol = protocol
        protocol.makeConnection(self.transport)

    @property
    def lost(self) -> bool:
        return not self.transport.connected

    @property
    def timers(self) -> int:
        """The timers of this connection."""
        return len(self.server.clock.getDelayedCalls()) - self.idle

    def send(self, data: bytes) -> None:
        """Send bytes from the peer, if the server reads them."""
        if self.transport in self.server.clock.getReaders():
            self.transport.protocol.dataReceived(data)

    def end(self) -> None:
        """The peer closes its side; Twisted does not read it any more."""
        self.server.clock.removeReader(self.transport)
        self.transport.readConnectionLost(Failure(ConnectionDone()))

    def turns(self, most: int = 200) -> None:
        for _ in range(most):
            turn(self.server.clock)

    def read(self, size: int = 1 << 30) -> bytes:
        """The peer reads this many bytes."""
        self.wire.room = size
        self.turns()
        data = bytes(self.wire.taken)
        self.wire.taken.clear()
        return data


KINDS = pytest.mark.parametrize(
    ("kind", "wrap"), [(TCPServer, False), (UnixServer, False), (TCPServer, True)]
)


class TestNextRequest:
    @KINDS
    def test_does_not_start_before_the_answer_has_left(
        self, kind: type[TCPServer], wrap: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        server = big()
        started = count(server, monkeypatch)
        connection = Connection(server, 0, kind, wrap)
        connection.send(request("/channels/big") * 30)
        connection.turns()
        assert len(started) == 1
        assert unsent(connection.transport) < 210_000
        connection.read(150_000)
        assert len(started) == 1
        connection.read(60_000)
        assert len(started) == 2

    @KINDS
    def test_is_answered_in_order_when_the_peer_reads(
        self, kind: type[TCPServer], wrap: bool
    ) -> None:
        server = big()
        for n in range(30):
            server.publish(f"c{n}", n)
        connection = Connection(server, 0, kind, wrap)
        urls = [f"/channels/{name}" for n in range(30) for name in (f"c{n}", "big")]
        connection.send(b"".join(map(request, urls)))
        data = b""
        for _ in range(300):
            data += connection.read(30_000)
        channels = [answer.json["channel"] for answer in answers(data)]
        assert channels == [url.removeprefix("/channels/") for url in urls]

    def test_starts_with_few_others_in_a_turn(self, monkeypatch: pytest.MonkeyPatch) -> None:
        server = Server()
        started = count(server, monkeypatch)
        line = server.connect()
        line.protocol.dataReceived(request("/channels/a") * 10 * PER_TURN)
        for turns in range(1, 10):
            assert len(started) == turns * PER_TURN
            (due,) = (
                call for call in server.clock.calls if call.getTime() <= server.clock.seconds()
            )
            server.clock.calls.remove(due)
            due.called = True
            due.func(*due.args, **due.kw)
        assert len(answers(line.take())) == 10 * PER_TURN

    def test_starts_in_order_behind_bodies(self) -> None:
        server = Server()
        chunked = (
            b"POST /channels/a HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"1\r\n1\r\n0\r\n\r\n"
        )
        line = server.connect()
        line.send((request("/channels/a", "POST", b"0") + chunked + request("/channels/a")) * 5)
        responses = answers(line.take())
        assert [answer.status for answer in responses] == [201, 201, 200] * 5
        data = [row["data"] for row in responses[-1].json["publications"]]
        assert data == [0, 1] * 5

    def test_starts_at_once_if_nothing_waits(self) -> None:
        server = Server()
        line = server.connect()
        for _ in range(3):
            line.protocol.dataReceived(request("/channels/a"))
            assert parse(line.value()).status == 200
            line.clear()

    def test_may_arrive_in_pieces(self) -> None:
        server = Server()
        line = server.connect()
        data = request("/channels/a") * 3 + request("/channels/a", "POST", b"[1, 2]")
        for n in range(len(data)):
            line.send(data[n : n + 1])
        assert [answer.status for answer in answers(line.take())] == [200, 200, 200, 201]

    @pytest.mark.parametrize("size", [1, 7, 1_000, 1_025, 5_000])
    def test_may_have_a_long_line_in_pieces(self, size: int) -> None:
        server = Server()
        line = server.connect()
        data = request("/channels/a?x=" + "y" * 9_000)
        for begin in range(0, len(data), size):
            line.send(data[begin : begin + size])
        assert line.response().status == 200

    def test_is_refused_for_a_line_that_is_too_long_in_pieces(self) -> None:
        line = Server().connect()
        for _ in range(20_000):
            line.send(b"G")
        assert line.lost

    @pytest.mark.parametrize("wrong", ["/channels/a b", "/"])
    def test_does_not_start_behind_a_refused_request(
        self, wrong: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        server = Server(Limits(body_bytes=10))
        started = count(server, monkeypatch)
        line = server.connect()
        refused = request("/", "POST", b"x" * 11) if wrong == "/" else request(wrong)
        line.send(request("/channels/a") * 2 + refused + request("/channels/a"))
        statuses = line.take().split(b"HTTP/1.1 ")[1:]
        assert [text[:3] for text in statuses] == [b"200", b"200", statuses[2][:3]]
        assert statuses[2][:1] == b"4"
        assert line.lost
        assert len(started) == 2

    @pytest.mark.parametrize("last", ["HTTP/1.0", "HTTP/1.1\r\nConnection: close"])
    def test_does_not_start_behind_the_last_request(
        self, last: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        server = big()
        started = count(server, monkeypatch)
        connection = Connection(server)
        final = f"GET /channels/big {last}\r\nHost: localhost\r\n\r\n".encode()
        connection.send(request("/channels/a") + final + request("/channels/a"))
        connection.turns()
        assert len(started) == 2
        assert connection.read().count(b" 200 OK\r\n") == 2
        assert (connection.lost, len(started)) == (True, 2)

    def test_does_not_start_when_the_server_stops(self, monkeypatch: pytest.MonkeyPatch) -> None:
        server = big()
        started = count(server, monkeypatch)
        stuck, other = Connection(server), Connection(server, 1 << 30)
        stuck.send(request("/channels/big") * 3)
        other.send(request("/channels/a") * 3 * PER_TURN)
        fired: list[None] = []
        server.site.drain().addCallback(fired.append)
        other.turns()
        assert (len(started), other.lost, fired) == (1 + PER_TURN, True, [])
        assert len(answers(stuck.read())) == 1
        assert (len(started), stuck.lost, fired) == (1 + PER_TURN, True, [None])

    @pytest.mark.parametrize("more", [b"", b"x" * 40_000])
    def test_may_be_a_handshake(self, more: bytes) -> None:
        server = Server()
        line = server.connect()
        first = request("/channels/a") * 2
        line.send(first + request("/connection/websocket", **handshake()) + more)
        one, two, three = answers(line.take())
        assert [one.status, two.status, three.status] == [200, 200, 101]
        assert line.producerState == "producing"
        line.send(masked(b'{"id":1,"connect":{}}'))
        assert b'"client"' in frames(line.take())[0].payload


class TestChunkedBody:
    HEAD = b"POST /channels/a HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    BODY = b"[%b]" % b",".join([b"1"] * 5_000)

    def chunked(self, size: int) -> bytes:
        body = self.BODY
        parts = [body[begin : begin + size] for begin in range(0, len(body), size)]
        return self.HEAD + b"".join(b"%x\r\n%b\r\n" % (len(p), p) for p in parts) + b"0\r\n\r\n"

    def tick(self, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
        """Let each look at the clock take a millisecond."""
        looks = count_up(step=0.001)
        monkeypatch.setattr(server.site.turns, "monotonic", lambda: next(looks))

    def test_of_tiny_chunks_is_read_in_slices(self, monkeypatch: pytest.MonkeyPatch) -> None:
        server = Server()
        self.tick(server, monkeypatch)
        line = server.connect()
        line.protocol.dataReceived(self.chunked(1))
        taken = http(line).requests[0]._received
        assert 0 < taken < 3 * CHUNKS
        assert http(line).paused
        assert line.response("POST").status == 201
        assert server.hub.history.peek("a").top == 1

    @pytest.mark.parametrize("size", [1, 2, 100, 3_000, 100_000])
    @pytest.mark.parametrize("slow", [False, True])
    def test_has_the_next_requests_behind_it_in_order(
        self, monkeypatch: pytest.MonkeyPatch, size: int, slow: bool
    ) -> None:
        server = Server()
        if slow:
            self.tick(server, monkeypatch)
        line = server.connect()
        once = self.chunked(size) + request("/channels/a?last=0") + request("/channels/b")
        line.protocol.dataReceived(once * 3)
        found = answers(line.take())
        assert [answer.status for answer in found] == [201, 200, 200] * 3
        assert [found[n].json["offset"] for n in (0, 1, 3, 4, 6, 7)] == [1, 1, 2, 2, 3, 3]

    def test_that_is_malformed_in_the_middle_is_refused_once(self) -> None:
        line = Server().connect()
        line.protocol.dataReceived(self.HEAD + b"1\r\n1\r\n" * 1_000 + b"x\r\n" * 9_000)
        line.settle()
        assert line.value().count(b"HTTP/1.1 400") == 1
        assert line.lost


class TestBytesBehindARequest:
    def test_are_bounded_while_they_wait(self) -> None:
        server = Server()
        line = server.open("/channels/a?wait=60")
        for _ in range(MAX_BEHIND // 100):
            line.send(request("/channels/a")[:10] * 10)
        assert line.producerState == "producing"
        line.send(b"x" * 200)
        assert line.lost, "without reading, the server would not notice that the peer is gone"
        assert server.is_empty()

    def test_are_bounded_in_one_piece(self) -> None:
        server = Server()
        line = server.connect()
        line.send(request("/channels/a?wait=60") + b"x" * (MAX_BEHIND + 1))
        assert line.lost
        assert server.is_empty()

    @pytest.mark.parametrize("path", ["/channels/a?wait=60", "/events?channel=a"])
    def test_are_bounded_while_the_application_finds_the_user(self, path: str) -> None:
        app, user = PushServer(), Deferred[None]()
        app.authenticate(lambda visitor: user)
        server = Server(app=app)
        line = server.connect()
        line.send(request(path, accept="*/*, text/event-stream") + b"x" * (MAX_BEHIND + 1))
        assert line.producerState == "paused", "the server does not notice that the peer is gone"
        user.callback(None)
        line.settle()
        assert line.lost
        assert server.is_empty()

    def test_may_be_requests_behind_a_long_poll(self) -> None:
        server = Server()
        line = server.connect()
        line.send(request("/channels/a?wait=60") + request("/channels/b") * 100)
        assert line.value() == b""
        server.publish("a")
        names = [answer.json["channel"] for answer in answers(line.take())]
        assert names == ["a"] + ["b"] * 100

    def test_are_bounded_while_the_answer_is_not_read(self) -> None:
        server = big()
        connection = Connection(server)
        connection.send(request("/channels/big") * 2)
        assert connection.transport not in server.clock.getReaders()
        channel: Any = connection.transport.protocol
        assert len(channel._buffer) == len(request("/channels/big"))
        assert len(answers(connection.read())) == 2
        assert connection.transport in server.clock.getReaders()

    def test_are_read_again_when_enough_requests_were_answered(self) -> None:
        server = Server()
        line = server.connect()
        line.protocol.dataReceived(request("/channels/a") * 1_000)
        assert line.producerState == "paused"
        line.settle()
        assert line.producerState == "producing"
        assert len(answers(line.take())) == 1_000

    @pytest.mark.parametrize("size", [1, 40_000])
    def test_of_a_stream_are_dropped_and_its_end_is_noticed(self, size: int) -> None:
        server = Server()
        line = server.open("/channels/a", accept="text/event-stream")
        for _ in range(3):
            line.send(b"x" * size)
        assert line.producerState == "producing"
        channel: Any = http(line)
        assert not channel._dataBuffer
        line.vanish()
        assert server.is_empty()

    def test_of_a_stream_do_not_start_a_request_at_its_end(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        server = Server()
        started = count(server, monkeypatch)
        line = server.connect()
        line.send(request("/channels/a", accept="text/event-stream") + request("/channels/a"))
        for peer in server.node.peers:
            peer.shut_down()
        line.settle()
        assert (line.lost, started) == (True, ["/channels/a"])


LAST = {
    "kept open": request("/channels/big"),
    "closed": request("/channels/big", connection="close"),
    "old": b"GET /channels/big HTTP/1.0\r\n\r\n",
    "refused": request("/nowhere", "POST", b"x" * 1_100_000),
}


class TestUnreadAnswer:
    @pytest.mark.parametrize("asked", LAST.values(), ids=LAST)
    @KINDS
    def test_is_dropped(self, kind: type[TCPServer], wrap: bool, asked: bytes) -> None:
        server = big()
        connection = Connection(server, 0, kind, wrap)
        connection.send(asked)
        for _ in range(2 * SECONDS - 1):
            connection.turns(2)
            server.clock.advance(1)
        server.clock.advance(1)
        assert connection.lost
        assert server.is_empty()

    @pytest.mark.parametrize("method", ["GET", "GET a range of"])
    @pytest.mark.parametrize("last", [True, False])
    def test_of_a_file_is_dropped(
        self, method: str, last: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        Path(tmp_path, "big.bin").write_bytes(b"x" * 1_000_000)
        limits = Limits(request_seconds=SECONDS)
        server = Server(config=Config(limits=limits, server=Section(pages=str(tmp_path))))
        server.send_files(monkeypatch)
        connection = Connection(server)
        fields = {"range": "bytes=10-900000" if "range" in method else ""}
        connection.send(request("/big.bin", connection="close" if last else "", **fields))
        connection.turns(20)
        assert unsent(connection.transport) < 300_000
        for _ in range(3 * SECONDS):
            server.clock.advance(1)
            connection.turns(2)
        assert connection.lost
        assert server.is_empty()
        assert connection.timers == 0

    def test_is_not_dropped_before_its_time(self) -> None:
        server = big()
        connection = Connection(server)
        connection.send(request("/channels/big"))
        server.clock.advance(SECONDS - 1)
        assert not connection.lost

    @pytest.mark.parametrize("asked", [LAST["kept open"], LAST["closed"]])
    def test_is_not_dropped_while_bytes_of_it_leave(self, asked: bytes) -> None:
        server = big()
        connection = Connection(server)
        connection.send(asked)
        data = b""
        for _ in range(40):
            server.clock.advance(SECONDS - 1)
            data += connection.read(5_000)
        data += connection.read()
        assert len(data) > 200_000
        assert parse(data).status == 200

    def test_leaves_the_next_request_all_its_time(self) -> None:
        server = big()
        connection = Connection(server)
        connection.send(request("/channels/big"))
        for _ in range(3):
            server.clock.advance(SECONDS - 1)
            connection.read(10_000)
        connection.read()
        server.clock.advance(SECONDS - 1)
        assert not connection.lost
        server.clock.advance(1)
        connection.turns()
        assert connection.lost

    def test_in_memory_is_dropped(self) -> None:
        server = big()
        line = server.connect()
        line.reading = False
        line.send(request("/channels/big", connection="close"))
        server.clock.advance(SECONDS)
        line.settle()
        assert not line.lost, "segments may be large, and a slow reader takes nothing for a while"
        server.clock.advance(SECONDS)
        line.settle()
        assert line.lost

    def test_is_not_dropped_while_the_kernel_has_less_of_it(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As with a closed connection, whose remaining bytes wait in the socket."""
        left = iter(range(100_000, 0, -100))
        monkeypatch.setattr("pushserver.web.sockets._in_kernel", lambda connected: next(left))
        server = big()
        line = server.connect()
        line.reading = False
        line.send(request("/channels/big", connection="close"))
        for _ in range(10):
            server.clock.advance(SECONDS)
        line.settle()
        assert not line.lost
        monkeypatch.setattr("pushserver.web.sockets._in_kernel", lambda connected: 7)
        for _ in range(3):
            server.clock.advance(SECONDS)
        line.settle()
        assert line.lost


def test_unsent_bytes_in_the_kernel_are_counted() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        transport = SimpleNamespace(socket=ours)
        assert unsent(transport) == 0
        ours.send(b"x" * 1_000)
        assert unsent(transport) > 0
        theirs.recv(2_000)
        assert unsent(transport) == 0
    assert unsent(transport) == 0, "it is closed"
    assert unsent(SimpleNamespace()) == 0


class TestRefusedRequest:
    def test_gets_no_100_continue(self) -> None:
        line = Server(Limits(body_bytes=10)).connect()
        line.send(
            b"POST /channels/a HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\n"
            b"Content-Length: 11\r\n\r\n"
        )
        data = line.take()
        assert data.startswith(b"HTTP/1.1 413 ")
        assert b"100 Continue" not in data

    @pytest.mark.parametrize("digits", [19, 4_301, 15_000])
    def test_may_have_a_length_with_too_many_digits(self, digits: int, trouble: Trouble) -> None:
        for body in (b"9" * digits, b"0" * digits):
            line = Server().connect()
            line.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %b\r\n\r\n" % body)
            assert line.take().startswith(b"HTTP/1.1 400 ")
            assert line.lost
        assert trouble.take() == []


class TestAnswerThatIsReadLate:
    def test_is_sent_whole(self) -> None:
        server = big()
        line = server.connect()
        line.reading = False
        line.send(request("/channels/big") * 3)
        for n in range(1, 4):
            server.clock.advance(SECONDS - 1)
            assert line.value().count(b"HTTP/1.1 200") == n
            line.read()
            line.reading = False
            server.clock.advance(0)
        line.settle()
        assert len(answers(line.take())) == 3


def test_unsent_bytes_are_counted_below_wrappers() -> None:
    server = Server()
    for wrap in (False, True):
        connection = Connection(server, 0, wrap=wrap)
        transport = connection.protocol.transport if not wrap else connection.protocol
        transport.write(b"x" * 1_000)
        assert unsent(transport) == 1_000
        connection.read(300)
        assert unsent(transport) == 700


def test_lost_connection_leaves_no_timer() -> None:
    server = big()
    before = len(server.clock.getDelayedCalls())
    ends: list[Callable[[Line], None]] = [
        lambda line: line.send(request("/channels/big", connection="close")),
        lambda line: line.send(request("/channels/big") * 2),
        lambda line: line.protocol.dataReceived(request("/channels/a") * 5),
    ]
    for send in ends:
        line = server.connect()
        line.reading = False
        send(line)
        line.vanish()
        assert len(server.clock.getDelayedCalls()) == before


@pytest.mark.parametrize(
    "head",
    [
        b"GET /channels/a?token=%b HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /channels/a HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer %b\r\n\r\n",
        b"GET /channels/a HTTP/1.1\r\nHost: localhost\r\nCookie: t=%b",
    ],
)
def test_a_line_that_is_too_long_gets_an_answer(head: bytes) -> None:
    line = Server().connect()
    line.send(head % (b"x" * 20_000))
    answer = line.response()
    text = "a line of the head of the request has more than 16384 bytes"
    assert answer.error == (431, text)
    assert line.disconnecting or line.disconnected


@pytest.mark.parametrize("in_two_pieces", [False, True])
def test_a_handshake_of_tls_is_answered_at_once_and_logged(
    in_two_pieces: bool,
) -> None:
    hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(40)
    line = Server().connect()
    with Log(LogLevel.info) as log:
        for piece in (hello[:5], hello[5:]) if in_two_pieces else (hello,):
            line.send(piece)
        problem = "a handshake of TLS (https://) on a port of plain HTTP, expected http://"
        assert log.take() == [f"refused 400 to 127.0.0.1: {problem}"]
    assert line.value().startswith(b"HTTP/1.1 400 Bad Request")
    assert line.disconnecting


def test_a_body_may_begin_like_a_handshake_of_tls() -> None:
    server = Server()
    line = server.connect()
    data = request("/channels/a", "POST", b"\x16\x03")
    line.send(data[:-2])
    line.send(data[-2:])
    assert parse(line.value()).status == 201
