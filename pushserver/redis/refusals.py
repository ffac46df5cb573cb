"""What Redis refuses this node: the error for the caller, the lines in the log, and the state."""

from __future__ import annotations

from collections.abc import Callable

from twisted.logger import Logger

from pushserver.channels.idempotency import RETRY_SECONDS
from pushserver.errors import LimitExceeded, PushServerError, TooMany
from pushserver.redis import scripts
from pushserver.redis.commands import ErrorReply
from pushserver.redis.failures import NOT_DONE, Failures
from pushserver.redis.problems import Problem, of_reply
from pushserver.redis.scripts import Bounds

REFUSAL_SECONDS = 10.0
"""A node counts as refused for this time after Redis has refused a call, or until it accepts one.

A balancer may send it no further publications meanwhile.
"""
LOG_SECONDS = 60.0
"""The least time between two lines about refusals for one reason."""
OTHER_SECONDS = 1.0
"""The least time until a line about a refusal for another reason."""


class Refusals:
    """Those of the calls of one writer. `again` is called if its session must be replaced."""

    _log = Logger()

    def __init__(
        self,
        failures: Failures,
        monotonic: Callable[[], float],
        again: Callable[[str], None],
    ):
        self._failures = failures
        self._monotonic = monotonic
        self._again = again
        self._last: tuple[Problem, float] | None = None
        self._logged = float("-inf")
        self._logged_text = ""

    def accepted(self) -> None:
        """Redis has accepted a publication: the node does not count as refused."""
        self._last = None

    def error_of(self, error: ErrorReply, bounds: Bounds) -> PushServerError:
        """Note a refusal, and return the error for the caller; one of the session ends it.

        `bounds` are those of the log.
        """
        if error.word in NOT_DONE:
            self._again(str(error))
            return self._failures.away()
        if error.word == scripts.CHANNELS:
            most = bounds.channels
            return LimitExceeded(f"there are {most} channels, and no more are kept", "channels")
        if error.word == scripts.KEYS:
            most = bounds.keys_per_publisher
            return TooMany(
                f"this publisher has used {most} idempotency keys in five minutes",
                "idempotency_keys_per_publisher",
                RETRY_SECONDS,
            )
        problem = of_reply(error)
        self._note(problem)
        return self._failures.of(f"Redis refused it: {problem.short}")

    def _note(self, problem: Problem) -> None:
        """Keep it for the state of the node; it is logged once in a while."""
        now = self._monotonic()
        # Another channel may be fine, so that refusals and answers come in turn.
        is_same = problem.text == self._logged_text
        if now - self._logged >= (LOG_SECONDS if is_same else OTHER_SECONDS):
            self._logged, self._logged_text = now, problem.text
            self._log.warn(
                "Redis has refused a publication or another call: {problem}",
                problem=problem.text,
                event_name="redis_refused",
            )
        self._last = problem, now

    @property
    def problem(self) -> str:
        """Why Redis has refused the last calls, for everybody; empty if it has not."""
        if self._last is None or self._monotonic() - self._last[1] > REFUSAL_SECONDS:
            return ""
        return self._last[0].short
