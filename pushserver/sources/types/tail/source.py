"""`type = "tail"`: publishes the lines that are appended to a file."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Annotated

import msgspec
from msgspec import Meta
from zope.interface import implementer

from pushserver.sources.interface import Feed, ISource, SourceFailed
from pushserver.sources.types.lines import LineFormat, Lines
from pushserver.sources.types.source_type import BuiltInType
from pushserver.sources.types.tail.follower import Follower
from pushserver.sources.types.tail.logfile import Mark


@dataclass(frozen=True, slots=True)
class Options:
    """The keys of the table of the source beside the common ones."""

    path: str
    """The path of the file, which may not exist yet."""
    from_start: bool = False
    """Whether the first start also publishes the existing lines."""
    format: LineFormat = "text"
    """`text`: each line is a string; `json`: each line is a JSON value."""
    poll_milliseconds: Annotated[int, Meta(ge=10, le=60_000)] = 250
    """The interval at which the file and its name are checked."""
    max_line_bytes: Annotated[int, Meta(ge=1, le=1_048_576)] = 65_536
    """The longest line; a longer text is cut, longer JSON is skipped."""
    max_catch_up_bytes: Annotated[int, Meta(ge=0)] = 1_048_576
    """How much of the lines that were written while the source did not run is published."""


@implementer(ISource)
class TailSource:
    """Publishes each line appended to a file, in order, across rotation and truncation.

    It remembers its position, and continues from there at the next start.
    """

    def __init__(self, options: Options):
        self._options = options

    async def run(self, feed: Feed) -> None:
        options = self._options
        follower = Follower(
            options.path,
            options.max_line_bytes,
            _mark(feed.remembered()),
            options.from_start,
            options.max_catch_up_bytes,
        )
        try:
            await self._follow(feed, follower)
        finally:
            follower.close()

    async def _follow(self, feed: Feed, follower: Follower) -> None:
        options = self._options
        lines = Lines(feed, options.format, options.max_line_bytes)
        problem: str | None = None
        while True:
            try:
                steps, more = follower.poll()
            except OSError as error:
                raise SourceFailed(f"{options.path}: {error.strerror or error}") from error
            if follower.problem != problem:
                problem = follower.problem
                if problem:
                    feed.trouble(f"{options.path}: {problem}")
                else:
                    feed.ok()
            while follower.warnings:
                feed.trouble(f"{options.path}: {follower.warnings.pop(0)}")
            for step in steps:
                if step.line is not None:
                    await lines.publish(step.line)
                feed.remember(dataclasses.asdict(step.mark))
            await feed.sleep(0 if more else options.poll_milliseconds / 1000)


def _mark(remembered: object) -> Mark | None:
    """Return the remembered mark, or None if the value is not one."""
    try:
        return msgspec.convert(remembered, Mark)
    except msgspec.ValidationError:
        return None


def _make(options: Options) -> TailSource:
    if not options.path or "\0" in options.path:
        raise ValueError(f"path: value {options.path!r}, expected the path of a file")
    return TailSource(options)


TAIL = BuiltInType(Options, _make)
