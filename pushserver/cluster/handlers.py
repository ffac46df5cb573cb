"""The application of the author, for the clients of a follower."""

from __future__ import annotations

from typing import Any

import msgspec

from pushserver.auth.identity import ANONYMOUS, Identity
from pushserver.auth.patterns import Patterns
from pushserver.channels.names import namespace_of
from pushserver.cluster.calls import Calls
from pushserver.cluster.messages import (
    Admission,
    Ask,
    AskEvent,
    AskPublish,
    Authenticate,
    Ended,
    Handled,
    Kind,
    Proof,
)
from pushserver.cluster.roster import Roster, key_hash
from pushserver.protocols.socketio import Values
from pushserver.sessions.callbacks import ClientSession
from pushserver.sessions.visit import Visit


class RemoteHandlers:
    """Asks the author's application (`callbacks.Handlers`); without a link all calls fail.

    Which handlers there are is known from the first link on.
    """

    def __init__(self, calls: Calls, roster: Roster):
        self._calls = calls
        self._roster = roster
        self._events: frozenset[tuple[str, str]] = frozenset()
        # The numbers of clients that are admitted, of whose end the application is notified.
        self._admitted: dict[ClientSession, int] = {}

    def handled(self, message: Handled) -> None:
        """The application has these handlers."""
        self._events = frozenset(message.events)

    @property
    def decides_on_clients(self) -> bool:
        return any(event == "connect" for _, event in self._events)

    @property
    def authenticates(self) -> bool:
        return ("", "authenticate") in self._events

    async def authenticate(self, visit: Visit, data: bytes) -> Identity:
        found = await self._calls.call(lambda call: Authenticate(call, visit, data))
        proof = msgspec.convert(found, Proof, builtin_types=(bytes,))
        if not proof.token:
            return ANONYMOUS
        channels = Patterns.of(proof.channels)
        return Identity(proof.user, proof.info, proof.expires, token=True, channels=channels)

    async def connect(self, session: ClientSession, data: bytes) -> bytes:
        number = self._roster.arrived(session)
        if not self._events:
            # The application may come later, and is then notified of the client's end.
            self._admitted[session] = number
            return b""
        found = await self._ask(number, "connect", "", data)
        admission = msgspec.convert(found, Admission, builtin_types=(bytes,))
        self._admitted[session] = number
        if (admission.user, admission.info) != (session.info.user, session.info.conn_info):
            session.identify(admission.user, admission.info)
        return admission.data

    def disconnect(self, session: ClientSession, reason: str) -> None:
        number = self._admitted.pop(session, None)
        if number is not None:
            self._calls.tell(Ended(number, reason))

    async def subscribe(self, session: ClientSession, channel: str, data: bytes) -> None:
        if self.guards(channel):
            await self._ask(self._roster.number(session), "subscribe", channel, data)

    def guards(self, channel: str) -> bool:
        return self._has("subscribe", namespace_of(channel))

    def decides(self, channel: str) -> bool:
        return self._has("publish", namespace_of(channel))

    async def publish(self, session: ClientSession, channel: str, data: bytes) -> None:
        if self._roster.has(session):
            await self._ask(self._roster.number(session), "publish", channel, data)
            return
        identity, key = session.identity, key_hash(session.identity)
        await self._calls.call(
            lambda call: AskPublish(
                call, session.info, identity.expires, key, session.visit, channel, data
            )
        )

    async def rpc(self, session: ClientSession, method: str, data: bytes) -> bytes:
        answer: bytes = await self._ask(self._roster.number(session), "rpc", method, data)
        return answer

    async def message(self, session: ClientSession, data: bytes) -> None:
        await self._ask(self._roster.number(session), "message", "", data)

    async def event(self, session: ClientSession, event: str, arguments: list[Any]) -> Values:
        number = self._roster.number(session)
        found = await self._calls.call(lambda call: AskEvent(call, number, event, arguments))
        json, attachments = msgspec.convert(
            found, tuple[bytes, tuple[bytes, ...]], builtin_types=(bytes,)
        )
        return Values(json, attachments)

    async def _ask(self, number: int, kind: Kind, name: str, data: bytes) -> Any:
        return await self._calls.call(lambda call: Ask(call, number, kind, name, data))

    def _has(self, event: str, namespace: str) -> bool:
        return (namespace, event) in self._events or ("", event) in self._events
