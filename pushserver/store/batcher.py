"""Commits changes to the store in batches, one commit at a time."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

from twisted.internet.defer import Deferred, TimeoutError
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger

from pushserver.channels.history import History
from pushserver.channels.idempotency import KeyEntry
from pushserver.channels.publication import Publication
from pushserver.store.batch import Batch, state
from pushserver.store.committer import Committer
from pushserver.store.opening import StoreError
from pushserver.store.source_memory import SourceMemory

RETRY_SECONDS = 1.0

COMMIT_SECONDS = 4.0
"""The time for a commit that is running when the time of a stop is over."""

Numbered = tuple[Publication, KeyEntry | None]
"""A publication, and the entry of its idempotency key if it has one."""


class Queue(Protocol):
    """The publications that wait for a commit; acknowledges them before or after it."""

    @property
    def urgent(self) -> bool:
        """Whether a caller waits for the next commit."""

    @property
    def lost(self) -> int:
        """The number of accepted publications that wait for a commit."""

    @property
    def waiting(self) -> tuple[int, int]:
        """The publications that wait for a commit, and their bytes, roughly."""

    @property
    def cleared(self) -> Collection[str]:
        """The channels whose rows from before the commit it removes, after `take`."""

    def take(self) -> Sequence[Numbered]:
        """Return the publications for the commit that starts."""

    def committed(self) -> None:
        """Handle a success: the publications taken last are in the file."""

    def failed(self, reason: str) -> None:
        """Handle a failure: no publication taken last is in the file."""


class Batcher:
    """Commits a queue, the channels that changed, and the memory of the sources.

    A commit starts `interval` seconds after a change, or with `flush`. With an interval of 0
    commits follow each other without a pause. After a failure the next one starts when a caller
    waits for it, else after RETRY_SECONDS. `monotonic` is the steady clock.
    """

    _log = Logger()

    def __init__(
        self,
        queue: Queue,
        committer: Committer,
        history: History,
        monotonic: Callable[[], float],
        reactor: IReactorTime,
        interval: float,
    ):
        self.memory = SourceMemory(self._schedule)
        self._queue = queue
        self._committer = committer
        self._history = history
        self._monotonic = monotonic
        self._reactor = reactor
        self._interval = interval
        # The channels that changed, and whether each was forgotten, even if it came back.
        self._touched: dict[str, bool] = {}
        self._call: IDelayedCall | None = None
        self._busy = False
        self._failing = False
        self._probed_at = float("-inf")
        self._finished = False
        self._idle: list[Deferred[None]] = []

    def touch(self, channel: str) -> None:
        """Write this channel's numbers, which changed, or that it was forgotten."""
        forgotten = channel not in self._history.channels
        self._touched[channel] = forgotten or self._touched.get(channel, False)
        self._schedule()

    def flush(self) -> None:
        """Start a commit now if there is a change and no commit is running."""
        self._cancel()
        if self._queue.urgent or self._changed:
            self._start()

    def probe(self) -> None:
        """After a failure, start a commit although there may be no change.

        One RETRY_SECONDS after the last at most. A queue that waits for callers may get none: they
        come back when the server is ready again.
        """
        now = self._monotonic()
        if self._failing and now - self._probed_at >= RETRY_SECONDS:
            self._probed_at = now
            self._cancel()
            self._start()

    def _start(self) -> None:
        if not self._busy and not self._finished:
            self._busy = True
            commit = Deferred.fromCoroutine(self._commit())
            commit.addErrback(
                lambda failure: self._log.failure(
                    "a call after a commit failed", failure, event_name="after_commit_failed"
                )
            )
            commit.addCallback(lambda _: self._next())

    async def finish(self, seconds: float = 0.0) -> bool:
        """Commit all changes; return whether that succeeded. Later changes are not committed.

        After a failure it tries once more, and each RETRY_SECONDS until `seconds` have passed.
        A commit may take COMMIT_SECONDS longer before it is given up.
        """
        until, tried = self._monotonic() + seconds, False
        while self._busy or self._changed:
            left = max(0.0, until - self._monotonic())
            if not self._busy:
                if tried and self._failing:
                    if not left:
                        break
                    await deferLater(self._reactor, min(left, RETRY_SECONDS))
                tried = True
                self.flush()
            settled = Deferred.fromCoroutine(self.settle())
            try:
                await settled.addTimeout(left + COMMIT_SECONDS, self._reactor)
            except TimeoutError:
                break
        self._finished = True
        self._cancel()
        return not self._busy and not self._changed

    @property
    def lost(self) -> int:
        """The number of accepted publications that are lost if no further commit succeeds."""
        return self._queue.lost

    @property
    def waiting(self) -> tuple[int, int]:
        """The publications that wait for a commit, and their bytes, roughly."""
        return self._queue.waiting

    async def settle(self) -> None:
        """Wait until no commit is running and no caller waits for one."""
        if self._busy:
            idle: Deferred[None] = Deferred()
            self._idle.append(idle)
            await idle

    @property
    def _changed(self) -> bool:
        return bool(self._touched) or self.memory.waits

    def _schedule(self) -> None:
        # An interval of 0 means the next turn: a source that remembers a value may publish in this
        # one, and one commit is enough for both.
        if self._call is None and not self._busy and not self._finished:
            self._call = self._reactor.callLater(self._interval, self.flush)

    def _cancel(self) -> None:
        if self._call is not None and self._call.active():
            self._call.cancel()
        self._call = None

    async def _commit(self) -> None:
        touched, self._touched = self._touched, {}
        memory = self.memory.take()
        try:
            await self._committer.commit(self._batch(self._queue.take(), touched, memory))
        except Exception as error:
            if not isinstance(error, StoreError) and not self._failing:
                # Once, not for each attempt.
                self._log.failure("a commit could not start", event_name="commit_not_started")
            self._failing = True
            for name, forgotten in touched.items():
                self._touched[name] = forgotten or self._touched.get(name, False)
            self.memory.put_back(memory)
            self._queue.failed(f"the store failed: {error}")
        else:
            self._failing = False
            self._queue.committed()

    def _batch(
        self, taken: Sequence[Numbered], touched: Mapping[str, bool], memory: dict[str, bytes]
    ) -> Batch:
        """The batch, with the numbers that channels have once all rows are appended.

        Rows that were evicted already, or were in a channel that was forgotten, are left out.
        Rows that these rows evict are deleted from the file by a later batch, or at a start.
        A channel without publications is not in the file.
        """
        channels, forgotten = self._history.channels, self._history.forgotten
        seq = taken[-1][0].seq if taken else self._history.seq
        keys = [entry for _, entry in taken if entry is not None]
        batch = Batch(seq=seq, keys=keys, memory=memory)
        cleared = self._queue.cleared
        names = {**dict.fromkeys([*cleared, *(row.channel for row, _ in taken)], False), **touched}
        states = {
            name: state(channels[name], name in cleared) for name in names if name in channels
        }
        # By seq: the rows of a forgotten channel may have any offset in the one that came back.
        rows = (row for row, _ in taken if row.channel in states)
        batch.rows = [row for row in rows if row.seq > states[row.channel].floor_seq]
        tops = {row.channel: row.offset for row in batch.rows}
        for name, was_forgotten in names.items():
            top = max(states[name].top, tops.get(name, 0)) if name in states else 0
            if was_forgotten or not top:
                batch.forgotten[name] = forgotten.seq(name)
            if top:
                batch.states.append(replace(states[name], top=top))
        return batch

    def _next(self) -> None:
        self._busy = False
        if self._finished:
            return
        pause = RETRY_SECONDS if self._failing else self._interval
        if self._queue.urgent or (self._changed and not pause):
            self.flush()
            return
        if self._changed:
            self._call = self._reactor.callLater(pause, self.flush)
        idle, self._idle = self._idle, []
        for done in idle:
            done.callback(None)
