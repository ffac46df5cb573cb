"""Splits bytes into lines, and publishes lines."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from pushserver.channels import jsontext
from pushserver.errors import InvalidData
from pushserver.sources.engine.retry import publish_when_possible
from pushserver.sources.interface import Feed

LineFormat = Literal["text", "json"]
LINES_PER_TURN = 200
CUT = {"cut": "true"}
"""The tag of a line that was cut."""


@dataclass(frozen=True, slots=True)
class Line:
    """One line without its end.

    `size` is the number of its bytes with the end; `cut`: it was longer than `text`.
    """

    text: bytes
    size: int
    cut: bool = False


class Splitter:
    """Splits bytes into lines, and keeps at most `max_bytes` of each.

    A line ends with a newline, or with a carriage return and a newline. With `skips_nuls`, NULs
    at the beginning of a line are left out; they count in `pending` and in the line's size.
    """

    def __init__(self, max_bytes: int, skips_nuls: bool = False):
        self._max_bytes = max_bytes
        self._skips_nuls = skips_nuls
        self._kept = bytearray()
        self._length = 0
        self.pending = 0
        """The number of bytes received of the unfinished line."""

    def feed(self, data: bytes) -> Iterator[Line]:
        """Yield the lines that end in `data`."""
        *ended, rest = data.split(b"\n")
        for part in ended:
            self._add(part)
            yield self._line(self.pending + 1)
        self._add(rest)

    def rest(self) -> Line | None:
        """Return the unfinished line, or None if it is empty."""
        return self._line(self.pending) if self._length else None

    def _add(self, part: bytes) -> None:
        self.pending += len(part)
        if self._skips_nuls and not self._length:
            part = part.lstrip(b"\0")
        # One byte more, which may be the carriage return of the line's end.
        self._kept += part[: self._max_bytes + 1 - len(self._kept)]
        self._length += len(part)

    def _line(self, size: int) -> Line:
        text = bytes(self._kept)
        cut = self._length > len(text)
        if size > self.pending and not cut:
            text = text.removesuffix(b"\r")
        self._kept.clear()
        self._length = self.pending = 0
        return Line(text[: self._max_bytes], size, cut or len(text) > self._max_bytes)


class Lines:
    """Publishes lines, as strings or as JSON values; not all in one turn of the reactor."""

    def __init__(self, feed: Feed, line_format: LineFormat, max_bytes: int):
        self._feed = feed
        self._format = line_format
        self._max_bytes = max_bytes
        self._count = 0

    async def publish(self, line: Line, tags: dict[str, str] | None = None) -> None:
        """Publish one line; waits while the server cannot publish.

        A byte order mark before the line is left out. A line that was cut gets the tag CUT. With
        the format `json` empty lines are skipped, and so are invalid ones, with a warning.
        """
        self._count += 1
        if self._count % LINES_PER_TURN == 0:
            # Before the line: after it a cancellation would publish it again.
            await self._feed.sleep(0)
        if line.cut:
            action = "cut" if self._format == "text" else "skipped"
            self._feed.trouble(
                f"a line is longer than max_line_bytes ({self._max_bytes}): {action}"
            )
        content = line.text.removeprefix(codecs.BOM_UTF8)
        if self._format == "text":
            # Not final: half a character at the end of a cut line is dropped.
            text = _DECODER("replace").decode(content, final=not line.cut)
            tags = {**(tags or {}), **CUT} if line.cut else tags
            await publish_when_possible(self._feed, text, tags=tags)
        elif content.strip() and not line.cut:
            try:
                value = jsontext.repaired(content, unique=True)
            except InvalidData:
                self._feed.trouble('a line is not JSON (format = "json"): skipped')
            else:
                await publish_when_possible(self._feed, value, tags=tags)


_DECODER = codecs.getincrementaldecoder("utf-8")
