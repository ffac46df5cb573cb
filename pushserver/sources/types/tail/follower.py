"""A name under which lines are written to files: rotated, truncated, replaced."""

from __future__ import annotations

import os
from collections.abc import Iterator

from pushserver.sources.types.tail.logfile import LogFile, Mark, NoFile, NotNow, Step
from pushserver.sources.types.tail.rotation import is_compressed, later

GRACE_LOOKS = 4
MOST_FILES = 16
MOST_BETWEEN = MOST_FILES - 2
"""Beside the file that is gone on with and the one that has the name."""


class Follower:
    """Follows a name as `tail -F` does; `look` is to be called again and again.

    A file that was replaced is read to its end first. Who writes to it may need a moment to
    go over: it is left when the new one is not empty and GRACE_LOOKS have passed.

    What no look sees is not known: files that came and went between two of them, and what
    was truncated and written anew with the same beginning, to the same size or more.
    """

    def __init__(
        self, path: str, most: int, mark: Mark | None, from_start: bool, max_catch_up_bytes: int
    ):
        self._path = path
        self._most = most
        self._mark = mark
        self._from_start = from_start
        self._from_end = mark is None and not from_start
        self._max_catch_up_bytes = max_catch_up_bytes
        self._files: list[LogFile] = []
        self._looks = 0
        self._searched = False
        self.problem = ""
        """Why the name leads to no file now; empty when it does."""
        self.told: list[str] = []
        """What else is to be told."""

    def close(self) -> None:
        """Let go of all files."""
        while self._files:
            self._files.pop().close()

    def look(self) -> tuple[Iterator[Step], bool]:
        """What is new, a bounded part of it, and whether to look again at once.

        All of it is to be taken before the next look. Raises OSError when a file that was
        open cannot be read any more.
        """
        self.problem = ""
        try:
            if not self._files:
                self._begin()
                return iter([Step(None, self._files[0].mark)]), True
            self._find()
        except NotNow as error:
            self.problem = str(error)
        if not self._files:
            return iter(self._nothing_yet()), False
        steps, more = self._files[0].read()
        if not more and self._is_left():
            old = self._files.pop(0)
            steps, more = iter([*old.rest(), Step(None, self._files[0].mark)]), True
            old.close()
        return steps, more

    def _nothing_yet(self) -> list[Step]:
        if self._mark is None and not self._from_end and not self._from_start:
            self._mark = Mark()
            return [Step(None, self._mark)]
        return []

    def _is_left(self) -> bool:
        """Whether the file that is read is over, for all that can be known."""
        if len(self._files) == 1 or (len(self._files) == 2 and not self._files[1].size):
            return False
        self._looks += 1
        if self._looks <= GRACE_LOOKS and len(self._files) == 2:
            return False
        self._looks = 0
        return True

    def _find(self) -> None:
        """Open the file that has the name now, if it is another one."""
        try:
            found = os.stat(self._path)
        except OSError as error:
            raise NotNow(error.strerror) from None
        if (found.st_dev, found.st_ino) in [file.identity for file in self._files]:
            return
        if len(self._files) == MOST_FILES:
            raise NotNow("rotated faster than it is read")
        file = LogFile(self._path, self._most)
        if file.identity in [known.identity for known in self._files]:
            file.close()
        else:
            self._files.append(file)

    def _begin(self) -> None:
        """Open what is to be read first; raises NotNow."""
        try:
            self._files = [LogFile(self._path, self._most)]
        except NoFile:
            # What gets the name later is new.
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
        """Go on from the mark, in the file that it is of, if there still is one."""
        if mark.inode and not (self._files and self._files[0].resume(mark)):
            before = [] if self._searched else self._renamed(mark)
            self._searched = True
            if before:
                self._files[:0] = before
            elif self._files:
                self.told.append("replaced or truncated meanwhile; lines may be missing")
        self._limit(self._files)

    def _renamed(self, mark: Mark) -> list[LogFile]:
        """The file of the mark under another name in the same folder, and those after it."""
        entries = self._folder()
        for entry in entries:
            if entry.inode() == mark.inode and (file := self._opened(entry)):
                if file.resume(mark):
                    return [file, *self._between(file, entry.name, entries)]
                file.close()
        return []

    def _between(self, old: LogFile, name: str, entries: list[os.DirEntry[str]]) -> list[LogFile]:
        """The files that had the name after this one, which is called `name` now."""
        there = {e.name: e for e in entries if e.is_file(follow_symlinks=False)}
        bases = [os.path.basename(path) for path in (self._path, os.path.realpath(self._path))]
        known = {file.identity for file in (old, *self._files)}
        files: list[LogFile] = []
        missing: list[str] = []
        for entry in map(there.__getitem__, reversed(later(name, there, bases))):
            read = len(files) < MOST_BETWEEN and not is_compressed(entry.name)
            file = self._opened(entry) if read else None
            if file is None:
                missing.append(entry.name)
            elif file.identity in known:
                file.close()
            else:
                known.add(file.identity)
                files.append(file)
        if missing:
            self.told.append(
                "lines are missing: rotated meanwhile, and compressed, not readable or more than "
                f"{MOST_BETWEEN}: {', '.join(reversed(missing))}"
            )
        return files[::-1]

    def _opened(self, entry: os.DirEntry[str]) -> LogFile | None:
        """This file; None when it cannot be read, or another one has its name by now."""
        try:
            file = LogFile(entry.path, self._most)
        except NotNow:
            return None
        if file.identity[1] == entry.inode():
            return file
        file.close()
        return None

    def _folder(self) -> list[os.DirEntry[str]]:
        """What is beside the file that has the name."""
        try:
            with os.scandir(os.path.dirname(os.path.realpath(self._path))) as entries:
                return list(entries)
        except OSError:
            return []

    def _limit(self, files: list[LogFile]) -> None:
        """Leave out what is more than may be caught up with."""
        left = sum(file.left for file in files)
        over = left - self._max_catch_up_bytes
        if over <= 0:
            return
        while files[0].left < over and len(files) > 1:
            gone = files.pop(0)
            over -= gone.left
            gone.close()
        files[0].skip_to(files[0].position + over)
        skipped = left - sum(file.left for file in files)
        self.told.append(f"{skipped} bytes were skipped (max_catch_up_bytes)")
