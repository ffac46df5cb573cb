"""The histories of channels of several logs, each with its own numbering."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from heapq import merge

from pushserver.channels.channel import Channel, ChannelOptions
from pushserver.channels.history import History, Resumption, new_epoch
from pushserver.channels.position import Cursor, Start, Vector
from pushserver.channels.publication import Publication, StreamPublication
from pushserver.channels.room import Room


class ShardedHistory(History):
    """The channels of several logs; `shard_of` has the number of that of each channel.

    Another process numbers them all: `follow` in place of `append`. A cursor over channels of
    several logs is a vector. Its parts are found by their epochs, which no two logs share; the
    publications of each log are in the order of that log, and those of two are in the order of
    their times, or live in that in which they came.
    """

    def __init__(
        self,
        options: Callable[[str], ChannelOptions],
        shard_of: Callable[[str], int],
        count: int,
        room: Room | None = None,
    ):
        super().__init__(options, room=room)
        self._shard_of = shard_of
        self._ends = [Cursor(new_epoch(), 0) for _ in range(count)]

    def run(self, name: str) -> str:
        return self._ends[self._shard_of(name)].epoch

    def shards(self, names: Sequence[str]) -> Sequence[int]:
        shards = sorted(set(map(self._shard_of, names)))
        return tuple(shards) if len(shards) > 1 else ()

    def of_shard(self, shard: int) -> Iterable[Channel]:
        return [one for one in self.channels.values() if self._shard_of(one.name) == shard]

    def ends(self) -> list[Cursor]:
        return list(self._ends)

    def reach(self, shard: int, end: Cursor) -> None:
        self._ends[shard] = end

    def follow(self, publication: Publication, born: float) -> None:
        self.append(publication, born)
        shard = self._shard_of(publication.channel)
        end = self._ends[shard]
        if publication.seq > end.seq:
            self._ends[shard] = Cursor(end.epoch, publication.seq)

    # --- cursors ---------------------------------------

    def cursor(self, names: Sequence[str]) -> Cursor | Vector:
        return self.start(names, ())

    def start(
        self,
        names: Sequence[str],
        rows: Sequence[Publication],
        since: Cursor | Vector | None = None,
    ) -> Cursor | Vector:
        before = {self._shard_of(row.channel): row.seq - 1 for row in reversed(rows)}
        parts = []
        for shard in sorted(set(map(self._shard_of, names))):
            end = self._ends[shard]
            parts.append(Cursor(end.epoch, before.get(shard, end.seq)))
        return parts[0] if len(parts) == 1 else Vector(tuple(parts))

    def is_ahead(self, names: Sequence[str], since: Cursor | Vector) -> bool:
        ends = {self._ends[shard] for shard in map(self._shard_of, names)}
        seqs = {end.epoch: end.seq for end in ends}
        return any(part.seq > seqs.get(part.epoch, part.seq) for part in since.parts)

    def in_stream(self, publication: Publication, shards: Sequence[int]) -> Publication:
        ends, own = self._ends, self._shard_of(publication.channel)
        parts = [
            f"{ends[shard].epoch}:{publication.seq if shard == own else ends[shard].seq}"
            for shard in shards
        ]
        return StreamPublication.of(publication, ",".join(parts))

    def _in_stream(
        self, names: Sequence[str], rows: Sequence[Publication]
    ) -> Iterator[Publication]:
        """These rows of channels of several logs, each with the cursor of the stream."""
        shards = self.shards(names)
        parts = dict(zip(shards, self.start(names, rows).parts, strict=True))
        for row in rows:
            shard = self._shard_of(row.channel)
            parts[shard] = Cursor(parts[shard].epoch, row.seq)
            yield StreamPublication.of(row, ",".join(map(str, parts.values())))

    # --- reading ---------------------------------------

    def read(self, names: Sequence[str], start: Start, limited: bool = True) -> Resumption:
        by_shard: dict[int, list[str]] = {}
        for name in names:
            by_shard.setdefault(self._shard_of(name), []).append(name)
        since = start.since
        if since is None and len(by_shard) == 1:
            return super().read(names, start, limited)
        if since is None:
            each = [super(ShardedHistory, self).read(g, start) for g in by_shard.values()]
            rows = _by_time([found.publications for found in each])
            if not start.oldest:
                rows = rows[-start.last :] if start.last else []
            return Resumption(tuple(self._in_stream(names, rows)))
        parts = {part.epoch: part for part in since.parts}
        found, lost = [], []
        reason = ""
        for shard, group in by_shard.items():
            end = self._ends[shard]
            resumed = self._after(group, parts.get(end.epoch, since), end, limited)
            reason = reason or resumed.reason
            if resumed.recovered:
                found.append(resumed.publications)
            else:
                lost += group
        if len(by_shard) == 1:
            return Resumption(found[0] if found else (), reason)
        merged = tuple(self._in_stream(names, _by_time(found)))
        return Resumption(merged, reason, lost if found else ())


def _by_time(logs: Sequence[Sequence[Publication]]) -> list[Publication]:
    """The publications of several logs in the order of their times, and of each log in its own."""
    return list(merge(*logs, key=lambda row: row.time))
