"""Leases: of the nodes of a log, one at a time does a thing, such as running a source.

A lease is a key that expires. A node renews its own ones; if it cannot, it gives them up by its own
clock, before another node can have them. A publication may name a lease and is refused when
the node has lost it: so also the last ones of a process that was stopped for a while.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from twisted.logger import Logger

from pushserver.redis import lease_scripts
from pushserver.redis.commands import ErrorReply, Gone
from pushserver.redis.connection import Refused, Session
from pushserver.redis.keys import Keys

LEASE_SECONDS = 10.0
"""A node that was silent for this time has lost its leases."""
RENEW_SECONDS = 3.0
"""The interval in which a node renews its leases, and asks for those that others have."""


class Remembered(Protocol):
    """The values that sources remember (`store.source_memory.SourceMemory`)."""

    @property
    def waits(self) -> bool: ...
    def take(self) -> dict[str, bytes]: ...
    def put_back(self, taken: dict[str, bytes]) -> None: ...
    def restore(self, values: Iterable[tuple[str, bytes]]) -> None: ...


class NoMemory:
    """That of a node without sources."""

    waits = False

    def take(self) -> dict[str, bytes]:
        return {}

    def put_back(self, taken: dict[str, bytes]) -> None:
        """No-op."""

    def restore(self, values: Iterable[tuple[str, bytes]]) -> None:
        """No-op."""


@dataclass(slots=True)
class _Lease:
    """A lease that this node wants; `fence` names its tenure, and is another one each time."""

    fence: str
    changed: Callable[[], None]
    until: float | None = None
    """The time, by the steady clock, up to which the node has it at least."""


class Leases:
    """The leases of one node. `session` returns that of the writer, if there is one.

    `memory` has what their holders remember: a value comes from Redis with the lease, and goes
    there as long as the node has it. `refused` is called with each error of Redis. `shard`: the
    number of the log.
    """

    _log = Logger()

    def __init__(
        self,
        keys: Keys,
        node: str,
        session: Callable[[], Session | None],
        monotonic: Callable[[], float],
        memory: Remembered,
        refused: Refused,
        shard: int = 0,
    ):
        self._keys = keys
        self._node = node
        self._session = session
        self._monotonic = monotonic
        self._memory = memory
        self._refused = refused
        self._shard = shard
        self._leases: dict[str, _Lease] = {}
        self._tenures = 0
        self._asked = float("-inf")
        self._asked_in: Session | None = None
        self._works = False

    # --- for their users ---------------------------------------

    def want(self, name: str, wants: bool, changed: Callable[[], None]) -> None:
        """Get and keep the lease, or release it; `changed` is called when it is got or lost."""
        lease = self._leases.get(name)
        if not wants:
            if lease is not None:
                del self._leases[name]
                self._release(name, lease)
        elif lease is None:
            self._leases[name] = _Lease(self._new_fence(), changed)
            # Asked for at the next check.
            self._asked = float("-inf")
        else:
            lease.changed = changed

    def holds(self, name: str) -> bool:
        """Whether this node has the lease."""
        return self.fence(name) is not None

    def fence(self, name: str) -> str | None:
        """The name of the present tenure; None if another node may have the lease."""
        lease = self._leases.get(name)
        if lease is None or lease.until is None or self._monotonic() >= lease.until:
            return None
        return lease.fence

    @property
    def held(self) -> list[str]:
        """The names of those that this node has."""
        return [name for name in self._leases if self.holds(name)]

    # --- for the log ---------------------------------------

    async def work(self) -> None:
        """Do what is due; called again and again."""
        self._give_up()
        session, now = self._session(), self._monotonic()
        if session is None or self._works:
            return
        self._works = True
        try:
            if self._memory.waits:
                await self._remember(session)
            is_due = now - self._asked >= RENEW_SECONDS or session is not self._asked_in
            if self._leases and is_due:
                self._asked, self._asked_in = now, session
                await self._ask(session, now)
        except Gone:
            # The writer has the same session, and notices.
            pass
        except ErrorReply as error:
            self._refused(error, session)
        finally:
            self._works = False

    def _give_up(self) -> None:
        """Give up those that could not be renewed in time."""
        now = self._monotonic()
        for name, lease in tuple(self._leases.items()):
            if lease.until is not None and now >= lease.until:
                self._lose(name, lease)

    async def _ask(self, session: Session, now: float) -> None:
        asked = {name: (lease, lease.fence) for name, lease in self._leases.items()}
        fences = {name: fence for name, (_, fence) in asked.items()}
        ms = round(LEASE_SECONDS * 1000)
        call = lease_scripts.lease(self._keys, session.run, ms, fences)
        answers = await session.send(call.evalsha)
        for (name, (lease, fence)), answer in zip(asked.items(), answers, strict=True):
            if self._leases.get(name) is not lease or lease.fence != fence:
                if answer[0]:
                    self._send_release(session, {name: fence})
            elif answer[0]:
                is_new = lease.until is None
                lease.until = now + LEASE_SECONDS
                if is_new:
                    if answer[1] is not None:
                        self._memory.restore([(name, answer[1])])
                    if not self._shard:
                        self._log.info(
                            "this server runs the source {name} for all",
                            name=name,
                            event_name="source_taken",
                        )
                    lease.changed()
            elif lease.until is not None:
                self._lose(name, lease)

    def _lose(self, name: str, lease: _Lease) -> None:
        if not self._shard:
            self._log.warn(
                "this server does not run the source {name} any more: it could not renew its lease",
                name=name,
                event_name="source_given_up",
            )
        lease.until = None
        lease.fence = self._new_fence()
        lease.changed()

    def _new_fence(self) -> str:
        self._tenures += 1
        return f"{self._node}:{self._tenures}"

    def _release(self, name: str, lease: _Lease) -> None:
        session = self._session()
        if session is None or lease.until is None:
            return
        taken = self._memory.take()
        value = taken.pop(name, None)
        # Those of the other sources are written by `work`.
        self._memory.put_back(taken)
        if value is not None:
            call = lease_scripts.remember(self._keys, session.run, name, lease.fence, value)
            session.send(call.evalsha).addErrback(lambda failure: failure.trap(Gone, ErrorReply))
        self._send_release(session, {name: lease.fence})

    def _send_release(self, session: Session, fences: Mapping[str, str]) -> None:
        call = lease_scripts.release(self._keys, session.run, fences)
        # If this fails, the lease ends by itself.
        session.send(call.evalsha).addErrback(lambda failure: failure.trap(Gone, ErrorReply))

    # --- what sources remember ---------------------------------------

    async def _remember(self, session: Session) -> None:
        taken = self._memory.take()
        fences = {name: fence for name in taken if (fence := self.fence(name)) is not None}
        try:
            for name, fence in fences.items():
                call = lease_scripts.remember(self._keys, session.run, name, fence, taken[name])
                await session.send(call.evalsha)
        except Gone:
            self._memory.put_back(taken)
            raise
        except ErrorReply as error:
            # The leases are renewed nevertheless.
            self._memory.put_back(taken)
            self._refused(error, session)
