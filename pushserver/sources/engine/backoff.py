"""How long a source waits after it failed."""

from __future__ import annotations

import random
from collections.abc import Callable

_HEALTHY = 10


class Backoff:
    """How long to wait after each failed attempt: twice as long each time, with jitter.

    From `first` up to `most`, and of that a random part from half to all. It starts anew
    after an attempt that worked, and from then on lived ten times `first` (or `most`, if
    that is less).
    """

    def __init__(self, first: float, most: float, draw: Callable[[], float] = random.random):
        self._first = first
        self._most = max(first, most)
        self._healthy = min(_HEALTHY * first, self._most)
        self._draw = draw
        self._next = first

    def failed(self, worked_for: float | None) -> float:
        """How long to wait for the next attempt; None if this one never worked."""
        if worked_for is not None and worked_for >= self._healthy:
            self._next = self._first
        delay = self._next
        self._next = min(2 * delay, self._most)
        return delay * (1 + self._draw()) / 2
