"""Copies of a store: made while the server runs, and put in its place while it is stopped."""

from __future__ import annotations

import contextlib
import os
import secrets
import sqlite3
import stat
from collections.abc import Callable

from pushserver.store.files import COPY, StoreError, check_target, new_file, sync, unstoppable
from pushserver.store.locks import lock, unlock
from pushserver.store.reading import snapshot, stopped
from pushserver.store.schema import meta, set_meta

STEP_PAGES = 1_024
"""The pages between two looks at Ctrl-C: 4 MB."""

Progress = Callable[[int, int], None]
"""Called with the pages that are copied, and the number of all."""

REPLACED = ".before-restore"
_BACKUP = "a copy made by `pushserver store backup`"


def quiet(done: int, pages: int) -> None:
    """No-op: the progress is not shown."""


def backup(store: str, target: str, force: bool = False, progress: Progress = quiet) -> int:
    """Copy the store as it is now, also while a server writes; return the bytes of the copy.

    Raises StoreError, and then there is no copy. `force` replaces an earlier copy.
    """
    check_target(target, store, force, COPY)
    with snapshot(store) as source, new_file(target) as copy:
        write_copy(source, copy, progress)
        return os.stat(copy).st_size


def restore(copy: str, store: str, keep_epoch: bool = False) -> str:
    """Put a copy in the place of the store; return the new path of the store before, or "".

    The copy stays. The next run has another epoch, unless `keep_epoch` is set.
    Raises StoreError, and the store is unchanged: if a server has it open, if the copy is damaged,
    or not a store that this version reads, or if numbers of its epoch may have been used again.
    """
    if _is_same(copy, store):
        raise StoreError(f"{copy} is the store itself: expected a copy")
    if os.path.exists(store) and not os.path.isfile(store):
        raise StoreError(f"{store} is not a regular file: expected the path of a store")
    with stopped(store), snapshot(copy, expected=_BACKUP) as source:
        closed = was_closed(source)
        if keep_epoch:
            check_epoch_kept(copy, closed, meta(source, "epoch"), meta(source, "seq"), store)

        def write(new: str) -> None:
            write_copy(source, new, quiet)
            if keep_epoch:
                with contextlib.closing(sqlite3.connect(new, isolation_level=None)) as database:
                    mark_copy(database, closed, os.stat(new).st_ino)

        return replace(store, write)


def check_epoch_kept(name: str, closed: bool, epoch: str, seq: int, store: str) -> None:
    """Raise StoreError if more may have been published under this epoch than the copy has."""
    if not closed:
        raise StoreError(
            f"{name} was made while a server ran, which may have published more: its epoch cannot"
            " be kept"
        )
    if not os.path.exists(store):
        return
    with snapshot(store, is_stopped=True) as database:
        if meta(database, "epoch") == epoch and not (
            was_closed(database) and meta(database, "seq") == seq
        ):
            raise StoreError(
                f"{store} has published more than {name} has: its epoch cannot be kept"
            )


def replace(store: str, write: Callable[[str], None], keep: bool = True) -> str:
    """Put a file that `write` fills in the place of a stopped store; return the path of the old.

    Without `keep`, the old one is removed. Raises StoreError, and the store is unchanged.
    """
    real = os.path.realpath(store) if os.path.islink(store) else store
    kept = ""
    with contextlib.ExitStack() as held:
        with new_file(store, _mode_of(real)) as new:
            write(new)
            _give(new, real)
            sync(new)
            # The lock is held, and signals are ignored, until the log of the old store is moved.
            held.callback(unlock, lock(new))
            held.enter_context(unstoppable())
            if keep and os.path.exists(real):
                kept = _keep(real)
        for end in ("-wal", "-journal") if keep else ():
            with contextlib.suppress(FileNotFoundError):
                os.replace(real + end, f"{kept or real + REPLACED}{end}")
        for end in ("-wal", "-journal", "-shm"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(real + end)
        sync(os.path.dirname(real) or ".")
    return kept


def _is_same(path: str, other: str) -> bool:
    try:
        return os.path.samefile(path, other)
    except OSError:
        return False


def _mode_of(path: str) -> int:
    try:
        return stat.S_IMODE(os.stat(path).st_mode)
    except FileNotFoundError:
        return 0o600


def _give(new: str, store: str) -> None:
    """Let the new file belong to the owner of the store, or of its folder, if root runs this."""
    if os.geteuid() == 0:
        owner = os.stat(store if os.path.exists(store) else os.path.dirname(store) or ".")
        os.chown(new, owner.st_uid, owner.st_gid)


def _keep(store: str) -> str:
    """Give the store one more name, and return it."""
    number = 1
    while True:
        kept = f"{store}{REPLACED}{'' if number == 1 else f'-{number}'}"
        try:
            os.link(store, kept)
        except FileExistsError:
            number += 1
        else:
            return kept


def compact(store: str) -> tuple[int, int]:
    """Give the free space back to the disk; return the bytes of the file before and after.

    Raises StoreError, also if a server has the store open: its commits would wait for the end.
    """
    with stopped(store), snapshot(store, is_stopped=True) as database:
        if meta(database, "running"):
            # Its log tells the next start which epoch it may keep.
            raise StoreError(
                f"{store} was not closed in order: start the server, stop it, and try again"
            )
        before = os.stat(store)
        closed, keeps_epoch = was_closed(database), meta(database, "inode") == before.st_ino
        database.execute("COMMIT")

        def write(new: str) -> None:
            # Not in place: a kill would leave a log without a record.
            database.execute("VACUUM INTO ?", (new,))
            with contextlib.closing(sqlite3.connect(new, isolation_level=None)) as compacted:
                mark_copy(compacted, closed, os.stat(new).st_ino if keeps_epoch else None)

        replace(store, write, keep=False)
        return before.st_size, os.stat(store).st_size


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
    marks: dict[str, object] = {
        "closed": int(closed),
        "inode": inode or "",
        "running": "",
        "wal": f"{secrets.randbits(32)}:0",
    }
    set_meta(database, marks.items())
