"""The record of a source: its counts, its last error, and its lines in the log."""

from __future__ import annotations

from collections import deque

from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.python.reflect import safe_str

from pushserver.errors import Unavailable
from pushserver.sources.engine.environment import Environment, Plan
from pushserver.sources.engine.meter import Meter
from pushserver.sources.interface import SourceFailed
from pushserver.usercode.rate import LOGGED_AT_ONCE, LogLimiter
from pushserver.usercode.tracebacks import own_part

REMINDER_SECONDS = 60.0
_REMEMBERED_WARNINGS = 100
_MAX_CHARACTERS = 500


class Record:
    """The counts and errors of one source; times in Unix seconds.

    `last_error` is cleared when the source works again; `last_failure` is not.
    """

    _log = Logger()

    def __init__(self, plan: Plan, environment: Environment):
        self.published = Meter()
        self.last_event: float | None = None
        self.last_error = ""
        self.last_failure = ""
        self.error_time: float | None = None
        self.errors = 0
        self._plan = plan
        self._environment = environment
        self._slowed_at: float | None = None
        self._logged: deque[str] = deque(maxlen=_REMEMBERED_WARNINGS)
        self._limiter = LogLimiter(LOGGED_AT_ONCE)
        self._last_logged: object = None
        self._logged_at = 0.0
        self._repeats = 0

    def publication(self) -> None:
        """Note a publication."""
        self.published.add(self._environment.now())
        self.last_event = self._environment.clock()
        self.works()

    def works(self) -> None:
        """Clear the last error."""
        self.last_error = ""

    def slowed(self) -> None:
        """Log, once a minute at most, that the source exceeds its rate."""
        now = self._environment.now()
        if self._slowed_at is None or now - self._slowed_at >= REMINDER_SECONDS:
            self._slowed_at = now
            self._log.warn(
                "source {name} publishes more than its max_rate ({rate:g} a second) allows,"
                " and is slowed",
                name=self._plan.name,
                rate=self._plan.max_rate,
                event_name="source_slowed",
            )

    def warning(self, message: str) -> None:
        """Note an error; the log has each message once."""
        self._note(message)
        if message not in self._logged:
            self._logged.append(message)
            self._write(message)

    def failed(self, event: str, failure: Failure) -> None:
        """Note a failure; log it, with its traceback if the code of the source raised it.

        A repeated failure is counted; the log has the count once a minute at most.
        """
        message, now = describe(failure.value), self._environment.now()
        self._note(message)
        expected = failure.check(SourceFailed, Unavailable) is not None
        raised = [] if expected else [frame[:3] for frame in failure.frames[-1:]]
        identity = (message, raised)
        if identity != self._last_logged:
            self._limiter.suppressed += self._repeats
            self._last_logged, self._logged_at, self._repeats = identity, now, 0
            if expected:
                self._write(f"{event}: {message}")
            else:
                self._write(event, failure)
            return
        self._repeats += 1
        if (passed := now - self._logged_at) >= REMINDER_SECONDS:
            times = "once" if self._repeats == 1 else f"{self._repeats} times"
            self._logged_at, self._repeats = now, 0
            self._write(f"{event}: {message} (the same {times} more in {passed:.0f} s)")

    def _note(self, message: str) -> None:
        self.errors += 1
        self.last_error = self.last_failure = _bounded(message)
        self.error_time = self._environment.clock()

    def _write(self, problem: str, failure: Failure | None = None) -> None:
        """Log one line within the limit; the next line has the number of suppressed ones."""
        more = self._limiter.suffix(self._environment.now())
        if more is None:
            return
        line = "source {name}: {problem}{more}"
        if failure is None:
            self._log.warn(
                line, name=self._plan.name, problem=problem, more=more, event_name="source_failed"
            )
        else:
            self._log.failure(
                line,
                own_part(failure),
                name=self._plan.name,
                problem=problem,
                more=more,
                event_name="source_failed",
            )


def describe(error: BaseException | None) -> str:
    """Return one line about an exception."""
    text = _bounded(" ".join(safe_str(error).split()))
    if isinstance(error, (SourceFailed, Unavailable)):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _bounded(text: str) -> str:
    """Return the text cut to a bound, and valid as UTF-8 (names of files may not be)."""
    return text[:_MAX_CHARACTERS].encode("utf-8", "replace").decode()
