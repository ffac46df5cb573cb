"""Whether the write-ahead log beside a database belongs to it.

SQLite replays any valid `-wal` file over the database, also over an older copy that was restored:
the result is damaged, or the state before the restoration. The database therefore records its log:

- the inodes of both files. A copy that was moved here has another inode than the recorded one,
  while the log has the recorded one. If both differ, the folder was copied.
- salt-1 of the log's header, for a copy that was written into the existing file. It is random at
  first; SQLite adds 1 whenever it starts the log again after a checkpoint
  (https://www.sqlite.org/fileformat2.html#walformat).
"""

from __future__ import annotations

import os
import sqlite3
import struct
from contextlib import closing
from dataclasses import dataclass
from urllib.parse import quote

_HEADER_BYTES = 32
_SALT = slice(16, 20)
_BEHIND = 2
"""The record is one restart behind, or two if the first commit of a log was also its last."""


@dataclass(frozen=True, slots=True)
class Log:
    """The identity of a log."""

    salt: int
    inode: int

    def __str__(self) -> str:
        return f"{self.salt}:{self.inode}"


def log_path(path: str) -> str:
    """The path of the log; SQLite follows a symbolic link."""
    return f"{os.path.realpath(path)}-wal"


def log_of(path: str) -> Log | None:
    """The log of a database; None if there is none, or an empty one."""
    try:
        with open(log_path(path), "rb", buffering=0) as file:
            header = file.read(_HEADER_BYTES)
            inode = os.fstat(file.fileno()).st_ino
    except FileNotFoundError:
        return None
    if len(header) < _HEADER_BYTES:
        return None
    return Log(struct.unpack(">I", header[_SALT])[0], inode)


def belongs(path: str) -> bool:
    """Whether the log belongs to the database; True if there is no log or no record of one."""
    log = log_of(path)
    while log is not None:
        recorded, inode = _recorded(path)
        # Another server may have the file open, and restart its log at any time.
        again = log_of(path)
        if again == log:
            return _match(recorded, inode, log, os.stat(path).st_ino)
        log = again
    return True


def _match(recorded: str, inode: object, log: Log, current: int) -> bool:
    salt, _, log_inode = recorded.partition(":")
    if not (salt.isdecimal() and log_inode.isdecimal()):
        return True
    moved_here = inode != current and int(log_inode) == log.inode
    return not moved_here and (log.salt - int(salt)) % 2**32 <= _BEHIND


def _recorded(path: str) -> tuple[str, object]:
    """The record of the log, and the inode, in the database alone; empty if unreadable."""
    # `immutable` reads no log, and takes no lock.
    uri = f"file:{quote(os.fsencode(os.path.abspath(path)))}?mode=ro&immutable=1"
    try:
        with closing(sqlite3.connect(uri, uri=True)) as database:
            rows = database.execute("SELECT name, value FROM meta WHERE name IN ('wal', 'inode')")
            values = dict(rows.fetchall())
    except sqlite3.Error:
        # A checkpoint was interrupted, or it is another program's database.
        return "", None
    return str(values.get("wal", "")), values.get("inode")
