"""A bound on the events in one turn of the reactor; PUSHSERVER_SHORTCUTS=off omits it.

Twisted's epoll reactor takes all events that there are, and handles them before it looks at its
timers again: when two thousand clients reconnected at once, one turn took two seconds. With the
bound the other events wait for the next turn, and the kernel returns them first then.
"""

from __future__ import annotations

from typing import Any

EVENTS = 128


class _Bounded:
    """A poller that returns EVENTS events at the most."""

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


def bound(reactor: object) -> None:
    """Bound the turns of this reactor, if it is an epoll reactor.

    `_poller` is a private name of Twisted's; a reactor without it is not bounded.
    """
    poller = getattr(reactor, "_poller", None)
    if type(reactor).__name__ == "EPollReactor" and type(poller).__name__ == "epoll":
        setattr(reactor, "_poller", _Bounded(poller))  # noqa: B010
