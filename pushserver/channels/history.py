"""The histories of all channels: numbers publications, retains them, and resumes readers."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from pushserver.channels.channel import Channel, ChannelOptions
from pushserver.channels.position import (
    ZERO,
    Cursor,
    Position,
    Start,
    Vector,
    channel_epoch,
    split_epoch,
)
from pushserver.channels.publication import Draft, Publication
from pushserver.channels.room import Room

SWEEP = 1_000
"""The channels that one call of `expire` looks at: about a millisecond."""


def new_epoch() -> str:
    """An opaque name for one unbroken numbering, without a hyphen; compare for equality only."""
    return secrets.token_hex(4)


@dataclass(frozen=True, slots=True)
class Resumption:
    """All publications after a reader's position, or the reason why it cannot resume there.

    `reason` is empty, or one of `epoch` (the position is of another numbering), `ahead` (it was
    never reached), `evicted` (some publications are gone), `limit` (there are more than
    `recovery_limit`), `history` (the reader may not read them; see `Hub`). `lost`: the channels
    for which it cannot, if it can for the others.
    """

    publications: Sequence[Publication] = ()
    reason: str = ""
    lost: Sequence[str] = ()

    @property
    def recovered(self) -> bool:
        return not self.reason


class History:
    """The channels with their publications, and the numbering over all of them.

    A channel without subscribers and publications is not kept. A channel whose rows are all
    evicted is forgotten while nobody watches it, and so is one with rows when `room` needs room;
    a watched channel then loses rows. The offsets of a new channel begin at 1. Its
    generation is the seq up to which forgotten channels of its name may have had publications
    (`Forgotten`; 0: there were none). Seqs never decrease, so a channel that comes back has
    another generation. `epoch` is that of the run, which all cursors have. The epoch of a channel
    is that of the run and its generation: in a channel, no (epoch, offset) names two publications.

    The answers to readers follow from these rules:

    - A cursor is refused (`evicted`) if a publication after it was evicted, or may have been in a
      forgotten channel of its channels' buckets.
    - A position above offset 0 is valid in its own generation alone. After its channel was
      forgotten it is refused (`epoch`), whether the channel came back or not: publications after
      the position may have come and gone, and nothing is left to tell.
    - A position of offset 0 has missed everything since its channel was created, and all
      publications of that channel have a seq above its generation. So it is the cursor of this
      seq. A reader of a channel without publications may leave, and the channel be released and
      created again: the reader recovers all publications, unless a channel of this bucket was
      forgotten in between, after a publication that was later than the generation (`evicted`).
    - An empty epoch is that of the run: a position above offset 0 without an epoch is refused in
      a channel that was forgotten before.
    - The zero position (offset 0, no epoch) recovers all retained publications.

    `history_remove` evicts all rows: a reader at the last offset continues while the channel is
    kept, and is refused once it is forgotten, at the next sweep without watchers.

    A store keeps the generation of each channel and the buckets; it writes them in the commit
    that deletes a forgotten channel. After `kill -9` a file with sync durability may still have a
    channel that this process had forgotten: that one continues in its old generation, and
    positions of offset 0 in a later one stay right, as they are cursors. With batched durability
    the run gets a new epoch, so all earlier positions and cursors are refused.

    `sharded_history` has one for channels of several logs.
    """

    def __init__(
        self,
        options: Callable[[str], ChannelOptions],
        epoch: str = "",
        seq: int = 0,
        room: Room | None = None,
    ):
        self.epoch = epoch or new_epoch()
        self.seq = seq
        self.room = room or Room()
        self.channels = self.room.channels
        self.forgotten = self.room.forgotten
        self.on_clear: Callable[[str], None] = _ignore
        """Called with the channel after its rows were removed on request."""
        self.on_release: Callable[[str], None] = _ignore
        """Called with a channel that is dropped: it has no watcher and never had a publication."""
        self._options = options
        self._followed: set[str] = set()
        self._pinned: dict[str, bool] = {}
        self._unswept: list[str] = []

    def reconfigure(self, options: Callable[[str], ChannelOptions]) -> None:
        """Change the options of all channels; the next sweep evicts by them."""
        self._options = options
        for channel in self.channels.values():
            channel.options = options(channel.name)

    def options(self, name: str) -> ChannelOptions:
        """The options of the channel of this name, whether it exists or not."""
        channel = self.channels.get(name)
        return self._options(name) if channel is None else channel.options

    def channel(self, name: str) -> Channel:
        """The channel of this name, created if there is none, and watched until `release`.

        `room.make` comes before, so that the bounds hold.
        """
        if name in self._pinned:
            self._pinned[name] = False
        channel = self.channels.get(name)
        if channel is None:
            channel = self.room.add(self.peek(name))
        if not channel.watched:
            channel.watched = True
            self.room.place(channel)
            self.room.shrink()
        return channel

    def restore(self, name: str, epoch: str, floor: int, floor_seq: int) -> Channel:
        """Make a channel whose rows up to `floor` are gone; the others are appended next."""
        channel = Channel(name, self._options(name), epoch, floor, floor_seq)
        before = self.channels.get(name)
        if before is not None:
            channel.watched = before.watched
            self.room.remove(before)
        return self.room.add(channel, name in self._pinned)

    def peek(self, name: str) -> Channel:
        """The channel of this name; it is not added if there is none. This is no use of it."""
        channel = self.channels.get(name)
        if channel is None:
            generation = self.forgotten.seq(name)
            epoch = channel_epoch(self.run(name), generation)
            channel = Channel(name, self._options(name), epoch, floor_seq=generation)
        return channel

    def open(self, name: str) -> Channel:
        """The channel of this name for a reader, which counts as a use of it."""
        channel = self.peek(name)
        if not channel.watched:
            self.room.use(channel)
        return channel

    def hold(self, name: str) -> None:
        """Have this channel until `unhold`, for a follower of it in another process.

        Makes the channel if there is none; `room.make` comes before, so that the bounds hold. While
        nobody watches it, it makes room for others as without a follower (`Room.on_forget`).
        """
        self._followed.add(name)
        if name not in self.channels:
            self.room.add(self.peek(name))
        self.open(name)

    def unhold(self, name: str, watched: bool) -> None:
        """No follower has the channel any more; `watched`: whether it has subscribers."""
        self._followed.discard(name)
        if not watched:
            self.release(name)

    def expect(self, name: str) -> None:
        """Hold a channel that a follower may be about to join, until `expect_no_more`."""
        expected = self.room.expected
        expected[name] = expected.get(name, 0) + 1
        self._place(name)

    def expect_no_more(self, name: str) -> None:
        """The follower has joined the channel, or does not; one call for each of `expect`."""
        expected = self.room.expected
        expected[name] -= 1
        if not expected[name]:
            del expected[name]
            self._place(name)
            self.room.shrink()

    def _place(self, name: str) -> None:
        channel = self.channels.get(name)
        if channel is not None:
            self.room.place(channel, name in self._pinned)

    def release(self, name: str) -> None:
        """Note that nobody watches a channel; drop it if it never had a row and is not held."""
        channel = self.channels.get(name)
        if channel is not None:
            channel.watched = False
        if name in self._pinned:
            self._pinned[name] = True
        elif channel is not None:
            if channel.top or name in self._followed:
                self.room.place(channel)
                self.room.shrink()
            else:
                self.room.remove(channel)
                self.on_release(name)

    def pin(self, name: str) -> None:
        """Keep this channel until `unpin`, for rows that are numbered and not appended yet.

        Makes the channel if there is none. A `release` meanwhile takes effect at `unpin`.
        """
        if name not in self._pinned:
            channel = self.channels.get(name)
            self._pinned[name] = channel is None
            if channel is None:
                self.room.add(self.peek(name), pinned=True)
            else:
                self.room.place(channel, pinned=True)

    def unpin(self) -> None:
        """End all pins: the numbered rows are appended or given up."""
        pinned, self._pinned = self._pinned, {}
        for name, released in pinned.items():
            channel = self.channels.get(name)
            if released:
                self.release(name)
            elif channel is not None:
                self.room.place(channel)
        self.room.shrink()

    def skip(self, publication: Publication) -> None:
        """Count a publication that could not be retained: its channel continues after it, empty."""
        self.seq = max(self.seq, publication.seq)
        numbers = publication.epoch, publication.offset, publication.seq
        self.restore(publication.channel, *numbers)

    # --- the numberings of the logs ---------------------------------------

    def run(self, name: str) -> str:
        """The epoch of the run of the channel's log."""
        return self.epoch

    def shards(self, names: Sequence[str]) -> Sequence[int]:
        """The logs of these channels, if they are in several."""
        return ()

    def of_shard(self, shard: int) -> Iterable[Channel]:
        """The channels here that are in this log."""
        return self.channels.values()

    def ends(self) -> list[Cursor]:
        """The end of each log, as far as it has come here."""
        return [Cursor(self.epoch, self.seq)]

    def reach(self, shard: int, end: Cursor) -> None:
        """Note that all publications of a log up to this one have come and were delivered."""
        self.epoch, self.seq = end.epoch, end.seq

    def cursor(self, names: Sequence[str]) -> Cursor | Vector:
        """The position of a reader that has all publications of these channels."""
        return Cursor(self.epoch, self.seq)

    def start(
        self,
        names: Sequence[str],
        rows: Sequence[Publication],
        since: Cursor | Vector | None = None,
    ) -> Cursor | Vector:
        """The position before these rows of the channels, for a reader that was at `since`."""
        return since or Cursor(self.epoch, rows[0].seq - 1 if rows else self.seq)

    def is_ahead(self, names: Sequence[str], since: Cursor | Vector) -> bool:
        """Whether the cursor may be of a publication that has not come yet."""
        return any(part.seq > self.seq for part in since.parts)

    def in_stream(self, publication: Publication, shards: Sequence[int]) -> Publication:
        """The newest publication with the cursor of a stream over several logs."""
        return publication

    # --- publications ---------------------------------------

    def top(self, name: str) -> int:
        """The last offset given in this channel."""
        channel = self.channels.get(name)
        return 0 if channel is None else channel.top

    def number(self, draft: Draft, now: float, ahead: int = 0, same: int = 0) -> Publication:
        """Give the draft the next numbers and its time; the caller appends it.

        `now` is in Unix seconds; after the wall clock was set back, the time is that of the
        channel's newest row. `ahead` publications are numbered and not yet appended, `same` of
        them in this channel.
        """
        name = draft.channel
        channel = self.channels.get(name)
        if channel is None:
            epoch, top = channel_epoch(self.epoch, self.forgotten.seq(name)), 0
        else:
            # All rows of a channel share its name.
            name = channel.name
            epoch, top = channel.epoch, channel.top
            # Not `max`: each publication comes here.
            now = now if now > channel.time else channel.time
        return Publication(
            name,
            epoch,
            self.seq + 1 + ahead,
            top + 1 + same,
            now,
            draft.event,
            draft.data,
            draft.tags,
            draft.info,
        )

    def append(self, publication: Publication, born: float) -> int:
        """Retain a numbered publication, made at `born`; return the number of evicted rows."""
        self.seq = publication.seq
        name = publication.channel
        channel = self.channels.get(name)
        if channel is None:
            channel = self.room.add(self.peek(name))
        return self.room.append(channel, publication, born, name in self._pinned)

    def follow(self, publication: Publication, born: float) -> None:
        """Retain a publication that another process has numbered.

        The numbering may have come further: other channels had the publications after this one.
        """
        seq = max(self.seq, publication.seq)
        self.append(publication, born)
        self.seq = seq

    def clear(self, name: str) -> int:
        """Evict all rows of a channel and return their number; its numbering continues."""
        channel = self.channels.get(name)
        if channel is None:
            return 0
        evicted = self.room.evict(channel, channel.clear)
        self.on_clear(name)
        return evicted

    def expire(
        self,
        now: float,
        watched: Callable[[str], bool],
        drops: Callable[[Channel], bool] | None = None,
    ) -> tuple[int, list[str]]:
        """Evict by age, and forget channels with no rows that are not in use.

        `now` is by the steady clock. `drops` decides on those with rows: whether they are forgotten
        too, unless they are in use. Returns the number of evicted rows, and the channels that
        changed. One call looks at SWEEP channels: `unswept` tells whether more are left.
        """
        evicted, changed = 0, []
        if not self._unswept:
            self._unswept = list(reversed(self.channels))
        for name in reversed(self._unswept[-SWEEP:]):
            channel = self.channels.get(name)
            if channel is None:
                continue
            expired = self.room.expire(channel, now)
            wanted = len(channel) and (drops is None or not drops(channel))
            forget = not wanted and not self._is_used(name, watched)
            if forget:
                self.room.forget(channel)
            if expired or forget:
                changed.append(name)
            evicted += expired
        del self._unswept[-SWEEP:]
        return evicted, changed

    def _is_used(self, name: str, watched: Callable[[str], bool]) -> bool:
        return name in self._pinned or name in self._followed or watched(name)

    @property
    def unswept(self) -> int:
        """The channels that the sweep has not come to yet; 0 between two sweeps."""
        return len(self._unswept)

    def resume(self, name: str, position: Position, limited: bool = True) -> Resumption:
        """The publications after `position` in one channel; the class docstring has the rules.

        Unless `limited`, `recovery_limit` does not count.
        """
        channel, offset = self.open(name), position.offset
        if position == ZERO:
            return Resumption(channel.after(0))
        epoch = position.epoch or self.run(name)
        if not offset:
            return self.read((name,), Start(since=Cursor(*split_epoch(epoch))), limited)
        if epoch != channel.epoch:
            return Resumption(reason="epoch")
        ahead, evicted = offset > channel.top, offset < channel.floor
        return self._resume(ahead, evicted, [(channel, offset)], limited)

    def read(self, names: Sequence[str], start: Start, limited: bool = True) -> Resumption:
        """The publications of these channels from `start` on, in order; `last` is over all.

        Unless `limited`, `recovery_limit` does not count.
        """
        since = start.since
        if since is not None:
            return self._after(names, since, Cursor(self.epoch, self.seq), limited)
        channels = [self.open(name) for name in names]
        if start.oldest:
            return Resumption(in_order(channel.after(0) for channel in channels))
        last = start.last or 0
        rows = in_order(channel.last(last) for channel in channels)
        return Resumption(rows[-last:] if last else ())

    def _after(
        self, names: Sequence[str], since: Cursor | Vector, end: Cursor, limited: bool
    ) -> Resumption:
        """The publications of these channels of one log after a cursor; `end` is its last one."""
        channels = [self.open(name) for name in names]
        if not isinstance(since, Cursor) or since.epoch != end.epoch:
            return Resumption(reason="epoch")
        seq = since.seq
        return self._resume(
            seq > end.seq,
            any(seq < channel.floor_seq for channel in channels),
            [(channel, channel.offset_at(seq)) for channel in channels],
            limited,
        )

    def _resume(
        self,
        ahead: bool,
        evicted: bool,
        offsets: list[tuple[Channel, int]],
        limited: bool,
    ) -> Resumption:
        """Decide whether a reader can continue after these offsets."""
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


def _ignore(channel: str) -> None:
    """No-op, until something follows the log."""
