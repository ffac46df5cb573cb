"""Positions of readers: in one channel, or in the common sequence of all channels."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pushserver.errors import InvalidCursor

CURSOR_RULE = "now, oldest, or the id of a publication such as 5f3a90c1:1042"

_CURSOR = re.compile(r"([A-Za-z0-9_-]{1,64}):([0-9]{1,18})")


@dataclass(frozen=True, slots=True)
class Position:
    """The last publication that a reader of one channel has processed; offset 0: none."""

    epoch: str
    offset: int


@dataclass(frozen=True, slots=True)
class Cursor:
    """The position after the publication `seq` of an epoch."""

    epoch: str
    seq: int

    def __str__(self) -> str:
        return cursor_text(self.epoch, self.seq)


@dataclass(frozen=True, slots=True)
class Start:
    """The start of a reader: after `since`, with the `last` publications, or with the `oldest`.

    `last` 0 means only new publications. Without any of them the default of the reader applies.
    """

    since: Cursor | None = None
    last: int | None = None
    oldest: bool = False


def cursor_text(epoch: str, seq: int) -> str:
    """The text of a cursor, which is the id of a publication."""
    return f"{epoch}:{seq}"


def parse_cursor(text: str) -> Cursor:
    """Parse `epoch:seq`; raises InvalidCursor."""
    match = _CURSOR.fullmatch(text)
    if match is None:
        raise InvalidCursor(f"invalid cursor {text[:80]!r}: expected {CURSOR_RULE}")
    return Cursor(match[1], int(match[2]))


def parse_since(text: str) -> Start:
    """Parse the value of `since=`; raises InvalidCursor."""
    if text == "now":
        return Start(last=0)
    if text == "oldest":
        return Start(oldest=True)
    return Start(since=parse_cursor(text))
