"""The lock of a store, which a server holds, and a command that needs the server to be stopped.

SQLite's locks belong to the process, and end when it closes any descriptor of the file: for
example, when the application has copied it. This one ends with its own descriptor. Other systems
than Linux take both locks for one kind, and would refuse SQLite's.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sys
import time
from io import FileIO

from pushserver.usercode.fork import close_in_forks

LOCK_SECONDS = 2.0
"""The longest wait for another server or program that has the file open."""
_PAUSE_SECONDS = 0.05


def lock(path: str, shared: bool = False) -> FileIO | None:
    """Lock the file; None where that is not possible, or where there is no such file.

    Raises BlockingIOError if another one has it.
    """
    if sys.platform != "linux":
        return None
    while True:
        try:
            file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except (OSError, ValueError):
            # SQLite meets the error too.
            return None
        try:
            fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(file), os.stat(path)):
                held = FileIO(file)
                # The copy of a fork would keep the lock if this process is killed.
                close_in_forks(held)
                return held
        except BlockingIOError:
            os.close(file)
            raise
        except OSError:
            # A file system without such locks, or the file was moved away.
            os.close(file)
            return None
        # Replaced by a restored copy meanwhile.
        os.close(file)


def lock_patiently(path: str) -> FileIO | None:
    """As `lock`, which is tried for LOCK_SECONDS."""
    waited = 0.0
    while True:
        try:
            return lock(path)
        except BlockingIOError:
            if waited >= LOCK_SECONDS:
                raise
        time.sleep(_PAUSE_SECONDS)
        waited += _PAUSE_SECONDS


def unlock(file: FileIO | None) -> None:
    """End the lock; SQLite's locks of the file end too."""
    if file is not None:
        # A process that is being started may have the descriptor too.
        with contextlib.suppress(OSError, ValueError):
            fcntl.flock(file, fcntl.LOCK_UN)
        file.close()
