"""The order and the rate of a source's publications, and the cancellation of one."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Protocol

from twisted.internet.defer import Deferred, DeferredLock
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater

from pushserver.channels.publication import Draft, Receipt
from pushserver.sources.engine.environment import Environment, Plan
from pushserver.sources.engine.record import Record
from pushserver.sources.interface import SourceFailed
from pushserver.usercode.rate import Rate

MAX_WAITING = 10_000
"""The most publications of one source that may wait for their turn."""
_PER_TURN = 50


class Publishing(Protocol):
    """The attempt that publishes."""

    def check_open(self) -> None:
        """Raise Stopped if the attempt publishes nothing more."""

    def committing(self, outcome: Outcome) -> AbstractContextManager[None]:
        """Enter while the store has a publication."""


class Throttle:
    """Publishes for all attempts of one source, in order and at a bounded rate."""

    def __init__(self, plan: Plan, environment: Environment, record: Record, lease: str = ""):
        self.lease = lease
        """That of each publication; empty for a source that runs at all servers."""
        self.plan = plan
        self.environment = environment
        self.record = record
        self._rate = Rate(plan.max_rate)
        self._lock = DeferredLock()
        self._since_pause = 0

    def delay(self) -> float:
        """Return the seconds that a publication would wait now."""
        return self._rate.delay(self.environment.now())

    async def publish(self, draft: Draft, attempt: Publishing) -> Receipt:
        """Publish in order and within the rate, unless the attempt is stopped before.

        When this is cancelled, nothing was published: it ignores a cancellation while the store
        has the publication, and cancels the attempt again after that.
        """
        if len(self._lock.waiting) >= MAX_WAITING:
            raise SourceFailed(f"{MAX_WAITING} publications wait already: await each of them")
        await self._lock.acquire()
        try:
            while delay := self.delay():
                self.record.slowed()
                await pause(self.environment.reactor, delay)
            self._since_pause += 1
            if self._since_pause >= _PER_TURN:
                # A source that never waits must not starve the others.
                self._since_pause = 0
                await pause(self.environment.reactor, 0)
            attempt.check_open()
            self._rate.take()
        finally:
            self._lock.release()
        outcome = Outcome()
        Deferred.fromCoroutine(self._publish(draft)).chainDeferred(outcome)
        with attempt.committing(outcome):
            return await outcome

    async def _publish(self, draft: Draft) -> Receipt:
        receipt = await self.environment.publish(draft)
        self.record.publication()
        return receipt


class Outcome(Deferred[Receipt]):
    """The outcome of a publication that the store has. It notes a cancellation, and ignores it."""

    is_cancelled = False

    def cancel(self) -> None:
        self.is_cancelled = True


def pause(reactor: IReactorTime, seconds: float) -> Deferred[None]:
    """Return a Deferred that fires after `seconds`, and can be cancelled."""
    return deferLater(reactor, max(0.0, seconds))
