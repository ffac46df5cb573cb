"""The interface by which sessions ask the application."""

from __future__ import annotations

from typing import Protocol

from pushserver.channels.publication import ClientInfo
from pushserver.errors import NotHandled
from pushserver.protocols.formats import SessionFormat


class ClientSession(Protocol):
    """The session of one client, for those that are not its transport."""

    @property
    def info(self) -> ClientInfo:
        """The ids of the client and its user."""

    @property
    def secret(self) -> str:
        """Proves that a request belongs to the session; empty if its commands need no requests."""

    @property
    def channels(self) -> frozenset[str]:
        """The channels that the client is in."""

    @property
    def connected(self) -> bool:
        """Whether the client was let in and its connection is there."""

    def received(self, text: bytes) -> None:
        """Take commands of the client."""

    def broadcast(self, text: bytes, frames: dict[SessionFormat, bytes]) -> None:
        """Send a push that goes to many sessions; `frames` caches its encoding by format."""

    def message(self, data: bytes) -> None:
        """Send JSON text that is no publication; sent after the connect reply at the earliest."""

    async def invite(self, channel: str) -> None:
        """Put the client into a channel; before the connect reply, as a part of that."""

    def unsubscribe(self, channel: str, code: int, reason: str) -> bool:
        """Take the client out of the channel; False if it was not in it."""

    def disconnect(self, code: int, reason: str) -> None:
        """End the session."""


class Handlers(Protocol):
    """The application. `data` and answers are JSON texts, b"" for none.

    Each coroutine may raise Refused. Any other exception is a fault of the application; the
    client learns only that there was one.
    """

    async def connect(self, session: ClientSession, data: bytes) -> bytes:
        """Let a client in, and return the answer to it."""

    def disconnect(self, session: ClientSession, reason: str) -> None:
        """A connected client is gone."""

    async def subscribe(self, session: ClientSession, channel: str, data: bytes) -> None:
        """Let a client subscribe."""

    def guards(self, channel: str) -> bool:
        """Whether `subscribe` decides who may read this channel; raises nothing."""

    def decides(self, channel: str) -> bool:
        """Whether `publish` decides who may publish to this channel; raises nothing."""

    async def publish(self, session: ClientSession, channel: str, data: bytes) -> None:
        """Let a client publish to a channel for which `decides` is true."""

    async def rpc(self, session: ClientSession, method: str, data: bytes) -> bytes:
        """Answer a call of a client; raises NotHandled."""

    async def message(self, session: ClientSession, data: bytes) -> None:
        """Process a message of a client, which gets no answer; raises NotHandled."""


class NoHandlers:
    """A server without an application."""

    async def connect(self, session: ClientSession, data: bytes) -> bytes:
        return b""

    def disconnect(self, session: ClientSession, reason: str) -> None:
        """No-op."""

    async def subscribe(self, session: ClientSession, channel: str, data: bytes) -> None:
        """Every client may subscribe."""

    def guards(self, channel: str) -> bool:
        return False

    def decides(self, channel: str) -> bool:
        return False

    async def publish(self, session: ClientSession, channel: str, data: bytes) -> None:
        """Not called: `decides` is false for each channel."""

    async def rpc(self, session: ClientSession, method: str, data: bytes) -> bytes:
        raise NotHandled("not available on this server")

    async def message(self, session: ClientSession, data: bytes) -> None:
        raise NotHandled("nothing on this server takes `send`")
