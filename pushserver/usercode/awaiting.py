"""Lets a coroutine of somebody's run on Twisted's reactor, and say so when it cannot."""

from __future__ import annotations

import asyncio
from asyncio.tasks import _enter_task, _leave_task
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextvars import copy_context
from types import coroutine
from typing import Any, TypeVar

from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

from pushserver.usercode import fork

Result = TypeVar("Result")

NO_LOOP = "no running event loop"
HINT = (
    "asyncio works here only when its reactor runs (twistd --reactor asyncio);"
    " on this one await Deferreds, or use a function without async, which has a thread"
)


async def awaited(awaitable: Awaitable[Result]) -> Result:
    """What it gives, awaited where Deferreds are, and in a task of asyncio if its reactor runs.

    It begins at once, and is cancelled with CancelledError, in a task with asyncio's; what
    comes out is Twisted's, when the task is over and not before.

    What waits for anything else gets a RuntimeError that says so. Twisted on its own would
    resume it at once.
    """
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        result: Result = await _steps(awaitable)
        return result
    steps = _TaskSteps(awaitable, loop)
    while not steps.over:
        try:
            await _when_done(steps.task)
        except (CancelledError, asyncio.CancelledError):
            # The latter where this is awaited in a task itself.
            steps.task.cancel()
    try:
        made: Result = steps.outcome()
    except asyncio.CancelledError as error:
        raise CancelledError(*error.args).with_traceback(error.__traceback__) from None
    return made


async def _wait(awaitable: Awaitable[Result]) -> Result:
    return await awaitable


@coroutine
def _steps(awaitable: Awaitable[Any]) -> Generator[Deferred[Any], Any, Any]:
    """Where no loop of asyncio runs."""
    inner = _wait(awaitable)
    step: Callable[[Any], Any] = inner.send
    argument: Any = None
    while True:
        try:
            waits_for = fork.call(step, argument)
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
        raise RuntimeError(f"{waits_for!r:.60} cannot be awaited: {HINT}")
    raise RuntimeError(f"{type(waits_for).__name__} cannot be awaited on Twisted's reactor")


def _when_done(task: asyncio.Future[Any]) -> Deferred[None]:
    """Fires when the task is done; one that is cancelled leaves the task alone."""

    def forget(_: object) -> None:
        task.remove_done_callback(fire)

    def fire(_: object) -> None:
        done.callback(None)

    done: Deferred[None] = Deferred(forget)
    task.add_done_callback(fire)
    return done


class _TaskSteps(Coroutine[Any, Any, None]):
    """What a task of asyncio runs: an awaitable, and where that awaits a Deferred, a future.

    The first step is made at once, as Python 3.12's eager tasks do; the task, which exists
    then, goes on from there. The task itself returns None always: SystemExit would end the
    reactor's loop.
    """

    def __init__(self, awaitable: Awaitable[Any], loop: asyncio.AbstractEventLoop):
        self.over = False
        self._loop = loop
        self._inner = _wait(awaitable)
        self._result: Any = None
        self._error: BaseException | None = None
        self._waits_for: Any = None
        self._begun = True
        self._cancel_again = False
        context = copy_context()
        self.task: asyncio.Task[None] = asyncio.Task(self, loop=loop, context=context)
        # One that does not end when it is cancelled may be left behind, as any coroutine on
        # Twisted's reactor; the attribute is the one that asyncio.gather sets.
        self.task._log_destroy_pending = False  # type: ignore[attr-defined]
        context.run(self._begin)

    def outcome(self) -> Any:
        """What it gave; raises what it raised."""
        if self._error is not None:
            raise self._error
        return self._result

    def send(self, value: Any) -> Any:
        if self._begun:
            self._begun = False
            if self.over:
                raise StopIteration
            return self._waits_for
        return self._step(self._inner.send, value)

    def throw(self, error: Any, *_: Any) -> Any:
        waits_for, begun = self._waits_for, self._begun
        self._begun = False
        if self.over:
            raise StopIteration
        if begun and waits_for is not None and waits_for.cancel():
            # Cancelled before the task has seen what it waits for: it ends with that.
            return waits_for
        if isinstance(waits_for, _Awaited) and waits_for.done() and not waits_for.cancelled():
            # Cancelled when the Deferred had fired. What it gave, say a lock, must not be
            # lost: it is cancelled at what it waits for next, as on Twisted's reactor.
            self._cancel_again = True
            return self._step(self._inner.send, None)
        return self._step(self._inner.throw, error)

    def close(self) -> None:
        self._inner.close()

    def __await__(self) -> Generator[Any, Any, None]:
        raise TypeError("it is for a task")

    def _begin(self) -> None:
        around = asyncio.current_task(self._loop)
        if around is not None:
            _leave_task(self._loop, around)
        _enter_task(self._loop, self.task)
        try:
            self._step(self._inner.send, None)
        except StopIteration:
            # It has waited for nothing; the task finds that out in its own turn.
            pass
        finally:
            _leave_task(self._loop, self.task)
            if around is not None:
                _enter_task(self._loop, around)

    def _step(self, step: Callable[[Any], Any], argument: Any) -> Any:
        try:
            waits_for = fork.call(step, argument)
        except StopIteration as stop:
            self._result = stop.value
        except BaseException as error:
            self._error = error
        else:
            if isinstance(waits_for, Deferred):
                waits_for = _Awaited(waits_for, self._loop)
            if self._cancel_again:
                self._cancel_again = False
                if self.task.cancelling():
                    # Not if asyncio.timeout has taken it back; the count is as before.
                    self.task.cancel()
                    self.task.uncancel()
            self._waits_for = waits_for
            return waits_for
        self.over = True
        self._waits_for = None
        raise StopIteration


class _Awaited(asyncio.Future[None]):
    """A Deferred as a task waits for it: done when that has fired, which is then asked itself.

    Cancelled with it, at once: what it waits for must not be given to it afterwards.
    """

    def __init__(self, deferred: Deferred[Any], loop: asyncio.AbstractEventLoop):
        super().__init__(loop=loop)
        # As `await` does with a future.
        self._asyncio_future_blocking = True
        self._deferred = deferred
        self._asked = False
        deferred.addBoth(self._fire)

    def cancel(self, msg: Any = None) -> bool:
        if self.done():
            return False
        self._asked = True
        self._deferred.cancel()
        return True

    def _fire(self, result: Any) -> Any:
        if self._asked and isinstance(result, Failure) and result.check(CancelledError):
            super().cancel()
            return None
        self.set_result(None)
        return result
