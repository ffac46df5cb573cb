"""Several servers with the log of some channels each: their order, on which all nodes must agree.

A node with another list, or with other places of namespaces, would look for channels where nobody
publishes them. So each server has its place, and a node uses none of them while one has another
place than in its own list.
"""

from __future__ import annotations

from collections.abc import Callable

from pushserver.channels.placement import Placement
from pushserver.redis.connection import Unfit
from pushserver.redis.problems import MISPLACED, WAITS


class Misplaced(Unfit):
    """A server has another place in the list of other nodes."""

    short = MISPLACED


class Waits(Unfit):
    """A server that is in no list yet must wait until all others are known."""

    short = WAITS


class Layout:
    """The places of all servers. `leave` ends the sessions with all of them, and says why."""

    def __init__(self, placement: Placement, leave: Callable[[str, str], None]):
        self._placement = placement
        self._leave = leave
        self._seen: set[int] = set()
        self._wrong: dict[int, str] = {}

    def of(self, shard: int) -> str:
        """The place of a server."""
        return self._placement.layout(shard)

    def check(self, shard: int, found: str) -> None:
        """Compare the place of a server; raises Misplaced, and Waits."""
        if found in ("", self.of(shard)):
            self._wrong.pop(shard, None)
            self._seen.add(shard)
        else:
            is_new = shard not in self._wrong
            self._wrong[shard] = (
                f"shard {shard} has the place {found[:200]!r} in the list of other servers, and"
                f" {self.of(shard)[:200]!r} here (its number/how many, and the namespaces that"
                " broker.shards moves): give all servers the same broker.url and broker.shards"
            )
            if is_new:
                self._leave(_unused(self._wrong[shard]), MISPLACED)
        if self._wrong:
            own, first = self._wrong.get(shard), next(iter(self._wrong.values()))
            raise Misplaced(own or _unused(first))
        missing = [n for n in range(self._placement.count) if n not in self._seen]
        if not found and missing:
            raise Waits(
                f"it is in no list yet, and waits until shard {missing[0]} has been reached, too"
            )


def _unused(problem: str) -> str:
    return f"it is not used, since {problem}"
