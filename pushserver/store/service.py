"""Opens and closes the store with the server."""

from __future__ import annotations

from collections.abc import Callable

from twisted.application.service import Service
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger

from pushserver.store.batcher import RETRY_SECONDS, Batcher
from pushserver.store.committer import Committer
from pushserver.store.opening import StoreError
from pushserver.usercode.once import Once


class Storage(Service):
    """Opens the store at the start, and closes it after a last commit.

    `clock` gives Unix seconds, `monotonic` is the steady clock. The stop tries for
    `finish_seconds` to write to a file that cannot be written. If that fails, `failed` is true:
    changes are lost, or the next start begins a new epoch although no change is lost.
    """

    _log = Logger()

    def __init__(
        self,
        committer: Committer,
        batcher: Batcher,
        clock: Callable[[], float],
        monotonic: Callable[[], float],
        reactor: IReactorTime,
    ):
        self.finish_seconds = 0.0
        self.failed = False
        self._committer = committer
        self._batcher = batcher
        self._clock = clock
        self._monotonic = monotonic
        self._reactor = reactor
        self._stop = Once()
        self.memory = batcher.memory

    @property
    def problem(self) -> str:
        """The error of the last commit; empty after a success."""
        return self._committer.problem

    @property
    def waiting(self) -> tuple[int, int]:
        """The publications that wait for a commit, and their bytes, roughly."""
        return self._batcher.waiting

    def file_bytes(self) -> int:
        """The size of the file and its log; 0 for one that is missing."""
        return self._committer.file_bytes()

    def probe(self) -> None:
        """Try to write after a failure, although nothing waits; see `Batcher.probe`."""
        self._batcher.probe()

    def startService(self) -> None:
        self._committer.open(self.memory, self._clock())
        super().startService()

    def stopService(self) -> Deferred[None]:
        if not self.running and not self._stop.begun:
            return succeed(None)
        super().stopService()
        return self._stop.run(self._close)

    async def _close(self) -> None:
        until = self._monotonic() + self.finish_seconds
        complete = await self._batcher.finish(self.finish_seconds)
        if not (complete and await self._closed(until)):
            self.failed = True
            self._log.error(
                "the store was not closed in order, and {n} accepted publications are lost:"
                " {problem}",
                n=self._batcher.lost,
                problem=self._committer.problem or "its last commit does not end",
                event_name="store_not_closed",
            )
            await self._committer.abandon()

    async def _closed(self, until: float) -> bool:
        """Close the file in order; return whether that succeeded."""
        while True:
            try:
                await self._committer.close()
            except StoreError:
                left = until - self._monotonic()
                if left <= 0:
                    return False
                await deferLater(self._reactor, min(left, RETRY_SECONDS))
            else:
                return True
