"""Fan-out: publications go to an audience in passes, a bounded number of sends in each turn.

1. A publication that comes alone is sent to the first `SLICE` subscribers before `resume`
   returns, and to the others in the next turns of the reactor.
2. A pass ends before the next one of the same audience starts.
3. After a pass the audience rests for half of the time that the pass took. All that is published
   meanwhile goes out together: one send for each subscriber, and still one frame for each
   publication.
4. One turn sends to about `SLICE` subscribers, whatever the number of audiences; those with more
   to send take turns. So a flood in one channel does not delay the others.
5. A queue is bounded: while more than `QUEUE_BYTES` wait there is no `room`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
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
"""A socket takes no more at once."""

JOINED_BYTES = 131_072
"""The most that goes out together; a socket whose peer reads takes twice as much."""

REST = 0.5
"""Rest after a pass, in the time that the pass took."""

LONGEST_REST = 1.0
"""In seconds."""

QUEUE_BYTES = 4_194_304


class Timer(Protocol):
    """The reactor's clock."""

    def callLater(self, delay: float, call: Callable[[], object], /) -> object:
        """Call after `delay` seconds; after 0, in the next turn."""


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
        self._line: deque[Audience] = deque()
        self._left = SLICE
        self._resting: dict[Audience, None] = {}
        # Of each audience in the line or resting: the seconds that its pass has taken so far.
        self._seconds: dict[Audience, float] = {}
        # Of each audience that has had a pass: when the next one may start.
        self._rests_until: dict[Audience, float] = {}
        self._sending = False
        self._turn_comes = False

    def room(self, audience: Audience) -> bool:
        """Whether more may be published to this audience."""
        return audience.queued_bytes <= QUEUE_BYTES

    def put(self, audience: Audience, publication: Publication) -> None:
        """Queue a publication; `resume` sends it."""
        audience.put(publication)
        if audience not in self._seconds:
            self._plan(audience)

    def forget(self, audience: Audience) -> None:
        """Drop the queue of an audience that all subscribers have left."""
        audience.queue.clear()
        self._rests_until.pop(audience, None)

    def resume(self) -> None:
        """Send as much as this turn allows."""
        if self._sending:
            return
        self._sending = True
        try:
            while self._line and self._left > 0:
                self._slice(self._line.popleft())
        finally:
            self._sending = False
        if self._left <= 0 and not self._turn_comes:
            self._turn_comes = True
            self._timer.callLater(0, self._turn)

    def flush(self) -> None:
        """Send everything that waits, without a rest."""
        while (self._line or self._resting) and not self._sending:
            self._line.extend(self._resting)
            self._resting.clear()
            self._left = SLICE
            self.resume()

    def _turn(self) -> None:
        self._turn_comes = False
        self._left = SLICE
        self.resume()

    def _plan(self, audience: Audience) -> None:
        """Put the audience in the line, at once or after its rest."""
        self._seconds[audience] = 0.0
        rest = min(self._rests_until.get(audience, 0.0) - self._monotonic(), LONGEST_REST)
        if rest > 0:
            self._resting[audience] = None
            self._timer.callLater(rest, lambda: self._rested(audience))
        else:
            self._line.append(audience)

    def _rested(self, audience: Audience) -> None:
        if audience in self._resting:
            del self._resting[audience]
            self._line.append(audience)
            self.resume()

    def _slice(self, audience: Audience) -> None:
        """Send to some of an audience; first start a pass if the last one has ended."""
        started = self._monotonic()
        if not audience.parts and audience.queue:
            audience.start_pass(JOINED_BYTES, self._encode)
        self._left -= self._send(audience.parts)
        audience.parts = [part for part in audience.parts if part.group]
        now = self._monotonic()
        self._seconds[audience] += now - started
        if audience.parts:
            self._line.append(audience)
            return
        seconds = self._seconds.pop(audience)
        if audience.size:
            self._rests_until[audience] = now + seconds * REST
        if audience.queue:
            self._plan(audience)

    def _send(self, parts: list[Part]) -> int:
        """Send to a slice of the parts' groups; returns its cost in subscribers.

        All that are ready come first: sending to the others may run code of anybody.
        """
        spent = 0
        for send in (self._send_ready, self._send_others):
            for part in parts:
                if spent < SLICE:
                    cost = 1 + min(len(part.frame), SOCKET_BYTES) // UNIT
                    spent += cost * send(part, max(1, (SLICE - spent) // cost))
        return spent

    def _send_ready(self, part: Part, most: int) -> int:
        """The fast path: no code of ours runs between two sends.

        No callback runs until all short sends are queued either. The first bytes queued for a
        peer never exceed its bound, so `send_rest` drops no subscriber.
        """
        ready, frame = part.group.ready, part.frame
        size = len(frame)
        short: list[tuple[Subscriber, int]] = []
        batch = [ready.popitem() for _ in range(min(most, len(ready)))]
        for direct, subscriber in batch:
            try:
                taken = direct(frame)
            except OSError:
                taken = 0
            if taken != size:
                short.append((subscriber, taken))
        self._metrics.deliveries += len(batch) * part.count
        for subscriber, taken in short:
            try:
                cast(Outlet, subscriber.outlet).send_rest(frame, taken)
            except Exception:
                self._report("a subscriber failed; the others go on")
        return len(batch)

    def _send_others(self, part: Part, most: int) -> int:
        others, sent = part.group.others, 0
        while others and sent < most:
            subscriber, _ = others.popitem()
            sent += 1
            try:
                subscriber.send(part.frame)
                self._metrics.deliveries += part.count
            except Exception:
                self._report("a subscriber failed; the others go on")
        return sent

    def _encode(self, format_: Format, batch: list[Publication]) -> bytes:
        try:
            return format_.publications(batch)
        except Exception:
            if len(batch) == 1:
                self._report("a publication could not be encoded; the other formats go on")
                return b""
        good = [publication for publication in batch if self._encode(format_, [publication])]
        return format_.publications(good) if good else b""
