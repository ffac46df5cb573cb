"""Opens the file of the store, and makes its commits in a thread."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial

from twisted.internet.interfaces import IReactorFromThreads
from twisted.logger import Logger

from pushserver.channels.history import History
from pushserver.channels.idempotency import Keys
from pushserver.errors import StartFailed
from pushserver.hub.metrics import Metrics
from pushserver.store.batch import Batch
from pushserver.store.opening import StoreError
from pushserver.store.source_memory import SourceMemory
from pushserver.store.sqlite import SqliteFile
from pushserver.store.wal import log_path
from pushserver.usercode.rate import LOGGED_AT_ONCE, LogLimiter
from pushserver.usercode.worker import Worker


class Committer:
    """Runs commits in `thread`, one after the other, and counts them."""

    _log = Logger()

    def __init__(
        self,
        path: str,
        durability: str,
        thread: Worker,
        reactor: IReactorFromThreads,
        monotonic: Callable[[], float],
        history: History,
        keys: Keys,
        metrics: Metrics,
        mode: int = 0o600,
    ):
        self._path = path
        self._durability = durability
        self._thread = thread
        self._reactor = reactor
        self._monotonic = monotonic
        self._history = history
        self._keys = keys
        self._metrics = metrics
        self._mode = mode
        self._running = False
        self._problems = LogLimiter(LOGGED_AT_ONCE)
        self._logged = False
        self.problem = ""
        """The error of the last commit; empty after a success."""

    def open(self, memory: SourceMemory, now: float) -> None:
        """Open the file, and fill history, keys and `memory` from it; raises StartFailed.

        `now` is Unix time, like the times in the file. Call it in the process that commits: a
        fork loses the file's lock.
        """
        try:
            self._file = SqliteFile(self._path, self._durability, self._mode)
        except StoreError as error:
            raise StartFailed(str(error)) from None
        try:
            continued = self._file.load(self._history, self._keys, memory, now, self._monotonic())
        except StoreError as error:
            self._file.abandon()
            raise StartFailed(str(error)) from None
        if self._file.copy:
            self._log.info(
                "the format of {path} was upgraded; an earlier version reads {copy}",
                path=self._path,
                copy=self._file.copy,
                event_name="store_upgraded",
            )
        if self._file.left_out:
            self._log.warn(
                "{path} has more than history_total_bytes ({bytes}) or channels ({channels}) allow:"
                " the {n} publications of the channels that were not published to for longest were"
                " removed",
                path=self._path,
                bytes=self._history.room.most_bytes,
                channels=self._history.room.most_channels,
                n=self._file.left_out,
                event_name="store_shortened",
            )
        if not continued:
            self._log.warn(
                "{path} was not closed in order, or is a copy: the last publications may be"
                " missing, and the numbering continues under a new epoch",
                path=self._path,
                event_name="store_not_closed_before",
            )

    def file_bytes(self) -> int:
        """The size of the file and its log; 0 for one that is missing."""
        return sum(map(_size, (self._path, log_path(self._path))))

    async def commit(self, batch: Batch) -> None:
        """Write the batch; raises StoreError if nothing of it was written."""
        batch.forgotten_keys = self._keys.forgotten_seq
        started = self._monotonic()
        self._running = True
        try:
            await self._thread.call(self._reactor, partial(self._file.commit, batch))
        except Exception as error:
            self._metrics.store_errors += 1
            if str(error) != self.problem:
                # The same problem is logged once, not for each attempt. On a disk that is almost
                # full, a short commit succeeds after each long one that fails.
                more = self._problems.suffix(self._monotonic())
                self._logged = more is not None
                if self._logged:
                    self._log.error(
                        "{problem}{more}", problem=str(error), more=more, event_name="store_failed"
                    )
            self.problem = str(error)
            raise
        finally:
            self._running = False
        self._metrics.committed(len(batch.rows), self._monotonic() - started)
        if self.problem and self._logged:
            self._log.info("the store can be written again", event_name="store_works_again")
        self.problem = ""

    async def close(self) -> None:
        """Close the file, with the mark that nothing is missing, and end the thread.

        Raises StoreError, and nothing is closed.
        """
        # Else a key that has expired would return if the wall clock is set back before the start.
        while self._keys.expire(self._monotonic()):
            pass
        call = partial(self._file.close, self._keys.forgotten_seq)
        try:
            await self._thread.call(self._reactor, call)
        except StoreError as error:
            self.problem = str(error)
            raise
        self._thread.close()

    async def abandon(self) -> None:
        """Close the file without the mark, and end the thread.

        A commit that is running may never end: the file is closed after it, and not waited for.
        """
        abandoned = self._thread.call(self._reactor, self._file.abandon)
        if not self._running:
            await abandoned
        self._thread.close()


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return 0
