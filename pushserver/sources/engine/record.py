"""What a source has done: its counts, its last error, and what the log is told of it."""

from __future__ import annotations

from collections import deque

from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.python.reflect import safe_str

from pushserver.errors import Unavailable
from pushserver.sources.engine.environment import Place, Plan
from pushserver.sources.engine.meter import Meter
from pushserver.sources.interface import SourceFailed
from pushserver.usercode.rate import LOGGED_AT_ONCE, Remarks
from pushserver.usercode.tracebacks import own_part

REMINDER_SECONDS = 60.0
_KNOWN = 100
_MOST_CHARACTERS = 500


class Record:
    """Times in Unix seconds; `last_error` is empty once the source works again.

    `last_failure` is the same, but stays.
    """

    _log = Logger()

    def __init__(self, plan: Plan, place: Place):
        self.published = Meter()
        self.last_event: float | None = None
        self.last_error = ""
        self.last_failure = ""
        self.error_time: float | None = None
        self.errors = 0
        self._plan = plan
        self._place = place
        self._slowed_at: float | None = None
        self._known: deque[str] = deque(maxlen=_KNOWN)
        self._remarks = Remarks(LOGGED_AT_ONCE)
        self._failure: object = None
        self._said_at = 0.0
        self._same = 0

    def publication(self) -> None:
        """It has published."""
        self.published.add(self._place.now())
        self.last_event = self._place.clock()
        self.works()

    def works(self) -> None:
        """The last error is over."""
        self.last_error = ""

    def slowed(self) -> None:
        """It has to wait, since it publishes too much."""
        now = self._place.now()
        if self._slowed_at is None or now - self._slowed_at >= REMINDER_SECONDS:
            self._slowed_at = now
            self._log.warn(
                "source {name} publishes more than its max_rate ({rate:g} a second) allows,"
                " and is slowed",
                name=self._plan.name,
                rate=self._plan.max_rate,
            )

    def trouble(self, message: str) -> None:
        """Something failed that is known by its message: logged once."""
        self._note(message)
        if message not in self._known:
            self._known.append(message)
            self._say(message)

    def failed(self, what: str, failure: Failure) -> None:
        """Something failed: logged, with its traceback if that says more.

        The same failure again is counted, and once in a while the log has how often.
        """
        message, now = describe(failure.value), self._place.now()
        self._note(message)
        expected = failure.check(SourceFailed, Unavailable) is not None
        raised = [] if expected else [frame[:3] for frame in failure.frames[-1:]]
        known = (message, raised)
        if known != self._failure:
            self._remarks.unsaid += self._same
            self._failure, self._said_at, self._same = known, now, 0
            if expected:
                self._say(f"{what}: {message}")
            else:
                self._say(what, failure)
            return
        self._same += 1
        if (passed := now - self._said_at) >= REMINDER_SECONDS:
            times = "once" if self._same == 1 else f"{self._same} times"
            self._said_at, self._same = now, 0
            self._say(f"{what}: {message} (the same {times} more in {passed:.0f} s)")

    def _note(self, message: str) -> None:
        self.errors += 1
        self.last_error = self.last_failure = _shown(message)
        self.error_time = self._place.clock()

    def _say(self, what: str, failure: Failure | None = None) -> None:
        """Log it; when there is too much of that only the number, with the next one."""
        more = self._remarks.more(self._place.now())
        if more is None:
            return
        told = "source {name}: {what}{more}"
        if failure is None:
            self._log.warn(told, name=self._plan.name, what=what, more=more)
        else:
            self._log.failure(told, own_part(failure), name=self._plan.name, what=what, more=more)


def describe(error: BaseException | None) -> str:
    """An exception in one line."""
    text = _shown(" ".join(safe_str(error).split()))
    if isinstance(error, (SourceFailed, Unavailable)):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _shown(text: str) -> str:
    """Not too much of it, and nothing that UTF-8 cannot hold (names of files may be such)."""
    return text[:_MOST_CHARACTERS].encode("utf-8", "replace").decode()
