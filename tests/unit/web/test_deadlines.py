"""Connections wait equally long for their first bytes, by one timer."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock

from pushserver.web.deadlines import Deadlines

SECONDS = 15


class Waiting:
    def __init__(self, clock: Clock):
        self._clock = clock
        self.added_at = clock.seconds()
        self.ended_at: float | None = None

    def loseConnection(self) -> None:
        assert self.ended_at is None
        self.ended_at = self._clock.seconds()


@given(st.lists(st.one_of(st.just("add"), st.integers(0, 9), st.floats(0.1, 9.0)), max_size=40))
def test_each_ends_after_its_time_unless_it_was_removed(steps: list[str | int | float]) -> None:
    clock = Clock()
    deadlines = Deadlines(clock, clock.seconds, SECONDS)
    connections: list[Waiting] = []
    removed: dict[Waiting, float] = {}
    for step in steps:
        if step == "add":
            connections.append(Waiting(clock))
            assert deadlines.add(connections[-1]) == clock.seconds() + SECONDS
        elif isinstance(step, int):
            for waiting in connections[step : step + 1]:
                deadlines.remove(waiting)
                removed.setdefault(waiting, clock.seconds())
        elif isinstance(step, float):
            clock.advance(step)
        assert len(clock.getDelayedCalls()) <= 1
    clock.pump([1.0] * (SECONDS + 1))
    for waiting in connections:
        until = waiting.added_at + SECONDS
        if removed.get(waiting, until) < until:
            assert waiting.ended_at is None
        else:
            assert waiting.ended_at is not None
            assert waiting.ended_at >= until
    assert not clock.getDelayedCalls()


def test_the_timer_is_exact_for_each() -> None:
    clock = Clock()
    deadlines = Deadlines(clock, clock.seconds, SECONDS)
    connections = []
    for _ in range(3):
        connections.append(Waiting(clock))
        deadlines.add(connections[-1])
        clock.advance(4)
    clock.pump([0.5] * 40)
    assert [waiting.ended_at for waiting in connections] == [15, 19, 23]


def test_one_that_adds_another_as_it_ends_disturbs_none() -> None:
    clock = Clock()
    deadlines = Deadlines(clock, clock.seconds, SECONDS)
    second = Waiting(clock)

    class First(Waiting):
        def loseConnection(self) -> None:
            super().loseConnection()
            deadlines.remove(self)
            deadlines.add(second)

    first = First(clock)
    deadlines.add(first)
    clock.advance(SECONDS)
    assert (first.ended_at, second.ended_at) == (15, None)
    assert len(clock.getDelayedCalls()) == 1
    clock.advance(SECONDS)
    assert second.ended_at == 30
    assert not clock.getDelayedCalls()
