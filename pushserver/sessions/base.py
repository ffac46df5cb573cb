"""The base class of conversations: a peer with its transport, its channels and its state."""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum
from typing import ClassVar, Generic, Protocol, TypeVar

from pushserver.channels.publication import ClientInfo
from pushserver.hub.audience import Audience, Direct, Outlet
from pushserver.protocols.formats import Format
from pushserver.sessions.node import Node, new_id

FormatT = TypeVar("FormatT", bound=Format)

CLOSING_SECONDS = 5.0
"""The time for a peer to read the end of a conversation before its connection is dropped."""


class State(IntEnum):
    """The states of a conversation, in their order; CONNECTING goes back to NEW on a refusal."""

    NEW = 0
    CONNECTING = 1
    """The application decides whether to admit the client."""
    OPEN = 2
    CLOSING = 3
    """The server has ended an open conversation; the connection still exists."""
    GONE = 4
    """An open connection is gone; the application is notified after the current command."""
    CLOSED = 5


# Reading State.OPEN takes 0.2 us in Python 3.11, which was 4 us for each connect.
NEW, CONNECTING, OPEN, CLOSING, GONE, CLOSED = State


class Transport(Protocol[FormatT]):
    """Sends the frames of a conversation to its peer."""

    @property
    def format(self) -> FormatT:
        """The encoding on this connection."""

    @property
    def outlet(self) -> Outlet | None:
        """The outlet of the connection's socket; None without a socket."""

    def attach(self, conversation: Conversation[FormatT]) -> None:
        """Pass received texts and the end of the connection to this conversation."""

    def write(self, frame: bytes) -> None:
        """Send one frame; a no-op on a closing transport."""

    def replay(self, frames: Iterator[bytes]) -> None:
        """Send frames that are made one by one, each when the last has left; then all later ones.

        The end of the conversation drops the rest of them, and all frames behind.
        """

    def close(self, code: int, reason: str) -> None:
        """Close after all written frames, with this code if the transport has codes."""

    def abort(self) -> None:
        """Drop the connection at once."""


class Conversation(Generic[FormatT]):
    """A connected peer: a subscriber of the hub, in the node's `peers`, over one transport.

    The transport calls `closed` once, when the connection is gone; to end the connection the
    conversation calls the transport's `close` or `abort`.
    """

    __slots__ = ("_due_at", "_transport", "audiences", "expires", "info", "node", "send", "state")

    slow_code: ClassVar[int]
    """The close code for a slow peer, for the counters: no close frame would reach the peer."""
    flood_code: ClassVar[int]
    """The close code for a peer that sends too many frames."""
    takes_binary: ClassVar[bool] = False
    """Whether the peer may send binary messages; they go to `received_binary`."""

    def __init__(self, node: Node, transport: Transport[FormatT]):
        self.info = ClientInfo(new_id())
        self.send = transport.write
        self.node = node
        self._transport = transport
        # By name: each channel's, or one of several channels together.
        self.audiences: dict[str, Audience] = {}
        self.state = NEW
        # The time of the steady clock at which `due` is called next.
        self._due_at = 0.0
        # The Unix time at which `expired` is called; 0 for never.
        self.expires = 0.0
        transport.attach(self)
        node.metrics.opened[transport.format.name] += 1

    @property
    def format(self) -> FormatT:
        return self._transport.format

    @property
    def outlet(self) -> Outlet | None:
        return self._transport.outlet

    @property
    def _blocked_at(self) -> float | None:
        outlet = self._transport.outlet
        return None if outlet is None else outlet.blocked_at

    @property
    def is_yielding(self) -> bool:
        """Whether texts wait for the next turn of the reactor; the transport waits with more."""
        return False

    def drained(self) -> None:
        """Continue after all waiting bytes were sent."""

    def is_stuck(self, now: float) -> bool:
        """Whether bytes have waited longer than a live peer can leave them unread."""
        limits = self.node.limits
        since = self._blocked_at
        return since is not None and now - since > limits.ping_seconds + limits.dead_seconds

    def received(self, text: bytes) -> None:
        """Process a text from the peer."""
        raise NotImplementedError

    def received_binary(self, data: bytes) -> None:
        """Process a binary message from the peer; only called if it `takes_binary`."""
        raise NotImplementedError

    def block(self, direct: Direct) -> None:
        """Bytes wait from now on: the fan-out must not call the outlet's `direct`."""
        for audience in self.audiences.values():
            audience.block(self, direct)

    def unblock(self) -> None:
        """No bytes wait any more."""
        for audience in self.audiences.values():
            audience.unblock(self)

    def insufficient(self, channel: str) -> None:
        raise NotImplementedError

    def wake(self, now: float) -> float | None:
        if self.state >= CLOSING:
            self.abort()
            return None
        if self.is_stuck(now):
            self.slow()
            return None
        if self.expires and self.node.clock() >= self.expires:
            self.expired()
        if self.state < CLOSING and now >= self._due_at:
            again = self.due(now)
            self._due_at = now if again is None else again
        return now + CLOSING_SECONDS if self.state >= CLOSING else self._next_wake()

    def due(self, now: float) -> float | None:
        """Wake a conversation that has not ended, at its time; see `peers.Peer.wake`."""
        raise NotImplementedError

    def expired(self) -> None:
        """End the conversation, or the part of it, whose permission ended at `expires`."""
        raise NotImplementedError

    def wake_at(self, at: float) -> None:
        """Call `due` at this time of the steady clock, in place of an earlier one."""
        self._due_at = at
        self.node.peers.wake_at(self, self._next_wake())

    def expire_at(self, expires: float) -> None:
        """Call `expired` at this Unix time, in place of an earlier one; 0 for never."""
        if expires != self.expires:
            self.expires = expires
            self.node.peers.wake_at(self, self._next_wake())

    def _next_wake(self) -> float:
        if not self.expires:
            return self._due_at
        left = max(0.0, self.expires - self.node.clock())
        return min(self._due_at, self.node.monotonic() + left)

    def shut_down(self) -> None:
        raise NotImplementedError

    def alive(self) -> None:
        """Note that the peer answered a ping of the transport."""

    def closed(self) -> None:
        """Forget the conversation, whose connection is gone."""
        self.node.metrics.closed[self.format.name] += 1
        self._leave_all()
        if self.state is CLOSING:
            self.state = CLOSED
        self.node.peers.remove(self)

    def disconnect(self, code: int, reason: str) -> None:
        """End the conversation, then close the connection."""
        if self.state < CLOSING:
            self._leave_all()
            self.node.metrics.ended[str(code)] += 1
            if self._transport.outlet is not None:
                self._transport.outlet.end_replays()
            # A peer that does not read would never see the close.
            self.node.peers.wake_at(self, self.node.monotonic() + CLOSING_SECONDS)
            self._close(code, reason)

    def slow(self) -> None:
        """Drop a peer that leaves too many bytes unread."""
        self.node.metrics.slow += 1
        self.node.metrics.ended[str(self.slow_code)] += 1
        self.abort()

    def abort(self) -> None:
        """End the conversation and drop the connection."""
        self._leave_all()
        self._transport.abort()

    def _close(self, code: int, reason: str) -> None:
        self._transport.close(code, reason)

    def _leave_all(self) -> None:
        if self.state < CLOSING:
            self.state = CLOSING if self.state is OPEN else CLOSED
        for name in tuple(self.audiences):
            self.node.hub.unsubscribe(self, name)
