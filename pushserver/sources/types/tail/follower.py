"""Follows the file of a name through rotation, truncation and replacement."""

from __future__ import annotations

import os
from collections.abc import Iterator

from pushserver.sources.types.tail.logfile import LogFile, Mark, NoFile, NotNow, Step
from pushserver.sources.types.tail.rotation import is_compressed, rotated_after

GRACE_POLLS = 4
MAX_FILES = 16
MAX_BETWEEN = MAX_FILES - 2
"""The most rotated files between the file of the mark and the current one."""


class Follower:
    """Follows a name as `tail -F` does; call `poll` at intervals.

    A replaced file is read to its end first. Its writer may need a moment to switch: the file is
    closed when the new one is not empty and GRACE_POLLS have passed.

    Not noticed: a file that appeared and vanished between two polls, and a file that was
    truncated and rewritten with the same beginning, to the same size or more.
    """

    def __init__(
        self,
        path: str,
        max_line_bytes: int,
        mark: Mark | None,
        from_start: bool,
        max_catch_up_bytes: int,
    ):
        self._path = path
        self._max_line_bytes = max_line_bytes
        self._mark = mark
        self._from_start = from_start
        self._from_end = mark is None and not from_start
        self._max_catch_up_bytes = max_catch_up_bytes
        self._files: list[LogFile] = []
        """Oldest first; the last one had the name when it was opened."""
        self._polls = 0
        self._searched = False
        self.problem = ""
        """The reason why no file of the name can be read now, or an empty string."""
        self.warnings: list[str] = []

    def close(self) -> None:
        """Close all files."""
        while self._files:
            self._files.pop().close()

    def poll(self) -> tuple[Iterator[Step], bool]:
        """Return a bounded part of the new lines, and whether to poll again at once.

        Exhaust the iterator before the next call. Raises OSError if an open file becomes
        unreadable.
        """
        self.problem = ""
        try:
            if not self._files:
                self._open_first()
                return iter([Step(None, self._files[0].mark)]), True
            self._open_current()
        except NotNow as error:
            self.problem = str(error)
        if not self._files:
            return iter(self._first_mark()), False
        steps, more = self._files[0].read()
        if not more and self._is_finished():
            old = self._files.pop(0)
            steps, more = iter([*old.rest(), Step(None, self._files[0].mark)]), True
            old.close()
        return steps, more

    def _first_mark(self) -> list[Step]:
        """Return, once, a position before any file: all lines of a later file are new."""
        if self._mark is None and not self._from_end and not self._from_start:
            self._mark = Mark()
            return [Step(None, self._mark)]
        return []

    def _is_finished(self) -> bool:
        """Whether the file was replaced and probably has no writer any more."""
        if len(self._files) == 1 or (len(self._files) == 2 and not self._files[1].size):
            return False
        self._polls += 1
        if self._polls <= GRACE_POLLS and len(self._files) == 2:
            return False
        self._polls = 0
        return True

    def _open_current(self) -> None:
        """Open the file that has the name now, if it is a new one."""
        try:
            status = os.stat(self._path)
        except OSError as error:
            raise NotNow(error.strerror) from None
        if (status.st_dev, status.st_ino) in [file.identity for file in self._files]:
            return
        if len(self._files) == MAX_FILES:
            raise NotNow("rotated faster than it is read")
        file = LogFile(self._path, self._max_line_bytes)
        if file.identity in [other.identity for other in self._files]:
            file.close()
        else:
            self._files.append(file)

    def _open_first(self) -> None:
        """Open the files to start with; raises NotNow."""
        try:
            self._files = [LogFile(self._path, self._max_line_bytes)]
        except NoFile:
            # All lines of a file that appears later are new.
            self._from_end = False
            if self._mark is None or self._searched:
                raise
            self._resume(self._mark)
            if not self._files:
                raise
        else:
            if self._mark is not None:
                self._resume(self._mark)
            elif self._from_end:
                self._files[0].to_end()

    def _resume(self, mark: Mark) -> None:
        """Continue from the mark, in its file if that still exists."""
        if mark.inode and not (self._files and self._files[0].resume(mark)):
            rotated = [] if self._searched else self._rotated(mark)
            self._searched = True
            if rotated:
                self._files[:0] = rotated
            elif self._files:
                self.warnings.append("replaced or truncated meanwhile; lines may be missing")
        self._limit()

    def _rotated(self, mark: Mark) -> list[LogFile]:
        """Return the renamed file of the mark, and the files that had the name after it."""
        entries = self._folder()
        for entry in entries:
            if entry.inode() == mark.inode and (file := self._opened(entry)):
                if file.resume(mark):
                    return [file, *self._between(file, entry.name, entries)]
                file.close()
        return []

    def _between(self, old: LogFile, name: str, entries: list[os.DirEntry[str]]) -> list[LogFile]:
        """Return the files that had the name after `old`, which is called `name` now."""
        by_name = {e.name: e for e in entries if e.is_file(follow_symlinks=False)}
        bases = [os.path.basename(path) for path in (self._path, os.path.realpath(self._path))]
        identities = {file.identity for file in (old, *self._files)}
        files: list[LogFile] = []
        missing: list[str] = []
        for entry in map(by_name.__getitem__, reversed(rotated_after(name, by_name, bases))):
            readable = len(files) < MAX_BETWEEN and not is_compressed(entry.name)
            file = self._opened(entry) if readable else None
            if file is None:
                missing.append(entry.name)
            elif file.identity in identities:
                file.close()
            else:
                identities.add(file.identity)
                files.append(file)
        if missing:
            self.warnings.append(
                "lines are missing: rotated meanwhile, and compressed, not readable or more than "
                f"{MAX_BETWEEN}: {', '.join(reversed(missing))}"
            )
        return files[::-1]

    def _opened(self, entry: os.DirEntry[str]) -> LogFile | None:
        """Open the file; None if it is unreadable, or its name belongs to another file now."""
        try:
            file = LogFile(entry.path, self._max_line_bytes)
        except NotNow:
            return None
        if file.identity[1] == entry.inode():
            return file
        file.close()
        return None

    def _folder(self) -> list[os.DirEntry[str]]:
        """Return the entries of the folder of the file."""
        try:
            with os.scandir(os.path.dirname(os.path.realpath(self._path))) as entries:
                return list(entries)
        except OSError:
            return []

    def _limit(self) -> None:
        """Skip the oldest lines beyond max_catch_up_bytes."""
        files = self._files
        left = sum(file.left for file in files)
        excess = left - self._max_catch_up_bytes
        if excess <= 0:
            return
        while files[0].left < excess and len(files) > 1:
            oldest = files.pop(0)
            excess -= oldest.left
            oldest.close()
        files[0].skip_to(files[0].position + excess)
        skipped = left - sum(file.left for file in files)
        self.warnings.append(f"{skipped} bytes were skipped (max_catch_up_bytes)")
