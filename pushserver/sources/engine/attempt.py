"""One run of a source, and the feed by which it publishes."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Coroutine
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, DeferredLock
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from pushserver.channels import jsontext
from pushserver.channels.idempotency import check_key
from pushserver.channels.names import check_event, check_name
from pushserver.channels.publication import Draft, Receipt
from pushserver.errors import InvalidData
from pushserver.sources.engine.environment import Place, Plan
from pushserver.sources.engine.record import Record
from pushserver.sources.interface import ISource, SourceFailed, Stopped
from pushserver.usercode import fork
from pushserver.usercode.awaiting import awaited
from pushserver.usercode.rate import Rate

MOST_WAITING = 10_000
"""How many publications of one source may wait for their turn."""
_PER_TURN = 50
_REFUSALS = 3


class Throttle:
    """The way out that all attempts of one source share: in order, and at a bounded rate."""

    def __init__(self, plan: Plan, place: Place, record: Record):
        self.plan = plan
        self.place = place
        self.record = record
        self._rate = Rate(plan.max_rate)
        self._lock = DeferredLock()
        self._in_turn = 0

    def delay(self) -> float:
        """How long a publication would wait now."""
        return self._rate.delay(self.place.now())

    async def pass_on(self, draft: Draft, check: Callable[[], None]) -> Receipt:
        """Publish when it is its turn, if `check` then raises nothing."""
        if len(self._lock.waiting) >= MOST_WAITING:
            raise SourceFailed(f"{MOST_WAITING} publications wait already: await each of them")
        await self._lock.acquire()
        try:
            while delay := self.delay():
                self.record.slowed()
                await pause(self.place.reactor, delay)
            self._in_turn += 1
            if self._in_turn >= _PER_TURN:
                # A source that never waits itself must not keep the others from theirs.
                self._in_turn = 0
                await pause(self.place.reactor, 0)
            check()
            self._rate.take()
        finally:
            self._lock.release()
        receipt = await self.place.publish(draft)
        self.record.publication()
        return receipt


def pause(reactor: IReactorTime, seconds: float) -> Deferred[None]:
    """Fires after so many seconds, unless it is cancelled."""
    call: Any = None
    done: Deferred[None] = Deferred(lambda _: call.cancel())
    call = reactor.callLater(max(0.0, seconds), done.callback, None)
    return done


class Attempt:
    """One run. `over` is called with it at its end, and with the failure if it was that."""

    _log = Logger()

    def __init__(
        self, source: Any, throttle: Throttle, over: Callable[[Attempt, Failure | None], None]
    ):
        self.cancelled = False
        self.over = False
        self._source = source
        self._throttle = throttle
        self._tell = over
        self._works_since: float | None = None
        self._running = self._run()
        self._done: Deferred[None] | None = None
        self._deadline: Any = None

    def start(self) -> None:
        """Run it; nothing is raised."""
        self._done = Deferred.fromCoroutine(self._running)
        self._done.addCallbacks(lambda _: self._end(None), self._failed)

    def cancel(self) -> None:
        """Ask it to end; `over` is called at once, later, or when it is left behind."""
        if self.cancelled or self.over:
            return
        self.cancelled = True
        reactor = self._throttle.place.reactor
        self._deadline = reactor.callLater(self._patience(), self.leave)
        if inspect.getcoroutinestate(self._running) == inspect.CORO_RUNNING:
            # By what it published just now: it awaits nothing that could be cancelled.
            reactor.callLater(0, self._cancel)
        else:
            self._cancel()

    def leave(self) -> None:
        """Wait for it no longer."""
        if not self.over:
            self._log.warn(
                "source {name} was stopped, and goes on: it is left behind",
                name=self._throttle.plan.name,
            )
            self._end(None)

    def works(self) -> None:
        """It works."""
        if self._works_since is None:
            self._works_since = self._throttle.place.now()

    def worked_for(self) -> float | None:
        """For how many seconds it has worked; None if it never did."""
        since = self._works_since
        return None if since is None else self._throttle.place.now() - since

    def _cancel(self) -> None:
        if self._done is not None and not self.over:
            self._done.cancel()

    def _patience(self) -> float:
        own: float = getattr(self._source, "stop_seconds", 0.0)
        return own + self._throttle.place.stop_seconds

    async def _run(self) -> None:
        feed = RunnerFeed(self._throttle, self)
        await awaited(fork.call(ISource(self._source).run, feed))

    def _failed(self, failure: Failure) -> None:
        if self.cancelled and failure.check(CancelledError, Stopped) is not None:
            self._end(None)
        else:
            self._end(failure)

    def _end(self, failure: Failure | None) -> None:
        if not self.over:
            self.over = True
            if self._deadline is not None and self._deadline.active():
                self._deadline.cancel()
            self._tell(self, failure)


class RunnerFeed:
    """The Feed of one attempt."""

    def __init__(self, throttle: Throttle, attempt: Attempt):
        self.name = throttle.plan.name
        self.channel = throttle.plan.channel
        self.event = throttle.plan.event
        self.reactor = throttle.place.reactor
        self.monotonic = throttle.place.now
        self._throttle = throttle
        self._attempt = attempt
        self._process = fork.Process()
        self._thread = threading.get_ident()
        self._refused = 0

    def publish(
        self,
        data: object,
        event: str = "",
        channel: str = "",
        tags: dict[str, str] | None = None,
        key: str = "",
    ) -> Coroutine[Any, Any, Receipt]:
        # No coroutine itself: in a foreign thread nobody would await it, and hear the error.
        self._check_place()
        return self._publish(data, event, channel, tags, key)

    async def _publish(
        self, data: object, event: str, channel: str, tags: dict[str, str] | None, key: str
    ) -> Receipt:
        await self._check()
        draft = Draft(
            check_name(channel) if channel else self.channel,
            jsontext.encode(data),
            check_event(event) if event else self.event,
            _check_tags(tags),
            key=check_key(key) if key else "",
        )
        receipt = await self._throttle.pass_on(draft, self._check_open)
        self._attempt.works()
        return receipt

    def delay(self) -> float:
        return self._throttle.delay()

    def sleep(self, seconds: float) -> Coroutine[Any, Any, None]:
        self._check_place()
        return self._sleep(seconds)

    async def _sleep(self, seconds: float) -> None:
        await self._check()
        await pause(self.reactor, seconds)

    def remembered(self) -> object:
        self._check_thread()
        return self._throttle.place.memory.get(self.name)

    def remember(self, value: object) -> None:
        self._check_place()
        if self._attempt.over:
            raise self._stopped()
        self._throttle.place.memory.set(self.name, value)

    def trouble(self, message: str) -> None:
        self._check_place()
        self._throttle.record.trouble(message)

    def failed(self, what: str, failure: Failure) -> None:
        """As `trouble`, with a traceback: for what code of the user's raised."""
        self._throttle.record.failed(what, failure)

    def ok(self) -> None:
        self._check_place()
        self._throttle.record.works()
        self._attempt.works()

    def _check_place(self) -> None:
        self._process.check()
        self._check_thread()

    def _check_thread(self) -> None:
        if threading.get_ident() != self._thread:
            raise RuntimeError(
                f"the feed of source {self.name} is for the reactor's thread, and this is"
                f" {threading.current_thread().name}: return or yield what is to be published"
            )

    def _check_open(self) -> None:
        if self._attempt.cancelled or self._attempt.over:
            raise self._stopped()

    async def _check(self) -> None:
        """Raise Stopped if it is; whoever asks again and again is answered no more.

        CancelledError and Stopped are of the kind that `except Exception` takes: a loop
        around that would hold the reactor for ever.
        """
        if self._attempt.cancelled or self._attempt.over:
            self._refused += 1
            if self._refused > _REFUSALS:
                self.reactor.callLater(0, self._attempt.leave)
                await Deferred()
        self._check_open()

    def _stopped(self) -> Stopped:
        return Stopped(f"source {self.name} is stopped, and publishes nothing more")


def _check_tags(tags: Any) -> dict[str, str] | None:
    for name, value in (tags or {}).items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise InvalidData(f"tags are texts by texts, got {name!r:.60}: {value!r:.60}")
        jsontext.encode([name, value])
    return tags or None
