"""Lines out of bytes as they come, and what of them is published."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from pushserver.channels import jsontext
from pushserver.errors import InvalidData, Unavailable
from pushserver.sources.interface import Feed

LineFormat = Literal["text", "json"]
CUT = {"cut": "true"}
RETRY_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Line:
    """One line without its end; `size`: the bytes that it took, with its end.

    `cut`: it was longer than `text`.
    """

    text: bytes
    size: int
    cut: bool = False


class Splitter:
    """Makes lines of bytes; of one that is too long it keeps the first `most` bytes.

    A line ends with a newline, or with a carriage return and a newline.
    """

    def __init__(self, most: int):
        self._most = most
        self._kept = bytearray()
        self.pending = 0
        """How many bytes came of the line that is not at its end."""

    def feed(self, data: bytes) -> Iterator[Line]:
        """The lines that end in `data`."""
        *ended, rest = data.split(b"\n")
        for part in ended:
            self._add(part)
            yield self._line(self.pending + 1)
        self._add(rest)

    def rest(self) -> Line | None:
        """What came of the last line, as it is; None if nothing did."""
        return self._line(self.pending) if self.pending else None

    def _add(self, part: bytes) -> None:
        # One more than may be published: it may be the carriage return of the line's end.
        self._kept += part[: self._most + 1 - len(self._kept)]
        self.pending += len(part)

    def _line(self, size: int) -> Line:
        text = bytes(self._kept)
        cut = self.pending > len(text)
        if size > self.pending and not cut:
            text = text.removesuffix(b"\r")
        self._kept.clear()
        self.pending = 0
        return Line(text[: self._most], size, cut or len(text) > self._most)


class Lines:
    """Publishes lines: as strings, or as the JSON values that they are."""

    def __init__(self, feed: Feed, line_format: LineFormat, most: int):
        self._feed = feed
        self._format = line_format
        self._most = most

    async def publish(self, line: Line, tags: dict[str, str] | None = None) -> None:
        """Publish one line.

        One that was cut is tagged so. With the format `json` an empty line is none, and
        what is not JSON is a trouble and no publication. While nothing can be published it
        waits.
        """
        if line.cut:
            done = "cut" if self._format == "text" else "skipped"
            self._feed.trouble(f"a line is longer than max_line_bytes ({self._most}): {done}")
        if self._format == "text":
            # Half a character at the end of what was cut is none.
            text = _DECODER("replace").decode(line.text, final=not line.cut)
            await self._publish(text, {**(tags or {}), **CUT} if line.cut else tags)
        elif line.text.strip() and not line.cut:
            try:
                value = json.loads(jsontext.compact(line.text))
            except InvalidData:
                self._feed.trouble('a line is not JSON (format = "json"): skipped')
            else:
                await self._publish(value, tags)

    async def _publish(self, value: object, tags: dict[str, str] | None) -> None:
        while True:
            try:
                await self._feed.publish(value, tags=tags)
                return
            except Unavailable as error:
                self._feed.trouble(str(error))
            await self._feed.sleep(RETRY_SECONDS)


_DECODER = codecs.getincrementaldecoder("utf-8")
