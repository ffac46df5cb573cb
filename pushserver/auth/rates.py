"""Token buckets for any number of addresses, users and keys, in memory of a fixed size."""

from __future__ import annotations

import secrets
from array import array
from collections.abc import Callable

SLOTS = 32_768
"""The slots of a row: 256 KiB. With 1,000 names over their rate at one time, one name in a thousand
shares both of its slots with some of them."""


class Rates:
    """The rate of events for each name: `per_second`, and `at_once` after a pause.

    No name is forgotten before its bucket is full again, so that nobody gets a new bucket by
    sending under a million other names. For that each name has a slot in each of two rows, by a
    hash that peers cannot compute, and shares them with others. The slot has the time at which the
    bucket will be full (the generic cell rate algorithm). The earlier one of the two counts: a name
    is never allowed more than a bucket of its own would allow, and less only if others are over
    their rates in both slots. `now` is in seconds of the steady clock.
    """

    def __init__(self, per_second: float, at_once: float):
        self.charged: Callable[[str, int], None] | None = None
        """Called with the name and the number of events that `delay` has counted."""
        self.reconfigure(per_second, at_once)
        self._salt = secrets.token_hex(8)
        # Made by the first event: many servers have only peers without bounds.
        self._rows: tuple[array[float], array[float]] | None = None

    def reconfigure(self, per_second: float, at_once: float) -> None:
        """Change the rate; each name keeps the time at which its bucket will be full."""
        self._seconds_each = 1 / per_second
        self._most_seconds = at_once / per_second

    def delay(self, name: str, now: float, count: int = 1) -> float:
        """Count events if they are allowed now; return 0.0, or the seconds until they are.

        More than `at_once` together are allowed when the bucket is full, and delay later ones.
        """
        first, second = self._rows or self._make_rows()
        number = hash(self._salt + name)
        at, other = number % SLOTS, (number >> 32) % SLOTS
        full_at = max(now, min(first[at], second[other]))
        full_at_then = full_at + count * self._seconds_each
        # Slightly more: a delay that was waited for may have been rounded.
        excess = full_at_then - now - self._most_seconds
        if excess > 1e-6 and full_at > now:
            return min(excess, full_at - now)
        first[at] = max(first[at], full_at_then)
        second[other] = max(second[other], full_at_then)
        if self.charged is not None:
            self.charged(name, count)
        return 0.0

    def charge(self, name: str, now: float, count: int) -> None:
        """Count events that another process has allowed, also if they are more than the rate."""
        first, second = self._rows or self._make_rows()
        number = hash(self._salt + name)
        at, other = number % SLOTS, (number >> 32) % SLOTS
        full_at_then = max(now, min(first[at], second[other])) + count * self._seconds_each
        first[at] = max(first[at], full_at_then)
        second[other] = max(second[other], full_at_then)

    def _make_rows(self) -> tuple[array[float], array[float]]:
        # The clock may start anywhere, also below 0.
        empty = array("d", [float("-inf")]) * SLOTS
        self._rows = empty, empty[:]
        return self._rows
