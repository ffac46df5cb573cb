from __future__ import annotations

from collections.abc import Awaitable
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from pushserver.usercode.awaiting import awaited
from pushserver.usercode.stopwatch import BLOCKING_SECONDS, FOR_COROUTINES, FOR_FUNCTIONS, Stopwatch
from tests.unit.fakes.source_tools import Script, SourceBench
from tests.unit.fakes.web import Trouble


class Time:
    """A clock that functions of the user move."""

    def __init__(self) -> None:
        self.now = 5.0

    def __call__(self) -> float:
        return self.now

    def block(self, seconds: float) -> float:
        self.now += seconds
        return seconds


@pytest.fixture
def time() -> Time:
    return Time()


def test_slow_call_is_logged_with_its_time_and_a_remedy(time: Time, trouble: Trouble) -> None:
    stopwatch = Stopwatch("the handler buy of order", False, time)
    assert stopwatch.call(time.block, 0.35) == 0.35
    [line] = trouble.take()
    assert line == (
        f"the handler buy of order has blocked the whole server for 0.35 s: {FOR_FUNCTIONS}"
    )


def test_quick_call_is_not_logged(time: Time, trouble: Trouble) -> None:
    Stopwatch("f", False, time).call(time.block, BLOCKING_SECONDS)
    assert trouble.take() == []


def test_slow_call_that_raises_is_logged_too(time: Time, trouble: Trouble) -> None:
    def fail() -> None:
        time.block(1.0)
        raise ValueError("7")

    with pytest.raises(ValueError, match="7"):
        Stopwatch("f", False, time).call(fail)
    assert len(trouble.take()) == 1


def test_slow_calls_are_logged_once_a_minute(time: Time, trouble: Trouble) -> None:
    stopwatch = Stopwatch("f", False, time)
    for _ in range(50):
        stopwatch.call(time.block, 0.2)
    assert len(trouble.take()) == 1
    time.block(60.0)
    stopwatch.call(time.block, 0.2)
    [line] = trouble.take()
    assert line.endswith("(and 49 that were not logged)")


def test_each_step_of_a_coroutine_is_timed_alone(time: Time, trouble: Trouble) -> None:
    waits: list[Deferred[None]] = [Deferred(), Deferred()]

    async def steps() -> str:
        time.block(0.06)
        await waits[0]
        time.block(0.06)
        await waits[1]
        time.block(0.5)
        return "end"

    stopwatch = Stopwatch("the source function steps", True, time)
    results: list[Any] = []
    work: Awaitable[Any] = awaited(steps(), stopwatch.call)
    Deferred.fromCoroutine(work).addCallback(results.append)  # type: ignore[arg-type]
    waits[0].callback(None)
    assert trouble.take() == []
    waits[1].callback(None)
    [line] = trouble.take()
    assert results == ["end"]
    assert line.startswith("the source function steps has blocked the whole server for 0.50 s: ")
    assert line.endswith(FOR_COROUTINES)


@pytest.mark.parametrize(
    ("module", "timed"), [("pushserver.sources.types.x", False), ("own", True)]
)
def test_source_of_a_built_in_type_is_not_timed(
    monkeypatch: pytest.MonkeyPatch, module: str, timed: bool
) -> None:
    names: list[str] = []

    class Noted(Stopwatch):
        def __init__(self, name: str, is_async: bool):
            names.append(name)
            super().__init__(name, is_async)

    async def run(feed: Any) -> None:
        await feed.sleep(1)

    class Source(Script):
        __module__ = module

    monkeypatch.setattr("pushserver.sources.engine.attempt.Stopwatch", Noted)
    runner = SourceBench().runner(Source(run))
    runner.startService()
    runner.stopService()
    assert bool(names) == timed
