"""The output of the log: for a terminal, for systemd's journal, and as JSON lines."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Protocol

from twisted.logger import (
    FilteringLogObserver,
    ILogFilterPredicate,
    ILogObserver,
    LogEvent,
    LogLevel,
    PredicateResult,
    eventAsText,
    formatEvent,
    formatEventAsClassicLogText,
)
from twisted.python.logfile import LogFile
from zope.interface import implementer, provider

from pushserver.config.settings import Log
from pushserver.errors import StartFailed, escaped
from pushserver.usercode.reactor import Reactor

TEXT_CHARACTERS = 4_000
"""The longest text of one field in JSON; a traceback may have four times as many."""

_TWISTED = "twisted"

_PRIORITIES = {
    LogLevel.debug: 7,
    LogLevel.info: 6,
    LogLevel.warn: 4,
    LogLevel.error: 3,
    LogLevel.critical: 2,
}
"""Priorities of syslog, which sd-daemon(3) puts before each line."""


MORE = "|  "
"""Precedes each further line of an event. The texts of errors and applications may be a client's:
no line of theirs may look like the first line of an event, which fail2ban reads. Two spaces, as the
names of the machine and of the program before an event have one between them."""


class Output(Protocol):
    """A file of text."""

    def write(self, text: str, /) -> object: ...
    def flush(self) -> object: ...


def part_of(event: LogEvent) -> str:
    """The part of the program that logged it: a folder of pushserver, `twisted`, or another."""
    parts = str(event.get("log_namespace", "")).split(".")
    if parts[0] == "log_legacy":
        return _TWISTED
    return parts[1] if parts[0] == "pushserver" and len(parts) > 1 else parts[0]


@implementer(ILogFilterPredicate)
class Levels:
    """A predicate of Twisted's filters: whether an event has the level that its part needs."""

    def __init__(self, settings: Log, defaults: Mapping[str, str] | None = None):
        """`defaults`: levels of parts without a setting."""
        self.defaults = defaults or {}
        self.use(settings)

    def use(self, settings: Log) -> None:
        """Use the levels of these settings from now on."""
        self._least = LogLevel.lookupByName(settings.level)
        named = {**self.defaults, **settings.levels}
        self._parts = {part: LogLevel.lookupByName(level) for part, level in named.items()}

    def __call__(self, event: LogEvent) -> Any:
        level = event.get("log_level", LogLevel.info)
        enough = level >= self._parts.get(part_of(event), self._least)
        return PredicateResult.maybe if enough else PredicateResult.no


def terminal_observer(out: Output) -> ILogObserver:
    """Writes for a person: the time of day, a level above info, the text."""

    def line(event: LogEvent) -> str:
        level = event.get("log_level", LogLevel.info)
        clock = time.strftime("%H:%M:%S", time.localtime(event.get("log_time")))
        word = "" if level is LogLevel.info else f" {level.name}:"
        text = _text(event)
        return f"{clock}{word} {text}" if text else ""

    return _observer(out, line)


def journal_observer(out: Output) -> ILogObserver:
    """Writes each line with its priority, for the journal, which has the time of its own."""

    def lines(event: LogEvent) -> str:
        priority = _PRIORITIES.get(event.get("log_level", LogLevel.info), 6)
        return "\n".join(f"<{priority}>{line}" for line in _text(event).split("\n") if line)

    return _observer(out, lines)


def file_observer(out: Output) -> ILogObserver:
    """Writes in the form of Twisted: the time, the part of the program, the text."""
    return _observer(out, lambda event: _safe(formatEventAsClassicLogText(event) or ""))


def json_observer(out: Output) -> ILogObserver:
    """Writes one object a line: `time`, `level`, `part`, `event`, `message`, and its fields.

    `time` is in UTC by ISO 8601, with milliseconds. `event` is the stable name of an event of
    pushserver. A `traceback` is one text. All characters are of ASCII.
    """

    def line(event: LogEvent) -> str:
        level = event.get("log_level", LogLevel.info)
        moment = datetime.fromtimestamp(event.get("log_time", 0.0), UTC)
        entry: dict[str, object] = {
            "time": moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": level.name,
            "part": part_of(event),
        }
        name = event.get("event_name")
        if name:
            entry["event"] = name
        entry["message"] = formatEvent(event)[:TEXT_CHARACTERS]
        failure = event.get("log_failure")
        if failure is not None:
            entry["traceback"] = traceback_of(failure)
        if not entry["message"] and failure is None:
            return ""
        # First, and not replaced by fields of these names.
        return json.dumps({**entry, **fields_of(event), **entry})

    return _observer(out, line)


_NO_FIELDS = {"event_name", "more", "suffix", "text", "line"}
"""Parts of the message."""


def fields_of(event: LogEvent) -> dict[str, bool | int | float | str | None]:
    """The plain values of an event with a name, without those that are parts of its message."""
    if not event.get("event_name"):
        return {}
    return {
        key: _field(value)
        for key, value in event.items()
        if key not in _NO_FIELDS and not key.startswith("log_")
    }


def _field(value: object) -> bool | int | float | str | None:
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if abs(value) < float("inf") else str(value)
    try:
        return str(value)[:TEXT_CHARACTERS]
    except Exception as error:
        return f"<{type(value).__name__}: {type(error).__name__}>"


def traceback_of(failure: Any) -> str:
    """The last characters of a traceback."""
    try:
        return str(failure.getTraceback())[-4 * TEXT_CHARACTERS :]
    except Exception as error:
        return f"<no traceback: {type(error).__name__}>"


def _text(event: LogEvent) -> str:
    return _safe(eventAsText(event, includeTimestamp=False, includeSystem=False))


def _safe(text: str) -> str:
    """The text with `MORE` before all lines but the first, and control characters escaped."""
    lines = [_shown(line) for line in text.rstrip().splitlines()]
    return f"\n{MORE}".join(lines)


def _shown(line: str) -> str:
    # Twisted puts a tab before further lines.
    return "\t".join(map(escaped, line.removeprefix("\t").split("\t")))


def _observer(out: Output, line: Callable[[LogEvent], str]) -> ILogObserver:
    @provider(ILogObserver)
    def observe(event: LogEvent) -> None:
        text = line(event)
        if not text:
            return
        # The terminal may be gone, and the disk full.
        with suppress(OSError, ValueError):
            out.write(text + "\n")
            out.flush()

    observer: ILogObserver = observe
    return observer


def serve_observer(
    settings: Log, environment: Mapping[str, str], levels: Levels | None = None
) -> ILogObserver:
    """The log of a server in the foreground, on standard error.

    Messages of Twisted below the level of a warning are left out, unless the settings say more.
    `levels`: those of the server, by default of its settings.
    """
    out = sys.stderr
    make = _special(settings, environment, out) or terminal_observer
    levels = levels or Levels(settings)
    levels.defaults = {_TWISTED: "warn"}
    levels.use(settings)
    return _filtered(make(out), levels)


def daemon_observer(
    settings: Log,
    environment: Mapping[str, str],
    options: Mapping[str, Any],
    reactor: Reactor,
    levels: Levels | None = None,
) -> ILogObserver | None:
    """The log of twistd with these options of its own; None where twistd's own observer serves.

    That is the case with `--logger` and `--syslog`. `levels`: those of the server, by default of
    its settings.
    """
    if options.get("logger") or options.get("syslog"):
        return None
    name, foreground = options.get("logfile") or "", bool(options.get("nodaemon"))
    if name == "-" and not foreground:
        # twistd says what is wrong.
        return None
    to_output = name == "-" or (not name and foreground)
    special = _special(settings, environment, sys.stdout if to_output else None)
    out: Any = sys.stdout if to_output else _log_file(name or "twistd.log", reactor)
    make: Callable[[Any], ILogObserver] = special or file_observer
    return _filtered(make(out), levels or Levels(settings))


def _special(
    settings: Log, environment: Mapping[str, str], out: Any
) -> Callable[[Output], ILogObserver] | None:
    """The form that the settings or the journal ask for; None for that of the caller."""
    if settings.format == "json":
        return json_observer
    is_journal = settings.format == "auto" and out is not None and _is_journal(out, environment)
    return journal_observer if is_journal else None


def _is_journal(out: Any, environment: Mapping[str, str]) -> bool:
    """Whether the journal reads it: JOURNAL_STREAM (systemd.exec(5)) has its device and inode."""
    try:
        status = os.fstat(out.fileno())
    except (OSError, ValueError, AttributeError):
        return False
    return environment.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


def _filtered(observer: ILogObserver, levels: Levels) -> ILogObserver:
    filtered: ILogObserver = FilteringLogObserver(observer, [levels])
    return filtered


def _log_file(name: str, reactor: Reactor) -> LogFile:
    """The file of `--logfile`; SIGUSR1 rotates it, as with twistd's own observer.

    If another program, such as logrotate, has moved the file, SIGUSR1 opens it again under its
    name. From then on, the server does not rotate it by itself. Raises StartFailed.
    """
    try:
        file: LogFile = LogFile.fromFullPath(name)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise StartFailed(f"--logfile {name}: {reason}") from None

    def rotate(*_: object) -> None:
        reactor.callFromThread(_rotate, file)

    if not signal.getsignal(signal.SIGUSR1):
        signal.signal(signal.SIGUSR1, rotate)
    return file


def _rotate(file: LogFile) -> None:
    try:
        moved = not os.path.samestat(os.stat(file.path), os.fstat(file._file.fileno()))
    except FileNotFoundError:
        moved = True
    if moved:
        file.rotateLength = None
        file.reopen()
    else:
        file.rotate()
