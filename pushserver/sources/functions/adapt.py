"""Makes a source from a function, a generator, an async generator or a coroutine function."""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from numbers import Real
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from zope.interface import implementer

from pushserver.sources.functions.callers import InThread, OnReactor
from pushserver.sources.functions.ticks import (
    Ended,
    repeating,
    report,
    ticking,
    warn_if_late,
)
from pushserver.sources.functions.values import Values
from pushserver.sources.interface import Feed, ISource
from pushserver.usercode.awaiting import awaited
from pushserver.usercode.stopwatch import Stopwatch


def adapt(target: Any, every: float | None = None, thread: bool | None = None) -> Any:
    """Return an ISource that runs `target`; raises ValueError if it cannot be a source.

    `every` is in seconds. A plain function or generator runs in a thread for this source unless
    `thread` is False; an async one runs on the reactor's thread.
    """
    name = getattr(target, "__qualname__", None) or type(target).__name__
    source = _own_source(target)
    if source is not None:
        if every is not None or thread is not None:
            raise ValueError(f"{name} is a source by itself: it takes neither every nor thread")
        return source
    if not callable(target) or isinstance(target, type):
        raise ValueError(f"{name} is no source: expected a function or an ISource")
    if every is not None and not (_is_number(every) and 0 < every < float("inf")):
        raise ValueError(f"every of {name} is {every!r}, expected a number of seconds, more than 0")
    function, code = SourceFunction(target, name), _code(target)
    if is_async(target):
        if thread:
            raise ValueError(f"{name} is async, and runs on the reactor: it takes no thread=True")
        if inspect.isasyncgenfunction(code):
            return AsyncGeneratorSource(function, every)
        if every is not None:
            return TimerSource(function, every, OnReactor(name, is_async=True))
        if not function.takes_feed:
            raise ValueError(f"{name} needs every=SECONDS, or an argument for the feed")
        return CoroutineSource(function)
    caller = OnReactor(name, is_async=False) if thread is False else InThread(name)
    if inspect.isgeneratorfunction(code):
        return GeneratorSource(function, every, caller)
    if every is None:
        raise ValueError(f"{name} needs every=SECONDS; without it, expected a generator")
    return TimerSource(function, every, caller)


def is_async(target: Any) -> bool:
    """Whether the target is a coroutine function or an async generator function."""
    if isinstance(target, type) or not callable(target):
        return False
    code = _code(target)
    return inspect.isasyncgenfunction(code) or inspect.iscoroutinefunction(code)


def _is_number(value: object) -> bool:
    return isinstance(value, Real)


def _own_source(target: Any) -> Any:
    if isinstance(target, type):
        source_class: Any = target
        return source_class() if ISource.implementedBy(target) else None
    return target if ISource.providedBy(target) else None


def _code(target: Any) -> Any:
    """Return the object that inspect can classify as async or as a generator."""
    is_function = inspect.isroutine(target) or isinstance(target, functools.partial)
    return target if is_function else target.__call__


class SourceFunction:
    """A user's function; it takes the feed or no argument. Raises ValueError for others."""

    def __init__(self, function: Callable[..., Any], name: str):
        self.name = name
        self._function = function
        try:
            parameters = inspect.signature(function).parameters.values()
        except (TypeError, ValueError):
            # Some functions written in C have no signature.
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


@implementer(ISource)
class CoroutineSource:
    """Calls a coroutine function once, which publishes by the feed."""

    def __init__(self, function: SourceFunction):
        self._function = function

    def run(self, feed: Feed) -> Awaitable[None]:
        coroutine: Awaitable[None] = self._function(feed)
        return coroutine


@implementer(ISource)
class TimerSource:
    """Publishes the result of a function, at once and then every `every` seconds.

    Ticks do not overlap: one that is due while another runs is skipped. A tick that fails is
    logged, and the timer continues; a LoopingCall alone would stop at the first exception. The
    results that the last run did not publish are published first.
    """

    is_timed = True
    """Whether the calls of the user's function are timed here."""

    def __init__(self, function: SourceFunction, every: float, caller: OnReactor | InThread):
        self._function = function
        self._every = every
        self.caller = caller
        self._values = Values()

    async def run(self, feed: Any) -> None:
        async def tick() -> None:
            await self._values.publish_all(feed)
            try:
                call = self.caller.call(feed.reactor, lambda: self._function(feed), self._values)
                await warn_if_late(feed, self._every, call)
            except CancelledError:
                raise
            except (Exception, SystemExit) as error:
                report(feed, error)
            await self._values.publish_all(feed)

        try:
            await ticking(feed, self._every, tick)
        finally:
            self.caller.close()


@implementer(ISource)
class GeneratorSource:
    """Publishes the values of a generator, one a tick with `every`, and ends with it.

    A generator in a thread may get its next value after the source was stopped. The next run
    publishes that value first, and so it does with one that the last run did not publish.
    """

    is_timed = True

    def __init__(self, function: SourceFunction, every: float | None, caller: OnReactor | InThread):
        self._function = function
        self.every = every
        self.caller = caller
        self._values = Values()

    async def run(self, feed: Any) -> None:
        generator: Generator[Any, Any, Any] = self._function(feed)

        async def step() -> None:
            call = self.caller.call(feed.reactor, lambda: self._next(generator), self._values)
            await warn_if_late(feed, self.every, call)
            await self._values.publish(feed)

        try:
            await repeating(feed, self.every, step)
        finally:
            await self._close(feed, generator)

    def _next(self, generator: Generator[Any, Any, Any]) -> None:
        """Get the next value; runs in the thread, one call at a time."""
        if not self._values:
            try:
                self._values.put(next(generator))
            except StopIteration:
                raise Ended from None

    async def _close(self, feed: Feed, generator: Generator[Any, Any, Any]) -> None:
        stuck = self.caller.busy
        call = self.caller.call(feed.reactor, generator.close, self._values)
        closed = Deferred.fromCoroutine(call)
        self.caller.close()
        if stuck:
            # The generator is closed when its current call returns, which may never happen.
            closed.addErrback(lambda _: None)
        else:
            await closed


@implementer(ISource)
class AsyncGeneratorSource:
    """Publishes the values of an async generator, one a tick with `every`, and ends with it.

    A value that the last run did not publish is published first.
    """

    is_timed = True

    def __init__(self, function: SourceFunction, every: float | None):
        self._stopwatch = Stopwatch(f"the source function {function.name}", is_async=True)
        self._function = function
        self._every = every
        self._values = Values()

    async def run(self, feed: Any) -> None:
        generator: AsyncGenerator[Any, Any] = self._function(feed)

        async def step() -> None:
            if not self._values:
                taken = awaited(self._take(generator), self._stopwatch.call)
                await warn_if_late(feed, self._every, taken)
            await self._values.publish(feed)

        try:
            await repeating(feed, self._every, step)
        finally:
            await awaited(generator.aclose())

    async def _take(self, generator: AsyncGenerator[Any, Any]) -> None:
        """Take the next value; no cancellation comes between it and the queue."""
        try:
            self._values.put(await anext(generator))
        except StopAsyncIteration:
            raise Ended from None
