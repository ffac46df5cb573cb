"""The errors of the calls to the log in one Redis server."""

from __future__ import annotations

from collections.abc import Callable

from twisted.logger import Logger

from pushserver.errors import Unavailable
from pushserver.redis.commands import ErrorReply
from pushserver.redis.problems import AWAY, of_reply

NOT_DONE = frozenset(["FENCED", "NOSCRIPT", "READONLY", "LOADING", "MASTERDOWN"])
"""The first words of errors after which another session may succeed."""
LOG_SECONDS = 60.0
"""The least time between two lines about refused reads."""


class Failures:
    """Makes the errors; everybody may read them. They begin with `shard`, such as `shard 1: `.

    `problem` returns why no call is possible; empty if that is not known.
    """

    _log = Logger()

    def __init__(self, problem: Callable[[], str], monotonic: Callable[[], float], shard: str = ""):
        self._problem = problem
        self._monotonic = monotonic
        self._shard = shard
        self._logged = float("-inf")

    def of(self, text: str) -> Unavailable:
        """The error with this text."""
        return Unavailable(self._shard + text, "broker")

    def away(self) -> Unavailable:
        """The error of a call that cannot be made, or of which the result is not known."""
        return self.of(self._problem() or AWAY)

    def refused(self, error: ErrorReply) -> Unavailable:
        """The error of a read that Redis has refused; it is logged once in a while."""
        if error.word in NOT_DONE:
            # The writer has the same session, and notices.
            return self.away()
        problem, now = of_reply(error), self._monotonic()
        if now - self._logged >= LOG_SECONDS:
            self._logged = now
            self._log.warn(
                "Redis has refused a publication or another call: {problem}",
                problem=self._shard + problem.text,
                event_name="redis_refused",
            )
        return self.of(f"Redis refused it: {problem.short}")
