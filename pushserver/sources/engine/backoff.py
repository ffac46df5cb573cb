"""The back-off of a source that failed."""

from __future__ import annotations

import random
from collections.abc import Callable

_HEALTHY = 10


class Backoff:
    """How many seconds to wait after each failed attempt: twice as many each time, with jitter.

    The delay grows from `first` to `longest`; a random part of up to half is taken off. It is
    reset by an attempt that worked, and went on to live for ten times `first` (or for `longest`,
    if that is less).
    """

    def __init__(self, first: float, longest: float, draw: Callable[[], float] = random.random):
        self._first = first
        self._longest = max(first, longest)
        self._healthy = min(_HEALTHY * first, self._longest)
        self._draw = draw
        self._next = first

    def failed(self, worked_for: float | None) -> float:
        """Return the delay before the next attempt; `worked_for` is None if this never worked."""
        if worked_for is not None and worked_for >= self._healthy:
            self._next = self._first
        delay = self._next
        self._next = min(2 * delay, self._longest)
        return delay * (1 + self._draw()) / 2
