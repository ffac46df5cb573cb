"""How often something may happen, and how often it is logged; times in seconds of any clock."""

from __future__ import annotations

WINDOW_SECONDS = 60

LOGGED_AT_ONCE = 10
"""How often the same is logged in one go; after that it is so often a minute."""


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
