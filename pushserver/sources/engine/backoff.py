"""The back-off of a source that failed."""

from __future__ import annotations

import random
from collections.abc import Callable

_HEALTHY = 10


class Backoff:
    """The delays after failed attempts, in seconds: each is twice the last, with jitter.

    They grow from `first` to `longest`, and a random part of up to half is taken off. An attempt
    resets them if it worked for at least ten times `first` (or `longest`, if that is less).
    """

    def __init__(self, first: float, longest: float, draw: Callable[[], float] = random.random):
        self._first = first
        self._longest = max(first, longest)
        self._healthy = min(_HEALTHY * first, self._longest)
        self._draw = draw
        self._next = first

    def failed(self, worked_for: float | None) -> float:
        """Return the delay before the next attempt.

        `worked_for` is the time since the failed attempt first worked, None if it never did.
        """
        if worked_for is not None and worked_for >= self._healthy:
            self._next = self._first
        delay = self._next
        self._next = min(2 * delay, self._longest)
        return delay * (1 + self._draw()) / 2
