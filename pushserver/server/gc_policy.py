"""Keeps Python's full garbage collections short with any number of connections.

A collection of the oldest generation visits every object: with 10,000 connections it took 146 ms,
in which nothing was sent. Here the objects that survived a collection are frozen, so that the next
visits only newer ones. A connection that ends is freed by its reference counts. Cyclic garbage that
is frozen is freed by a full collection, which runs when it is cheap, when there may be much
garbage, and otherwise rarely.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager

OBJECTS_PER_CONNECTION = 100
"""A generous estimate."""

MAX_UNEXPLAINED = 200_000
"""Frozen objects that do not belong to connections, before a full collection: 20 to 40 MB."""

THRESHOLD = 3
"""Collections of the middle generation for one of the oldest. With Python's 10, the
objects that come together until then take 30 ms."""

COUNT_EVERY = 32
"""Collections of the oldest generation between two counts of the frozen objects, which take some
milliseconds too."""

CHEAP = 100_000
"""A full collection of this many frozen objects takes some 15 ms."""

FULL_EVERY = 1_024
"""Collections of the oldest generation between two full ones: few objects may hold many bytes."""


@contextmanager
def without_collections() -> Iterator[None]:
    """Import the modules of the server: they make many objects and hardly any garbage.

    Some 200 collections, which would visit the same objects again and again, take a tenth of the
    time of a start.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


class Collector:
    """Applies the policy from `start` to `stop`; `connections` returns the number of open ones."""

    def __init__(self, connections: Callable[[], int]):
        self._connections = connections
        self._base = 0
        self._count = 0
        self._full = False
        self._thresholds = (0, 0, 0)

    def start(self) -> None:
        """Freeze all present objects."""
        gc.collect()
        gc.freeze()
        self._note()
        self._thresholds = gc.get_threshold()
        gc.set_threshold(*self._thresholds[:2], THRESHOLD)
        gc.callbacks.append(self._on_collection)

    def stop(self) -> None:
        """Undo `start`; no-op if it was not called."""
        if self._on_collection not in gc.callbacks:
            return
        gc.callbacks.remove(self._on_collection)
        for callback in gc.callbacks:
            # Another server in this process still runs, and will undo it. Whichever started first
            # knows the thresholds of before, which are the larger ones.
            other = getattr(callback, "__self__", None)
            if isinstance(other, Collector):
                other._thresholds = max(other._thresholds, self._thresholds)
                return
        gc.set_threshold(*self._thresholds)
        gc.unfreeze()

    def _on_collection(self, phase: str, info: dict[str, int]) -> None:
        if info["generation"] < 2:
            return
        if phase == "start":
            self._count += 1
            self._full = self._count % COUNT_EVERY == 0 and self._is_due()
            if self._full:
                gc.unfreeze()
            return
        gc.freeze()
        if self._full:
            self._note()

    def _is_due(self) -> bool:
        frozen = gc.get_freeze_count()
        unexplained = frozen - self._base - OBJECTS_PER_CONNECTION * self._connections()
        return frozen < CHEAP or unexplained > MAX_UNEXPLAINED or self._count % FULL_EVERY == 0

    def _note(self) -> None:
        """Count the present frozen objects as explained."""
        self._base = max(0, gc.get_freeze_count() - OBJECTS_PER_CONNECTION * self._connections())
