"""Lets a coroutine of somebody's run on Twisted's reactor, and say so when it cannot."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Generator
from types import coroutine
from typing import Any, TypeVar

from twisted.internet.defer import Deferred

Result = TypeVar("Result")

NO_LOOP = "no running event loop"
HINT = (
    "asyncio works here only when its reactor runs (twistd --reactor asyncio);"
    " on this one await Deferreds, or use a function without async, which has a thread"
)


async def awaited(awaitable: Awaitable[Result]) -> Result:
    """What it gives, awaited where Deferreds are, and asyncio's futures if its reactor runs.

    What waits for anything else gets a RuntimeError that says so. Twisted on its own would
    resume it at once.
    """
    result: Result = await _steps(awaitable)
    return result


async def _wait(awaitable: Awaitable[Result]) -> Result:
    return await awaitable


@coroutine
def _steps(awaitable: Awaitable[Any]) -> Generator[Deferred[Any], Any, Any]:
    inner = _wait(awaitable)
    step: Callable[[Any], Any] = inner.send
    argument: Any = None
    while True:
        try:
            waits_for = step(argument)
        except StopIteration as stop:
            return stop.value
        except RuntimeError as error:
            if str(error) == NO_LOOP:
                raise RuntimeError(f"{NO_LOOP}: {HINT}").with_traceback(
                    error.__traceback__
                ) from None
            raise
        try:
            argument = yield _deferred(waits_for)
            step = inner.send
        except BaseException as error:
            step, argument = inner.throw, error


def _deferred(waits_for: object) -> Deferred[Any]:
    if isinstance(waits_for, Deferred):
        return waits_for
    if isinstance(waits_for, asyncio.Future) or waits_for is None:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            raise RuntimeError(f"{waits_for!r:.60} cannot be awaited: {HINT}") from None
        if waits_for is None:
            waits_for = loop.create_future()
            loop.call_soon(waits_for.set_result, None)
        return _when_done(waits_for)
    raise RuntimeError(f"{type(waits_for).__name__} cannot be awaited on Twisted's reactor")


def _when_done(future: asyncio.Future[Any]) -> Deferred[None]:
    """Fires when the future is done, whatever became of it: who awaits that looks itself."""

    def cancel(_: object) -> None:
        future.cancel()

    def fire(_: object) -> None:
        if not done.called:
            done.callback(None)

    done: Deferred[None] = Deferred(cancel)
    future.add_done_callback(fire)
    return done
