"""The interfaces between sessions and the application."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from pushserver.auth.identity import ANONYMOUS, Identity
from pushserver.channels import jsontext
from pushserver.channels.position import Position
from pushserver.channels.publication import ClientInfo
from pushserver.errors import NotHandled
from pushserver.protocols import centrifuge
from pushserver.protocols.formats import Format
from pushserver.protocols.socketio import Values
from pushserver.sessions.visit import Visit


@dataclass(frozen=True, slots=True)
class Invitation:
    """How the server subscribes a client.

    `data` goes to the client, `info` is the `chan_info` of the subscription; both are JSON text, or
    empty. Without a `position` the client gets the channel's last publications: `initial` of them,
    None for the channel's option.
    `join_leave`: whether it gets the joins and leaves of others, None for the channel's option
    `force_push_join_leave`. `expires`: the Unix time at which the subscription ends, 0 for never.
    `user`: the user at its admission, if the invitation of a client is for that one alone.
    """

    data: bytes = b""
    info: bytes = b""
    position: Position | None = None
    join_leave: bool | None = None
    expires: float = 0.0
    initial: int | None = None
    user: str = ""


USUAL = Invitation()


Answered = Callable[[list[Any] | None], None]
"""Called with the arguments of an acknowledgement; None if none came."""


NO_CALLS = (
    "client.call needs a client of Socket.IO: the Centrifuge protocol has no"
    " acknowledgements; send an event, and have the page answer by an event of its own"
)


@dataclass(frozen=True, slots=True)
class Broadcast:
    """A message to many clients, encoded once for each format.

    `push` is that of the Centrifuge protocol; `data` is JSON text.
    """

    data: bytes
    event: str
    push: bytes
    frames: dict[Format, bytes] = field(default_factory=dict)

    @classmethod
    def of(cls, data: object, event: str) -> Broadcast:
        """Raises InvalidData and InvalidName."""
        push = centrifuge.message_push(centrifuge.encode_message(data, event))
        return cls(jsontext.encode(data), event, push)


class ClientSession(Protocol):
    """The session of one client, as the application and the resources use it."""

    @property
    def info(self) -> ClientInfo:
        """The ids of the client and its user."""

    @property
    def identity(self) -> Identity:
        """Its identity, of which the application may set the user."""

    @property
    def visit(self) -> Visit:
        """The facts about its request, if the application decides about clients."""

    @property
    def address(self) -> str | None:
        """The IP address of the client; None on a Unix socket."""

    @property
    def namespace(self) -> str:
        """The namespace whose handlers serve the client; empty for those without a namespace."""

    @property
    def full_namespace(self) -> str:
        """The namespace as Socket.IO names it, such as `/chess:12`; empty on other protocols."""

    @property
    def secret(self) -> str:
        """Proves that a request belongs to the session; empty if its commands need no requests."""

    @property
    def channels(self) -> frozenset[str]:
        """The channels that the client is in."""

    @property
    def connected(self) -> bool:
        """Whether the client was admitted and its connection exists."""

    def identify(self, user: str, info: bytes) -> None:
        """Set the user, and the JSON text about it for others; RuntimeError after the connect."""

    def broadcast(self, broadcast: Broadcast) -> None:
        """Send a message that goes to many clients; this one is connected."""

    def sender(self, data: object, event: str) -> Callable[[], None]:
        """Encode a message to this client alone, in any thread; the result sends it.

        It is sent after the connect reply at the earliest. Raises InvalidData and InvalidName.
        """

    def caller(
        self, data: object, event: str, answered: Answered, seconds: float
    ) -> Callable[[], None]:
        """Encode an event that the client acknowledges, in any thread; the result sends it.

        `answered` is called once, in `seconds` at the latest. Raises InvalidData, InvalidName, and
        RuntimeError if the protocol has no acknowledgements; the result raises LimitExceeded.
        """

    async def invite(self, channel: str, invitation: Invitation = USUAL) -> None:
        """Subscribe the client to a channel; before the connect reply, as a part of the reply.

        Does nothing if the client is in the channel, or leaves meanwhile. Raises LimitExceeded and
        Unavailable.
        """

    def prolong(self, expires: float) -> None:
        """End the session at this Unix time, 0 for never, in place of that of its token."""

    def unsubscribe(self, channel: str, code: int, reason: str) -> bool:
        """Unsubscribe the client with a push; False if it was not subscribed."""

    def disconnect(self, code: int, reason: str) -> None:
        """End the session."""


class Handlers(Protocol):
    """The application. `data` and answers are JSON texts, b"" for none.

    Each coroutine may raise Refused. Any other exception is a fault of the application; the
    client gets a general error.
    """

    @property
    def decides_on_clients(self) -> bool:
        """Whether `connect` needs `session.visit`."""

    @property
    def authenticates(self) -> bool:
        """Whether there is an `authenticate` handler."""

    async def authenticate(self, visit: Visit, data: bytes) -> Identity:
        """The identity of a peer without a token and a key; `data` is that of a `connect`."""

    async def connect(self, session: ClientSession, data: bytes) -> bytes:
        """Admit a client, and return the application's part of the reply."""

    def disconnect(self, session: ClientSession, reason: str) -> None:
        """Handle the end of a client that was connected."""

    async def subscribe(self, session: ClientSession, channel: str, data: bytes) -> None:
        """Allow a client to subscribe."""

    def guards(self, channel: str) -> bool:
        """Whether `subscribe` decides who may read this channel; raises nothing."""

    def decides(self, channel: str) -> bool:
        """Whether `publish` decides who may publish to this channel; raises nothing."""

    async def publish(self, session: ClientSession, channel: str, data: bytes) -> None:
        """Allow a client to publish to a channel for which `decides` is true.

        It need not be connected: see `request_session`.
        """

    async def rpc(self, session: ClientSession, method: str, data: bytes) -> bytes:
        """Answer a call of a client; raises NotHandled."""

    async def message(self, session: ClientSession, data: bytes) -> None:
        """Process a message of a client, which gets no answer; raises NotHandled."""

    async def event(self, session: ClientSession, event: str, arguments: list[Any]) -> Values:
        """Process an event of a Socket.IO client; the result is for its acknowledgement.

        Raises NotHandled.
        """


class NoHandlers:
    """A server without an application."""

    decides_on_clients = False
    authenticates = False

    async def authenticate(self, visit: Visit, data: bytes) -> Identity:
        return ANONYMOUS

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
        raise NotHandled(f"this server has no handler for {method[:80]!r}")

    async def message(self, session: ClientSession, data: bytes) -> None:
        raise NotHandled("this server has no handler for `send`")

    async def event(self, session: ClientSession, event: str, arguments: list[Any]) -> Values:
        raise NotHandled(f"this server has no handler for {event[:80]!r}")
