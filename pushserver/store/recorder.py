"""Records publications with batched durability: they are acknowledged first, committed soon."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from twisted.internet.interfaces import IReactorTime

from pushserver.channels.history import History
from pushserver.channels.idempotency import KeyEntry
from pushserver.channels.publication import Publication
from pushserver.errors import Unavailable
from pushserver.store.batcher import Batcher, Numbered
from pushserver.store.committer import Committer
from pushserver.store.waiting import KEY_BYTES, check_room, waiting_bytes


class BatchRecorder:
    """A Recorder and a Queue: keeps publications until they are committed.

    It refuses more while the file cannot be written, and while more than MAX_WAITING_BYTES wait.
    """

    urgent = False
    cleared = ()

    def __init__(
        self,
        committer: Committer,
        history: History,
        monotonic: Callable[[], float],
        reactor: IReactorTime,
        interval: float,
    ):
        """A commit starts at most `interval` seconds after a change."""
        self.batcher = Batcher(self, committer, history, monotonic, reactor, interval)
        self._committer = committer
        self._history = history
        self._rows: list[Numbered] = []
        self._bytes = 0
        self._taken = 0, 0

    def check(self) -> None:
        if self._committer.problem:
            raise Unavailable(f"the store failed: {self._committer.problem}")
        check_room(self._bytes)

    def append(self, publication: Publication, entry: KeyEntry | None) -> None:
        self._rows.append((publication, entry))
        self._bytes += waiting_bytes(publication) + (KEY_BYTES if entry is not None else 0)
        self.batcher.touch(publication.channel)

    def touch(self, channel: str) -> None:
        self.batcher.touch(channel)

    @property
    def lost(self) -> int:
        channels = self._history.channels
        kept = (channels.get(row.channel) for row, _ in self._rows)
        return sum(
            channel is not None and row.seq > channel.floor_seq
            for channel, (row, _) in zip(kept, self._rows, strict=True)
        )

    @property
    def waiting(self) -> tuple[int, int]:
        return len(self._rows), self._bytes

    def take(self) -> Sequence[Numbered]:
        self._taken = len(self._rows), self._bytes
        return self._rows

    def committed(self) -> None:
        rows, size = self._taken
        del self._rows[:rows]
        self._bytes -= size

    def failed(self, reason: str) -> None:
        """No-op: the rows stay for the next commit."""
