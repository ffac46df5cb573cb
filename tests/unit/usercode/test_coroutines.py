from __future__ import annotations

import gc
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred

from pushserver.usercode.coroutines import start


async def answer(*waits: Deferred[int]) -> int:
    return sum([await wait for wait in waits])


def fired(deferred: Any) -> list[Any]:
    """The result of the Deferred, if it has fired."""
    assert isinstance(deferred, Deferred)
    results: list[Any] = []
    deferred.addBoth(results.append)
    return results


def test_coroutine_that_does_not_wait_returns_its_result() -> None:
    assert start(answer()) == 0


def test_exception_before_the_first_wait_is_raised() -> None:
    async def fail() -> None:
        raise KeyError("x")

    with pytest.raises(KeyError):
        start(fail())


def test_coroutine_waits_for_one_deferred_after_the_other() -> None:
    first: Deferred[int] = Deferred()
    second: Deferred[int] = Deferred()
    results = fired(start(answer(first, second)))
    first.callback(1)
    assert results == []
    second.callback(2)
    assert results == [3]


def test_failure_is_raised_at_the_await() -> None:
    async def careful(wait: Deferred[int]) -> str:
        try:
            await wait
        except ValueError as error:
            return f"got {error}"
        return ""

    wait: Deferred[int] = Deferred()
    results = fired(start(careful(wait)))
    wait.errback(ValueError("it"))
    assert results == ["got it"]


def test_exception_after_the_first_wait_fails_the_deferred() -> None:
    wait: Deferred[int] = Deferred()
    results = fired(start(answer(wait)))
    wait.errback(ValueError("it"))
    assert results[0].check(ValueError)


def test_deferred_can_be_cancelled() -> None:
    wait: Deferred[int] = Deferred()
    waiting: Any = start(answer(wait))
    results = fired(waiting)
    waiting.cancel()
    assert results[0].check(CancelledError)


def test_coroutine_is_closed_when_nothing_can_resume_it() -> None:
    closed = []

    async def tidy() -> None:
        try:
            await Deferred()
        finally:
            closed.append(True)

    start(tidy())
    gc.collect()
    assert closed == [True]
