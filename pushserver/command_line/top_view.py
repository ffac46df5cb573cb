"""The view of `pushserver top`: the lines of a report, for a terminal of any size."""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Callable, Sequence
from typing import Any

from pushserver.command_line.top_report import Report
from pushserver.errors import escaped

SORTS = ("subscribers", "publications")
"""The orders of the channels."""

_UNBOUNDED = sys.maxsize
_LEAST_LINES = 3
"""Those of a table: an empty one, its heading and a row."""

Cell = Callable[[Report], str]


def view(
    report: Report,
    title: str,
    width: int = _UNBOUNDED,
    height: int = _UNBOUNDED,
    sort: str = "subscribers",
) -> list[str]:
    """The lines of a report: `height` at most, each of at most `width` columns.

    `title` is the first line. The lines have no control characters, whatever the report contains.
    """
    lines = [cut(title, width), *(cut(line, width) for line in _summary(report, width))]
    tables = [
        table
        for table in (
            _table(report["channels"], _CHANNELS, _by(sort)),
            _table(report["readers"], _READERS, lambda row: -row["bytes"]),
            _table(report["sources"], _SOURCES, _by_error),
        )
        if len(table) > 1
    ]
    wanted = [len(table) + 1 for table in tables]
    for table, count in zip(tables, _shares(wanted, height - len(lines)), strict=True):
        if count:
            lines += ["", *(cut(line, width) for line in _shortened(table, count - 1))]
    return lines[: max(height, 0)]


# --- the parts ---------------------------------------


def _summary(report: Report, width: int) -> list[str]:
    """The lines above the tables; as many as the items need."""
    rates, unsent, totals = report["rates"], report["unsent"], report["totals"]
    kinds = [
        f"{row['count']:,} {row['transport']}"
        + ("" if row["protocol"] == "plain" else f" {row['protocol']}")
        for row in sorted(report["connections"], key=lambda row: -row["count"])
    ]
    rows = [
        [
            f"{report['clients']:,} clients",
            f"{report['users']:,} users",
            f"{report['subscriptions']:,} subscriptions",
            f"{report['watched_channels']:,} watched channels",
        ],
        kinds,
        [
            f"{number(rates['publications'])} publications/s",
            f"{number(rates['deliveries'])} deliveries/s",
            f"{size(rates['delivered_bytes'])}/s",
        ],
        [
            f"{size(unsent['bytes'])} unread by {unsent['clients']:,} clients",
            f"{totals['slow']:,} dropped",
            f"{totals['refusals'] + totals['denied']:,} refused",
        ],
    ]
    return [line for row in rows for line in _joined(row, width)]


def _joined(items: Sequence[str], width: int) -> list[str]:
    """The items in lines of at most `width` columns, unless one item is longer."""
    lines: list[str] = []
    for item in map(escaped, items):
        if lines and columns(lines[-1]) + 2 + columns(item) <= width:
            lines[-1] += f"  {item}"
        else:
            lines.append(item)
    return lines


_CHANNELS: Sequence[tuple[str, Cell]] = (
    ("SUBSCRIBERS", lambda row: f"{row['subscribers']:,}"),
    ("PUBL/S", lambda row: number(row["publications"])),
    ("DELIV/S", lambda row: number(row["deliveries"])),
    ("CHANNEL", lambda row: row["channel"]),
)
_READERS: Sequence[tuple[str, Cell]] = (
    ("UNREAD", lambda row: size(row["bytes"])),
    ("STUCK", lambda row: "-" if row["seconds"] is None else f"{row['seconds']:,.0f} s"),
    ("TRANSPORT", lambda row: row["transport"]),
    ("SLOW READER", lambda row: "  ".join(filter(None, (row["address"], row["user"])))),
)
_SOURCES: Sequence[tuple[str, Cell]] = (
    ("PUBL/S", lambda row: number(row["rate"])),
    ("ERRORS", lambda row: f"{row['errors']:,}"),
    ("STATE", lambda row: row["state"]),
    ("SOURCE", lambda row: "  ".join(filter(None, (row["name"], row["last_error"])))),
)
"""The headings of the columns and their texts. Names come last: terminals do not agree on the
width of each character."""


def _by(sort: str) -> Callable[[Report], Any]:
    first, second = SORTS if sort == SORTS[0] else SORTS[::-1]
    return lambda row: (-(row[first] or 0), -(row[second] or 0), row["channel"])


def _by_error(row: Report) -> Any:
    return not row["last_error"], row["name"]


def _table(
    rows: Sequence[Report], cells: Sequence[tuple[str, Cell]], order: Callable[[Report], Any]
) -> list[str]:
    """The heading and the rows; all columns but the last are as wide as their widest text."""
    texts = [[escaped(cell(row)) for _, cell in cells] for row in sorted(rows, key=order)]
    texts.insert(0, [heading for heading, _ in cells])
    widths = [max(columns(row[number]) for row in texts) for number in range(len(cells) - 1)]
    return [
        "  ".join(
            [_padded(text, width) for text, width in zip(row, widths, strict=False)] + row[-1:]
        )
        for row in texts
    ]


def _shares(wanted: Sequence[int], room: int) -> list[int]:
    """The lines of each table: an equal share of the room, unless it wants less; 0 for none."""
    given = []
    for _ in wanted:
        given.append(_LEAST_LINES if room >= _LEAST_LINES else 0)
        room -= given[-1]
    growing = [number for number, lines in enumerate(given) if lines]
    while growing and room > 0:
        growing = [number for number in growing if given[number] < wanted[number]]
        for number in growing[:room]:
            given[number] += 1
        room -= len(growing)
    return given


def _shortened(table: list[str], count: int) -> list[str]:
    """The table in `count` lines; the last one says how many rows are left out."""
    if len(table) <= count:
        return table
    kept = table[: max(count - 1, 2)]
    more = [f"... {len(table) - len(kept):,} more"]
    return (kept + more)[:count]


# --- texts ---------------------------------------


def number(value: float | None) -> str:
    """A rate; a dash for an unknown one."""
    if value is None:
        return "-"
    return f"{value:.1f}" if value < 100 else f"{value:,.0f}"


def size(value: float | None) -> str:
    """A number of bytes, in decimal units."""
    if value is None:
        return "-"
    for unit in ("B", "kB", "MB"):
        if value < 1_000:
            return f"{value:.0f} {unit}" if unit == "B" or value >= 100 else f"{value:.1f} {unit}"
        value /= 1_000
    return f"{value:,.1f} GB"


def duration(seconds: float) -> str:
    """A time in its two largest units."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    units = ((days, "d"), (hours, "h"), (minutes, "min"), (rest, "s"))
    first = next((place for place, (count, _) in enumerate(units) if count), len(units) - 1)
    return " ".join(f"{count:,} {unit}" for count, unit in units[first : first + 2])


def columns(text: str) -> int:
    """The columns of a text on a terminal, roughly."""
    return len(text) if text.isascii() else sum(map(_columns, text))


def _columns(character: str) -> int:
    if unicodedata.combining(character) or unicodedata.category(character) in ("Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def cut(text: str, width: int) -> str:
    """The text without control characters, in at most `width` columns."""
    text = escaped(text)
    if columns(text) <= width:
        return text
    used, kept = 0, []
    for character in text:
        used += _columns(character)
        if used > width:
            break
        kept.append(character)
    return "".join(kept)


def _padded(text: str, width: int) -> str:
    return " " * (width - columns(text)) + text
