"""Who hears what: subscribers by channel, and the way of each publication to them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pushserver.channels.history import History
from pushserver.channels.position import Cursor, Position, Start
from pushserver.channels.publication import Publication
from pushserver.hub.audience import Audience, Subscriber
from pushserver.hub.fanout import FanOut, Timer
from pushserver.hub.metrics import Metrics


@dataclass(frozen=True, slots=True)
class Joined:
    """Where a subscriber begins in a channel: with `publications`, and live after `offset`."""

    epoch: str
    offset: int
    publications: Sequence[Publication]
    reason: str = ""
    """Why the position that was asked for could not be resumed from; empty if it was."""


@dataclass(frozen=True, slots=True)
class Following:
    """Where a reader of several channels begins: after `cursor` with `publications`, then live.

    `audience` is what it is in now; `offsets` has each channel's position at `cursor`.
    """

    audience: str
    cursor: Cursor
    offsets: dict[str, int]
    publications: Sequence[Publication]
    recovered: bool = False
    """Whether it goes on from a cursor that was given."""
    reason: str = ""


Change = Callable[[str, Subscriber], None]


class Hub:
    """The local registry.

    A subscriber is in audiences: that of each of its channels, by the channel's name, or one of
    all of them together (`follow`), whose publications come in one order. `report` is told
    of a subscriber that raised, from within the except clause. `on_join` and `on_leave`
    are called with the channel and the subscriber, after the fact.
    """

    def __init__(
        self,
        history: History,
        metrics: Metrics,
        timer: Timer,
        monotonic: Callable[[], float],
        report: Callable[[str], None],
    ):
        self.on_join: list[Change] = []
        self.on_leave: list[Change] = []
        self.history = history
        self.metrics = metrics
        self._report = report
        self._fan_out = FanOut(metrics, timer, monotonic, report)
        self._audiences: dict[str, Audience] = {}
        self._by_channel: dict[str, list[Audience]] = {}

    def has_room(self, channel: str) -> bool:
        """Whether the queues of all that watch the channel can take another publication."""
        room = self._fan_out.room
        return all(room(audience) for audience in self._by_channel.get(channel, ()))

    def flush(self) -> None:
        """Send all queued publications now."""
        self._fan_out.flush()

    def deliver(self, publication: Publication) -> None:
        """Send to everybody who watches the channel; see `fanout` for when."""
        channel = publication.channel
        gapped: list[Audience] = []
        for audience in tuple(self._by_channel.get(channel, ())):
            expected = audience.tops[channel] + 1
            if publication.offset < expected:
                continue
            audience.tops[channel] = publication.offset
            if publication.offset == expected:
                self._fan_out.put(audience, publication)
            else:
                gapped.append(audience)
        if gapped:
            self._tell_gap(channel, gapped)
        self._fan_out.resume()

    async def subscribe(
        self, subscriber: Subscriber, channel: str, position: Position | None, last: int
    ) -> Joined:
        """Add the subscriber, and say what it has to be sent before anything live.

        That is what it missed since `position`, or else the `last` so many publications.
        """
        history = self.history
        self._join(subscriber, channel, (channel,))
        top = history.top(channel)
        if position is None:
            return Joined(history.epoch, top, history.peek(channel).last(last))
        resumed = history.resume(channel, position)
        self.metrics.resumed(resumed.reason)
        return Joined(history.epoch, top, resumed.publications, resumed.reason)

    async def follow(
        self, subscriber: Subscriber, channels: Sequence[str], start: Start
    ) -> Following:
        """Add the subscriber to all these channels, as one stream with one cursor."""
        history = self.history
        # No channel's name has a space in it.
        name = " ".join(sorted(channels))
        self._join(subscriber, name, channels)
        resumed = history.read(channels, start)
        rows = resumed.publications
        cursor = Cursor(history.epoch, rows[0].seq - 1 if rows else history.seq)
        recovered = start.since is not None and resumed.recovered
        if start.since is not None:
            self.metrics.resumed(resumed.reason)
            cursor = start.since if recovered else cursor
        offsets = {channel: history.top(channel) for channel in channels}
        for row in reversed(rows):
            offsets[row.channel] = row.offset - 1
        return Following(name, cursor, offsets, rows, recovered, resumed.reason)

    def unsubscribe(self, subscriber: Subscriber, name: str) -> bool:
        """Forget the subscriber in this audience; False if it was not there."""
        audience = subscriber.audiences.get(name)
        if audience is None:
            return False
        audience.remove(subscriber)
        if not audience.size:
            self._dissolve(audience)
        for channel in audience.tops:
            for left in self.on_leave:
                left(channel, subscriber)
        return True

    def is_watched(self, channel: str) -> bool:
        return channel in self._by_channel

    def size(self, channel: str) -> int:
        """How many watch the channel."""
        return sum(audience.size for audience in self._by_channel.get(channel, ()))

    def subscribers(self, channel: str) -> list[Subscriber]:
        """Who watches the channel."""
        return [s for audience in self._by_channel.get(channel, ()) for s in audience]

    def channels(self) -> dict[str, int]:
        """The channels that somebody watches, and how many do."""
        return {channel: self.size(channel) for channel in self._by_channel}

    def _join(self, subscriber: Subscriber, name: str, channels: Sequence[str]) -> None:
        audience = self._audiences.get(name)
        if audience is None:
            audience = self._convene(name, channels)
        if audience.add(subscriber):
            for channel in channels:
                for joined in self.on_join:
                    joined(channel, subscriber)

    def _convene(self, name: str, channels: Sequence[str]) -> Audience:
        # The channel's object holds its numbers still for as long as somebody watches.
        tops = {channel: self.history.channel(channel).top for channel in channels}
        audience = self._audiences[name] = Audience(name, tops)
        for channel in tops:
            self._by_channel.setdefault(channel, []).append(audience)
        return audience

    def _dissolve(self, audience: Audience) -> None:
        del self._audiences[audience.name]
        self._fan_out.forget(audience)
        for channel in audience.tops:
            watching = self._by_channel[channel]
            watching.remove(audience)
            if not watching:
                del self._by_channel[channel]
                self.history.release(channel)

    def _tell_gap(self, channel: str, audiences: list[Audience]) -> None:
        """A broker that skipped an offset: nobody here may believe to have seen everything.

        They are told when all of them are out: what one does about it may be to publish.
        """
        there = [(subscriber, a.name) for a in audiences for subscriber in a]
        out = [subscriber for subscriber, name in there if self.unsubscribe(subscriber, name)]
        for subscriber in out:
            self.metrics.gaps += 1
            try:
                subscriber.insufficient(channel)
            except Exception:
                self._report("a subscriber failed; the others go on")
