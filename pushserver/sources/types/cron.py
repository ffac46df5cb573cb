"""`type = "cron"`: publishes at the times of a cron expression.

cronsim reads the expression: stable, typed, BSD, nothing beneath it, and it keeps to
Debian's cron where clocks change.
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
from pushserver.sources.interface import Feed, ISource
from pushserver.sources.types.source_type import SourceType

LOOK_SECONDS = 30.0
"""How often the clock is looked at, which may be set or stand still for a night."""
BACK_SECONDS = 10_800.0
"""A clock that is set back by less brings no time again that has come, as with Debian's cron."""
SLIGHTLY_BACK_SECONDS = 300.0
"""The same for an expression that follows the hours as they pass."""
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
    """`timezone`: a name such as Europe/Paris, empty for that of the machine.

    `data`: what is published; None for {"time": ...} with the time of the tick.
    """

    expression: str
    timezone: str = ""
    data: Any = None


class MachineZone(tzinfo):
    """The time zone of the machine, with its changes of clocks."""

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
    """When an expression is due; raises ValueError for what is none."""

    def __init__(self, expression: str, zone: tzinfo):
        self._expression = _NAMED.get(expression.strip().lower(), expression)
        self._zone = zone
        if len(self._expression.split()) != 5:
            raise ValueError(
                f"expression: {expression!r:.80} is none of cron, expected five fields"
                " (minute, hour, day of the month, month, day of the week) or such as @hourly"
            )
        try:
            self.after(0.0)
        except (CronSimError, StopIteration) as error:
            problem = str(error) or "it never comes"
            raise ValueError(f"expression: {expression!r:.80}: {problem}") from None

        minute, hour = self._expression.split()[:2]
        self._follows = minute.startswith("*") or hour.startswith("*")

    def next(self, now: float, last: float) -> datetime:
        """The first time to publish at after `now`, where `last` is the one that came last.

        After `last` too, if the clock was set back, unless that was by so much that the time
        before it is better forgotten.
        """
        limit = SLIGHTLY_BACK_SECONDS if self._follows else BACK_SECONDS
        due = self.after(last if now < last < now + limit else now)
        # The same time is not due twice, neither now nor at the end of an hour that comes again.
        return self.after(last) if due.timestamp() == last < now + BACK_SECONDS else due

    def after(self, now: float) -> datetime:
        """The first time after `now` (Unix seconds)."""
        begin = datetime.fromtimestamp(now, UTC).astimezone(self._zone)
        # In the hour that comes twice the first of its times may be behind already.
        return next(at for at in CronSim(self._expression, begin) if at.timestamp() > now)


@implementer(ISource)
class Cron:
    """Publishes each time the expression is due: once, if that was several times ago."""

    def __init__(self, schedule: Schedule, data: object, clock: Callable[[], float] = time.time):
        self._schedule = schedule
        self._data = data
        self._clock = clock
        self._last = float("-inf")

    async def run(self, feed: Feed) -> None:
        feed.ok()
        while True:
            due = await self._come(feed)
            self._last = due.timestamp()
            data = {"time": due.isoformat()} if self._data is None else self._data
            await feed.publish(data)

    async def _come(self, feed: Feed) -> datetime:
        """Wait until the next time is due."""
        now = self._clock()
        due = self._schedule.next(now, self._last)
        while (left := due.timestamp() - now) > 0:
            await feed.sleep(min(left, LOOK_SECONDS))
            before, now = now, self._clock()
            if now < before:
                due = self._schedule.next(now, self._last)
        return due


def _make(options: Options) -> Any:
    try:
        zone = ZoneInfo(options.timezone) if options.timezone else MachineZone()
    except (ValueError, OSError, LookupError):
        raise ValueError(
            f"timezone: {options.timezone!r:.80} is none, expected a name such as Europe/Paris"
        ) from None
    try:
        jsontext.encode(options.data)
    except InvalidData as error:
        raise ValueError(f"data: {error}") from None
    return Cron(Schedule(options.expression, zone), options.data)


CRON = SourceType(Options, _make)
