"""Follows a log whose author is another process, and delivers from a part of it that it keeps.

The author numbers publications. A follower asks for a channel when the first reader of this
process wants it, and gets its retained publications with those that come afterwards, in the order
of the log. So reading, joining and resuming are here as they are at the author.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from operator import attrgetter
from typing import ClassVar, Protocol

from msgspec import Struct

from pushserver.channels.channel import Channel
from pushserver.channels.history import History
from pushserver.channels.position import Cursor
from pushserver.channels.publication import Draft, Publication, Receipt
from pushserver.config.limits import Limits
from pushserver.errors import LimitExceeded
from pushserver.hub.broker import Deliver, deliver_nothing
from pushserver.hub.metrics import Metrics

Answer = Callable[[], None]

MAX_IDLE_SECONDS = 60.0
"""A channel without subscribers is followed for about this time: its readers often come back."""


class Image(Struct, frozen=True, array_like=True):
    """The part of a channel after the offset `floor`, up to the newest publication.

    `floor_seq` is a seq that no publication up to `floor` exceeds; `ages` are those of the rows in
    seconds. The author retains no publication up to `evicted`.
    """

    channel: str
    epoch: str
    floor: int
    floor_seq: int
    rows: list[Publication]
    ages: list[float]
    evicted: int

    def continues(self, channel: Channel) -> bool:
        """Whether a follower that has this of the channel misses no publication with the image."""
        top = self.floor + len(self.rows)
        return self.epoch == channel.epoch and self.floor <= channel.top <= top


class Point(Struct, frozen=True, array_like=True):
    """The point up to which a follower has a channel; without an epoch it has nothing of it."""

    channel: str
    epoch: str = ""
    offset: int = 0


class Log(Protocol):
    """The author's log, as a follower uses it. `publish`, `clear` and `follow` raise Unavailable.

    The log calls `Follower.row`, `cleared`, `forgotten` and `install` in the order in which the
    author made the changes. The answer to a call comes after all changes that were made before it.
    """

    async def publish(self, draft: Draft) -> Receipt:
        """Append the draft, as `Broker.publish`."""

    async def clear(self, channel: str) -> None:
        """Drop the channel's history."""

    async def settle(self) -> None:
        """Wait until every caller has its answer."""

    async def follow(self, points: Sequence[Point], names: Sequence[str]) -> None:
        """Follow these channels from now on; their images have been installed.

        It waits for everything before in these channels and those of the `names`. Raises
        LimitExceeded.
        """

    def leave(self, channels: Sequence[str]) -> None:
        """Follow these channels no longer."""


class Follower:
    """A Broker of a process that delivers the publications of a log and does not number them.

    `history` has the followed channels, of which it retains as many publications as the options
    of the channel and its own bounds permit. `reset` is called with a channel whose subscribers
    cannot continue.
    """

    is_immediate: ClassVar[bool] = False

    def __init__(
        self,
        history: History,
        metrics: Metrics,
        log: Log,
        monotonic: Callable[[], float],
    ):
        self.history = history
        self.metrics = metrics
        self.reset: Callable[[str], None] = _ignore
        self._log = log
        self._monotonic = monotonic
        self._deliver: Deliver = deliver_nothing
        self._loading: dict[str, int] = {}
        # Those whose log was faster than the other ones of the same load.
        self._unreleased: list[str] = []
        # By channel that nobody here watches: the time at which a sweep first found it so. Those of
        # the last sweep, and of the present one.
        self._idle: dict[str, float] = {}
        self._still_idle: dict[str, float] = {}
        history.room.on_evict = self._evicted
        history.on_release = self._released

    # --- as a broker ---------------------------------------

    def attach(self, deliver: Deliver) -> None:
        self._deliver = deliver

    def reconfigure(self, limits: Limits, lasting: frozenset[str]) -> None:
        """Change the bounds, and the channels that outlast others (see `Room`)."""
        self.history.room.reconfigure(limits.history_total_bytes, limits.channels, lasting)

    async def publish(self, draft: Draft) -> Receipt:
        return await self._log.publish(draft)

    async def clear(self, channel: str) -> None:
        await self._log.clear(channel)

    async def settle(self) -> None:
        await self._log.settle()

    def has(self, channels: Sequence[str]) -> bool:
        return self.history.channels.keys() >= set(channels)

    async def load(self, channels: Sequence[str], fresh: bool = False) -> None:
        kept = self.history.channels
        missing = [name for name in channels if name not in kept]
        while missing or fresh:
            fresh = False
            # Otherwise each would make room for another one.
            self.history.room.check(channels)
            await self._follow(missing, channels)
            if not all(name in kept for name in missing):
                most = self.history.room.most_channels
                raise LimitExceeded(
                    f"{most} channels are watched, and no more are kept", "channels"
                )
            # Meanwhile another one may have made room for these, or lost its last watcher: they
            # are kept together.
            missing = [] if all(name in kept for name in channels) else list(channels)

    async def _follow(self, names: list[str], channels: Sequence[str]) -> None:
        for name in names:
            self._loading[name] = self._loading.get(name, 0) + 1
        try:
            await self._log.follow([Point(name) for name in names], channels)
        finally:
            for name in names:
                self._loading[name] -= 1
                if not self._loading[name]:
                    del self._loading[name]
            self._leave([name for name in names if name not in self.history.channels])

    def expire(self, now: float, watched: Callable[[str], bool]) -> bool:
        """Evict by age, and leave channels that nobody here has watched for a while.

        A slice of them at a time, as `History.expire`.
        """
        history = self.history
        self._release([])

        def used(name: str) -> bool:
            return name in self._loading or watched(name)

        _, changed = history.expire(now, used, partial(self._has_idled, now))
        self._leave([name for name in changed if name not in history.channels])
        if history.unswept:
            return True
        self._idle, self._still_idle = self._still_idle, {}
        return False

    def _has_idled(self, now: float, channel: Channel) -> bool:
        """Whether nobody here has watched the channel for a while."""
        if channel.watched or channel.name in self._loading:
            return False
        since = self._still_idle[channel.name] = self._idle.get(channel.name, now)
        return now - since >= MAX_IDLE_SECONDS

    # --- the log's changes, in their order ---------------------------------------

    def row(self, publication: Publication, skip: Sequence[str] = ()) -> None:
        """Retain the next publication of a channel, and deliver it to all clients but these."""
        history, name = self.history, publication.channel
        if name not in history.channels:
            # It was forgotten here, and the author does not know it yet.
            self._leave([name])
            return
        self._append(publication, self._monotonic(), skip)

    def cleared(self, channel: str) -> None:
        """The history of the channel was dropped; its numbers continue."""
        self.history.clear(channel)

    def forgotten(self, channel: str) -> None:
        """Drop a channel that the author has dropped; its subscribers here cannot continue."""
        kept = self.history.channels.get(channel)
        if kept is not None:
            self.history.room.remove(kept)
            self.reset(channel)

    def install(
        self, images: Sequence[Image], ends: Sequence[tuple[int, Cursor]], answer: Answer
    ) -> None:
        """Follow channels from these images on, which continue or replace the present ones.

        The missing rows of all channels are delivered in the order of the log, up to its end, or
        those of several logs. `answer` is called when all can be read; channels that nobody joins
        meanwhile may make room for others, and those that never had a publication are left.
        """
        try:
            late: list[tuple[Publication, float]] = []
            for image in images:
                late += self._restore(image)
            for row, born in sorted(late, key=_seq):
                self._append(row, born)
            for shard, end in ends:
                self.at(end, shard)
            answer()
        finally:
            self.history.unpin()
        self._release([image.channel for image in images])

    def resume(self, images: Sequence[Image], ends: Sequence[tuple[int, Cursor]]) -> None:
        """Continue with the followed channels of these logs over another link.

        Those without an image are lost. A channel that was left since it was asked for is followed
        no more.
        """
        history = self.history
        kept = [image for image in images if image.channel in history.channels]
        here = {channel.name for shard, _ in ends for channel in history.of_shard(shard)}
        for name in here - {image.channel for image in kept}:
            self.forgotten(name)
        self.install(kept, ends, lambda: None)

    def _release(self, names: list[str]) -> None:
        """Release channels that nobody has joined, unless a load of them goes on: in another log.

        The author keeps a followed channel, and whoever asks names any.
        """
        names += self._unreleased
        self._unreleased = [name for name in names if name in self._loading]
        for name in names:
            channel = self.history.channels.get(name)
            if channel is not None and not channel.watched and name not in self._loading:
                self.history.release(name)

    def _restore(self, image: Image) -> list[tuple[Publication, float]]:
        """Replace a channel, or return the rows that continue it with the time of each."""
        history, name, now = self.history, image.channel, self._monotonic()
        rows = [(row, now - age) for row, age in zip(image.rows, image.ages, strict=True)]
        before = history.channels.get(name)
        if before is not None and image.continues(before):
            # The other images may need its room.
            history.pin(name)
            history.room.evict(before, partial(before.evict_to, image.evicted))
            return [(row, born) for row, born in rows if row.offset > before.top]
        try:
            history.room.make((name,))
        except LimitExceeded:
            return []
        channel = history.restore(name, image.epoch, image.floor, image.floor_seq)
        history.pin(name)
        for row, born in rows:
            history.room.append(channel, row, born, pinned=True)
        if before is not None:
            self.reset(name)
        return []

    def _append(self, row: Publication, born: float, skip: Sequence[str] = ()) -> None:
        self.history.follow(row, born)
        self._deliver(row, skip)

    def at(self, end: Cursor, shard: int = 0) -> None:
        """The numbering of a log has come to this end."""
        self.history.reach(shard, end)

    def points(self, shard: int | None = None) -> list[Point]:
        """The points up to which this process has the channels of a log, for another link to it.

        Without `shard`, those of all logs. Watched channels come last: the author forgets the first
        ones if it has no room for all.
        """
        history = self.history
        found = history.channels.values() if shard is None else history.of_shard(shard)
        return [Point(c.name, c.epoch, c.top) for c in sorted(found, key=attrgetter("watched"))]

    def _evicted(self, channel: str, rows: int, setting: str) -> None:
        if channel not in self.history.channels:
            self._leave([channel])

    def _released(self, channel: str) -> None:
        self._leave([channel])

    def _leave(self, names: list[str]) -> None:
        gone = [name for name in names if name not in self._loading]
        if gone:
            self._log.leave(gone)


def image_of(history: History, point: Point, now: float) -> Image:
    """The image of a channel of the author's history for a follower that is at `point`.

    `now` is by the steady clock.
    """
    channel = history.channels[point.channel]
    floor, floor_seq = channel.floor, channel.floor_seq
    evicted = floor
    if point.epoch == channel.epoch and floor < point.offset <= channel.top:
        floor, floor_seq = point.offset, channel.after(point.offset - 1)[0].seq
    rows, births = channel.after(floor), channel.births(floor)
    ages = [now - born for born in births]
    return Image(channel.name, channel.epoch, floor, floor_seq, rows, ages, evicted)


def _seq(row: tuple[Publication, float]) -> int:
    return row[0].seq


def _ignore(channel: str) -> None:
    """No-op, until a node is attached."""
