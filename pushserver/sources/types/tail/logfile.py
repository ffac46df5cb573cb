"""One log file: reads the lines that are appended, and marks positions between lines."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from hashlib import blake2b

from pushserver.sources.types.lines import Line, Splitter

READ_BYTES = 65_536
HEAD_BYTES = 256


class NotNow(Exception):
    """No file can be read now; the text is the reason."""


class NoFile(NotNow):
    """The name does not exist, or is not that of a file."""


@dataclass(frozen=True, slots=True)
class Mark:
    """A position between two lines of a file, and a digest of the first bytes of the file.

    Inodes are reused and files overwritten, so the bytes before the position are compared too,
    at most HEAD_BYTES of them. The device is not compared: its number may
    change with a reboot. Inode 0 is the position before any file.
    """

    inode: int = 0
    position: int = 0
    head: str = ""


@dataclass(frozen=True, slots=True)
class Step:
    """A line or None, and the position after it."""

    line: Line | None
    mark: Mark


class LogFile:
    """One open file, which may be renamed or deleted.

    A writer that does not append (O_APPEND) keeps its offset when the file is truncated, so the
    file then begins with a hole, which reads as NULs. Lines are read without leading NULs.
    """

    def __init__(self, path: str, max_line_bytes: int):
        """Open the file; raises NotNow, also for a FIFO, without waiting for its other end."""
        try:
            _check_kind(os.stat(path))
            self._fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise NoFile(error.strerror) from None
        except (OSError, ValueError) as error:
            raise NotNow(getattr(error, "strerror", None) or str(error)) from None
        status = os.fstat(self._fd)
        try:
            _check_kind(status)
        except NotNow:
            self.close()
            raise
        self.identity = status.st_dev, status.st_ino
        self._max_line_bytes = max_line_bytes
        self._head_digest = ""
        self._restart(0)

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)

    @property
    def size(self) -> int:
        """The size of the file now, in bytes."""
        return os.fstat(self._fd).st_size

    @property
    def left(self) -> int:
        """The number of bytes after the last complete line."""
        return self.size - self.position

    @property
    def mark(self) -> Mark:
        """The position after the last complete line."""
        if self.position < HEAD_BYTES:
            return Mark(self.identity[1], self.position, _digest(self._head[: self.position]))
        self._head_digest = self._head_digest or _digest(self._head)
        return Mark(self.identity[1], self.position, self._head_digest)

    def resume(self, mark: Mark) -> bool:
        """Continue from the mark; return whether it belongs to this file."""
        head = self._read(0, min(mark.position, HEAD_BYTES))
        same = self.identity[1] == mark.inode and _digest(head) == mark.head
        if same and mark.position <= self.size:
            self._restart(mark.position)
            return True
        return False

    def to_end(self) -> None:
        """Continue from the start of an unfinished last line, or from the end."""
        size = self.size
        start = max(0, size - self._max_line_bytes)
        self._restart(start + self._read(start, size - start).rfind(b"\n") + 1)

    def skip_to(self, position: int) -> None:
        """Continue from the first line that begins at `position` or later."""
        before = self._read(position - 1, READ_BYTES)
        in_hole = before.startswith(b"\0")
        self._restart(position if in_hole else position + max(0, before.find(b"\n")))

    def read(self) -> tuple[Iterator[Step], bool]:
        """Return the lines of the next READ_BYTES, and whether there were any bytes.

        Exhaust the iterator before any other call. After a truncation the unfinished line counts
        as a line, and the file is read from its beginning.
        """
        end = self.position + self._splitter.pending
        if self.size < end or self._read(0, len(self._head)) != self._head:
            steps = list(self.rest())
            self._restart(0)
            return iter([*steps, Step(None, self.mark)]), True
        data = self._read(end, READ_BYTES)
        if self._splitter.pending and data.startswith(b"\0") and not self._head.strip(b"\0"):
            # A file that began with a hole was truncated again: its beginning is the same.
            steps = list(self.rest())
            self._restart(end)
            return iter([*steps, Step(None, self.mark)]), True
        self._head += data[: HEAD_BYTES - len(self._head)]
        return map(self._step, self._splitter.feed(data)), bool(data)

    def rest(self) -> Iterator[Step]:
        """Yield the unfinished line, if there is one."""
        line = self._splitter.rest()
        if line is not None:
            yield self._step(line)

    def _step(self, line: Line) -> Step:
        self.position += line.size
        return Step(line, self.mark)

    def _restart(self, position: int) -> None:
        self.position = self._after_hole(position)
        self._splitter = Splitter(self._max_line_bytes, skips_nuls=True)
        self._head = self._read(0, min(self.position, HEAD_BYTES))
        self._head_digest = ""

    def _after_hole(self, position: int) -> int:
        """Return the end of the hole at the position, or the position without one.

        Holes are whole blocks of the file system: NULs of the next block may follow.
        """
        if self._read(position, 1) == b"\0":
            with suppress(OSError):
                # It raises for a hole at the end of the file.
                return os.lseek(self._fd, position, os.SEEK_DATA)
        return position

    def _read(self, position: int, count: int) -> bytes:
        return os.pread(self._fd, count, position)


def _check_kind(status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        kinds = {stat.S_IFDIR: "a directory", stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket"}
        kind = kinds.get(stat.S_IFMT(status.st_mode), "a device")
        raise NoFile(f"is {kind}, expected a file")


def _digest(head: bytes) -> str:
    return blake2b(head, digest_size=8).hexdigest()
