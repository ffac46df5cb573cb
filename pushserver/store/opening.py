"""Opens the SQLite file of the store: the lock, the log and the tables."""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

from pushserver.errors import PushServerError
from pushserver.store.schema import FORMAT, WrongFormat, migrate, read_format
from pushserver.store.wal import belongs, log_path

REMEDY = (
    ": restore a copy (docs/delivery.md), or move it away with its -wal file to start with an"
    " empty history"
)

LOCK_SECONDS = 2.0
"""The longest wait for another server or program that has the file open."""
_PAUSE_SECONDS = 0.05


class StoreError(PushServerError):
    """The file cannot be used or written; the text says why."""


@dataclass(frozen=True, slots=True)
class Opened:
    """An open database, locked for other processes, which syncs each commit.

    `log_is_missing`: the last run has left no log, because it was removed or the run ended in
    order.
    """

    database: sqlite3.Connection
    inode: int
    log_is_missing: bool
    lock: int | None
    """A second lock, to be closed after the database."""


def open_database(path: str, mode: int) -> Opened:
    """Open or create the file, with this mode, and migrate an older format; raises StoreError."""
    log_is_missing = _check_log(path)
    # SQLite makes its files readable by everybody, and the log with the mode of the database.
    # SQLite meets any other error too, and raises it below.
    with contextlib.suppress(OSError, ValueError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, mode))
    try:
        database = sqlite3.connect(
            path, timeout=LOCK_SECONDS, isolation_level=None, check_same_thread=False
        )
    except (sqlite3.Error, ValueError) as error:
        folder = os.path.dirname(os.path.abspath(path))
        hint = "" if isinstance(error, ValueError) else _hint(path, error)
        why = f"{error}{hint}" if os.path.isdir(folder) else f"there is no folder {folder}"
        raise StoreError(f"cannot open {path}: {why}") from None
    lock: int | None = None
    try:
        inode = os.stat(path).st_ino
        # Before SQLite reads: its close would write the log of the other server to the database.
        lock = _lock(path)
        was_in_start = _prepare(database, path, mode)
        return Opened(database, inode, log_is_missing and not was_in_start, lock)
    except (sqlite3.Error, OSError) as error:
        database.close()
        unlock(lock)
        # As text, since a damaged database has several codes.
        remedy = REMEDY if "malformed" in str(error) else _hint(path, error)
        raise StoreError(f"cannot use {path}: {error}{remedy}") from None
    except WrongFormat as error:
        database.close()
        unlock(lock)
        raise StoreError(f"{path} {error}") from None
    except StoreError:
        database.close()
        unlock(lock)
        raise


@contextlib.contextmanager
def transaction(database: sqlite3.Connection, kind: str = "") -> Iterator[None]:
    """Commit the changes of the block, or none of them if it raises."""
    database.execute(f"BEGIN {kind}")
    try:
        yield
        database.execute("COMMIT")
    except BaseException:
        # SQLite has rolled back itself if the disk is full.
        if database.in_transaction:
            database.execute("ROLLBACK")
        raise


def _check_log(path: str) -> bool:
    """Return whether an existing database has no log; raises StoreError for another's log."""
    try:
        exists = os.path.isfile(path)
        is_missing = exists and not os.path.exists(log_path(path))
        is_own = not exists or belongs(path)
    except OSError as error:
        raise StoreError(f"cannot use {path}: {error}{_hint(path, error)}") from None
    if not is_own:
        raise StoreError(
            f"{path} was replaced, and {log_path(path)} belongs to the replaced file: to start"
            " with the new one, move the -wal file away; to undo, put the replaced file back"
        )
    return is_missing


def _prepare(database: sqlite3.Connection, path: str, mode: int) -> bool:
    """Lock and check the database; return whether the last run ended in its start.

    A start has no log for a moment.
    """
    database.execute("PRAGMA locking_mode=EXCLUSIVE")
    # Takes the lock, which is kept. A database of another program stays unchanged.
    with transaction(database, "EXCLUSIVE"):
        format_ = read_format(database)
    for file in (path, log_path(path)):
        # A file of another owner that this process may write keeps its mode.
        with contextlib.suppress(PermissionError, FileNotFoundError):
            os.chmod(file, mode)
    was_in_start: bool = database.execute("PRAGMA journal_mode").fetchone()[0] != "wal"
    database.execute("PRAGMA journal_mode=WAL")
    database.execute("PRAGMA synchronous=FULL")
    problem = database.execute("PRAGMA quick_check(1)").fetchone()[0]
    if problem != "ok":
        # SQLite has a line for the database before the problem.
        line = problem.splitlines()[-1]
        raise StoreError(f"{path} is damaged ({line}){REMEDY}")
    if format_ < FORMAT:
        with transaction(database):
            migrate(database, format_)
    return was_in_start


def _lock(path: str) -> int | None:
    """Lock the file once more; None where that is not possible.

    SQLite's locks belong to the process, and end when it closes any descriptor of the file: for
    example, when the application has copied it. This one ends with its own descriptor. Other
    systems than Linux take both locks for one kind, and would refuse SQLite's.
    """
    if sys.platform != "linux":
        return None
    lock = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    waited = 0.0
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if waited >= LOCK_SECONDS:
                os.close(lock)
                raise sqlite3.OperationalError("database is locked") from None
            time.sleep(_PAUSE_SECONDS)
            waited += _PAUSE_SECONDS
        except OSError:
            # A file system without such locks.
            os.close(lock)
            return None
        else:
            return lock


def unlock(lock: int | None) -> None:
    """End the lock; SQLite's locks of the file end too."""
    if lock is not None:
        # A fork of this process has the descriptor too.
        with contextlib.suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_UN)
        os.close(lock)


def _hint(path: str, error: Exception) -> str:
    """A likely reason, as SQLite's error names none; empty if there is no guess."""
    if "locked" in str(error):
        return " (another server has it open)"
    if os.path.isdir(path):
        return " (a folder; expected a file)"
    if "not a database" in str(error):
        return ": set another path in [store], or move the file away to start with an empty history"
    folder = os.path.dirname(os.path.abspath(path))
    if all(os.access(name, os.W_OK, effective_ids=True) for name in (path, folder)):
        return ""
    return " (permission: the file and its folder must be writable)"
