"""The bytes that wait for all peers together; beyond the bound the peers with most are dropped."""

from __future__ import annotations

import heapq
import sys
from collections.abc import Callable
from typing import Any, Protocol

from pushserver.protocols.formats import Format
from pushserver.sessions.base import Conversation

ENOUGH = 0.9
"""The part of the bound down to which peers are dropped, so that it does not happen every turn."""


class Owner(Protocol):
    """The transport of a peer."""

    @property
    def peer(self) -> str:
        """The address of the client, as in the log."""

    @property
    def format(self) -> Format:
        """The encoding on this connection."""

    @property
    def conversation(self) -> Conversation[Any] | None:
        """The conversation over this transport; None when the connection is lost."""

    def slow(self, queued: int, setting: str = "queue_bytes") -> None:
        """Drop the connection: `queued` bytes wait, which is more than the setting allows."""


class Waiting(Protocol):
    """The backlog of one peer."""

    bytes: int

    @property
    def owner(self) -> Owner:
        """The transport of the peer."""

    def drop_peer(self) -> None:
        """Drop the peer, which clears the backlog."""


class Unsent:
    """The memory of all backlogs, at most `most` bytes.

    A piece of bytes that many peers wait for is in memory once, and counts once; the first piece of
    a peer counts as a whole until all of it has left. `later` calls a function in a later turn: the
    peers are not dropped in the middle of a pass over an audience, so the bound may be exceeded by
    the pieces of one turn.
    """

    def __init__(self, most: int = sys.maxsize, later: Callable[[Callable[[], None]], object] = id):
        self.bytes = 0
        self.most = most
        self._later = later
        self._planned = False
        # By the identity of a piece: to hash or to compare a megabyte takes a millisecond.
        self._counts: dict[int, int] = {}
        self._backlogs: dict[Waiting, None] = {}

    def enter(self, backlog: Waiting) -> None:
        """Note a backlog that is not empty."""
        self._backlogs[backlog] = None

    def leave(self, backlog: Waiting) -> None:
        """Forget an empty backlog."""
        self._backlogs.pop(backlog, None)

    def __len__(self) -> int:
        """The number of backlogs that are not empty."""
        return len(self._backlogs)

    def largest(self, count: int) -> list[Waiting]:
        """The `count` backlogs with most bytes, the largest first."""
        return heapq.nlargest(count, self._backlogs, key=lambda backlog: backlog.bytes)

    def hold(self, piece: bytes) -> None:
        """Count a piece that a backlog keeps until `release`."""
        count = self._counts.get(id(piece), 0)
        self._counts[id(piece)] = count + 1
        if count:
            return
        self.bytes += len(piece)
        if self.bytes > self.most and not self._planned:
            self._planned = True
            self._later(self._drop_peers)

    def release(self, piece: bytes) -> None:
        """Count a piece no more that a backlog does not keep any longer."""
        count = self._counts[id(piece)] - 1
        if count:
            self._counts[id(piece)] = count
        else:
            del self._counts[id(piece)]
            self.bytes -= len(piece)

    def _drop_peers(self) -> None:
        """Drop the peers with most bytes until there is room again."""
        self._planned = False
        if self.bytes <= self.most:
            return
        for backlog in sorted(self._backlogs, key=lambda backlog: backlog.bytes, reverse=True):
            if self.bytes <= ENOUGH * self.most:
                break
            backlog.drop_peer()
