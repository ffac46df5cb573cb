from __future__ import annotations

from collections.abc import Callable

import pytest
from twisted.internet.task import Clock

from pushserver.usercode.turns import TURN_SECONDS, Turns
from tests.unit.fakes.reactors import one_turn


class Costly:
    """A clock on which each call of `work` takes a time."""

    def __init__(self) -> None:
        self.reactor = Clock()
        self.now = 0.0
        self.turns = Turns(self.reactor, lambda: self.now)
        self.done: list[str] = []

    def work(self, name: str, seconds: float = 0.0, again: int = 0) -> Callable[[], None]:
        left = [again]

        def handle() -> None:
            self.done.append(name)
            self.now += seconds
            if left[0]:
                left[0] -= 1
                self.turns.later(handle)

        return handle


def test_each_peer_gets_one_slice_in_a_turn() -> None:
    costly = Costly()
    for name in "abc":
        costly.turns.later(costly.work(name, again=2))
    one_turn(costly.reactor)
    assert costly.done == list("abc")
    one_turn(costly.reactor)
    assert costly.done == list("abcabc")


def test_turn_ends_with_its_time_and_the_next_begins_with_the_peer_that_is_next() -> None:
    costly = Costly()
    for name in "abc":
        costly.turns.later(costly.work(name, TURN_SECONDS * 0.6, again=1))
    for done in ("ab", "abca", "abcabc"):
        one_turn(costly.reactor)
        assert costly.done == list(done)
    one_turn(costly.reactor)
    assert costly.reactor.getDelayedCalls() == []


def test_cancelled_slice_is_not_handled_and_leaves_no_timer() -> None:
    costly = Costly()
    first, second = costly.work("a"), costly.work("b")
    costly.turns.later(first)
    costly.turns.later(second)
    costly.turns.cancel(first)
    one_turn(costly.reactor)
    assert costly.done == ["b"]
    costly.turns.later(first)
    costly.turns.cancel(first)
    costly.turns.cancel(first)
    assert costly.reactor.getDelayedCalls() == []


def test_slice_may_cancel_the_next_one() -> None:
    costly = Costly()
    second = costly.work("b")
    costly.turns.later(lambda: costly.turns.cancel(second))
    costly.turns.later(second)
    one_turn(costly.reactor)
    assert costly.done == []


def test_failed_slice_does_not_keep_the_others_waiting() -> None:
    costly = Costly()

    def fail() -> None:
        raise ValueError("broken")

    costly.turns.later(fail)
    costly.turns.later(costly.work("a"))
    with pytest.raises(ValueError, match="broken"):
        one_turn(costly.reactor)
    one_turn(costly.reactor)
    assert costly.done == ["a"]
