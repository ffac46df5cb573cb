"""What the application or a key orders for clients of a user, at this server and at others."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from typing import Any, Protocol

import msgspec
from msgspec import Struct

from pushserver.errors import LimitExceeded, PushServerError
from pushserver.hub.hub import Hub
from pushserver.sessions.callbacks import Broadcast, ClientSession, Invitation
from pushserver.sessions.directory import Directory, Reader


class Server(Protocol):
    """The server whose clients are meant; a node provides this."""

    hub: Hub
    sessions: Directory
    run: Callable[[Coroutine[Any, Any, None]], None]
    log_refusal: Callable[[int, str | None, str], None]


class OfUser(Struct, frozen=True, array_like=True):
    """For all connections of the user; with a client or a session, only for that one."""

    user: str
    client: str | None
    session: str | None


class End(OfUser, frozen=True, tag=1):
    """End the connections, except those of the spared clients."""

    code: int
    reason: str
    spared: tuple[str, ...] = ()


class Unsubscribe(OfUser, frozen=True, tag=2):
    """Take the connections out of a channel."""

    channel: str
    code: int
    reason: str


class Subscribe(OfUser, frozen=True, tag=3):
    """Put the connections into a channel."""

    channel: str
    invitation: Invitation


class Prolong(OfUser, frozen=True, tag=4):
    """Let the connections end at another time, in Unix seconds."""

    expires: int


class Tell(Struct, frozen=True, array_like=True, tag=5):
    """Send a message to every client, except these; `data` is JSON text."""

    data: bytes
    event: str
    without: tuple[str, ...]


Order = End | Unsubscribe | Subscribe | Prolong | Tell

encode = msgspec.msgpack.Encoder().encode
_decoder = msgspec.msgpack.Decoder(Order)


def decode(text: bytes) -> Order:
    """Decode an order of another server; raises ValueError."""
    try:
        order: Order = _decoder.decode(text)
        return order
    except msgspec.DecodeError as error:
        raise ValueError(str(error)) from None


def carry_out(node: Server, order: Order) -> None:
    """Carry out the order for the clients of this server."""
    if isinstance(order, Tell):
        tell(node, Broadcast.of(msgspec.json.decode(order.data), order.event), order.without)
    elif isinstance(order, End):
        for session in sessions(node, order):
            if session.info.client not in order.spared:
                session.disconnect(order.code, order.reason)
        for reader in readers(node, order):
            if reader.info.client not in order.spared:
                reader.end(order.code, order.reason)
    elif isinstance(order, Unsubscribe):
        for session in sessions(node, order):
            session.unsubscribe(order.channel, order.code, order.reason)
        for reader in readers(node, order):
            reader.unsubscribe(order.channel, order.code, order.reason)
    elif isinstance(order, Subscribe):
        for session, invitation in invitations(node, order):
            node.run(invite(node, session, order.channel, invitation))
    else:
        for session in sessions(node, order):
            if session.connected or order.user:
                session.prolong(order.expires)


def invitations(node: Server, order: Subscribe) -> list[tuple[ClientSession, Invitation]]:
    """The clients that the order subscribes, each with its invitation.

    One that is about to be admitted is subscribed by its connect reply, if it still is of this
    user then. Nobody knows yet whose client is one without a user.
    """
    invitation = replace(order.invitation, user=order.user)
    return [
        (session, invitation)
        for session in sessions(node, order)
        if session.connected or order.user
    ]


async def invite(
    node: Server, session: ClientSession, channel: str, invitation: Invitation
) -> None:
    """Subscribe a client, for a caller that does not wait; a failure is logged as a refusal."""
    try:
        await session.invite(channel, invitation)
    except LimitExceeded:
        # Counted, and logged once a minute.
        pass
    except PushServerError as error:
        problem = f"a subscription to {channel}: {error}"
        node.log_refusal(error.centrifuge_code, session.address, problem)


def tell(node: Server, broadcast: Broadcast, without: Sequence[str]) -> None:
    """Send a message to every client of this server, except these."""
    for session in node.sessions:
        if session.connected and session.info.client not in without:
            session.broadcast(broadcast)


def sessions(node: Server, order: OfUser) -> list[ClientSession]:
    """The sessions that the order is for, also those that are about to be admitted."""
    return node.sessions.of_user(order.user, order.client, order.session)


def readers(node: Server, order: OfUser) -> list[Reader]:
    """The readers that the order is for, none of which has a secret."""
    return [] if order.session else node.sessions.readers(order.user, order.client)
