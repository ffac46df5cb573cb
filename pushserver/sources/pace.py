"""How fast a source may publish and fail: plain arithmetic; times in seconds of any clock."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable

WINDOW_SECONDS = 60
_HEALTHY = 10


class Backoff:
    """How long to wait after each failed attempt: twice as long each time, with jitter.

    From `first` up to `most`, and of that a random part from half to all. It starts anew
    after an attempt that worked, and from then on lived ten times `first` (or `most`, if
    that is less).
    """

    def __init__(self, first: float, most: float, draw: Callable[[], float] = random.random):
        self._first = first
        self._most = max(first, most)
        self._healthy = min(_HEALTHY * first, self._most)
        self._draw = draw
        self._next = first

    def failed(self, worked_for: float | None) -> float:
        """How long to wait for the next attempt; None if this one never worked."""
        if worked_for is not None and worked_for >= self._healthy:
            self._next = self._first
        delay = self._next
        self._next = min(2 * delay, self._most)
        return delay * (1 + self._draw()) / 2


class Rate:
    """A token bucket: `per_second` in the long run, as many at once as a second has."""

    def __init__(self, per_second: float, burst: float = 0.0):
        self._per_second = per_second
        self._most = max(1.0, burst or per_second)
        self._tokens = self._most
        self._at: float | None = None

    def delay(self, now: float) -> float:
        """How long it is until the next may be taken; 0: it may be now."""
        # A clock that was set back gives nothing, and takes nothing away.
        elapsed = 0.0 if self._at is None else max(0.0, now - self._at)
        self._at = now
        self._tokens = min(self._most, self._tokens + elapsed * self._per_second)
        return 0.0 if self._tokens >= _ONE else (1.0 - self._tokens) / self._per_second

    def take(self) -> None:
        """Take one."""
        self._tokens -= 1.0


# What is left of 1 when the time that was waited for was rounded.
_ONE = 1.0 - 1e-6


class Remarks:
    """Says how often the same is logged: so many at once, and so many a minute in the long run.

    `unsaid` is how many were not since the last that was.
    """

    def __init__(self, most: int = 1):
        self.unsaid = 0
        self._room = Rate(most / WINDOW_SECONDS, most)

    def more(self, now: float) -> str | None:
        """What goes behind a remark: how many were not made before it; None if it is not made."""
        if self._room.delay(now):
            self.unsaid += 1
            return None
        self._room.take()
        unsaid, self.unsaid = self.unsaid, 0
        return f" (and {unsaid} that were not logged)" if unsaid else ""


class Meter:
    """Counts what happens, and how often in the last minute."""

    def __init__(self) -> None:
        self.count = 0
        self._seconds: deque[tuple[int, int]] = deque()
        self._began: float | None = None

    def add(self, now: float) -> None:
        """It happened."""
        if self._began is None:
            self._began = now
        self.count += 1
        second = int(now)
        before = 0
        if self._seconds and self._seconds[-1][0] >= second:
            second, before = self._seconds.pop()
        self._seconds.append((second, before + 1))
        self._forget(now)

    def rate(self, now: float) -> float:
        """How often a second, over the last minute or as long as it has been counted."""
        self._forget(now)
        if self._began is None:
            return 0.0
        span = min(float(WINDOW_SECONDS), max(1.0, now - self._began))
        return sum(count for _, count in self._seconds) / span

    def _forget(self, now: float) -> None:
        while self._seconds and self._seconds[0][0] <= now - WINDOW_SECONDS:
            self._seconds.popleft()
