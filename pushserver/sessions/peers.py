"""Everybody who is connected: to be woken when something is due, and to be sent home."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from math import ceil
from typing import Protocol

from pushserver.channels.publication import ClientInfo

WAKES = 32
"""Peers a turn: some two milliseconds, if all of them are pinged."""


class Peer(Protocol):
    """One open conversation."""

    @property
    def info(self) -> ClientInfo:
        """Who it is."""

    def wake(self, now: float) -> float | None:
        """Do what is due; return when to be woken next, None for never."""

    def shut_down(self) -> None:
        """The server stops: say so to the peer, and end."""

    def disconnect(self, code: int, reason: str) -> None:
        """End the conversation with this code of the Centrifuge protocol."""

    def abort(self) -> None:
        """Drop the connection without another word."""


class Peers:
    """The open conversations of this process.

    One tick a second serves all their timers (pings, deadlines): two timers of its own
    for each of 10,000 connections cost 12 % of a core, a look at those whose second has
    come next to nothing. Times are in seconds of one monotonic clock; a peer is woken up
    to one tick late, and a little later if WAKES of them are due before it.
    """

    def __init__(self, report: Callable[[str], None]):
        self._report = report
        self._second: dict[Peer, int] = {}
        self._due: dict[int, dict[Peer, None]] = {}
        self._waking: deque[tuple[int, Peer]] = deque()
        self._when_empty: list[Callable[[], None]] = []

    def __len__(self) -> int:
        return len(self._second)

    def __iter__(self) -> Iterator[Peer]:
        return iter(tuple(self._second))

    def wake_at(self, peer: Peer, at: float) -> None:
        """Wake the peer at `at`, instead of when it was to be woken; the first time, add it."""
        self._unplan(peer)
        second = ceil(at)
        self._second[peer] = second
        self._due.setdefault(second, {})[peer] = None

    def remove(self, peer: Peer) -> None:
        """Forget the peer, if it is here."""
        if peer not in self._second:
            return
        self._unplan(peer)
        del self._second[peer]
        if not self._second:
            waiting, self._when_empty = self._when_empty, []
            for call in waiting:
                call()

    def tick(self, now: float) -> bool:
        """Wake WAKES of those whose time has come; whether others are left for another turn."""
        if not self._waking:
            for second in sorted(second for second in self._due if second <= now):
                self._waking.extend((second, peer) for peer in self._due.pop(second))
        for _ in range(min(WAKES, len(self._waking))):
            second, peer = self._waking.popleft()
            if self._second.get(peer) == second:
                self._wake(peer, now)
        return bool(self._waking)

    def when_empty(self, call: Callable[[], None]) -> None:
        """Call once nobody is here any more; at once if nobody is."""
        if self._second:
            self._when_empty.append(call)
        else:
            call()

    def _wake(self, peer: Peer, now: float) -> None:
        try:
            again = peer.wake(now)
        except Exception:
            self._report("a peer could not be woken")
            again = None
        if peer in self._second:
            # With nothing due the peer stays in the list, to be found by the API and at the end.
            self.wake_at(peer, now + _DISTANT if again is None else again)

    def _unplan(self, peer: Peer) -> None:
        second = self._second.get(peer)
        if second is None:
            return
        bucket = self._due.get(second)
        if bucket is not None:
            bucket.pop(peer, None)
            if not bucket:
                del self._due[second]


_DISTANT = 3600.0
