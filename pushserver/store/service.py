"""The store: commits in a thread of their own, and the batches written behind the memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from twisted.application.service import Service
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.python.threadpool import ThreadPool

from pushserver.channels.history import History
from pushserver.channels.idempotency import Keys, Remembered
from pushserver.channels.publication import Publication
from pushserver.errors import StartFailed, Unavailable
from pushserver.hub.metrics import Metrics
from pushserver.store.source_memory import Memory
from pushserver.store.sqlite import Batch, SqliteFile, StoreError, state
from pushserver.usercode.reactor import Reactor

RETRY_SECONDS = 1.0
MOST_WAITING_BYTES = 16 * 1024 * 1024


class Committer:
    """Runs commits one after the other in its thread, and counts them."""

    _log = Logger()

    def __init__(
        self,
        path: str,
        durability: str,
        reactor: Reactor,
        monotonic: Callable[[], float],
        history: History,
        keys: Keys,
        metrics: Metrics,
    ):
        self._path = path
        self._durability = durability
        self._reactor = reactor
        self._monotonic = monotonic
        self._history = history
        self._keys = keys
        self._metrics = metrics
        self._pool = ThreadPool(1, 1)
        self.memory = Memory()
        """What the sources remember; each commit takes it along."""
        self.problem = ""
        """Why the last commit failed; empty when it did not."""

    def start(self, now: float) -> None:
        """Open the file, fill history, keys and memory from it, and begin the thread.

        `now` is in Unix seconds, as the times in the file. Raises StartFailed. To be called in
        the process that will go on: a fork loses the file's lock.
        """
        try:
            self._file = SqliteFile(self._path, self._durability)
        except StoreError as error:
            raise StartFailed(str(error)) from None
        try:
            went_on = self._file.load(
                self._history, self._keys, self.memory, now, self._monotonic()
            )
        except StoreError as error:
            self._file.abandon()
            raise StartFailed(str(error)) from None
        if not went_on:
            self._log.warn(
                "{path} was not closed in order, or is a copy: what was published last may "
                "be missing, and the numbering goes on under a new epoch",
                path=self._path,
            )
        self._pool.start()

    def commit(self, batch: Batch) -> Deferred[None]:
        """Write the batch; fails with StoreError, and then nothing of it was written."""
        batch.forgotten_keys = self._keys.forgotten_seq
        batch.forgotten_top = self._history.forgotten_top
        batch.forgotten_seq = self._history.forgotten_seq
        batch.memory = self.memory.take()
        started = self._monotonic()
        # It may raise at once, as where there can be no thread.
        done: Deferred[None] = maybeDeferred(
            deferToThreadPool, self._reactor, self._pool, self._file.commit, batch
        )

        def committed(result: None) -> None:
            self._metrics.committed(len(batch.rows), self._monotonic() - started)
            if self.problem:
                self._log.info("the store can be written again")
            self.problem = ""

        def failed(failure: Failure) -> Failure:
            self.memory.put_back(batch.memory)
            self._metrics.store_errors += 1
            problem = failure.getErrorMessage()
            if problem != self.problem:
                # Once, and not with each try.
                self._log.error("{problem}", problem=problem)
            self.problem = problem
            return failure

        return done.addCallbacks(committed, failed)

    def later(self, seconds: float, call: Callable[[], None]) -> IDelayedCall:
        """Call this after so many seconds, 0 for the reactor's next turn."""
        later: IDelayedCall = self._reactor.callLater(seconds, call)
        return later

    async def close(self, orderly: bool) -> None:
        """End the thread and close the file, with the mark that all is in it."""
        try:
            call = self._file.close if orderly and not self.problem else self._file.abandon
            await deferToThreadPool(self._reactor, self._pool, call)
        except StoreError as error:
            self._log.error("{error}", error=error)
        self._pool.stop()


class Writer:
    """Records in batches what the memory has already answered for: a Recorder.

    A commit begins at most `interval` seconds after what is in it was published. While the
    file cannot be written, what is waiting is tried again each second, and nothing more
    is taken; so it is when more than MOST_WAITING_BYTES wait.
    """

    def __init__(
        self,
        committer: Committer,
        history: History,
        reactor: IReactorTime,
        interval: float,
    ):
        self._committer = committer
        self._history = history
        self._reactor = reactor
        self._interval = interval
        self._rows: list[Publication] = []
        self._keys: list[Remembered] = []
        self._touched: dict[str, None] = {}
        self._bytes = 0
        self._call: IDelayedCall | None = None
        self._busy: Deferred[None] | None = None
        committer.memory.changed = self._schedule

    def check(self) -> None:
        if self._committer.problem:
            raise Unavailable(f"the store failed: {self._committer.problem}")
        if self._bytes > MOST_WAITING_BYTES:
            message = f"the store is too slow: {self._bytes} bytes wait to be written"
            raise Unavailable(message)

    def append(self, publication: Publication, known: Remembered | None) -> None:
        self._rows.append(publication)
        self._bytes += len(publication.data)
        if known is not None:
            self._keys.append(known)
        self.touch(publication.channel)

    def touch(self, channel: str) -> None:
        self._touched[channel] = None
        self._schedule()

    def _schedule(self) -> None:
        if self._call is None and self._busy is None:
            self._call = self._reactor.callLater(self._interval, self._flush)

    @property
    def _waits(self) -> bool:
        return bool(self._touched) or self._committer.memory.waits

    async def finish(self) -> bool:
        """Commit what waits; False when that failed."""
        while self._busy is not None or self._waits:
            if self._busy is None:
                self._flush()
            assert self._busy is not None
            await self._after(self._busy)
            if self._committer.problem:
                break
        if self._call is not None:
            self._call.cancel()
            self._call = None
        return not self._waits

    def _after(self, busy: Deferred[None]) -> Deferred[None]:
        waiting: Deferred[None] = Deferred()
        busy.addCallback(lambda _: waiting.callback(None))
        return waiting

    def _flush(self) -> None:
        if self._call is not None and self._call.active():
            self._call.cancel()
        self._call = None
        batch, size = self._take()
        self._busy = Deferred()
        self._committer.commit(batch).addCallbacks(
            lambda _: self._done(size), lambda _: self._put_back(batch)
        )

    def _take(self) -> tuple[Batch, int]:
        batch = Batch(seq=self._history.seq, keys=self._keys)
        floors: dict[str, int] = {}
        for name in self._touched:
            channel = self._history.channels.get(name)
            if channel is None:
                batch.forgotten.append(name)
            else:
                batch.states.append(state(channel))
                floors[name] = channel.floor
        # What was evicted meanwhile need not be written at all.
        batch.rows = [r for r in self._rows if r.channel in floors and r.offset > floors[r.channel]]
        size = self._bytes
        self._rows, self._keys, self._touched = [], [], {}
        return batch, size

    def _done(self, size: int) -> None:
        self._bytes -= size
        self._free(self._interval)

    def _put_back(self, batch: Batch) -> None:
        self._rows = batch.rows + self._rows
        self._keys = batch.keys + self._keys
        names = [*(s.name for s in batch.states), *batch.forgotten]
        self._touched = dict.fromkeys([*names, *self._touched])
        self._free(RETRY_SECONDS)

    def _free(self, interval: float) -> None:
        busy, self._busy = self._busy, None
        if self._waits:
            self._call = self._reactor.callLater(interval, self._flush)
        if busy is not None:
            busy.callback(None)


class Finisher(Protocol):
    """What has something to commit at the end."""

    async def finish(self) -> bool:
        """Commit what waits; False when that failed."""


class Storage(Service):
    """The store as a part of the server: opened at the start, closed with all in it.

    `clock` gives Unix seconds.
    """

    def __init__(self, committer: Committer, finisher: Finisher, clock: Callable[[], float]):
        self._committer = committer
        self._finisher = finisher
        self._clock = clock
        self.memory = committer.memory

    def startService(self) -> None:
        self._committer.start(self._clock())
        super().startService()

    def stopService(self) -> Deferred[None]:
        super().stopService()
        return Deferred.fromCoroutine(self._close())

    async def _close(self) -> None:
        await self._committer.close(await self._finisher.finish())
