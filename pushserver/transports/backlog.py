"""The backlog of one peer: the bytes that its socket did not take, and whether it is slow."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

PORTION = 16_384
"""The most bytes that a transport pulls at once: a turn in which a thousand pull must be short."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """The bytes that may wait for a peer, and the seconds for which more may."""

    bytes: int
    seconds: float
    clock: Callable[[], float]
    direct: bool = True
    """Whether a frame may go past the transport; False with PUSHSERVER_SHORTCUTS=off."""


class Backlog:
    """The bytes that wait for one peer, in order; rule 4 of `outlet` says when it is slow."""

    __slots__ = ("_bounds", "_over_since", "_pieces", "_taken", "bytes")

    def __init__(self, bounds: Bounds):
        self.bytes = 0
        self._bounds = bounds
        self._pieces: deque[bytes] = deque()
        # The bytes of the first piece that were taken.
        self._taken = 0
        self._over_since: float | None = None

    def __bool__(self) -> bool:
        return bool(self._pieces)

    def add(self, piece: bytes, taken: int = 0) -> bool:
        """Add all but the first `taken` bytes, or return False when the peer is slow.

        `taken` is 0 unless nothing else waits.
        """
        if self.bytes > self._bounds.bytes and self._is_slow():
            return False
        if not self._pieces:
            self._taken = taken
        self._pieces.append(piece)
        self.bytes += len(piece) - taken
        return True

    def _is_slow(self) -> bool:
        now = self._bounds.clock()
        if self._over_since is None:
            self._over_since = now
        behind = self.bytes - (len(self._pieces[0]) - self._taken)
        return behind > 4 * self._bounds.bytes or now - self._over_since > self._bounds.seconds

    def take(self) -> bytes:
        """Remove and return the next portion."""
        portion: list[bytes] = []
        left = PORTION
        while self._pieces and left:
            first, start = self._pieces[0], self._taken
            end = min(len(first), start + left)
            portion.append(first[start:end])
            left -= end - start
            if end < len(first):
                self._taken = end
            else:
                self._pieces.popleft()
                self._taken = 0
        self.bytes -= PORTION - left
        if self.bytes <= self._bounds.bytes:
            self._over_since = None
        return b"".join(portion)

    def clear(self) -> None:
        """Drop everything."""
        self._pieces.clear()
        self.bytes = 0
