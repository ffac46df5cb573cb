"""`type = "command"`: publishes the lines that a program prints."""

from __future__ import annotations

import os
import shlex
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal

from msgspec import Meta
from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessTerminated
from twisted.logger import Logger
from zope.interface import implementer

from pushserver.sources.interface import Feed, ISource, SourceFailed
from pushserver.sources.types.child_environment import child_environment, for_server_only
from pushserver.sources.types.command.process import STDERR, STDOUT, CannotStart, Process
from pushserver.sources.types.lines import Line, LineFormat, Lines, Splitter
from pushserver.sources.types.source_type import BuiltInType
from pushserver.usercode.rate import Rate

STDERR_TAG = {"stream": "stderr"}
_TAGS = {STDOUT: None, STDERR: STDERR_TAG}
_LOGGED_AT_ONCE = 10
_LOGGED_PER_SECOND = 1.0
_LINE_CHARACTERS = 300


@dataclass(frozen=True, slots=True)
class Options:
    """The keys of the table of the source beside the common ones."""

    command: str | Sequence[str]
    """The program and its arguments; a string is split as in a shell, but no shell runs it.

    The type is Sequence: for a list, a variable of the environment would be split at blanks.
    """
    directory: str = ""
    """The working directory; empty for that of the server."""
    environment: dict[str, str] = field(default_factory=dict)
    """Variables in addition to the inherited ones."""
    inherit: list[str] = field(default_factory=list)
    """The names of variables of the server that the program gets besides the usual ones."""
    format: LineFormat = "text"
    """`text`: each line is a string; `json`: each line is a JSON value."""
    stderr: Literal["log", "publish", "drop"] = "log"
    """Whether the lines on standard error are logged, published or dropped."""
    restart: Literal["always", "on-failure", "never"] = "always"
    """Whether it is started again after its end."""
    max_line_bytes: Annotated[int, Meta(ge=1, le=1_048_576)] = 65_536
    """The longest line; a longer text is cut, longer JSON is skipped."""
    stop_seconds: Annotated[float, Meta(ge=0, le=600)] = 5.0
    """The time between SIGTERM and SIGKILL."""


@implementer(ISource)
class CommandSource:
    """Publishes each line of a program; a full pipe slows the program down.

    A run that is stopped leaves the lines that it has read to the next one.
    """

    def __init__(self, options: Options, command: list[str]):
        self._options = options
        self._command = command
        # Lines that were read and not published yet, with their tags.
        self._lines: deque[tuple[Line, dict[str, str] | None]] = deque()

    @property
    def stop_seconds(self) -> float:
        """The time that the source may need to end, in seconds."""
        return self._options.stop_seconds

    async def run(self, feed: Feed) -> None:
        options = self._options
        stderr_log = StderrLog(feed, options.stderr == "log")
        on_stderr = None if options.stderr == "publish" else stderr_log.feed
        process = Process(feed.reactor, feed.monotonic, options.stop_seconds, on_stderr)
        environment = child_environment(os.environ, options.inherit) | options.environment
        try:
            process.start(self._command, options.directory, environment)
        except CannotStart as error:
            raise SourceFailed(str(error)) from None
        try:
            await self._publish(feed, process, stderr_log)
        finally:
            await process.stop()
            stderr_log.end()
        if process.stopped:
            # The reactor shuts down, and will cancel this source too.
            await Deferred()
        self._ended(feed, process.result, stderr_log.last_line)

    async def _publish(self, feed: Feed, process: Process, stderr_log: StderrLog) -> None:
        max_bytes = self._options.max_line_bytes
        splitters = {STDOUT: Splitter(max_bytes), STDERR: Splitter(max_bytes)}

        def split(descriptor: int, data: bytes) -> None:
            if descriptor == STDERR:
                stderr_log.feed(data)
            tags = _TAGS[descriptor]
            self._lines.extend((line, tags) for line in splitters[descriptor].feed(data))

        try:
            await self._publish_lines(feed)
            while (chunk := await process.read()) is not None:
                split(*chunk)
                await self._publish_lines(feed)
        finally:
            for chunk in process.take_unread():
                split(*chunk)
        if process.stopped:
            return
        for descriptor, splitter in splitters.items():
            rest = splitter.rest()
            if rest is not None:
                self._lines.append((rest, _TAGS[descriptor]))
        await self._publish_lines(feed)

    async def _publish_lines(self, feed: Feed) -> None:
        lines = Lines(feed, self._options.format, self._options.max_line_bytes)
        while self._lines:
            line, tags = self._lines[0]
            await lines.publish(line, tags)
            self._lines.popleft()

    def _ended(self, feed: Feed, result: BaseException | None, last_line: str) -> None:
        """Return if the source has ended for good; raise if it is to be restarted."""
        restart = self._options.restart
        if not isinstance(result, ProcessTerminated):
            if restart == "always":
                raise SourceFailed(f"{self._command[0]} ended (exit code 0)")
            return
        how = f"signal {result.signal}" if result.signal else f"exit code {result.exitCode}"
        problem = f"{self._command[0]} ended with {how}" + (f": {last_line}" if last_line else "")
        if restart == "never":
            feed.trouble(problem)
        else:
            raise SourceFailed(problem)


class StderrLog:
    """Logs the standard error of a program at a bounded rate, and keeps its last line."""

    _log = Logger()

    def __init__(self, feed: Feed, logged: bool):
        self._feed = feed
        self._logged = logged
        self._splitter = Splitter(4 * _LINE_CHARACTERS)
        self._rate = Rate(_LOGGED_PER_SECOND, _LOGGED_AT_ONCE)
        self._suppressed = 0
        self.last_line = ""

    def feed(self, data: bytes) -> None:
        """Log new lines; of very many, only the first and the last are decoded."""
        if data.count(b"\n") > 2 * _LOGGED_AT_ONCE:
            *first, data = data.split(b"\n", _LOGGED_AT_ONCE)
            middle, *last = data.rsplit(b"\n", _LOGGED_AT_ONCE)
            self._feed_lines(b"\n".join((*first, b"")))
            self._suppressed += middle.count(b"\n") + 1 if self._logged else 0
            data = b"\n".join(last)
        self._feed_lines(data)

    def _feed_lines(self, data: bytes) -> None:
        for line in self._splitter.feed(data):
            self._line(line.text)

    def end(self) -> None:
        """Log the unfinished line, and the number of suppressed ones."""
        rest = self._splitter.rest()
        if rest is not None:
            self._line(rest.text)
        if self._suppressed:
            self._write(f"{self._suppressed} more lines")

    def _line(self, text: bytes) -> None:
        line = "".join(c if c.isprintable() else " " for c in text.decode(errors="replace"))
        line = line.strip()[:_LINE_CHARACTERS]
        if not line:
            return
        self.last_line = line
        if not self._logged:
            return
        if self._rate.delay(self._feed.monotonic()):
            self._suppressed += 1
            return
        self._rate.take()
        if self._suppressed:
            self._write(f"{self._suppressed} more lines")
            self._suppressed = 0
        self._write(line)

    def _write(self, line: str) -> None:
        self._log.warn(
            "source {name}: stderr: {line}",
            name=self._feed.name,
            line=line,
            event_name="source_stderr",
        )


def _make(options: Options) -> CommandSource:
    try:
        words = options.command
        command = shlex.split(words) if isinstance(words, str) else list(words)
    except ValueError as error:
        raise ValueError(f"command: {error}") from None
    if not command or not command[0]:
        # The arguments may have secrets.
        shown = f", got {words!r:.60}" if not any(command) else ", got an empty first word"
        raise ValueError(f"command: expected a program{shown}")
    for key, texts in (
        ("command", command),
        ("directory", [options.directory]),
        ("environment", [*options.environment, *options.environment.values()]),
    ):
        if any("\0" in text for text in texts):
            raise ValueError(f"{key}: expected no NUL character in it")
    for name in options.environment:
        if not name or "=" in name:
            # After the = there may be a secret.
            shown = "".join(name.partition("=")[:2])
            raise ValueError(f"environment: {shown!r:.60} is not the name of a variable")
    for name in options.inherit:
        if for_server_only(name):
            raise ValueError(f"inherit: {name} is for the server only")
    return CommandSource(options, command)


COMMAND = BuiltInType(Options, _make)
