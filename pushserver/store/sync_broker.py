"""Publishes with sync durability: publications are committed, then delivered and acknowledged."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from pushserver.channels.history import History
from pushserver.channels.idempotency import KeyEntry, Keys
from pushserver.channels.publication import Draft, Publication, Receipt
from pushserver.errors import Unavailable
from pushserver.hub.broker import MemoryBroker, key_entry
from pushserver.hub.metrics import Metrics
from pushserver.store.batcher import Batcher, Numbered
from pushserver.store.committer import Committer


@dataclass(slots=True, eq=False)
class PendingDraft:
    """A draft without numbers, and the callers that wait for its receipt."""

    draft: Draft
    answers: list[Deferred[Receipt]] = field(default_factory=list)

    def wait(self) -> Deferred[Receipt]:
        """The receipt, or Unavailable."""
        answer: Deferred[Receipt] = Deferred()
        self.answers.append(answer)
        return answer


@dataclass(slots=True, eq=False)
class Round:
    """The drafts and clears of one commit.

    `rows` are the drafts with numbers, in the same order, numbered at `born` (steady clock).
    """

    waiting: list[PendingDraft] = field(default_factory=list)
    clears: list[Deferred[None]] = field(default_factory=list)
    rows: list[Numbered] = field(default_factory=list)
    born: float = 0.0


class SyncBroker(MemoryBroker):
    """A Broker and a Queue: delivers and acknowledges a publication when it is in the file.

    Drafts that come during a commit wait, and are committed together. They get their numbers
    when their commit starts, so that a failed commit leaves no hole. The channels of a commit are
    pinned until its rows are appended: watchers may leave and sweeps may run meanwhile.
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
        reactor: IReactorTime,
    ):
        super().__init__(history, keys, metrics, clock, monotonic)
        self.batcher = Batcher(self, committer, history, reactor, interval=0)
        self._pending: dict[tuple[str, str], PendingDraft] = {}
        self._next = Round()
        self._current = Round()

    async def publish(self, draft: Draft) -> Receipt:
        waiting = PendingDraft(draft)
        if draft.key:
            first = self._pending.get((draft.channel, draft.key))
            if first is not None:
                self.metrics.duplicates += 1
                return await first.wait()
            receipt = self.find_receipt(draft, self._monotonic(), len(self._pending))
            if receipt is not None:
                return receipt
            self._pending[draft.channel, draft.key] = waiting
        self._next.waiting.append(waiting)
        answer = waiting.wait()
        self.batcher.flush()
        return await answer

    async def clear(self, channel: str) -> None:
        if channel not in self.history.channels:
            return
        self.metrics.evictions += self.history.channels[channel].clear()
        self.batcher.touch(channel)
        done: Deferred[None] = Deferred()
        self._next.clears.append(done)
        self.batcher.flush()
        await done

    async def settle(self) -> None:
        await self.batcher.settle()

    def expire(self, now: float, watched: Callable[[str], bool]) -> None:
        self._keys.expire(now)
        evicted, changed = self.history.expire(now, watched)
        self.metrics.evictions += evicted
        for channel in changed:
            self.batcher.touch(channel)
        self.batcher.flush()

    @property
    def urgent(self) -> bool:
        return bool(self._next.waiting or self._next.clears)

    def take(self) -> Sequence[Numbered]:
        current = self._current = self._next
        self._next = Round()
        now, current.born = self._clock(), self._monotonic()
        ahead: Counter[str] = Counter()
        for draft in (waiting.draft for waiting in current.waiting):
            self.history.pin(draft.channel)
            row = self.history.number(draft, now, len(current.rows), ahead[draft.channel])
            ahead[draft.channel] += 1
            current.rows.append((row, key_entry(row, draft.key, now) if draft.key else None))
        return current.rows

    def committed(self) -> None:
        current = self._current
        try:
            for (row, entry), waiting in zip(current.rows, current.waiting, strict=True):
                self._settle(row, entry, waiting, current.born)
        finally:
            self.history.unpin()
        for done in current.clears:
            done.callback(None)

    def _settle(
        self, row: Publication, entry: KeyEntry | None, waiting: PendingDraft, born: float
    ) -> None:
        """Retain, deliver and answer a committed row.

        Each step is guarded: the file has the row and its numbers, so the next rows must follow
        it even if a step fails here.
        """
        self._pending.pop((row.channel, waiting.draft.key), None)
        try:
            self.append(row, entry, born)
        except Exception:
            self._log.failure("{channel} lost its history in memory", channel=row.channel)
            self.history.skip(row)
            self.batcher.touch(row.channel)
        try:
            self._deliver(row)
        except Exception:
            self._log.failure("a publication to {channel} was not delivered", channel=row.channel)
        for answer in waiting.answers:
            answer.callback(row.receipt)

    def failed(self, reason: str) -> None:
        current = self._current
        for waiting in current.waiting:
            self._pending.pop((waiting.draft.channel, waiting.draft.key), None)
            for answer in waiting.answers:
                answer.errback(Unavailable(reason))
        for done in current.clears:
            done.errback(Unavailable(reason))
        self.history.unpin()
