"""The CPU time of the longest turn of the reactor and of the longest collection in this process.

A collection comes in the middle of a turn; what it took is not counted as the turn's.
"""

from __future__ import annotations

import gc
import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


class Turns:
    """Measures turns while `counts` is true, and all collections."""

    def __init__(self, counts: Callable[[], bool]):
        self.longest_turn = 0.0
        self.longest_collection = 0.0
        self._counts = counts
        self._turn_began: float | None = None
        self._collection_began = 0.0
        self._collected = 0.0
        self._thread = threading.get_ident()

    def watch(self, reactor: Any) -> None:
        """Start; the reactor must run in this thread. Turns are measured if it has a poller."""
        gc.callbacks.append(self._collects)
        if hasattr(reactor, "_poller"):
            self._watch_turns(reactor)

    def _watch_turns(self, reactor: Any) -> None:
        poller, watching = reactor._poller, self

        class Watched:
            def __getattr__(self, name: str) -> Any:
                return getattr(poller, name)

            def poll(self, timeout: float, most: int) -> Any:
                watching._ended()
                events = poller.poll(timeout, most)
                watching._turn_began = time.thread_time()
                watching._collected = 0.0
                return events

        reactor._poller = Watched()

    def stop(self) -> None:
        """Stop; the poller stays replaced."""
        gc.callbacks.remove(self._collects)

    def write(self, path: Path) -> None:
        """`{"longest_turn": SECONDS, "longest_collection": SECONDS}`."""
        found = {
            "longest_turn": self.longest_turn,
            "longest_collection": self.longest_collection,
        }
        path.write_text(json.dumps(found), "ascii")

    def _ended(self) -> None:
        if self._turn_began is not None and self._counts():
            took = time.thread_time() - self._turn_began - self._collected
            self.longest_turn = max(self.longest_turn, took)

    def _collects(self, phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            self._collection_began = time.thread_time()
        else:
            took = time.thread_time() - self._collection_began
            self.longest_collection = max(self.longest_collection, took)
            if threading.get_ident() == self._thread:
                self._collected += took
