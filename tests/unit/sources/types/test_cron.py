from __future__ import annotations

import re
import time
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock

from pushserver.errors import Unavailable
from pushserver.sources.types.cron import (
    CRON,
    MAX_SLEEP_SECONDS,
    SLIGHTLY_BACK_SECONDS,
    Cron,
    MachineZone,
    Options,
    Schedule,
)
from tests.unit.fakes.source_tools import Desk, stopped
from tests.unit.fakes.web import Trouble

PARIS = ZoneInfo("Europe/Paris")


def at(text: str) -> float:
    """Unix seconds of an ISO time with its offset."""
    return datetime.fromisoformat(text).timestamp()


def ticks(expression: str, begin: str, count: int, zone: Any = PARIS) -> list[str]:
    """The first ticks after a time, each from the one before."""
    schedule, now, found = Schedule(expression, zone), at(begin), []
    for _ in range(count):
        due = schedule.after(now)
        found.append(due.isoformat())
        now = due.timestamp()
    return found


class TestTheSchedule:
    def test_is_that_of_the_expression(self) -> None:
        assert ticks("*/20 9-10 * * mon-fri", "2026-11-20T10:30:00+01:00", 3) == [
            "2026-11-20T10:40:00+01:00",
            "2026-11-23T09:00:00+01:00",
            "2026-11-23T09:20:00+01:00",
        ]

    @pytest.mark.parametrize(
        ("name", "first"),
        [
            ("@hourly", "2026-11-20T11:00:00+01:00"),
            ("@daily", "2026-11-21T00:00:00+01:00"),
            ("@midnight", "2026-11-21T00:00:00+01:00"),
            ("@WEEKLY", "2026-11-22T00:00:00+01:00"),
            ("@monthly", "2026-12-01T00:00:00+01:00"),
            ("@yearly", "2027-01-01T00:00:00+01:00"),
            (" @annually ", "2027-01-01T00:00:00+01:00"),
        ],
    )
    def test_has_names(self, name: str, first: str) -> None:
        assert ticks(name, "2026-11-20T10:30:00+01:00", 1) == [first]

    def test_comes_once_in_the_hour_that_does_not_exist(self) -> None:
        """On 29 March 2026 in Paris 02:00 is followed by 03:00."""
        assert ticks("30 2 * * *", "2026-03-28T12:00:00+01:00", 3) == [
            "2026-03-29T03:00:00+02:00",
            "2026-03-30T02:30:00+02:00",
            "2026-03-31T02:30:00+02:00",
        ]

    def test_of_every_half_hour_leaves_that_hour_out(self) -> None:
        assert ticks("*/30 * * * *", "2026-03-29T01:15:00+01:00", 3) == [
            "2026-03-29T01:30:00+01:00",
            "2026-03-29T03:00:00+02:00",
            "2026-03-29T03:30:00+02:00",
        ]

    def test_comes_once_in_the_hour_that_comes_twice(self) -> None:
        """On 25 October 2026 in Paris 03:00 is followed by 02:00."""
        assert ticks("30 2 * * *", "2026-10-24T12:00:00+02:00", 2) == [
            "2026-10-25T02:30:00+02:00",
            "2026-10-26T02:30:00+01:00",
        ]

    @pytest.mark.parametrize("begin", ["02:10:00+01:00", "02:30:00+02:00", "02:40:00+01:00"])
    def test_asked_for_in_that_hour_is_never_in_the_past(self, begin: str) -> None:
        assert ticks("30 2 * * *", f"2026-10-25T{begin}", 1) == ["2026-10-26T02:30:00+01:00"]

    def test_of_every_half_hour_has_that_hour_twice(self) -> None:
        assert ticks("*/30 * * * *", "2026-10-25T01:45:00+02:00", 5) == [
            "2026-10-25T02:00:00+02:00",
            "2026-10-25T02:30:00+02:00",
            "2026-10-25T02:00:00+01:00",
            "2026-10-25T02:30:00+01:00",
            "2026-10-25T03:00:00+01:00",
        ]

    @given(
        expression=st.sampled_from(
            ["* * * * *", "30 2 * * *", "*/7 1-3 * * *", "0,30 * 29 3 *", "15 2 * * sun", "@daily"]
        ),
        minutes=st.integers(0, 3 * 24 * 60) | st.just(0),
        change=st.sampled_from(["2026-03-28T12:00:00+01:00", "2026-10-24T12:00:00+02:00"]),
        zone=st.sampled_from(["Europe/Paris", "America/New_York", "UTC", "Asia/Kathmandu"]),
    )
    def test_is_always_later_and_never_earlier_for_later(
        self, expression: str, minutes: int, change: str, zone: str
    ) -> None:
        schedule = Schedule(expression, ZoneInfo(zone))
        now = at(change) + minutes * 60
        due = schedule.after(now).timestamp()
        assert due > now
        assert schedule.after(now - 90).timestamp() <= due
        assert schedule.after((now + due) / 2).timestamp() == due


class TestTheZoneOfTheMachine:
    @pytest.fixture(autouse=True)
    def _in_paris(self, monkeypatch: pytest.MonkeyPatch) -> Any:
        # In words of its own, so that the machine need not have a list of zones.
        monkeypatch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
        time.tzset()
        yield
        monkeypatch.undo()
        time.tzset()

    def test_changes_its_clocks(self) -> None:
        for begin in ("2026-03-29T01:45:00+01:00", "2026-10-25T01:45:00+02:00"):
            for expression in ("*/30 * * * *", "30 2 * * *"):
                local = ticks(expression, begin, 6, MachineZone())
                assert local == ticks(expression, begin, 6, PARIS)

    def test_knows_every_hour_by_its_offset(self) -> None:
        when = datetime(2026, 10, 24, 22, tzinfo=UTC)
        for _ in range(12):
            when += timedelta(minutes=30)
            local = when.astimezone(MachineZone())
            assert local.isoformat() == when.astimezone(PARIS).isoformat()
            assert local.tzname() == when.astimezone(PARIS).tzname()

    def test_is_taken_when_none_is_named(self) -> None:
        desk = Desk()
        source: Any = CRON.make(Options("0 12 * * *"))
        source._clock = desk.clock.seconds
        runner = desk.started(source)
        noon = at("2026-11-19T12:00:00+01:00")
        while desk.clock.seconds() < noon:
            desk.clock.advance(600)
        assert desk.published == [{"time": "2026-11-19T12:00:00+01:00"}]
        stopped(runner)


class Wall(Clock):
    """A wall clock beside that of the reactor."""

    def __init__(self, now: str):
        super().__init__()
        self.rightNow = at(now)


class Started:
    """What tests of a running source share."""

    def start(self, begin: str, expression: str, data: Any = None) -> tuple[Desk, Wall, Any]:
        desk, wall = Desk(), Wall(begin)
        source = Cron(Schedule(expression, PARIS), data, wall.seconds)
        return desk, wall, desk.started(source)

    def go(self, desk: Desk, wall: Wall, seconds: float) -> None:
        while seconds > 0:
            wall.advance(1)
            desk.clock.advance(1)
            seconds -= 1


class TestTheSource(Started):
    def test_publishes_when_it_is_due_with_that_time(self) -> None:
        desk, wall, runner = self.start("2026-11-20T10:58:30+01:00", "@hourly")
        assert (desk.published, runner.status().state) == ([], "running")
        self.go(desk, wall, 89)
        assert desk.published == []
        self.go(desk, wall, 1)
        assert desk.published == [{"time": "2026-11-20T11:00:00+01:00"}]
        self.go(desk, wall, 3_600)
        assert len(desk.published) == 2
        stopped(runner)
        assert desk.clock.getDelayedCalls() == []

    def test_publishes_the_data_it_is_given(self) -> None:
        desk, wall, runner = self.start("2026-11-20T10:59:30+01:00", "@hourly", [{"a": 1}])
        self.go(desk, wall, 30)
        assert desk.published == [[{"a": 1}]]
        stopped(runner)

    def test_that_failed_is_well_again_before_its_next_time(self, trouble: Trouble) -> None:
        desk, wall, runner = self.start("2026-11-20T10:59:30+01:00", "@hourly")
        desk.refusal = Unavailable("the disk is full")
        self.go(desk, wall, 30)
        assert runner.status().last_error == "the disk is full"
        self.go(desk, wall, 2)
        assert (runner.status().state, runner.status().last_error) == ("running", "")
        assert len(trouble.take()) == 1
        stopped(runner)

    def test_makes_up_for_many_missed_ticks_by_one(self) -> None:
        """The process, or the machine, was suspended for five hours."""
        desk, wall, runner = self.start("2026-11-20T10:58:30+01:00", "@hourly")
        wall.advance(5 * 3_600)
        desk.clock.advance(MAX_SLEEP_SECONDS)
        assert desk.published == [{"time": "2026-11-20T11:00:00+01:00"}]
        self.go(desk, wall, 90)
        assert desk.published[1:] == [{"time": "2026-11-20T16:00:00+01:00"}]
        stopped(runner)

    def test_does_not_come_before_its_time_when_the_clock_is_set_back(self) -> None:
        desk, wall, runner = self.start("2026-11-20T10:59:30+01:00", "@hourly")
        wall.rightNow -= 600
        self.go(desk, wall, 60)
        assert desk.published == []
        self.go(desk, wall, 600)
        assert len(desk.published) == 1
        stopped(runner)


def clocked(desk: Desk) -> list[str]:
    """The times that were published, without the date and the offset."""
    return [value["time"][11:16] for value in desk.published]


class TestTheSourceWhenTheClockIsSet(Started):
    """The reactor's time passes as before."""

    def test_back_by_an_hour_follows_the_new_time(self) -> None:
        desk, wall, runner = self.start("2026-11-20T10:58:30+01:00", "* * * * *")
        self.go(desk, wall, 100)
        wall.rightNow -= 3_600
        self.go(desk, wall, 120)
        assert clocked(desk) == ["10:59", "11:00", "10:01", "10:02"]
        stopped(runner)

    @pytest.mark.parametrize("expression", ["* * * * *", "@hourly", "0 11 * * *", "*/5 9-11 * * *"])
    @pytest.mark.parametrize("seconds", [1, 20, 31, 90])
    def test_slightly_back_brings_nothing_twice(self, expression: str, seconds: int) -> None:
        desk, wall, runner = self.start("2026-11-20T10:57:50+01:00", expression)
        self.go(desk, wall, 135)
        for _ in range(4):
            wall.rightNow -= seconds
            self.go(desk, wall, seconds + 2)
        times = clocked(desk)
        assert "11:00" in times
        assert times == sorted(set(times))
        stopped(runner)

    @pytest.mark.parametrize("expression", ["0 11 * * *", "0 11,23 * * *", "30 10 * * *"])
    def test_back_by_an_hour_brings_no_time_of_the_day_again(self, expression: str) -> None:
        desk, wall, runner = self.start("2026-11-20T10:29:30+01:00", expression)
        self.go(desk, wall, 1_900)
        wall.rightNow -= 3_600
        self.go(desk, wall, 7_200)
        assert len(desk.published) == 1
        stopped(runner)

    def test_back_by_an_hour_brings_none_of_several_again(self) -> None:
        desk, wall, runner = self.start("2026-11-20T09:59:30+01:00", "0,30 10 * * *")
        self.go(desk, wall, 2_700)
        wall.rightNow -= 3_600
        self.go(desk, wall, 7_200)
        assert clocked(desk) == ["10:00", "10:30"]
        stopped(runner)

    def test_back_by_an_hour_brings_the_same_hour_no_second_time(self) -> None:
        desk, wall, runner = self.start("2026-11-20T10:59:30+01:00", "@hourly")
        self.go(desk, wall, 60)
        wall.rightNow -= 3_600
        self.go(desk, wall, 7_200)
        assert clocked(desk) == ["11:00", "12:00"]
        stopped(runner)

    @pytest.mark.parametrize("expression", ["* * * * *", "@hourly", "0 12 * * *"])
    def test_back_by_years_follows_the_new_time(self, expression: str) -> None:
        desk, wall, runner = self.start("2026-11-20T11:59:30+01:00", expression)
        self.go(desk, wall, 40)
        wall.rightNow = at("2016-11-20T11:59:30+01:00")
        self.go(desk, wall, 40)
        assert [value["time"] for value in desk.published] == [
            "2026-11-20T12:00:00+01:00",
            "2016-11-20T12:00:00+01:00",
        ]
        stopped(runner)

    def test_back_while_it_waits_for_a_distant_time_does_not_wait_for_that(self) -> None:
        desk, wall, runner = self.start("2026-11-20T12:30:00+01:00", "0 12 * * *")
        wall.rightNow = at("2016-11-20T11:59:00+01:00")
        self.go(desk, wall, 31 + MAX_SLEEP_SECONDS)
        assert [value["time"] for value in desk.published] == ["2016-11-20T12:00:00+01:00"]
        stopped(runner)

    def test_forward_makes_up_for_what_was_skipped_by_one(self) -> None:
        desk, wall, runner = self.start("2026-11-20T10:58:30+01:00", "*/10 * * * *")
        wall.rightNow += 3_600
        self.go(desk, wall, MAX_SLEEP_SECONDS)
        assert clocked(desk) == ["11:00"]
        self.go(desk, wall, 90)
        assert clocked(desk) == ["11:00", "12:00"]
        stopped(runner)

    def test_forward_and_back_again_goes_on_as_before(self) -> None:
        desk, wall, runner = self.start("2026-11-20T10:58:30+01:00", "0 * * * *")
        wall.rightNow += 3e8
        self.go(desk, wall, 3_700)
        wall.rightNow -= 3e8
        self.go(desk, wall, 3_600)
        assert clocked(desk)[0] == "11:00"
        assert clocked(desk)[-1] == "13:00"
        stopped(runner)

    def test_while_a_failed_attempt_waits_brings_nothing_twice(self, trouble: Trouble) -> None:
        desk, wall, runner = self.start("2026-11-20T10:59:30+01:00", "0 11 * * *")
        desk.refusal = Unavailable("the disk is full")
        self.go(desk, wall, 30)
        desk.refusal = None
        wall.rightNow -= 60
        self.go(desk, wall, 120)
        assert desk.published == []
        assert len(trouble.take()) == 1
        stopped(runner)

    @given(
        st.lists(
            st.tuples(
                st.sampled_from(
                    [-3e8, -7_200, -3_600, -600, -120, -61, -59, -1, 1, 60, 3_600, 3e8]
                ),
                st.integers(1, 200),
            ),
            max_size=12,
        )
    )
    def test_by_anything_it_never_stands_still_and_repeats_no_time_at_once(
        self, steps: list[tuple[float, int]]
    ) -> None:
        desk, wall, runner = self.start("2026-11-20T10:59:30+01:00", "* * * * *")
        for step, seconds in steps:
            wall.rightNow += step
            self.go(desk, wall, seconds)
        times = [value["time"] for value in desk.published]
        assert all(time != following for time, following in pairwise(times))
        self.go(desk, wall, SLIGHTLY_BACK_SECONDS + 60 + MAX_SLEEP_SECONDS)
        assert len(desk.published) > len(times)
        stopped(runner)


class TestItsOptions:
    @pytest.mark.parametrize(
        ("options", "parts"),
        [
            (Options("5 * * *"), ["expression: '5 * * *'", "five fields", "@hourly"]),
            (Options("@never"), ["expression: '@never'", "five fields"]),
            (Options("0 0 0 * * *"), ["expression", "five fields"]),
            (Options("60 * * * *"), ["expression: '60 * * * *'", "Bad minute"]),
            (Options("* 24 * * *"), ["Bad hour"]),
            (Options("* * 31 2 *"), ["Bad day-of-month"]),
            (Options("* * * * nonday"), ["Bad day-of-week"]),
            (Options("@daily", "Europe/Nowhere"), ["timezone: 'Europe/Nowhere'", "Europe/Paris"]),
            (Options("@daily", "/etc/passwd"), ["timezone"]),
            (Options("@daily", "../x"), ["timezone"]),
            (Options("@daily", "Europe"), ["timezone"]),
            (Options("@daily", data=float("nan")), ["data: float does not fit into JSON"]),
        ],
    )
    def test_that_cannot_be_are_named_with_what_was_expected(
        self, options: Options, parts: list[str]
    ) -> None:
        with pytest.raises(ValueError, match=re.escape(parts[0])) as caught:
            CRON.make(options)
        for part in parts:
            assert part in str(caught.value)

    def test_may_have_any_value_of_toml_as_data(self) -> None:
        data = {"at": datetime(2026, 1, 1, tzinfo=UTC), "list": [1, 2.5, True, "x"]}
        CRON.make(Options("@daily", "UTC", data))
