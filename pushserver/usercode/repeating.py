"""Calls a function again and again, at an interval."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from pushserver.usercode.rate import LOGGED_AT_ONCE, LogLimiter
from pushserver.usercode.steady import steady


class Repeating:
    """Calls `call` from `start` to `stop`, also after a call that failed, which is logged.

    A LoopingCall alone would end at the first exception. The next call waits for the end of a
    coroutine or Deferred that `call` returns, and leaves out the times that have passed meanwhile.
    """

    _log = Logger()

    def __init__(self, call: Callable[[], object], reactor: IReactorTime):
        self._call = call
        self._seconds = steady(reactor)
        self._limiter = LogLimiter(LOGGED_AT_ONCE)
        self._loop = LoopingCall(self._call_once)
        self._loop.clock = reactor

    def start(self, interval: float) -> None:
        """The first call comes in `interval` seconds."""
        self._loop.start(interval, now=False)

    def stop(self) -> None:
        """Call no more; no-op if it was not started. A coroutine that waits is not cancelled."""
        if self._loop.running:
            self._loop.stop()

    def _call_once(self) -> Deferred[object]:
        return maybeDeferred(self._call).addErrback(self._failed)

    def _failed(self, failure: Failure) -> None:
        suffix = self._limiter.suffix(self._seconds())
        if suffix is not None:
            self._log.failure(
                "{function} failed, and is called again{suffix}",
                failure,
                function=getattr(self._call, "__qualname__", repr(self._call)),
                suffix=suffix,
                event_name="repeated_call_failed",
            )
