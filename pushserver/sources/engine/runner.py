"""Runs one source: restarts it when it fails, and runs it on demand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from pushserver.hub.audience import Subscriber
from pushserver.sources.engine.attempt import Attempt
from pushserver.sources.engine.backoff import Backoff
from pushserver.sources.engine.environment import Environment, Plan
from pushserver.sources.engine.record import Record
from pushserver.sources.engine.throttle import Throttle
from pushserver.sources.interface import IHook

STATES = ("running", "waiting", "elsewhere", "backing off", "ended", "stopped")
"""The states of a source."""


@dataclass(frozen=True, slots=True)
class Status:
    """The status of a source; times in Unix seconds.

    `state` is `running`, `waiting` (for a subscriber), `elsewhere` (at another server, or at none
    yet), `backing off`, `ended` or `stopped`.
    `last_error` is cleared when the source works again, `last_failure` and `error_time` are
    not. `next_attempt` is set while the source backs off. `rate` is in publications a second
    over the last minute.
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
    """Runs `source`, an ISource, while the service runs.

    There is one attempt at a time: the next one starts when the last has ended or was abandoned.
    """

    _log = Logger()

    def __init__(self, source: Any, plan: Plan, environment: Environment):
        self.source = source
        self.plan = plan
        self._environment = environment
        self._record = Record(plan, environment)
        # Any server may get the requests for a hook.
        lease = "" if IHook.providedBy(source) else plan.name
        self._leases = environment.leases if lease else None
        self._throttle = Throttle(plan, environment, self._record, lease)
        self._backoff = Backoff(plan.retry_seconds, plan.retry_max_seconds)
        self._attempt: Attempt | None = None
        self._ended = False
        self._restarts = 0
        self._not_before: float | None = None
        self._update_timer: Any = None
        self._linger_timer: Any = None
        self._stop_waiters: list[Deferred[None]] = []
        self._stop_timer: Any = None

    def status(self) -> Status:
        """Return the status now."""
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
            rate=round(record.published.rate(self._environment.now()), 3),
        )

    def startService(self) -> None:
        super().startService()
        self._ended = False
        if self.plan.on_demand:
            self._environment.subscriptions.on_join.append(self._joined)
            self._environment.subscriptions.on_leave.append(self._left)
        self._update()

    def stopService(self) -> Deferred[None]:
        """Cancel the source; fires when it has ended, after `stop_seconds` at the latest.

        A source with `stop_seconds` of its own may take longer, but does not delay the result.
        """
        super().stopService()
        if self._joined in self._environment.subscriptions.on_join:
            self._environment.subscriptions.on_join.remove(self._joined)
            self._environment.subscriptions.on_leave.remove(self._left)
        self._cancel_linger_timer()
        done: Deferred[None] = Deferred()
        self._stop_waiters.append(done)
        self._update()
        if self._stop_waiters and self._stop_timer is None:
            seconds = self._environment.stop_seconds
            self._stop_timer = self._environment.reactor.callLater(seconds, self._fire_stop_waiters)
        return done

    def _fire_stop_waiters(self) -> None:
        if self._stop_timer is not None and self._stop_timer.active():
            self._stop_timer.cancel()
        self._stop_timer = None
        waiters, self._stop_waiters = self._stop_waiters, []
        for done in waiters:
            done.callback(None)

    def _state(self) -> str:
        if self._ended:
            return "ended"
        if not self.running:
            return "stopped"
        if not self._is_due():
            return "waiting"
        if not self._wanted():
            return "elsewhere"
        return "running" if self._not_before is None else "backing off"

    def _next_attempt(self) -> float | None:
        if self._not_before is None or not self._wanted():
            return None
        left = max(0.0, self._not_before - self._environment.now())
        return round(self._environment.clock() + left, 3)

    def _wanted(self) -> bool:
        """Whether an attempt should run here."""
        leases = self._leases
        return self._is_due() and (leases is None or leases.holds(self.plan.name))

    def _is_due(self) -> bool:
        """Whether an attempt should run, here or at another server."""
        if not self.running or self._ended:
            return False
        on_demand = self.plan.on_demand
        return not on_demand or self._linger_timer is not None or self._has_subscribers()

    def _has_subscribers(self) -> bool:
        return self._environment.subscriptions.size(self.plan.channel) > 0

    def _joined(self, channel: str, _: Subscriber) -> None:
        if channel == self.plan.channel:
            # Not in this turn: a publication in it would precede the reply to the subscribe.
            self._update_in(0.0)

    def _left(self, channel: str, _: Subscriber) -> None:
        if channel == self.plan.channel and not self._has_subscribers():
            self._cancel_linger_timer()
            self._linger_timer = self._environment.reactor.callLater(
                self.plan.linger_seconds, self._lingered
            )

    def _lingered(self) -> None:
        self._linger_timer = None
        self._update()

    def _cancel_linger_timer(self) -> None:
        if self._linger_timer is not None:
            self._linger_timer.cancel()
            self._linger_timer = None

    def _update_in(self, seconds: float) -> None:
        if self._update_timer is None:
            self._update_timer = self._environment.reactor.callLater(seconds, self._timer_fired)

    def _timer_fired(self) -> None:
        self._update_timer = None
        self._update()

    def _update(self) -> None:
        """Start or cancel an attempt, or set the timer for the next one."""
        leases = self._leases
        if leases is not None:
            # A source that has ended does not begin again at another server.
            wants = self._is_due() or (self.running and self._ended) or self._attempt is not None
            leases.want(self.plan.name, wants, self._update)
        if not self._wanted():
            if self._update_timer is not None:
                self._update_timer.cancel()
                self._update_timer = None
            if self._attempt is not None:
                self._attempt.cancel()
        elif self._attempt is None:
            left = 0.0 if self._not_before is None else self._not_before - self._environment.now()
            if left > 0:
                self._update_in(left)
            else:
                self._start_attempt()
        if self._attempt is None and not self.running:
            self._fire_stop_waiters()

    def _start_attempt(self) -> None:
        if self._not_before is not None:
            self._not_before = None
            self._restarts += 1
        self._attempt = Attempt(self.source, self._throttle, self._attempt_ended)
        self._attempt.start()

    def _attempt_ended(self, attempt: Attempt, failure: Failure | None) -> None:
        self._attempt = None
        if failure is not None and attempt.cancelled:
            self._record.failed("failed while stopping", failure)
        elif failure is not None:
            delay = self._backoff.failed(attempt.worked_for())
            self._not_before = self._environment.now() + delay
            self._record.failed(f"failed, and is started again in {delay:.1f} s", failure)
        elif not attempt.cancelled:
            self._ended = True
            self._log.info(
                "source {name} has ended", name=self.plan.name, event_name="source_ended"
            )
        self._update()
