"""The failures of handlers, for the log and for the status."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches

from twisted.logger import Logger
from twisted.python.failure import Failure

from pushserver.app.handlers import Handler, full_name
from pushserver.errors import Unavailable
from pushserver.sources.engine.record import describe
from pushserver.usercode.rate import LOGGED_AT_ONCE, LogLimiter
from pushserver.usercode.tracebacks import own_part

_SHOWN = 80
"""The characters of an event that are logged."""


@dataclass(frozen=True, slots=True)
class HandlerFailure:
    """The last failure of a handler; `time` in Unix seconds."""

    name: str
    event: str
    error: str
    time: float


class HandlerFailures:
    """Logs the failures of handlers, at a bounded rate since clients can cause them.

    `clock` returns Unix seconds, `monotonic` is the steady clock.
    """

    _log = Logger()

    def __init__(self, monotonic: Callable[[], float]):
        self.clock: Callable[[], float] = time.time
        self._monotonic = monotonic
        self._last: dict[tuple[str, str], HandlerFailure] = {}
        self._raised: defaultdict[tuple[str, str], LogLimiter] = defaultdict(
            lambda: LogLimiter(LOGGED_AT_ONCE)
        )
        self._late: defaultdict[tuple[str, str], LogLimiter] = defaultdict(LogLimiter)
        self._busy: defaultdict[tuple[str, str], LogLimiter] = defaultdict(LogLimiter)
        self._crowded = LogLimiter()
        self._unhandled = LogLimiter()
        self._uncalled = LogLimiter()

    def last(self, namespace: str) -> list[HandlerFailure]:
        """The last failure of each handler in the namespace, and of those without one."""
        spaces = ("", namespace)
        return [failure for (space, _), failure in self._last.items() if space in spaces]

    def raised(self, handler: Handler, error: BaseException) -> None:
        """The handler raised an exception."""
        self._keep(handler, describe(error))
        more = self._suffix(self._raised[handler.key])
        if more is None:
            return
        if isinstance(error, Unavailable) and error.cause == "stopping":
            # Expected for each client that is connected when the server stops.
            self._log.info(
                "{name}: {error}{more}",
                name=handler.name,
                error=error,
                more=more,
                event_name="handler_unavailable",
            )
        else:
            failure = own_part(Failure(error))
            self._log.failure(
                "the handler {name} failed{more}",
                failure,
                name=handler.name,
                more=more,
                event_name="handler_failed",
            )

    def raised_late(self, handler: Handler, failure: Failure) -> None:
        """The handler raised an exception after its time limit."""
        more = self._suffix(self._raised[handler.key])
        if more is not None:
            self._log.failure(
                "a handler that was late has failed{more}",
                failure,
                more=more,
                event_name="late_handler_failed",
            )

    def not_json(self, handler: Handler, error: ValueError) -> None:
        """The handler returned a value that JSON cannot hold."""
        self._keep(handler, f"invalid answer: {describe(error)}")
        more = self._suffix(self._raised[handler.key])
        if more is not None:
            message = "the handler {name} returned an invalid answer: {error}{more}"
            self._log.error(
                message,
                name=handler.name,
                error=error,
                more=more,
                event_name="handler_answer_invalid",
            )

    def late(self, handler: Handler, problem: str) -> None:
        """The handler exceeded its time limit."""
        self._report(handler, problem, self._late[handler.key])

    def busy(self, handler: Handler) -> None:
        """The handler was not called, as too many of its calls wait."""
        problem = "is not called: too many calls wait for a thread (handler_threads)"
        self._report(handler, problem, self._busy[handler.key])

    def crowded(self) -> None:
        """A client was refused, as too many calls of the `disconnect` handler wait."""
        more = self._suffix(self._crowded)
        if more is not None:
            problem = "too many calls of the disconnect handler wait for a thread"
            self._log.error(
                "clients are refused: {problem}{more}",
                problem=problem,
                more=more,
                event_name="clients_refused",
            )

    def misspelt(self, handler: Handler, near: str) -> None:
        """A handler is for an event that clients call, with a name like one of the server's."""
        self._log.warn(
            "{name} is called when a client sends {event}; did you mean {near}?",
            name=handler.name,
            event=repr(handler.key[1]),
            near=near,
            event_name="handler_misspelt",
        )

    def unhandled(self, value: object, names: list[str]) -> None:
        """A client sent a value that has no handler; `names` are the events with handlers."""
        more = self._suffix(self._unhandled)
        if more is not None:
            self._log.warn(
                "a client sent {value}, which has no handler; events with handlers: {names}",
                value=_without_data(value),
                names=", ".join(names) or "none",
                event_name="event_unhandled",
            )

    def uncalled(self, method: str, names: list[str]) -> None:
        """Log that a client called an event without a handler; it may call those of `names`."""
        more = self._suffix(self._uncalled)
        if more is not None:
            near = get_close_matches(method[:_SHOWN], names, 3) or names
            self._log.warn(
                "a client called {method}, which has no handler; {near}{more}",
                method=f"{method[:_SHOWN]!r}",
                near=f"there is {', '.join(near)}" if near else "no handler is for clients to call",
                more=more,
                event_name="call_unhandled",
            )

    def _report(self, handler: Handler, problem: str, limiter: LogLimiter) -> None:
        self._keep(handler, problem)
        more = self._suffix(limiter)
        if more is not None:
            self._log.error(
                "{name} {problem}{more}",
                name=handler.name,
                problem=problem,
                more=more,
                event_name="handler_slow",
            )

    def _suffix(self, limiter: LogLimiter) -> str | None:
        return limiter.suffix(self._monotonic())

    def _keep(self, handler: Handler, error: str) -> None:
        event, now = full_name(*handler.key), round(self.clock(), 3)
        self._last[handler.key] = HandlerFailure(handler.name, event, error, now)


def _without_data(value: object) -> str:
    """A value that a client sent, without its data, which has no place in the log."""
    if isinstance(value, dict):
        event = value.get("event")
        return f"the event {event!r:.120}" if isinstance(event, str) else "an object without event"
    if isinstance(value, str | list):
        kind = "text" if isinstance(value, str) else "list"
        return f"a {kind} of the length {len(value)}"
    return f"a value of the type {type(value).__name__}"
