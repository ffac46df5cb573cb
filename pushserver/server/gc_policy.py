"""Keeps Python's full collections short, however many connections there are.

A collection of the oldest generation looks at every object that it may have to free: with 10,000
connections that took 146 ms, in which nobody got anything. Here what has survived one is
frozen, so the next looks only at what has come since. Connections that end are freed by their
reference counts; what was frozen and is garbage in circles waits for a look at everything. That
comes when it is cheap, when there may be much garbage, and else once in a long while.
"""

from __future__ import annotations

import gc
from collections.abc import Callable

EACH = 100
"""Objects that a connection may have, generously."""

SUSPECT = 200_000
"""Frozen objects that no connection explains: some 20 to 40 MB."""

OFTEN = 3
"""How many collections of the middle generation make one of the oldest: Python's 10 let so much
come together that one takes 30 ms."""

LOOK = 32
"""At each such collection the frozen objects are counted, which takes some milliseconds too."""

CHEAP = 100_000
"""So many frozen objects are looked at in some 15 ms."""

SELDOM = 1_024
"""At each such collection everything is looked at: few objects may be many bytes."""


class Collector:
    """From `start` to `stop`. `connections` says how many are open."""

    def __init__(self, connections: Callable[[], int]):
        self._connections = connections
        self._base = 0
        self._count = 0
        self._everything = False
        self._thresholds = (0, 0, 0)

    def start(self) -> None:
        """What is there now is there to stay."""
        gc.collect()
        gc.freeze()
        self._note()
        self._thresholds = gc.get_threshold()
        gc.set_threshold(*self._thresholds[:2], OFTEN)
        gc.callbacks.append(self._told)

    def stop(self) -> None:
        """As it was before; nothing happens when it was not started."""
        if self._told not in gc.callbacks:
            return
        gc.callbacks.remove(self._told)
        for told in gc.callbacks:
            # Another server in this process goes on; it is the one to put things back.
            other = getattr(told, "__self__", None)
            if isinstance(other, Collector):
                other._thresholds = max(other._thresholds, self._thresholds)
                return
        gc.set_threshold(*self._thresholds)
        gc.unfreeze()

    def _told(self, phase: str, info: dict[str, int]) -> None:
        if info["generation"] < 2:
            return
        if phase == "start":
            self._count += 1
            self._everything = self._count % LOOK == 0 and self._is_due()
            if self._everything:
                gc.unfreeze()
            return
        gc.freeze()
        if self._everything:
            self._note()

    def _is_due(self) -> bool:
        frozen = gc.get_freeze_count()
        unexplained = frozen - self._base - EACH * self._connections()
        return frozen < CHEAP or unexplained > SUSPECT or self._count % SELDOM == 0

    def _note(self) -> None:
        """What is frozen now is not to be suspected again."""
        self._base = max(0, gc.get_freeze_count() - EACH * self._connections())
