"""What an application runs on in a test: time that stands still, and threads that take turns."""

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

from pushserver.usercode.worker import Caller

MOST_CALLS = 10_000
"""How much may happen at one point in time."""
STUCK_SECONDS = 10.0
"""How long a thread waits for its turn."""
LOOK_SECONDS = 0.01
PATIENCE = 20
GLANCE = 5
"""How often a generator is looked for that has a thread: when it is called, and later, each time
that time passes, when it has not yielded by then. A look takes LOOK_SECONDS of real time, and
longer on a machine that is too busy for it, and so for the thread too."""


class Baton:
    """Who has it does the reactor's work: one thread at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._holder = 0
        self._depth = 0

    def held(self) -> bool:
        """Whether this thread has it."""
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
    def lent(self) -> Iterator[None]:
        """Let others have it meanwhile, as a function may wait for threads that it began."""
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


class Stage(MemoryReactorClock):
    """A reactor without sockets, whose time passes by `pass_on`.

    What a thread brings is done in that thread, so that a test may wait for it to end.
    """

    def __init__(self) -> None:
        super().__init__()
        self.baton = Baton()
        self._waiting: dict[Aside, int] = {}
        self._brought: SimpleQueue[tuple[Aside, Callable[[], object]]] = SimpleQueue()

    def advance(self, amount: float) -> None:
        # Clock's own never returns when a call asks for the next at once.
        with self.baton:
            self.rightNow += amount
            for _ in range(MOST_CALLS):
                calls: Any = self.getDelayedCalls()
                due = [call for call in calls if call.getTime() <= self.rightNow]
                if not due:
                    return
                first = min(due, key=lambda call: call.getTime())
                self.calls.remove(first)
                first.called = 1
                first.func(*first.args, **first.kw)
        raise _round_in_circles()

    def pass_on(self, seconds: float) -> None:
        """Let time pass; whatever becomes due meanwhile happens at its own time."""
        end, calls = self.seconds() + seconds, 0
        while True:
            if self._take():
                calls += 1
                if calls > MOST_CALLS:
                    raise _round_in_circles()
                continue
            with self.baton:
                times = [call.getTime() for call in self.getDelayedCalls()]
                coming = min((time for time in times if time <= end), default=None)
                step = (end if coming is None else coming) - self.seconds()
                self.advance(max(0.0, step))
            if coming is None:
                return
            calls = 0 if step > 0 else calls

    def glance(self) -> None:
        """Look again for what generators yield that were waited for in vain."""
        for worker, looks in self._waiting.items():
            self._waiting[worker] = max(looks, GLANCE)

    def callFromThread(self, call: Callable[..., object], *arguments: object) -> None:
        with self.baton:
            call(*arguments)

    def expect(self, worker: Aside) -> None:
        """It has been given a call, whose result it will bring."""
        self._waiting[worker] = PATIENCE

    def bring(self, worker: Aside, result: Callable[[], object]) -> None:
        """From its thread."""
        self._brought.put((worker, result))

    def _take(self) -> bool:
        """Take what a generator has yielded, or is about to; False when there is nothing."""
        try:
            worker, result = self._next()
        except Empty:
            self._waiting = dict.fromkeys(self._waiting, 0)
            return False
        self._waiting.pop(worker, None)
        with self.baton:
            result()
        return True

    def _next(self) -> tuple[Aside, Callable[[], object]]:
        """What was brought; raises Empty after so many looks."""
        for _ in range(max(self._waiting.values(), default=0)):
            with suppress(Empty):
                return self._brought.get(timeout=LOOK_SECONDS)
        return self._brought.get_nowait()


def _round_in_circles() -> AssertionError:
    return AssertionError("something is called again and again, and no time passes")


class Inline:
    """In place of the threads of handlers: a call has returned when it is made."""

    def __init__(self, baton: Baton | None = None):
        self._baton = baton or Baton()

    @property
    def crowded(self) -> bool:
        return False

    def call(
        self, function: Callable[[], Any], group: Hashable, must: bool = False
    ) -> Deferred[Any]:
        with self._baton.lent():
            return maybeDeferred(function)

    def close(self) -> None:
        """Nothing is open."""


class Beside:
    """In place of the worker of a source: its calls are made in the test's own thread."""

    busy = False

    def __init__(self, baton: Baton):
        self._baton = baton

    def call(self, reactor: IReactorFromThreads, function: Callable[[], object]) -> Deferred[Any]:
        found: object
        with self._baton.lent():
            try:
                found = function()
            except BaseException:
                found = Failure()
        result: Deferred[Any] = Deferred()
        result.callback(found)
        return result

    def close(self) -> None:
        """There is no thread."""


@implementer(IReactorFromThreads)
class Aside:
    """In place of the worker of a generator that waits as it likes: the same thread.

    What it yields is taken when time passes.
    """

    def __init__(self, stage: Stage, worker: Caller):
        self._stage = stage
        self._worker = worker

    @property
    def busy(self) -> bool:
        return self._worker.busy

    def call(self, reactor: IReactorFromThreads, function: Callable[[], object]) -> Deferred[Any]:
        self._stage.expect(self)
        return self._worker.call(self, function)

    def callFromThread(
        self, callable: Callable[..., object], *args: object, **kwargs: object
    ) -> None:
        """As a reactor: the result of a call."""
        self._stage.bring(self, partial(callable, *args, **kwargs))

    def close(self) -> None:
        self._worker.close()
