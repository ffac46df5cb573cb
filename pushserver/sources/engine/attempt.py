"""One attempt to run a source, and the feed by which the source publishes."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from pushserver.channels import jsontext
from pushserver.channels.idempotency import check_key
from pushserver.channels.names import check_event, check_name
from pushserver.channels.publication import Draft, Receipt, check_tags
from pushserver.sources.engine.throttle import Outcome, Throttle, pause
from pushserver.sources.interface import ISource, Stopped
from pushserver.usercode import fork
from pushserver.usercode.awaiting import awaited
from pushserver.usercode.stopwatch import Stopwatch

_REFUSALS = 3


class Attempt:
    """One run of a source.

    At its end `on_end` is called with the attempt, and with the failure if there is one.
    """

    _log = Logger()

    def __init__(
        self, source: Any, throttle: Throttle, on_end: Callable[[Attempt, Failure | None], None]
    ):
        self.cancelled = False
        self.ended = False
        self._source = source
        self._throttle = throttle
        self._on_end = on_end
        self._works_since: float | None = None
        self._running = self._run()
        self._done: Deferred[None] | None = None
        self._deadline: Any = None
        self._commits = 0

    def start(self) -> None:
        """Run the source; never raises."""
        self._done = Deferred.fromCoroutine(self._running)
        self._done.addCallbacks(lambda _: self._end(None), self._failed)

    def cancel(self) -> None:
        """Cancel the source; `on_end` may be called before this returns."""
        if self.cancelled or self.ended:
            return
        self.cancelled = True
        reactor = self._throttle.environment.reactor
        self._set_deadline()
        if inspect.getcoroutinestate(self._running) == inspect.CORO_RUNNING:
            # A publication of the source caused this, so it awaits nothing that could be
            # cancelled now.
            reactor.callLater(0, self._cancel)
        else:
            self._cancel()

    def abandon(self) -> None:
        """Stop waiting for the end of the source.

        The next attempt must know what was published: it waits for the store.
        """
        if self._commits:
            self._set_deadline()
        elif not self.ended:
            self._log.warn(
                "source {name} was stopped but does not end: it is abandoned",
                name=self._throttle.plan.name,
                event_name="source_abandoned",
            )
            self._end(None)

    @contextmanager
    def committing(self, outcome: Outcome) -> Iterator[None]:
        """While the store has a publication, the attempt is not abandoned.

        A cancellation that `outcome` has noted reaches the source afterwards.
        """
        self._commits += 1
        try:
            yield
        finally:
            self._commits -= 1
            if outcome.is_cancelled:
                self._throttle.environment.reactor.callLater(0, self._cancel)

    def check_open(self) -> None:
        """Raise Stopped if the source was stopped or has ended."""
        if self.cancelled or self.ended:
            raise self.stopped()

    def stopped(self) -> Stopped:
        name = self._throttle.plan.name
        return Stopped(f"source {name} is stopped, and publishes nothing more")

    def works(self) -> None:
        """Note that the source works."""
        if self._works_since is None:
            self._works_since = self._throttle.environment.now()

    def worked_for(self) -> float | None:
        """Return the seconds since the source works, or None if it never did."""
        since = self._works_since
        return None if since is None else self._throttle.environment.now() - since

    def _cancel(self) -> None:
        if self._done is not None and not self.ended:
            self._done.cancel()

    def _set_deadline(self) -> None:
        environment = self._throttle.environment
        extra: float = getattr(self._source, "stop_seconds", 0.0)
        seconds = extra + environment.stop_seconds
        self._deadline = environment.reactor.callLater(seconds, self.abandon)

    async def _run(self) -> None:
        feed = RunnerFeed(self._throttle, self)
        call: Callable[..., Any] = fork.call
        if not getattr(self._source, "is_timed", False) and not _is_own(self._source):
            call = Stopwatch(f"the source {feed.name}", is_async=True).call
        await awaited(call(ISource(self._source).run, feed), call)

    def _failed(self, failure: Failure) -> None:
        if self.cancelled and failure.check(CancelledError, Stopped) is not None:
            self._end(None)
        else:
            self._end(failure)

    def _end(self, failure: Failure | None) -> None:
        if not self.ended:
            self.ended = True
            if self._deadline is not None and self._deadline.active():
                self._deadline.cancel()
            self._on_end(self, failure)


def _is_own(source: object) -> bool:
    """Whether the source is of a built-in type: its user could not change code that blocks."""
    return type(source).__module__.startswith("pushserver.")


class RunnerFeed:
    """The Feed of one attempt."""

    def __init__(self, throttle: Throttle, attempt: Attempt):
        self.name = throttle.plan.name
        self.channel = throttle.plan.channel
        self.event = throttle.plan.event
        self.reactor = throttle.environment.reactor
        self.monotonic = throttle.environment.now
        self._throttle = throttle
        self._attempt = attempt
        self._fork_guard = fork.ForkGuard()
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
        # Not a coroutine function: in another thread nothing would await it and see the error.
        self._check_caller()
        return self._publish(data, event, channel, tags, key)

    async def _publish(
        self, data: object, event: str, channel: str, tags: dict[str, str] | None, key: str
    ) -> Receipt:
        await self._check()
        draft = Draft(
            check_name(channel) if channel else self.channel,
            jsontext.encode(data),
            check_event(event) if event else self.event,
            check_tags(tags),
            key=check_key(key) if key else "",
            lease=self._throttle.lease,
        )
        receipt = await self._throttle.publish(draft, self._attempt)
        self._attempt.works()
        return receipt

    def delay(self) -> float:
        return self._throttle.delay()

    def sleep(self, seconds: float) -> Coroutine[Any, Any, None]:
        self._check_caller()
        return self._sleep(seconds)

    async def _sleep(self, seconds: float) -> None:
        await self._check()
        await pause(self.reactor, seconds)

    def remembered(self) -> object:
        self._check_thread()
        return self._throttle.environment.memory.get(self.name)

    def remember(self, value: object) -> None:
        self._check_caller()
        if self._attempt.ended:
            raise self._attempt.stopped()
        self._throttle.environment.memory.set(self.name, value)

    def trouble(self, message: str) -> None:
        self._check_caller()
        self._throttle.record.warning(message)

    def failed(self, event: str, failure: Failure) -> None:
        """Report a failure of the user's code; as `trouble`, with a traceback."""
        self._throttle.record.failed(event, failure)

    def ok(self) -> None:
        self._check_caller()
        self._throttle.record.works()
        self._attempt.works()

    def _check_caller(self) -> None:
        self._fork_guard.check()
        self._check_thread()

    def _check_thread(self) -> None:
        if threading.get_ident() != self._thread:
            raise RuntimeError(
                f"the feed of source {self.name} is for the reactor's thread, and this is"
                f" {threading.current_thread().name}: return or yield the data instead"
            )

    async def _check(self) -> None:
        """Raise Stopped if the source was stopped; after _REFUSALS times abandon it, never return.

        `except Exception` catches CancelledError and Stopped: a source that does so in a loop
        would block the reactor for ever.
        """
        if self._attempt.cancelled or self._attempt.ended:
            self._refused += 1
            if self._refused > _REFUSALS:
                self.reactor.callLater(0, self._attempt.abandon)
                await Deferred()
        self._attempt.check_open()
