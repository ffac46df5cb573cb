"""Orders for readers: a request whose channels are loaded before it reads them, and an end."""

from __future__ import annotations

from collections.abc import Awaitable, Collection
from typing import Protocol, TypeVar

from pushserver.auth.identity import Identity
from pushserver.channels.publication import ClientInfo
from pushserver.errors import Denied, PushServerError
from pushserver.hub.audience import Subscriber
from pushserver.hub.hub import Hub
from pushserver.protocols.centrifuge import FORCE_NO_RECONNECT, reconnects
from pushserver.sessions.directory import Reader
from pushserver.sessions.node import Node, new_id

Loaded = TypeVar("Loaded")


class SubscribedReader(Subscriber, Reader, Protocol):
    """A stream or a long-poll."""

    __slots__ = ()


def end_without(reader: SubscribedReader, channel: str, hub: Hub) -> bool:
    """End a stream or long-poll if it has the channel, or is about to have it."""
    if channel not in hub.channels_of(reader):
        return False
    reader.end(FORCE_NO_RECONNECT, _unsubscribed(channel))
    return True


class Arriving:
    """A request that waits for its channels, for the directory.

    An end after which a client stays away is one for the request too. After another one the client
    would come again at once, as this request does.
    """

    __slots__ = ("_channels", "_problem", "audiences", "identity", "info")

    def __init__(self, identity: Identity, channels: Collection[str]):
        self.info = ClientInfo(new_id(), identity.user, identity.info)
        self.identity = identity
        # Those of the hub, in which it is not yet.
        self.audiences: dict[str, object] = {}
        self._problem = ""
        self._channels = channels

    def end(self, code: int, reason: str) -> None:
        if not reconnects(code):
            self._problem = reason

    def check_not_ended(self) -> None:
        """Raise Denied with the reason of its end."""
        if self._problem:
            raise Denied(403, self._problem)

    def unsubscribe(self, channel: str, code: int, reason: str) -> bool:
        if channel not in self._channels:
            return False
        self.end(FORCE_NO_RECONNECT, _unsubscribed(channel))
        return True


async def arrive(
    node: Node, identity: Identity, channels: Collection[str], loading: Awaitable[Loaded]
) -> Loaded:
    """Wait for the channels of a request; return the result of `loading`.

    Raises Denied if the request was ended meanwhile, or its user unsubscribed, and what `loading`
    raises. The rules may have changed too: that is for the caller.
    """
    arriving = Arriving(identity, channels)
    node.sessions.enter(arriving)
    try:
        loaded = await loading
    except PushServerError:
        arriving.check_not_ended()
        raise
    finally:
        node.sessions.leave(arriving)
    arriving.check_not_ended()
    return loaded


def _unsubscribed(channel: str) -> str:
    return f"unsubscribed from {channel}"
