from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pushserver.sources.engine.backoff import Backoff
from pushserver.sources.engine.meter import Meter
from pushserver.usercode.rate import Rate, Remarks

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


class TestTheRate:
    def test_lets_a_second_of_them_through_at_once_and_then_one_each_interval(self) -> None:
        rate = Rate(4.0)
        for _ in range(4):
            assert rate.delay(10.0) == 0
            rate.take()
        assert rate.delay(10.0) == 0.25
        assert rate.delay(10.2) == pytest.approx(0.05)
        assert rate.delay(10.25) == 0

    def test_of_less_than_one_a_second_lets_one_through_at_once(self) -> None:
        rate = Rate(0.1)
        assert rate.delay(0.0) == 0
        rate.take()
        assert rate.delay(0.0) == 10

    def test_saves_up_no_more_than_a_second_of_them(self) -> None:
        rate = Rate(4.0)
        assert rate.delay(0.0) == 0
        for _ in range(4):
            assert rate.delay(1_000.0) == 0
            rate.take()
        assert rate.delay(1_000.0) == 0.25

    def test_asking_takes_nothing(self) -> None:
        rate = Rate(1.0)
        assert [rate.delay(0.0) for _ in range(5)] == [0] * 5

    def test_is_not_upset_by_a_clock_that_is_set_back(self) -> None:
        rate = Rate(1.0)
        assert rate.delay(1_000.0) == 0
        rate.take()
        assert rate.delay(0.0) == 1
        assert rate.delay(1.0) == 0

    @given(
        per_second=st.floats(0.01, 1_000),
        steps=st.lists(st.floats(0, 50), min_size=1, max_size=100),
        begin=st.sampled_from([0.0, 1_795_000_000.0]),
    )
    def test_never_lets_more_through_than_it_says_nor_makes_anybody_wait_too_long(
        self, per_second: float, steps: list[float], begin: float
    ) -> None:
        rate, now, taken = Rate(per_second), begin, 0
        most = max(1.0, per_second)
        for step in steps:
            now += step
            while not (delay := rate.delay(now)):
                rate.take()
                taken += 1
                assert taken <= most + (now - begin) * per_second + 0.01 * (1 + taken)
            assert delay <= 1 / per_second + 1e-9
        now += delay
        assert rate.delay(now) <= 1e-5 / per_second + 1e-6


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


def test_remarks_are_made_so_often_and_the_others_counted() -> None:
    remarks = Remarks(2)
    assert [remarks.more(0.0) for _ in range(5)] == ["", "", None, None, None]
    assert remarks.more(29.0) is None
    assert remarks.unsaid == 4
    assert remarks.more(30.0) == " (and 4 that were not logged)"
    assert remarks.more(60.0) == ""
