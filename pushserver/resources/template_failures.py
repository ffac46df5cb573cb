"""The last failures of templates and of functions in their place, and how often they failed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from pushserver.diagnosis.facts import TemplateFailure
from pushserver.usercode.rate import LogLimiter

MAX_ERROR = 500
"""The characters of an error."""


class TemplateFailures:
    """Counts failures, keeps the last one of each template, and limits their lines in the log.

    `clock` returns Unix seconds, `monotonic` is the steady clock. `counts`: the renderings that
    failed, by the name of the template or function.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        monotonic: Callable[[], float],
        counts: Counter[str] | None = None,
    ):
        self._clock = clock
        self._monotonic = monotonic
        self._counts: Counter[str] = Counter() if counts is None else counts
        self._last: dict[str, TemplateFailure] = {}
        self._limiters: dict[str, LogLimiter] = {}

    def clear(self) -> None:
        """Forget the failures, since the templates are read anew; the counts stay."""
        self._last.clear()
        self._limiters.clear()

    def count(self, name: str) -> None:
        """Count a rendering that failed."""
        self._counts[name] += 1

    def note(self, name: str, channel: str, error: str) -> str | None:
        """Keep a failure; return the end of its line in the log, None for no line."""
        text = error[:MAX_ERROR].encode("utf-8", "replace").decode()
        self._last[name] = TemplateFailure(name, channel, text, round(self._clock(), 3))
        return self._limiters.setdefault(name, LogLimiter()).suffix(self._monotonic())

    def of(self, name: str) -> TemplateFailure | None:
        """The last failure of this template or function, if it has failed."""
        return self._last.get(name)

    @property
    def last(self) -> list[TemplateFailure]:
        """The last failure of each that has failed."""
        return list(self._last.values())
