"""Measures how late the reactor is, by a clock that ticks once a second."""

from __future__ import annotations

from collections.abc import Callable
from math import floor

from pushserver.hub.metrics import Histogram
from pushserver.server.epoll_limit import LongestTurn

INTERVAL = 1.0
"""Seconds between two ticks."""


class Pulse:
    """The lateness of each tick; `clock` is the steady clock.

    `turns` are those of the reactor; None for a reactor whose turns are not measured.
    """

    def __init__(self, clock: Callable[[], float]):
        self.lag = Histogram()
        self.turns: LongestTurn | None = None
        self._clock = clock
        self._expected = 0.0

    def start(self) -> None:
        """The first tick comes in INTERVAL seconds."""
        self._expected = self._clock() + INTERVAL

    def tick(self) -> None:
        late = max(0.0, self._clock() - self._expected)
        self.lag.observe(late)
        # LoopingCall leaves out the ticks that it has missed.
        self._expected += INTERVAL * (1 + floor(late / INTERVAL))
        if self.turns is not None:
            self.turns.end_second()
