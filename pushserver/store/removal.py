"""Deletes publications from the SQLite file in bounded steps, so that its log stays small.

A publication up to the floor of its channel is not read. So the floor is committed first, and the
rows may be deleted later.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Sequence

from pushserver.store.opening import transaction

STEP_BYTES = 8_388_608
"""About the most that one commit adds to the log. SQLite's checkpoint after it lets the log begin
again."""
_ROW_BYTES = 4_096
"""A row changes its page, besides the pages of its content, which SQLite may overwrite."""
_SIZES = """
SELECT offset, length(data) + coalesce(length(tags), 0) + coalesce(length(info), 0)
FROM publications WHERE channel = ? AND offset <= ? ORDER BY offset
"""

Dead = tuple[str, int]
"""The rows of a channel up to this offset."""


def delete(database: sqlite3.Connection, dead: Sequence[Dead]) -> Sequence[Dead]:
    """Delete one step of these rows; return those that may be left."""
    left = STEP_BYTES
    for at, rows in enumerate(dead):
        end, left = _end_of_step(database, rows, left)
        if end:
            database.execute(
                "DELETE FROM publications WHERE channel = ? AND offset <= ?", (rows[0], end)
            )
        if left <= 0:
            return dead[at:]
    return ()


def delete_all(
    database: sqlite3.Connection, dead: Sequence[Dead], after_commit: Callable[[], None]
) -> None:
    """Delete these rows in as many commits as they need; the log may begin again after each."""
    while dead:
        with transaction(database):
            dead = delete(database, dead)
        after_commit()


def empty(
    database: sqlite3.Connection, names: Iterable[str], after_commit: Callable[[], None]
) -> None:
    """Delete the rows of channels that are forgotten next, if they are too many for that commit.

    The channels stay without rows: after a kill they are as if they were cleared.
    """
    dead: list[Dead] = []
    for name in names:
        dead += database.execute("SELECT name, top FROM channels WHERE name = ?", (name,))
    left = STEP_BYTES
    for rows in dead:
        _, left = _end_of_step(database, rows, left)
        if left <= 0:
            break
    else:
        return
    with transaction(database):
        database.executemany(
            "UPDATE channels SET floor = top, floor_seq = coalesce((SELECT seq FROM publications"
            " WHERE channel = name AND offset = top), floor_seq) WHERE name = ?",
            ((name,) for name, _ in dead),
        )
    after_commit()
    delete_all(database, dead, after_commit)


def _end_of_step(database: sqlite3.Connection, rows: Dead, left: int) -> tuple[int, int]:
    """The offset up to which rows fit into the bytes that are left, and the bytes after them.

    One more row follows if a part of it fits. 0 for no row.
    """
    end = 0
    for offset, size in database.execute(_SIZES, rows):
        end = offset
        left -= size + _ROW_BYTES
        if left <= 0:
            break
    return end, left
