"""The events to publish and their times, from the load tool through a shared file.

The layout is in feed.h. Works on any Python: peers have environments of their own.
"""

from __future__ import annotations

import mmap
import struct
import time
from collections.abc import Iterator

Event = dict[str, object]

_RATE = struct.Struct("=d")
_NUMBERS = struct.Struct("=QQ")
BYTES = _RATE.size + _NUMBERS.size
IDLE_SECONDS = 0.25
"""Seconds between two reads of a paused feed."""
SLICE_SECONDS = 0.005
"""Seconds of publishing in one turn if the server is behind."""


class Feed:
    """The events that are due, with a sequence number and the time each is made at.

    With several channels the events of each are numbered for themselves.
    """

    def __init__(self, path: str, channels: int = 1):
        with open(path, "r+b") as file:
            self._shared = mmap.mmap(file.fileno(), BYTES)
        self._seqs = [0] * channels
        self._total = 0
        self._next = 0.0

    def due(self) -> Iterator[tuple[int, Event]]:
        """The events of this turn, each with the number of its channel."""
        rate = self._rate()
        if not rate > 0:
            self._next = 0.0
            return
        now = time.monotonic()
        end = now + SLICE_SECONDS
        if not self._next or now > self._next + 1.0:
            self._next = now
        while self._next <= now < end:
            yield self._make()
            self._next += 1.0 / rate
            now = time.monotonic()

    def publishes(self) -> bool:
        """Whether the load tool wants events."""
        return self._rate() > 0

    def wait(self) -> float:
        """Seconds until the next turn."""
        if not self._rate() > 0:
            return IDLE_SECONDS
        return max(0.0, min(IDLE_SECONDS, self._next - time.monotonic()))

    def _rate(self) -> float:
        rate: float = _RATE.unpack_from(self._shared, 0)[0]
        return rate

    def _make(self) -> tuple[int, Event]:
        size = _NUMBERS.unpack_from(self._shared, _RATE.size)[1]
        # Steps of a prime, so that neighbouring channels do not follow each other.
        channel = self._total * 7919 % len(self._seqs)
        self._seqs[channel] += 1
        self._total += 1
        event: Event = {"seq": self._seqs[channel], "stamp": time.monotonic_ns()}
        # {"seq":N,"stamp":N,"pad":"..."}
        numbers = len(str(event["seq"])) + len(str(event["stamp"]))
        event["pad"] = "x" * max(0, size - numbers - 26)
        _NUMBERS.pack_into(self._shared, _RATE.size, self._total, size)
        return channel, event
