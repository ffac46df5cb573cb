"""Positions of readers: in one channel, or in the common sequence of all channels of a log."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pushserver.errors import InvalidCursor

CURSOR_RULE = (
    "now, oldest, or the id of a publication such as 5f3a90c1:1042"
    " (with several Redis also 5f3a90c1:1042,0d9e7a44:17)"
)

SHOWN = 80
"""The most characters of an invalid cursor in its error."""

MOST_LOGS = 8
"""The most logs of one server, and so the most parts of a vector."""

_CURSOR = re.compile(r"([A-Za-z0-9_-]{1,64}):([0-9]{1,18})")


@dataclass(frozen=True, slots=True)
class Position:
    """The last publication that a reader of one channel has processed; offset 0: none.

    `epoch` is that of the channel (`channel_epoch`); empty if the reader does not know it.
    """

    epoch: str
    offset: int


@dataclass(frozen=True, slots=True)
class Cursor:
    """The position after the publication `seq`, in all channels; `epoch` is that of the run."""

    epoch: str
    seq: int

    def __str__(self) -> str:
        return f"{self.epoch}:{self.seq}"

    @property
    def parts(self) -> tuple[Cursor, ...]:
        """The cursor in each log: this one."""
        return (self,)


@dataclass(frozen=True, slots=True)
class Vector:
    """The position in the channels of several logs: a cursor in each of them."""

    parts: tuple[Cursor, ...]

    def __str__(self) -> str:
        return ",".join(map(str, self.parts))

    @property
    def epoch(self) -> str:
        """The epochs of all parts."""
        return epoch_of(str(self))


@dataclass(frozen=True, slots=True)
class Start:
    """The start of a reader: after `since`, with the `last` publications, or with the `oldest`.

    `last` 0 means only new publications. Without any of them the default of the reader applies.
    """

    since: Cursor | Vector | None = None
    last: int | None = None
    oldest: bool = False


ZERO = Position("", 0)
"""The position of a reader that has processed nothing and knows nothing of the channel."""


def channel_epoch(run: str, generation: int) -> str:
    """The epoch of a channel: that of the run, with the channel's generation unless it is 0."""
    return f"{run}-{generation}" if generation else run


def split_epoch(epoch: str) -> tuple[str, int]:
    """The run and the generation of a channel's epoch; a run without a name for an invalid one."""
    run, hyphen, text = epoch.partition("-")
    if not hyphen:
        return run, 0
    valid = text.isascii() and text.isdigit() and len(text) <= 18
    return (run, int(text)) if valid else ("", 0)


def cursor_text(epoch: str, seq: int) -> str:
    """The text of a cursor, which is the id of a publication; `epoch` is that of its channel."""
    return f"{epoch.partition('-')[0]}:{seq}"


def epoch_of(cursor: str) -> str:
    """The epoch of a cursor in its text; of a vector, all of them."""
    return ",".join(part.partition(":")[0] for part in cursor.split(","))


def parse_cursor(text: str) -> Cursor | Vector:
    """Parse `epoch:seq`, or several of them with other epochs (`e0:17,e1:4`).

    Raises InvalidCursor.
    """
    matches = [_CURSOR.fullmatch(part) for part in text.split(",", MOST_LOGS)]
    parts = tuple(Cursor(match[1], int(match[2])) for match in matches if match is not None)
    epochs = {part.epoch for part in parts}
    if len(epochs) < len(matches) or len(matches) > MOST_LOGS:
        raise InvalidCursor(f"invalid cursor {_shown(text)}: {_problem(text)}")
    return parts[0] if len(parts) == 1 else Vector(parts)


def _problem(text: str) -> str:
    """What is wrong with the text of a cursor."""
    count = text.count(",") + 1
    if count > MOST_LOGS:
        return f"it has {count} parts, and at most {MOST_LOGS} are possible; expected {CURSOR_RULE}"
    seen: set[str] = set()
    for part in text.split(","):
        match = _CURSOR.fullmatch(part)
        if match is None:
            which = f"the part {_shown(part)} is none; " if count > 1 else ""
            return f"{which}expected {CURSOR_RULE}"
        if match[1] in seen:
            return f"the epoch {match[1]} is in it twice; expected {CURSOR_RULE}"
        seen.add(match[1])
    raise AssertionError("it is valid")


def _shown(text: str) -> str:
    """The text in an error; dots show that it is longer."""
    return repr(text) if len(text) <= SHOWN else f"{text[:SHOWN]!r}..."


def parse_since(text: str) -> Start:
    """Parse the value of `since=`; raises InvalidCursor."""
    if text == "now":
        return Start(last=0)
    if text == "oldest":
        return Start(oldest=True)
    return Start(since=parse_cursor(text))
