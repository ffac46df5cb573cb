"""The reactor and the threads of an application in a test: time passes when the test says so."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IReactorFromThreads
from twisted.internet.testing import MemoryReactorClock
from twisted.python.failure import Failure
from zope.interface import implementer

from pushserver.usercode.worker import Worker

MAX_CALLS = 10_000
"""How many calls may happen at one point in time."""
STUCK_SECONDS = 10.0
"""How long a thread waits for the lock of the reactor."""
LOOK_SECONDS = 0.01
FIRST_LOOKS = 20
LATER_LOOKS = 5
"""How often the reactor looks for the next value of a generator with a thread: after its call, and
again each time that time passes. A look takes LOOK_SECONDS of real time, and longer on a busy
machine, on which the thread is slower too."""


class ReactorLock:
    """The right to run code of the reactor's thread; one thread has it at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._holder = 0
        self._depth = 0

    def held(self) -> bool:
        """Whether the current thread holds the lock."""
        return self._holder == threading.get_ident()

    def __enter__(self) -> None:
        if not self.held():
            if not self._lock.acquire(timeout=STUCK_SECONDS):
                problem = "something async waits in the reactor's thread, and must not block it"
                raise RuntimeError(problem)
            self._holder = threading.get_ident()
        self._depth += 1

    def __exit__(self, *_: object) -> None:
        self._depth -= 1
        if not self._depth:
            self._holder = 0
            self._lock.release()

    @contextmanager
    def released(self) -> Iterator[None]:
        """Release the lock for a while: a function may wait for threads that it started."""
        if not self.held():
            yield
            return
        depth, self._depth, self._holder = self._depth, 0, 0
        self._lock.release()
        try:
            yield
        finally:
            self._lock.acquire()
            self._depth, self._holder = depth, threading.get_ident()


class TestReactor(MemoryReactorClock):
    """A reactor without sockets, whose time passes by `pass_time`.

    `callFromThread` calls in the calling thread, so that a test may wait for that thread.
    """

    __test__ = False

    def __init__(self) -> None:
        super().__init__()
        self.lock = ReactorLock()
        self._looks: dict[PolledWorker, int] = {}
        self._results: SimpleQueue[tuple[PolledWorker, Callable[[], object]]] = SimpleQueue()

    def advance(self, amount: float) -> None:
        # Clock.advance never returns when a call schedules the next one without a delay.
        with self.lock:
            self.rightNow += amount
            for _ in range(MAX_CALLS):
                calls: Any = self.getDelayedCalls()
                due = [call for call in calls if call.getTime() <= self.rightNow]
                if not due:
                    return
                first = min(due, key=lambda call: call.getTime())
                self.calls.remove(first)
                first.called = 1
                first.func(*first.args, **first.kw)
        raise _endless_loop()

    def pass_time(self, seconds: float) -> None:
        """Let time pass; each delayed call is made at its own time."""
        end, calls = self.seconds() + seconds, 0
        while True:
            if self._deliver_result():
                calls += 1
                if calls > MAX_CALLS:
                    raise _endless_loop()
                continue
            with self.lock:
                times = [call.getTime() for call in self.getDelayedCalls()]
                coming = min((time for time in times if time <= end), default=None)
                step = (end if coming is None else coming) - self.seconds()
                self.advance(max(0.0, step))
            if coming is None:
                return
            calls = 0 if step > 0 else calls

    def look_again(self) -> None:
        """Look again for the results of workers that had none so far."""
        for worker, looks in self._looks.items():
            self._looks[worker] = max(looks, LATER_LOOKS)

    def callFromThread(self, call: Callable[..., object], *arguments: object) -> None:
        with self.lock:
            call(*arguments)

    def expect(self, worker: PolledWorker) -> None:
        """Expect a result of the worker."""
        self._looks[worker] = FIRST_LOOKS

    def add_result(self, worker: PolledWorker, result: Callable[[], object]) -> None:
        """Queue the result of a worker; called in its thread."""
        self._results.put((worker, result))

    def _deliver_result(self) -> bool:
        """Deliver the next result of a worker; False if none came after all looks."""
        try:
            worker, result = self._next_result()
        except Empty:
            self._looks = dict.fromkeys(self._looks, 0)
            return False
        self._looks.pop(worker, None)
        with self.lock:
            result()
        return True

    def _next_result(self) -> tuple[PolledWorker, Callable[[], object]]:
        for _ in range(max(self._looks.values(), default=0)):
            with suppress(Empty):
                return self._results.get(timeout=LOOK_SECONDS)
        return self._results.get_nowait()


def _endless_loop() -> AssertionError:
    return AssertionError("something is called again and again, and no time passes")


class InlinePool:
    """A pool for handlers without threads: it calls in the thread of the caller."""

    def __init__(self, lock: ReactorLock | None = None):
        self._lock = lock or ReactorLock()

    @property
    def crowded(self) -> bool:
        return False

    def call(
        self, function: Callable[[], Any], group: Hashable, must: bool = False
    ) -> Deferred[Any]:
        with self._lock.released():
            return maybeDeferred(function)

    def close(self) -> None:
        """No-op."""


class InlineWorker:
    """A worker for a source without a thread: it calls in the thread of the test."""

    busy = False

    def __init__(self, lock: ReactorLock):
        self._lock = lock

    def call(self, reactor: IReactorFromThreads, function: Callable[[], object]) -> Deferred[Any]:
        result: object
        with self._lock.released():
            try:
                result = function()
            except BaseException:
                result = Failure()
        answer: Deferred[Any] = Deferred()
        answer.callback(result)
        return answer

    def close(self) -> None:
        """No-op."""


@implementer(IReactorFromThreads)
class PolledWorker:
    """The worker of a generator that may block, with its thread; results come as time passes."""

    def __init__(self, reactor: TestReactor, worker: Worker):
        self._reactor = reactor
        self._worker = worker

    @property
    def busy(self) -> bool:
        return self._worker.busy

    def call(self, reactor: IReactorFromThreads, function: Callable[[], object]) -> Deferred[Any]:
        self._reactor.expect(self)
        return self._worker.call(self, function)

    def callFromThread(
        self, callable: Callable[..., object], *args: object, **kwargs: object
    ) -> None:
        """Take a result from the worker, whose reactor this is."""
        self._reactor.add_result(self, partial(callable, *args, **kwargs))

    def close(self) -> None:
        self._worker.close()
