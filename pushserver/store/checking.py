"""Checks a store: SQLite's own structures, and the numbers of its channels against its rows."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import msgspec

from pushserver.store.reading import check_current, snapshot
from pushserver.store.rows import (
    KEY_COLUMNS,
    MEMORY_COLUMNS,
    PUBLICATION_COLUMNS,
    key_of,
    memory_of,
    publication_of,
)
from pushserver.store.schema import meta

MOST_PROBLEMS = 20
"""A damaged page can cause thousands."""


@dataclass(frozen=True, slots=True)
class Checked:
    """The contents of a store, and the problems that were found, at most MOST_PROBLEMS."""

    channels: int
    publications: int
    bytes: int
    free_bytes: int
    problems: list[str]


def check(path: str) -> Checked:
    """Check the store, also while a server writes; raises StoreError if it cannot be read."""
    with snapshot(path) as database:
        check_current(path, database)
        found = list(islice(problems(database), MOST_PROBLEMS))
        channels = publications = 0
        if not found:
            channels = _one(database, "SELECT count(*) FROM channels")
            publications = _one(database, "SELECT count(*) FROM publications")
        size, pages, free = (
            _one(database, f"PRAGMA {name}")
            for name in ("page_size", "page_count", "freelist_count")
        )
        return Checked(channels, publications, size * pages, size * free, found)


def problems(database: sqlite3.Connection) -> Iterator[str]:
    """All that is wrong with a store, which must have the present format."""
    try:
        for (line,) in database.execute(f"PRAGMA integrity_check({MOST_PROBLEMS})"):
            if line != "ok":
                yield from line.splitlines()
        yield from _channel_problems(database)
        yield from _row_problems(database)
    except sqlite3.DatabaseError as error:
        yield str(error)


_COUNTS = """
SELECT name, top, floor, floor_seq, count(offset), min(offset), max(offset), min(seq), max(seq)
FROM channels LEFT JOIN publications ON channel = name AND offset > floor GROUP BY name
"""
_WITHOUT_CHANNEL = """
SELECT channel, count(*) FROM publications
WHERE channel NOT IN (SELECT name FROM channels) GROUP BY channel
"""


def _channel_problems(database: sqlite3.Connection) -> Iterator[str]:
    last = meta(database, "seq") or 0
    if not isinstance(last, int):
        yield f"the last seq is {last!r:.40}; expected a whole number"
        return
    for name, *numbers, rows, first, newest, least, most in database.execute(_COUNTS):
        if not all(isinstance(number, int) for number in (*numbers, least or 0, most or 0)):
            shown = ", ".join(f"{number!r:.40}" for number in (*numbers, least, most))
            yield (
                f"channel {name}: top, floor, floor_seq, first and last seq are {shown}; expected"
                " whole numbers"
            )
            continue
        top, floor, floor_seq = numbers
        if (rows, first, newest) != (
            (top - floor, floor + 1, top) if top > floor else (0, None, None)
        ):
            yield (
                f"channel {name}: {rows} publications with offsets {first} to {newest}; expected"
                f" {top - floor} with offsets {floor + 1} to {top}"
            )
        if rows and not floor_seq < least <= most <= last:
            yield f"channel {name}: seqs {least} to {most}; expected {floor_seq + 1} to {last}"
    for name, rows in database.execute(_WITHOUT_CHANNEL):
        yield f"channel {name}: {rows} publications, and no row of the channel"


def _row_problems(database: sqlite3.Connection) -> Iterator[str]:
    channel, before = None, 0
    for name, *row in database.execute(
        f"SELECT channel, {PUBLICATION_COLUMNS} FROM publications ORDER BY channel, offset"
    ):
        try:
            seq = publication_of(name, "", row).seq
            msgspec.json.decode(row[4])
        except (ValueError, TypeError) as error:
            yield f"channel {name}: offset {row[1]}: {error}"
            continue
        if name == channel and seq <= before:
            yield f"channel {name}: offset {row[1]}: seq {seq} after {before}"
        channel, before = name, seq
    for convert, select in (
        (key_of, f"SELECT {KEY_COLUMNS} FROM keys"),
        (memory_of, f"SELECT {MEMORY_COLUMNS} FROM memory"),
    ):
        for entry in database.execute(select):
            try:
                convert(entry)
            except ValueError as error:
                yield f"{entry[0]}: {error}"


def _one(database: sqlite3.Connection, statement: str) -> int:
    row = database.execute(statement).fetchone()
    return row[0] if row else 0
