"""What waits for a peer that does not read."""

from __future__ import annotations


class Backlog:
    """Counts the bytes written since the transport said that its buffer is full.

    A transport's pause is advice and bounds nothing: its buffer takes whatever is written
    (12.8 MB for one socket that nobody read, in a trial). It says `pause` again with
    each write while it is over its own mark.
    """

    __slots__ = ("_limit", "_paused", "queued")

    def __init__(self, limit: int):
        self.queued = 0
        self._limit = limit
        self._paused = False

    def pause(self) -> None:
        self._paused = True

    def resume(self) -> None:
        self._paused = False
        self.queued = 0

    def add(self, size: int) -> bool:
        """Count what was just written; False when the peer has used up its budget."""
        if self._paused:
            self.queued += size
        return self.queued <= self._limit
