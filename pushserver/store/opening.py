"""Opens the SQLite file of the store: the lock, the log and the tables."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from io import FileIO

from pushserver.store import locks
from pushserver.store.copying import quiet, write_copy
from pushserver.store.files import StoreError as StoreError
from pushserver.store.files import new_file
from pushserver.store.locks import lock_patiently, unlock
from pushserver.store.schema import FORMAT, WrongFormat, migrate, read_format
from pushserver.store.wal import belongs, log_path

REMEDY = (
    ": restore a copy (docs/store.md), or move it away with its -wal file to start with an"
    " empty history"
)

BEFORE_UPGRADE = ".before-upgrade"
"""The end of the name of a copy, with the format that it has."""
_LOG_BYTES = 16 << 20
"""The log is cut to this size when it begins again; a backup or a large commit lets it grow."""
_LITTLE = 1 << 20
"""With less room on its disk SQLite may have none for the file that processes share (-shm)."""
_LOCKED = " (another server or command has it open)"


@dataclass(frozen=True, slots=True)
class Opened:
    """An open database, locked for other processes, which syncs each commit.

    `log_is_missing`: the last run has left no log, because it was removed or the run ended in
    order.
    """

    database: sqlite3.Connection
    inode: int
    log_is_missing: bool
    lock: FileIO | None
    """To be ended after the database is closed; None where SQLite's locks are the only ones."""
    copy: str
    """The file before its format was upgraded; empty if it was not."""


def open_database(path: str, mode: int) -> Opened:
    """Open or create the file, with this mode, and migrate an older format; raises StoreError."""
    # SQLite makes its files readable by everybody, and the log with the mode of the database.
    # SQLite meets any other error too, and raises it below.
    with contextlib.suppress(OSError, ValueError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, mode))
    with contextlib.ExitStack() as undo:
        try:
            # Before SQLite reads: its close would write the log of the other server to the
            # database. Also before a look at the log, which a restoration moves.
            held = lock_patiently(path)
            undo.callback(unlock, held)
            log_is_missing = _check_log(path)
            database = _connect(path)
            undo.callback(database.close)
            inode = os.stat(path).st_ino
            was_in_start = _prepare(database, path, mode, held is None)
            copy = _upgrade(database, path, mode)
            undo.pop_all()
            return Opened(database, inode, log_is_missing and not was_in_start, held, copy)
        except BlockingIOError:
            raise StoreError(f"cannot use {path}: database is locked{_LOCKED}") from None
        except (sqlite3.Error, OSError) as error:
            # As text, since a damaged database has several codes.
            remedy = REMEDY if "malformed" in str(error) else _hint(path, error)
            raise StoreError(f"cannot use {path}: {error}{remedy}") from None
        except WrongFormat as error:
            raise StoreError(f"{path} {error}") from None


def _connect(path: str) -> sqlite3.Connection:
    try:
        return sqlite3.connect(
            path, timeout=locks.LOCK_SECONDS, isolation_level=None, check_same_thread=False
        )
    except (sqlite3.Error, ValueError) as error:
        folder = os.path.dirname(os.path.abspath(path))
        hint = "" if isinstance(error, ValueError) else _hint(path, error)
        why = f"{error}{hint}" if os.path.isdir(folder) else f"there is no folder {folder}"
        raise StoreError(f"cannot open {path}: {why}") from None


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


def _prepare(database: sqlite3.Connection, path: str, mode: int, exclusive: bool) -> bool:
    """Check the database; return whether the last run ended in its start.

    A start has no log for a moment. Unless SQLite's lock is the only one (`exclusive`), other
    programs may read the database while the server runs.
    """
    if exclusive:
        database.execute("PRAGMA locking_mode=EXCLUSIVE")
    # A database of another program stays unchanged.
    with transaction(database, "EXCLUSIVE"):
        read_format(database)
    for file in (path, log_path(path)):
        # A file of another owner that this process may write keeps its mode.
        with contextlib.suppress(PermissionError, FileNotFoundError):
            os.chmod(file, mode)
    was_in_start: bool = database.execute("PRAGMA journal_mode").fetchone()[0] != "wal"
    database.execute("PRAGMA journal_mode=WAL")
    database.execute("PRAGMA synchronous=FULL")
    database.execute(f"PRAGMA journal_size_limit={_LOG_BYTES}")
    problem = database.execute("PRAGMA quick_check(1)").fetchone()[0]
    if problem != "ok":
        # SQLite has a line for the database before the problem.
        line = problem.splitlines()[-1]
        raise StoreError(f"{path} is damaged ({line}){REMEDY}")
    return was_in_start


def _upgrade(database: sqlite3.Connection, path: str, mode: int) -> str:
    """Migrate an older format; return the path of the copy that an earlier version reads, or ""."""
    format_ = read_format(database)
    if format_ == FORMAT:
        return ""
    copy = f"{path}{BEFORE_UPGRADE}-{format_}" if format_ else ""
    if copy:
        with new_file(copy, mode) as new:
            write_copy(database, new, quiet)
        # A log of the upgrade would have no record: after a kill it would count as another's.
        database.execute("PRAGMA journal_mode=DELETE")
    with transaction(database):
        migrate(database, format_)
    if copy:
        # The space of the former tables; without room for the new file it is reused later.
        with contextlib.suppress(sqlite3.OperationalError):
            database.execute("VACUUM")
        database.execute("PRAGMA journal_mode=WAL")
    return copy


def _free_bytes(folder: str) -> int:
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize


def _hint(path: str, error: Exception) -> str:
    """A likely reason, as SQLite's error names none; empty if there is no guess."""
    if "locked" in str(error):
        return _LOCKED
    if os.path.isdir(path):
        return " (a folder; expected a file)"
    if "not a database" in str(error):
        return ": set another path in [store], or move the file away to start with an empty history"
    folder = os.path.dirname(os.path.abspath(path))
    if "I/O error" in str(error) or "full" in str(error):
        free = _free_bytes(folder)
        if free < _LITTLE:
            return f" (the disk has {free:,} bytes free)"
    if all(os.access(name, os.W_OK, effective_ids=True) for name in (path, folder)):
        return ""
    return " (permission: the file and its folder must be writable)"
