"""One file with lines in it: what was written to it since, and the places between its lines."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b

from pushserver.sources.types.lines import Line, Splitter

READ_BYTES = 65_536
HEAD_BYTES = 256


class NotNow(Exception):
    """There is no file that can be read now; the text says why."""


class NoFile(NotNow):
    """Nothing of this name, or what it is is no file."""


@dataclass(frozen=True, slots=True)
class Mark:
    """A place between two lines: of which file, how far, and how that file begins.

    Inodes are used again, and a file may be overwritten: it is the same one if its first
    bytes are, up to the place, HEAD_BYTES at most. The number of the device says nothing
    beside that, and may be another one after a reboot. Inode 0: before any file.
    """

    inode: int = 0
    position: int = 0
    head: str = ""


@dataclass(frozen=True, slots=True)
class Step:
    """A line, or none, and the place after it."""

    line: Line | None
    mark: Mark


class LogFile:
    """One file, from its opening to its end, whatever its name becomes."""

    def __init__(self, path: str, most: int):
        """Open it; raises NotNow, and does not wait for the other end of a FIFO."""
        try:
            _check_kind(os.stat(path))
            self._fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise NoFile(error.strerror) from None
        except (OSError, ValueError) as error:
            raise NotNow(getattr(error, "strerror", None) or str(error)) from None
        found = os.fstat(self._fd)
        try:
            _check_kind(found)
        except NotNow:
            self.close()
            raise
        self.identity = found.st_dev, found.st_ino
        self._most = most
        self._known = ""
        self._restart(0)

    def close(self) -> None:
        """Let go of it."""
        os.close(self._fd)

    @property
    def size(self) -> int:
        """How many bytes it has now."""
        return os.fstat(self._fd).st_size

    @property
    def left(self) -> int:
        """How many of them come after the last whole line."""
        return self.size - self.position

    @property
    def mark(self) -> Mark:
        """The place after the last whole line."""
        if self.position < HEAD_BYTES:
            return Mark(self.identity[1], self.position, _digest(self._head[: self.position]))
        self._known = self._known or _digest(self._head)
        return Mark(self.identity[1], self.position, self._known)

    def resume(self, mark: Mark) -> bool:
        """Go on from there, if this is the file that is meant."""
        head = self._read(0, min(mark.position, HEAD_BYTES))
        same = self.identity[1] == mark.inode and _digest(head) == mark.head
        if same and mark.position <= self.size:
            self._restart(mark.position)
            return True
        return False

    def to_end(self) -> None:
        """Go on from the last line, if that is not at its end, or else from the end."""
        size = self.size
        start = max(0, size - self._most)
        self._restart(start + self._read(start, size - start).rfind(b"\n") + 1)

    def skip_to(self, position: int) -> None:
        """Go on from the first line that begins there or later."""
        before = self._read(position - 1, READ_BYTES)
        self._restart(position + max(0, before.find(b"\n")))

    def read(self) -> tuple[Iterator[Step], bool]:
        """The lines of the next READ_BYTES, and whether there were any bytes.

        They are to be taken before anything else is asked. After a truncation what came of
        the last line before it is a line, and the file is read from its beginning.
        """
        read = self.position + self._splitter.pending
        if self.size < read or self._read(0, len(self._head)) != self._head:
            steps = list(self.rest())
            self._restart(0)
            return iter([*steps, Step(None, self.mark)]), True
        data = self._read(read, READ_BYTES)
        self._head += data[: HEAD_BYTES - len(self._head)]
        return map(self._step, self._splitter.feed(data)), bool(data)

    def rest(self) -> Iterator[Step]:
        """What came of the last line."""
        line = self._splitter.rest()
        if line is not None:
            yield self._step(line)

    def _step(self, line: Line) -> Step:
        self.position += line.size
        return Step(line, self.mark)

    def _restart(self, position: int) -> None:
        self.position = position
        self._splitter = Splitter(self._most)
        self._head = self._read(0, min(position, HEAD_BYTES))
        self._known = ""

    def _read(self, position: int, count: int) -> bytes:
        return os.pread(self._fd, count, position)


def _check_kind(found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        kinds = {stat.S_IFDIR: "a directory", stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket"}
        kind = kinds.get(stat.S_IFMT(found.st_mode), "a device")
        raise NoFile(f"is {kind}, expected a file")


def _digest(head: bytes) -> str:
    return blake2b(head, digest_size=8).hexdigest()
