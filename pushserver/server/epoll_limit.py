"""How much one turn of the reactor may take on.

Twisted's epoll reactor asks for every event there is, and handles all of them before it looks at
its timers again: two thousand clients that come back at once were one turn of two seconds. With
a bound on how many events it takes at a time the others wait their turn: the kernel gives those
that were not taken first the next time.
"""

from __future__ import annotations

from typing import Any

EVENTS = 128


class _Bounded:
    """A poller that hands out so many events at a time."""

    def __init__(self, poller: Any):
        self._poll = poller.poll
        self.register = poller.register
        self.modify = poller.modify
        self.unregister = poller.unregister
        self.close = poller.close
        self.fileno = poller.fileno

    def poll(self, timeout: float, most: int) -> Any:
        """As `select.epoll.poll`."""
        return self._poll(timeout, min(most, EVENTS))


def bound(reactor: Any) -> None:
    """Bound the turns of this reactor, if it is one that can take on too much.

    `_poller` is a private name of Twisted's; where it is not there, nothing is bounded.
    """
    poller = getattr(reactor, "_poller", None)
    if type(reactor).__name__ == "EPollReactor" and type(poller).__name__ == "epoll":
        reactor._poller = _Bounded(poller)
