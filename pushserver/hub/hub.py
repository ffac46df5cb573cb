"""Registers the subscribers of each channel, and delivers publications to them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from pushserver.channels.history import History, Resumption
from pushserver.channels.position import Cursor, Position, Start, Vector
from pushserver.channels.publication import Publication
from pushserver.errors import LimitExceeded, Unsubscribed
from pushserver.hub.audience import Audience, Subscriber
from pushserver.hub.fanout import FanOut, Timer
from pushserver.hub.metrics import Metrics
from pushserver.hub.probe import Probe


@dataclass(frozen=True, slots=True)
class Joined:
    """A subscription to a channel: `publications` first, then live ones after `offset`.

    `epoch` is that of the channel.
    """

    epoch: str
    offset: int
    publications: Sequence[Publication]
    reason: str = ""
    """The reason why the requested position was not resumed; empty if it was, or without one."""


@dataclass(frozen=True, slots=True)
class Following:
    """A stream over several channels: `publications` after `cursor` first, then live ones.

    `audience` is the name of its audience; `positions` has each channel's position at `cursor`.
    """

    audience: str
    cursor: Cursor | Vector
    positions: dict[str, Position]
    publications: Sequence[Publication]
    recovered: bool = False
    """Whether the stream continues from the requested cursor."""
    reason: str = ""
    lost: Sequence[str] = ()
    """The channels in which it does not, if it continues in the others."""


class Joiner(Subscriber, Protocol):
    """A subscriber that joins: it may end while its channels are loaded."""

    def check_not_ended(self) -> None:
        """Raise a PushServerError if it has ended."""


OnChange = Callable[[str, Subscriber], None]
FindClient = Callable[[str], Subscriber | None]


class Load(Protocol):
    """See `Broker.load`."""

    async def __call__(self, channels: Sequence[str], fresh: bool = False, /) -> None: ...


async def _has_all(channels: Sequence[str], fresh: bool = False) -> None:
    """No-op, for a history with all channels."""


class _Counted:
    """A context in which refusals are counted."""

    def __init__(self, metrics: Metrics):
        self._metrics = metrics

    def __enter__(self) -> None:
        """No-op."""

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, LimitExceeded):
            self._metrics.refusals[error.cause] += 1


class _Arrival:
    """A subscription whose channels are being loaded; one that was `ended` does not begin."""

    __slots__ = ("channels", "ended", "name")

    def __init__(self, name: str, channels: Sequence[str]):
        self.name = name
        self.channels = channels
        self.ended = False


class Hub:
    """The subscribers of this process by channel.

    A subscriber is in an audience for each of its channels (`subscribe`), or in one audience for
    all of them together (`follow`), whose publications come in one order. `report` is called in
    the except clause when a subscriber raised. `on_join` and `on_leave` are called with the
    channel and the subscriber, after the change. `load` puts channels into the history before
    they are read and joined. `find_client` finds a client by its id.
    """

    def __init__(
        self,
        history: History,
        metrics: Metrics,
        timer: Timer,
        monotonic: Callable[[], float],
        report: Callable[[str], None],
        load: Load = _has_all,
        find_client: FindClient = lambda _: None,
    ):
        self.on_join: list[OnChange] = []
        self.on_leave: list[OnChange] = []
        self.history = history
        self.metrics = metrics
        self._report = report
        self._counted = _Counted(metrics)
        self._load = load
        self._fan_out = FanOut(metrics, timer, monotonic, report)
        self._find_client = find_client
        self._audiences: dict[str, Audience] = {}
        self._arrivals: dict[Subscriber, list[_Arrival]] = {}
        self._by_channel: dict[str, list[Audience]] = {}

    def probe(self) -> Probe:
        """A subscriber that shows whether publications are delivered."""
        return Probe(self._fan_out, self.metrics)

    def has_room(self, channel: str) -> bool:
        """Whether the queue of each audience of the channel can take another publication."""
        room = self._fan_out.room
        # Not `all`: its generator costs each publication more than a channel without subscribers.
        for audience in self._by_channel.get(channel, ()):  # noqa: SIM110
            if not room(audience):
                return False
        return True

    def check_room(self, channels: Sequence[str]) -> None:
        """Raise LimitExceeded if the server cannot keep these channels besides its others."""
        with self._counted:
            self.history.room.check(channels)

    def flush(self) -> None:
        """Send all queued publications now."""
        self._fan_out.flush()

    def deliver(self, publication: Publication, skip: Sequence[str] = ()) -> None:
        """Send to the subscribers of the channel; `fanout` has the rules.

        `skip`: the ids of clients that do not get it.
        """
        channel = publication.channel
        audiences = self._by_channel.get(channel)
        if audiences is None:
            return
        skipped: list[Subscriber] = []
        if skip:
            skipped = [client for client in map(self._find_client, skip) if client is not None]
        gapped: list[Audience] = []
        for audience in tuple(audiences):
            expected = audience.tops[channel] + 1
            if publication.offset < expected:
                continue
            audience.tops[channel] = publication.offset
            if publication.offset != expected:
                gapped.append(audience)
            elif audience.has_receivers:
                row = publication
                if audience.shards:
                    row = self.history.in_stream(publication, audience.shards)
                self._fan_out.put(audience, row, skipped)
        if gapped:
            self._end_at_gap(channel, gapped)
        self._fan_out.resume()

    async def load(self, channels: Sequence[str], start: Start) -> None:
        """Have these channels in the history, up to `start`; raises as `subscribe`."""
        with self._counted:
            await self._load(channels, self._is_ahead(channels, start))

    def _is_ahead(self, channels: Sequence[str], start: Start) -> bool:
        return start.since is not None and self.history.is_ahead(channels, start.since)

    async def subscribe(
        self,
        subscriber: Joiner,
        channel: str,
        position: Position | None,
        last: int,
        past: bool = True,
        once: bool = False,
        is_loaded: bool = False,
    ) -> Joined:
        """Add the subscriber; return the publications to send before any live one.

        They are those after `position`, or without a position the `last` ones, if it may read them
        (`past`). `is_loaded`: the channel was loaded just now, up to the position if it can be had.
        Raises LimitExceeded if the server keeps no more channels, Unavailable,
        Unsubscribed if `unsubscribe` was called meanwhile, or with `once` if it has come into the
        channel meanwhile, and the error of a subscriber that has ended meanwhile.
        """
        ahead = position is not None and position.offset > self.history.top(channel)
        ahead = ahead and not is_loaded
        await self._arrive(subscriber, channel, (channel,), ahead)
        if once and channel in subscriber.audiences:
            raise Unsubscribed(f"another subscription to {channel} has begun")
        self._join(subscriber, channel, (channel,))
        log = self.history.channels[channel]
        if position is None:
            return Joined(log.epoch, log.top, log.last(last if past else 0))
        resumed = _readable(self.history.resume(channel, position), past)
        self.metrics.resumed(resumed.reason)
        return Joined(log.epoch, log.top, resumed.publications, resumed.reason)

    async def follow(
        self, subscriber: Joiner, channels: Sequence[str], start: Start, past: bool = True
    ) -> Following:
        """Add the subscriber to all these channels, as one stream with one cursor.

        `past`: whether it may read earlier publications of all of them. Raises as `subscribe`.
        """
        history = self.history
        # The name of a channel contains no space.
        name = channels[0] if len(channels) == 1 else " ".join(sorted(channels))
        await self._arrive(subscriber, name, channels, self._is_ahead(channels, start))
        self._join(subscriber, name, channels)
        resumed = _readable(history.read(channels, start), past)
        rows = resumed.publications
        recovered = start.since is not None and resumed.recovered
        if start.since is not None:
            self.metrics.resumed(resumed.reason)
        cursor = history.start(channels, rows, start.since if recovered else None)
        offsets = {row.channel: row.offset - 1 for row in reversed(rows)} if rows else {}
        positions = {}
        for channel in channels:
            log = history.channels[channel]
            positions[channel] = Position(log.epoch, offsets.get(channel, log.top))
        return Following(name, cursor, positions, rows, recovered, resumed.reason, resumed.lost)

    async def _arrive(
        self, subscriber: Joiner, name: str, channels: Sequence[str], ahead: bool
    ) -> None:
        """Load the channels for a subscriber, which may end meanwhile, or be unsubscribed."""
        arrival = _Arrival(name, channels)
        self._arrivals.setdefault(subscriber, []).append(arrival)
        try:
            with self._counted:
                await self._load(channels, ahead)
        finally:
            arrivals = self._arrivals[subscriber]
            arrivals.remove(arrival)
            if not arrivals:
                del self._arrivals[subscriber]
        subscriber.check_not_ended()
        if arrival.ended:
            raise Unsubscribed(f"the subscription to {name:.200} was ended before it began")

    def enter(self, subscriber: Subscriber, channel: str) -> None:
        """Add a subscriber whose publications another process sends; it gets none from here.

        Raises LimitExceeded if the server keeps no more channels.
        """
        self._join(subscriber, channel, (channel,), listed=True)

    def reset(self, channel: str) -> None:
        """Remove all subscribers of a channel whose log was replaced, and notify each."""
        self._end_at_gap(channel, list(self._by_channel.get(channel, ())))

    def unsubscribe(self, subscriber: Subscriber, name: str) -> bool:
        """Remove the subscriber from this audience; False if it was not in it.

        One that is about to join does not.
        """
        for arrival in self._arrivals.get(subscriber, ()):
            arrival.ended = arrival.ended or arrival.name == name
        audience = subscriber.audiences.get(name)
        if audience is None:
            return False
        audience.remove(subscriber)
        if not audience.size:
            self._dissolve(audience)
        for channel in audience.tops:
            for on_leave in self.on_leave:
                on_leave(channel, subscriber)
        return True

    def is_watched(self, channel: str) -> bool:
        return channel in self._by_channel

    def size(self, channel: str) -> int:
        """The number of subscribers of the channel."""
        return sum(audience.size for audience in self._by_channel.get(channel, ()))

    def subscribers(self, channel: str) -> list[Subscriber]:
        return [s for audience in self._by_channel.get(channel, ()) for s in audience]

    def channels_of(self, subscriber: Subscriber) -> set[str]:
        """The channels of the subscriber, and those that it is about to join."""
        found = {name for audience in subscriber.audiences.values() for name in audience.tops}
        for arrival in self._arrivals.get(subscriber, ()):
            if not arrival.ended:
                found.update(arrival.channels)
        return found

    def channels(self) -> dict[str, int]:
        """The number of subscribers of each channel that has any."""
        return {channel: self.size(channel) for channel in self._by_channel}

    def _join(
        self, subscriber: Subscriber, name: str, channels: Sequence[str], listed: bool = False
    ) -> None:
        audience = self._audiences.get(name)
        if audience is None:
            audience = self._make_audience(name, channels)
        if audience.add(subscriber, listed):
            for channel in channels:
                for on_join in self.on_join:
                    on_join(channel, subscriber)

    def _make_audience(self, name: str, channels: Sequence[str]) -> Audience:
        with self._counted:
            self.history.room.make(channels)
        # History.channel: a watched channel is not forgotten, so its numbers stay.
        tops = {channel: self.history.channel(channel).top for channel in channels}
        shards = self.history.shards(channels)
        audience = self._audiences[name] = Audience(name, tops, shards)
        for channel in tops:
            self._by_channel.setdefault(channel, []).append(audience)
        return audience

    def _dissolve(self, audience: Audience) -> None:
        del self._audiences[audience.name]
        self._fan_out.forget(audience)
        for channel in audience.tops:
            audiences = self._by_channel[channel]
            audiences.remove(audience)
            if not audiences:
                del self._by_channel[channel]
                self.history.release(channel)

    def _end_at_gap(self, channel: str, audiences: list[Audience]) -> None:
        """Remove all subscribers of the channel after a gap in its offsets, and notify each.

        All are removed before the first is notified, since that one may publish.
        """
        members = [(subscriber, a.name) for a in audiences for subscriber in a]
        removed = [subscriber for subscriber, name in members if self.unsubscribe(subscriber, name)]
        for subscriber in removed:
            self.metrics.gaps += 1
            try:
                subscriber.insufficient(channel)
            except Exception:
                self._report("a subscriber failed; the others are not affected")


def _readable(resumed: Resumption, past: bool) -> Resumption:
    """The part for a reader that may read earlier publications only with `past`."""
    return resumed if past or not resumed.publications else Resumption(reason="history")
