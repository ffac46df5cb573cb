"""A bound on the events in one turn of the reactor; PUSHSERVER_SHORTCUTS=off omits it.

Twisted's epoll reactor and the loop of asyncio take all events that there are, and handle them
before they look at their timers again: when two thousand clients reconnected at once, one turn of
the former took two seconds. With the bound the other events wait for the next turn, and the kernel
returns them first then.
"""

from __future__ import annotations

from collections import deque
from time import perf_counter
from typing import Any

EVENTS = 128
SECONDS = 60


class LongestTurn:
    """The longest turn of the reactor in the last SECONDS seconds, in seconds.

    `longest` is that of the present second. The wait for events is no part of a turn.
    """

    __slots__ = ("_recent", "longest")

    def __init__(self) -> None:
        self.longest = 0.0
        self._recent: deque[float] = deque(maxlen=SECONDS)

    def end_second(self) -> None:
        self._recent.append(self.longest)
        self.longest = 0.0

    @property
    def seconds(self) -> float:
        return max(self.longest, *self._recent, 0.0)


class _Bounded:
    """A poller that returns EVENTS events at the most, and measures the time between its calls."""

    def __init__(self, poller: Any):
        self.turns = LongestTurn()
        self._began = perf_counter()
        self._poll = poller.poll
        self.register = poller.register
        self.modify = poller.modify
        self.unregister = poller.unregister
        self.close = poller.close
        self.fileno = poller.fileno

    def poll(self, timeout: float, most: int) -> Any:
        """As `select.epoll.poll`."""
        seconds = perf_counter() - self._began
        if seconds > self.turns.longest:
            self.turns.longest = seconds
        try:
            return self._poll(timeout, min(most, EVENTS))
        finally:
            self._began = perf_counter()


def bound(reactor: object) -> LongestTurn | None:
    """Bound the turns of this reactor, if it is an epoll reactor or asyncio's with epoll.

    Returns the measure of its turns, which the servers of one process share.

    `_poller`, `_asyncioEventloop` and `_selector` are private names of Twisted and asyncio; a
    reactor without them is not bounded.
    """
    selector = getattr(getattr(reactor, "_asyncioEventloop", None), "_selector", None)
    for owner, name in ((reactor, "_poller"), (selector, "_selector")):
        poller = getattr(owner, name, None)
        if isinstance(poller, _Bounded):
            return poller.turns
        epolls = type(owner).__name__ in ("EPollReactor", "EpollSelector")
        if epolls and type(poller).__name__ == "epoll":
            bounded = _Bounded(poller)
            setattr(owner, name, bounded)
            return bounded.turns
    return None
