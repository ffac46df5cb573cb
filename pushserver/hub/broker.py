"""Between publishing and delivering: what numbers and keeps publications."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from pushserver.channels.history import History
from pushserver.channels.idempotency import Keys, Remembered
from pushserver.channels.publication import Draft, Publication, Receipt
from pushserver.hub.metrics import Metrics

Deliver = Callable[[Publication], None]


class Broker(Protocol):
    """Numbers each draft, keeps it, and hands it on for delivery in the order of its offsets.

    `history` is the log to read from, complete up to what was handed on.
    """

    history: History
    metrics: Metrics

    def attach(self, deliver: Deliver) -> None:
        """Hand each publication on to `deliver`; called once, before the first publish."""

    async def publish(self, draft: Draft) -> Receipt:
        """Append the draft; answer when it is kept to the degree that this broker promises.

        Raises Unavailable when it was not appended.
        """

    async def clear(self, channel: str) -> None:
        """Drop the channel's history; its numbers go on."""

    def expire(self, now: float, watched: Callable[[str], bool]) -> None:
        """Evict by age; forget channels that are empty and not `watched`, and old keys.

        `now` is by the steady clock.
        """


class Recorder(Protocol):
    """What writes down, behind the memory."""

    def check(self) -> None:
        """Raise Unavailable if nothing can be recorded now."""

    def append(self, publication: Publication, known: Remembered | None) -> None:
        """Record soon; the same turn sees the publication delivered."""

    def touch(self, channel: str) -> None:
        """The channel lost rows, or is forgotten."""


class NoRecorder:
    """Memory is all there is."""

    def check(self) -> None:
        """Always."""

    def append(self, publication: Publication, known: Remembered | None) -> None:
        """Nowhere."""

    def touch(self, channel: str) -> None:
        """Nothing to change."""


class MemoryBroker:
    """One process, its memory: all of a publication happens in the publisher's own turn.

    A recorder may write down behind it what happened here. `clock` gives Unix seconds, which
    publications are stamped with; `monotonic` is the steady clock, which ages are measured by.
    """

    def __init__(
        self,
        history: History,
        keys: Keys,
        metrics: Metrics,
        clock: Callable[[], float],
        monotonic: Callable[[], float],
        recorder: Recorder | None = None,
    ):
        self.history = history
        self.metrics = metrics
        self._keys = keys
        self._clock = clock
        self._monotonic = monotonic
        self._recorder = recorder or NoRecorder()
        self._deliver: Deliver = _to_nobody

    def attach(self, deliver: Deliver) -> None:
        self._deliver = deliver

    async def publish(self, draft: Draft) -> Receipt:
        now = self._monotonic()
        if draft.key:
            known = self.known(draft, now)
            if known is not None:
                return known
        self._recorder.check()
        time = self._clock()
        publication = self.history.number(draft, time)
        answer = remembered(publication, draft.key, time) if draft.key else None
        self.append(publication, answer, now)
        self._recorder.append(publication, answer)
        self._deliver(publication)
        return publication.receipt

    async def clear(self, channel: str) -> None:
        self._recorder.check()
        if channel in self.history.channels:
            self.metrics.evictions += self.history.channels[channel].clear()
            self._recorder.touch(channel)

    def expire(self, now: float, watched: Callable[[str], bool]) -> None:
        self._keys.expire(now)
        evicted, changed = self.history.expire(now, watched)
        self.metrics.evictions += evicted
        for channel in changed:
            self._recorder.touch(channel)

    def known(self, draft: Draft, now: float, pending: int = 0) -> Receipt | None:
        """The first answer, when this draft's key says at `now` that it is a repetition.

        Raises Unavailable when another key could not be remembered, beside the `pending` ones
        that have no answer yet.
        """
        receipt = self._keys.find(draft.channel, draft.key, now)
        if receipt is not None:
            self.metrics.duplicates += 1
            return receipt
        self._keys.check_room(now, pending)
        return None

    def append(self, publication: Publication, answer: Remembered | None, born: float) -> None:
        """Retain the publication, made at `born`, and the answer to its key, if it has one."""
        self.metrics.publications += 1
        self.metrics.evictions += self.history.append(publication, born)
        if answer is not None:
            self._keys.remember(answer, born)


def remembered(publication: Publication, key: str, time: float) -> Remembered:
    """The answer to a key, given at `time` (Unix seconds)."""
    return Remembered(publication.channel, key, publication.receipt, time)


def _to_nobody(publication: Publication) -> None:
    """Until a hub is attached."""
