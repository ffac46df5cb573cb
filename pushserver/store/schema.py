"""The tables of the store, and how a file of an older format becomes one of this one."""

from __future__ import annotations

import sqlite3

_BEGIN = """
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
_STEPS = (_BEGIN, _SOURCES)
"""What each format adds to the one before; never changed, only added to."""

FORMAT = len(_STEPS)


class WrongFormat(Exception):
    """The database is none that this version can use; the text says what it is."""


def read_format(database: sqlite3.Connection) -> int:
    """The format that a database has, 0 for an empty one; raises WrongFormat."""
    tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master")}
    if not tables:
        return 0
    if "meta" not in tables:
        raise WrongFormat("is a database of something else")
    row = database.execute("SELECT value FROM meta WHERE name = 'format'").fetchone()
    found = None if row is None else row[0]
    if not isinstance(found, int) or not 1 <= found <= FORMAT:
        raise WrongFormat(f"has format {found}; this version of pushserver reads {FORMAT}")
    return found


def migrate(database: sqlite3.Connection, found: int) -> None:
    """Make one of FORMAT of a database of format `found`; to be done in one transaction."""
    for step in _STEPS[found:]:
        for statement in step.split(";"):
            database.execute(statement)
    database.execute("INSERT OR REPLACE INTO meta VALUES ('format', ?)", (FORMAT,))
