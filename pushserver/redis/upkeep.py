"""Keeps the log in Redis small: evicts rows by age, and forgets channels that nobody follows."""

from __future__ import annotations

from collections.abc import Callable

from twisted.logger import Logger

from pushserver.channels.channel import ChannelOptions
from pushserver.hub.follower import Follower
from pushserver.redis import upkeep_scripts
from pushserver.redis.commands import ErrorReply, Gone
from pushserver.redis.connection import Session
from pushserver.redis.keys import Keys
from pushserver.redis.script import EMPTY_MS

SWEEP_SECONDS = 5.0
"""The interval of sweeps; each node sweeps, and finds what no other one has swept."""
TOUCH_SECONDS = EMPTY_MS / 1000 / 3
"""The interval in which a node keeps the empty channels that it follows."""
AT_ONCE = 100
"""The channels of one call, which holds up all others at the server."""
MOST_CALLS = 50
"""The calls of one sweep; the next one goes on."""


class Upkeep:
    """Sweeps the channels that are due, and keeps the empty ones that this node follows.

    `session` returns that of the writer, if there is one.
    """

    _log = Logger()

    def __init__(
        self,
        keys: Keys,
        options: Callable[[str], ChannelOptions],
        session: Callable[[], Session | None],
        monotonic: Callable[[], float],
        shard: int = 0,
    ):
        self._keys = keys
        self._options = options
        self._session = session
        self._monotonic = monotonic
        self._shard = shard
        self._swept = self._touched = monotonic()
        self._works = False

    async def work(self, follower: Follower) -> None:
        """Do what is due; called again and again."""
        session, now = self._session(), self._monotonic()
        if session is None or self._works:
            return
        self._works = True
        try:
            if now - self._touched >= TOUCH_SECONDS:
                self._touched = now
                await self._touch(session, follower)
            if now - self._swept >= SWEEP_SECONDS:
                self._swept = now
                await self._sweep(session, follower)
        except (Gone, ErrorReply):
            # The writer has the same session, and notices.
            pass
        finally:
            self._works = False

    async def _touch(self, session: Session, follower: Follower) -> None:
        kept = follower.history.of_shard(self._shard)
        empty = [channel.name for channel in kept if channel.top and not len(channel)]
        for start in range(0, len(empty), AT_ONCE):
            part = empty[start : start + AT_ONCE]
            await session.send(upkeep_scripts.touch(self._keys, session.run, part).evalsha)

    async def _sweep(self, session: Session, follower: Follower) -> None:
        for _ in range(MOST_CALLS):
            names = await session.send(upkeep_scripts.due(self._keys, session.run, AT_ONCE).evalsha)
            if not names:
                return
            channels = [
                (name.decode("utf-8", "replace"), self._options(name.decode("utf-8", "replace")))
                for name in names
            ]
            call = upkeep_scripts.sweep(
                self._keys, session.run, [(name, o.history_ttl) for name, o in channels]
            )
            swept = upkeep_scripts.swept_of(await session.send(call.evalsha))
            follower.metrics.evictions += swept.evicted
            for problem in swept.errors:
                self._log.warn(
                    "a channel in Redis was not swept: {problem}",
                    problem=problem,
                    event_name="redis_not_swept",
                )
            if len(names) < AT_ONCE:
                return
