"""The backlog of one peer: the bytes that its socket did not take, and whether it is slow."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from pushserver.transports.unsent import Owner, Unsent

PORTION = 16_384
"""The most bytes that a transport pulls at once: a turn in which a thousand pull must be short."""

Replay = Iterator[bytes]
"""Frames that are made when all before them were taken."""


@dataclass(slots=True)
class Bounds:
    """The bytes that may wait for a peer, and the seconds for which more may.

    The seconds are those without progress. A byte that the peer takes makes up for
    1 / `slow_bytes_per_second` of a second of them. A reload changes the numbers in place, for open
    connections too.
    """

    bytes: int
    seconds: float
    clock: Callable[[], float]
    direct: bool = True
    """Whether a frame may go past the transport; False with PUSHSERVER_SHORTCUTS=off."""
    slow_bytes_per_second: int = 16_384
    unsent: Unsent = field(default_factory=Unsent)
    """The bytes that wait for all peers."""

    def progress(self, since: float, taken: int) -> float:
        """The time since which a peer makes no progress; it was `since` before `taken` bytes."""
        return min(self.clock(), since + taken / self.slow_bytes_per_second)


class Backlog:
    """The bytes that wait for one peer, in order; rule 4 of `outlet` says when it is slow."""

    __slots__ = ("_bounds", "_over_since", "_pieces", "_replays", "_taken", "bytes", "owner")

    def __init__(self, bounds: Bounds, owner: Owner):
        self.owner = owner
        self.bytes = 0
        """Those of the frames; the frames of a replay count when they are made."""
        self._bounds = bounds
        self._pieces: deque[bytes | Replay] = deque()
        self._replays = 0
        # The bytes of the first piece that were taken.
        self._taken = 0
        self._over_since: float | None = None

    def __bool__(self) -> bool:
        return bool(self._pieces)

    @property
    def is_long(self) -> bool:
        """Whether more than the bound waits, or a replay, whose frames are not counted."""
        return self._replays > 0 or self.bytes > self._bounds.bytes

    def add(self, piece: bytes, taken: int = 0) -> bool:
        """Add all but the first `taken` bytes, or return False when the peer is slow.

        `taken` is 0 unless nothing else waits.
        """
        if self.bytes > self._bounds.bytes and self._is_slow():
            return False
        if not self._pieces:
            self._taken = taken
        self._pieces.append(piece)
        self._count(piece, taken)
        return True

    def drop_peer(self) -> None:
        self.owner.slow(self.bytes, "unsent_bytes")

    def _count(self, piece: bytes, taken: int = 0) -> None:
        if not self.bytes:
            self._bounds.unsent.enter(self)
        self.bytes += len(piece) - taken
        self._bounds.unsent.hold(piece)

    def _forget(self, pieces: Iterable[bytes | Replay]) -> None:
        """Release the pieces; `bytes` is without them already."""
        for piece in pieces:
            if isinstance(piece, bytes):
                self._bounds.unsent.release(piece)
        if not self.bytes:
            self._bounds.unsent.leave(self)

    def add_replay(self, replay: Replay) -> None:
        self._pieces.append(replay)
        self._replays += 1

    def _is_slow(self) -> bool:
        behind = self._behind()
        if behind <= self._bounds.bytes:
            return False
        now = self._bounds.clock()
        if self._over_since is None:
            self._over_since = now
        return behind > 4 * self._bounds.bytes or now - self._over_since > self._bounds.seconds

    def _behind(self) -> int:
        """The bytes behind the frame, or the replay, that is being sent."""
        first = self._pieces[0] if self._pieces else b""
        return self.bytes - (len(first) - self._taken if isinstance(first, bytes) else 0)

    def take(self) -> bytes:
        """Remove and return the next portion; empty if nothing waits."""
        portion: list[bytes] = []
        left = PORTION
        while self._pieces and left:
            first, start = self._pieces[0], self._taken
            if not isinstance(first, bytes):
                self._make_frames(first)
                continue
            end = min(len(first), start + left)
            portion.append(first[start:end])
            left -= end - start
            if end < len(first):
                self._taken = end
            else:
                self._pieces.popleft()
                self._bounds.unsent.release(first)
                self._taken = 0
        self._took(PORTION - left)
        return b"".join(portion)

    def take_whole(self, most: int) -> bytes:
        """Remove and return frames, none of them cut, until they have `most` bytes."""
        frames: list[bytes] = []
        size = 0
        while self._pieces and size < most:
            first = self._pieces[0]
            if not isinstance(first, bytes):
                self._make_frames(first)
                continue
            self._pieces.popleft()
            self._bounds.unsent.release(first)
            frames.append(first)
            size += len(first)
        self._took(size)
        return b"".join(frames)

    def _took(self, size: int) -> None:
        self.bytes -= size
        if not self.bytes:
            self._bounds.unsent.leave(self)
        if self._over_since is not None:
            over = self._behind() > self._bounds.bytes
            self._over_since = self._bounds.progress(self._over_since, size) if over else None

    def _make_frames(self, replay: Replay) -> None:
        frames = next(replay, b"")
        if frames:
            self._pieces.appendleft(frames)
            self._count(frames)
        else:
            self._pieces.popleft()
            self._replays -= 1

    def end_replays(self) -> None:
        """Drop the frames that are not made yet, and all behind them: nothing may be left out."""
        if self._replays:
            pieces = list(self._pieces)
            count = next(n for n, piece in enumerate(pieces) if not isinstance(piece, bytes))
            self.bytes -= sum(len(piece) for piece in pieces[count:] if isinstance(piece, bytes))
            self._pieces = deque(pieces[:count])
            self._replays = 0
            self._forget(pieces[count:])

    def clear(self) -> None:
        """Drop everything."""
        pieces, self._pieces = self._pieces, deque()
        self._replays = self._taken = 0
        self.bytes = 0
        self._forget(pieces)
