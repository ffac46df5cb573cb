"""What goes wrong in handlers: what the log is told of it, and what is kept for the status."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

from twisted.logger import Logger
from twisted.python.failure import Failure

from pushserver.app.handlers import Handler, full_name
from pushserver.errors import Unavailable
from pushserver.sources.engine.record import describe
from pushserver.usercode.rate import LOGGED_AT_ONCE, LogLimiter
from pushserver.usercode.tracebacks import own_part


@dataclass(frozen=True, slots=True)
class HandlerFailure:
    """How a handler failed the last time; `time` in Unix seconds."""

    name: str
    event: str
    error: str
    time: float


class Faults:
    """What clients can bring about is logged now and then, and the rest counted.

    `clock` gives Unix seconds, `monotonic` is the steady clock.
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
        self._unheard = LogLimiter()

    def last(self, namespace: str) -> list[HandlerFailure]:
        """The last failure of each handler of the namespace, and of none."""
        spaces = ("", namespace)
        return [failed for (space, _), failed in self._last.items() if space in spaces]

    def raised(self, found: Handler, error: BaseException) -> None:
        """It failed."""
        self._keep(found, describe(error))
        more = self._more(self._raised[found.place])
        if more is None:
            return
        if isinstance(error, Unavailable) and error.cause == "stopping":
            # For each client that is there when the server stops.
            self._log.info("{name}: {error}{more}", name=found.name, error=error, more=more)
        else:
            failure = own_part(Failure(error))
            self._log.failure(
                "the handler {name} failed{more}", failure, name=found.name, more=more
            )

    def raised_late(self, found: Handler, failure: Failure) -> None:
        """It failed when nobody waited for it any more."""
        more = self._more(self._raised[found.place])
        if more is not None:
            self._log.failure("a handler that was late has failed{more}", failure, more=more)

    def answered(self, found: Handler, error: ValueError) -> None:
        """It answered what JSON cannot hold."""
        self._keep(found, f"answered what JSON cannot hold: {describe(error)}")
        more = self._more(self._raised[found.place])
        if more is not None:
            told = "the handler {name} answered: {error}{more}"
            self._log.error(told, name=found.name, error=error, more=more)

    def late(self, found: Handler, problem: str) -> None:
        """It is not waited for any more."""
        self._say(found, problem, self._late[found.place])

    def busy(self, found: Handler) -> None:
        """It is not called."""
        problem = "is not called: too many calls wait for a thread (handler_threads)"
        self._say(found, problem, self._busy[found.place])

    def crowded(self) -> None:
        """A client was not let in."""
        more = self._more(self._crowded)
        if more is not None:
            problem = "too many calls of the disconnect handler wait for a thread"
            self._log.error("no client is let in: {problem}{more}", problem=problem, more=more)

    def unheard(self, value: object, names: list[str]) -> None:
        """A client sent something for which there is none."""
        more = self._more(self._unheard)
        if more is not None:
            self._log.warn(
                "a client sent {value}, for which there is no handler; there are: {names}",
                value=f"{value!r:.120}",
                names=", ".join(names) or "none",
            )

    def _say(self, found: Handler, problem: str, limiter: LogLimiter) -> None:
        self._keep(found, problem)
        more = self._more(limiter)
        if more is not None:
            self._log.error("{name} {problem}{more}", name=found.name, problem=problem, more=more)

    def _more(self, limiter: LogLimiter) -> str | None:
        return limiter.suffix(self._monotonic())

    def _keep(self, found: Handler, error: str) -> None:
        """There is one for each handler at the most."""
        event, now = full_name(*found.place), round(self.clock(), 3)
        self._last[found.place] = HandlerFailure(found.name, event, error, now)
