"""One conversation of a reader that only listens: raw WebSocket, SSE, NDJSON."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Protocol

from pushserver.channel import ClientInfo
from pushserver.cursor import Start
from pushserver.formats import Reset, StreamFormat, Subscribed
from pushserver.hub import Direct, Following
from pushserver.node import Node, new_client

GOING_AWAY = 1001
POLICY = 1008
OVERLOADED = 1013
# A client that lost its stream comes back after this long, each after another time.
RETRY_MILLISECONDS = (1_000, 4_000)


class Transport(Protocol):
    """How a stream's frames reach its peer."""

    @property
    def format(self) -> StreamFormat:
        """How things look here."""

    @property
    def direct(self) -> Direct | None:
        """Sends past everything, while nothing waits; see `hub.Subscriber.direct`."""

    def attach(self, conversation: Stream) -> None:
        """Tell this conversation what becomes of the connection."""

    def write(self, frame: bytes) -> None:
        """Send one frame; nothing happens once the transport is closing."""

    def hold(self, rest: bytes) -> None:
        """Send what `direct` did not take."""

    def close(self, code: int, reason: str) -> None:
        """End, with this WebSocket close code where there is such a thing."""

    def abort(self) -> None:
        """Drop the connection at once."""


class Stream:
    """Publication objects of one or several channels, with one cursor over all of them.

    What was missed and everything live come in the order of publication.
    """

    __slots__ = ("_awaiting", "_channels", "_ended", "_node", "_transport", "info", "send")

    def __init__(self, node: Node, transport: Transport):
        self.info = ClientInfo(new_client())
        self.send = transport.write
        self._node = node
        self._transport = transport
        self._channels: Sequence[str] = ()
        self._awaiting = False
        self._ended = False
        transport.attach(self)
        node.peers.wake_at(self, node.monotonic() + self._interval())

    @property
    def format(self) -> StreamFormat:
        return self._transport.format

    async def follow(self, channels: Sequence[str], start: Start) -> None:
        """Begin: say where the stream stands, send what was missed, go on live."""
        self._channels = channels
        following = await self._node.hub.follow(self, channels, start)
        retry = random.randint(*RETRY_MILLISECONDS)
        begin = self.format.begin(_subscribed(following), _reset(following), retry)
        replay = map(self.format.publication, following.publications)
        self.send(b"".join((begin, *replay)))

    def received(self, text: bytes) -> None:
        """A text from the peer; there is nothing that it could say here."""
        self.disconnect(POLICY, "this stream only sends; publish by POST to the channel's URL")

    def alive(self) -> None:
        """The peer answered a heartbeat."""
        self._awaiting = False

    def closed(self) -> None:
        """The connection is gone."""
        self._leave_all()
        self._node.peers.remove(self)

    @property
    def direct(self) -> Direct | None:
        return self._transport.direct

    def held(self, rest: bytes) -> None:
        self._transport.hold(rest)

    def blocked(self, direct: Direct | None) -> None:
        """The transport has something waiting: nothing may go past it by `direct`."""
        if direct is not None:
            self._node.hub.hold(self, self._channels, direct)

    def drained(self) -> None:
        """Nothing waits in the transport any more."""
        self._node.hub.release(self, self._channels)

    def insufficient(self, channel: str) -> None:
        self.disconnect(OVERLOADED, "insufficient state; come back with the last id")

    def wake(self, now: float) -> float | None:
        if self._ended:
            return None
        if self._awaiting:
            self.disconnect(POLICY, "no pong")
            return None
        self.send(self.format.heartbeat)
        if not self.format.answered:
            return now + self._interval()
        self._awaiting = True
        return now + self._node.limits.dead_seconds

    def shut_down(self) -> None:
        self.disconnect(GOING_AWAY, "the server is shutting down")

    def disconnect(self, code: int, reason: str) -> None:
        """End the stream from this side; the connection follows."""
        if not self._ended:
            self._leave_all()
            self._node.hub.metrics.ended[str(code)] += 1
            self._transport.close(code, reason)

    def slow(self) -> None:
        """The peer leaves more unread than it may; no close frame would reach it."""
        self._node.hub.metrics.ended[str(OVERLOADED)] += 1
        self.abort()

    def abort(self) -> None:
        self._leave_all()
        self._transport.abort()

    def _leave_all(self) -> None:
        self._ended = True
        channels, self._channels = self._channels, ()
        for channel in channels:
            self._node.hub.unsubscribe(self, channel)

    def _interval(self) -> float:
        limits = self._node.limits
        seconds = limits.ping_seconds if self.format.answered else limits.heartbeat_seconds
        return seconds * random.uniform(0.75, 1.0)


def _subscribed(following: Following) -> list[Subscribed]:
    cursor = following.cursor
    return [
        Subscribed(name, cursor.epoch, offset, str(cursor), following.recovered)
        for name, offset in following.offsets.items()
    ]


def _reset(following: Following) -> Reset | None:
    if not following.reason:
        return None
    return Reset(following.reason, following.cursor.epoch, str(following.cursor))
