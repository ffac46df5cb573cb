"""The peers of a follower, as the author sees them: subscribers of its hub, and sessions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from pushserver.auth.identity import Identity
from pushserver.channels import jsontext
from pushserver.channels.publication import Publication
from pushserver.cluster.calls import Calls
from pushserver.cluster.messages import (
    Commands,
    End,
    Entered,
    Gone,
    Invite,
    Joined,
    Observes,
    Parted,
    Prolong,
    Push,
    Say,
    Unsubscribe,
)
from pushserver.errors import LimitExceeded
from pushserver.hub.audience import Audience, Outlet
from pushserver.protocols import centrifuge
from pushserver.protocols.formats import Format
from pushserver.sessions.callbacks import USUAL, Answered, Broadcast, Invitation
from pushserver.sessions.node import Node
from pushserver.sessions.visit import Visit


def _encode_nothing(publications: Sequence[Publication]) -> bytes:
    return b""


FORMAT = Format("remote", _encode_nothing, 1003)
"""Nothing is encoded: the follower has the publications, and encodes them itself."""


class RemotePeer:
    """A connection of a follower: a subscriber without frames, a session, and a reader.

    Each method sends an order to its follower, and returns at once.
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
        self.visit = Visit(protocol=entered.protocol)
        self.connected = False
        self.update(entered)

    def update(self, entered: Entered) -> None:
        """Take what may have changed since its first report."""
        self.info = entered.info
        self.identity = Identity(entered.info.user, entered.info.conn_info, entered.expires)

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
        raise RuntimeError("the user of a client is set in its connect handler, not later")

    def received(self, text: bytes) -> None:
        self._calls.tell(Commands(self.number, text))

    def broadcast(self, broadcast: Broadcast) -> None:
        self._calls.tell(Say(self.number, broadcast.data, broadcast.event))

    def sender(self, data: object, event: str) -> Callable[[], None]:
        centrifuge.encode_message(data, event)
        message = Say(self.number, jsontext.encode(data), event)
        return partial(self._calls.tell, message)

    def caller(
        self, data: object, event: str, answered: Answered, seconds: float
    ) -> Callable[[], None]:
        raise RuntimeError("client.call does not work with workers yet")

    async def invite(self, channel: str, invitation: Invitation = USUAL) -> None:
        if channel not in self.audiences:
            await self._calls.call(lambda call: Invite(call, self.number, channel, invitation))

    def prolong(self, expires: float) -> None:
        self._calls.tell(Prolong(self.number, expires))

    def unsubscribe(self, channel: str, code: int, reason: str) -> bool:
        if channel not in self.audiences:
            return False
        self._calls.tell(Unsubscribe(self.number, channel, code, reason))
        return True

    def disconnect(self, code: int, reason: str) -> None:
        self._calls.tell(End(self.number, code, reason))

    end = disconnect


class RemotePeers:
    """The peers of one follower by number; they are in the hub and the directory of the node."""

    def __init__(self, node: Node, calls: Calls):
        self._node = node
        self._calls = calls
        self._peers: dict[int, RemotePeer] = {}

    def entered(self, message: Entered) -> None:
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
        else:
            sessions.add(peer)
            sessions.identify(peer)
            peer.connected = True

    def gone(self, message: Gone) -> None:
        """Remove a peer, from its channels too."""
        peer = self._peers.pop(message.peer, None)
        if peer is not None:
            self._remove(peer)

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
        peers, self._peers = self._peers, {}
        for peer in peers.values():
            self._remove(peer)

    def _remove(self, peer: RemotePeer) -> None:
        peer.connected = False
        for name in tuple(peer.audiences):
            self._node.hub.unsubscribe(peer, name)
        if peer.is_reader:
            self._node.sessions.leave(peer)
        else:
            self._node.sessions.remove(peer)
