"""The nodes of a log: each tells about itself every few seconds, and is gone if it does not."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import msgspec

from pushserver.redis import node_scripts
from pushserver.redis.commands import ErrorReply, Gone, Send
from pushserver.redis.connection import NameTaken, Refused, Session
from pushserver.redis.failures import Failures
from pushserver.redis.keys import Keys

BEAT_SECONDS = 3.0
"""The interval in which a node tells about itself."""
NODE_SECONDS = 10.0
"""A node that was silent for this time is gone."""


class Registry:
    """This node among the others. With a `name`, no other one may have the same.

    `session` returns that of the writer, if there is one; `again` ends it. `about` returns what
    others read about this node, for JSON. `refused` is called with the error if Redis refuses that.
    """

    def __init__(
        self,
        keys: Keys,
        node: str,
        name: str,
        session: Callable[[], Session | None],
        again: Callable[[str], None],
        monotonic: Callable[[], float],
        failures: Failures,
        refused: Refused,
    ):
        self.about: Callable[[], dict[str, Any]] = dict
        self._keys = keys
        self._node = node
        self._name = name
        self._session = session
        self._again = again
        self._monotonic = monotonic
        self._failures = failures
        self._refused = refused
        self._told = float("-inf")

    async def enter(self, send: Send, run: str) -> None:
        """Tell about this node over a connection that is not used yet.

        Raises NameTaken if another node has its name.
        """
        await self._tell(send, run)

    async def work(self) -> None:
        """Do what is due; called again and again."""
        session, now = self._session(), self._monotonic()
        if session is None or now - self._told < BEAT_SECONDS:
            return
        self._told = now
        try:
            await self._tell(session.send, session.run)
        except NameTaken as error:
            self._again(str(error))
        except Gone:
            # The writer has the same session, and notices.
            pass
        except ErrorReply as error:
            self._refused(error, session)

    async def leave(self) -> None:
        """This node stops: it is gone, and another one may have its name."""
        session = self._session()
        if session is None:
            return
        self._told = float("inf")
        call = node_scripts.leave(self._keys, session.run, self._node, self._name)
        # If this fails, it is gone a little later.
        with suppress(Gone, ErrorReply):
            await session.send(call.evalsha)

    async def nodes(self) -> list[Any]:
        """What all nodes tell about themselves, in the order of their names; raises Unavailable."""
        session = self._session()
        if session is None:
            raise self._failures.away()
        try:
            found = await session.send(node_scripts.nodes(self._keys, session.run).evalsha)
        except Gone:
            raise self._failures.away() from None
        except ErrorReply as error:
            raise self._failures.refused(error) from None
        told = [node for node in map(_decoded, found) if isinstance(node, dict)]
        return sorted(told, key=lambda node: str(node.get("name")))

    async def _tell(self, send: Send, run: str) -> None:
        about = msgspec.json.encode(self.about())
        ms = round(NODE_SECONDS * 1000)
        call = node_scripts.beat(self._keys, run, self._node, self._name, ms, about)
        holder = await send(call.evalsha)
        if holder is not None:
            other = _decoded(holder)
            where = ""
            if isinstance(other, dict):
                where = f": process {other.get('pid')} of {other.get('host')}"
            raise NameTaken(
                f"another server has the name {self._name!r} (broker.name){where:.200}; give each"
                f" its own. That of a server that was killed is free after {NODE_SECONDS:.0f} s"
            )


def _decoded(text: bytes) -> Any:
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:
        # Another program has been there.
        return None
