"""Logs user code that blocks the reactor, and so all other clients."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import TypeVar

from twisted.logger import Logger

from pushserver.usercode import fork
from pushserver.usercode.rate import LogLimiter

Result = TypeVar("Result")

BLOCKING_SECONDS = 0.1
"""The longest time for one call, or for one step of a coroutine, that is not logged."""

FOR_COROUTINES = "await instead, or call the slow part in a thread (await asyncio.to_thread(...))"
FOR_FUNCTIONS = "without thread=False it would run in a thread"


class Stopwatch:
    """Times the calls of one function of the user on the reactor's thread.

    A slow one is logged, once a minute at most, with `name` and `remedy`, or without one with that
    for a coroutine function (`is_async`) or for one with `thread=False`. `timer` is in seconds.
    """

    _log = Logger()

    def __init__(
        self,
        name: str,
        is_async: bool,
        timer: Callable[[], float] = perf_counter,
        *,
        remedy: str = "",
    ):
        self._name = name
        self._remedy = remedy or (FOR_COROUTINES if is_async else FOR_FUNCTIONS)
        self._timer = timer
        self._limiter = LogLimiter()

    def call(self, function: Callable[..., Result], *arguments: object) -> Result:
        """Call the function as `fork.call` does."""
        started = self._timer()
        try:
            return fork.call(function, *arguments)
        finally:
            seconds = self._timer() - started
            if seconds > BLOCKING_SECONDS:
                self._warn(seconds)

    def _warn(self, seconds: float) -> None:
        more = self._limiter.suffix(self._timer())
        if more is not None:
            self._log.warn(
                "{name} has blocked the whole server for {seconds:.2f} s: {remedy}{more}",
                name=self._name,
                seconds=seconds,
                remedy=self._remedy,
                more=more,
                event_name="reactor_blocked",
            )
