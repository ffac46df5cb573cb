"""Passes: what was published goes out to an audience, a turn's worth at a time.

1. What is published alone has been sent when `put` returns, to the first `SLICE` subscribers;
   the others follow in the next turns of the reactor.
2. A pass is finished before the next one of the same audience begins.
3. After a pass that took some time the next begins half that time later at the earliest. What was
   published meanwhile goes out together, as one send for each subscriber, each publication
   a frame still.
4. In one turn no more than about `SLICE` are sent to, whatever the number of audiences; those
   that have more to send take turns. So nobody's flood keeps the rest of the server waiting.
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
"""A frame of so many bytes takes as long to send as two small ones."""

SOCKET_BYTES = 524_288
"""What a socket takes at once at the most."""

JOINED_BYTES = 131_072
"""What goes out together at the most; twice as much fits into a socket that is read."""

REST = 0.5
LONGEST_REST = 1.0
"""In seconds."""

QUEUE_BYTES = 4_194_304

_FLUSHED = object()


class Timer(Protocol):
    """A later turn."""

    def callLater(self, delay: float, call: Callable[[], object], /) -> object:
        """Call after so many seconds; after 0, in the next turn."""


class FanOut:
    """The passes of all audiences. `report` is told what failed, from within the except clause.

    `monotonic` is the steady clock.
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
        # Of each audience that is in the line or resting: how long its pass has taken so far.
        self._seconds: dict[Audience, float] = {}
        # Of each audience that has had a pass: when the next may begin.
        self._rests_until: dict[Audience, float] = {}
        self._sending = False
        self._turn_comes = False

    def room(self, audience: Audience) -> bool:
        """Whether more may be published to this audience."""
        return audience.queued_bytes <= QUEUE_BYTES

    def put(self, audience: Audience, publication: Publication) -> None:
        """Queue what was published; `go_on` sends it."""
        audience.put(publication)
        if audience not in self._seconds:
            self._plan(audience)

    def forget(self, audience: Audience) -> None:
        """Drop what is queued for an audience of which all have left."""
        audience.queue.clear()
        self._rests_until.pop(audience, None)

    def go_on(self) -> None:
        """Send what there is to send in this turn."""
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
            self.go_on()

    def _turn(self) -> None:
        self._turn_comes = False
        self._left = SLICE
        self.go_on()

    def _plan(self, audience: Audience) -> None:
        """Arrange for the next pass."""
        self._seconds[audience] = 0.0
        rest = min(self._rests_until.get(audience, 0.0) - self._monotonic(), LONGEST_REST)
        if rest > 0:
            self._resting[audience] = None
            self._timer.callLater(rest, lambda: self._rested(audience))
        else:
            self._line.append(audience)

    def _rested(self, audience: Audience) -> None:
        if self._resting.pop(audience, _FLUSHED) is not _FLUSHED:
            self._line.append(audience)
            self.go_on()

    def _slice(self, audience: Audience) -> None:
        """Send to some of an audience, beginning a pass if none is under way."""
        began = self._monotonic()
        if not audience.parts and audience.queue:
            audience.begin(JOINED_BYTES, self._encode)
        self._left -= self._send(audience.parts)
        audience.parts = [part for part in audience.parts if part.group]
        now = self._monotonic()
        self._seconds[audience] += now - began
        if audience.parts:
            self._line.append(audience)
            return
        seconds = self._seconds.pop(audience)
        if audience.size:
            self._rests_until[audience] = now + seconds * REST
        if audience.queue:
            self._plan(audience)

    def _send(self, parts: list[Part]) -> int:
        """Send to a slice of them, and say what it cost.

        First to all who are ready, as what is sent to the others may run anybody's code.
        """
        spent = 0
        for send in (self._send_ready, self._send_others):
            for part in parts:
                if spent < SLICE:
                    cost = 1 + min(len(part.frame), SOCKET_BYTES) // UNIT
                    spent += cost * send(part, max(1, (SLICE - spent) // cost))
        return spent

    def _send_ready(self, part: Part, most: int) -> int:
        """The fast way: nothing of ours runs between two sends.

        No callback runs either until all bytes that sockets did not take are queued: the
        first that are queued for a peer never exceed its bound, so `send_rest` drops nobody.
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

    def _encode(self, shape: Format, batch: list[Publication]) -> bytes:
        try:
            return shape.publications(batch)
        except Exception:
            if len(batch) == 1:
                self._report("a publication could not be encoded; the other formats go on")
                return b""
        good = [publication for publication in batch if self._encode(shape, [publication])]
        return shape.publications(good) if good else b""
