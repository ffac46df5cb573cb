"""Whole files beside a store: written under another name first, and synced."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import sqlite3
from collections.abc import Iterator

from pushserver.errors import PushServerError


class StoreError(PushServerError):
    """The file cannot be used or written; the text says why."""


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


COPY = b"SQLite format 3\0"
EXPORT = b'{"kind":"pushserver-store",'


def check_target(path: str, store: str, force: bool, beginning: bytes) -> None:
    """Raise StoreError unless this file may be written: not the store, nor one that exists.

    `force` permits a file with this beginning, COPY or EXPORT, and an empty one. So no confusion of
    paths replaces a configuration or another file.
    """
    if os.path.isdir(path):
        raise StoreError(f"{path} is a folder: expected the path of a file")
    real = os.path.realpath(store)
    if any(_same(path, real + end) for end in ("", "-wal", "-shm", "-journal")):
        raise StoreError(f"{path} is a file of the store itself: expected another one")
    if os.path.exists(path) and not os.path.isfile(path):
        raise StoreError(f"{path} is not a regular file")
    if os.path.exists(path) and not force:
        raise StoreError(f"{path} exists: name another file, or replace it with --force")
    if os.path.exists(path) and not _begins(path, beginning):
        kind = "a copy of a store" if beginning == COPY else "an export of a store"
        raise StoreError(f"{path} is not {kind}, and stays: name another file")


def sync(path: str) -> None:
    """Write a file or the entries of a folder to the disk; raises OSError."""
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def _begins(path: str, beginning: bytes) -> bool:
    """Whether a file begins with these bytes, or is empty; False if it cannot be read."""
    try:
        with open(path, "rb") as file:
            return file.read(len(beginning)) in (b"", beginning)
    except OSError:
        return False


def _same(path: str, other: str) -> bool:
    try:
        return os.path.samefile(path, other)
    except OSError:
        return os.path.realpath(path) == other
