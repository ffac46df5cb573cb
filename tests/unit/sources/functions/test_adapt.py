from __future__ import annotations

import asyncio
import functools
import inspect
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from queue import SimpleQueue
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred, succeed
from zope.interface import implementer

from pushserver.errors import Unavailable
from pushserver.sources.engine.runner import Runner
from pushserver.sources.functions.adapt import adapt
from pushserver.sources.functions.ticks import SLOW_SECONDS, SLOW_TICKS
from pushserver.sources.interface import Feed, ISource
from pushserver.sources.types.random import RANDOM, Options, random_number
from tests.unit.fakes.source_tools import WAIT_SECONDS, SourceBench, stopped
from tests.unit.fakes.tools import Watcher
from tests.unit.fakes.web import Trouble

TICK = "source s: a tick failed, and the next one follows"


class Values:
    """A function that returns or raises the values in turn, and then returns 0."""

    def __init__(self, *values: Any):
        self.values = list(values)

    def __call__(self) -> Any:
        value = self.values.pop(0) if self.values else 0
        if isinstance(value, BaseException):
            raise value
        return value


class Gate:
    """A function that returns once `opened` is set."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.opened = threading.Event()
        self.calls = 0
        self.inside = 0
        self.max_inside = 0

    def __call__(self) -> int:
        self.calls += 1
        self.inside += 1
        self.max_inside = max(self.inside, self.max_inside)
        self.entered.set()
        assert self.opened.wait(WAIT_SECONDS)
        self.inside -= 1
        return self.calls


@pytest.fixture
def bench() -> SourceBench:
    return SourceBench()


@pytest.fixture(autouse=True)
def no_threads_left() -> Iterator[None]:
    """Every thread of a source ends with it."""
    yield
    for thread in threading.enumerate():
        if thread.name.startswith("source "):
            thread.join(WAIT_SECONDS)
            assert not thread.is_alive(), thread.name


def start(bench: SourceBench, target: Any, every: float | None = None, **thread: bool) -> Runner:
    return bench.started(adapt(target, every, **thread))


class TestTimer:
    """On the reactor's thread."""

    def test_timer_publishes_at_once_and_then_at_its_interval(self, bench: SourceBench) -> None:
        runner = start(bench, Values(1, 2, 3), 2.0, thread=False)
        assert bench.published == [1]
        bench.clock.advance(1.9)
        assert bench.published == [1]
        bench.clock.advance(0.1)
        bench.clock.advance(2.0)
        assert bench.published == [1, 2, 3]
        assert stopped(runner) == [None]
        assert bench.clock.getDelayedCalls() == []
        bench.clock.advance(10)
        assert len(bench.drafts) == 3

    def test_stopiteration_is_logged_with_its_line(
        self, bench: SourceBench, trouble: Trouble
    ) -> None:
        def tick() -> object:
            return next(iter([]))

        runner = start(bench, tick, 2.0, thread=False)
        assert "StopIteration" in runner.status().last_error
        shown = trouble[0]["log_failure"].getTraceback()
        assert "return next(iter([]))" in shown
        trouble.take()
        stopped(runner)

    def test_failed_tick_is_logged_and_the_timer_continues(
        self, bench: SourceBench, trouble: Trouble
    ) -> None:
        runner = start(bench, Values(1, RuntimeError("broken"), sys.exit, 4), 2.0, thread=False)
        bench.clock.advance(2)
        status = runner.status()
        assert (status.last_error, status.state) == ("RuntimeError: broken", "running")
        assert "log_failure" in trouble[0]
        bench.clock.pump([2, 2])
        assert bench.published == [1, 4]
        status = runner.status()
        assert (status.errors, status.restarts, status.last_error) == (2, 0, "")
        lines = trouble.take()
        assert lines[0] == f"{TICK}: RuntimeError('broken')"
        assert "builtin_function_or_method does not fit into JSON" in lines[1]
        stopped(runner)

    def test_repeated_failure_is_counted_and_logged_once_a_minute(
        self, bench: SourceBench, trouble: Trouble
    ) -> None:
        raised: list[Exception] = [LookupError("one")]

        def fails() -> None:
            raise raised[0]

        def fails_too() -> None:
            raise LookupError("one")

        functions = [fails]
        runner = start(bench, lambda: functions[0](), 0.5, thread=False)
        bench.clock.pump([0.5] * 119)
        assert ["log_failure" in event for event in trouble] == [True]
        assert trouble.take() == [f"{TICK}: LookupError('one')"]
        status = runner.status()
        assert (status.errors, status.last_error) == (120, "LookupError: one")
        assert status.error_time == bench.clock.seconds()
        bench.clock.pump([0.5] * 241)
        assert ["log_failure" in event for event in trouble] == [False] * 3
        again = f"{TICK}: LookupError: one (the same 120 times more in 60 s)"
        assert trouble.take() == [again] * 3
        bench.clock.pump([0.5] * 7)
        # The same message from another line of code.
        functions[0] = fails_too
        bench.clock.pump([0.5, 0.5])
        functions[0], raised[0] = fails, LookupError("two")
        bench.clock.pump([0.5, 0.5])
        assert ["log_failure" in event for event in trouble] == [True, True]
        assert trouble.take() == [
            f"{TICK} (and 7 that were not logged): LookupError('one')",
            f"{TICK} (and 1 that were not logged): LookupError('two')",
        ]
        stopped(runner)

    @pytest.mark.parametrize(
        ("value", "kind", "path"),
        [
            ({"a": [0, object()]}, "object", "['a'][1]"),
            ([float("nan")], "float", "[0]"),
            ({object()}, "object", "(at {...} of the value"),
            ({"f": lambda: 0}, "function", "['f']"),
            (iter([1]), "list_iterator", ""),
        ],
    )
    def test_value_that_json_cannot_hold_is_logged_with_type_and_path(
        self, bench: SourceBench, trouble: Trouble, value: object, kind: str, path: str
    ) -> None:
        runner = start(bench, Values(value, 2), 2.0, thread=False)
        assert runner.status().last_error.startswith(f"{kind} does not fit into JSON")
        # Without a traceback, which would show only our lines.
        assert "log_failure" not in trouble[0]
        [line] = trouble.take()
        assert line.startswith(f"{TICK}: {kind} does not fit into JSON")
        assert path in line
        bench.clock.advance(2)
        assert bench.published == [2]
        stopped(runner)

    def test_none_is_not_published(self, bench: SourceBench) -> None:
        runner = start(bench, Values(None, 2), 2.0, thread=False)
        assert bench.published == []
        bench.clock.advance(2)
        assert bench.published == [2]
        stopped(runner)

    def test_deferred_is_awaited_and_missed_ticks_are_skipped(self, bench: SourceBench) -> None:
        waits: Deferred[int] = Deferred()
        values = Values(waits, succeed(2), 3)
        runner = start(bench, values, 2.0, thread=False)
        bench.clock.pump([2.0] * 5)
        assert (bench.published, len(values.values)) == ([], 2)
        waits.callback(1)
        assert bench.published == [1]
        bench.clock.advance(2)
        assert bench.published == [1, 2]
        stopped(runner)

    def test_no_tick_starts_while_a_publication_waits(self, bench: SourceBench) -> None:
        values = Values(1, 2, 3)
        bench.held = Deferred()
        runner = start(bench, values, 2.0, thread=False)
        bench.clock.pump([2.0] * 5)
        assert values.values == [2, 3]
        held, bench.held = bench.held, None
        held.callback(None)
        bench.clock.advance(2)
        assert bench.published == [1, 2]
        stopped(runner)

    def test_value_waits_while_publishing_is_unavailable(
        self, bench: SourceBench, trouble: Trouble
    ) -> None:
        bench.refusal = Unavailable("the disk is full")
        runner = start(bench, Values(1, 2), 2.0, thread=False)
        status = runner.status()
        assert (status.state, status.last_error) == ("running", "the disk is full")
        bench.clock.advance(1)
        bench.refusal = None
        bench.clock.advance(1)
        assert bench.published == [1]
        bench.clock.advance(2)
        assert (bench.published, runner.status().last_error) == ([1, 2], "")
        assert trouble.take() == ["source s: the disk is full"]
        stopped(runner)

    def test_stop_cancels_the_deferred_of_a_tick(self, bench: SourceBench) -> None:
        waits: Deferred[int] = Deferred()
        runner = start(bench, Values(waits), 2.0, thread=False)
        assert stopped(runner) == [None]
        seen: list[Any] = []
        waits.addErrback(seen.append)
        assert bench.clock.getDelayedCalls() == []
        assert bench.published == []

    def test_function_may_take_the_feed(self, bench: SourceBench) -> None:
        def with_feed(feed: Feed) -> str:
            return feed.name

        def with_default(number: int = 7, *more: int, flag: bool = True) -> int:
            return number

        runners = [start(bench, f, 2.0, thread=False) for f in (with_feed, with_default)]
        assert bench.published == ["s", 7]
        for runner in runners:
            stopped(runner)

    def test_hanging_tick_is_logged_and_blocks_no_other_source(
        self, bench: SourceBench, trouble: Trouble
    ) -> None:
        waits: Deferred[int] = Deferred()
        hangs = start(bench, Values(waits), 5.0, thread=False)
        other = start(bench, Values(), 5.0, thread=False)
        seconds = SLOW_TICKS * 5.0
        assert seconds > SLOW_SECONDS
        bench.clock.pump([5.0] * 9)
        assert trouble.take() == []
        bench.clock.pump([5.0] * 9)
        problem = f"a tick has not returned after {seconds:g} s; the next one waits for it"
        assert trouble.take() == [f"source s: {problem}"]
        assert hangs.status().last_error == problem
        assert len(bench.drafts) == 19
        waits.callback(1)
        assert hangs.status().last_error == ""
        assert (stopped(hangs), stopped(other)) == ([None], [None])


class TestCoroutineFunction:
    def test_coroutine_is_awaited_each_tick(self, bench: SourceBench, trouble: Trouble) -> None:
        waits: list[Deferred[int]] = [Deferred(), Deferred()]
        left = list(waits)

        async def tick() -> int:
            return await left.pop(0)

        runner = start(bench, tick, 2.0)
        bench.clock.pump([2.0] * 3)
        assert len(left) == 1
        waits[0].callback(1)
        bench.clock.advance(2)
        waits[1].errback(RuntimeError("broken"))
        assert bench.published == [1]
        assert trouble.take() == [f"{TICK}: RuntimeError('broken')"]
        bench.clock.advance(2)
        assert "pop from empty list" in trouble.take()[0]
        stopped(runner)

    def test_function_without_interval_is_called_once_with_the_feed(
        self, bench: SourceBench, trouble: Trouble
    ) -> None:
        async def run(feed: Feed) -> None:
            await feed.publish(1)
            await feed.sleep(5)
            raise RuntimeError("broken")

        runner = start(bench, run)
        assert bench.published == [1]
        bench.clock.advance(5)
        assert runner.status().state == "backing off"
        bench.clock.advance(1)
        assert bench.published == [1, 1]
        assert len(trouble.take()) == 1
        stopped(runner)

    def test_stop_cancels_the_coroutine(self, bench: SourceBench) -> None:
        seen: list[str] = []

        async def tick(feed: Feed) -> int:
            try:
                await feed.sleep(100)
            except CancelledError:
                seen.append("cancelled")
                raise
            return 1

        assert stopped(start(bench, tick, 2.0)) == [None]
        assert seen == ["cancelled"]
        assert bench.clock.getDelayedCalls() == []

    @pytest.mark.parametrize("every", [None, 2.0])
    def test_asyncio_on_another_reactor_fails_with_advice(
        self, bench: SourceBench, trouble: Trouble, every: float | None
    ) -> None:
        async def run(feed: Feed) -> None:
            await asyncio.sleep(1)

        runner = start(bench, run, every)
        assert "twistd --reactor asyncio" in runner.status().last_error
        assert len(trouble.take()) == 1
        stopped(runner)


class TestAsyncGenerator:
    def test_generator_is_published_and_ends_with_its_last_value(self, bench: SourceBench) -> None:
        async def values(feed: Feed) -> AsyncIterator[int]:
            for number in range(3):
                yield number
                await feed.sleep(5)

        runner = start(bench, values)
        bench.clock.pump([5.0] * 2)
        assert (bench.published, runner.status().state) == ([0, 1, 2], "running")
        bench.clock.advance(5)
        assert runner.status().state == "ended"
        assert bench.clock.getDelayedCalls() == []

    def test_interval_publishes_one_value_each_tick(self, bench: SourceBench) -> None:
        async def values() -> AsyncIterator[object]:
            for number in (0, None, 2):
                yield number

        runner = start(bench, values, 2.0)
        assert bench.published == [0]
        bench.clock.pump([2.0] * 2)
        assert bench.published == [0, 2]
        bench.clock.advance(2)
        assert runner.status().state == "ended"
        assert bench.clock.getDelayedCalls() == []

    @pytest.mark.parametrize("every", [None, 2.0])
    @pytest.mark.parametrize("waits", [True, False])
    def test_stop_closes_the_generator(
        self, bench: SourceBench, every: float | None, waits: bool
    ) -> None:
        seen: list[str] = []

        async def values(feed: Feed) -> AsyncIterator[int]:
            try:
                yield 1
                await feed.sleep(100)
                yield 2
            finally:
                seen.append("closing")
                await succeed(None)
                seen.append("closed")

        bench.held = None if waits else Deferred()
        runner = start(bench, values, every)
        bench.clock.advance(2)
        assert bench.published == ([1] if waits else [])
        result = stopped(runner)
        if bench.held is not None:
            # The store has the value: its outcome comes first.
            assert (result, seen) == ([], [])
            bench.held.callback(None)
            bench.clock.advance(0)
            assert bench.published == [1]
        assert result == [None]
        assert seen == ["closing", "closed"]
        assert bench.clock.getDelayedCalls() == []

    def test_generator_that_raises_restarts_after_the_back_off(
        self, bench: SourceBench, trouble: Trouble
    ) -> None:
        async def values() -> AsyncIterator[int]:
            yield 1
            raise RuntimeError("broken")

        runner = start(bench, values)
        assert runner.status().state == "backing off"
        bench.clock.advance(1)
        assert bench.published == [1, 1]
        assert "RuntimeError('broken')" in trouble.take()[0]
        stopped(runner)

    def test_endless_generator_of_none_leaves_turns_to_others(self, bench: SourceBench) -> None:
        async def values() -> AsyncIterator[None]:
            while True:
                yield None

        runner = start(bench, values)
        for _ in range(5):
            bench.clock.turn()
        assert stopped(runner) == [None]


class TestGeneratorOnTheReactor:
    def test_generator_is_published_and_closed(self, bench: SourceBench) -> None:
        seen: list[str] = []

        def values(last: int) -> Iterator[int]:
            try:
                yield from range(last)
            finally:
                seen.append("closed")

        finite = start(bench, functools.partial(values, 2), thread=False)
        assert (bench.published, seen, finite.status().state) == ([0, 1], ["closed"], "ended")
        endless = start(bench, functools.partial(values, 1_000), 2.0, thread=False)
        bench.clock.pump([2.0] * 2)
        assert bench.published == [0, 1, 0, 1, 2]
        assert stopped(endless) == [None]
        assert seen == ["closed"] * 2


class TestFunctionInAThread:
    def test_function_is_called_in_one_thread_beside_the_reactor(self, bench: SourceBench) -> None:
        seen: list[threading.Thread] = []

        def tick() -> int:
            seen.append(threading.current_thread())
            return len(seen)

        runner = start(bench, tick, 2.0)
        assert bench.published == []
        bench.clock.take()
        for _ in range(2):
            bench.clock.advance(2)
            bench.clock.take()
        assert bench.published == [1, 2, 3]
        assert len(set(seen)) == 1
        assert seen[0] is not threading.current_thread()
        assert seen[0].daemon
        assert stopped(runner) == [None]

    def test_hanging_call_is_logged_and_blocks_no_other_source(
        self, bench: SourceBench, trouble: Trouble
    ) -> None:
        gate = Gate()
        runner = start(bench, gate, 1.0)
        other = start(bench, Values(), 1.0, thread=False)
        assert gate.entered.wait(WAIT_SECONDS)
        bench.clock.pump([1.0] * 40)
        assert (gate.calls, len(bench.drafts)) == (1, 41)
        assert [text for text in trouble.take() if "not returned after 30 s" in text]
        assert "not returned" in runner.status().last_error
        gate.opened.set()
        bench.clock.take()
        assert runner.status().last_error == ""
        bench.clock.advance(1)
        bench.clock.take()
        assert gate.calls == 2
        assert (stopped(runner), stopped(other)) == ([None], [None])

    def test_hanging_call_does_not_delay_the_stop(self, bench: SourceBench) -> None:
        gate = Gate()
        before = threading.active_count()
        runner = start(bench, gate, 1.0)
        assert gate.entered.wait(WAIT_SECONDS)
        assert stopped(runner) == [None]
        assert bench.clock.getDelayedCalls() == []
        assert threading.active_count() == before + 1
        gate.opened.set()
        for thread in threading.enumerate():
            if thread.name.startswith("source "):
                thread.join(WAIT_SECONDS)
        assert threading.active_count() == before
        # Its result, if it reached the reactor, is ignored.
        bench.clock.take(bench.clock.waiting)
        assert bench.published == []

    def test_next_attempt_waits_for_the_hanging_call(
        self, bench: SourceBench, trouble: Trouble
    ) -> None:
        gate, watcher = Gate(), Watcher()
        runner = bench.started(adapt(gate, 1.0), on_demand=True, linger_seconds=0.0)
        for _ in range(5):
            bench.watch(watcher)
            assert gate.entered.wait(WAIT_SECONDS)
            bench.leave(watcher)
        bench.watch(watcher)
        threads = [t for t in threading.enumerate() if t.name.startswith("source ")]
        assert (gate.calls, len(threads)) == (1, 1)
        gate.opened.set()
        bench.clock.take(2)
        assert (gate.calls, gate.max_inside) == (2, 1)
        assert bench.published == [1, 2]
        stopped(runner)

    @pytest.mark.parametrize("error", [RuntimeError("broken"), SystemExit(1), StopIteration()])
    def test_exception_is_logged_and_the_timer_continues(
        self, bench: SourceBench, trouble: Trouble, error: BaseException
    ) -> None:
        runner = start(bench, Values(error, 2), 2.0)
        bench.clock.take()
        assert runner.status().state == "running"
        assert trouble.take()[0].startswith(TICK)
        bench.clock.advance(2)
        bench.clock.take()
        assert bench.published == [2]
        stopped(runner)

    @pytest.mark.parametrize("kind", ["Deferred", "coroutine", "Future"])
    def test_returned_awaitable_fails_with_advice(
        self, bench: SourceBench, trouble: Trouble, kind: str
    ) -> None:
        async def work() -> None:
            """Never awaited."""

        loop = asyncio.new_event_loop()
        coroutine = work()
        factories: Any = {
            "Deferred": Deferred,
            "coroutine": lambda: coroutine,
            "Future": loop.create_future,
        }
        runner = start(bench, lambda: factories[kind](), 2.0)
        bench.clock.take()
        [line] = trouble.take()
        assert f"returned a {kind} in a thread" in line
        assert "write `async def`, or thread=False" in line
        assert (inspect.getcoroutinestate(coroutine) == "CORO_CLOSED") is (kind == "coroutine")
        coroutine.close()
        stopped(runner)
        loop.close()

    def test_feed_cannot_publish_in_a_thread(self, bench: SourceBench, trouble: Trouble) -> None:
        def tick(feed: Feed) -> object:
            return feed.publish(1)

        runner = start(bench, tick, 2.0)
        bench.clock.take()
        assert "is for the reactor's thread" in trouble.take()[0]
        assert bench.published == []
        stopped(runner)


class TestGeneratorInAThread:
    def test_value_received_after_the_stop_is_published_by_the_next_run(
        self, bench: SourceBench
    ) -> None:
        queue: SimpleQueue[int] = SimpleQueue()
        waits = threading.Semaphore(0)
        watcher = Watcher()

        def values() -> Iterator[int]:
            while True:
                waits.release()
                yield queue.get(timeout=WAIT_SECONDS)

        runner = bench.started(adapt(values), on_demand=True, linger_seconds=0.0)
        bench.watch(watcher)
        assert waits.acquire(timeout=WAIT_SECONDS)
        queue.put(1)
        bench.clock.take()
        assert waits.acquire(timeout=WAIT_SECONDS)
        # The generator gets a value while no run is active, and is then closed.
        bench.leave(watcher)
        queue.put(2)
        bench.clock.take(2)
        bench.watch(watcher)
        bench.clock.take()
        assert bench.published == [1, 2]
        assert waits.acquire(timeout=WAIT_SECONDS)
        # The generator of the last run gets a value while the next run is active.
        bench.leave(watcher)
        bench.watch(watcher)
        queue.put(3)
        bench.clock.take(3)
        assert waits.acquire(timeout=WAIT_SECONDS)
        queue.put(4)
        bench.clock.take()
        assert bench.published == [1, 2, 3, 4]
        assert waits.acquire(timeout=WAIT_SECONDS)
        stopped(runner)
        queue.put(5)
        bench.clock.take(2)

    def test_generator_is_published_and_ends_with_its_last_value(self, bench: SourceBench) -> None:
        def values() -> Iterator[object]:
            yield from (0, None, 2)

        runner = start(bench, values)
        # Three values, the end, and the close.
        bench.clock.take(5)
        assert (bench.published, runner.status().state) == ([0, 2], "ended")

    def test_interval_publishes_one_value_each_tick(self, bench: SourceBench) -> None:
        def values() -> Iterator[int]:
            yield from range(1_000)

        runner = start(bench, values, 2.0)
        bench.clock.take()
        assert bench.published == [0]
        bench.clock.advance(2)
        bench.clock.take()
        assert bench.published == [0, 1]
        result = stopped(runner)
        bench.clock.take()
        assert result == [None]

    def test_stop_closes_the_generator_in_its_thread(self, bench: SourceBench) -> None:
        seen: list[threading.Thread] = []

        def values() -> Iterator[int]:
            try:
                seen.append(threading.current_thread())
                yield 1
                yield 2
            finally:
                seen.append(threading.current_thread())

        runner = start(bench, values, 2.0)
        bench.clock.take()
        result = stopped(runner)
        bench.clock.take()
        assert result == [None]
        assert len(seen) == 2
        assert len(set(seen)) == 1

    def test_hanging_generator_is_closed_after_its_call_and_does_not_delay_the_stop(
        self, bench: SourceBench
    ) -> None:
        gate, closed = Gate(), threading.Event()

        def values() -> Iterator[int]:
            try:
                yield gate()
            finally:
                closed.set()

        runner = start(bench, values)
        assert gate.entered.wait(WAIT_SECONDS)
        assert stopped(runner) == [None]
        gate.opened.set()
        assert closed.wait(WAIT_SECONDS)
        assert bench.published == []

    def test_generator_without_interval_may_wait_without_a_warning(
        self, bench: SourceBench
    ) -> None:
        gate = Gate()

        def values() -> Iterator[int]:
            yield gate()

        runner = start(bench, values)
        bench.clock.pump([60.0] * 60)
        assert runner.status().last_error == ""
        gate.opened.set()
        bench.clock.take(3)
        assert bench.published == [1]

    def test_generator_that_raises_restarts_after_the_back_off(
        self, bench: SourceBench, trouble: Trouble
    ) -> None:
        def values() -> Iterator[int]:
            yield 1
            raise RuntimeError("broken")

        runner = start(bench, values)
        bench.clock.take(3)
        assert runner.status().state == "backing off"
        assert "RuntimeError('broken')" in trouble.take()[0]
        bench.clock.advance(1)
        bench.clock.take()
        assert bench.published == [1, 1]
        result = stopped(runner)
        bench.clock.take(bench.clock.waiting)
        while not result:
            bench.clock.take()
        trouble.take()


@implementer(ISource)
class Own:
    async def run(self, feed: Feed) -> None:
        await feed.publish("own")


class TestAdapt:
    def test_object_or_class_with_isource_is_a_source(self, bench: SourceBench) -> None:
        own = Own()
        assert adapt(own) is own
        assert isinstance(adapt(Own), Own)
        start(bench, Own)
        assert bench.published == ["own"]

    def test_callable_object_is_a_source(self, bench: SourceBench) -> None:
        class Async:
            async def __call__(self) -> int:
                return 1

        class Generator:
            async def __call__(self) -> AsyncIterator[int]:
                yield 2

        class Method:
            async def tick(self) -> int:
                return 3

        runners = [
            start(bench, Async(), 2.0),
            start(bench, Generator()),
            start(bench, Method().tick, 2.0),
        ]
        assert bench.published == [1, 2, 3]
        for runner in runners:
            stopped(runner)

    def test_function_written_in_c_is_a_source(self, bench: SourceBench) -> None:
        runner = start(bench, time.monotonic, 2.0, thread=False)
        assert isinstance(bench.published[0], float)
        stopped(runner)

    @pytest.mark.parametrize(
        ("target", "arguments", "problem"),
        [
            (5, {}, "int is no source"),
            (Watcher, {}, "Watcher is no source"),
            (Own, {"every": 1.0}, "neither every nor thread"),
            (Own, {"thread": True}, "neither every nor thread"),
            (random_number, {}, "random_number needs every=SECONDS"),
            (random_number, {"every": "2"}, "every of random_number is '2', expected a number of"),
            (
                random_number,
                {"every": 0},
                "every of random_number is 0, expected a number of seconds",
            ),
            (random_number, {"every": float("inf")}, "is inf"),
            (random_number, {"every": float("nan")}, "is nan"),
            (lambda a, b: 0, {"every": 1}, "takes 2 arguments, expected none or the feed"),
            (lambda *, a: 0, {"every": 1}, "takes 1 arguments"),
        ],
    )
    def test_other_objects_and_arguments_raise_value_error(
        self, target: Any, arguments: dict[str, Any], problem: str
    ) -> None:
        with pytest.raises(ValueError, match=problem):
            adapt(target, **arguments)

    def test_coroutine_function_needs_interval_or_feed(self) -> None:
        async def run() -> None:
            """Without every and without a feed."""

        with pytest.raises(ValueError, match=r"needs every=SECONDS, or an argument for the feed"):
            adapt(run)
        with pytest.raises(ValueError, match="is async, and runs on the reactor"):
            adapt(run, 1.0, thread=True)


class TestRandomNumbers:
    def test_numbers_are_from_0_to_10_with_three_decimals(self) -> None:
        numbers = [random_number()["number"] for _ in range(1_000)]
        assert all(0 <= number <= 10 and number == round(number, 3) for number in numbers)
        assert len(set(numbers)) > 900

    def test_numbers_are_published_at_the_interval(self, bench: SourceBench) -> None:
        runner = bench.started(RANDOM.make(Options(every=3.0)))
        bench.clock.advance(3)
        assert [list(data) for data in bench.published] == [["number"], ["number"]]
        stopped(runner)
