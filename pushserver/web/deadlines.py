"""The time that connections have for their first bytes: one timer for all of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from twisted.internet.interfaces import IDelayedCall, IReactorTime

MIN_SECONDS = 0.001
"""The least delay: the reactor takes no negative one."""


class Waiting(Protocol):
    """A connection that waits."""

    def loseConnection(self) -> None:
        """End it: its time is over."""


class Deadlines:
    """Ends connections `seconds` after each was added, unless it was removed before.

    All wait equally long, so the one that was added first is the next whose time is over, and one
    timer of the reactor is enough. `monotonic` is the steady clock.
    """

    def __init__(self, reactor: IReactorTime, monotonic: Callable[[], float], seconds: float):
        self.seconds = seconds
        self._reactor = reactor
        self._monotonic = monotonic
        self._until: dict[Waiting, float] = {}
        self._timer: IDelayedCall | None = None

    def add(self, waiting: Waiting) -> float:
        """Begin to wait; return the time of the steady clock at which the connection ends."""
        until = self._until[waiting] = self._monotonic() + self.seconds
        if self._timer is None:
            self._timer = self._reactor.callLater(self.seconds, self._due)
        return until

    def remove(self, waiting: Waiting) -> None:
        """Let the connection stay; a no-op for one that does not wait."""
        self._until.pop(waiting, None)
        if not self._until and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _due(self) -> None:
        self._timer = None
        now = self._monotonic()
        while self._until:
            waiting, until = next(iter(self._until.items()))
            if until > now:
                # One that has ended may have added another, which has begun a timer.
                if self._timer is None:
                    seconds = max(until - now, MIN_SECONDS)
                    self._timer = self._reactor.callLater(seconds, self._due)
                return
            del self._until[waiting]
            waiting.loseConnection()
