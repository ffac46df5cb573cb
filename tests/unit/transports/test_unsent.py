from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.logger import LogLevel

from pushserver.config.limits import Limits
from pushserver.transports.backlog import Backlog, Bounds
from pushserver.transports.unsent import Unsent
from tests.unit.fakes.tools import programs
from tests.unit.fakes.web import Line, Log, Server, handshake

SIZE = 10_000


class Owner:
    """The transport of one peer."""

    def __init__(self, peers: Peers, number: int):
        self._peers = peers
        self._number = number

    def slow(self, queued: int, setting: str) -> None:
        assert setting == "unsent_bytes"
        self._peers.drop(self._number)


class Peers:
    """Backlogs that share a bound; `turn` drops peers, whose numbers are in `dropped`."""

    def __init__(self, most: int, count: int):
        self.planned: list[Callable[[], None]] = []
        self.unsent = Unsent(most, self.planned.append)
        bounds = Bounds(10**9, 1.0, float, unsent=self.unsent)
        self.dropped: list[int] = []
        self.backlogs = [Backlog(bounds, cast(Any, Owner(self, n))) for n in range(count)]

    def drop(self, number: int) -> None:
        self.dropped.append(number)
        self.backlogs[number].clear()

    def turn(self) -> None:
        planned, self.planned[:] = list(self.planned), []
        for call in planned:
            call()

    def memory(self) -> int:
        """The bytes of all pieces, each once."""
        pieces = {
            id(piece): piece
            for backlog in self.backlogs
            for piece in backlog._pieces
            if isinstance(piece, bytes)
        }
        return sum(map(len, pieces.values()))


STEPS = programs(
    st.tuples(
        st.sampled_from(["add", "take", "clear", "replay", "end"]),
        st.integers(0, 3),
        st.integers(0, 7),
    )
)


@given(STEPS)
def test_bytes_are_those_of_all_pieces_each_counted_once(steps: list[tuple[str, int, int]]) -> None:
    pieces = [bytes([n]) * (n * 9_000 + 8) for n in range(8)]
    peers = Peers(10**9, 4)
    for kind, number, piece in steps:
        backlog = peers.backlogs[number]
        if kind == "add":
            backlog.add(pieces[piece], 0 if backlog else piece)
        elif kind == "take":
            backlog.take()
        elif kind == "clear":
            backlog.clear()
        elif kind == "replay":
            backlog.add_replay(iter(pieces[1 : piece + 1]))
        else:
            backlog.end_replays()
        assert peers.unsent.bytes == peers.memory()
        waiting = {backlog for backlog in peers.backlogs if backlog.bytes}
        assert set(peers.unsent._backlogs) == waiting
    for backlog in peers.backlogs:
        while backlog:
            backlog.take()
    assert (peers.unsent.bytes, peers.unsent._counts, peers.unsent._backlogs) == (0, {}, {})


class TestBound:
    def test_drops_the_peers_with_most_bytes_first_in_a_later_turn(self) -> None:
        peers = Peers(100 * SIZE, 10)
        for number, backlog in enumerate(peers.backlogs):
            for _ in range(2 * number + 1):
                backlog.add(bytes([number]) * SIZE)
        assert peers.unsent.bytes == 100 * SIZE
        assert not peers.planned
        peers.backlogs[0].add(b"x")
        assert not peers.dropped
        peers.turn()
        assert peers.dropped == [9]
        assert peers.unsent.bytes == 81 * SIZE + 1

    def test_counts_a_frame_of_many_peers_once(self) -> None:
        peers = Peers(3 * SIZE, 100)
        frame = bytes(SIZE)
        for backlog in peers.backlogs:
            backlog.add(frame)
            backlog.add(frame)
        assert peers.unsent.bytes == SIZE
        assert not peers.planned

    def test_drops_nobody_if_there_is_room_again_in_the_later_turn(self) -> None:
        peers = Peers(SIZE, 2)
        peers.backlogs[0].add(bytes(2 * SIZE))
        peers.backlogs[0].take()
        peers.backlogs[0].take()
        peers.turn()
        assert not peers.dropped


@pytest.mark.parametrize("shortcuts", [True, False])
@pytest.mark.parametrize("kind", ["socket", "stream", "session"])
def test_readers_that_leave_most_unread_are_dropped_and_logged(kind: str, shortcuts: bool) -> None:
    server = Server(Limits(unsent_bytes=1_000_000), shortcuts=shortcuts)

    def reader(channel: str) -> Line:
        path = f"/channels/{channel}"
        if kind == "socket":
            line = server.open(path, **handshake())
        elif kind == "stream":
            line = server.open(path, accept="text/event-stream")
        else:
            socket = server.session()
            socket.say({"id": 2, "subscribe": {"channel": channel}})
            line = socket.line
        line.take()
        line.reading = False
        return line

    readers = [reader(f"c{n}") for n in range(4)]
    readers.append(reader("c3"))
    with Log(LogLevel.info) as log:
        for number in range(4):
            for _ in range(1 + 10 * number):
                server.publish(f"c{number}", "x" * 20_000)
                server.clock.advance(2)
        server.clock.advance(2)
    dropped = [line.aborted for line in readers]
    assert dropped == [False, False, False, True, True]
    code = "3008" if kind == "session" else "1013"
    assert (server.node.metrics.ended[code], server.node.metrics.slow) == (2, 2)
    (text, *_) = log.take()
    assert "is dropped: it left" in text
    assert "(unsent_bytes)" in text


def test_nothing_is_counted_when_all_have_left() -> None:
    server = Server()
    lines = []
    for fields in (handshake(), {"accept": "text/event-stream"}):
        line = server.open("/channels/a", **fields)
        line.reading = False
        lines.append(line)
    for _ in range(20):
        server.publish("a", "x" * 20_000)
        server.clock.advance(2)
    (peer, *_) = server.node.peers
    unsent: Unsent = cast(Any, peer).outlet._bounds.unsent
    assert unsent.bytes >= 20 * 20_000
    for line in lines:
        line.vanish()
    assert (unsent.bytes, unsent._counts, unsent._backlogs) == (0, {}, {})
