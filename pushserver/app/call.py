"""One call of a handler, and its time limit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.failure import Failure

from pushserver.app.client import Client, current_client
from pushserver.app.handlers import Handler
from pushserver.usercode import fork


class Call:
    """One call of a handler, for a client or for none; `started` is set in its thread."""

    def __init__(self, handler: Handler, arguments: tuple[Any, ...], client: Client | None = None):
        self.handler = handler
        self.client = client
        self.started = False
        self._arguments = arguments

    def __call__(self) -> Any:
        self.started = True
        before = current_client.set(self.client)
        try:
            return fork.call(self.handler.function, *self._arguments)
        finally:
            current_client.reset(before)

    def late(self, seconds: float) -> str:
        """The problem when there is no result after `seconds`."""
        # The rest of another time, such as that of a stop, may be 1.99998 s.
        limit = f"{round(seconds, 2):g} s"
        if self.started:
            return f"has not answered in {limit}"
        return f"was not called: it waited for a thread (handler_threads) for {limit}"


class Late(Exception):
    """A handler exceeded its time limit."""


class TimeLimits:
    """The time limits of the calls that run; `raised_late` gets an exception after the limit."""

    def __init__(self, timer: IReactorTime, raised_late: Callable[[Handler, Failure], None]):
        self._timer = timer
        self._raised_late = raised_late
        self._timers: set[IDelayedCall] = set()

    def apply(self, call: Call, running: Deferred[Any], seconds: float) -> Deferred[Any]:
        """Return the handler's result, or fail with Late after `seconds`.

        A late handler is cancelled; it may ignore that.
        """
        if running.called:
            return running
        answer: Deferred[Any] = Deferred()

        def late() -> None:
            self._timers.discard(timer)
            answer.errback(Late())
            running.cancel()

        def over(result: Any) -> None:
            self._timers.discard(timer)
            if timer.active():
                timer.cancel()
                answer.callback(result)
            elif isinstance(result, Failure) and result.check(CancelledError) is None:
                self._raised_late(call.handler, result)

        timer: IDelayedCall = self._timer.callLater(seconds, late)
        self._timers.add(timer)
        running.addBoth(over)
        return answer

    def end(self) -> None:
        """Cancel all timers: nothing waits for a handler any more."""
        while self._timers:
            self._timers.pop().cancel()
