"""`type = "command"`: publishes the lines that a program writes."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal

from msgspec import Meta
from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessTerminated
from twisted.logger import Logger
from zope.interface import implementer

from pushserver.sources.interface import Feed, ISource, SourceFailed
from pushserver.sources.types.command.process import STDERR, STDOUT, CannotStart, Process
from pushserver.sources.types.lines import LineFormat, Lines, Splitter
from pushserver.sources.types.source_type import SourceType
from pushserver.usercode.rate import Rate

STDERR_TAG = {"stream": "stderr"}
_OURS = ("LISTEN_", "NOTIFY_SOCKET", "PUSHSERVER_", "WATCHDOG_")
_LOGGED_AT_ONCE = 10
_LOGGED_PER_SECOND = 1.0
_SHOWN_CHARACTERS = 300


@dataclass(frozen=True, slots=True)
class Options:
    """What stands in the table of the source beside the common keys."""

    command: str | Sequence[str]
    """The program and its arguments; one string is split as a shell does. No shell runs it.

    Not a list, which a variable of the environment is split for at each blank.
    """
    directory: str = ""
    """The folder in which it runs; empty for that of the server."""
    environment: dict[str, str] = field(default_factory=dict)
    """Variables beside those of the server."""
    format: LineFormat = "text"
    """`text`: each line is a string; `json`: each line is a JSON value."""
    stderr: Literal["log", "publish", "drop"] = "log"
    """What becomes of the lines on its standard error."""
    restart: Literal["always", "on-failure", "never"] = "always"
    """Whether it is started again when it has ended."""
    max_line_bytes: Annotated[int, Meta(ge=1, le=1_048_576)] = 65_536
    """The longest line; of a longer text only so much is published, and none of JSON."""
    stop_seconds: Annotated[float, Meta(ge=0, le=600)] = 5.0
    """How long it may take to end after SIGTERM; then SIGKILL follows."""


@implementer(ISource)
class Command:
    """Publishes each line of a program, which waits while that takes its time."""

    def __init__(self, options: Options, command: list[str]):
        self._options = options
        self._command = command

    @property
    def stop_seconds(self) -> float:
        """How long an end may take."""
        return self._options.stop_seconds

    async def run(self, feed: Feed) -> None:
        options = self._options
        complaints = Complaints(feed, options.stderr == "log")
        on_stderr = None if options.stderr == "publish" else complaints.hear
        process = Process(feed.reactor, feed.monotonic, options.stop_seconds, on_stderr)
        environment = inherited(os.environ) | options.environment
        try:
            process.start(self._command, options.directory, environment)
        except CannotStart as error:
            raise SourceFailed(str(error)) from None
        try:
            await self._publish(feed, process, complaints)
        finally:
            await process.stop()
            complaints.end()
        if process.stopped:
            # Not by us: the reactor shuts down, and is about to cancel this too.
            await Deferred()
        self._ended(feed, process.result, complaints.last)

    async def _publish(self, feed: Feed, process: Process, complaints: Complaints) -> None:
        most = self._options.max_line_bytes
        lines = Lines(feed, self._options.format, most)
        splitters = {STDOUT: Splitter(most), STDERR: Splitter(most)}
        tags = {STDOUT: None, STDERR: STDERR_TAG}
        while (chunk := await process.read()) is not None:
            descriptor, data = chunk
            if descriptor == STDERR:
                complaints.hear(data)
            for line in splitters[descriptor].feed(data):
                await lines.publish(line, tags[descriptor])
        for descriptor, splitter in splitters.items():
            last = splitter.rest()
            if last is not None and not process.stopped:
                await lines.publish(last, tags[descriptor])

    def _ended(self, feed: Feed, result: BaseException | None, last: str) -> None:
        """Return or raise, as it is to be started again or not."""
        restart = self._options.restart
        if not isinstance(result, ProcessTerminated):
            if restart == "always":
                raise SourceFailed(f"{self._command[0]} ended (exit code 0)")
            return
        how = f"signal {result.signal}" if result.signal else f"exit code {result.exitCode}"
        problem = f"{self._command[0]} ended with {how}" + (f": {last}" if last else "")
        if restart == "never":
            feed.trouble(problem)
        else:
            raise SourceFailed(problem)


class Complaints:
    """What a program says on its standard error: the last line, and in the log not too many."""

    _log = Logger()

    def __init__(self, feed: Feed, logged: bool):
        self._feed = feed
        self._logged = logged
        self._splitter = Splitter(4 * _SHOWN_CHARACTERS)
        self._room = Rate(_LOGGED_PER_SECOND, _LOGGED_AT_ONCE)
        self._unsaid = 0
        self.last = ""

    def hear(self, data: bytes) -> None:
        """More of it. Of many lines at once only the first and the last are looked at."""
        if data.count(b"\n") > 2 * _LOGGED_AT_ONCE:
            *first, data = data.split(b"\n", _LOGGED_AT_ONCE)
            middle, *last = data.rsplit(b"\n", _LOGGED_AT_ONCE)
            self._hear(b"\n".join((*first, b"")))
            self._unsaid += middle.count(b"\n") + 1 if self._logged else 0
            data = b"\n".join(last)
        self._hear(data)

    def _hear(self, data: bytes) -> None:
        for line in self._splitter.feed(data):
            self._take(line.text)

    def end(self) -> None:
        """There is no more."""
        rest = self._splitter.rest()
        if rest is not None:
            self._take(rest.text)
        if self._unsaid:
            self._say(f"{self._unsaid} more lines")

    def _take(self, text: bytes) -> None:
        line = "".join(c if c.isprintable() else " " for c in text.decode(errors="replace"))
        line = line.strip()[:_SHOWN_CHARACTERS]
        if not line:
            return
        self.last = line
        if not self._logged:
            return
        if self._room.delay(self._feed.monotonic()):
            self._unsaid += 1
            return
        self._room.take()
        if self._unsaid:
            self._say(f"{self._unsaid} more lines")
            self._unsaid = 0
        self._say(line)

    def _say(self, what: str) -> None:
        self._log.warn("source {name}: stderr: {what}", name=self._feed.name, what=what)


def inherited(environment: Mapping[str, str]) -> dict[str, str]:
    """Of the server's environment what is not for the server alone."""
    return {name: value for name, value in environment.items() if not name.startswith(_OURS)}


def _make(options: Options) -> Command:
    try:
        words = options.command
        command = shlex.split(words) if isinstance(words, str) else list(words)
    except ValueError as error:
        raise ValueError(f"command: {error}, value {words!r:.60}") from None
    if not command or not command[0]:
        raise ValueError(f"command: expected a program, got {words!r:.60}")
    for key, texts in (
        ("command", command),
        ("directory", [options.directory]),
        ("environment", [*options.environment, *options.environment.values()]),
    ):
        if any("\0" in text for text in texts):
            raise ValueError(f"{key}: expected no NUL character in it")
    for name in options.environment:
        if not name or "=" in name:
            raise ValueError(f"environment: {name!r:.60} is no name of a variable")
    return Command(options, command)


COMMAND = SourceType(Options, _make)
