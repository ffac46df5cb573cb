"""Calls at an interval."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from pushserver.usercode.rate import LOGGED_AT_ONCE
from pushserver.usercode.repeating import Repeating
from tests.unit.fakes.web import Trouble


def test_function_is_called_at_its_interval_until_the_stop() -> None:
    clock, times = Clock(), list[float]()
    repeating = Repeating(lambda: times.append(clock.seconds()), clock)
    repeating.stop()
    repeating.start(2.0)
    clock.pump([1.0] * 5)
    assert times == [2.0, 4.0]
    repeating.stop()
    repeating.stop()
    assert not clock.getDelayedCalls()


def test_function_that_fails_is_called_again_and_its_failures_are_logged(trouble: Trouble) -> None:
    clock, calls = Clock(), [0]

    def fail() -> None:
        calls[0] += 1
        raise RuntimeError("no")

    repeating = Repeating(fail, clock)
    repeating.start(1.0)
    clock.pump([1.0] * 30)
    repeating.stop()
    assert calls == [30]
    logged = trouble.take()
    assert LOGGED_AT_ONCE <= len(logged) < 20
    assert "fail failed, and is called again: RuntimeError('no')" in logged[0]


def test_next_call_waits_for_a_coroutine_and_follows_one_that_fails(trouble: Trouble) -> None:
    clock, calls = Clock(), list[Deferred[None]]()

    async def wait() -> None:
        calls.append(Deferred())
        await calls[-1]

    repeating = Repeating(wait, clock)
    repeating.start(1.0)
    clock.pump([1.0] * 3)
    assert len(calls) == 1
    calls[0].errback(ValueError("no"))
    clock.advance(1.0)
    assert len(calls) == 2
    assert len(trouble.take()) == 1
    repeating.stop()
    calls[1].callback(None)
    assert not clock.getDelayedCalls()
