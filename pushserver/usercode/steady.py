"""A clock that no step of the wall clock moves, and how a reactor's timers come to follow it.

Twisted's reactors count in `time.time`: a wall clock that is set back by an hour (NTP, a virtual
machine that continues) stops every timer for that hour, and one that is set forward fires them all.
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
    """The clock to measure with: that of the reactor, made steady if it counts in wall time.

    The new clock begins at the present Unix time, so that delayed calls that exist already
    stay due when they were, and twisted.web's access log shows plausible dates. A reactor that has
    a clock of its own, such as `task.Clock` or one that was made steady before, keeps it.
    """
    found: Callable[[], float] = reactor.seconds
    if not isinstance(reactor, ReactorBase) or found is not ReactorBase.seconds:
        return found
    offset = wall() - monotonic()

    def seconds() -> float:
        return monotonic() + offset

    reactor.seconds = seconds
    for call in reactor.getDelayedCalls():
        # What `reset` counts from.
        call.seconds = seconds  # type: ignore[attr-defined]
    return seconds


def births(times: Sequence[float], wall: float, now: float) -> list[float]:
    """When things were made that were stamped with these Unix times, in this order.

    `wall` and `now` are the present by the wall clock and by the steady clock; the answer is by
    the steady clock. A stamp in the future counts as the present, and nothing is younger than
    something that was made after it.
    """
    found: list[float] = []
    for at in reversed(times):
        born = now - max(0.0, wall - at)
        found.append(min(born, found[-1]) if found else born)
    return found[::-1]
