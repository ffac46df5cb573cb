"""Opens and closes the store with the server."""

from __future__ import annotations

from collections.abc import Callable

from twisted.application.service import Service
from twisted.internet.defer import Deferred, succeed

from pushserver.store.batcher import Batcher
from pushserver.store.committer import Committer
from pushserver.usercode.once import Once


class Storage(Service):
    """Opens the store at the start, and closes it after a last commit.

    `clock` gives Unix seconds.
    """

    def __init__(self, committer: Committer, batcher: Batcher, clock: Callable[[], float]):
        self._committer = committer
        self._batcher = batcher
        self._clock = clock
        self._stop = Once()
        self.memory = batcher.memory

    def startService(self) -> None:
        self._committer.open(self.memory, self._clock())
        super().startService()

    def stopService(self) -> Deferred[None]:
        if not self.running and not self._stop.begun:
            return succeed(None)
        super().stopService()
        return self._stop.run(self._close)

    async def _close(self) -> None:
        await self._committer.close(await self._batcher.finish())
