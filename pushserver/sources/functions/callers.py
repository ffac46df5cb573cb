"""Calls the function of a source, on the reactor's thread or in one of its own."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorFromThreads

from pushserver.sources.functions.values import Values
from pushserver.usercode import fork
from pushserver.usercode.awaiting import awaited
from pushserver.usercode.stopwatch import Stopwatch
from pushserver.usercode.worker import ThreadWorker, Worker


class OnReactor:
    """Calls a function at once on the reactor's thread, and awaits its result if it can."""

    busy = False

    def __init__(self, name: str, is_async: bool):
        self._stopwatch = Stopwatch(f"the source function {name}", is_async)

    async def call(
        self, reactor: IReactorFromThreads, function: Callable[[], Any], values: Values
    ) -> None:
        """Call the function, and put its result into `values`."""
        try:
            result = self._stopwatch.call(function)
        except StopIteration as error:
            # Python would raise this too, but without the line that raised StopIteration.
            raise RuntimeError("StopIteration was raised outside a generator").with_traceback(
                error.__traceback__
            ) from error
        if inspect.isawaitable(result):
            result = await awaited(result, self._stopwatch.call)
        values.put(result)

    def close(self) -> None:
        """No-op."""


class InThread:
    """Calls a function in a thread for this source."""

    def __init__(self, name: str):
        self._name = name
        self.worker: Worker = ThreadWorker(f"source {name}")

    @property
    def busy(self) -> bool:
        """Whether the last call is still running."""
        return self.worker.busy

    async def call(
        self, reactor: IReactorFromThreads, function: Callable[[], Any], values: Values
    ) -> None:
        """Call the function, and put its result into `values`, even if this is cancelled meanwhile.

        Raises TypeError for a Deferred or a coroutine.
        """

        def call() -> Any:
            result = fork.call(function)
            if not inspect.isawaitable(result):
                values.put(result)
                return None
            return result

        result = await self.worker.call(reactor, call)
        if result is None:
            return
        if isinstance(result, Deferred):
            result.addErrback(lambda _: None)
        elif inspect.iscoroutine(result):
            result.close()
        raise TypeError(
            f"{self._name} returned a {type(result).__name__} in a thread, where nothing waits"
            " for it: write `async def`, or thread=False"
        )

    def close(self) -> None:
        """End the thread."""
        self.worker.close()
