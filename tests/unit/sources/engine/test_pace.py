from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pushserver.sources.engine.backoff import Backoff
from pushserver.sources.engine.meter import Meter

SECONDS = st.floats(0.01, 1_000)


class TestTheBackoff:
    def test_doubles_up_to_the_most(self) -> None:
        backoff = Backoff(1.0, 60.0, lambda: 1.0)
        assert [backoff.failed(None) for _ in range(8)] == [1, 2, 4, 8, 16, 32, 60, 60]

    @pytest.mark.parametrize(("draw", "expected"), [(0.0, [0.5, 1, 2]), (0.5, [0.75, 1.5, 3])])
    def test_has_jitter_of_a_half(self, draw: float, expected: list[float]) -> None:
        backoff = Backoff(1.0, 60.0, lambda: draw)
        assert [backoff.failed(None) for _ in range(3)] == expected

    @pytest.mark.parametrize(
        ("worked_for", "expected"), [(None, 8), (0.0, 8), (9.9, 8), (10.0, 1), (500.0, 1)]
    )
    def test_starts_anew_after_an_attempt_that_worked_and_lived_for_a_while(
        self, worked_for: float | None, expected: float
    ) -> None:
        backoff = Backoff(1.0, 60.0, lambda: 1.0)
        for _ in range(3):
            backoff.failed(None)
        assert backoff.failed(worked_for) == expected

    def test_takes_the_most_for_a_while_if_that_is_less(self) -> None:
        backoff = Backoff(1.0, 4.0, lambda: 1.0)
        assert [backoff.failed(None) for _ in range(4)] == [1, 2, 4, 4]
        assert backoff.failed(4.0) == 1

    @given(first=SECONDS, most=SECONDS, lives=st.lists(st.none() | SECONDS, max_size=200))
    def test_is_never_longer_than_the_most_nor_shorter_than_half_the_first(
        self, first: float, most: float, lives: list[float | None]
    ) -> None:
        backoff = Backoff(first, most)
        delays = [backoff.failed(life) for life in lives]
        assert all(first / 2 <= delay <= max(first, most) for delay in delays)


class TestTheMeter:
    def test_counts_over_the_last_minute(self) -> None:
        meter = Meter()
        for second in range(300):
            meter.add(float(second))
            meter.add(second + 0.5)
        assert meter.count == 600
        assert meter.rate(299.9) == pytest.approx(2.0)
        assert meter.rate(330.0) == pytest.approx(1.0, rel=0.05)
        assert meter.rate(400.0) == 0

    def test_of_a_young_source_counts_over_its_life(self) -> None:
        meter = Meter()
        assert meter.rate(5.0) == 0
        for second in range(11):
            meter.add(100.0 + second)
        assert meter.rate(110.0) == pytest.approx(1.1)

    def test_is_not_upset_by_a_clock_that_is_set_back(self) -> None:
        meter = Meter()
        for now in (100.0, 50.0, 100.5):
            meter.add(now)
        assert meter.rate(101.0) == 3

    @given(st.lists(st.floats(0, 10), max_size=200))
    def test_remembers_no_more_than_a_minute(self, steps: list[float]) -> None:
        meter, now, seen = Meter(), 1_000.0, list[float]()
        for step in steps:
            now += step
            meter.add(now)
            seen.append(now)
            recent = sum(at > now - 59 for at in seen) / max(1.0, min(60.0, now - seen[0]))
            assert meter.rate(now) >= recent * 0.98
        assert meter.count == len(seen)
        assert len(meter._seconds) <= 61
