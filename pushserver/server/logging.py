"""What the server logs about sessions: failures, and with `--debug` their connects."""

from __future__ import annotations

import io
import sys
from collections.abc import Coroutine
from typing import Any

from twisted.logger import Logger

from pushserver.usercode.coroutines import start

_log = Logger()


class _WithoutDebug(Logger):
    """A logger that makes no debug events; twistd's observer would write each."""

    def debug(self, format: str | None = None, **kwargs: object) -> None:
        """No-op."""


def connection_log(debug: bool) -> Logger:
    """A logger for connects and disconnects, which are debug events."""
    return (Logger if debug else _WithoutDebug)("pushserver.connections")


def escape_output() -> None:
    """Escape the characters that the encoding of standard output and error lacks.

    Without that, Twisted drops each line of the log that has one, silently.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def report(text: str) -> None:
    """Log the exception that is being handled."""
    _log.failure("{text}", text=text, event_name="internal_error")


def run(coroutine: Coroutine[Any, Any, None]) -> None:
    """Drive a session's coroutine; log the exception that it raises."""
    try:
        rest = start(coroutine)
    except Exception:
        report("a conversation failed")
    else:
        if rest is not None:
            rest.addErrback(
                lambda failure: _log.failure(
                    "a conversation failed", failure, event_name="conversation_failed"
                )
            )
