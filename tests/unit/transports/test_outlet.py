"""One outlet on Twisted's own TCP transport, over a socket whose room the test sets.

The socket must get all bytes in order, for any order of calls of `direct`, `write`, Autobahn and
twisted.web, and for any room. The fan-out to many outlets is in tests/unit/hub/test_fanout.py.
"""

from __future__ import annotations

import errno
import socket
import tracemalloc
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import ITransport
from twisted.internet.protocol import Factory
from twisted.internet.ssl import CertificateOptions
from twisted.internet.tcp import Server as TCPServer
from twisted.internet.testing import MemoryReactorClock
from twisted.internet.unix import Server as UnixServer
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure

import pushserver.transports.backlog
from pushserver.hub.audience import Direct
from pushserver.transports.backlog import Backlog, Bounds
from pushserver.transports.outlet import KERNEL_BYTES, DirectOutlet, PlainOutlet, make_outlet
from tests.unit.fakes.sockets import (
    PLENTY,
    DerivedServer,
    Ending,
    FakeSocket,
    Peer,
    backlog,
    buffered,
    make_transport,
)
from tests.unit.fakes.tools import programs

PORTION = 100


@pytest.fixture(autouse=True)
def _small_portions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pushserver.transports.backlog, "PORTION", PORTION)


class Frames:
    """A replay of these frames; `made` has those that were asked for."""

    def __init__(self, frames: list[bytes]):
        self.left = frames
        self.made = b""

    def __iter__(self) -> Frames:
        return self

    def __next__(self) -> bytes:
        if not self.left:
            raise StopIteration
        frame = self.left.pop(0)
        self.made += frame
        return frame


class Lone(Peer):
    """A peer that is its own audience; `sent` has all bytes that it was sent."""

    def __init__(
        self,
        make: Any = make_outlet,
        queue: int = PLENTY,
        seconds: float = 10.0,
        head: bytes = b"",
        room: int = PLENTY,
        slow: int = 16_384,
    ):
        self._sent: list[bytes | Frames] = [head]
        self.longest = 0
        self.ready: Direct | None = None
        self.finished = False
        self.dropped = False
        self.later: list[bytes] = []
        super().__init__(make, (queue, seconds), head, FakeSocket(room), slow)

    def block(self, direct: Direct) -> None:
        assert direct == self.ready, "it was blocked already"
        assert self.outlet.blocked_at == self.reactor.seconds()
        self.ready = None

    def unblock(self) -> None:
        assert self.ready is None, "it was not blocked"
        self.ready = self.outlet.direct

    def drained(self) -> None:
        super().drained()
        assert not self.finished, "nothing goes past the transport after the end"
        later, self.later = self.later, []
        for piece in later:
            self.write(piece)

    def slow(self, queued: int, setting: str = "queue_bytes") -> None:
        self.dropped = self.finished = True
        super().slow(queued)

    @property
    def sent(self) -> bytes:
        """All bytes that are made, up to those behind a replay that is not at its end."""
        sent = b""
        for piece in self._sent:
            sent += piece.made if isinstance(piece, Frames) else piece
            if isinstance(piece, Frames) and piece.left:
                break
        return sent

    @property
    def open(self) -> bool:
        """Whether anything may still be written."""
        return not self.finished and not self.protocol.reasons

    def publish(self, frame: bytes) -> None:
        """Send as the fan-out does."""
        if self.ready is None:
            self.write(frame)
            return
        self._note(frame)
        try:
            taken = self.ready(frame)
        except OSError:
            taken = 0
        if taken != len(frame):
            self.outlet.send_rest(frame, taken)

    def write(self, piece: bytes) -> None:
        self.outlet.write(piece)
        if not self.slowness:
            self._note(piece)

    def replay(self, frames: list[bytes]) -> None:
        self._sent.append(replay := Frames(frames))
        self.longest = max(self.longest, *map(len, frames))
        self.outlet.replay(replay)

    def end_replays(self) -> None:
        self.outlet.end_replays()
        # What is not made never is, nor anything behind it.
        self._sent = [self.sent]

    def finish(self) -> bool:
        self._sent = [self.sent]
        self.finished = True
        finished = self.outlet.finish()
        assert backlog(self.outlet) == 0, "no transport would ask for it any more"
        return finished

    def close(self, last: bytes, past_the_outlet: bool) -> None:
        """End the connection as Autobahn does, or as twisted.web does, past the outlet."""
        waits = backlog(self.outlet)
        if not self.finish():
            assert waits > self.max_queued
            self.dropped = True
            self.transport.abortConnection()
            return
        self._note(last)
        if past_the_outlet:
            self.transport.write(last)
            self.transport.loseConnection()
        else:
            self.outlet.write(last)

    def _note(self, piece: bytes) -> None:
        self._sent.append(piece)
        self.longest = max(self.longest, len(piece))

    def check(self) -> None:
        """Assert the invariants."""
        assert self.sent.startswith(self.socket.taken), "cut, repeated or out of order"
        assert self.ready == self.outlet.direct, "the audience does not know"
        assert self.ready is None or buffered(self.transport) == 0, "past waiting bytes"
        if isinstance(self.outlet, DirectOutlet) and not self.protocol.reasons:
            registered = self.transport.producer is not None
            assert registered == (self.outlet.direct is None and not self.finished)


BOTH = pytest.mark.parametrize("make", [make_outlet, PlainOutlet], ids=["direct", "plain"])

Op = tuple[Any, ...]

SIZES = st.integers(8, 40) | st.integers(8, 400)
PIECES = st.tuples(st.sampled_from(["publish", "publish", "reply", "pong"]), SIZES)
FLOW = (
    st.tuples(st.just("room"), st.integers(0, 600) | st.just(PLENTY))
    | st.tuples(st.just("bite"), st.integers(1, 60) | st.just(PLENTY))
    | st.just(("turn",))
    | st.just(("turn",))
)
OPS = (
    PIECES
    | PIECES
    | PIECES
    | FLOW
    | FLOW
    | FLOW
    | st.tuples(st.just("close"), st.booleans())
    | st.tuples(st.just("later"), SIZES)
    | st.tuples(st.just("wait"), st.floats(0, 8))
    | st.just(("drain",))
    | st.just(("die",))
    | st.tuples(st.just("replay"), st.lists(SIZES, min_size=1, max_size=8))
    | st.just(("end_replays",))
)


def do(peer: Lone, number: int, op: Op) -> None:
    """Do one operation; each piece is a different text, so that a swap is noticed."""
    kind, *values = op
    match kind:
        case "turn" | "drain":
            getattr(peer, kind)()
        case "room" | "bite":
            setattr(peer.socket, kind, values[0])
        case "wait":
            peer.reactor.advance(values[0])
        case "die" if not peer.protocol.reasons:
            peer.socket.error = errno.EPIPE
        case _ if not peer.open:
            pass
        case "close":
            peer.close(f"<{number} the end>".encode(), values[0])
        case "end_replays":
            peer.end_replays()
        case "replay":
            texts = (f"<{number} replay {n}".encode() for n in range(len(values[0])))
            sizes = zip(texts, values[0], strict=True)
            peer.replay([text.ljust(size, b".") + b">" for text, size in sizes])
        case "later":
            peer.later.append(f"<{number} later".encode().ljust(values[0], b".") + b">")
        case _:
            piece = f"<{number} {kind}".encode().ljust(values[0], b".") + b">"
            (peer.publish if kind == "publish" else peer.write)(piece)
    peer.check()


@BOTH
@given(
    head=st.sampled_from([b"", b"<head>", b"<a long head" + b"." * 300 + b">"]),
    room=st.integers(0, 400) | st.just(PLENTY),
    queue=st.sampled_from([150, PLENTY, PLENTY]),
    ops=programs(OPS),
)
def test_bytes_are_not_reordered_cut_or_repeated_and_waiting_bytes_are_bounded(
    make: Any, head: bytes, room: int, queue: int, ops: list[Op]
) -> None:
    peer = Lone(make, queue, 5.0, head, room)
    # Sends the head, if there is room for it.
    peer.turn()
    for number, op in enumerate(ops):
        do(peer, number, op)
        if not peer.finished:
            mark = 0 if make is make_outlet else 64
            assert buffered(peer.transport) <= len(head) + PORTION + mark
            # One frame is on its way, and one is the last that was let in.
            assert backlog(peer.outlet) <= 4 * queue + 2 * peer.longest
    peer.drain()
    if peer.open:
        peer.close(b"<the end>", past_the_outlet=True)
    else:
        peer.transport.loseConnection()
    peer.drain()
    peer.check()
    assert peer.transport.producer is None
    # The loss is reported once, also when an outlet met the socket's error first.
    [reason] = peer.protocol.reasons
    if peer.dropped:
        assert reason in (ConnectionAborted, ConnectionLost)
    else:
        assert reason is (ConnectionLost if peer.socket.error else ConnectionDone)
        assert peer.socket.error or peer.socket.taken == peer.sent


# -- the bounds, one by one -----------------------------------------------------------------------


def stuck(make: Any, queue: int = 1000, slow: int = 16_384) -> Lone:
    """A peer that reads nothing."""
    peer = Lone(make, queue, slow=slow)
    peer.transport.bufferSize = 0
    peer.turn()
    peer.socket.room = 0
    return peer


def fill(peer: Lone, pieces: int) -> int:
    """Publish frames of a hundred bytes until the peer is slow; returns how many it accepted."""
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
def test_frame_on_its_way_does_not_count_for_four_times_the_bound(make: Any) -> None:
    peer = stuck(make)
    peer.publish(b"." * 50_000)
    assert fill(peer, 100) == 41
    peer.reactor.advance(10)
    peer.socket.room = 1000
    for _ in range(100):
        peer.turn()
    assert len(peer.slowness) == 1


@BOTH
def test_more_than_the_bound_for_longer_than_queue_seconds_is_slow(make: Any) -> None:
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
def test_peer_that_has_read_everything_gets_the_whole_bound_and_time_again(make: Any) -> None:
    peer = stuck(make)
    for _ in range(3):
        assert fill(peer, 40) == 40
        peer.reactor.advance(9.9)
        peer.drain()
        peer.socket.room = 0
    assert peer.slowness == []
    assert peer.socket.taken == peer.sent


@BOTH
def test_one_long_frame_is_not_slow(make: Any) -> None:
    peer = stuck(make)
    peer.write(b"." * 50_000)
    assert peer.slowness == []
    peer.drain()
    assert peer.socket.taken == peer.sent


@BOTH
def test_long_end_comes_behind_the_bytes_that_wait(make: Any) -> None:
    peer = stuck(make)
    fill(peer, 11)
    assert backlog(peer.outlet) == 1000
    peer.reactor.advance(100)
    peer.close(b"." * 50_000, past_the_outlet=False)
    peer.transport.loseConnection()
    assert peer.slowness == []
    assert peer.protocol.reasons == []
    peer.drain()
    assert peer.socket.taken == peer.sent
    assert peer.protocol.reasons == [ConnectionDone]


@BOTH
def test_peer_that_is_always_a_little_behind_is_not_slow(make: Any) -> None:
    # It reads each new frame, but never the last two hundred bytes.
    peer = stuck(make)
    fill(peer, 2)
    for _ in range(100):
        assert fill(peer, 1) == 1
        peer.socket.room = 100
        peer.turn()
        peer.turn()
        peer.turn()
        assert buffered(peer.transport) + backlog(peer.outlet) <= 200


@BOTH
def test_peer_with_more_than_the_bound_unread_is_aborted_instead_of_closed(make: Any) -> None:
    peer = stuck(make)
    fill(peer, 12)
    assert backlog(peer.outlet) == 1100
    peer.close(b"<the end>", past_the_outlet=True)
    assert peer.dropped
    assert peer.slowness == []
    peer.drain()
    assert peer.protocol.reasons == [ConnectionAborted]


@BOTH
def test_queue_seconds_start_again_for_a_peer_that_has_read_down_to_the_bound(make: Any) -> None:
    peer = stuck(make)
    for _ in range(3):
        while backlog(peer.outlet) <= 2000:
            assert fill(peer, 1) == 1
        peer.reactor.advance(9)
        while backlog(peer.outlet) > 1000:
            peer.socket.room = 100
            peer.turn()
        peer.socket.room = 0
    assert peer.slowness == []


def read(peer: Lone, size: int) -> None:
    """Let the peer read so many bytes."""
    peer.socket.room = size
    for _ in range(4 + size // 48):
        peer.turn()
    peer.socket.room = 0


@BOTH
@pytest.mark.parametrize(("rate", "expected"), [(200, None), (100, None), (50, 20), (0, 10)])
def test_time_without_progress_counts_for_a_peer_over_the_bound(
    make: Any, rate: int, expected: int | None
) -> None:
    """It stays two thousand bytes behind; progress is a hundred bytes a second."""
    peer = stuck(make, slow=100)
    for second in range(60):
        while backlog(peer.outlet) < 2000 and not peer.slowness:
            fill(peer, 1)
        fill(peer, 1)
        if peer.slowness:
            assert expected is not None
            assert expected <= second <= expected + 5
            return
        read(peer, rate)
        peer.reactor.advance(1)
    assert expected is None


@BOTH
@pytest.mark.parametrize("replayed", [False, True])
@pytest.mark.parametrize(("rate", "stalled"), [(300, 1), (100, 2), (50, 30), (0, 60)])
def test_long_frame_and_replay_are_no_progress_by_themselves(
    make: Any, rate: int, stalled: int, replayed: bool
) -> None:
    peer = stuck(make, slow=100)
    if replayed:
        peer.replay([b"." * 100] * 500)
    else:
        peer.write(b"." * 50_000)
    started = peer.reactor.seconds()
    for _ in range(60):
        fill(peer, 0)
        read(peer, rate)
        peer.reactor.advance(1)
    assert peer.slowness == []
    since = peer.outlet.blocked_at
    assert since is not None
    assert abs(peer.reactor.seconds() - since - stalled) <= 2, since - started


@BOTH
def test_any_progress_counts_for_a_peer_below_the_bound(make: Any) -> None:
    peer = stuck(make, slow=100)
    fill(peer, 8)
    for _ in range(12):
        peer.reactor.advance(30)
        read(peer, 48)
    since = peer.outlet.blocked_at
    assert since is not None
    assert peer.reactor.seconds() - since <= 100


@BOTH
def test_frames_behind_a_replay_count(make: Any) -> None:
    peer = stuck(make)
    peer.replay([b"." * 100] * 500)
    assert 40 <= fill(peer, 100) <= 42
    assert len(peer.slowness) == 1


@BOTH
def test_replay_is_made_as_the_peer_reads(make: Any) -> None:
    peer = stuck(make)
    peer.replay([b"%099d\n" % n for n in range(500)])
    [replay] = [piece for piece in peer._sent if isinstance(piece, Frames)]
    for _ in range(40):
        read(peer, 1_000)
        # One is in the transport's buffer and one on its way.
        assert len(peer.socket.taken) <= len(replay.made) <= len(peer.socket.taken) + 3 * PORTION
    peer.publish(b"<live>")
    peer.drain()
    assert peer.socket.taken == b"".join(b"%099d\n" % n for n in range(500)) + b"<live>"
    assert peer.outlet.blocked_at is None


@BOTH
def test_replay_that_is_cut_leaves_out_all_behind_it(make: Any) -> None:
    peer = stuck(make)
    peer.replay([b"%099d\n" % n for n in range(50)])
    peer.publish(b"<live>")
    read(peer, 1_000)
    peer.end_replays()
    peer.close(b"<the end>", past_the_outlet=False)
    peer.drain()
    assert peer.socket.taken.endswith(b"\n<the end>")
    numbers = peer.socket.taken.removesuffix(b"<the end>").split()
    assert numbers == [b"%099d" % n for n in range(len(numbers))]
    assert 5 <= len(numbers) < 20


# -- the backlog ----------------------------------------------------------------------------------


BACKLOGS = programs(
    st.tuples(st.just("add"), st.integers(1, 350), st.integers(0, 350)) | st.just(("take", 0, 0))
)


@given(BACKLOGS)
def test_backlog_returns_all_its_bytes_in_portions(
    steps: list[tuple[str, int, int]],
) -> None:
    backlog = Backlog(Bounds(PLENTY, 1.0, float), cast(Any, Peer))
    added, taken = bytearray(), bytearray()
    for number, (kind, size, sent) in enumerate(steps):
        if kind == "add":
            piece = (b"<%d" % number).ljust(size, b".")
            # Only a first piece may have been sent in part.
            sent = 0 if backlog else min(sent, len(piece) - 1)
            assert backlog.add(piece, sent)
            added += piece[sent:]
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


def test_cleared_backlog_is_empty() -> None:
    backlog = Backlog(Bounds(PLENTY, 1.0, float), cast(Any, Peer))
    backlog.add(b"<1>" * 100, 50)
    backlog.add(b"<2>")
    backlog.clear()
    assert (backlog.bytes, bool(backlog), backlog.take()) == (0, False, b"")
    backlog.add(b"<3>")
    assert backlog.take() == b"<3>"


@BOTH
def test_frame_that_many_peers_wait_for_is_in_memory_once(make: Any) -> None:
    peers = [stuck(make) for _ in range(50)]
    for peer in peers:
        peer.socket.room = 10
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


# -- life cycle ------------------------------------------------------------------------------------


def test_nothing_goes_past_the_answer_to_the_handshake() -> None:
    peer = Lone(head=b"<head>", room=0)
    assert peer.outlet.direct is None
    peer.publish(b"<1>")
    peer.drain()
    assert peer.socket.taken == b"<head><1>"
    assert peer.outlet.direct is not None


def test_frame_is_sent_before_the_call_returns_when_nothing_waits() -> None:
    peer = Lone()
    peer.turn()
    peer.publish(b"<1>")
    peer.write(b"<2>")
    assert peer.socket.taken == b"<1><2>"
    assert not peer.reactor.writers, "the reactor has no part in it"
    assert peer.transport.producer is None


@BOTH
@pytest.mark.parametrize("error", [errno.EPIPE, errno.ECONNRESET, errno.ETIMEDOUT])
@pytest.mark.parametrize("method", ["publish", "write"])
def test_error_of_the_socket_is_reported_once_by_the_transport(
    make: Any, error: int, method: str
) -> None:
    peer = Lone(make)
    peer.turn()
    peer.socket.error = error
    getattr(peer, method)(b"<1>")
    peer.publish(b"<2>")
    assert peer.protocol.reasons == []
    peer.turn()
    peer.publish(b"<3>")
    peer.turn()
    assert peer.protocol.reasons == [ConnectionLost]
    assert peer.transport.producer is None


def test_sending_to_a_closed_socket_raises_nothing() -> None:
    peer = Lone()
    peer.turn()
    peer.transport.connectionLost(Failure(ConnectionDone()))
    peer.publish(b"<1>")
    peer.write(b"<2>")
    peer.finish()
    assert peer.protocol.reasons == [ConnectionDone]
    assert peer.socket.taken == b""


@BOTH
def test_finishing_twice_does_nothing_more(make: Any) -> None:
    peer = Lone(make)
    peer.turn()
    peer.finish()
    peer.outlet.finish()
    peer.transport.loseConnection()
    peer.drain()
    assert peer.protocol.reasons == [ConnectionDone]


@BOTH
@pytest.mark.parametrize("finished", [False, True])
def test_rest_of_a_short_send_comes_once(make: Any, finished: bool) -> None:
    peer = Lone(make)
    peer.turn()
    taken = peer.socket.send(b"<1>")
    if finished:
        peer.finish()
    peer.outlet.send_rest(b"<1><2>", taken)
    peer.outlet.write(b"<3>")
    peer.drain()
    assert peer.socket.taken == b"<1><2><3>"


@BOTH
@pytest.mark.parametrize("room", [0, 3, PLENTY])
def test_closing_transport_closes_after_finish(make: Any, room: int) -> None:
    peer = Lone(make)
    peer.turn()
    peer.socket.room = room
    peer.publish(b"<1>" * 100)
    peer.transport.loseConnection()
    peer.finish()
    assert peer.transport.producer is None
    peer.drain()
    assert peer.protocol.reasons == [ConnectionDone]
    assert peer.socket.taken == peer.sent


# -- the choice -----------------------------------------------------------------------------------


def chosen(transport: Any, direct: bool = True) -> Any:
    return make_outlet(transport, Bounds(1, 1.0, lambda: 0.0, direct), cast(Any, Peer))


@pytest.mark.parametrize("kind", [TCPServer, UnixServer])
def test_outlet_sends_past_a_transport_of_twisted_and_bounds_the_kernels_buffer(
    kind: type[TCPServer],
) -> None:
    sock = FakeSocket()
    made = chosen(make_transport(sock, MemoryReactorClock(), Ending(), kind))
    assert type(made) is DirectOutlet
    assert (socket.SOL_SOCKET, socket.SO_SNDBUF, KERNEL_BYTES) in sock.options


def test_outlet_does_not_send_past_a_subclass_or_past_tls() -> None:
    sock, reactor = FakeSocket(), MemoryReactorClock()
    assert type(chosen(make_transport(sock, reactor, Ending(), DerivedServer))) is PlainOutlet
    transport = make_transport(sock, reactor, Ending())
    transport.TLS = True
    # Its write goes to the TLS engine then, which startTLS puts between.
    transport.registerProducer = lambda producer, streaming: None
    assert type(chosen(transport)) is PlainOutlet


def test_without_shortcuts_nothing_goes_past_a_transport() -> None:
    transport = make_transport(FakeSocket(), MemoryReactorClock(), Ending())
    assert type(chosen(transport, direct=False)) is PlainOutlet


def wrapped(transport: ITransport, factory: Any) -> Any:
    protocol = factory.buildProtocol(None)
    protocol.makeConnection(transport)
    return protocol.wrappedProtocol.transport


def test_outlet_does_not_send_past_wrappers_though_they_hand_out_the_socket() -> None:
    sock, reactor = FakeSocket(), MemoryReactorClock()
    inner = Factory.forProtocol(Ending)
    for factory in (
        WrappingFactory(inner),
        TLSMemoryBIOFactory(CertificateOptions(), False, inner),
    ):
        transport = wrapped(make_transport(sock, reactor, Ending()), factory)
        assert isinstance(transport, ProtocolWrapper)
        assert transport.socket is sock, "this is why"
        made = chosen(transport)
        assert type(made) is PlainOutlet
        assert made.direct is None
