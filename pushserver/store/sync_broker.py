"""Publishes with sync durability: publications are committed, then delivered and acknowledged."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from itertools import chain

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
from pushserver.store.waiting import CALL_BYTES, check_room, waiting_bytes


@dataclass(slots=True, eq=False)
class PendingDraft:
    """A draft without numbers, and the callers that wait for its receipt."""

    draft: Draft
    answers: list[Deferred[Receipt]] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class Round:
    """The drafts and clears of one commit.

    `rows` are the drafts with numbers, in the same order, numbered at `born` (steady clock).
    `clears` are the callers by channel.
    """

    waiting: list[PendingDraft] = field(default_factory=list)
    clears: dict[str, list[Deferred[None]]] = field(default_factory=dict)
    rows: list[Numbered] = field(default_factory=list)
    born: float = 0.0


class SyncBroker(MemoryBroker):
    """A Broker and a Queue: delivers and acknowledges a publication when it is in the file.

    Drafts that come during a commit wait, and are committed together. They get their numbers
    when their commit starts, so that a failed commit leaves no hole. A clear removes the rows from
    before its commit when that has succeeded. The channels of a commit are pinned until its rows
    are appended: watchers may leave and sweeps may run meanwhile.
    """

    _log = Logger()
    is_immediate = False

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
        self.batcher = Batcher(self, committer, history, monotonic, reactor, interval=0)
        self._pending: dict[tuple[str, str], PendingDraft] = {}
        self._pending_keys: Counter[str] = Counter()
        self._next = Round()
        self._current = Round()
        self._bytes = 0

    async def publish(self, draft: Draft) -> Receipt:
        if draft.key:
            first = self._pending.get((draft.channel, draft.key))
            if first is not None:
                check_room(self._bytes)
                self.metrics.duplicates += 1
                return await self._answer(first)
            receipt = self.find_receipt(
                draft,
                self._monotonic(),
                len(self._pending),
                self._pending_keys[draft.publisher],
            )
            if receipt is not None:
                return receipt
        check_room(self._bytes)
        if draft.channel not in self.history.channels:
            self.history.room.make((draft.channel,))
        waiting = PendingDraft(draft)
        if draft.key:
            self._pending[draft.channel, draft.key] = waiting
            self._pending_keys[draft.publisher] += 1
        self._next.waiting.append(waiting)
        self._bytes += waiting_bytes(draft)
        answer = self._answer(waiting)
        self.batcher.flush()
        return await answer

    def _answer(self, waiting: PendingDraft) -> Deferred[Receipt]:
        """The receipt for one more caller, or Unavailable."""
        answer: Deferred[Receipt] = Deferred()
        waiting.answers.append(answer)
        self._bytes += CALL_BYTES
        return answer

    async def clear(self, channel: str) -> None:
        if channel not in self.history.channels:
            return
        check_room(self._bytes)
        done: Deferred[None] = Deferred()
        self._next.clears.setdefault(channel, []).append(done)
        self._bytes += CALL_BYTES
        self.batcher.flush()
        await done

    async def settle(self) -> None:
        await self.batcher.settle()

    def expire(self, now: float, watched: Callable[[str], bool]) -> bool:
        are_left = super().expire(now, watched)
        self.batcher.flush()
        return are_left

    def _touch(self, channel: str) -> None:
        self.batcher.touch(channel)

    @property
    def urgent(self) -> bool:
        return bool(self._next.waiting or self._next.clears)

    @property
    def lost(self) -> int:
        # Those that wait were not accepted.
        return 0

    @property
    def waiting(self) -> tuple[int, int]:
        return len(self._next.waiting) + len(self._current.waiting), self._bytes

    @property
    def cleared(self) -> Collection[str]:
        return self._current.clears

    def take(self) -> Sequence[Numbered]:
        current = self._current = self._next
        self._next = Round()
        now, current.born = self._clock(), self._monotonic()
        for channel in current.clears:
            if channel in self.history.channels:
                self.history.pin(channel)
        ahead: Counter[str] = Counter()
        for draft in (waiting.draft for waiting in current.waiting):
            self.history.pin(draft.channel)
            row = self.history.number(draft, now, len(current.rows), ahead[draft.channel])
            ahead[draft.channel] += 1
            current.rows.append((row, key_entry(row, draft, now) if draft.key else None))
        return current.rows

    def committed(self) -> None:
        current = self._end_round()
        for name in current.clears:
            self.metrics.evictions += self.history.clear(name)
        try:
            for (row, entry), waiting in zip(current.rows, current.waiting, strict=True):
                self._settle(row, entry, waiting, current.born)
        finally:
            self.history.unpin()
        for done in chain.from_iterable(current.clears.values()):
            done.callback(None)

    def _end_round(self) -> Round:
        """Return the round of the commit that has ended."""
        current, self._current = self._current, Round()
        self._bytes -= CALL_BYTES * sum(map(len, current.clears.values()))
        return current

    def _end_wait(self, waiting: PendingDraft) -> list[Deferred[Receipt]]:
        """Return the callers of a draft that no longer waits; no further ones may join them."""
        draft = waiting.draft
        if self._pending.pop((draft.channel, draft.key), None) is not None:
            self._pending_keys[draft.publisher] -= 1
            if not self._pending_keys[draft.publisher]:
                del self._pending_keys[draft.publisher]
        self._bytes -= waiting_bytes(waiting.draft) + CALL_BYTES * len(waiting.answers)
        return waiting.answers

    def _settle(
        self, row: Publication, entry: KeyEntry | None, waiting: PendingDraft, born: float
    ) -> None:
        """Retain, deliver and answer a committed row.

        Each step is guarded: the file has the row and its numbers, so the next rows must follow
        it even if a step fails here.
        """
        answers = self._end_wait(waiting)
        try:
            self.append(row, entry, born)
        except Exception:
            self._log.failure(
                "{channel} lost its history in memory",
                channel=row.channel,
                event_name="history_lost",
            )
            self.history.skip(row)
            self.batcher.touch(row.channel)
        try:
            self._deliver(row, waiting.draft.skip)
        except Exception:
            self._log.failure(
                "a publication to {channel} was not delivered",
                channel=row.channel,
                event_name="publication_not_delivered",
            )
        for answer in answers:
            answer.callback(row.receipt)

    def failed(self, reason: str) -> None:
        current = self._end_round()
        for waiting in current.waiting:
            for answer in self._end_wait(waiting):
                answer.errback(Unavailable(reason))
        for done in chain.from_iterable(current.clears.values()):
            done.errback(Unavailable(reason))
        self.history.unpin()
