"""The histories of all channels: numbers publications, retains them, and resumes readers."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from pushserver.channels.channel import Channel, ChannelOptions
from pushserver.channels.position import Position, Start
from pushserver.channels.publication import Draft, Publication


def new_epoch() -> str:
    """An opaque name for one unbroken numbering; compare it for equality only."""
    return secrets.token_hex(4)


@dataclass(frozen=True, slots=True)
class Resumption:
    """All publications after a reader's position, or the reason why it cannot resume there.

    `reason` is empty, or one of `epoch` (the position is of another numbering), `ahead` (it was
    never reached), `evicted` (some publications are gone), `limit` (there are more than
    `recovery_limit`).
    """

    publications: Sequence[Publication] = ()
    reason: str = ""

    @property
    def recovered(self) -> bool:
        return not self.reason


class History:
    """The channels with their publications, and the numbering over all of them.

    A channel without subscribers and publications is not kept. A channel whose rows are all
    evicted may be forgotten: of all forgotten channels the history keeps one pair of numbers,
    the highest offset and the highest seq. A new channel starts above these, so that no number
    is given twice in an epoch, and a reader with a position in a forgotten one gets `evicted`.
    """

    def __init__(self, options: Callable[[str], ChannelOptions], epoch: str = "", seq: int = 0):
        self.epoch = epoch or new_epoch()
        self.seq = seq
        self.channels: dict[str, Channel] = {}
        self.forgotten_top = 0
        self.forgotten_seq = 0
        self._options = options
        self._pinned: dict[str, bool] = {}

    def options(self, name: str) -> ChannelOptions:
        """The options of the channel of this name, whether it exists or not."""
        channel = self.channels.get(name)
        return self._options(name) if channel is None else channel.options

    def channel(self, name: str) -> Channel:
        """The channel of this name, created if there is none, and kept until `release`."""
        if name in self._pinned:
            self._pinned[name] = False
        channel = self.channels.get(name)
        if channel is None:
            channel = self.peek(name)
            self.channels[name] = channel
        return channel

    def restore(self, name: str, floor: int, floor_seq: int) -> Channel:
        """Make a channel whose rows up to `floor` are gone; the others are appended next."""
        channel = self.channels[name] = Channel(name, self._options(name), floor, floor_seq)
        # It had publications, even if none is left.
        channel.origin = -1
        return channel

    def peek(self, name: str) -> Channel:
        """The channel of this name for reading; it is not added if there is none."""
        channel = self.channels.get(name)
        if channel is None:
            channel = Channel(name, self._options(name), self.forgotten_top, self.forgotten_seq)
        return channel

    def release(self, name: str) -> None:
        """Drop a channel without subscribers if it never had a publication."""
        if name in self._pinned:
            self._pinned[name] = True
            return
        channel = self.channels.get(name)
        if channel is not None and channel.top == channel.origin:
            del self.channels[name]

    def pin(self, name: str) -> None:
        """Keep this channel until `unpin`, for rows that are numbered and not appended yet.

        Makes the channel if there is none. A `release` meanwhile takes effect at `unpin`.
        """
        if name not in self._pinned:
            existed = name in self.channels
            self.channel(name)
            self._pinned[name] = not existed

    def unpin(self) -> None:
        """End all pins: the numbered rows are appended or given up."""
        pinned, self._pinned = self._pinned, {}
        for name, released in pinned.items():
            if released:
                self.release(name)

    def skip(self, publication: Publication) -> None:
        """Count a publication that could not be retained: its channel continues after it, empty."""
        self.seq = max(self.seq, publication.seq)
        self.restore(publication.channel, publication.offset, publication.seq)

    def top(self, name: str) -> int:
        """The last offset given in this channel."""
        channel = self.channels.get(name)
        return self.forgotten_top if channel is None else channel.top

    def number(self, draft: Draft, now: float, ahead: int = 0, same: int = 0) -> Publication:
        """Give the draft the next numbers and its time; the caller appends it.

        `now` is in Unix seconds; after the wall clock was set back, the time is that of the
        channel's newest row. `ahead` publications are numbered and not yet appended, `same` of
        them in this channel.
        """
        channel = self.channels.get(draft.channel)
        return Publication(
            draft.channel,
            self.epoch,
            self.seq + 1 + ahead,
            (self.forgotten_top if channel is None else channel.top) + 1 + same,
            now if channel is None or now > channel.time else channel.time,
            draft.event,
            draft.data,
            draft.tags,
            draft.info,
        )

    def append(self, publication: Publication, born: float) -> int:
        """Retain a numbered publication, made at `born`; return the number of evicted rows."""
        self.seq = publication.seq
        channel = self.channels.get(publication.channel)
        if channel is None:
            channel = self.channel(publication.channel)
        return channel.append(publication, born)

    def expire(self, now: float, watched: Callable[[str], bool]) -> tuple[int, list[str]]:
        """Evict by age, and forget channels with no rows that are neither watched nor pinned.

        `now` is by the steady clock. Returns the number of evicted rows, and the channels that
        changed.
        """
        evicted, changed = 0, []
        for name, channel in list(self.channels.items()):
            expired = channel.expire(now)
            forget = not len(channel) and not watched(name) and name not in self._pinned
            if forget:
                self.forgotten_top = max(self.forgotten_top, channel.top)
                self.forgotten_seq = max(self.forgotten_seq, channel.floor_seq)
                del self.channels[name]
            if expired or forget:
                changed.append(name)
            evicted += expired
        return evicted, changed

    def resume(self, name: str, position: Position) -> Resumption:
        """The publications after `position` in one channel; an empty epoch means the current."""
        channel, offset = self.peek(name), position.offset
        return self._resume(
            position.epoch or self.epoch,
            offset > channel.top,
            offset < channel.floor,
            [(channel, offset)],
        )

    def read(self, names: Sequence[str], start: Start, limited: bool = True) -> Resumption:
        """The publications of these channels from `start` on, in order; `last` is over all.

        Unless `limited`, `recovery_limit` does not count.
        """
        channels = [self.peek(name) for name in names]
        if start.since is not None:
            seq = start.since.seq
            return self._resume(
                start.since.epoch,
                seq > self.seq,
                any(seq < channel.floor_seq for channel in channels),
                [(channel, channel.offset_at(seq)) for channel in channels],
                limited,
            )
        if start.oldest:
            return Resumption(in_order(channel.after(0) for channel in channels))
        last = start.last or 0
        rows = in_order(channel.last(last) for channel in channels)
        return Resumption(rows[-last:] if last else ())

    def _resume(
        self,
        epoch: str,
        ahead: bool,
        evicted: bool,
        offsets: list[tuple[Channel, int]],
        limited: bool = True,
    ) -> Resumption:
        """Decide whether a reader can continue after these offsets."""
        if epoch != self.epoch:
            return Resumption(reason="epoch")
        if ahead:
            return Resumption(reason="ahead")
        if evicted:
            return Resumption(reason="evicted")
        if limited and any(c.top - offset > c.options.recovery_limit for c, offset in offsets):
            return Resumption(reason="limit")
        return Resumption(in_order(channel.after(offset) for channel, offset in offsets))


def in_order(channels: Iterable[list[Publication]]) -> list[Publication]:
    """The publications of several channels in the order in which they were published."""
    lists = [rows for rows in channels if rows]
    if len(lists) == 1:
        return lists[0]
    return sorted((row for rows in lists for row in rows), key=lambda row: row.seq)
