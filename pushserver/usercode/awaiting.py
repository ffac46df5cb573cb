"""Awaits an awaitable of the user, on Twisted's reactors and on asyncio's.

`Deferred.fromFuture(asyncio.ensure_future(...))` is not enough. Measured with Python 3.11:
- Under Twisted's own reactors (epoll, poll, select) no loop of asyncio runs, and the coroutine
  never starts. `_steps` needs no asyncio, and raises an error with a hint where asyncio is needed.
- Under asyncio's reactor a task cannot await a Deferred ("Task got bad yield"). The task starts in
  a later turn, so that even a handler that does not wait is answered later. SystemExit in it stops
  the reactor. A cancelled `fromFuture` fails at once and not when the task has ended.
  `_TaskSteps` is a task without these four limits.

Private names of asyncio: `_enter_task` and `_leave_task`, documented for implementations of tasks
(asyncio-extending), and `_log_destroy_pending`. From Python 3.12 on `Task(eager_start=True)` could
replace the first two.
"""

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

NO_LOOP = (
    "no running event loop",
    "There is no current event loop",
    "'NoneType' object has no attribute 'create_future'",
    "Not currently running on any asynchronous event loop",
    "unknown async library",
)
"""Messages where no loop runs: of asyncio, its locks and queues, anyio (so httpx) and sniffio."""
HINT = (
    "asyncio works here only when its reactor runs (pushserver serve without --reactor, or"
    " twistd --reactor asyncio); on this one await Deferreds, or use a function without async,"
    " which has a thread"
)


Call = Callable[..., Any]
"""Calls a function with arguments, as `fork.call` and `Stopwatch.call` do."""


async def awaited(awaitable: Awaitable[Result], call: Call = fork.call) -> Result:
    """Return the result of the awaitable; it starts at once, under asyncio's reactor in a task.

    `call` makes each step of the awaitable.

    A cancelled awaitable gets CancelledError, in a task that of asyncio. This function raises
    Twisted's, and only when the task has ended. Raises RuntimeError if the awaitable waits for
    something that this reactor cannot await; Twisted alone would resume it at once.
    """
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        result: Result = await _steps(awaitable, call)
        return result
    steps = _TaskSteps(awaitable, loop, call)
    while not steps.over:
        try:
            await _when_done(steps.task)
        except (CancelledError, asyncio.CancelledError):
            # asyncio's if this function is awaited in a task itself.
            steps.task.cancel()
    try:
        outcome: Result = steps.outcome()
    except asyncio.CancelledError as error:
        raise CancelledError(*error.args).with_traceback(error.__traceback__) from None
    return outcome


async def _wait(awaitable: Awaitable[Result]) -> Result:
    return await awaitable


@coroutine
def _steps(awaitable: Awaitable[Any], call: Call) -> Generator[Deferred[Any], Any, Any]:
    """Run the awaitable where no loop of asyncio runs."""
    inner = _wait(awaitable)
    step: Callable[[Any], Any] = inner.send
    argument: Any = None
    while True:
        try:
            waits_for = call(step, argument)
        except StopIteration as stop:
            return stop.value
        except (AttributeError, RuntimeError) as error:
            if str(error).startswith(NO_LOOP):
                raise RuntimeError(f"{error}: {HINT}").with_traceback(error.__traceback__) from None
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
    """Fires when the task is done; cancelling the Deferred does not cancel the task."""

    def forget(_: object) -> None:
        task.remove_done_callback(fire)

    def fire(_: object) -> None:
        # The callbacks of a task that has just ended are under way, and cannot be removed.
        if not done.called:
            done.callback(None)

    done: Deferred[None] = Deferred(forget)
    task.add_done_callback(fire)
    return done


class _TaskSteps(Coroutine[Any, Any, None]):
    """The coroutine of a task; it runs an awaitable and turns its Deferreds into futures.

    The first step runs at once, as in eager tasks of Python 3.12, and the task continues from
    there. The task always returns None: an exception such as SystemExit would stop the loop.
    """

    def __init__(self, awaitable: Awaitable[Any], loop: asyncio.AbstractEventLoop, call: Call):
        self.over = False
        self._call = call
        self._loop = loop
        self._inner = _wait(awaitable)
        self._result: Any = None
        self._error: BaseException | None = None
        self._waits_for: Any = None
        self._is_ahead = True
        self._cancel_again = False
        context = copy_context()
        self.task: asyncio.Task[None] = asyncio.Task(self, loop=loop, context=context)
        # A task that ignores its cancellation may be left behind, like any coroutine on Twisted's
        # reactors, without a message of asyncio. `asyncio.gather` sets this attribute too.
        self.task._log_destroy_pending = False  # type: ignore[attr-defined]
        context.run(self._step_ahead)

    def outcome(self) -> Any:
        """Return the result of the awaitable, or raise its exception."""
        if self._error is not None:
            raise self._error
        return self._result

    def send(self, value: Any) -> Any:
        if self._is_ahead:
            self._is_ahead = False
            if self.over:
                raise StopIteration
            return self._waits_for
        return self._step(self._inner.send, value)

    def throw(self, error: Any, *_: Any) -> Any:
        waits_for, was_ahead = self._waits_for, self._is_ahead
        self._is_ahead = False
        if self.over:
            raise StopIteration
        if was_ahead and waits_for is not None and waits_for.cancel():
            # The task was cancelled before its own first step: it waits for the cancelled future.
            return waits_for
        if isinstance(waits_for, _Awaited) and waits_for.done() and not waits_for.cancelled():
            # The task was cancelled after the Deferred had fired. Its result, such as a lock, must
            # not be lost: the awaitable gets it, and is cancelled at its next await, as on
            # Twisted's reactors.
            self._cancel_again = True
            return self._step(self._inner.send, None)
        return self._step(self._inner.throw, error)

    def close(self) -> None:
        self._inner.close()

    def __await__(self) -> Generator[Any, Any, None]:
        raise TypeError("only a task can run this coroutine")

    def _step_ahead(self) -> None:
        outer = asyncio.current_task(self._loop)
        if outer is not None:
            _leave_task(self._loop, outer)
        # `asyncio.timeout` and `asyncio.TaskGroup` need the current task.
        _enter_task(self._loop, self.task)
        try:
            self._step(self._inner.send, None)
        except StopIteration:
            # The awaitable did not wait; the task ends in its own turn.
            pass
        finally:
            _leave_task(self._loop, self.task)
            if outer is not None:
                _enter_task(self._loop, outer)

    def _step(self, step: Callable[[Any], Any], argument: Any) -> Any:
        try:
            waits_for = self._call(step, argument)
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
                    # Unless asyncio.timeout has undone the cancellation; the count stays the same.
                    self.task.cancel()
                    self.task.uncancel()
            self._waits_for = waits_for
            return waits_for
        self.over = True
        self._waits_for = None
        raise StopIteration


class _Awaited(asyncio.Future[None]):
    """Done when the Deferred has fired; the awaitable then gets the result from the Deferred.

    `cancel` cancels the Deferred at once, so that it does not get a result after that.
    """

    def __init__(self, deferred: Deferred[Any], loop: asyncio.AbstractEventLoop):
        super().__init__(loop=loop)
        self._deferred = deferred
        self._is_cancelling = False
        # Marks the future as awaited, as `await` does.
        next(self.__await__())
        deferred.addBoth(self._fire)

    def cancel(self, msg: Any = None) -> bool:
        if self.done():
            return False
        self._is_cancelling = True
        self._deferred.cancel()
        return True

    def _fire(self, result: Any) -> Any:
        if self._is_cancelling and isinstance(result, Failure) and result.check(CancelledError):
            super().cancel()
            return None
        self.set_result(None)
        return result
