"""Tracebacks that begin with the code that failed, and not with what called it."""

from __future__ import annotations

from types import TracebackType

from twisted.python.failure import Failure

_OURS = "pushserver."
_SOURCES = "pushserver.sources."
_CALLERS = tuple(_SOURCES + name for name in ("engine.", "functions."))
"""The folders that call sources; all other modules below `sources` are sources themselves."""


def own_part(failure: Failure) -> Failure:
    """The same failure without the frames before those of the application or the source."""
    part: TracebackType | None = _origin(failure)
    while part is not None and _calls_others(part.tb_frame.f_globals.get("__name__", "")):
        part = part.tb_next
    return failure if part is None else Failure(failure.value, failure.type, part)


def _origin(failure: Failure) -> TracebackType | None:
    error = failure.value
    cause = None if error is None else error.__cause__
    if isinstance(cause, StopIteration) and str(error).endswith("raised StopIteration"):
        # What Python makes of a `next(it)` has a traceback from the coroutine on, and that is ours.
        return cause.__traceback__
    return failure.tb


def _calls_others(module: str) -> bool:
    if module.startswith(_SOURCES):
        return module.startswith(_CALLERS)
    # A type of somebody's own is a module of twisted.plugins.
    twisted = module.startswith("twisted.") and not module.startswith("twisted.plugins.")
    return twisted or module.startswith(_OURS)
