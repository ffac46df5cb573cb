"""Sends publications to audiences in passes, with a bounded number of sends in each turn.

1. A publication that comes alone is sent to the first `SLICE` subscribers before `resume`
   returns, and to the others in the next turns of the reactor.
2. A pass ends before the next one of the same audience starts.
3. After a pass the audience rests for half of the time that the pass took. Publications that come
   meanwhile are one batch: one send for each subscriber, and still one frame for each publication.
4. One turn sends to about `SLICE` subscribers, whatever the number of audiences; audiences with
   more to send take turns. So a flood in one channel does not delay the others.
5. A queue is bounded: while more than `QUEUE_BYTES` wait there is no `room`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol, cast

from pushserver.channels.publication import Publication
from pushserver.hub.audience import Audience, Outlet, Part, Subscriber
from pushserver.hub.metrics import Metrics
from pushserver.protocols.formats import Format

SLICE = 1_000
"""Subscribers a turn: about ten milliseconds."""

UNIT = 16_384
"""Bytes. A frame of this size takes as long to send as two small ones."""

SOCKET_BYTES = 524_288
"""The most bytes that a socket takes at once."""

JOINED_BYTES = 131_072
"""The most bytes of one batch; a socket whose peer reads takes twice as many."""

REST = 0.5
"""The rest after a pass, as a part of the time that the pass took."""

LONGEST_REST = 1.0
"""In seconds."""

QUEUE_BYTES = 4_194_304


class Timer(Protocol):
    """The reactor's clock."""

    def callLater(self, delay: float, call: Callable[[], object], /) -> object:
        """Call after `delay` seconds; after 0, in the next turn."""


class _Schedule:
    """The times of an audience's passes; `seconds` is the time that the pass has taken so far.

    `since`: the time at which the pass was planned, by its first publication or by the end of the
    pass before.
    """

    __slots__ = ("audience", "planned", "rests_until", "seconds", "since")

    def __init__(self, audience: Audience):
        self.audience = audience
        self.planned = False
        self.seconds = 0.0
        self.rests_until = 0.0
        self.since = 0.0


class FanOut:
    """The passes of all audiences.

    `report` is called with a line of context from within an except clause. `monotonic` is the
    steady clock.
    """

    def __init__(
        self,
        metrics: Metrics,
        timer: Timer,
        monotonic: Callable[[], float],
        report: Callable[[str], None],
    ):
        self._metrics = metrics
        self._timer = timer
        self._monotonic = monotonic
        self._report = report
        self._schedules: dict[Audience, _Schedule] = {}
        self._line: deque[_Schedule] = deque()
        self._left = SLICE
        self._resting: dict[_Schedule, None] = {}
        self._sending = False
        self._turn_is_planned = False

    def room(self, audience: Audience) -> bool:
        """Whether more may be published to this audience."""
        return audience.queued_bytes <= QUEUE_BYTES

    def put(
        self, audience: Audience, publication: Publication, skipped: Sequence[Subscriber] = ()
    ) -> None:
        """Queue a publication for all but the skipped ones; `resume` sends it."""
        audience.put(publication, skipped)
        schedule = self._schedules.get(audience)
        if schedule is None:
            schedule = self._schedules[audience] = _Schedule(audience)
        if not schedule.planned:
            self._plan(schedule)

    def forget(self, audience: Audience) -> None:
        """Drop the queue of an audience that all subscribers have left."""
        audience.queue.clear()
        audience.skips.clear()
        self._schedules.pop(audience, None)

    def resume(self) -> None:
        """Send as much as this turn allows."""
        if self._sending or not self._line:
            return
        self._sending = True
        try:
            while self._line and self._left > 0:
                schedule = self._line.popleft()
                try:
                    self._slice(schedule)
                except Exception:
                    self._report("a pass over an audience failed; it gets the next publications")
                    schedule.audience.give_up_pass()
                    self._left -= 1
                    self._end_pass(schedule)
        finally:
            self._sending = False
        if self._left <= 0 and not self._turn_is_planned:
            self._turn_is_planned = True
            self._timer.callLater(0, self._turn)

    def flush(self) -> None:
        """Send all queues, without rests."""
        while (self._line or self._resting) and not self._sending:
            self._line.extend(self._resting)
            self._resting.clear()
            self._left = SLICE
            self.resume()

    def _turn(self) -> None:
        self._turn_is_planned = False
        self._left = SLICE
        self.resume()

    def _plan(self, schedule: _Schedule) -> None:
        """Put the audience in the line, at once or after its rest."""
        schedule.planned = True
        schedule.since = self._monotonic()
        rest = min(schedule.rests_until - schedule.since, LONGEST_REST)
        if rest > 0:
            self._resting[schedule] = None
            self._timer.callLater(rest, lambda: self._rested(schedule))
        else:
            self._line.append(schedule)

    def _rested(self, schedule: _Schedule) -> None:
        if schedule in self._resting:
            del self._resting[schedule]
            self._line.append(schedule)
            self.resume()

    def _slice(self, schedule: _Schedule) -> None:
        """Send to a part of an audience; start a pass first if the last one has ended."""
        started = self._monotonic()
        audience = schedule.audience
        if not audience.parts and audience.queue:
            audience.start_pass(JOINED_BYTES, self._encode)
        self._left -= self._send(audience.parts)
        audience.parts = [part for part in audience.parts if part.group]
        now = self._monotonic()
        schedule.seconds += now - started
        if audience.parts:
            self._line.append(schedule)
            return
        # That of a `Probe` has no name, and is not counted.
        if audience.name:
            self._metrics.pass_seconds.observe(schedule.seconds)
            self._metrics.fanout_seconds.observe(now - schedule.since)
        schedule.rests_until = now + schedule.seconds * REST
        self._end_pass(schedule)

    def _end_pass(self, schedule: _Schedule) -> None:
        schedule.seconds = 0.0
        schedule.planned = False
        if schedule.audience.queue:
            self._plan(schedule)

    def _send(self, parts: list[Part]) -> int:
        """Send to a slice of the parts' groups; return its cost in subscribers.

        Ready subscribers come first: the `send` of the others may run any code.
        """
        spent = 0
        for part in parts:
            if spent < SLICE:
                cost = 1 + min(len(part.frame), SOCKET_BYTES) // UNIT
                spent += cost * self._send_ready(part, max(1, (SLICE - spent) // cost))
        for part in parts:
            # Mostly there are none, and a call takes longer than to look.
            if part.group.others and spent < SLICE:
                cost = 1 + min(len(part.frame), SOCKET_BYTES) // UNIT
                spent += cost * self._send_others(part, max(1, (SLICE - spent) // cost))
        return spent

    def _send_ready(self, part: Part, most: int) -> int:
        """The fast path: nothing else runs between two sends.

        No callback runs until all short sends are queued. The first bytes queued for a peer never
        exceed its bound, so `send_rest` drops no subscriber.
        """
        ready, frame = part.group.ready, part.frame
        size = len(frame)
        short: list[tuple[Subscriber, int]] = []
        batch = [ready.popitem() for _ in range(min(most, len(ready)))]
        for direct, subscriber in batch:
            try:
                taken = direct(frame)
            except Exception:
                # The outlet meets the same error, and drops the subscriber.
                taken = 0
            if taken != size:
                short.append((subscriber, taken))
        self._metrics.deliveries += len(batch) * part.count
        self._metrics.delivered_bytes += len(batch) * size
        for subscriber, taken in short:
            try:
                cast(Outlet, subscriber.outlet).send_rest(frame, taken)
            except Exception:
                self._report("a subscriber failed; the others are not affected")
        return len(batch)

    def _send_others(self, part: Part, most: int) -> int:
        others, sent = part.group.others, 0
        while others and sent < most:
            subscriber, _ = others.popitem()
            sent += 1
            try:
                subscriber.send(part.frame)
                self._metrics.deliveries += part.count
                self._metrics.delivered_bytes += len(part.frame)
            except Exception:
                self._report("a subscriber failed; the others are not affected")
        return sent

    def _encode(self, format_: Format, batch: list[Publication]) -> bytes:
        try:
            return format_.publications(batch)
        except Exception:
            if len(batch) == 1:
                self._report("a publication could not be encoded; other formats are not affected")
                return b""
        frames = [self._encode(format_, [publication]) for publication in batch]
        if format_.joins:
            return b"".join(frames)
        good = [row for row, frame in zip(batch, frames, strict=True) if frame]
        try:
            return format_.publications(good) if good else b""
        except Exception:
            self._report("a batch could not be encoded; other formats are not affected")
            return b""
