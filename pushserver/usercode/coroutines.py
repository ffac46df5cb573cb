"""Starts coroutines without a Deferred unless they wait; a Deferred for each doubles the cost."""

from __future__ import annotations

from collections.abc import Coroutine, Generator
from functools import partial
from types import coroutine as coroutine_of_generator
from typing import Any, TypeVar

from twisted.internet.defer import Deferred

Result = TypeVar("Result")


def start(coroutine: Coroutine[Any, Any, Result]) -> Result | Deferred[Result]:
    """Return the result of the coroutine, or a Deferred of it if the coroutine waits.

    An exception before the first wait is raised here.
    """
    try:
        awaited = coroutine.send(None)
    except StopIteration as stop:
        result: Result = stop.value
        return result
    return Deferred.fromCoroutine(_resume(coroutine, awaited))


@coroutine_of_generator
def _resume(coroutine: Coroutine[Any, Any, Result], awaited: Any) -> Generator[Any, Any, Result]:
    """Run the coroutine from its first wait, for `awaited`, to its end."""
    while True:
        try:
            result = yield awaited
        except GeneratorExit:
            # The garbage collector may have taken the awaited object before this generator.
            coroutine.close()
            raise
        except BaseException as error:
            step = partial(coroutine.throw, error)
        else:
            step = partial(coroutine.send, result)
        try:
            awaited = step()
        except StopIteration as stop:
            answer: Result = stop.value
            return answer
