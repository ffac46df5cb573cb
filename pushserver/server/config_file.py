"""The configuration file of a running server, which a reload reads again."""

from __future__ import annotations

import os
from collections.abc import Callable

from pushserver.config.settings import Config
from pushserver.errors import StartFailed


def read_again(path: str, load: Callable[[], Config]) -> Config:
    """The configuration that `load` reads from the file at `path` ("" for no file).

    Raises StartFailed for a pipe, for an empty file, and for one that changes meanwhile: a part of
    a file may be valid, and lack the rules and the keys.
    """
    readable_again = os.path.isfile(path) or os.path.isdir(path)  # `load` refuses a folder
    if path and os.path.exists(path) and not readable_again:
        raise StartFailed(f"{path}: a pipe cannot be read again, expected a regular file")
    before = _state(path)
    config = load()
    if _state(path) != before:
        raise StartFailed(f"{path}: the file changed while it was read")
    if before and not before[0]:
        raise StartFailed(f"{path}: the file is empty, expected settings or a comment")
    return config


def _state(path: str) -> tuple[int, int, int] | None:
    """The size of a file, its time and its inode; None if there is none."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return status.st_size, status.st_mtime_ns, status.st_ino
