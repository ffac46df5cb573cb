"""The peers of a follower, as the author sees them: subscribers of its hub, and sessions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import msgspec

from pushserver.auth.identity import Identity
from pushserver.channels.publication import ClientInfo, Publication
from pushserver.cluster.calls import Calls
from pushserver.cluster.messages import (
    End,
    Ended,
    Entered,
    Gone,
    Invite,
    Joined,
    Observes,
    Parted,
    Prolong,
    Push,
    Request,
    Say,
    Spread,
    Unsubscribe,
)
from pushserver.errors import LimitExceeded
from pushserver.hub.audience import Audience, Outlet
from pushserver.protocols import centrifuge
from pushserver.protocols.formats import Format
from pushserver.protocols.socketio import RESERVED, values
from pushserver.sessions.callbacks import NO_CALLS, USUAL, Answered, Broadcast, Invitation
from pushserver.sessions.namespace import checked_event
from pushserver.sessions.node import Node


def _encode_nothing(publications: Sequence[Publication]) -> bytes:
    return b""


FORMAT = Format("remote", _encode_nothing, 1003)
"""Nothing is encoded: the follower has the publications, and encodes them itself."""


def restored(node: Node, info: ClientInfo, expires: float, key: bytes) -> Identity:
    """The identity of a peer as the application sees it.

    Its key is that of the present configuration, which may not have it any more.
    """
    found = node.identification.key_with(key) if key else None
    return Identity(info.user, info.conn_info, expires, key=found)


class RemotePeer:
    """A connection of a follower: a subscriber without frames, a session, and a reader.

    Orders to it are sent to its follower.
    """

    format = FORMAT
    outlet: Outlet | None = None

    def __init__(self, node: Node, calls: Calls, entered: Entered):
        self._node = node
        self._calls = calls
        self.number = entered.peer
        self.audiences: dict[str, Audience] = {}
        self.is_reader = entered.is_reader
        self.namespace = entered.namespace
        self.full_namespace = entered.full_namespace
        self.secret = entered.secret
        self.visit = entered.visit
        self.connected = False
        self.asked = False
        """Whether the application has admitted it, and does not know of its end."""
        self.update(entered)

    def update(self, entered: Entered) -> None:
        """Take what may have changed since its first report."""
        self.info = entered.info
        self._expires = entered.expires
        self._key = entered.key

    @property
    def identity(self) -> Identity:
        return restored(self._node, self.info, self._expires, self._key)

    @property
    def address(self) -> str | None:
        return self.visit.address or None

    @property
    def channels(self) -> frozenset[str]:
        return frozenset(self.audiences)

    def send(self, frame: bytes) -> None:
        """No-op: see FORMAT."""

    def insufficient(self, channel: str) -> None:
        """No-op: the follower sees gaps itself."""

    def push(self, text: bytes) -> None:
        self._calls.tell(Push(self.number, text))

    def identify(self, user: str, info: bytes) -> None:
        if self.connected:
            raise RuntimeError("the user of a client is set in its connect handler, not later")
        self.info = ClientInfo(self.info.client, user, info)

    def broadcast(self, broadcast: Broadcast) -> None:
        event = broadcast.event
        if self.full_namespace and event in RESERVED:
            # Its clients refuse the name, and get another, as from `Namespace.broadcast`.
            event = ""
        given = Spread(msgspec.json.decode(broadcast.data), False)
        self._calls.tell(Say(self.number, given, event))

    def sender(self, data: object, event: str) -> Callable[[], None]:
        return partial(self._calls.tell, Say(self.number, self._checked(data, event), event))

    def caller(
        self, data: object, event: str, answered: Answered, seconds: float
    ) -> Callable[[], None]:
        if not self.full_namespace:
            raise RuntimeError(NO_CALLS)
        given = self._checked(data, event)

        def call() -> None:
            done = self._calls.call(lambda n: Request(n, self.number, given, event, seconds))
            done.addCallbacks(answered, lambda _: answered(None))

        return call

    def _checked(self, data: object, event: str) -> Spread:
        """The data for the link; raises InvalidData and InvalidName, as the session would."""
        if self.full_namespace:
            checked_event(event)
            values(data if isinstance(data, tuple) else (data,))
        else:
            centrifuge.encode_message(data, event)
        return Spread.of(data)

    async def invite(self, channel: str, invitation: Invitation = USUAL) -> None:
        # Always: the client may be about to leave the channel.
        await self._calls.call(lambda call: Invite(call, self.number, channel, invitation))

    def prolong(self, expires: float) -> None:
        self._calls.tell(Prolong(self.number, expires))

    def unsubscribe(self, channel: str, code: int, reason: str) -> bool:
        # Always: the client may be about to join.
        self._calls.tell(Unsubscribe(self.number, channel, code, reason))
        return channel in self.audiences

    def disconnect(self, code: int, reason: str) -> None:
        self._calls.tell(End(self.number, code, reason))

    end = disconnect


class RemotePeers:
    """The peers of one follower by number; they are in the hub and the directory of the node."""

    def __init__(self, node: Node, calls: Calls):
        self._node = node
        self._calls = calls
        self._peers: dict[int, RemotePeer] = {}
        # Those that are gone, until the application knows.
        self._ending: dict[int, RemotePeer] = {}

    def entered(self, message: Entered) -> RemotePeer:
        """Add a peer, or take the facts that have changed."""
        peer = self._peers.get(message.peer)
        sessions = self._node.sessions
        if peer is None:
            peer = self._peers[message.peer] = RemotePeer(self._node, self._calls, message)
        elif peer.is_reader:
            sessions.leave(peer)
        else:
            sessions.remove(peer)
        peer.update(message)
        if peer.is_reader:
            sessions.enter(peer)
            return peer
        sessions.add(peer)
        if message.is_admitted:
            sessions.identify(peer)
            peer.connected = True
        return peer

    def find(self, number: int) -> RemotePeer | None:
        """The peer of this number."""
        return self._peers.get(number)

    def users(self) -> Iterator[str]:
        """The user of each peer."""
        return (peer.info.user for peer in self._peers.values())

    def gone(self, message: Gone) -> None:
        """Remove a peer, from its channels too."""
        peer = self._peers.pop(message.peer, None)
        if peer is not None:
            if peer.asked:
                self._ending[message.peer] = peer
            self._remove(peer)

    def ended(self, message: Ended) -> None:
        """Let the application know that a client is gone, which it had admitted."""
        peer = self._ending.pop(message.peer, None) or self._peers.get(message.peer)
        if peer is not None and peer.asked:
            self._end(peer, message.reason)

    def _end(self, peer: RemotePeer, reason: str) -> None:
        peer.asked = False
        self._node.handlers.disconnect(peer, reason)

    def joined(self, message: Joined) -> None:
        """Add a peer to a channel; one that the hub has no room for is not listed there."""
        peer = self._peers.get(message.peer)
        if peer is None or message.channel in peer.audiences:
            return
        presence = self._node.presence
        if message.chan_info:
            presence.describe(message.channel, peer, message.chan_info)
        try:
            self._node.hub.enter(peer, message.channel)
        except LimitExceeded:
            presence.forget(message.channel, peer)

    def parted(self, message: Parted) -> None:
        """Remove a peer from a channel."""
        peer = self._peers.get(message.peer)
        if peer is not None:
            self._node.hub.unsubscribe(peer, message.channel)

    def observes(self, message: Observes) -> None:
        """Push the joins and leaves of a channel to a peer from now on, or no longer."""
        peer, presence = self._peers.get(message.peer), self._node.presence
        if peer is None or message.channel not in peer.audiences:
            return
        if message.wanted:
            presence.observe(message.channel, peer)
            if own_join := presence.own_join(message.channel, peer):
                peer.push(own_join)
        else:
            presence.ignore(message.channel, peer)

    def lost(self) -> None:
        """The follower is gone, with all its peers."""
        peers, self._peers = [*self._peers.values(), *self._ending.values()], {}
        self._ending = {}
        for peer in peers:
            self._remove(peer)
            if peer.asked:
                self._end(peer, "a process of the server is gone")

    def _remove(self, peer: RemotePeer) -> None:
        peer.connected = False
        for name in tuple(peer.audiences):
            self._node.hub.unsubscribe(peer, name)
        if peer.is_reader:
            self._node.sessions.leave(peer)
        else:
            self._node.sessions.remove(peer)
