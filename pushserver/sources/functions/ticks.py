"""The timer and the loop that call a function of a source, and reports of its failures."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Protocol

from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall
from twisted.python.failure import Failure

from pushserver.sources.interface import Feed

SLOW_TICKS = 10
SLOW_SECONDS = 30.0
"""A tick is reported as late after SLOW_TICKS intervals, but not before SLOW_SECONDS."""
_STEPS_PER_TURN = 50


class Ended(Exception):
    """The generator has no more values."""


class TickFeed(Feed, Protocol):
    """The feed of a runner, to which the failure of a tick can be reported."""

    def failed(self, event: str, failure: Failure) -> None:
        """Note a failure of the user's code; log it with its traceback if it is new."""


def report(feed: TickFeed, error: BaseException) -> None:
    """Report an exception that a tick raised."""
    feed.failed("a tick failed, and the next one follows", Failure(error))


async def repeating(
    feed: TickFeed, every: float | None, step: Callable[[], Coroutine[Any, Any, None]]
) -> None:
    """Await `step()` again and again, once a tick with `every`, until it raises Ended."""
    try:
        if every is not None:
            await ticking(feed, every, step)
        while True:
            for _ in range(_STEPS_PER_TURN):
                await step()
            # A source that never waits must not starve the others.
            await feed.sleep(0)
    except Ended:
        return


async def ticking(
    feed: TickFeed, every: float, tick: Callable[[], Coroutine[Any, Any, None]]
) -> None:
    """Run a tick at once and then every `every` seconds, until one raises."""
    current: list[Deferred[None]] = []

    def start_tick() -> Deferred[None]:
        current[:] = [Deferred.fromCoroutine(tick())]
        return current[0]

    def failed(failure: Failure) -> None:
        # Empty after the end: the failure is that of the cancelled tick.
        if current:
            done.errback(failure)

    loop = LoopingCall(start_tick)
    loop.clock = feed.reactor
    done: Deferred[None] = Deferred()
    try:
        loop.start(every).addErrback(failed)
        await done
    finally:
        running, current = current, []
        if loop.running:
            loop.stop()
        for deferred in running:
            deferred.cancel()
            # A publication that the store has ignores the cancellation.
            await _ended(deferred)


def _ended(running: Deferred[None]) -> Deferred[None]:
    """Fires at the end of a tick; a failure is reported elsewhere."""
    ended: Deferred[None] = Deferred()

    def fire(_: object) -> None:
        ended.callback(None)

    running.addBoth(fire)
    return ended


async def warn_if_late(feed: TickFeed, every: float | None, tick: Awaitable[Any]) -> Any:
    """Return the result of a tick; warn when it takes very long for its interval."""
    if every is None:
        # A generator without a timer may wait as long as it likes.
        return await tick
    seconds = max(SLOW_TICKS * every, SLOW_SECONDS)
    warning = f"a tick has not returned after {seconds:g} s; the next one waits for it"
    late = feed.reactor.callLater(seconds, feed.trouble, warning)
    try:
        return await tick
    finally:
        if late.active():
            late.cancel()
