from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pushserver.sources.engine.backoff import Backoff
from pushserver.sources.engine.meter import Meter

SECONDS = st.floats(0.01, 1_000)


class TestBackoff:
    def test_delay_doubles_up_to_the_longest(self) -> None:
        backoff = Backoff(1.0, 60.0, lambda: 1.0)
        assert [backoff.failed(None) for _ in range(8)] == [1, 2, 4, 8, 16, 32, 60, 60]

    @pytest.mark.parametrize(("draw", "expected"), [(0.0, [0.5, 1, 2]), (0.5, [0.75, 1.5, 3])])
    def test_jitter_takes_off_up_to_a_half(self, draw: float, expected: list[float]) -> None:
        backoff = Backoff(1.0, 60.0, lambda: draw)
        assert [backoff.failed(None) for _ in range(3)] == expected

    @pytest.mark.parametrize(
        ("worked_for", "expected"), [(None, 8), (0.0, 8), (9.9, 8), (10.0, 1), (500.0, 1)]
    )
    def test_healthy_attempt_resets_the_delay(
        self, worked_for: float | None, expected: float
    ) -> None:
        backoff = Backoff(1.0, 60.0, lambda: 1.0)
        for _ in range(3):
            backoff.failed(None)
        assert backoff.failed(worked_for) == expected

    def test_short_longest_delay_is_enough_for_a_healthy_attempt(self) -> None:
        backoff = Backoff(1.0, 4.0, lambda: 1.0)
        assert [backoff.failed(None) for _ in range(4)] == [1, 2, 4, 4]
        assert backoff.failed(4.0) == 1

    @given(first=SECONDS, longest=SECONDS, lives=st.lists(st.none() | SECONDS, max_size=200))
    def test_delay_stays_within_half_the_first_and_the_longest(
        self, first: float, longest: float, lives: list[float | None]
    ) -> None:
        backoff = Backoff(first, longest)
        delays = [backoff.failed(life) for life in lives]
        assert all(first / 2 <= delay <= max(first, longest) for delay in delays)


class TestMeter:
    def test_rate_is_that_of_the_last_minute(self) -> None:
        meter = Meter()
        for second in range(300):
            meter.add(float(second))
            meter.add(second + 0.5)
        assert meter.count == 600
        assert meter.rate(299.9) == pytest.approx(2.0)
        assert meter.rate(330.0) == pytest.approx(1.0, rel=0.05)
        assert meter.rate(400.0) == 0

    def test_rate_of_a_young_meter_is_that_of_its_life(self) -> None:
        meter = Meter()
        assert meter.rate(5.0) == 0
        for second in range(11):
            meter.add(100.0 + second)
        assert meter.rate(110.0) == pytest.approx(1.1)

    def test_clock_may_be_set_back(self) -> None:
        meter = Meter()
        for now in (100.0, 50.0, 100.5):
            meter.add(now)
        assert meter.rate(101.0) == 3

    @given(st.lists(st.floats(0, 10), max_size=200))
    def test_memory_is_bounded_to_a_minute(self, steps: list[float]) -> None:
        meter, now, seen = Meter(), 1_000.0, list[float]()
        for step in steps:
            now += step
            meter.add(now)
            seen.append(now)
            recent = sum(at > now - 59 for at in seen) / max(1.0, min(60.0, now - seen[0]))
            assert meter.rate(now) >= recent * 0.98
        assert meter.count == len(seen)
        assert len(meter._seconds) <= 61
