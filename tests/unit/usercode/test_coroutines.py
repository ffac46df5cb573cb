from __future__ import annotations

import gc
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred

from pushserver.usercode.coroutines import begin


async def answer(*waits: Deferred[int]) -> int:
    return sum([await wait for wait in waits])


def taken(deferred: Any) -> list[Any]:
    """What it has fired with, if it has."""
    assert isinstance(deferred, Deferred)
    found: list[Any] = []
    deferred.addBoth(found.append)
    return found


def test_what_waits_for_nothing_is_there_at_once() -> None:
    assert begin(answer()) == 0


def test_what_is_raised_before_it_waits_is_raised_at_once() -> None:
    async def fail() -> None:
        raise KeyError("x")

    with pytest.raises(KeyError):
        begin(fail())


def test_what_it_waits_for_comes_one_after_the_other() -> None:
    first: Deferred[int] = Deferred()
    second: Deferred[int] = Deferred()
    found = taken(begin(answer(first, second)))
    first.callback(1)
    assert found == []
    second.callback(2)
    assert found == [3]


def test_a_failure_is_raised_where_it_is_awaited() -> None:
    async def careful(wait: Deferred[int]) -> str:
        try:
            await wait
        except ValueError as error:
            return f"got {error}"
        return ""

    wait: Deferred[int] = Deferred()
    found = taken(begin(careful(wait)))
    wait.errback(ValueError("it"))
    assert found == ["got it"]


def test_what_is_raised_later_is_the_deferreds() -> None:
    wait: Deferred[int] = Deferred()
    found = taken(begin(answer(wait)))
    wait.errback(ValueError("it"))
    assert found[0].check(ValueError)


def test_it_may_be_cancelled() -> None:
    wait: Deferred[int] = Deferred()
    waiting: Any = begin(answer(wait))
    found = taken(waiting)
    waiting.cancel()
    assert found[0].check(CancelledError)


def test_it_is_closed_when_what_it_waits_for_is_gone() -> None:
    closed = []

    async def tidy() -> None:
        try:
            await Deferred()
        finally:
            closed.append(True)

    begin(tidy())
    gc.collect()
    assert closed == [True]
