"""Every value that a source takes is published once, in order, whatever comes between."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from pushserver.errors import Unavailable
from pushserver.sources.engine.runner import Runner
from pushserver.sources.functions.adapt import adapt
from pushserver.sources.interface import Feed
from tests.unit.fakes.source_tools import SourceBench, stopped
from tests.unit.fakes.tools import Watcher, programs
from tests.unit.fakes.web import Trouble


class LateWorker:
    """A worker whose calls are made when the test says so, also after they were cancelled."""

    def __init__(self) -> None:
        self._calls: deque[tuple[Callable[[], object], Deferred[Any]]] = deque()

    @property
    def busy(self) -> bool:
        return bool(self._calls)

    def call(self, reactor: object, function: Callable[[], object]) -> Deferred[Any]:
        result: Deferred[Any] = Deferred()
        self._calls.append((function, result))
        return result

    def close(self) -> None: ...

    def work(self) -> None:
        if self._calls:
            function, result = self._calls.popleft()
            outcome: object
            try:
                outcome = function()
            except BaseException:
                outcome = Failure()
            if not result.called:
                result.callback(outcome)


class Bench:
    """A source on demand with a queue of values; `pushed` has all that were ever in it."""

    def __init__(self, kind: str, every: float | None, max_rate: float):
        self.sources = SourceBench()
        self.queue: deque[int] = deque()
        self.pushed: list[int] = []
        self.worker = LateWorker()
        source = adapt(getattr(self, kind), every, **THREAD[kind])
        if THREAD[kind].get("thread"):
            source.caller.worker = self.worker
        plan: Any = {"on_demand": True, "linger_seconds": 0.0, "max_rate": max_rate}
        self.runner: Runner = self.sources.started(source, **plan)
        self.watcher = Watcher()

    def next(self) -> int | None:
        return self.queue.popleft() if self.queue else None

    def function(self) -> int | None:
        return self.next()

    def threaded_function(self) -> int | None:
        return self.next()

    async def coroutine(self, feed: Feed) -> int | None:
        await feed.sleep(0.1)
        return self.next()

    def generator(self) -> Iterator[int | None]:
        while True:
            yield self.next()

    def threaded_generator(self) -> Iterator[int | None]:
        while True:
            yield self.next()

    async def async_generator(self, feed: Feed) -> AsyncIterator[int | None]:
        while True:
            await feed.sleep(0.1)
            yield self.next()

    def push(self) -> None:
        self.pushed.append(len(self.pushed))
        self.queue.append(self.pushed[-1])

    def watch(self) -> None:
        if not self.watcher.audiences:
            self.sources.watch(self.watcher)

    def leave(self) -> None:
        if self.watcher.audiences:
            self.sources.leave(self.watcher)

    def refuse(self) -> None:
        self.sources.refusal = Unavailable("the disk is full")

    def hold(self) -> None:
        """The store takes publications, and answers later."""
        if self.sources.held is None:
            self.sources.held = Deferred()

    def release(self) -> None:
        held, self.sources.held = self.sources.held, None
        if held is not None:
            held.callback(None)

    def accept(self) -> None:
        self.sources.refusal = None

    def wait(self, seconds: float) -> None:
        self.sources.clock.advance(seconds)

    def drain(self) -> None:
        self.accept()
        self.release()
        self.watch()
        for _ in range(4 * len(self.pushed) + 20):
            self.worker.work()
            self.wait(0.5)


THREAD: dict[str, dict[str, Any]] = {
    "function": {"thread": False},
    "threaded_function": {"thread": True},
    "coroutine": {},
    "generator": {"thread": False},
    "threaded_generator": {"thread": True},
    "async_generator": {},
}
CASES = [
    *((kind, 0.5) for kind in THREAD),
    # Not `generator`: it never waits.
    *((kind, None) for kind in ("threaded_generator", "async_generator")),
]

steps = st.one_of(
    st.sampled_from(["push", "push", "push", "watch", "watch", "leave", "refuse", "accept"]),
    st.sampled_from(["hold", "release", "work", "work"]),
    st.sampled_from([0.0, 0.1, 0.5, 1.0, 2.5]),
)


@pytest.mark.parametrize(("kind", "every"), CASES)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(program=programs(steps), max_rate=st.sampled_from([2.0, 1_000.0]))
def test_published_are_the_values_that_the_source_took(
    trouble: Trouble, kind: str, every: float | None, max_rate: float, program: list[Any]
) -> None:
    bench = Bench(kind, every, max_rate)
    for step in program:
        if isinstance(step, float):
            bench.wait(step)
        elif step == "work":
            bench.worker.work()
        else:
            getattr(bench, step)()
        published = bench.sources.published
        assert published == bench.pushed[: len(published)]
    bench.drain()
    assert bench.sources.published == bench.pushed
    stopped(bench.runner)
    bench.worker.work()
    trouble.take()
