"""The steady clock, which steps of the wall clock do not move, for the reactor and for ages.

Twisted's reactors use `time.time`: if the wall clock is set back by an hour (NTP, a resumed virtual
machine), every timer stops for that hour; if it is set forward, all of them fire.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from twisted.internet.base import ReactorBase
from twisted.internet.interfaces import IReactorTime


def steady(
    reactor: IReactorTime,
    wall: Callable[[], float] = time.time,
    monotonic: Callable[[], float] = time.monotonic,
) -> Callable[[], float]:
    """The clock of the reactor; one that uses wall time gets a steady clock first.

    The steady clock starts at the current Unix time, so that existing delayed calls keep their
    times and twisted.web's access log has plausible dates. A reactor with another clock, such
    as `task.Clock` or one that is steady already, keeps it.
    """
    present: Callable[[], float] = reactor.seconds
    if not isinstance(reactor, ReactorBase) or present is not ReactorBase.seconds:
        return present
    offset = wall() - monotonic()

    def seconds() -> float:
        return monotonic() + offset

    reactor.seconds = seconds
    for call in reactor.getDelayedCalls():
        # `reset` uses this clock.
        call.seconds = seconds  # type: ignore[attr-defined]
    return seconds


def births(times: Sequence[float], wall: float, now: float) -> list[float]:
    """Convert Unix times, in the order of creation, to times of the steady clock.

    `wall` and `now` are the current time of both clocks. A time in the future counts as now. The
    result never decreases: nothing is younger than an item created after it.
    """
    result: list[float] = []
    for at in reversed(times):
        born = now - max(0.0, wall - at)
        result.append(min(born, result[-1]) if result else born)
    return result[::-1]
