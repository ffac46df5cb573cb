"""Limits the rates of events and of log messages; times are seconds of any clock."""

from __future__ import annotations

from collections.abc import Callable

WINDOW_SECONDS = 60

LOGGED_AT_ONCE = 10
"""Log messages of one kind: the number at once, and per minute in the long run."""


class Rate:
    """A token bucket that holds the events of one second, or `burst`."""

    __slots__ = ("_at", "_most", "_per_second", "_tokens")

    def __init__(self, per_second: float, burst: float = 0.0):
        self._per_second = per_second
        self._most = max(1.0, burst or per_second)
        self._tokens = self._most
        self._at: float | None = None

    def delay(self, now: float) -> float:
        """The seconds until the next event is allowed; 0 if it is allowed now."""
        # A clock that was set back neither adds nor removes tokens.
        elapsed = 0.0 if self._at is None else max(0.0, now - self._at)
        self._at = now
        self._tokens = min(self._most, self._tokens + elapsed * self._per_second)
        return 0.0 if self._tokens >= _ONE else (1.0 - self._tokens) / self._per_second

    def take(self) -> None:
        """Count one event."""
        self._tokens -= 1.0

    def allows(self, now: float) -> bool:
        """Count one event if it is allowed now; return whether it is."""
        if self.delay(now):
            return False
        self.take()
        return True


class Budget:
    """A token bucket that reads the clock only when it is empty: it costs 0.1 us an event.

    It is filled then, with the tokens of the time since, but with no more than at the start. So
    after a pause twice as many events may come at once. Refused events count too.
    """

    __slots__ = ("_at", "left")

    def __init__(self, at_once: int, now: float):
        self.left = at_once
        self._at = now

    def is_exceeded(self, per_second: int, at_once: int, clock: Callable[[], float]) -> bool:
        """Count one event; return whether it is one too many."""
        self.left -= 1
        if self.left >= 0:
            return False
        count = int((clock() - self._at) * per_second)
        if count > 0:
            self._at += count / per_second
            self.left = min(at_once, self.left + count)
        return self.left < 0


# Slightly less than 1: a delay that was waited for may have been rounded.
_ONE = 1.0 - 1e-6


class LogLimiter:
    """Limits the log messages of one kind: `most` at once, and per `seconds` in the long run.

    `suppressed` is the number of messages that were not logged since the last one.
    """

    def __init__(self, most: int = 1, seconds: float = WINDOW_SECONDS):
        self.suppressed = 0
        self._rate = Rate(most / seconds, most)

    def suffix(self, now: float) -> str | None:
        """The end of the message, with the number suppressed before it; None to suppress it."""
        if self._rate.delay(now):
            self.suppressed += 1
            return None
        self._rate.take()
        suppressed, self.suppressed = self.suppressed, 0
        return f" (and {suppressed} that were not logged)" if suppressed else ""
