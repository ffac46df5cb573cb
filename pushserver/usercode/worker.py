"""A thread in which one source makes its calls, one at a time."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorFromThreads
from twisted.python.failure import Failure


class Caller(Protocol):
    """Makes calls somewhere, one at a time; `Worker` is one."""

    @property
    def busy(self) -> bool:
        """Whether a call is being made, or waits to be."""

    def call(self, reactor: IReactorFromThreads, function: Callable[[], object]) -> Deferred[Any]:
        """What the function returns or raises, on the reactor's thread."""

    def close(self) -> None:
        """There are no more calls."""


class Worker:
    """Begins a daemon thread with the first call, and another after that has ended.

    What is called goes on however long it takes; no other call is made meanwhile, in no
    thread.
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
        """Whether a call is being made, or waits to be."""
        with self._changed:
            return self._busy or bool(self._jobs)

    def call(self, reactor: IReactorFromThreads, function: Callable[[], object]) -> Deferred[Any]:
        """What the function returns or raises, brought over to the reactor's thread.

        A call that is cancelled before it has begun is not made; after that only its
        result is forgotten. Raises RuntimeError if there can be no thread now; the call is
        not made then.
        """
        job = _Job(reactor, function)
        with self._changed:
            self._closing = False
            if not self._alive:
                threading.Thread(target=self._work, name=self._name, daemon=True).start()
                # It has begun; until we let go of the lock it looks for nothing.
                self._alive = True
            self._jobs.append(job)
            self._changed.notify()
        return job.result

    def close(self) -> None:
        """Let the thread end when it has made the calls that wait."""
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
    """One call."""

    def __init__(self, reactor: IReactorFromThreads, function: Callable[[], object]):
        self.result: Deferred[Any] = Deferred(self._cancel)
        self._reactor = reactor
        self._function = function
        self._cancelled = False

    def run(self) -> None:
        """In the thread."""
        if self._cancelled:
            return
        found: object
        try:
            found = self._function()
        except BaseException:
            found = Failure()
        # A reactor that has stopped is no longer to be reached.
        with suppress(Exception):
            self._reactor.callFromThread(self._deliver, found)

    def _deliver(self, found: object) -> None:
        if not self._cancelled:
            self.result.callback(found)

    def _cancel(self, _: object) -> None:
        self._cancelled = True
