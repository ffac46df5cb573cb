"""Runs one source: starts it again when it fails, and on demand only while somebody watches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from pushserver.hub.audience import Subscriber
from pushserver.sources.engine.attempt import Attempt, Throttle
from pushserver.sources.engine.backoff import Backoff
from pushserver.sources.engine.environment import Place, Plan
from pushserver.sources.engine.record import Record


@dataclass(frozen=True, slots=True)
class Status:
    """How a source is; times in Unix seconds.

    `state` is `running`, `waiting` (for somebody who watches), `backing off`, `ended` or
    `stopped`. `last_error` is empty once the source works again, `last_failure` and
    `error_time` stay. `next_attempt` is there while it backs off. `rate` is in publications a
    second over the last minute.
    """

    name: str
    kind: str
    channel: str
    state: str
    published: int
    last_event: float | None
    last_error: str
    last_failure: str
    error_time: float | None
    errors: int
    restarts: int
    next_attempt: float | None
    rate: float


class Runner(Service):
    """One source, from the start of the server to its end; `source` provides ISource.

    There is one attempt at a time: the next waits until the last one has ended, or was left
    behind.
    """

    _log = Logger()

    def __init__(self, source: Any, plan: Plan, place: Place):
        self.source = source
        self.plan = plan
        self._place = place
        self._record = Record(plan, place)
        self._throttle = Throttle(plan, place, self._record)
        self._backoff = Backoff(plan.retry_seconds, plan.retry_max_seconds)
        self._attempt: Attempt | None = None
        self._ended = False
        self._restarts = 0
        self._not_before: float | None = None
        self._wakes: Any = None
        self._lingers: Any = None
        self._stopping: list[Deferred[None]] = []
        self._hurries: Any = None

    def status(self) -> Status:
        """How it is now."""
        record = self._record
        return Status(
            name=self.plan.name,
            kind=self.plan.type,
            channel=self.plan.channel,
            state=self._state(),
            published=record.published.count,
            last_event=record.last_event,
            last_error=record.last_error,
            last_failure=record.last_failure,
            error_time=record.error_time,
            errors=record.errors,
            restarts=self._restarts,
            next_attempt=self._next_attempt(),
            rate=round(record.published.rate(self._place.now()), 3),
        )

    def startService(self) -> None:
        super().startService()
        self._ended = False
        if self.plan.on_demand:
            self._place.watch.on_join.append(self._joined)
            self._place.watch.on_leave.append(self._left)
        self._adjust()

    def stopService(self) -> Deferred[None]:
        """Cancel it; fires when it has ended, or when that has taken `stop_seconds`.

        One that asks for more time than that goes on for so long.
        """
        super().stopService()
        if self._joined in self._place.watch.on_join:
            self._place.watch.on_join.remove(self._joined)
            self._place.watch.on_leave.remove(self._left)
        self._stop_lingering()
        done: Deferred[None] = Deferred()
        self._stopping.append(done)
        self._adjust()
        if self._stopping and self._hurries is None:
            seconds = self._place.stop_seconds
            self._hurries = self._place.reactor.callLater(seconds, self._stopped)
        return done

    def _stopped(self) -> None:
        if self._hurries is not None and self._hurries.active():
            self._hurries.cancel()
        self._hurries = None
        stopping, self._stopping = self._stopping, []
        for done in stopping:
            done.callback(None)

    def _state(self) -> str:
        if self._ended:
            return "ended"
        if not self.running:
            return "stopped"
        if not self._wanted():
            return "waiting"
        return "running" if self._not_before is None else "backing off"

    def _next_attempt(self) -> float | None:
        if self._not_before is None or not self._wanted():
            return None
        left = max(0.0, self._not_before - self._place.now())
        return round(self._place.clock() + left, 3)

    def _wanted(self) -> bool:
        """Whether there is to be an attempt."""
        if not self.running or self._ended:
            return False
        on_demand = self.plan.on_demand
        return not on_demand or self._lingers is not None or self._watched()

    def _watched(self) -> bool:
        return self._place.watch.size(self.plan.channel) > 0

    def _joined(self, channel: str, _: Subscriber) -> None:
        if channel == self.plan.channel:
            # Not in the turn of who joined: what is published in it would come before the
            # answer to the subscribe.
            self._wake(0.0)

    def _left(self, channel: str, _: Subscriber) -> None:
        if channel == self.plan.channel and not self._watched():
            self._stop_lingering()
            self._lingers = self._place.reactor.callLater(self.plan.linger_seconds, self._lingered)

    def _lingered(self) -> None:
        self._lingers = None
        self._adjust()

    def _stop_lingering(self) -> None:
        if self._lingers is not None:
            self._lingers.cancel()
            self._lingers = None

    def _wake(self, seconds: float) -> None:
        if self._wakes is None:
            self._wakes = self._place.reactor.callLater(seconds, self._woken)

    def _woken(self) -> None:
        self._wakes = None
        self._adjust()

    def _adjust(self) -> None:
        """Begin or end an attempt, as it is to be now."""
        if not self._wanted():
            if self._wakes is not None:
                self._wakes.cancel()
                self._wakes = None
            if self._attempt is not None:
                self._attempt.cancel()
        elif self._attempt is None:
            left = 0.0 if self._not_before is None else self._not_before - self._place.now()
            if left > 0:
                self._wake(left)
            else:
                self._begin()
        if self._attempt is None and not self.running:
            self._stopped()

    def _begin(self) -> None:
        if self._not_before is not None:
            self._not_before = None
            self._restarts += 1
        self._attempt = Attempt(self.source, self._throttle, self._over)
        self._attempt.start()

    def _over(self, attempt: Attempt, failure: Failure | None) -> None:
        self._attempt = None
        if failure is not None and attempt.cancelled:
            self._record.failed("failed while it was stopped", failure)
        elif failure is not None:
            delay = self._backoff.failed(attempt.worked_for())
            self._not_before = self._place.now() + delay
            self._record.failed(f"failed, and is started again in {delay:.1f} s", failure)
        elif not attempt.cancelled:
            self._ended = True
            self._log.info("source {name} has ended", name=self.plan.name)
        self._adjust()
