"""Ticks and steps: how often the code of a source is called, and what when that fails."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Protocol

from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall
from twisted.python.failure import Failure

from pushserver.errors import InvalidData
from pushserver.sources.interface import Feed, SourceFailed

SLOW_TICKS = 10
SLOW_SECONDS = 30.0
"""A tick is told to hang after so many intervals, but not before so many seconds."""
_STEPS_PER_TURN = 50


class Ended(Exception):
    """The generator has no more values."""


class TickFeed(Feed, Protocol):
    """The feed of a runner, which also takes the failure of a tick."""

    def failed(self, what: str, failure: Failure) -> None:
        """What the user's code raised; the last error, logged with its traceback if it is new."""


async def publish(feed: TickFeed, value: object) -> None:
    """Publish a value, unless it is None; what JSON cannot hold is told."""
    if value is None:
        return
    try:
        await feed.publish(value)
    except InvalidData as error:
        # No traceback: it would have our own lines only.
        tell(feed, SourceFailed(str(error)))


def tell(feed: TickFeed, error: BaseException) -> None:
    """What a tick raised."""
    feed.failed("a tick failed, and the next one comes", Failure(error))


async def repeating(
    feed: TickFeed, every: float | None, step: Callable[[], Coroutine[Any, Any, None]]
) -> None:
    """Take steps, with `every` one a tick, until one raises; Ended is the end."""
    try:
        if every is not None:
            await ticking(feed, every, step)
        while True:
            for _ in range(_STEPS_PER_TURN):
                await step()
            # Who waits for nothing, and publishes nothing, must give the others a turn too.
            await feed.sleep(0)
    except Ended:
        return


async def ticking(
    feed: TickFeed, every: float, tick: Callable[[], Coroutine[Any, Any, None]]
) -> None:
    """Run a tick at once and then each `every` seconds, until one raises."""
    current: list[Deferred[None]] = []

    def begin() -> Deferred[None]:
        current[:] = [Deferred.fromCoroutine(tick())]
        return current[0]

    def failed(why: Failure) -> None:
        if current:
            done.errback(why)

    loop = LoopingCall(begin)
    loop.clock = feed.reactor
    done: Deferred[None] = Deferred()
    try:
        loop.start(every).addErrback(failed)
        await done
    finally:
        begun, current = current, []
        if loop.running:
            loop.stop()
        for last in begun:
            last.cancel()


async def in_time(feed: TickFeed, every: float | None, made: Awaitable[Any]) -> Any:
    """What it gives; it is told when that takes too long for something `every` so often."""
    if every is None:
        # A generator that sleeps as it likes.
        return await made
    seconds = max(SLOW_TICKS * every, SLOW_SECONDS)
    told = f"a tick has not returned after {seconds:g} s; there is none until it does"
    late = feed.reactor.callLater(seconds, feed.trouble, told)
    try:
        return await made
    finally:
        if late.active():
            late.cancel()
