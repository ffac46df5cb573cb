"""How often something happened in the last minute."""

from __future__ import annotations

from collections import deque

from pushserver.usercode.rate import WINDOW_SECONDS


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
