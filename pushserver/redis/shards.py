"""The logs of a node in several Redis servers: each has some channels, and may be away alone.

The first one also has what is not of a channel: the registry of the nodes, their orders, presence,
and what sources remember.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from twisted.internet.defer import Deferred, DeferredList
from twisted.python.failure import Failure

from pushserver.channels.placement import Placement
from pushserver.channels.publication import Draft, Receipt
from pushserver.hub.follower import Follower, Point
from pushserver.redis.agreement import Agreement
from pushserver.redis.connection import Session
from pushserver.redis.layout import Layout
from pushserver.redis.log import RedisLog
from pushserver.redis.scripts import Bounds
from pushserver.redis.state import State


@dataclass(frozen=True, slots=True)
class ShardPlace:
    """The place of one server (`connection.Place`)."""

    layouts: Layout
    agreement: Agreement
    shard: int

    @property
    def layout(self) -> str:
        return self.layouts.of(self.shard)

    def check(self, found: str) -> None:
        self.layouts.check(self.shard, found)

    async def enter(self, session: Session) -> None:
        await self.agreement.enter(self.shard, session)

    async def work(self) -> None:
        await self.agreement.work(self.shard)


MakeLog = Callable[[int, ShardPlace], RedisLog]


class ShardedLog:
    """All logs as one (`hub.follower.Log`), with what `RedisLog` has besides.

    `make_log` makes that of a shard.
    """

    def __init__(self, placement: Placement, make_log: MakeLog, monotonic: Callable[[], float]):
        self._shard_of = placement
        layout, agreement = Layout(placement, self._leave), Agreement(lambda: self.logs, monotonic)
        self.logs = [
            make_log(shard, ShardPlace(layout, agreement, shard))
            for shard in range(placement.count)
        ]
        first = self.logs[0]
        self.node = first.node
        self.registry = first.registry
        self.roll, self.rosters = first.roll, first.rosters
        self.leases = ShardedLeases(self.logs)

    @property
    def ordered(self) -> Callable[[bytes], None]:
        return self.logs[0].ordered

    @ordered.setter
    def ordered(self, ordered: Callable[[bytes], None]) -> None:
        self.logs[0].ordered = ordered

    @property
    def states(self) -> list[State]:
        """The state of each."""
        return [log.state for log in self.logs]

    def _leave(self, reason: str, short: str) -> None:
        for log in self.logs:
            log.connect_again(reason, short)

    def feed(self, follower: Follower) -> None:
        """Pass the changes to this follower."""
        for log in self.logs:
            log.feed(follower)

    def reconfigure(self, bounds: Bounds) -> None:
        """Change the bounds of each log."""
        for log in self.logs:
            log.reconfigure(bounds)

    def start(self) -> None:
        """Connect to all, and stay connected."""
        for log in self.logs:
            log.start()

    def when_attached(self) -> Deferred[Any]:
        """Fires when publications to all channels are accepted."""
        return DeferredList([log.when_attached() for log in self.logs], consumeErrors=True)

    def stop(self) -> None:
        """End all connections."""
        for log in self.logs:
            log.stop()

    # --- the log ---------------------------------------

    async def publish(self, draft: Draft) -> Receipt:
        return await self.logs[self._shard_of(draft.channel)].publish(draft)

    async def clear(self, channel: str) -> None:
        await self.logs[self._shard_of(channel)].clear(channel)

    async def order(self, text: bytes) -> None:
        """See `RedisLog.order`."""
        await self.logs[0].order(text)

    async def settle(self) -> None:
        for log in self.logs:
            await log.settle()

    async def follow(self, points: Sequence[Point], names: Sequence[str]) -> None:
        by_shard: dict[int, list[Point]] = {self._shard_of(name): [] for name in names}
        for point in points:
            by_shard[self._shard_of(point.channel)].append(point)
        followed: list[Deferred[Any]] = [
            Deferred.fromCoroutine(self.logs[shard].follow(own, ()))
            for shard, own in by_shard.items()
        ]
        # All, also if one fails: nobody would look at the error of another one.
        for _, result in await DeferredList(followed, consumeErrors=True):
            if isinstance(result, Failure):
                result.raiseException()

    def leave(self, channels: Sequence[str]) -> None:
        """No-op: see `RedisLog.leave`."""


class ShardedLeases:
    """The leases of a node, in all logs: the first one decides, and each refuses a lost one.

    A node has a lease when it has that of the first log, and got that of each other one that was
    not away. So also the publications of a source to other shards are refused when another node
    runs it.
    """

    def __init__(self, logs: Sequence[RedisLog]):
        self._logs = logs
        self._first = logs[0].leases
        self._complete: set[str] = set()

    def want(self, name: str, wants: bool, changed: Callable[[], None]) -> None:
        """See `Leases.want`."""

        def update() -> None:
            self._follow(name, changed)
            changed()

        self._first.want(name, wants, update)
        self._follow(name, changed)

    def _follow(self, name: str, changed: Callable[[], None]) -> None:
        """Want in the other logs what this node has in the first one."""
        wants = self._first.holds(name)
        if not wants:
            self._complete.discard(name)
        for log in self._logs[1:]:
            log.leases.want(name, wants, changed)

    def holds(self, name: str) -> bool:
        """Whether this node has the lease."""
        if not self._first.holds(name):
            return False
        if name not in self._complete:
            for log in self._logs[1:]:
                if log.state.attached and not log.leases.holds(name):
                    return False
            self._complete.add(name)
        return True

    @property
    def held(self) -> list[str]:
        """The names of those that this node has."""
        return [name for name in self._first.held if self.holds(name)]
