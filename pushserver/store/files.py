"""Whole files beside a store: written under another name first, and synced."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import sqlite3
from collections.abc import Callable, Iterator

from pushserver.errors import PushServerError

STEP_PAGES = 1_024
"""The pages between two looks at Ctrl-C: 4 MB."""

Progress = Callable[[int, int], None]
"""Called with the pages that are copied, and the number of all."""


class StoreError(PushServerError):
    """The file cannot be used or written; the text says why."""


def quiet(done: int, pages: int) -> None:
    """No-op: the progress is not shown."""


@contextlib.contextmanager
def new_file(path: str, mode: int = 0o600) -> Iterator[str]:
    """The name of a new file, empty and private; at the end of the block it gets its path.

    An exception in the block removes the file, so that the path never has a part of a file.
    Raises StoreError if the folder cannot be written.
    """
    folder, name = os.path.split(os.path.realpath(path))
    unfinished = os.path.join(folder, f".{name}.{secrets.token_hex(4)}.unfinished")
    try:
        os.close(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        try:
            yield unfinished
            os.chmod(unfinished, mode)
            sync(unfinished)
            os.replace(unfinished, os.path.join(folder, name))
        finally:
            for end in ("", "-journal"):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(unfinished + end)
        sync(folder)
    except (sqlite3.Error, OSError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        hint = "" if os.path.isdir(folder) else f"; there is no folder {folder}"
        raise StoreError(f"cannot write {path}: {why}{hint}") from None


@contextlib.contextmanager
def unstoppable() -> Iterator[None]:
    """Ignore the signals that could end the process inside the block; in the main thread only."""
    names = ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT")
    before = {
        number: signal.signal(number, signal.SIG_IGN)
        for name in names
        if (number := getattr(signal, name, None)) is not None
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


def check_target(path: str, store: str, force: bool) -> None:
    """Raise StoreError unless this file may be written: not the store, nor one that exists."""
    if os.path.isdir(path):
        raise StoreError(f"{path} is a folder: expected the path of a file")
    real = os.path.realpath(store)
    if any(_same(path, real + end) for end in ("", "-wal", "-shm", "-journal")):
        raise StoreError(f"{path} is a file of the store itself: expected another one")
    if os.path.exists(path) and not os.path.isfile(path):
        raise StoreError(f"{path} is not a regular file")
    if os.path.exists(path) and not force:
        raise StoreError(f"{path} exists: name another file, or replace it with --force")


def sync(path: str) -> None:
    """Write a file or the entries of a folder to the disk; raises OSError."""
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def _same(path: str, other: str) -> bool:
    try:
        return os.path.samefile(path, other)
    except OSError:
        return os.path.realpath(path) == other


def write_copy(source: sqlite3.Connection, path: str, progress: Progress) -> None:
    """Copy a snapshot into an empty file, checked, and marked as a copy.

    The next run of a server on it has another epoch: the original may have published more since,
    and the same positions must not name two publications. Raises StoreError.
    """
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as database:
        # The caller syncs it.
        database.execute("PRAGMA synchronous=OFF")
        try:
            source.backup(
                database,
                pages=STEP_PAGES,
                progress=lambda _, left, pages: progress(pages - left, pages),
            )
        except sqlite3.DatabaseError as error:
            if "malformed" in str(error):
                raise StoreError("the store is damaged: copy an earlier copy") from None
            raise
        # One file without a log.
        database.execute("PRAGMA journal_mode=DELETE")
        problem = database.execute("PRAGMA quick_check(1)").fetchone()[0]
        if problem != "ok":
            raise StoreError(f"the store is damaged ({problem.splitlines()[-1]})")
        mark_copy(database, was_closed(database))


def was_closed(database: sqlite3.Connection) -> bool:
    """Whether a store was closed in order, or is a copy that was made of one."""
    marks = dict(database.execute("SELECT name, value FROM meta"))
    return not marks.get("running") and bool(marks.get("inode") or marks.get("closed"))


def mark_copy(database: sqlite3.Connection, closed: bool, inode: int | None = None) -> None:
    """Mark a copy, of a store that was `closed`; with its `inode` it keeps the epoch.

    No log matches its record: one that was left beside the copy is not replayed (see `wal`).
    """
    marks = {
        "closed": int(closed),
        "inode": inode or "",
        "running": "",
        "wal": f"{secrets.randbits(32)}:0",
    }
    database.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", marks.items())
