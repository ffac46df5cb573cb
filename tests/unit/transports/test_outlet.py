"""A peer's way out, on Twisted's own TCP transport over a socket that takes what it is told to.

Whatever is written in whatever order, by `direct`, by `write`, by Autobahn and twisted.web,
and however little the socket takes at a time: what it took is what was said, byte for byte.
"""

from __future__ import annotations

import errno
import socket
import tracemalloc
from collections.abc import Callable
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import ITransport
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.ssl import CertificateOptions
from twisted.internet.tcp import Server as TCPServer
from twisted.internet.testing import MemoryReactorClock
from twisted.internet.unix import Server as UnixServer
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure

import pushserver.transports.outlet
from pushserver.hub.audience import Direct
from pushserver.transports.outlet import (
    KERNEL_BYTES,
    Backlog,
    Bounds,
    DirectOutlet,
    Outlet,
    PlainOutlet,
    make_outlet,
)
from tests.unit.fakes.tools import programs

PLENTY = 1 << 40
MARK = 64
"""From so many bytes on the transport pauses a producer, in these tests."""
PORTION = 100
"""What it is given at once, in these tests."""


@pytest.fixture(autouse=True)
def _small_portions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pushserver.transports.outlet, "PORTION", PORTION)


class Wire:
    """A socket: `taken` is what the peer will read, `room` how much more there may be of it.

    Of what is given to it at once it takes `bite` bytes at the most.
    """

    def __init__(self, room: int = PLENTY, bite: int = PLENTY):
        self.taken = bytearray()
        self.room = room
        self.bite = bite
        self.error = 0
        self.closed = False
        self.options: list[tuple[int, int, Any]] = []

    def send(self, data: bytes) -> int:
        if self.closed:
            raise OSError(errno.EBADF, "closed")
        if self.error:
            raise OSError(self.error, "the peer is gone")
        if data and not self.room:
            raise BlockingIOError(errno.EAGAIN, "full")
        size = min(len(data), self.room, self.bite)
        self.taken += data[:size]
        self.room -= size
        return size

    def setsockopt(self, level: int, option: int, value: Any) -> None:
        self.options.append((level, option, value))

    def fileno(self) -> int:
        return 7

    def setblocking(self, blocking: bool) -> None:
        assert not blocking

    def shutdown(self, how: int) -> None:
        """Told by the end of `taken`."""

    def close(self) -> None:
        self.closed = True


class Ending(Protocol):
    """Counts how often, and how, its connection was lost."""

    def __init__(self) -> None:
        self.reasons: list[type[BaseException]] = []

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.reasons.append(reason.type)  # type: ignore[arg-type]


def make_transport(
    wire: Wire, reactor: Any, protocol: Any, kind: type[TCPServer] = TCPServer
) -> Any:
    """Twisted's server transport on this wire, as if just accepted."""
    peer: Any = "" if issubclass(kind, UnixServer) else ("127.0.0.1", 50000)
    return kind(cast(Any, wire), protocol, peer, cast(Any, None), 1, reactor)


def turn(reactor: MemoryReactorClock) -> None:
    """One turn of the reactor: all that may write does, and what is due is called."""
    for descriptor in list(reactor.writers):
        why = cast(Any, descriptor).doWrite()
        if why is not None:
            reactor.removeWriter(descriptor)
            cast(Any, descriptor).connectionLost(Failure(why))
    reactor.advance(0)


def waiting(transport: Any) -> int:
    """How many bytes are in the transport's own buffer."""
    return int(len(transport.dataBuffer) - transport.offset + transport._tempDataLen)


def backlog(made: Any) -> int:
    """How many bytes wait in an outlet."""
    return 0 if made._backlog is None else int(made._backlog.bytes)


class Peer:
    """One connection, its transport, conversation and audience: all that an outlet calls.

    `said` is all that it was to be sent.
    """

    def __init__(
        self,
        make: Callable[[Any, Bounds, Any], Outlet] = make_outlet,
        queue: int = PLENTY,
        seconds: float = 10.0,
        head: bytes = b"",
        wire: Wire | None = None,
    ):
        self.reactor = MemoryReactorClock()
        self.wire = Wire() if wire is None else wire
        self.protocol = Ending()
        self.transport = make_transport(self.wire, self.reactor, self.protocol)
        self.transport.bufferSize = MARK
        self.transport.SEND_LIMIT = 48
        self.queue = queue
        self.said = bytearray(head)
        self.largest = 0
        self.ready: Direct | None = None
        self.slowness: list[int] = []
        self.finished = False
        self.dropped = False
        self.later: list[bytes] = []
        if head:
            self.transport.write(head)
        self.conversation: Any = self
        self.audiences: dict[str, Any] = {"": self}
        self.outlet = make(self.transport, Bounds(queue, seconds, self.reactor.seconds), self)

    def block(self, conversation: Any, direct: Direct) -> None:
        assert direct == self.ready, "it was blocked already"
        assert self.outlet.blocked_at == self.reactor.seconds()
        self.ready = None

    def unblock(self, conversation: Any) -> None:
        assert self.ready is None, "it was not blocked"
        self.ready = self.outlet.direct

    def drained(self) -> None:
        assert self.outlet.blocked_at is None
        assert not self.finished, "nothing goes past the transport after the end"
        assert backlog(self.outlet) == 0
        assert waiting(self.transport) <= (MARK if self.outlet.direct is None else 0)
        later, self.later = self.later, []
        for piece in later:
            self.write(piece)

    def slow(self, queued: int) -> None:
        assert queued == backlog(self.outlet) > self.queue
        self.slowness.append(queued)
        self.dropped = True
        self.finish()
        self.transport.abortConnection()

    @property
    def open(self) -> bool:
        """Whether anything may still be said."""
        return not self.finished and not self.protocol.reasons

    def publish(self, frame: bytes) -> None:
        """As the hub does."""
        if self.ready is None:
            self.write(frame)
            return
        self._say(frame)
        try:
            taken = self.ready(frame)
        except OSError:
            taken = 0
        if taken != len(frame):
            self.outlet.send_rest(frame, taken)

    def write(self, piece: bytes) -> None:
        """A reply, a pong, whatever is not a publication; or one that is sent in its turn."""
        self.outlet.write(piece)
        if not self.slowness:
            self._say(piece)

    def finish(self) -> bool:
        self.finished = True
        waited = self.outlet.finish()
        assert backlog(self.outlet) == 0, "nobody would ask for it any more"
        return waited

    def close(self, last: bytes, by_hand: bool) -> None:
        """The end: as Autobahn writes it, or as twisted.web does, past the outlet."""
        waits = backlog(self.outlet)
        if not self.finish():
            assert waits > self.queue
            self.dropped = True
            self.transport.abortConnection()
            return
        self._say(last)
        if by_hand:
            self.transport.write(last)
            self.transport.loseConnection()
        else:
            self.outlet.write(last)

    def _say(self, piece: bytes) -> None:
        self.said += piece
        self.largest = max(self.largest, len(piece))

    def turn(self) -> None:
        turn(self.reactor)

    def drain(self) -> None:
        """The peer reads all there is."""
        self.wire.room = self.wire.bite = PLENTY
        for _ in range(10_000):
            if not self.reactor.writers:
                break
            self.turn()
        assert not self.reactor.writers, "the transport writes for ever"
        self.turn()

    def compare(self) -> None:
        """What came with what was said."""
        assert self.said.startswith(self.wire.taken), "cut, repeated or out of order"

    def check(self) -> None:
        """What holds at every moment."""
        self.compare()
        assert self.ready == self.outlet.direct, "who sends past it does not know"
        assert self.ready is None or waiting(self.transport) == 0, "past what waits"
        if isinstance(self.outlet, DirectOutlet) and not self.protocol.reasons:
            asks = self.transport.producer is not None
            assert asks == (self.outlet.direct is None and not self.finished)


def direct(transport: Any, bounds: Bounds, owner: Any) -> Outlet:
    """What a plain TCP connection gets."""
    made = make_outlet(transport, bounds, owner)
    assert type(made) is DirectOutlet
    return made


BOTH = pytest.mark.parametrize("make", [direct, PlainOutlet])

Op = tuple[Any, ...]

SIZES = st.integers(8, 40) | st.integers(8, 400)
PIECES = st.tuples(st.sampled_from(["publish", "publish", "reply", "pong"]), SIZES)
FLOW = (
    st.tuples(st.just("room"), st.integers(0, 600) | st.just(PLENTY))
    | st.tuples(st.just("bite"), st.integers(1, 60) | st.just(PLENTY))
    | st.just(("turn",))
    | st.just(("turn",))
)
END = st.tuples(st.just("close"), st.booleans())
COMMON = PIECES | PIECES | FLOW
ANY = (
    PIECES
    | PIECES
    | PIECES
    | FLOW
    | FLOW
    | FLOW
    | END
    | st.tuples(st.just("later"), SIZES)
    | st.tuples(st.just("wait"), st.floats(0, 8))
    | st.just(("drain",))
    | st.just(("die",))
)


def do(peer: Peer, number: int, op: Op) -> None:
    """Each piece is another text, so that none can stand for another."""
    what, *values = op
    match what:
        case "turn" | "drain":
            getattr(peer, what)()
        case "room":
            peer.wire.room = values[0]
        case "bite":
            peer.wire.bite = values[0]
        case "wait":
            peer.reactor.advance(values[0])
        case "die" if not peer.protocol.reasons:
            peer.wire.error = errno.EPIPE
        case _ if not peer.open:
            pass
        case "close":
            peer.close(f"<{number} the end>".encode(), values[0])
        case "later":
            peer.later.append(f"<{number} later".encode().ljust(values[0], b".") + b">")
        case _:
            piece = f"<{number} {what}".encode().ljust(values[0], b".") + b">"
            (peer.publish if what == "publish" else peer.write)(piece)
    peer.check()


def play(peer: Peer, ops: list[Op]) -> None:
    # What was written before has left, if there is room for it.
    peer.turn()
    for number, op in enumerate(ops):
        do(peer, number, op)


ROOMS = st.integers(0, 400) | st.just(PLENTY)
HEADS = st.sampled_from([b"", b"<head>", b"<a long head" + b"." * 300 + b">"])


@BOTH
@given(head=HEADS, room=ROOMS, ops=programs(ANY))
def test_nothing_is_reordered_cut_or_repeated_however_the_socket_takes_it(
    make: Any, head: bytes, room: int, ops: list[Op]
) -> None:
    peer = Peer(make, head=head, wire=Wire(room))
    play(peer, ops)
    peer.drain()
    peer.check()
    if not peer.wire.error:
        assert peer.wire.taken == peer.said
    if peer.open:
        peer.close(b"<the end>", by_hand=True)
    else:
        peer.transport.loseConnection()
    peer.drain()
    assert peer.transport.producer is None
    # An error is met once, by the reactor; else the connection ends in order.
    [reason] = peer.protocol.reasons
    assert reason is (ConnectionLost if peer.wire.error else ConnectionDone)
    if not peer.wire.error:
        assert peer.wire.taken == peer.said


@given(head=HEADS, room=ROOMS, ops=programs(COMMON), end=st.booleans())
def test_both_ways_out_give_the_same_bytes(
    head: bytes, room: int, ops: list[Op], end: bool
) -> None:
    peers = [
        Peer(direct, head=head, wire=Wire(room)),
        Peer(PlainOutlet, head=head, wire=Wire(room)),
    ]
    for peer in peers:
        play(peer, ops)
        peer.close(b"<the end>", end)
        peer.drain()
    one, other = (bytes(peer.wire.taken) for peer in peers)
    assert one == other == bytes(peers[0].said) == bytes(peers[1].said)


QUEUE = 150


@BOTH
@given(head=HEADS, room=ROOMS, ops=programs(ANY))
def test_what_waits_is_bounded_and_nothing_follows_once_it_is_too_much(
    make: Any, head: bytes, room: int, ops: list[Op]
) -> None:
    peer = Peer(make, QUEUE, 5.0, head, Wire(room))
    peer.turn()
    given = len(head) + PORTION + (0 if make is direct else MARK)
    for number, op in enumerate(ops):
        do(peer, number, op)
        if not peer.finished:
            assert waiting(peer.transport) <= given
            # One frame is on its way, and one is the last that was let in.
            assert backlog(peer.outlet) <= 4 * QUEUE + 2 * peer.largest
    peer.drain()
    if peer.dropped:
        assert len(peer.slowness) <= len(peer.protocol.reasons) == 1
    elif not peer.wire.error:
        assert peer.wire.taken == peer.said


# -- the bounds, one by one -----------------------------------------------------------------------


def stuck(make: Any, queue: int = 1000) -> Peer:
    """A peer that reads nothing from now on."""
    peer = Peer(make, queue, seconds=10)
    peer.transport.bufferSize = 0
    peer.turn()
    peer.wire.room = 0
    return peer


def fill(peer: Peer, pieces: int) -> int:
    """Publish so many hundreds of bytes; how many were taken."""
    for number in range(pieces):
        if peer.slowness:
            return number - 1
        peer.publish(b"%099d\n" % number)
    return pieces - len(peer.slowness)


@BOTH
def test_four_times_the_bound_at_once_is_slow(make: Any) -> None:
    peer = stuck(make)
    # One is in the transport's buffer, and one on its way.
    assert fill(peer, 100) == 43
    assert peer.slowness == [4200]
    peer.turn()
    assert peer.protocol.reasons == [ConnectionAborted]


@BOTH
def test_four_times_the_bound_is_counted_behind_the_frame_that_is_on_its_way(make: Any) -> None:
    peer = stuck(make)
    peer.publish(b"." * 50_000)
    assert fill(peer, 100) == 41
    peer.reactor.advance(10)
    peer.wire.room = 1000
    for _ in range(100):
        peer.turn()
    assert len(peer.slowness) == 1


@BOTH
def test_more_than_the_bound_for_longer_than_the_patience_is_slow(make: Any) -> None:
    peer = stuck(make)
    fill(peer, 20)
    peer.reactor.advance(10)
    assert fill(peer, 1) == 1
    assert peer.slowness == []
    peer.reactor.advance(0.1)
    assert fill(peer, 1) == 0
    assert len(peer.slowness) == 1


@BOTH
def test_less_than_the_bound_may_wait_for_ever(make: Any) -> None:
    peer = stuck(make)
    for _ in range(9):
        assert fill(peer, 1) == 1
        peer.reactor.advance(1000)
    assert peer.slowness == []


@BOTH
def test_who_read_everything_has_the_whole_bound_and_patience_again(make: Any) -> None:
    peer = stuck(make)
    for _ in range(3):
        assert fill(peer, 40) == 40
        peer.reactor.advance(9.9)
        peer.drain()
        peer.wire.room = 0
    assert peer.slowness == []
    assert peer.wire.taken == peer.said


@BOTH
def test_one_piece_is_not_asked_for_its_size(make: Any) -> None:
    peer = stuck(make)
    peer.write(b"." * 50_000)
    assert peer.slowness == []
    peer.drain()
    assert peer.wire.taken == peer.said


@BOTH
def test_the_end_is_not_asked_for_its_size_and_closes_what_waits(make: Any) -> None:
    peer = stuck(make)
    fill(peer, 11)
    assert backlog(peer.outlet) == 1000
    peer.reactor.advance(100)
    peer.close(b"." * 50_000, by_hand=False)
    peer.transport.loseConnection()
    assert peer.slowness == []
    assert peer.protocol.reasons == []
    peer.drain()
    assert peer.wire.taken == peer.said
    assert peer.protocol.reasons == [ConnectionDone]


@BOTH
def test_who_is_always_a_little_behind_is_not_slow(make: Any) -> None:
    # Reads as fast as there is something new, but never the last two hundred bytes.
    peer = stuck(make)
    fill(peer, 2)
    for _ in range(100):
        assert fill(peer, 1) == 1
        peer.wire.room = 100
        peer.turn()
        peer.turn()
        peer.turn()
        assert waiting(peer.transport) + backlog(peer.outlet) <= 200


@BOTH
def test_the_end_of_one_that_leaves_more_than_the_bound_is_not_waited_for(make: Any) -> None:
    peer = stuck(make)
    fill(peer, 12)
    assert backlog(peer.outlet) == 1100
    peer.close(b"<the end>", by_hand=True)
    assert peer.dropped
    assert peer.slowness == []
    peer.drain()
    assert peer.protocol.reasons == [ConnectionAborted]


@BOTH
def test_patience_begins_again_for_one_that_has_read_down_to_the_bound(make: Any) -> None:
    peer = stuck(make)
    for _ in range(3):
        while backlog(peer.outlet) <= 2000:
            assert fill(peer, 1) == 1
        peer.reactor.advance(9)
        while backlog(peer.outlet) > 1000:
            peer.wire.room = 100
            peer.turn()
        peer.wire.room = 0
    assert peer.slowness == []


@BOTH
def test_who_never_comes_down_to_the_bound_is_slow_however_much_it_reads(make: Any) -> None:
    peer = stuck(make)
    fill(peer, 14)
    for second in range(12):
        fill(peer, 1)
        assert len(peer.slowness) == (second > 10)
        peer.wire.room = 100
        peer.turn()
        peer.turn()
        peer.reactor.advance(1)


# -- what waits -----------------------------------------------------------------------------------


BACKLOGS = programs(
    st.tuples(st.just("add"), st.integers(1, 350), st.integers(0, 350)) | st.just(("take", 0, 0))
)


@given(BACKLOGS)
def test_what_is_taken_in_portions_is_what_was_added_and_counted(
    steps: list[tuple[str, int, int]],
) -> None:
    backlog = Backlog(Bounds(PLENTY, 1.0, float))
    added, taken = bytearray(), bytearray()
    for number, (what, size, begun) in enumerate(steps):
        if what == "add":
            piece = (b"<%d" % number).ljust(size, b".")
            # Only the first may have begun, and not be at its end.
            begun = 0 if backlog else min(begun, len(piece) - 1)
            assert backlog.add(piece, begun)
            added += piece[begun:]
        else:
            portion = backlog.take()
            assert len(portion) == min(PORTION, len(added) - len(taken))
            taken += portion
        assert added.startswith(taken)
        assert backlog.bytes == len(added) - len(taken)
        assert bool(backlog) == bool(backlog.bytes)
    while backlog:
        taken += backlog.take()
    assert taken == added
    assert backlog.take() == b""


def test_what_is_forgotten_is_not_taken() -> None:
    backlog = Backlog(Bounds(PLENTY, 1.0, float))
    backlog.add(b"<1>" * 100, 50)
    backlog.add(b"<2>")
    backlog.clear()
    assert (backlog.bytes, bool(backlog), backlog.take()) == (0, False, b"")
    backlog.add(b"<3>")
    assert backlog.take() == b"<3>"


@BOTH
def test_a_frame_that_many_wait_for_is_in_memory_once(make: Any) -> None:
    peers = [stuck(make) for _ in range(50)]
    for peer in peers:
        peer.wire.room = 10
    frame = bytes(16_000_000)
    tracemalloc.start()
    try:
        for peer in peers:
            if peer.ready is None:
                peer.outlet.write(frame)
            else:
                peer.outlet.send_rest(frame, peer.ready(frame))
        for peer in peers:
            peer.turn()
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert all(backlog(peer.outlet) > 15_000_000 for peer in peers)
    assert most < 1_000_000


# -- its life -------------------------------------------------------------------------------------


def test_nothing_goes_past_the_answer_to_the_handshake() -> None:
    peer = Peer(head=b"<head>", wire=Wire(0))
    assert peer.outlet.direct is None
    peer.publish(b"<1>")
    peer.drain()
    assert peer.wire.taken == b"<head><1>"
    assert peer.outlet.direct is not None


def test_a_frame_for_a_peer_that_waits_for_nothing_is_gone_before_the_call_returns() -> None:
    peer = Peer()
    peer.turn()
    peer.publish(b"<1>")
    peer.write(b"<2>")
    assert peer.wire.taken == b"<1><2>"
    assert not peer.reactor.writers, "the reactor has no part in it"
    assert peer.transport.producer is None


@BOTH
@pytest.mark.parametrize("error", [errno.EPIPE, errno.ECONNRESET, errno.ETIMEDOUT])
@pytest.mark.parametrize("way", ["publish", "write"])
def test_an_error_of_the_socket_is_met_once_by_the_reactor(make: Any, error: int, way: str) -> None:
    peer = Peer(make)
    peer.turn()
    peer.wire.error = error
    getattr(peer, way)(b"<1>")
    peer.publish(b"<2>")
    assert peer.protocol.reasons == []
    peer.turn()
    peer.publish(b"<3>")
    peer.turn()
    assert peer.protocol.reasons == [ConnectionLost]
    assert peer.transport.producer is None


def test_what_is_sent_to_a_socket_that_is_closed_is_nobodys_error() -> None:
    peer = Peer()
    peer.turn()
    peer.transport.connectionLost(Failure(ConnectionDone()))
    peer.publish(b"<1>")
    peer.write(b"<2>")
    peer.finish()
    assert peer.protocol.reasons == [ConnectionDone]
    assert peer.wire.taken == b""


@BOTH
def test_finishing_twice_is_finishing_once(make: Any) -> None:
    peer = Peer(make)
    peer.turn()
    peer.finish()
    peer.outlet.finish()
    peer.transport.loseConnection()
    peer.drain()
    assert peer.protocol.reasons == [ConnectionDone]


@BOTH
@pytest.mark.parametrize("finished", [False, True])
def test_of_what_a_direct_send_did_not_take_all_comes_and_nothing_twice(
    make: Any, finished: bool
) -> None:
    peer = Peer(make)
    peer.turn()
    taken = peer.wire.send(b"<1>")
    if finished:
        peer.finish()
    peer.outlet.send_rest(b"<1><2>", taken)
    peer.outlet.write(b"<3>")
    peer.drain()
    assert peer.wire.taken == b"<1><2><3>"


@BOTH
@pytest.mark.parametrize("room", [0, 3, PLENTY])
def test_finishing_lets_a_closing_transport_close(make: Any, room: int) -> None:
    peer = Peer(make)
    peer.turn()
    peer.wire.room = room
    peer.publish(b"<1>" * 100)
    peer.transport.loseConnection()
    peer.finish()
    assert peer.transport.producer is None
    peer.drain()
    assert peer.protocol.reasons == [ConnectionDone]
    assert peer.wire.taken == peer.said


# -- which one ------------------------------------------------------------------------------------


class Derived(TCPServer):
    """Somebody's transport that may do who knows what in `write`."""


def chosen(transport: Any, direct: bool = True) -> Any:
    return make_outlet(transport, Bounds(1, 1.0, lambda: 0.0, direct), cast(Any, None))


@pytest.mark.parametrize("kind", [TCPServer, UnixServer])
def test_past_a_sockets_own_transport_it_goes_directly_and_the_kernel_holds_little(
    kind: type[TCPServer],
) -> None:
    wire = Wire()
    made = chosen(make_transport(wire, MemoryReactorClock(), Ending(), kind))
    assert type(made) is DirectOutlet
    assert (socket.SOL_SOCKET, socket.SO_SNDBUF, KERNEL_BYTES) in wire.options


def test_not_past_a_subclass_nor_once_tls_was_started() -> None:
    wire, reactor = Wire(), MemoryReactorClock()
    assert type(chosen(make_transport(wire, reactor, Ending(), Derived))) is PlainOutlet
    transport = make_transport(wire, reactor, Ending())
    transport.TLS = True
    # Its write goes to the TLS engine then, which startTLS puts between.
    transport.registerProducer = lambda producer, streaming: None
    assert type(chosen(transport)) is PlainOutlet


def test_without_shortcuts_nothing_goes_past_a_transport() -> None:
    transport = make_transport(Wire(), MemoryReactorClock(), Ending())
    assert type(chosen(transport, direct=False)) is PlainOutlet


def wrapped(transport: ITransport, factory: Any) -> Any:
    protocol = factory.buildProtocol(None)
    protocol.makeConnection(transport)
    return protocol.wrappedProtocol.transport


def test_not_past_wrappers_though_they_hand_out_the_socket() -> None:
    wire, reactor = Wire(), MemoryReactorClock()
    inner = Factory.forProtocol(Ending)
    for factory in (
        WrappingFactory(inner),
        TLSMemoryBIOFactory(CertificateOptions(), False, inner),
    ):
        transport = wrapped(make_transport(wire, reactor, Ending()), factory)
        assert isinstance(transport, ProtocolWrapper)
        assert transport.socket is wire, "this is why"
        made = chosen(transport)
        assert type(made) is PlainOutlet
        assert made.direct is None
