"""Who hears what: subscribers by channel, and the fan-out of each publication."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from pushserver.audience import Audience, Direct, Group, Subscriber
from pushserver.broker import Broker, Unavailable
from pushserver.channel import Draft, Position, Publication, Receipt, Resumption
from pushserver.cursor import Cursor, Start
from pushserver.formats import Format
from pushserver.history import History, in_order
from pushserver.metrics import Metrics


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

    `offsets` has each channel's position at `cursor`.
    """

    cursor: Cursor
    offsets: dict[str, int]
    publications: Sequence[Publication]
    recovered: bool = False
    """Whether it goes on from a cursor that was given."""
    reason: str = ""


_GONE = object()

Change = Callable[[str, Subscriber], None]


class Hub:
    """The local registry. Everything of one call happens in the caller's turn.

    `report` is told of a subscriber that raised, from within the except clause. `on_join`
    and `on_leave` are called with the channel and the subscriber, after the fact.
    """

    def __init__(self, broker: Broker, report: Callable[[str], None]):
        self.on_join: list[Change] = []
        self.on_leave: list[Change] = []
        self._closed = False
        self._broker = broker
        self._report = report
        self._audiences: dict[str, Audience] = {}
        self._waiting: deque[Publication] = deque()
        self._passing = False
        broker.attach(self.deliver)

    @property
    def metrics(self) -> Metrics:
        """The counters."""
        return self._broker.metrics

    @property
    def history(self) -> History:
        """The log, to read from."""
        return self._broker.history

    async def publish(self, draft: Draft) -> Receipt:
        """Number, keep and deliver; raises Unavailable, and then nothing happened."""
        try:
            if self._closed:
                raise Unavailable("the server is shutting down", "stopping")
            return await self._broker.publish(draft)
        except Unavailable as error:
            self.metrics.refusals[error.cause] += 1
            raise

    async def clear(self, channel: str) -> None:
        """Drop the channel's history; raises Unavailable."""
        await self._broker.clear(channel)

    def expire(self, now: float) -> None:
        """Evict by age (`now` in Unix seconds), and forget what nobody needs any more."""
        self._broker.expire(now, lambda channel: channel in self._audiences)

    def close(self) -> None:
        """Take no more publications."""
        self._closed = True

    def deliver(self, publication: Publication) -> None:
        """Send to everybody who watches the channel.

        A publication that arrives while another is being delivered (a subscriber's `send`
        that publishes) waits until that one has reached everybody.
        """
        self._waiting.append(publication)
        if self._passing:
            return
        self._passing = True
        try:
            while self._waiting:
                self._pass(self._waiting.popleft())
        finally:
            self._passing = False

    async def subscribe(
        self, subscriber: Subscriber, channel: str, position: Position | None, last: int
    ) -> Joined:
        """Add the subscriber, and say what it has to be sent before anything live.

        That is what it missed since `position`, or else the `last` so many publications.
        """
        history = self._broker.history
        audience = self._join(subscriber, channel)
        if position is None:
            rows = history.peek(channel).last(last, audience.delivered)
            return Joined(history.epoch, audience.delivered, rows)
        resumed = history.resume(channel, position, audience.delivered)
        self.metrics.resumed(resumed.reason)
        return Joined(history.epoch, audience.delivered, resumed.publications, resumed.reason)

    async def follow(
        self, subscriber: Subscriber, channels: Sequence[str], start: Start
    ) -> Following:
        """Add the subscriber to all these channels, as one stream with one cursor."""
        history = self._broker.history
        delivered = {name: self._join(subscriber, name).delivered for name in channels}
        resumed = self._resume(delivered, start)
        rows = resumed.publications
        cursor = Cursor(history.epoch, rows[0].seq - 1 if rows else self._delivered())
        recovered = start.since is not None and resumed.recovered
        if start.since is not None and recovered:
            cursor = start.since
        offsets = dict(delivered)
        for row in reversed(rows):
            offsets[row.channel] = row.offset - 1
        return Following(cursor, offsets, rows, recovered, resumed.reason)

    def unsubscribe(self, subscriber: Subscriber, channel: str) -> bool:
        """Forget the subscriber in this channel; False if it was not there."""
        audience = self._audiences.get(channel)
        if audience is None or not audience.discard(subscriber):
            return False
        if not audience.size:
            del self._audiences[channel]
            self._broker.history.release(channel)
        for left in self.on_leave:
            left(channel, subscriber)
        return True

    def hold(self, subscriber: Subscriber, channels: Iterable[str], direct: Direct) -> None:
        """From now on `send` is called for this subscriber, and no longer `direct`."""
        for group in self._groups(subscriber, channels):
            if group.ready.pop(direct, None) is not None:
                group.others[subscriber] = None

    def release(self, subscriber: Subscriber, channels: Iterable[str]) -> None:
        """From now on the subscriber's `direct` may be called again."""
        for group in self._groups(subscriber, channels):
            if group.others.pop(subscriber, _GONE) is not _GONE:
                group.add(subscriber)

    def _groups(self, subscriber: Subscriber, channels: Iterable[str]) -> Iterator[Group]:
        for channel in channels:
            audience = self._audiences.get(channel)
            group = None if audience is None else audience.groups.get(subscriber.format)
            if group is not None:
                yield group

    def size(self, channel: str) -> int:
        """How many watch the channel."""
        audience = self._audiences.get(channel)
        return 0 if audience is None else audience.size

    def subscribers(self, channel: str) -> list[Subscriber]:
        """Who watches the channel."""
        audience = self._audiences.get(channel)
        return [] if audience is None else list(audience)

    def channels(self) -> dict[str, int]:
        """The channels that somebody watches, and how many do."""
        return {name: audience.size for name, audience in self._audiences.items()}

    def _join(self, subscriber: Subscriber, channel: str) -> Audience:
        audience = self._audiences.get(channel)
        if audience is None:
            # The channel's object holds its numbers still for as long as somebody watches.
            top = self._broker.history.channel(channel).top
            audience = Audience(top - sum(p.channel == channel for p in self._waiting))
            self._audiences[channel] = audience
        if audience.add(subscriber):
            for joined in self.on_join:
                joined(channel, subscriber)
        return audience

    def _delivered(self) -> int:
        """The seq of the last publication whose pass began."""
        return self._waiting[0].seq - 1 if self._waiting else self._broker.history.seq

    def _resume(self, delivered: dict[str, int], start: Start) -> Resumption:
        history = self._broker.history
        if start.since is not None:
            since, upto = start.since, self._delivered()
            resumed = history.resume_seq(delivered, since.epoch, since.seq, upto)
            self.metrics.resumed(resumed.reason)
            return resumed
        if start.oldest:
            return Resumption(
                in_order(history.peek(n).after(0, upto) for n, upto in delivered.items())
            )
        last = start.last or 0
        rows = in_order(history.peek(n).last(last, upto) for n, upto in delivered.items())
        return Resumption(rows[-last:] if last else ())

    def _pass(self, publication: Publication) -> None:
        audience = self._audiences.get(publication.channel)
        if audience is None or publication.offset <= audience.delivered:
            return
        expected = audience.delivered + 1
        audience.delivered = publication.offset
        if publication.offset != expected:
            self._tell_gap(publication.channel, audience)
            return
        # Those who are there now: who joins meanwhile has it from the history, and who is
        # drained or blocked meanwhile is sent to once all the same.
        present = [
            (group, frame, tuple(group.others))
            for shape, group in audience.groups.items()
            if (frame := self._encode(shape, publication)) is not None
        ]
        for group, frame, _ in present:
            self._send_ready(group, frame)
        for group, frame, others in present:
            for subscriber in others:
                if subscriber in group:
                    self._send(subscriber, frame)

    def _encode(self, shape: Format, publication: Publication) -> bytes | None:
        try:
            return shape.publication(publication)
        except Exception:
            self._report("a publication could not be encoded; the other formats go on")
            return None

    def _send_ready(self, group: Group, frame: bytes) -> None:
        """The fast way: nothing of ours runs between two sends.

        Nor does anything before what a socket did not take is in its place: nobody's first
        bytes to wait are too many, so `held` has nobody to drop.
        """
        size = len(frame)
        short: list[tuple[Direct, int]] = []
        for direct in group.ready:
            try:
                taken = direct(frame)
            except OSError:
                taken = 0
            if taken != size:
                short.append((direct, taken))
        self.metrics.deliveries += len(group.ready)
        for direct, taken in short:
            self._guard(group.ready[direct].held, frame[taken:])

    def _send(self, subscriber: Subscriber, frame: bytes) -> None:
        if self._guard(subscriber.send, frame):
            self.metrics.deliveries += 1

    def _guard(self, send: Callable[[bytes], None], frame: bytes) -> bool:
        try:
            send(frame)
        except Exception:
            self._report("a subscriber failed; the others go on")
            return False
        return True

    def _tell_gap(self, channel: str, audience: Audience) -> None:
        """A broker that skipped an offset: nobody here may believe to have seen everything."""
        for subscriber in tuple(audience):
            self.metrics.gaps += 1
            self.unsubscribe(subscriber, channel)
            subscriber.insufficient(channel)
