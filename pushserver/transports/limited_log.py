"""The log of events that each peer can cause without end, such as all that Autobahn logs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.logger import Logger, formatEvent

from pushserver.usercode.rate import LogLimiter

SECONDS = 1
"""The least time between two lines of one cause."""

MAX_CAUSES = 100
"""Causes that are limited separately; all others are one."""

MAX_CHARACTERS = 300


class LimitedLog:
    """Logs one line a second for each cause, with the number of lines that were suppressed.

    A cause is a message without its values, except the close code `code`: the other values may
    come from the peer. Control characters are escaped.
    """

    def __init__(self, log: Logger, clock: Callable[[], float]):
        self._log = log
        self._clock = clock
        self._limiters: dict[object, LogLimiter] = {}

    def debug(self, *_: object, **__: object) -> None:
        """No-op: Autobahn has several debug lines for each frame."""

    def info(self, format: str, **fields: Any) -> None:
        self._write(self._log.info, format, fields)

    def warn(self, format: str, **fields: Any) -> None:
        self._write(self._log.warn, format, fields)

    def error(self, format: str, **fields: Any) -> None:
        self._write(self._log.error, format, fields)

    def _write(self, write: Callable[..., None], format: str, fields: dict[str, Any]) -> None:
        cause: object = (format, fields.get("code"))
        if cause not in self._limiters and len(self._limiters) >= MAX_CAUSES:
            cause = None
        limiter = self._limiters.get(cause)
        if limiter is None:
            limiter = self._limiters[cause] = LogLimiter(1, SECONDS)
        suffix = limiter.suffix(self._clock())
        if suffix is not None:
            text = formatEvent({"log_format": format, **fields})
            name = fields.get("event_name", "websocket")
            shown = repr(text[:MAX_CHARACTERS])[1:-1]
            write("{text}{suffix}", text=shown, suffix=suffix, event_name=name)
