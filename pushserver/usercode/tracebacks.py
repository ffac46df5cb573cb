"""Cuts tracebacks: the first frame is of the application or source, not of its caller."""

from __future__ import annotations

from types import TracebackType

from twisted.python.failure import Failure

_OURS = "pushserver."
_SOURCES = "pushserver.sources."
_CALLERS = tuple(_SOURCES + name for name in ("engine.", "functions."))
"""The folders that call sources; the other modules below `sources` are sources."""


def own_part(failure: Failure) -> Failure:
    """The failure without the frames before those of the application or source."""
    part: TracebackType | None = _origin(failure)
    while part is not None and _is_caller(part.tb_frame.f_globals.get("__name__", "")):
        part = part.tb_next
    return failure if part is None else Failure(failure.value, failure.type, part)


def _origin(failure: Failure) -> TracebackType | None:
    error = failure.value
    cause = None if error is None else error.__cause__
    if isinstance(cause, StopIteration) and str(error).endswith("raised StopIteration"):
        # Python replaced the StopIteration of a `next(it)`, and the new traceback starts at the
        # coroutine, which is ours.
        return cause.__traceback__
    return failure.tb


def _is_caller(module: str) -> bool:
    if module.startswith(_SOURCES):
        return module.startswith(_CALLERS)
    # Users define source types in twisted.plugins.
    twisted = module.startswith("twisted.") and not module.startswith("twisted.plugins.")
    return twisted or module.startswith(_OURS)
