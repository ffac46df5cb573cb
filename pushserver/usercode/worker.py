"""A thread for calls that may block: those of one source, of handlers, or of the store."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorFromThreads
from twisted.python.failure import Failure


class Worker(Protocol):
    """Makes calls, one at a time; `ThreadWorker` makes them in a thread."""

    @property
    def busy(self) -> bool:
        """Whether a call is running or waiting."""

    def call(self, reactor: IReactorFromThreads, function: Callable[[], object]) -> Deferred[Any]:
        """Call the function; the Deferred fires in the reactor's thread."""

    def close(self) -> None:
        """Make no further calls."""


class ThreadWorker:
    """Makes its calls in a daemon thread, one after the other.

    The first call starts the thread, and so does the first one after `close`. A call that hangs
    holds up those behind it; there is never a second thread.
    """

    def __init__(self, name: str):
        self._name = name
        self._changed = threading.Condition()
        self._jobs: deque[_Job] = deque()
        self._alive = False
        self._closing = False
        self._busy = False

    @property
    def busy(self) -> bool:
        with self._changed:
            return self._busy or bool(self._jobs)

    def call(self, reactor: IReactorFromThreads, function: Callable[[], object]) -> Deferred[Any]:
        """Call the function; the Deferred fires in the reactor's thread.

        A call that is cancelled before it starts is not made; after that only its result is
        dropped. Raises RuntimeError if no thread can be started.
        """
        job = _Job(reactor, function)
        with self._changed:
            self._closing = False
            if not self._alive:
                threading.Thread(target=self._work, name=self._name, daemon=True).start()
                # The thread first waits for the lock of `_changed`, held here.
                self._alive = True
            self._jobs.append(job)
            self._changed.notify()
        return job.result

    def close(self) -> None:
        """End the thread after the waiting calls."""
        with self._changed:
            self._closing = True
            self._changed.notify()

    def _work(self) -> None:
        while (job := self._next()) is not None:
            job.run()

    def _next(self) -> _Job | None:
        with self._changed:
            self._busy = False
            while not self._jobs:
                if self._closing:
                    self._alive = False
                    return None
                self._changed.wait()
            self._busy = True
            return self._jobs.popleft()


class _Job:
    """A call, its reactor, and the Deferred of its result."""

    def __init__(self, reactor: IReactorFromThreads, function: Callable[[], object]):
        self.result: Deferred[Any] = Deferred(self._cancel)
        self._reactor = reactor
        self._function = function
        self._cancelled = False

    def run(self) -> None:
        """Make the call; runs in the thread."""
        if self._cancelled:
            return
        result: object
        try:
            result = self._function()
        except BaseException:
            result = Failure()
        # A reactor that has stopped may refuse the call.
        with suppress(Exception):
            self._reactor.callFromThread(self._deliver, result)

    def _deliver(self, result: object) -> None:
        if not self._cancelled:
            self.result.callback(result)

    def _cancel(self, _: object) -> None:
        self._cancelled = True
