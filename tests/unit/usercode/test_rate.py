from __future__ import annotations

from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pushserver.usercode.rate import Budget, LogLimiter, Rate


class TestRate:
    def test_allows_the_events_of_a_second_at_once_and_then_one_each_interval(self) -> None:
        rate = Rate(4.0)
        for _ in range(4):
            assert rate.delay(10.0) == 0
            rate.take()
        assert rate.delay(10.0) == 0.25
        assert rate.delay(10.2) == pytest.approx(0.05)
        assert rate.delay(10.25) == 0

    def test_below_one_a_second_allows_one_at_once(self) -> None:
        rate = Rate(0.1)
        assert rate.delay(0.0) == 0
        rate.take()
        assert rate.delay(0.0) == 10

    def test_saves_the_events_of_one_second_at_most(self) -> None:
        rate = Rate(4.0)
        assert rate.delay(0.0) == 0
        for _ in range(4):
            assert rate.delay(1_000.0) == 0
            rate.take()
        assert rate.delay(1_000.0) == 0.25

    def test_asking_takes_no_token(self) -> None:
        rate = Rate(1.0)
        assert [rate.delay(0.0) for _ in range(5)] == [0] * 5

    def test_clock_that_is_set_back_changes_nothing(self) -> None:
        rate = Rate(1.0)
        assert rate.delay(1_000.0) == 0
        rate.take()
        assert rate.delay(0.0) == 1
        assert rate.delay(1.0) == 0

    @given(
        per_second=st.floats(0.01, 1_000),
        steps=st.lists(st.floats(0, 50), min_size=1, max_size=100),
        start=st.sampled_from([0.0, 1_795_000_000.0]),
    )
    def test_never_exceeds_the_rate_and_never_delays_longer_than_one_interval(
        self, per_second: float, steps: list[float], start: float
    ) -> None:
        rate, now, taken = Rate(per_second), start, 0
        most = max(1.0, per_second)
        for step in steps:
            now += step
            while not (delay := rate.delay(now)):
                rate.take()
                taken += 1
                assert taken <= most + (now - start) * per_second + 0.01 * (1 + taken)
            assert delay <= 1 / per_second + 1e-9
        now += delay
        assert rate.delay(now) <= 1e-5 / per_second + 1e-6


def test_log_limiter_allows_its_number_of_messages_and_counts_the_others() -> None:
    limiter = LogLimiter(2)
    assert [limiter.suffix(0.0) for _ in range(5)] == ["", "", None, None, None]
    assert limiter.suffix(29.0) is None
    assert limiter.suppressed == 4
    assert limiter.suffix(30.0) == " (and 4 that were not logged)"
    assert limiter.suffix(60.0) == ""


class TestBudget:
    def test_does_not_read_the_clock_before_it_is_empty(self) -> None:
        reads: list[None] = []

        def clock() -> float:
            reads.append(None)
            return 0.0

        budget = Budget(10, 0.0)
        assert not any(budget.is_exceeded(1, 10, clock) for _ in range(10))
        assert not reads
        assert budget.is_exceeded(1, 10, clock)

    @given(st.lists(st.tuples(st.floats(0, 3), st.integers(0, 30)), max_size=60))
    def test_allows_what_a_bucket_allows_and_one_more_burst(
        self, steps: list[tuple[float, int]]
    ) -> None:
        """In any time `t` not more than `rate * t` and two bursts."""
        now, allowed = 0.0, []
        budget = Budget(20, now)
        for pause, count in steps:
            now += pause
            for _ in range(count):
                if not budget.is_exceeded(5, 20, partial(float, now)):
                    allowed.append(now)
        for number, start in enumerate(allowed):
            for other, end in enumerate(allowed[number:], 1):
                assert other <= 2 * 20 + 5 * (end - start) + 1

    def test_allows_the_rate_for_ever(self) -> None:
        now = 0.0
        budget = Budget(20, now)
        for _ in range(2_000):
            now += 0.2 + 1e-9
            assert not budget.is_exceeded(5, 20, partial(float, now))

    def test_counts_refused_events_too(self) -> None:
        now = 0.0
        budget = Budget(20, now)
        refused = [budget.is_exceeded(5, 20, partial(float, now)) for _ in range(50)]
        assert refused == [False] * 20 + [True] * 30
        assert budget.left == -30
        now = 6.0
        assert budget.is_exceeded(5, 20, partial(float, now))
        now = 6.5
        assert not budget.is_exceeded(5, 20, partial(float, now))
