"""The tables of the store, and the migration of a file from an older format."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from typing import Any

_FIRST = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE channels (
    name TEXT PRIMARY KEY, top INTEGER, floor INTEGER, floor_seq INTEGER
) WITHOUT ROWID;
CREATE TABLE publications (
    channel TEXT, offset INTEGER, seq INTEGER, time REAL, event TEXT,
    data BLOB, tags BLOB, info BLOB,
    PRIMARY KEY (channel, offset)
) WITHOUT ROWID;
CREATE TABLE keys (
    channel TEXT, key TEXT, epoch TEXT, seq INTEGER, offset INTEGER, time REAL,
    PRIMARY KEY (channel, key)
) WITHOUT ROWID;
"""
_SOURCES = """
CREATE TABLE memory (source TEXT PRIMARY KEY, value BLOB) WITHOUT ROWID;
"""
_GENERATIONS = """
ALTER TABLE channels ADD COLUMN generation INTEGER NOT NULL DEFAULT 0;
CREATE TABLE forgotten (bucket INTEGER PRIMARY KEY, seq INTEGER) WITHOUT ROWID;
DELETE FROM meta WHERE name = 'forgotten_top';
"""
# A row without a rowid leaves its page beyond 1,002 bytes, for one or more pages of its own.
_ROWIDS = """
ALTER TABLE publications RENAME TO former;
CREATE TABLE publications (
    channel TEXT, offset INTEGER, seq INTEGER, time REAL, event TEXT,
    data BLOB, tags BLOB, info BLOB,
    PRIMARY KEY (channel, offset)
);
INSERT INTO publications SELECT channel, offset, seq, time, event, data, tags, info FROM former;
DROP TABLE former;
"""
_STEPS = (_FIRST, _SOURCES, _GENERATIONS, _ROWIDS)
"""The statements that change each format into the next; append only."""

FORMAT = len(_STEPS)


class WrongFormat(Exception):
    """This version cannot use the database; the text says why."""


def read_format(database: sqlite3.Connection) -> int:
    """Return the format of a database, 0 if it is empty; raises WrongFormat."""
    tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master")}
    if not tables:
        return 0
    if "meta" not in tables:
        raise WrongFormat("is a database of another program")
    format_ = meta(database, "format")
    if not isinstance(format_, int) or not 1 <= format_ <= FORMAT:
        raise WrongFormat(f"has format {format_}; this version of pushserver reads {FORMAT}")
    return format_


def migrate(database: sqlite3.Connection, format_: int) -> None:
    """Migrate a database from `format_` to FORMAT; call it in a transaction."""
    for step in _STEPS[format_:]:
        for statement in step.split(";"):
            database.execute(statement)
    set_meta(database, [("format", FORMAT)])


def meta(database: sqlite3.Connection, name: str) -> Any:
    """The value of this name in the store; None if there is none."""
    row = database.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
    return None if row is None else row[0]


def set_meta(database: sqlite3.Connection, values: Iterable[tuple[str, object]]) -> None:
    """Set these values by their names."""
    database.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", values)
