"""Registers all open connections, and wakes each at its time (a timer wheel)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from math import ceil, inf
from typing import Protocol

from pushserver.channels.publication import ClientInfo

WAKES = 32
"""The most peers that one turn wakes: about two milliseconds, if all of them are pinged."""

STANDSTILL = 3.0
"""Seconds between two ticks: after more, the process stood still, and what peers sent is unread."""


class Peer(Protocol):
    """One open connection."""

    @property
    def info(self) -> ClientInfo:
        """The ids of the client and its user."""

    def wake(self, now: float) -> float | None:
        """Ping the peer or end the connection; return the time of the next wake, or None."""

    def shut_down(self) -> None:
        """End the connection because the server stops."""

    def abort(self) -> None:
        """Drop the connection at once."""


class Peers:
    """The open connections of this process, by the second in which each is to be woken.

    One tick a second serves all their timers (pings, deadlines). Two timers of the reactor for
    each of 10,000 connections took 12 % of a core; the wheel takes next to nothing. Times are in
    seconds of one monotonic clock; a peer is woken up to one tick late, and later if more than
    WAKES are due. The first tick after a standstill (a handler that blocks the reactor, SIGSTOP)
    wakes nobody: a peer that has answered in time would be ended before its answer is read.
    """

    def __init__(self, report: Callable[[str], None]):
        self._report = report
        self._second: dict[Peer, int] = {}
        self._due: dict[int, dict[Peer, None]] = {}
        self._waking: deque[tuple[int, Peer]] = deque()
        self._when_empty: list[Callable[[], None]] = []
        self._ticked = inf
        self._stood = False

    def __len__(self) -> int:
        return len(self._second)

    def __iter__(self) -> Iterator[Peer]:
        return iter(tuple(self._second))

    def wake_at(self, peer: Peer, at: float) -> None:
        """Wake the peer at `at`, in place of its earlier time; the first call adds the peer."""
        self._unplan(peer)
        second = ceil(at)
        self._second[peer] = second
        self._due.setdefault(second, {})[peer] = None

    def remove(self, peer: Peer) -> None:
        if peer not in self._second:
            return
        self._unplan(peer)
        del self._second[peer]
        if not self._second:
            calls, self._when_empty = self._when_empty, []
            for call in calls:
                call()

    def tick(self, now: float) -> bool:
        """Wake up to WAKES due peers; return whether more are due."""
        stood, self._stood = self._stood, now - self._ticked > STANDSTILL
        self._ticked = now
        if self._stood and not stood:
            return False
        if not self._waking:
            for second in sorted(second for second in self._due if second <= now):
                self._waking.extend((second, peer) for peer in self._due.pop(second))
        for _ in range(min(WAKES, len(self._waking))):
            second, peer = self._waking.popleft()
            if self._second.get(peer) == second:
                self._wake(peer, now)
        return bool(self._waking)

    def when_empty(self, call: Callable[[], None]) -> None:
        """Call once when the last peer is removed; at once if there are none."""
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
            # A peer without a time stays registered, for the API and for the stop.
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
