"""`type = "cron"`: publishes at the times of a cron expression.

cronsim evaluates the expression: it is stable, typed, under a BSD licence and without
dependencies, and treats changes of clocks as Debian's cron does.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError
from zope.interface import implementer

from pushserver.channels import jsontext
from pushserver.errors import InvalidData
from pushserver.sources.engine.retry import publish_when_possible
from pushserver.sources.interface import Feed, ISource
from pushserver.sources.types.source_type import BuiltInType

MAX_SLEEP_SECONDS = 30.0
"""The clock is read at least this often: it may be set, or stop while a machine sleeps."""
BACK_SECONDS = 10_800.0
"""If the clock is set back by less, no time is due twice; as with Debian's cron."""
SLIGHTLY_BACK_SECONDS = 300.0
"""The same for an expression whose minute or hour begins with a star."""
_NAMED = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}


@dataclass(frozen=True, slots=True)
class Options:
    """The keys of the table of the source beside the common ones.

    `timezone`: a name such as Europe/Paris, empty for that of the machine. `data`: the value to
    publish; None for {"time": ...} with the time of the tick.
    """

    expression: str
    timezone: str = ""
    data: Any = None


class MachineZone(tzinfo):
    """The time zone of the machine, with its changes between summer and winter time."""

    def utcoffset(self, when: datetime | None) -> timedelta | None:
        return None if when is None else when.replace(tzinfo=None).astimezone().utcoffset()

    def dst(self, when: datetime | None) -> timedelta | None:
        return None

    def tzname(self, when: datetime | None) -> str | None:
        return None if when is None else when.replace(tzinfo=None).astimezone().tzname()

    def fromutc(self, when: datetime) -> datetime:
        fixed = when.replace(tzinfo=UTC).astimezone()
        local = fixed.replace(tzinfo=self, fold=0)
        return local if local.utcoffset() == fixed.utcoffset() else local.replace(fold=1)


class Schedule:
    """The times of a cron expression; raises ValueError for an invalid one."""

    def __init__(self, expression: str, zone: tzinfo):
        self._expression = _NAMED.get(expression.strip().lower(), expression)
        self._zone = zone
        if len(self._expression.split()) != 5:
            raise ValueError(
                f"expression: {expression!r:.80}, expected five fields"
                " (minute, hour, day of the month, month, day of the week) or a name, as @hourly"
            )
        try:
            self.after(0.0)
        except (CronSimError, StopIteration) as error:
            problem = str(error) or "it is never due"
            raise ValueError(f"expression: {expression!r:.80}: {problem}") from None

        minute, hour = self._expression.split()[:2]
        self._has_star = minute.startswith("*") or hour.startswith("*")

    def next(self, now: float, last: float) -> datetime:
        """Return the first due time after `now`; `last` is the previous due time.

        After a clock was set back, it is also after `last`, unless the clock was set back by more
        than the limit.
        """
        limit = SLIGHTLY_BACK_SECONDS if self._has_star else BACK_SECONDS
        due = self.after(last if now < last < now + limit else now)
        # `last` is never due again, also at the end of the hour that occurs twice.
        return self.after(last) if due.timestamp() == last < now + BACK_SECONDS else due

    def after(self, now: float) -> datetime:
        """Return the first due time after `now`, in Unix seconds."""
        start = datetime.fromtimestamp(now, UTC).astimezone(self._zone)
        # In the hour that occurs twice, the first result may be in the past.
        return next(at for at in CronSim(self._expression, start) if at.timestamp() > now)


@implementer(ISource)
class CronSource:
    """Publishes when the expression is due; only once if several times were missed."""

    def __init__(self, schedule: Schedule, data: object, clock: Callable[[], float] = time.time):
        self._schedule = schedule
        self._data = data
        self._clock = clock
        self._last = float("-inf")
        # The value of a due time that is not published yet.
        self._value: object = None

    async def run(self, feed: Feed) -> None:
        feed.ok()
        while True:
            if self._value is None:
                due = await self._wait_until_due(feed)
                self._last = due.timestamp()
                self._value = {"time": due.isoformat()} if self._data is None else self._data
            await publish_when_possible(feed, self._value)
            self._value = None

    async def _wait_until_due(self, feed: Feed) -> datetime:
        now = self._clock()
        due = self._schedule.next(now, self._last)
        while (left := due.timestamp() - now) > 0:
            await feed.sleep(min(left, MAX_SLEEP_SECONDS))
            previous, now = now, self._clock()
            if now < previous:
                due = self._schedule.next(now, self._last)
        return due


def _make(options: Options) -> Any:
    try:
        zone = ZoneInfo(options.timezone) if options.timezone else MachineZone()
    except (ValueError, OSError, LookupError):
        raise ValueError(
            f"timezone: {options.timezone!r:.80}, expected a name such as Europe/Paris"
        ) from None
    try:
        jsontext.encode(options.data)
    except InvalidData as error:
        raise ValueError(f"data: {error}") from None
    return CronSource(Schedule(options.expression, zone), options.data)


CRON = BuiltInType(Options, _make)
