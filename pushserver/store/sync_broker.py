"""The durable way to publish: nobody is told of a publication before it is committed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from pushserver.channels.history import History
from pushserver.channels.idempotency import Keys, Remembered
from pushserver.channels.publication import Draft, Publication, Receipt
from pushserver.errors import Unavailable
from pushserver.hub.broker import MemoryBroker, remembered
from pushserver.hub.metrics import Metrics
from pushserver.store.service import RETRY_SECONDS, Committer
from pushserver.store.sqlite import Batch, StoreError, state


@dataclass(slots=True, eq=False)
class Waiting:
    """A draft that has no numbers yet, and those who wait for its receipt."""

    draft: Draft
    answers: list[Deferred[Receipt]] = field(default_factory=list)

    def wait(self) -> Deferred[Receipt]:
        """The receipt, or Unavailable."""
        answer: Deferred[Receipt] = Deferred()
        self.answers.append(answer)
        return answer


@dataclass(slots=True, eq=False)
class Round:
    """One commit: the drafts and clears that it answers, and the channels that lost rows.

    `rows` are the drafts with their numbers and `answers` what is remembered of their keys, in
    the same order; they were made at `born`, by the steady clock.
    """

    waiting: list[Waiting]
    clears: list[Deferred[None]]
    touched: dict[str, None]
    born: float
    rows: list[Publication] = field(default_factory=list)
    answers: list[Remembered | None] = field(default_factory=list)


class SyncBroker(MemoryBroker):
    """Delivers and answers only what is in the file.

    Drafts that come while a commit is under way wait and are committed together; they get
    their numbers then, so that a commit that fails leaves no hole. The channels of a commit
    are pinned until its rows are appended, so that watchers may leave and sweeps be made
    meanwhile.
    """

    _log = Logger()

    def __init__(
        self,
        history: History,
        keys: Keys,
        metrics: Metrics,
        clock: Callable[[], float],
        monotonic: Callable[[], float],
        committer: Committer,
    ):
        super().__init__(history, keys, metrics, clock, monotonic)
        self._committer = committer
        self._waiting: list[Waiting] = []
        self._pending: dict[tuple[str, str], Waiting] = {}
        self._touched: dict[str, None] = {}
        self._clears: list[Deferred[None]] = []
        self._idle: list[Deferred[None]] = []
        self._busy = False
        self._failing = False
        self._call: IDelayedCall | None = None
        committer.memory.changed = self._schedule

    async def publish(self, draft: Draft) -> Receipt:
        waiting = Waiting(draft)
        if draft.key:
            first = self._pending.get((draft.channel, draft.key))
            if first is not None:
                self.metrics.duplicates += 1
                return await first.wait()
            known = self.known(draft, self._monotonic(), len(self._pending))
            if known is not None:
                return known
            self._pending[draft.channel, draft.key] = waiting
        self._waiting.append(waiting)
        answer = waiting.wait()
        self._flush()
        return await answer

    async def clear(self, channel: str) -> None:
        if channel not in self.history.channels:
            return
        self.metrics.evictions += self.history.channels[channel].clear()
        self._touched[channel] = None
        done: Deferred[None] = Deferred()
        self._clears.append(done)
        self._flush()
        await done

    def expire(self, now: float, watched: Callable[[str], bool]) -> None:
        self._keys.expire(now)
        evicted, changed = self.history.expire(now, watched)
        self.metrics.evictions += evicted
        self._touched.update(dict.fromkeys(changed))
        self._flush()

    async def finish(self) -> bool:
        """Commit what waits; False when that failed."""
        tried = False
        while self._busy or (self._unwritten and not (tried and self._failing)):
            if not self._busy:
                self._flush()
                tried = True
            if self._busy:
                idle: Deferred[None] = Deferred()
                self._idle.append(idle)
                await idle
        self._cancel()
        return not self._unwritten

    @property
    def _unwritten(self) -> bool:
        return bool(self._touched) or self._committer.memory.waits

    def _schedule(self) -> None:
        # A source that remembers publishes on in the same turn, if it has more: one
        # commit for both.
        if self._call is None and not self._busy:
            self._call = self._committer.later(0, self._flush)

    def _cancel(self) -> None:
        if self._call is not None and self._call.active():
            self._call.cancel()
        self._call = None

    def _flush(self) -> None:
        self._cancel()
        if self._busy or not (self._waiting or self._unwritten):
            return
        self._busy = True
        one = Round(self._waiting, self._clears, self._touched, self._monotonic())
        self._waiting, self._clears, self._touched = [], [], {}
        done = maybeDeferred(self._commit, one)
        done.addCallbacks(lambda _: self._committed(one), lambda why: self._failed(one, why))
        done.addErrback(lambda why: self._log.failure("after a commit", why))
        done.addBoth(lambda _: self._next())

    def _commit(self, one: Round) -> Deferred[None]:
        now = self._clock()
        ahead: Counter[str] = Counter()
        for draft in (waiting.draft for waiting in one.waiting):
            self.history.pin(draft.channel)
            row = self.history.number(draft, now, len(one.rows), ahead[draft.channel])
            ahead[draft.channel] += 1
            one.rows.append(row)
            one.answers.append(remembered(row, draft.key, now) if draft.key else None)
        return self._committer.commit(self._batch(one))

    def _batch(self, one: Round) -> Batch:
        """The rows, and the numbers that their channels will have once they are appended.

        What appending will evict is not known yet: a later batch takes it away, or a
        start does.
        """
        batch = Batch(seq=self.history.seq + len(one.rows), rows=one.rows)
        batch.keys = [answer for answer in one.answers if answer is not None]
        tops = {row.channel: row.offset for row in one.rows}
        for name in {**one.touched, **tops}:
            if name not in self.history.channels:
                batch.forgotten.append(name)
            else:
                known = state(self.history.peek(name))
                batch.states.append(replace(known, top=tops.get(name, known.top)))
        return batch

    def _committed(self, one: Round) -> None:
        self._failing = False
        for row, known, waiting in zip(one.rows, one.answers, one.waiting, strict=True):
            self._settle(row, known, waiting, one.born)
        for done in one.clears:
            done.callback(None)

    def _settle(
        self, row: Publication, known: Remembered | None, waiting: Waiting, born: float
    ) -> None:
        """Retain, deliver and answer a committed row.

        Each step is guarded: the file has the row and its numbers, so that the next rows must
        follow it whatever fails here.
        """
        self._pending.pop((row.channel, waiting.draft.key), None)
        try:
            self.append(row, known, born)
        except Exception:
            self._log.failure("{channel} lost its history in memory", channel=row.channel)
            self.history.skip(row)
            self._touched[row.channel] = None
        try:
            self._deliver(row)
        except Exception:
            self._log.failure("a publication to {channel} was not delivered", channel=row.channel)
        for answer in waiting.answers:
            answer.callback(row.receipt)

    def _failed(self, one: Round, failure: Failure) -> None:
        if failure.check(StoreError) is None and not self._failing:
            # Once, and not with each try.
            self._log.failure("a commit could not begin", failure)
        self._failing = True
        self._touched = {**one.touched, **self._touched}
        message = f"the store failed: {failure.getErrorMessage()}"
        for waiting in one.waiting:
            self._pending.pop((waiting.draft.channel, waiting.draft.key), None)
            for answer in waiting.answers:
                answer.errback(Unavailable(message))
        for done in one.clears:
            done.errback(Unavailable(message))

    def _next(self) -> None:
        self._busy = False
        self.history.unpin()
        if self._waiting or self._clears or (self._unwritten and not self._failing):
            self._flush()
            return
        if self._unwritten:
            # Nobody waits for what is left over after a failure, but it is to be written.
            self._call = self._committer.later(RETRY_SECONDS, self._flush)
        idle, self._idle = self._idle, []
        for done in idle:
            done.callback(None)
