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
from tests.unit.fakes.source_tools import WAIT_SECONDS, Desk, stopped
from tests.unit.fakes.tools import Watcher
from tests.unit.fakes.web import Trouble

TICK = "source s: a tick failed, and the next one comes"


class Values:
    """A function that returns these, or raises them; then 0."""

    def __init__(self, *values: Any):
        self.values = list(values)

    def __call__(self) -> Any:
        value = self.values.pop(0) if self.values else 0
        if isinstance(value, BaseException):
            raise value
        return value


class Gate:
    """A function that does not return until it is let."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.opened = threading.Event()
        self.calls = 0
        self.inside = 0
        self.most_inside = 0

    def __call__(self) -> int:
        self.calls += 1
        self.inside += 1
        self.most_inside = max(self.inside, self.most_inside)
        self.entered.set()
        assert self.opened.wait(WAIT_SECONDS)
        self.inside -= 1
        return self.calls


@pytest.fixture
def desk() -> Desk:
    return Desk()


@pytest.fixture(autouse=True)
def no_threads_left() -> Iterator[None]:
    """Every thread of a source ends with it."""
    yield
    for thread in threading.enumerate():
        if thread.name.startswith("source "):
            thread.join(WAIT_SECONDS)
            assert not thread.is_alive(), thread.name


def start(desk: Desk, target: Any, every: float | None = None, **thread: bool) -> Runner:
    return desk.started(adapt(target, every, **thread))


class TestATimer:
    """On the reactor's thread."""

    def test_publishes_at_once_and_then_at_its_interval(self, desk: Desk) -> None:
        runner = start(desk, Values(1, 2, 3), 2.0, thread=False)
        assert desk.published == [1]
        desk.clock.advance(1.9)
        assert desk.published == [1]
        desk.clock.advance(0.1)
        desk.clock.advance(2.0)
        assert desk.published == [1, 2, 3]
        assert stopped(runner) == [None]
        assert desk.clock.getDelayedCalls() == []
        desk.clock.advance(10)
        assert len(desk.drafts) == 3

    def test_that_raises_stopiteration_is_told_with_its_line(
        self, desk: Desk, trouble: Trouble
    ) -> None:
        def tick() -> object:
            return next(iter([]))

        runner = start(desk, tick, 2.0, thread=False)
        assert "StopIteration" in runner.status().last_error
        shown = trouble[0]["log_failure"].getTraceback()
        assert "return next(iter([]))" in shown
        trouble.take()
        stopped(runner)

    def test_whose_tick_fails_logs_it_and_goes_on(self, desk: Desk, trouble: Trouble) -> None:
        runner = start(desk, Values(1, RuntimeError("broken"), sys.exit, 4), 2.0, thread=False)
        desk.clock.advance(2)
        status = runner.status()
        assert (status.last_error, status.state) == ("RuntimeError: broken", "running")
        assert "log_failure" in trouble[0]
        desk.clock.pump([2, 2])
        assert desk.published == [1, 4]
        status = runner.status()
        assert (status.errors, status.restarts, status.last_error) == (2, 0, "")
        told = trouble.take()
        assert told[0] == f"{TICK}: RuntimeError('broken')"
        assert "builtin_function_or_method does not fit into JSON" in told[1]
        stopped(runner)

    def test_that_fails_the_same_each_time_is_counted_and_told_once_a_minute(
        self, desk: Desk, trouble: Trouble
    ) -> None:
        raised: list[Exception] = [LookupError("one")]

        def fails() -> None:
            raise raised[0]

        def fails_too() -> None:
            raise LookupError("one")

        places = [fails]
        runner = start(desk, lambda: places[0](), 0.5, thread=False)
        desk.clock.pump([0.5] * 119)
        assert ["log_failure" in event for event in trouble] == [True]
        assert trouble.take() == [f"{TICK}: LookupError('one')"]
        status = runner.status()
        assert (status.errors, status.last_error) == (120, "LookupError: one")
        assert status.error_time == desk.clock.seconds()
        desk.clock.pump([0.5] * 241)
        assert ["log_failure" in event for event in trouble] == [False] * 3
        again = f"{TICK}: LookupError: one (the same 120 times more in 60 s)"
        assert trouble.take() == [again] * 3
        desk.clock.pump([0.5] * 7)
        # The same words, from another line.
        places[0] = fails_too
        desk.clock.pump([0.5, 0.5])
        places[0], raised[0] = fails, LookupError("two")
        desk.clock.pump([0.5, 0.5])
        assert ["log_failure" in event for event in trouble] == [True, True]
        assert trouble.take() == [
            f"{TICK} (and 7 that were not logged): LookupError('one')",
            f"{TICK} (and 1 that were not logged): LookupError('two')",
        ]
        stopped(runner)

    def test_that_exits_fails_in_that_tick_only(self, desk: Desk, trouble: Trouble) -> None:
        runner = start(desk, Values(SystemExit(3), 2), 2.0, thread=False)
        desk.clock.advance(2)
        assert desk.published == [2]
        assert trouble.take() == [f"{TICK}: SystemExit(3)"]
        stopped(runner)

    @pytest.mark.parametrize(
        ("value", "kind", "place"),
        [
            ({"a": [0, object()]}, "object", "['a'][1]"),
            ([float("nan")], "float", "[0]"),
            ({object()}, "object", "(at {...} of the value"),
            ({"f": lambda: 0}, "function", "['f']"),
            (iter([1]), "list_iterator", ""),
        ],
    )
    def test_of_what_json_cannot_hold_says_which_type_and_where(
        self, desk: Desk, trouble: Trouble, value: object, kind: str, place: str
    ) -> None:
        runner = start(desk, Values(value, 2), 2.0, thread=False)
        assert runner.status().last_error.startswith(f"{kind} does not fit into JSON")
        # No lines of ours, and there are no others.
        assert "log_failure" not in trouble[0]
        [told] = trouble.take()
        assert told.startswith(f"{TICK}: {kind} does not fit into JSON")
        assert place in told
        desk.clock.advance(2)
        assert desk.published == [2]
        stopped(runner)

    def test_of_nothing_publishes_nothing(self, desk: Desk) -> None:
        runner = start(desk, Values(None, 2), 2.0, thread=False)
        assert desk.published == []
        desk.clock.advance(2)
        assert desk.published == [2]
        stopped(runner)

    def test_awaits_what_can_be_awaited_and_skips_what_it_misses(self, desk: Desk) -> None:
        waits: Deferred[int] = Deferred()
        values = Values(waits, succeed(2), 3)
        runner = start(desk, values, 2.0, thread=False)
        desk.clock.pump([2.0] * 5)
        assert (desk.published, len(values.values)) == ([], 2)
        waits.callback(1)
        assert desk.published == [1]
        desk.clock.advance(2)
        assert desk.published == [1, 2]
        stopped(runner)

    def test_begins_no_tick_while_a_publication_waits(self, desk: Desk) -> None:
        values = Values(1, 2, 3)
        desk.held = Deferred()
        runner = start(desk, values, 2.0, thread=False)
        desk.clock.pump([2.0] * 5)
        assert values.values == [2, 3]
        held, desk.held = desk.held, None
        held.callback(None)
        desk.clock.advance(2)
        assert desk.published == [1, 2]
        stopped(runner)

    def test_of_what_the_hub_refuses_backs_off(self, desk: Desk, trouble: Trouble) -> None:
        desk.refusal = Unavailable("the disk is full")
        runner = start(desk, Values(1, 2), 2.0, thread=False)
        assert (runner.status().state, len(desk.clock.getDelayedCalls())) == ("backing off", 1)
        desk.refusal = None
        desk.clock.advance(1)
        assert desk.published == [2]
        assert "the disk is full" in trouble.take()[0]
        stopped(runner)

    def test_that_is_stopped_cancels_what_its_tick_awaits(self, desk: Desk) -> None:
        waits: Deferred[int] = Deferred()
        runner = start(desk, Values(waits), 2.0, thread=False)
        assert stopped(runner) == [None]
        seen: list[Any] = []
        waits.addErrback(seen.append)
        assert desk.clock.getDelayedCalls() == []
        assert desk.published == []

    def test_may_be_given_the_feed(self, desk: Desk) -> None:
        def with_feed(feed: Feed) -> str:
            return feed.name

        def with_default(number: int = 7, *more: int, flag: bool = True) -> int:
            return number

        runners = [start(desk, f, 2.0, thread=False) for f in (with_feed, with_default)]
        assert desk.published == ["s", 7]
        for runner in runners:
            stopped(runner)

    def test_that_hangs_is_told_and_keeps_only_itself(self, desk: Desk, trouble: Trouble) -> None:
        waits: Deferred[int] = Deferred()
        hangs = start(desk, Values(waits), 5.0, thread=False)
        other = start(desk, Values(), 5.0, thread=False)
        seconds = SLOW_TICKS * 5.0
        assert seconds > SLOW_SECONDS
        desk.clock.pump([5.0] * 9)
        assert trouble.take() == []
        desk.clock.pump([5.0] * 9)
        told = f"a tick has not returned after {seconds:g} s; the next one waits for it"
        assert trouble.take() == [f"source s: {told}"]
        assert hangs.status().last_error == told
        assert len(desk.drafts) == 19
        waits.callback(1)
        assert hangs.status().last_error == ""
        assert (stopped(hangs), stopped(other)) == ([None], [None])


class TestACoroutineFunction:
    def test_is_awaited_each_tick(self, desk: Desk, trouble: Trouble) -> None:
        waits: list[Deferred[int]] = [Deferred(), Deferred()]
        left = list(waits)

        async def tick() -> int:
            return await left.pop(0)

        runner = start(desk, tick, 2.0)
        desk.clock.pump([2.0] * 3)
        assert len(left) == 1
        waits[0].callback(1)
        desk.clock.advance(2)
        waits[1].errback(RuntimeError("broken"))
        assert desk.published == [1]
        assert trouble.take() == [f"{TICK}: RuntimeError('broken')"]
        desk.clock.advance(2)
        assert "pop from empty list" in trouble.take()[0]
        stopped(runner)

    def test_without_an_interval_is_called_once_with_the_feed(
        self, desk: Desk, trouble: Trouble
    ) -> None:
        async def run(feed: Feed) -> None:
            await feed.publish(1)
            await feed.sleep(5)
            raise RuntimeError("broken")

        runner = start(desk, run)
        assert desk.published == [1]
        desk.clock.advance(5)
        assert runner.status().state == "backing off"
        desk.clock.advance(1)
        assert desk.published == [1, 1]
        assert len(trouble.take()) == 1
        stopped(runner)

    def test_that_is_stopped_is_cancelled(self, desk: Desk) -> None:
        seen: list[str] = []

        async def tick(feed: Feed) -> int:
            try:
                await feed.sleep(100)
            except CancelledError:
                seen.append("cancelled")
                raise
            return 1

        assert stopped(start(desk, tick, 2.0)) == [None]
        assert seen == ["cancelled"]
        assert desk.clock.getDelayedCalls() == []

    @pytest.mark.parametrize("every", [None, 2.0])
    def test_that_waits_for_asyncio_is_told_what_to_do(
        self, desk: Desk, trouble: Trouble, every: float | None
    ) -> None:
        async def run(feed: Feed) -> None:
            await asyncio.sleep(1)

        runner = start(desk, run, every)
        assert "twistd --reactor asyncio" in runner.status().last_error
        assert len(trouble.take()) == 1
        stopped(runner)


class TestAnAsyncGenerator:
    def test_is_iterated_and_ends_with_its_last_value(self, desk: Desk) -> None:
        async def values(feed: Feed) -> AsyncIterator[int]:
            for number in range(3):
                yield number
                await feed.sleep(5)

        runner = start(desk, values)
        desk.clock.pump([5.0] * 2)
        assert (desk.published, runner.status().state) == ([0, 1, 2], "running")
        desk.clock.advance(5)
        assert runner.status().state == "ended"
        assert desk.clock.getDelayedCalls() == []

    def test_gives_one_value_each_tick_with_an_interval(self, desk: Desk) -> None:
        async def values() -> AsyncIterator[object]:
            for number in (0, None, 2):
                yield number

        runner = start(desk, values, 2.0)
        assert desk.published == [0]
        desk.clock.pump([2.0] * 2)
        assert desk.published == [0, 2]
        desk.clock.advance(2)
        assert runner.status().state == "ended"
        assert desk.clock.getDelayedCalls() == []

    @pytest.mark.parametrize("every", [None, 2.0])
    @pytest.mark.parametrize("waits", [True, False])
    def test_is_closed_when_it_is_stopped(
        self, desk: Desk, every: float | None, waits: bool
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

        desk.held = None if waits else Deferred()
        runner = start(desk, values, every)
        desk.clock.advance(2)
        assert desk.published == ([1] if waits else [])
        assert stopped(runner) == [None]
        assert seen == ["closing", "closed"]
        assert desk.clock.getDelayedCalls() == []

    def test_that_raises_is_begun_anew_after_a_while(self, desk: Desk, trouble: Trouble) -> None:
        async def values() -> AsyncIterator[int]:
            yield 1
            raise RuntimeError("broken")

        runner = start(desk, values)
        assert runner.status().state == "backing off"
        desk.clock.advance(1)
        assert desk.published == [1, 1]
        assert "RuntimeError('broken')" in trouble.take()[0]
        stopped(runner)

    def test_of_a_value_that_json_cannot_hold_goes_on(self, desk: Desk, trouble: Trouble) -> None:
        async def values() -> AsyncIterator[object]:
            yield object()
            yield 2

        start(desk, values)
        assert desk.published == [2]
        assert len(trouble.take()) == 1

    def test_of_nothing_for_ever_leaves_the_others_their_turns(self, desk: Desk) -> None:
        async def values() -> AsyncIterator[None]:
            while True:
                yield None

        runner = start(desk, values)
        for _ in range(5):
            desk.clock.turn()
        assert stopped(runner) == [None]


class TestAGeneratorOnTheReactor:
    def test_is_iterated_closed_and_ends(self, desk: Desk) -> None:
        seen: list[str] = []

        def values(last: int) -> Iterator[int]:
            try:
                yield from range(last)
            finally:
                seen.append("closed")

        ends = start(desk, functools.partial(values, 2), thread=False)
        assert (desk.published, seen, ends.status().state) == ([0, 1], ["closed"], "ended")
        goes_on = start(desk, functools.partial(values, 1_000), 2.0, thread=False)
        desk.clock.pump([2.0] * 2)
        assert desk.published == [0, 1, 0, 1, 2]
        assert stopped(goes_on) == [None]
        assert seen == ["closed"] * 2


class TestAFunctionInAThread:
    def test_is_called_in_one_thread_that_is_not_the_reactors(self, desk: Desk) -> None:
        seen: list[threading.Thread] = []

        def tick() -> int:
            seen.append(threading.current_thread())
            return len(seen)

        runner = start(desk, tick, 2.0)
        assert desk.published == []
        desk.clock.take()
        for _ in range(2):
            desk.clock.advance(2)
            desk.clock.take()
        assert desk.published == [1, 2, 3]
        assert len(set(seen)) == 1
        assert seen[0] is not threading.current_thread()
        assert seen[0].daemon
        assert stopped(runner) == [None]

    def test_that_hangs_keeps_only_itself_and_is_told(self, desk: Desk, trouble: Trouble) -> None:
        gate = Gate()
        runner = start(desk, gate, 1.0)
        other = start(desk, Values(), 1.0, thread=False)
        assert gate.entered.wait(WAIT_SECONDS)
        desk.clock.pump([1.0] * 40)
        assert (gate.calls, len(desk.drafts)) == (1, 41)
        assert [text for text in trouble.take() if "not returned after 30 s" in text]
        assert "not returned" in runner.status().last_error
        gate.opened.set()
        desk.clock.take()
        assert runner.status().last_error == ""
        desk.clock.advance(1)
        desk.clock.take()
        assert gate.calls == 2
        assert (stopped(runner), stopped(other)) == ([None], [None])

    def test_that_hangs_does_not_hold_the_stop_and_leaves_its_thread_alone(
        self, desk: Desk
    ) -> None:
        gate = Gate()
        before = threading.active_count()
        runner = start(desk, gate, 1.0)
        assert gate.entered.wait(WAIT_SECONDS)
        assert stopped(runner) == [None]
        assert desk.clock.getDelayedCalls() == []
        assert threading.active_count() == before + 1
        gate.opened.set()
        for thread in threading.enumerate():
            if thread.name.startswith("source "):
                thread.join(WAIT_SECONDS)
        assert threading.active_count() == before
        # It may have been brought over; nobody wants it any more.
        desk.clock.take(desk.clock.waiting)
        assert desk.published == []

    def test_that_hangs_is_not_called_again_by_the_next_attempt(
        self, desk: Desk, trouble: Trouble
    ) -> None:
        gate, watcher = Gate(), Watcher()
        runner = desk.started(adapt(gate, 1.0), on_demand=True, linger_seconds=0.0)
        for _ in range(5):
            desk.watch(watcher)
            assert gate.entered.wait(WAIT_SECONDS)
            desk.leave(watcher)
        desk.watch(watcher)
        threads = [t for t in threading.enumerate() if t.name.startswith("source ")]
        assert (gate.calls, len(threads)) == (1, 1)
        gate.opened.set()
        desk.clock.take(2)
        assert (gate.calls, gate.most_inside) == (2, 1)
        assert desk.published == [2]
        stopped(runner)

    @pytest.mark.parametrize("error", [RuntimeError("broken"), SystemExit(1), StopIteration()])
    def test_that_raises_is_logged_and_the_next_tick_comes(
        self, desk: Desk, trouble: Trouble, error: BaseException
    ) -> None:
        runner = start(desk, Values(error, 2), 2.0)
        desk.clock.take()
        assert runner.status().state == "running"
        assert trouble.take()[0].startswith(TICK)
        desk.clock.advance(2)
        desk.clock.take()
        assert desk.published == [2]
        stopped(runner)

    @pytest.mark.parametrize("what", ["Deferred", "coroutine", "Future"])
    def test_that_returns_what_is_to_be_awaited_is_told_what_to_write(
        self, desk: Desk, trouble: Trouble, what: str
    ) -> None:
        async def work() -> None:
            """Never awaited."""

        loop = asyncio.new_event_loop()
        coroutine = work()
        made: Any = {
            "Deferred": Deferred,
            "coroutine": lambda: coroutine,
            "Future": loop.create_future,
        }
        runner = start(desk, lambda: made[what](), 2.0)
        desk.clock.take()
        [told] = trouble.take()
        assert f"returned a {what} in a thread" in told
        assert "write `async def`, or thread=False" in told
        assert (inspect.getcoroutinestate(coroutine) == "CORO_CLOSED") is (what == "coroutine")
        coroutine.close()
        stopped(runner)
        loop.close()

    def test_cannot_publish_by_the_feed(self, desk: Desk, trouble: Trouble) -> None:
        def tick(feed: Feed) -> object:
            return feed.publish(1)

        runner = start(desk, tick, 2.0)
        desk.clock.take()
        assert "is for the reactor's thread" in trouble.take()[0]
        assert desk.published == []
        stopped(runner)


class TestAGeneratorInAThread:
    def test_keeps_what_it_takes_after_its_stop_for_the_next_run(self, desk: Desk) -> None:
        queue: SimpleQueue[int] = SimpleQueue()
        waits = threading.Semaphore(0)
        watcher = Watcher()

        def values() -> Iterator[int]:
            while True:
                waits.release()
                yield queue.get(timeout=WAIT_SECONDS)

        runner = desk.started(adapt(values), on_demand=True, linger_seconds=0.0)
        desk.watch(watcher)
        assert waits.acquire(timeout=WAIT_SECONDS)
        queue.put(1)
        desk.clock.take()
        assert waits.acquire(timeout=WAIT_SECONDS)
        # Taken when nobody runs it: the value, and the close of the generator.
        desk.leave(watcher)
        queue.put(2)
        desk.clock.take(2)
        desk.watch(watcher)
        desk.clock.take()
        assert desk.published == [1, 2]
        assert waits.acquire(timeout=WAIT_SECONDS)
        # Taken by the one of the run before when the next one runs.
        desk.leave(watcher)
        desk.watch(watcher)
        queue.put(3)
        desk.clock.take(3)
        assert waits.acquire(timeout=WAIT_SECONDS)
        queue.put(4)
        desk.clock.take()
        assert desk.published == [1, 2, 3, 4]
        assert waits.acquire(timeout=WAIT_SECONDS)
        stopped(runner)
        queue.put(5)
        desk.clock.take(2)

    def test_is_iterated_and_ends_with_its_last_value(self, desk: Desk) -> None:
        def values() -> Iterator[object]:
            yield from (0, None, 2)

        runner = start(desk, values)
        # Three values, the end, and the close.
        desk.clock.take(5)
        assert (desk.published, runner.status().state) == ([0, 2], "ended")

    def test_gives_one_value_each_tick_with_an_interval(self, desk: Desk) -> None:
        def values() -> Iterator[int]:
            yield from range(1_000)

        runner = start(desk, values, 2.0)
        desk.clock.take()
        assert desk.published == [0]
        desk.clock.advance(2)
        desk.clock.take()
        assert desk.published == [0, 1]
        over = stopped(runner)
        desk.clock.take()
        assert over == [None]

    def test_is_closed_in_its_thread_when_it_is_stopped(self, desk: Desk) -> None:
        seen: list[threading.Thread] = []

        def values() -> Iterator[int]:
            try:
                seen.append(threading.current_thread())
                yield 1
                yield 2
            finally:
                seen.append(threading.current_thread())

        runner = start(desk, values, 2.0)
        desk.clock.take()
        over = stopped(runner)
        desk.clock.take()
        assert over == [None]
        assert len(seen) == 2
        assert len(set(seen)) == 1

    def test_that_hangs_is_closed_when_it_comes_back_and_holds_nobody(self, desk: Desk) -> None:
        gate, closed = Gate(), threading.Event()

        def values() -> Iterator[int]:
            try:
                yield gate()
            finally:
                closed.set()

        runner = start(desk, values)
        assert gate.entered.wait(WAIT_SECONDS)
        assert stopped(runner) == [None]
        gate.opened.set()
        assert closed.wait(WAIT_SECONDS)
        assert desk.published == []

    def test_may_sleep_as_it_likes(self, desk: Desk) -> None:
        gate = Gate()

        def values() -> Iterator[int]:
            yield gate()

        runner = start(desk, values)
        desk.clock.pump([60.0] * 60)
        assert runner.status().last_error == ""
        gate.opened.set()
        desk.clock.take(3)
        assert desk.published == [1]

    def test_that_raises_is_begun_anew_after_a_while(self, desk: Desk, trouble: Trouble) -> None:
        def values() -> Iterator[int]:
            yield 1
            raise RuntimeError("broken")

        runner = start(desk, values)
        desk.clock.take(3)
        assert runner.status().state == "backing off"
        assert "RuntimeError('broken')" in trouble.take()[0]
        desk.clock.advance(1)
        desk.clock.take()
        assert desk.published == [1, 1]
        over = stopped(runner)
        desk.clock.take(desk.clock.waiting)
        while not over:
            desk.clock.take()
        trouble.take()


@implementer(ISource)
class Own:
    async def run(self, feed: Feed) -> None:
        await feed.publish("own")


class TestWhatIsASource:
    def test_is_what_provides_the_interface_or_a_class_of_it(self, desk: Desk) -> None:
        own = Own()
        assert adapt(own) is own
        assert isinstance(adapt(Own), Own)
        start(desk, Own)
        assert desk.published == ["own"]

    def test_is_a_callable_object_by_its_call(self, desk: Desk) -> None:
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
            start(desk, Async(), 2.0),
            start(desk, Generator()),
            start(desk, Method().tick, 2.0),
        ]
        assert desk.published == [1, 2, 3]
        for runner in runners:
            stopped(runner)

    def test_may_be_written_in_c(self, desk: Desk) -> None:
        runner = start(desk, time.monotonic, 2.0, thread=False)
        assert isinstance(desk.published[0], float)
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
    def test_is_nothing_else(self, target: Any, arguments: dict[str, Any], problem: str) -> None:
        with pytest.raises(ValueError, match=problem):
            adapt(target, **arguments)

    def test_is_no_coroutine_function_that_can_publish_nothing(self) -> None:
        async def run() -> None:
            """Without every and without a feed."""

        with pytest.raises(ValueError, match=r"needs every=SECONDS, or an argument for the feed"):
            adapt(run)
        with pytest.raises(ValueError, match="is async, and runs on the reactor"):
            adapt(run, 1.0, thread=True)


class TestTheRandomNumbers:
    def test_are_from_0_to_10_with_three_decimals(self) -> None:
        numbers = [random_number()["number"] for _ in range(1_000)]
        assert all(0 <= number <= 10 and number == round(number, 3) for number in numbers)
        assert len(set(numbers)) > 900

    def test_are_made_on_the_reactor_each_interval(self, desk: Desk) -> None:
        runner = desk.started(RANDOM.make(Options(every=3.0)))
        desk.clock.advance(3)
        assert [list(data) for data in desk.published] == [["number"], ["number"]]
        stopped(runner)
