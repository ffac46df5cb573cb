"""Which of several logs a channel is in: that of its namespace."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from hashlib import blake2b

from pushserver.channels.names import namespace_of

KNOWN = 4_096
"""The namespaces whose log is remembered."""


class Placement:
    """The number of the log of each channel, from 0 to `count` - 1.

    `placed` has that of some namespaces. Channels without a namespace are in the log 0, the others
    where a hash of the namespace puts them: with one more log, few of them move, all to that one.
    """

    def __init__(self, count: int, placed: Mapping[str, int]):
        self.count = count
        self._placed = placed
        self._shard = lru_cache(KNOWN)(self._find)

    def __call__(self, channel: str) -> int:
        return self._shard(namespace_of(channel))

    def _find(self, namespace: str) -> int:
        placed = self._placed.get(namespace)
        return self.by_hash(namespace) if placed is None else placed

    def by_hash(self, namespace: str) -> int:
        """The log of a namespace that is not placed."""
        if not namespace:
            return 0
        return max(range(self.count), key=lambda shard: _weight(namespace, shard))

    def layout(self, shard: int) -> str:
        """What all who write to this log must agree on, such as `1/2 chat=0`.

        It has the number of this log, how many there are, and the namespaces that are not where
        their hash would put them.
        """
        placed = sorted(self._placed.items())
        moved = [f"{name}={n}" for name, n in placed if n != self.by_hash(name)]
        return " ".join([f"{shard}/{self.count}", *moved])


def _weight(namespace: str, shard: int) -> bytes:
    return blake2b(f"{namespace}:{shard}".encode(), digest_size=8).digest()
