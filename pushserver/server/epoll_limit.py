"""A bound on the events in one turn of the reactor; PUSHSERVER_SHORTCUTS=off omits it.

Twisted's epoll reactor and the loop of asyncio take all events that there are, and handle them
before they look at their timers again: when two thousand clients reconnected at once, one turn of
the former took two seconds. With the bound the other events wait for the next turn, and the kernel
returns them first then.
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
    """Bound the turns of this reactor, if it is an epoll reactor or asyncio's with epoll.

    `_poller`, `_asyncioEventloop` and `_selector` are private names of Twisted and asyncio; a
    reactor without them is not bounded.
    """
    selector = getattr(getattr(reactor, "_asyncioEventloop", None), "_selector", None)
    for owner, name in ((reactor, "_poller"), (selector, "_selector")):
        poller = getattr(owner, name, None)
        epolls = type(owner).__name__ in ("EPollReactor", "EpollSelector")
        if epolls and type(poller).__name__ == "epoll":
            setattr(owner, name, _Bounded(poller))
