"""Opens the file of a store for reading, also while a server has it open."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from urllib.parse import quote

from pushserver.store import locks
from pushserver.store.files import StoreError
from pushserver.store.schema import FORMAT, WrongFormat, read_format
from pushserver.store.wal import belongs, log_path

_STORE = "the path of [store] in the configuration"
_OTHER_USER = ": run the command as the user of the server, or as root"


@contextlib.contextmanager
def snapshot(
    path: str, is_stopped: bool = False, expected: str = _STORE
) -> Iterator[sqlite3.Connection]:
    """One unchanging state of the store; raises StoreError if there is none.

    A server may write meanwhile: its log cannot start again before the end of the block, so that
    it grows. Without a server, one that starts waits for the end. `is_stopped`: in a block of
    `stopped`. `expected`: the file, for the error if there is none.
    """
    if _is_forbidden(path):
        raise StoreError(f"cannot read {path}: Permission denied{_OTHER_USER}")
    if not os.path.isfile(path):
        found = "a folder" if os.path.isdir(path) else "there is no store here"
        raise StoreError(f"{path}: {found}; expected {expected}")
    with contextlib.ExitStack() as held:
        try:
            try:
                if not is_stopped:
                    held.callback(locks.unlock, locks.lock(path, shared=True))
                    is_stopped = True
            except BlockingIOError:
                # A server runs.
                pass
            database = held.enter_context(contextlib.closing(_connect(path, is_stopped)))
            database.execute("BEGIN")
            format_ = read_format(database)
        except WrongFormat as error:
            raise StoreError(f"{path} {error}") from None
        except (sqlite3.Error, OSError) as error:
            hint = " (a server has it for itself: stop it first)" if "locked" in str(error) else ""
            raise StoreError(f"cannot read {path}: {error}{hint}") from None
        if not format_:
            raise StoreError(f"{path} is empty: expected the file of a store, or a copy of one")
        yield database


@contextlib.contextmanager
def stopped(path: str) -> Iterator[None]:
    """Keep servers from the file during the block; raises StoreError if one has it open.

    A file that is missing is not locked.
    """
    try:
        held = locks.lock(path)
    except BlockingIOError:
        raise StoreError(
            f"{path} is in use: stop the server first, or wait for the end of another command"
        ) from None
    try:
        if held is None and os.path.exists(path) and not _is_free(path):
            raise StoreError(f"{path} is in use: stop the server first")
        yield
    finally:
        locks.unlock(held)


def check_current(path: str, database: sqlite3.Connection) -> None:
    """Raise StoreError if the store has the format of an earlier version."""
    format_ = read_format(database)
    if format_ < FORMAT:
        raise StoreError(
            f"{path} has format {format_}, and this version writes {FORMAT}: its first start with"
            " this file makes a copy and upgrades it"
        )


def _connect(path: str, is_stopped: bool) -> sqlite3.Connection:
    if not belongs(path):
        raise StoreError(f"{log_path(path)} belongs to another file: move it away")
    real = os.path.realpath(path)
    # Without a log, SQLite would make an empty one, and leave it.
    closed = is_stopped and not any(os.path.exists(real + end) for end in ("-wal", "-journal"))
    uri = f"file:{quote(os.fsencode(real))}?mode=ro{'&immutable=1' if closed else ''}"
    return sqlite3.connect(uri, uri=True, timeout=locks.LOCK_SECONDS, isolation_level=None)


def _is_forbidden(path: str) -> bool:
    """Whether this user may not read the file, or not enter its folder."""
    # To open the file and close it would take SQLite's locks from this process.
    try:
        os.stat(path)
    except PermissionError:
        return True
    except (OSError, ValueError):
        return False
    return not os.access(path, os.R_OK, effective_ids=True)


def _is_free(path: str) -> bool:
    """Whether nobody has SQLite's lock; True for a file that SQLite cannot read."""
    try:
        with contextlib.closing(sqlite3.connect(path, isolation_level=None, timeout=0)) as database:
            database.execute("BEGIN EXCLUSIVE")
    except sqlite3.DatabaseError as error:
        return "locked" not in str(error)
    return True
