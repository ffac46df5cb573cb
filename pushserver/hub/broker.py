"""Brokers: the step between publishing and delivering, which numbers and retains publications."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from typing import Any, ClassVar, Protocol

from pushserver.channels.history import History
from pushserver.channels.idempotency import KeyEntry, Keys
from pushserver.channels.publication import Draft, Publication, Receipt
from pushserver.config.limits import Limits
from pushserver.hub.metrics import Metrics

Deliver = Callable[[Publication, Sequence[str]], None]
"""Called with a publication, and the ids of clients that do not get it."""


class Broker(Protocol):
    """Numbers each draft, retains it, and passes it to `deliver` in the order of the offsets.

    `history` is the log to read from; it has every delivered publication. `is_immediate`: whether
    `publish` returns without waiting.
    """

    is_immediate: ClassVar[bool]
    history: History
    metrics: Metrics

    def attach(self, deliver: Deliver) -> None:
        """Pass each publication to `deliver`; called once, before the first publish."""

    def publish(self, draft: Draft) -> Coroutine[Any, Any, Receipt]:
        """Append the draft; return when it is as durable as this broker promises.

        Raises Unavailable if it was not appended (LimitExceeded if its channel has no room), or
        TooMany if its publisher has used too many idempotency keys.
        """

    def load(self, channels: Sequence[str], fresh: bool = False) -> Coroutine[Any, Any, None]:
        """Have these channels in `history`; if `fresh`, with all publications up to this moment.

        A reader may know later ones than this process: from another follower of the log. Raises
        Unavailable, LimitExceeded too.
        """

    def has(self, channels: Sequence[str]) -> bool:
        """Whether these channels are in `history`, and `load` does not wait for them."""

    async def clear(self, channel: str) -> None:
        """Drop the channel's history; its numbers continue."""

    async def settle(self) -> None:
        """Wait until every caller of `publish` and `clear` has its answer."""

    def expire(self, now: float, watched: Callable[[str], bool]) -> bool:
        """Evict by age; forget empty channels that are not `watched`, and old keys.

        `now` is by the steady clock. Looks at some channels and keys, and returns whether more are
        left: call it again then.
        """


class Recorder(Protocol):
    """Writes the publications of a MemoryBroker to a store."""

    def check(self) -> None:
        """Raise Unavailable if nothing can be recorded now."""

    def append(self, publication: Publication, entry: KeyEntry | None) -> None:
        """Record soon; the publication is delivered in this turn of the reactor."""

    def touch(self, channel: str) -> None:
        """Record that the channel lost rows or was forgotten."""


class NoRecorder:
    """The recorder of a server without a store."""

    def check(self) -> None:
        """No-op."""

    def append(self, publication: Publication, entry: KeyEntry | None) -> None:
        """No-op."""

    def touch(self, channel: str) -> None:
        """No-op."""


class MemoryBroker:
    """Retains publications in memory and delivers them in the publisher's turn of the reactor.

    A recorder may write them to a store afterwards. `clock` gives Unix seconds, for the times of
    publications; `monotonic` is the steady clock, for ages.
    """

    is_immediate: ClassVar[bool] = True

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
        self._deliver: Deliver = deliver_nothing
        history.room.on_evict = self._evicted

    def attach(self, deliver: Deliver) -> None:
        self._deliver = deliver

    def reconfigure(self, limits: Limits, lasting: frozenset[str]) -> None:
        """Change the bounds, and the channels that outlast others (see `Room`)."""
        self.history.room.reconfigure(limits.history_total_bytes, limits.channels, lasting)
        self._keys.reconfigure(limits.idempotency_keys, limits.idempotency_keys_per_publisher)

    async def publish(self, draft: Draft) -> Receipt:
        now = self._monotonic()
        if draft.key:
            receipt = self.find_receipt(draft, now)
            if receipt is not None:
                return receipt
        self._recorder.check()
        if draft.channel not in self.history.channels:
            self.history.room.make((draft.channel,))
        time = self._clock()
        publication = self.history.number(draft, time)
        entry = key_entry(publication, draft, time) if draft.key else None
        self.append(publication, entry, now)
        self._recorder.append(publication, entry)
        self._deliver(publication, draft.skip)
        return publication.receipt

    async def load(self, channels: Sequence[str], fresh: bool = False) -> None:
        """No-op: `history` has all channels."""

    def has(self, channels: Sequence[str]) -> bool:
        return True

    async def clear(self, channel: str) -> None:
        self._recorder.check()
        if channel in self.history.channels:
            self.metrics.evictions += self.history.clear(channel)
            self._touch(channel)

    async def settle(self) -> None:
        """No-op: callers get their answers in their turn of the reactor."""

    def expire(self, now: float, watched: Callable[[str], bool]) -> bool:
        keys_are_left = self._keys.expire(now)
        evicted, changed = self.history.expire(now, watched)
        self.metrics.evictions += evicted
        for channel in changed:
            self._touch(channel)
        return keys_are_left or self.history.unswept > 0

    def _evicted(self, channel: str, rows: int, setting: str) -> None:
        """Count a history that made room for others, and record it."""
        self.metrics.evictions += rows
        self.metrics.made_room[setting] += 1
        self._touch(channel)

    def _touch(self, channel: str) -> None:
        """Record that the channel lost rows or was forgotten."""
        self._recorder.touch(channel)

    def find_receipt(
        self, draft: Draft, now: float, pending: int = 0, own_pending: int = 0
    ) -> Receipt | None:
        """The receipt of the first draft with this key, if `draft` repeats one at `now`.

        Raises Unavailable or TooMany if there is no room for another key besides the `pending`
        ones, whose drafts have no receipt yet; `own_pending` are those of the same publisher.
        """
        receipt = self._keys.find(draft.channel, draft.key, now)
        if receipt is not None:
            self.metrics.duplicates += 1
            return receipt
        self._keys.check_room(now, pending, draft.publisher, own_pending)
        return None

    def append(self, publication: Publication, entry: KeyEntry | None, born: float) -> None:
        """Retain the publication, made at `born` (steady clock), and the entry of its key."""
        self.metrics.publications += 1
        # In a step of its own: the histories that make room for this one are counted meanwhile.
        evicted = self.history.append(publication, born)
        self.metrics.evictions += evicted
        if entry is not None:
            self._keys.remember(entry, born)


def key_entry(publication: Publication, draft: Draft, time: float) -> KeyEntry:
    """The entry of the draft's key, which was used at `time` (Unix seconds)."""
    receipt = publication.receipt
    return KeyEntry(publication.channel, draft.key, receipt, time, draft.publisher)


def deliver_nothing(publication: Publication, skip: Sequence[str]) -> None:
    """No-op, until a hub is attached."""
