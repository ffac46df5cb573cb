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
    CronSource,
    MachineZone,
    Options,
    Schedule,
)
from tests.unit.fakes.source_tools import SourceBench, stopped
from tests.unit.fakes.web import Trouble

PARIS = ZoneInfo("Europe/Paris")


def unix_time(text: str) -> float:
    """Return the Unix seconds of an ISO time with its offset."""
    return datetime.fromisoformat(text).timestamp()


def due_times(expression: str, start: str, count: int, zone: Any = PARIS) -> list[str]:
    """Return the first due times after a time, each computed from the one before."""
    schedule, now, times = Schedule(expression, zone), unix_time(start), []
    for _ in range(count):
        due = schedule.after(now)
        times.append(due.isoformat())
        now = due.timestamp()
    return times


class TestSchedule:
    def test_times_are_those_of_the_expression(self) -> None:
        assert due_times("*/20 9-10 * * mon-fri", "2026-11-20T10:30:00+01:00", 3) == [
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
    def test_expression_may_be_a_name(self, name: str, first: str) -> None:
        assert due_times(name, "2026-11-20T10:30:00+01:00", 1) == [first]

    def test_daily_time_in_the_skipped_hour_is_due_once(self) -> None:
        """On 29 March 2026 in Paris 02:00 is followed by 03:00."""
        assert due_times("30 2 * * *", "2026-03-28T12:00:00+01:00", 3) == [
            "2026-03-29T03:00:00+02:00",
            "2026-03-30T02:30:00+02:00",
            "2026-03-31T02:30:00+02:00",
        ]

    def test_half_hours_of_the_skipped_hour_are_left_out(self) -> None:
        assert due_times("*/30 * * * *", "2026-03-29T01:15:00+01:00", 3) == [
            "2026-03-29T01:30:00+01:00",
            "2026-03-29T03:00:00+02:00",
            "2026-03-29T03:30:00+02:00",
        ]

    def test_daily_time_in_the_repeated_hour_is_due_once(self) -> None:
        """On 25 October 2026 in Paris 03:00 is followed by 02:00."""
        assert due_times("30 2 * * *", "2026-10-24T12:00:00+02:00", 2) == [
            "2026-10-25T02:30:00+02:00",
            "2026-10-26T02:30:00+01:00",
        ]

    @pytest.mark.parametrize("start", ["02:10:00+01:00", "02:30:00+02:00", "02:40:00+01:00"])
    def test_next_time_in_the_repeated_hour_is_not_in_the_past(self, start: str) -> None:
        assert due_times("30 2 * * *", f"2026-10-25T{start}", 1) == ["2026-10-26T02:30:00+01:00"]

    def test_half_hours_of_the_repeated_hour_are_due_twice(self) -> None:
        assert due_times("*/30 * * * *", "2026-10-25T01:45:00+02:00", 5) == [
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
    def test_next_time_is_later_and_monotonic(
        self, expression: str, minutes: int, change: str, zone: str
    ) -> None:
        schedule = Schedule(expression, ZoneInfo(zone))
        now = unix_time(change) + minutes * 60
        due = schedule.after(now).timestamp()
        assert due > now
        assert schedule.after(now - 90).timestamp() <= due
        assert schedule.after((now + due) / 2).timestamp() == due


class TestMachineZone:
    @pytest.fixture(autouse=True)
    def _in_paris(self, monkeypatch: pytest.MonkeyPatch) -> Any:
        # As a rule, because the machine may have no database of time zones.
        monkeypatch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
        time.tzset()
        yield
        monkeypatch.undo()
        time.tzset()

    def test_zone_has_summer_and_winter_time(self) -> None:
        for start in ("2026-03-29T01:45:00+01:00", "2026-10-25T01:45:00+02:00"):
            for expression in ("*/30 * * * *", "30 2 * * *"):
                local = due_times(expression, start, 6, MachineZone())
                assert local == due_times(expression, start, 6, PARIS)

    def test_offset_distinguishes_the_repeated_hour(self) -> None:
        when = datetime(2026, 10, 24, 22, tzinfo=UTC)
        for _ in range(12):
            when += timedelta(minutes=30)
            local = when.astimezone(MachineZone())
            assert local.isoformat() == when.astimezone(PARIS).isoformat()
            assert local.tzname() == when.astimezone(PARIS).tzname()

    def test_zone_is_used_without_a_timezone_option(self) -> None:
        bench = SourceBench()
        source: Any = CRON.make(Options("0 12 * * *"))
        source._clock = bench.clock.seconds
        runner = bench.started(source)
        noon = unix_time("2026-11-19T12:00:00+01:00")
        while bench.clock.seconds() < noon:
            bench.clock.advance(600)
        assert bench.published == [{"time": "2026-11-19T12:00:00+01:00"}]
        stopped(runner)


class Wall(Clock):
    """A wall clock that is independent of the reactor's clock."""

    def __init__(self, now: str):
        super().__init__()
        self.rightNow = unix_time(now)


class CronCase:
    """Starts a source, and advances both clocks."""

    def start(self, start: str, expression: str, data: Any = None) -> tuple[SourceBench, Wall, Any]:
        bench, wall = SourceBench(), Wall(start)
        source = CronSource(Schedule(expression, PARIS), data, wall.seconds)
        return bench, wall, bench.started(source)

    def go(self, bench: SourceBench, wall: Wall, seconds: float) -> None:
        while seconds > 0:
            wall.advance(1)
            bench.clock.advance(1)
            seconds -= 1


class TestCron(CronCase):
    def test_source_publishes_the_time_when_it_is_due(self) -> None:
        bench, wall, runner = self.start("2026-11-20T10:58:30+01:00", "@hourly")
        assert (bench.published, runner.status().state) == ([], "running")
        self.go(bench, wall, 89)
        assert bench.published == []
        self.go(bench, wall, 1)
        assert bench.published == [{"time": "2026-11-20T11:00:00+01:00"}]
        self.go(bench, wall, 3_600)
        assert len(bench.published) == 2
        stopped(runner)
        assert bench.clock.getDelayedCalls() == []

    def test_source_publishes_the_data_of_its_options(self) -> None:
        bench, wall, runner = self.start("2026-11-20T10:59:30+01:00", "@hourly", [{"a": 1}])
        self.go(bench, wall, 30)
        assert bench.published == [[{"a": 1}]]
        stopped(runner)

    def test_time_waits_while_publishing_is_unavailable(self, trouble: Trouble) -> None:
        bench, wall, runner = self.start("2026-11-20T10:59:30+01:00", "@hourly")
        bench.refusal = Unavailable("the disk is full")
        self.go(bench, wall, 35)
        assert runner.status().last_error == "the disk is full"
        bench.refusal = None
        self.go(bench, wall, 2)
        assert bench.published == [{"time": "2026-11-20T11:00:00+01:00"}]
        assert (runner.status().state, runner.status().last_error) == ("running", "")
        assert len(trouble.take()) == 1
        stopped(runner)

    def test_time_that_waits_at_a_stop_is_published_by_the_next_run(self, trouble: Trouble) -> None:
        bench, wall, runner = self.start("2026-11-20T10:59:30+01:00", "@hourly")
        bench.refusal = Unavailable("the disk is full")
        self.go(bench, wall, 35)
        stopped(runner)
        bench.refusal = None
        wall.advance(3_600)
        runner.startService()
        assert bench.published == [{"time": "2026-11-20T11:00:00+01:00"}]
        self.go(bench, wall, 3_600)
        assert bench.published[1:] == [{"time": "2026-11-20T13:00:00+01:00"}]
        assert len(trouble.take()) == 1
        stopped(runner)

    def test_several_missed_times_are_published_once(self) -> None:
        """The process, or the machine, was suspended for five hours."""
        bench, wall, runner = self.start("2026-11-20T10:58:30+01:00", "@hourly")
        wall.advance(5 * 3_600)
        bench.clock.advance(MAX_SLEEP_SECONDS)
        assert bench.published == [{"time": "2026-11-20T11:00:00+01:00"}]
        self.go(bench, wall, 90)
        assert bench.published[1:] == [{"time": "2026-11-20T16:00:00+01:00"}]
        stopped(runner)

    def test_clock_set_back_delays_the_next_time(self) -> None:
        bench, wall, runner = self.start("2026-11-20T10:59:30+01:00", "@hourly")
        wall.rightNow -= 600
        self.go(bench, wall, 60)
        assert bench.published == []
        self.go(bench, wall, 600)
        assert len(bench.published) == 1
        stopped(runner)


def published_times(bench: SourceBench) -> list[str]:
    """Return the published times without the date and the offset."""
    return [value["time"][11:16] for value in bench.published]


class TestClockChanges(CronCase):
    """The wall clock is set; the reactor's clock is not."""

    def test_minutes_are_repeated_after_an_hour_back(self) -> None:
        bench, wall, runner = self.start("2026-11-20T10:58:30+01:00", "* * * * *")
        self.go(bench, wall, 100)
        wall.rightNow -= 3_600
        self.go(bench, wall, 120)
        assert published_times(bench) == ["10:59", "11:00", "10:01", "10:02"]
        stopped(runner)

    @pytest.mark.parametrize("expression", ["* * * * *", "@hourly", "0 11 * * *", "*/5 9-11 * * *"])
    @pytest.mark.parametrize("seconds", [1, 20, 31, 90])
    def test_no_time_is_repeated_after_a_small_step_back(
        self, expression: str, seconds: int
    ) -> None:
        bench, wall, runner = self.start("2026-11-20T10:57:50+01:00", expression)
        self.go(bench, wall, 135)
        for _ in range(4):
            wall.rightNow -= seconds
            self.go(bench, wall, seconds + 2)
        times = published_times(bench)
        assert "11:00" in times
        assert times == sorted(set(times))
        stopped(runner)

    @pytest.mark.parametrize("expression", ["0 11 * * *", "0 11,23 * * *", "30 10 * * *"])
    def test_daily_time_is_not_repeated_after_an_hour_back(self, expression: str) -> None:
        bench, wall, runner = self.start("2026-11-20T10:29:30+01:00", expression)
        self.go(bench, wall, 1_900)
        wall.rightNow -= 3_600
        self.go(bench, wall, 7_200)
        assert len(bench.published) == 1
        stopped(runner)

    def test_several_daily_times_are_not_repeated_after_an_hour_back(self) -> None:
        bench, wall, runner = self.start("2026-11-20T09:59:30+01:00", "0,30 10 * * *")
        self.go(bench, wall, 2_700)
        wall.rightNow -= 3_600
        self.go(bench, wall, 7_200)
        assert published_times(bench) == ["10:00", "10:30"]
        stopped(runner)

    def test_full_hour_is_not_repeated_after_an_hour_back(self) -> None:
        bench, wall, runner = self.start("2026-11-20T10:59:30+01:00", "@hourly")
        self.go(bench, wall, 60)
        wall.rightNow -= 3_600
        self.go(bench, wall, 7_200)
        assert published_times(bench) == ["11:00", "12:00"]
        stopped(runner)

    @pytest.mark.parametrize("expression", ["* * * * *", "@hourly", "0 12 * * *"])
    def test_times_are_repeated_after_years_back(self, expression: str) -> None:
        bench, wall, runner = self.start("2026-11-20T11:59:30+01:00", expression)
        self.go(bench, wall, 40)
        wall.rightNow = unix_time("2016-11-20T11:59:30+01:00")
        self.go(bench, wall, 40)
        assert [value["time"] for value in bench.published] == [
            "2026-11-20T12:00:00+01:00",
            "2016-11-20T12:00:00+01:00",
        ]
        stopped(runner)

    def test_step_back_ends_the_wait_for_a_distant_time(self) -> None:
        bench, wall, runner = self.start("2026-11-20T12:30:00+01:00", "0 12 * * *")
        wall.rightNow = unix_time("2016-11-20T11:59:00+01:00")
        self.go(bench, wall, 31 + MAX_SLEEP_SECONDS)
        assert [value["time"] for value in bench.published] == ["2016-11-20T12:00:00+01:00"]
        stopped(runner)

    def test_times_skipped_by_a_step_forward_are_published_once(self) -> None:
        bench, wall, runner = self.start("2026-11-20T10:58:30+01:00", "*/10 * * * *")
        wall.rightNow += 3_600
        self.go(bench, wall, MAX_SLEEP_SECONDS)
        assert published_times(bench) == ["11:00"]
        self.go(bench, wall, 90)
        assert published_times(bench) == ["11:00", "12:00"]
        stopped(runner)

    def test_step_forward_and_back_keeps_the_schedule(self) -> None:
        bench, wall, runner = self.start("2026-11-20T10:58:30+01:00", "0 * * * *")
        wall.rightNow += 3e8
        self.go(bench, wall, 3_700)
        wall.rightNow -= 3e8
        self.go(bench, wall, 3_600)
        assert published_times(bench)[0] == "11:00"
        assert published_times(bench)[-1] == "13:00"
        stopped(runner)

    def test_no_time_is_repeated_after_it_waited(self, trouble: Trouble) -> None:
        bench, wall, runner = self.start("2026-11-20T10:59:30+01:00", "0 11 * * *")
        bench.refusal = Unavailable("the disk is full")
        self.go(bench, wall, 30)
        bench.refusal = None
        wall.rightNow -= 60
        self.go(bench, wall, 120)
        assert bench.published == [{"time": "2026-11-20T11:00:00+01:00"}]
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
    def test_any_steps_repeat_no_time_in_a_row_and_never_stop_the_source(
        self, steps: list[tuple[float, int]]
    ) -> None:
        bench, wall, runner = self.start("2026-11-20T10:59:30+01:00", "* * * * *")
        for step, seconds in steps:
            wall.rightNow += step
            self.go(bench, wall, seconds)
        times = [value["time"] for value in bench.published]
        assert all(time != following for time, following in pairwise(times))
        self.go(bench, wall, SLIGHTLY_BACK_SECONDS + 60 + MAX_SLEEP_SECONDS)
        assert len(bench.published) > len(times)
        stopped(runner)


class TestOptions:
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
    def test_invalid_options_raise_value_error_with_the_expected_value(
        self, options: Options, parts: list[str]
    ) -> None:
        with pytest.raises(ValueError, match=re.escape(parts[0])) as caught:
            CRON.make(options)
        for part in parts:
            assert part in str(caught.value)

    def test_data_may_be_any_value_of_toml(self) -> None:
        data = {"at": datetime(2026, 1, 1, tzinfo=UTC), "list": [1, 2.5, True, "x"]}
        CRON.make(Options("@daily", "UTC", data))
