"""The log: its encoding and form, failures of sessions, and with `--debug` their connects."""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, TextIO

from twisted.logger import ILogObserver, LogEvent, Logger, LogLevel, eventAsText
from zope.interface import provider

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
    _log.failure("{text}", text=text)


def run(coroutine: Coroutine[Any, Any, None]) -> None:
    """Drive a session's coroutine; log the exception that it raises."""
    try:
        rest = start(coroutine)
    except Exception:
        report("a conversation failed")
    else:
        if rest is not None:
            rest.addErrback(lambda failure: _log.failure("a conversation failed", failure))


def foreground_observer(out: TextIO) -> ILogObserver:
    """Writes the log for a person in a terminal: the time of day, a level above info, the text.

    Messages of Twisted itself below the level of a warning are left out.
    """

    @provider(ILogObserver)
    def observe(event: LogEvent) -> None:
        level = event.get("log_level", LogLevel.info)
        own = str(event.get("log_namespace", "")).partition(".")[0]
        if level < LogLevel.info or (own in _TWISTED and level < LogLevel.warn):
            return
        text = eventAsText(event, includeTimestamp=False, includeSystem=False).rstrip()
        if not text:
            return
        clock = time.strftime("%H:%M:%S", time.localtime(event.get("log_time")))
        word = "" if level is LogLevel.info else f" {level.name}:"
        # The terminal may be gone.
        with suppress(OSError, ValueError):
            out.write(f"{clock}{word} {text}\n")
            out.flush()

    observer: ILogObserver = observe
    return observer


_TWISTED = ("twisted", "log_legacy")
