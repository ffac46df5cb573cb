from __future__ import annotations

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pushserver.auth.rates import SLOTS, Rates
from pushserver.usercode.rate import Rate


def allowed(rates: Rates, name: str, now: float, most: int = 1_000) -> int:
    """The number of events that are allowed now, one after the other."""
    return next((n for n in range(most) if rates.delay(name, now)), most)


@pytest.mark.parametrize(("per_second", "at_once"), [(1, 5), (50, 200), (0.5, 30)])
def test_name_has_its_burst_and_then_its_rate(per_second: float, at_once: int) -> None:
    rates = Rates(per_second, at_once)
    assert allowed(rates, "a", 100.0) == at_once
    assert allowed(rates, "a", 100.0 + 4 / per_second) == 4
    assert allowed(rates, "a", 10_000.0) == at_once
    assert allowed(rates, "b", 10_000.0) == at_once


@given(st.lists(st.tuples(st.floats(0, 3), st.integers(1, 4)), max_size=60))
def test_name_is_allowed_what_a_bucket_of_its_own_would_allow(
    events: list[tuple[float, int]],
) -> None:
    rates, bucket, now = Rates(2, 8), Rate(2, 8), -50.0
    for pause, count in events:
        now += pause
        bucket.delay(now)
        enough = bucket._tokens >= count - 1e-6
        assert (rates.delay("a", now, count) == 0.0) == enough
        for _ in range(count if enough else 0):
            bucket.take()


def test_delay_is_the_time_until_the_events_are_allowed() -> None:
    for count in (2, 3, 8, 20):
        rates = Rates(2, 8)
        rates.delay("a", 0.0, 7)
        delay = rates.delay("a", 0.0, count)
        assert 0 < rates.delay("a", delay - 0.01, count) <= 0.01 + 1e-9
        assert not rates.delay("a", delay, count)


def test_more_than_a_burst_is_allowed_when_the_bucket_is_full() -> None:
    rates = Rates(10, 100)
    assert not rates.delay("a", 0.0, 1_000)
    assert rates.delay("a", 89.0) > 0
    assert not rates.delay("a", 90.1)


def test_events_of_another_process_are_counted_without_a_check() -> None:
    rates = Rates(10, 100)
    rates.charge("a", 0.0, 250)
    assert rates.delay("a", 0.0) == pytest.approx(15.1)
    assert rates.delay("a", 15.0) > 0
    assert not rates.delay("a", 15.2)
    assert not rates.delay("b", 0.0, 100)


@given(st.lists(st.tuples(st.floats(0, 3), st.integers(1, 4), st.booleans()), max_size=60))
def test_events_count_the_same_at_whichever_process(
    events: list[tuple[float, int, bool]],
) -> None:
    alone, one, other, now = Rates(2, 8), Rates(2, 8), Rates(2, 8), -50.0
    one.charged = lambda name, count: other.charge(name, now, count)
    other.charged = lambda name, count: one.charge(name, now, count)
    for pause, count, here in events:
        now += pause
        assert alone.delay("a", now, count) == (one if here else other).delay("a", now, count)


def test_events_are_reported_if_they_were_allowed() -> None:
    rates, charges = Rates(1, 3), list[tuple[str, int]]()
    rates.charged = lambda *charge: charges.append(charge)
    rates.delay("a", 0.0, 3)
    assert rates.delay("a", 0.0)
    rates.charge("b", 0.0, 1)
    rates.delay("b", 0.0)
    assert charges == [("a", 3), ("b", 1)]


def test_million_names_neither_fill_the_memory_nor_give_a_name_a_new_bucket() -> None:
    rates = Rates(1, 10)
    assert allowed(rates, "attacker", 0.0) == 10
    rows = rates._rows
    assert rows is not None
    size = sum(map(sys.getsizeof, rows))
    for n in range(100_000):
        rates.delay(f"other {n}", 0.0)
    assert rates._rows is rows
    assert sum(map(sys.getsizeof, rows)) == size < 20 * SLOTS
    assert rates.delay("attacker", 0.0) > 0


def test_innocent_name_shares_its_slots_with_a_thousand_attackers_rarely() -> None:
    rates = Rates(1, 10)
    for n in range(1_000):
        allowed(rates, f"attacker {n}", 0.0)
    refused = sum(rates.delay(f"innocent {n}", 0.0) > 0 for n in range(2_000))
    # Two in 2,000 are expected, and 30 have a probability below 1e-20.
    assert refused < 30


def test_slots_of_a_name_cannot_be_known_beforehand() -> None:
    """Else an attacker could choose addresses that share the slots of a victim."""
    one, other = Rates(1, 1), Rates(1, 1)
    for rates in (one, other):
        for n in range(50):
            rates.delay(f"{n}", 0.0)
    assert one._rows != other._rows
