"""Parses event streams (HTML standard, 9.2.6) from bytes in any pieces."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

MAX_ID_BYTES = 4_096
"""The longest id that is accepted: it must fit into a header."""

_LINE_END = re.compile(rb"\r\n|\n|\r")
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Event:
    """One event; `id` is the last id of the stream so far, maybe of an earlier event."""

    name: str
    data: str
    id: str


class Parser:
    """Parses a stream into events.

    An event whose lines have more than `max_bytes` is skipped, except for its id. `last_id` is
    the last id of an earlier stream.
    """

    def __init__(self, max_bytes: int, last_id: str = ""):
        self._max_bytes = max_bytes
        self.last_id = last_id
        self.retry_seconds: float | None = None
        """The delay before a new connection that the stream asked for, if any."""
        self.skipped = 0
        """The number of events that were too long."""
        self._line: list[bytes] = []
        self._length = 0
        self._is_first = True
        self._is_cut = False
        self._after_return = False
        self._id = last_id
        self._start_event()

    def feed(self, data: bytes) -> Iterator[Event]:
        """Yield the events that end in `data`; exhaust the iterator before the next call."""
        if self._after_return and data:
            data = data.removeprefix(b"\n")
            self._after_return = False
        *ended, rest = _LINE_END.split(data)
        for part in ended:
            self._add(part)
            event = self._end_line()
            if event is not None:
                yield event
        self._add(rest)
        if data:
            self._after_return = data.endswith(b"\r")

    def _start_event(self) -> None:
        self._name = b""
        self._data: list[bytes] = []
        self._size = 0
        self._too_long = False

    def _add(self, part: bytes) -> None:
        if self._is_cut or not part:
            return
        self._line.append(part)
        self._length += len(part)
        if self._size + self._length > self._max_bytes:
            self._is_cut = True
            if not self._line[0].startswith(b":"):
                self._skip_event()
            self._line.clear()

    def _skip_event(self) -> None:
        self._too_long = True
        self._size = 0
        self._data.clear()

    def _end_line(self) -> Event | None:
        line, cut = b"".join(self._line), self._is_cut
        self._line.clear()
        self._length = 0
        self._is_cut = False
        if self._is_first:
            self._is_first = False
            line = line.removeprefix(_BOM)
        if cut or line.startswith(b":"):
            return None
        if not line:
            return self._end_event()
        if not self._too_long:
            self._size += len(line) + 1
        self._set_field(line)
        return None

    def _set_field(self, line: bytes) -> None:
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"data":
            if not self._too_long:
                self._data.append(value)
        elif field == b"event":
            self._name = value
        elif field == b"id":
            if b"\0" not in value and len(value) <= MAX_ID_BYTES:
                self._id = _text(value)
        elif field == b"retry" and re.fullmatch(rb"[0-9]{1,9}", value):
            self.retry_seconds = int(value) / 1000

    def _end_event(self) -> Event | None:
        name, data, too_long = self._name, self._data, self._too_long
        self._start_event()
        self.last_id = self._id
        if too_long:
            self.skipped += 1
        if too_long or not data:
            return None
        return Event(_text(name) or "message", _text(b"\n".join(data)), self.last_id)


def _text(value: bytes) -> str:
    return value.decode("utf-8", "replace")
