"""Makes a source of a function, a generator, an async generator or a coroutine function."""

from __future__ import annotations

import functools
import inspect
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from numbers import Real
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorFromThreads
from zope.interface import implementer

from pushserver.sources.functions.ticks import Ended, in_time, publish, repeating, tell, ticking
from pushserver.sources.interface import Feed, ISource
from pushserver.usercode import fork
from pushserver.usercode.awaiting import awaited
from pushserver.usercode.worker import Caller, Worker


def adapt(target: Any, every: float | None = None, thread: bool | None = None) -> Any:
    """An ISource of what it is given; raises ValueError when that can be none.

    `every` is in seconds. What is not async runs in a thread of its own, unless `thread` is
    False; what is async runs on the reactor's thread.
    """
    name = getattr(target, "__qualname__", None) or type(target).__name__
    source = _own_source(target)
    if source is not None:
        if every is not None or thread is not None:
            raise ValueError(f"{name} is a source by itself: it takes neither every nor thread")
        return source
    if not callable(target) or isinstance(target, type):
        raise ValueError(f"{name} is no source: expected a function, or what provides ISource")
    if every is not None and not (_is_number(every) and 0 < every < float("inf")):
        raise ValueError(f"every of {name} is {every!r}, expected a number of seconds, more than 0")
    calls, code = Calls(target, name), _code(target)
    if inspect.isasyncgenfunction(code) or inspect.iscoroutinefunction(code):
        if thread:
            raise ValueError(f"{name} is async, and runs on the reactor: it takes no thread=True")
        if inspect.isasyncgenfunction(code):
            return AsyncValues(calls, every)
        if every is not None:
            return Timer(calls, every, OnReactor())
        if not calls.takes_feed:
            raise ValueError(f"{name} needs every=SECONDS, or an argument for the feed")
        return Loop(calls)
    place = OnReactor() if thread is False else InThread(name)
    if inspect.isgeneratorfunction(code):
        return Values(calls, every, place)
    if every is None:
        raise ValueError(f"{name} needs every=SECONDS; without, it has to yield its values")
    return Timer(calls, every, place)


def _is_number(value: object) -> bool:
    return isinstance(value, Real)


def _own_source(target: Any) -> Any:
    if isinstance(target, type):
        made: Any = target
        return made() if ISource.implementedBy(target) else None
    return target if ISource.providedBy(target) else None


def _code(target: Any) -> Any:
    """What says whether it is async or a generator."""
    function = inspect.isroutine(target) or isinstance(target, functools.partial)
    return target if function else target.__call__


class Calls:
    """A function that takes the feed or nothing."""

    def __init__(self, function: Callable[..., Any], name: str):
        self.name = name
        self._function = function
        try:
            parameters = inspect.signature(function).parameters.values()
        except (TypeError, ValueError):
            # Some that are written in C say nothing.
            parameters = {}.values()
        positional = [p for p in parameters if p.kind in _POSITIONAL]
        required = [p for p in parameters if p.default is p.empty and p.kind not in _COLLECTING]
        if len(required) > 1 or any(p not in positional for p in required):
            raise ValueError(f"{name} takes {len(required)} arguments, expected none or the feed")
        self.takes_feed = bool(required)

    def __call__(self, feed: Feed) -> Any:
        return self._function(feed) if self.takes_feed else self._function()


_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_COLLECTING = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


class OnReactor:
    """Where calls are made: at once, on the reactor's thread; what can be awaited is."""

    busy = False

    async def call(self, reactor: IReactorFromThreads, function: Callable[[], Any]) -> Any:
        """What it returns."""
        try:
            found = fork.call(function)
        except StopIteration as error:
            # Python would raise this too, but without the line that raised the other.
            raise RuntimeError("StopIteration was raised, and not in a generator").with_traceback(
                error.__traceback__
            ) from error
        return await awaited(found) if inspect.isawaitable(found) else found

    def close(self) -> None:
        """Nothing is open."""


class InThread:
    """Where calls are made: in a thread for this source."""

    def __init__(self, name: str):
        self._name = name
        self.worker: Caller = Worker(f"source {name}")

    @property
    def busy(self) -> bool:
        """Whether the last call has not returned."""
        return self.worker.busy

    async def call(self, reactor: IReactorFromThreads, function: Callable[[], Any]) -> Any:
        """What it returns, which is no Deferred and no coroutine."""
        found = await self.worker.call(reactor, functools.partial(fork.call, function))
        if isinstance(found, Deferred):
            found.addErrback(lambda _: None)
        elif inspect.iscoroutine(found):
            found.close()
        elif not inspect.isawaitable(found):
            return found
        raise TypeError(
            f"{self._name} returned a {type(found).__name__} in a thread, where nothing waits"
            " for it: write `async def`, or thread=False"
        )

    def close(self) -> None:
        """Let the thread go."""
        self.worker.close()


@implementer(ISource)
class Loop:
    """A coroutine function that publishes by the feed, called once."""

    def __init__(self, calls: Calls):
        self._calls = calls

    def run(self, feed: Feed) -> Awaitable[None]:
        made: Awaitable[None] = self._calls(feed)
        return made


@implementer(ISource)
class Timer:
    """Publishes what a function returns, at once and then each `every` seconds.

    No tick begins before the last one is over: those that are missed are skipped. One that
    fails is logged, and the next one comes: a LoopingCall on its own stops for good at the
    first exception.
    """

    def __init__(self, calls: Calls, every: float, place: OnReactor | InThread):
        self._calls = calls
        self._every = every
        self.place = place

    async def run(self, feed: Any) -> None:
        async def tick() -> None:
            made = self.place.call(feed.reactor, lambda: self._calls(feed))
            try:
                value = await in_time(feed, self._every, made)
            except CancelledError:
                raise
            except (Exception, SystemExit) as error:
                tell(feed, error)
            else:
                await publish(feed, value)

        try:
            await ticking(feed, self._every, tick)
        finally:
            self.place.close()


@implementer(ISource)
class Values:
    """Publishes what a generator yields, and ends with it; with `every` one a tick.

    What a generator in a thread waited for when it was stopped is published by the next run:
    it has been taken, out of a queue maybe.
    """

    def __init__(self, calls: Calls, every: float | None, place: OnReactor | InThread):
        self._calls = calls
        self.every = every
        self.place = place
        self._taken: deque[Any] = deque(maxlen=1)

    async def run(self, feed: Any) -> None:
        generator: Generator[Any, Any, Any] = self._calls(feed)

        async def step() -> None:
            made = self.place.call(feed.reactor, lambda: self._take(generator))
            await in_time(feed, self.every, made)
            await publish(feed, self._taken.popleft())

        try:
            await repeating(feed, self.every, step)
        finally:
            await self._close(feed, generator)

    def _take(self, generator: Generator[Any, Any, Any]) -> None:
        """Have a value; in the thread, where there is one call at a time."""
        if not self._taken:
            try:
                self._taken.append(next(generator))
            except StopIteration:
                raise Ended from None

    async def _close(self, feed: Feed, generator: Generator[Any, Any, Any]) -> None:
        stuck = self.place.busy
        closed = Deferred.fromCoroutine(self.place.call(feed.reactor, generator.close))
        self.place.close()
        if stuck:
            # It is closed if it ever comes back; nobody waits for that.
            closed.addErrback(lambda _: None)
        else:
            await closed


@implementer(ISource)
class AsyncValues:
    """Publishes what an async generator yields, and ends with it; with `every` one a tick."""

    def __init__(self, calls: Calls, every: float | None):
        self._calls = calls
        self._every = every

    async def run(self, feed: Any) -> None:
        generator: AsyncGenerator[Any, Any] = self._calls(feed)

        async def step() -> None:
            await publish(feed, await in_time(feed, self._every, _anext(generator)))

        try:
            await repeating(feed, self._every, step)
        finally:
            await awaited(generator.aclose())


async def _anext(generator: AsyncGenerator[Any, Any]) -> Any:
    try:
        return await awaited(anext(generator))
    except StopAsyncIteration:
        raise Ended from None
