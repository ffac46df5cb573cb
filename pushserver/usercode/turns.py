"""Shares the turns of the reactor among peers that send more than one turn should handle.

64 KB, which Twisted reads at once, are 10,922 empty frames of a WebSocket: 0.25 seconds of one
turn, and twenty such peers made all others wait for five seconds. So a peer handles one slice of
its bytes in a turn. The remaining bytes wait here, and the peer is not read meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

SLICE_SECONDS = 0.002
"""The time after which a slice ends, with the frame or request that is being handled."""

TURN_SECONDS = 0.01
"""The time of one turn for all waiting slices together, however many peers wait."""


class Timer(Protocol):
    """The reactor's clock."""

    def callLater(self, delay: float, call: Callable[[], object], /) -> Any:
        """Call after `delay` seconds; returns an `IDelayedCall`."""


class Turns:
    """The peers whose bytes wait, in their order; `monotonic` is the steady clock."""

    def __init__(self, reactor: Timer, monotonic: Callable[[], float]):
        self.monotonic = monotonic
        self._reactor = reactor
        self._waiting: dict[Callable[[], None], None] = {}
        self._next: Any = None

    def later(self, handle: Callable[[], None]) -> None:
        """Call `handle` once in a later turn; it may call `later` again."""
        self._waiting[handle] = None
        self._plan()

    def cancel(self, handle: Callable[[], None]) -> None:
        """Do not call `handle`, if it waits."""
        self._waiting.pop(handle, None)
        if not self._waiting and self._next is not None:
            self._next.cancel()
            self._next = None

    def _plan(self) -> None:
        if self._next is None and self._waiting:
            self._next = self._reactor.callLater(0, self._run)

    def _run(self) -> None:
        self._next = None
        until = self.monotonic() + TURN_SECONDS
        left = len(self._waiting)
        try:
            while left and self._waiting:
                left -= 1
                handle = next(iter(self._waiting))
                del self._waiting[handle]
                handle()
                if self.monotonic() >= until:
                    break
        finally:
            self._plan()
