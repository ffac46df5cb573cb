"""One channel: its options, its numbering, and the publications that it retains."""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from typing import Annotated, Literal

from msgspec import Meta

from pushserver.channels.publication import Publication, sizes

_COMPACT_AFTER = 4
"""The places of evicted rows that a list keeps besides as many as it has rows.

Cutting them off takes as long as some evictions. With 64, the places of a channel that retains one
row took more memory than the channel.
"""

CHANNEL_BYTES = 640
"""The memory of a channel besides its name and its publications, roughly."""

Count = Annotated[int, Meta(ge=0)]
Seconds = Annotated[float, Meta(ge=0, le=3_153_600_000)]
Rule = Literal["", "anyone", "users", "token", "key", "handler", "nobody"]
"""Which peers may do something in a channel; see `auth.permissions`. Empty: the usual ones."""


@dataclass(frozen=True, slots=True)
class ChannelOptions:
    """The retention and the permissions of a channel.

    `history_size` in publications and `history_bytes` in bytes of all their texts, 0 of either
    for no history; `history_ttl` in seconds, 0 for no limit by age; `initial`: the number of last
    publications in the answer to a first subscribe on the Centrifuge protocol;
    `recovery_limit`: the longest gap, in publications, that a resume fills;
    `subscribe`, `publish`, `history` and `presence`: which peers may do this; `client_publish` is
    an older name of `publish = "anyone"`. `join_leave`: whether subscribers on that protocol may
    get the joins and leaves of others; `force_push_join_leave`: whether each gets them, also
    without asking. `template`: the name of the file that makes HTML of each publication; empty for
    none.
    """

    history_size: Count = 300
    history_bytes: Count = 2_000_000
    history_ttl: Seconds = 604_800.0
    initial: Count = 10
    recovery_limit: Count = 300
    subscribe: Rule = ""
    publish: Rule = ""
    history: Rule = ""
    presence: Rule = ""
    client_publish: bool = False
    join_leave: bool = True
    force_push_join_leave: bool = False
    template: Annotated[str, Meta(max_length=256)] = ""


class Channel:
    """The log of one channel.

    `top` is the last offset given and `floor` the highest one evicted: the retained rows are
    exactly floor+1 ... top. `floor_seq` is the seq of the highest evicted row; before the first
    eviction, the seq up to which forgotten channels of this name may have had rows. `epoch` names
    the numbering of the offsets. `time` is that of the newest retained row in Unix seconds, or
    minus infinity. `bytes` counts the texts of the rows, `memory` all of the channel, roughly.
    `watched` is set by `History`.
    """

    __slots__ = (
        "_births",
        "_rows",
        "_start",
        "bytes",
        "epoch",
        "floor",
        "floor_seq",
        "memory",
        "name",
        "options",
        "time",
        "top",
        "watched",
    )

    def __init__(
        self, name: str, options: ChannelOptions, epoch: str, top: int = 0, floor_seq: int = 0
    ):
        self.name = name
        self.options = options
        self.epoch = epoch
        self.top = top
        self.floor = top
        self.floor_seq = floor_seq
        self.bytes = 0
        self.memory = CHANNEL_BYTES + len(name)
        self.watched = False
        self.time = float("-inf")
        # A list with a moving start: it reaches any row by its index, a deque walks from its end.
        self._rows: list[Publication] = []
        # The `born` of each row: `time` in a publication is of the wall clock, which may be set.
        self._births = array("d")
        self._start = 0

    def __len__(self) -> int:
        return self.top - self.floor

    def append(self, publication: Publication, born: float) -> int:
        """Retain the next publication; return the number of evicted rows.

        `born` is its time of creation by the steady clock, never less than that of the row before.
        Raises ValueError unless its offset is the next.
        """
        if publication.offset != self.top + 1:
            raise ValueError(f"{self.name}: offset {publication.offset} after {self.top}")
        self.top = publication.offset
        self.time = publication.time
        self._rows.append(publication)
        self._births.append(born)
        size, memory = sizes(publication)
        self.bytes += size
        self.memory += memory
        options = self.options
        evicted = 0
        # Not `_evict_over` alone: each publication comes here, and a full channel loses one row.
        if self.top - self.floor > options.history_size:
            evicted = self._evict(self.top - self.floor - options.history_size)
        if self.bytes > options.history_bytes:
            evicted += self._evict_over(options.history_size, options.history_bytes)
        return evicted

    def expire(self, now: float) -> int:
        """Evict rows older than `history_ttl` at `now` (steady clock); return their number.

        Rows over the bounds go too: a reload may have made these smaller.
        """
        ttl = self.options.history_ttl
        evicted = self._evict_over(self.options.history_size, self.options.history_bytes)
        if not ttl:
            return evicted
        births, end = self._births, self._start
        while end < len(births) and births[end] + ttl <= now:
            end += 1
        return evicted + self._evict(end - self._start)

    def clear(self) -> int:
        """Evict all rows and return their number; the numbering continues."""
        return self._evict_over(0, 0)

    def evict_to(self, offset: int) -> int:
        """Evict the rows up to this offset; return their number."""
        return self._evict_over(max(0, self.top - offset), self.bytes)

    def halve(self) -> int:
        """Evict the older half of the rows, at least one; return their number."""
        return self._evict_over(len(self) // 2, self.bytes)

    def last(self, count: int) -> list[Publication]:
        """The newest `count` rows in order."""
        return self.after(self.top - count) if count > 0 else []

    def after(self, offset: int) -> list[Publication]:
        """The retained rows after `offset` in order."""
        return self._rows[self._start + max(0, offset - self.floor) :]

    def births(self, offset: int) -> array[float]:
        """The `born` of each row of `after(offset)`."""
        return self._births[self._start + max(0, offset - self.floor) :]

    def offset_at(self, seq: int) -> int:
        """The offset of the last row up to seq `seq`; `floor` if no such row is retained."""
        return self.floor + bisect_right(self._rows, seq, self._start, key=_seq) - self._start

    def count_since(self, time: float) -> int:
        """The number of retained rows that were published at or after this Unix time."""
        return len(self._rows) - bisect_left(self._rows, time, self._start, key=_time)

    def _evict_over(self, size: int, max_bytes: int) -> int:
        evicted = self._evict(self.top - self.floor - size)
        while self.bytes > max_bytes and self.floor < self.top:
            evicted += self._evict(1)
        return evicted

    def _evict(self, count: int) -> int:
        """Evict the oldest `count` rows, none if it is negative; return their number."""
        if count <= 0:
            return 0
        rows, start = self._rows, self._start
        end = start + count
        last = rows[end - 1]
        for index in range(start, end):
            size, memory = sizes(rows[index])
            self.bytes -= size
            self.memory -= memory
            # At once: the list is cut when many are gone, and a row may have a megabyte.
            rows[index] = _GONE
        self.floor = last.offset
        self.floor_seq = last.seq
        self._start = end
        left = len(rows) - end
        if not left:
            self.time = float("-inf")
        if not left or end >= _COMPACT_AFTER + left:
            del rows[:end]
            del self._births[:end]
            self._start = 0
        return count


_GONE = Publication("", "", 0, 0, 0.0, "", b"")


def _seq(row: Publication) -> int:
    return row.seq


def _time(row: Publication) -> float:
    return row.time
