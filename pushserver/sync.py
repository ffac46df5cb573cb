"""The durable way to publish: nobody is told of a publication before it is committed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from pushserver.broker import MemoryBroker, Unavailable
from pushserver.channel import Draft, Publication, Receipt
from pushserver.history import History
from pushserver.idempotency import Keys, Remembered
from pushserver.metrics import Metrics
from pushserver.sqlite import Batch, state
from pushserver.store import Committer


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


class SyncBroker(MemoryBroker):
    """Delivers and answers only what is in the file.

    Drafts that come while a commit is under way wait and are committed together; they get
    their numbers then, so that a commit that fails leaves no hole.
    """

    _log = Logger()

    def __init__(
        self,
        history: History,
        keys: Keys,
        metrics: Metrics,
        clock: Callable[[], float],
        committer: Committer,
    ):
        super().__init__(history, keys, metrics, clock)
        self._committer = committer
        self._waiting: list[Waiting] = []
        self._pending: dict[tuple[str, str], Waiting] = {}
        self._touched: dict[str, None] = {}
        self._clears: list[Deferred[None]] = []
        self._idle: list[Deferred[None]] = []
        self._busy = False
        self._call: IDelayedCall | None = None
        committer.memory.changed = self._schedule

    async def publish(self, draft: Draft) -> Receipt:
        known = self.known(draft, self._clock())
        if known is not None:
            return known
        first = self._pending.get((draft.channel, draft.key)) if draft.key else None
        if first is not None:
            self.metrics.duplicates += 1
            return await first.wait()
        waiting = Waiting(draft)
        if draft.key:
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
        if self._busy:
            # What is being committed has its numbers from channels that must not be
            # forgotten meanwhile; the next sweep comes.
            return
        self._keys.expire(now)
        evicted, changed = self.history.expire(now, watched)
        self.metrics.evictions += evicted
        self._touched.update(dict.fromkeys(changed))
        self._flush()

    async def finish(self) -> bool:
        """Commit what waits; False when that failed."""
        while self._busy or (self._unwritten and not self._committer.problem):
            self._flush()
            idle: Deferred[None] = Deferred()
            self._idle.append(idle)
            await idle
        return not self._unwritten

    @property
    def _unwritten(self) -> bool:
        return bool(self._touched) or self._committer.memory.waits

    def _schedule(self) -> None:
        # A source that remembers publishes on in the same turn, if it has more: one
        # commit for both.
        if self._call is None and not self._busy:
            self._call = self._committer.soon(self._flush)

    def _flush(self) -> None:
        if self._call is not None and self._call.active():
            self._call.cancel()
        self._call = None
        if self._busy or not (self._waiting or self._unwritten):
            return
        self._busy = True
        waiting, self._waiting = self._waiting, []
        clears, self._clears = self._clears, []
        now = self._clock()
        rows = self._number([one.draft for one in waiting], now)
        batch = self._batch(rows, waiting, now)
        touched, self._touched = self._touched, {}
        done = self._committer.commit(batch, now)
        done.addCallbacks(
            lambda _: self._committed(rows, waiting, clears),
            lambda why: self._failed(waiting, clears, touched, why),
        )
        done.addErrback(lambda why: self._log.failure("after a commit", why))
        done.addBoth(self._next)

    def _number(self, drafts: list[Draft], now: float) -> list[Publication]:
        rows: list[Publication] = []
        ahead: Counter[str] = Counter()
        for draft in drafts:
            rows.append(self.history.number(draft, now, len(rows), ahead[draft.channel]))
            ahead[draft.channel] += 1
        return rows

    def _batch(self, rows: list[Publication], waiting: list[Waiting], now: float) -> Batch:
        """The rows, and the numbers that their channels will have once they are appended.

        What appending will evict is not known yet: a later batch takes it away, or a
        start does.
        """
        batch = Batch(seq=self.history.seq + len(rows), rows=rows)
        batch.keys = [
            Remembered(row.channel, one.draft.key, row.receipt, now)
            for row, one in zip(rows, waiting, strict=True)
            if one.draft.key
        ]
        tops = {row.channel: row.offset for row in rows}
        for name in {**self._touched, **tops}:
            if name not in tops and name not in self.history.channels:
                batch.forgotten.append(name)
            else:
                known = state(self.history.peek(name))
                batch.states.append(replace(known, top=tops.get(name, known.top)))
        return batch

    def _committed(
        self, rows: list[Publication], waiting: list[Waiting], clears: list[Deferred[None]]
    ) -> None:
        for row, one in zip(rows, waiting, strict=True):
            self._pending.pop((row.channel, one.draft.key), None)
            self.append(row, one.draft.key)
            self._deliver(row)
            for answer in one.answers:
                answer.callback(row.receipt)
        for done in clears:
            done.callback(None)

    def _failed(
        self,
        waiting: list[Waiting],
        clears: list[Deferred[None]],
        touched: dict[str, None],
        failure: Failure,
    ) -> None:
        self._touched = {**touched, **self._touched}
        message = f"the store failed: {failure.getErrorMessage()}"
        for one in waiting:
            self._pending.pop((one.draft.channel, one.draft.key), None)
            for answer in one.answers:
                answer.errback(Unavailable(message))
        for done in clears:
            done.errback(Unavailable(message))

    def _next(self, result: object) -> None:
        self._busy = False
        remembered = self._committer.memory.waits and not self._committer.problem
        if self._waiting or self._clears or remembered:
            self._flush()
            return
        idle, self._idle = self._idle, []
        for one in idle:
            one.callback(None)
