"""Notices that a node uses another server for a shard than the other nodes do.

Every node tells each server which epoch the log of each shard has. Two logs that grew apart have
different epochs, and neither is one of the earlier ones of the other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Protocol

from pushserver.redis import agreement_scripts
from pushserver.redis.agreement_scripts import Claim
from pushserver.redis.commands import ErrorReply, Gone
from pushserver.redis.connection import Session
from pushserver.redis.keys import Keys
from pushserver.redis.layout import Misplaced
from pushserver.redis.problems import MISPLACED
from pushserver.redis.registry import BEAT_SECONDS, NODE_SECONDS


class Shard(Protocol):
    """The log of a shard."""

    keys: Keys

    @property
    def session(self) -> Session | None:
        """That of its writer, if there is one."""

    def connect_again(self, reason: str, short: str) -> None:
        """End the present connections, and make others."""


class Agreement:
    """What this node tells of its shards; `shards` returns them, in their order."""

    def __init__(self, shards: Callable[[], Sequence[Shard]], monotonic: Callable[[], float]):
        self._shards = shards
        self._monotonic = monotonic
        self._claims: dict[int, Claim] = {}
        self._told: dict[int, float] = {}

    async def enter(self, shard: int, session: Session) -> None:
        """Compare a server before its use; raises Misplaced."""
        keys = self._shards()[shard].keys
        past = await session.send([b"HGET", keys.meta, b"past"]) or b""
        self._claims[shard] = Claim(shard, session.attached.epoch, past.decode("utf-8", "replace"))
        strange = set(await self._tell(shard, session, shard))
        for number, other in enumerate(self._shards()):
            if number != shard and other.session is not None:
                # That one is lost, or about to be.
                with suppress(Gone, ErrorReply):
                    strange.update(await self._tell(number, other.session, shard))
        self._leave(strange - {shard})
        if shard in strange:
            raise Misplaced(_text(shard))

    async def work(self, shard: int) -> None:
        """Tell a server again, if that is due; called again and again."""
        session, now = self._shards()[shard].session, self._monotonic()
        if session is None or now - self._told.get(shard, 0.0) < BEAT_SECONDS:
            return
        self._told[shard] = now
        with suppress(Gone, ErrorReply):
            self._leave(set(await self._tell(shard, session)))

    async def _tell(self, to: int, session: Session, entering: int | None = None) -> list[int]:
        claims = [
            claim
            for number, claim in self._claims.items()
            if number == entering or self._shards()[number].session is not None
        ]
        ms = round(NODE_SECONDS * 1000)
        call = agreement_scripts.agree(self._shards()[to].keys, session.run, claims, ms)
        return agreement_scripts.others_of(await session.send(call.evalsha))

    def _leave(self, strange: set[int]) -> None:
        for number in strange:
            self._shards()[number].connect_again(_text(number), MISPLACED)


def _text(shard: int) -> str:
    return (
        f"the other servers have another Redis as shard {shard}, with a log of another epoch: give"
        " all servers the same broker.url"
    )
