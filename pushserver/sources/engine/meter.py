"""A count of events, and their rate over the last minute."""

from __future__ import annotations

from collections import deque

from pushserver.usercode.rate import WINDOW_SECONDS


class Meter:
    """Counts events, in total and a second over the last minute."""

    def __init__(self) -> None:
        self.count = 0
        self._seconds: deque[tuple[int, int]] = deque()
        self._first_at: float | None = None

    def add(self, now: float) -> None:
        """Count one event."""
        if self._first_at is None:
            self._first_at = now
        self.count += 1
        second = int(now)
        count = 0
        if self._seconds and self._seconds[-1][0] >= second:
            second, count = self._seconds.pop()
        self._seconds.append((second, count + 1))
        self._drop_old(now)

    def rate(self, now: float) -> float:
        """Return the events a second over the last minute, or since the first event."""
        self._drop_old(now)
        if self._first_at is None:
            return 0.0
        span = min(float(WINDOW_SECONDS), max(1.0, now - self._first_at))
        return sum(count for _, count in self._seconds) / span

    def _drop_old(self, now: float) -> None:
        while self._seconds and self._seconds[0][0] <= now - WINDOW_SECONDS:
            self._seconds.popleft()
