"""Begins coroutines that mostly wait for nothing: a Deferred would be half of what they cost."""

from __future__ import annotations

from collections.abc import Coroutine, Generator
from functools import partial
from types import coroutine as coroutine_of_generator
from typing import Any, TypeVar

from twisted.internet.defer import Deferred

Result = TypeVar("Result")


def begin(coroutine: Coroutine[Any, Any, Result]) -> Result | Deferred[Result]:
    """What the coroutine gives, or a Deferred of it if it waits for something.

    Raises what it raises before it waits for the first time.
    """
    try:
        awaited = coroutine.send(None)
    except StopIteration as stop:
        result: Result = stop.value
        return result
    return Deferred.fromCoroutine(_go_on(coroutine, awaited))


@coroutine_of_generator
def _go_on(coroutine: Coroutine[Any, Any, Result], awaited: Any) -> Generator[Any, Any, Result]:
    """The rest of a coroutine that waits for its first time."""
    while True:
        try:
            result = yield awaited
        except GeneratorExit:
            # What it waits for is gone, and it may have been collected before us.
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
