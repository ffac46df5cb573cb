"""A one-way stream of publications to one reader: raw WebSocket, SSE, NDJSON."""

from __future__ import annotations

import random
from collections.abc import Sequence

from pushserver.auth.identity import ANONYMOUS, Identity
from pushserver.channels.position import Start
from pushserver.channels.publication import ClientInfo
from pushserver.errors import Unavailable
from pushserver.hub.hub import Following
from pushserver.protocols.formats import End, Reset, StreamFormat, Subscribed
from pushserver.sessions.arriving import end_without
from pushserver.sessions.base import OPEN, Conversation, Transport
from pushserver.sessions.node import Node

GOING_AWAY = 1001
POLICY = 1008
OVERLOADED = 1013
EXPIRED = 3005
RETRY_MILLISECONDS = (1_000, 4_000)
"""The range of the random delay after which a client reconnects, so that not all do at once."""


class Stream(Conversation[StreamFormat]):
    """The publications of one or several channels, with one cursor over all of them.

    Missed and live publications are sent in the order in which they were published.
    """

    __slots__ = ("_awaiting", "identity")

    slow_code = OVERLOADED
    flood_code = POLICY

    def __init__(
        self, node: Node, transport: Transport[StreamFormat], identity: Identity = ANONYMOUS
    ):
        self._awaiting = False
        self.identity = identity
        super().__init__(node, transport)
        if identity.user:
            self.info = ClientInfo(self.info.client, identity.user, identity.info)
        node.users.enter(identity.user)
        node.sessions.enter(self)
        self.state = OPEN
        self.wake_at(node.monotonic() + self._interval())
        self.expire_at(identity.expires)

    async def follow(self, channels: Sequence[str], start: Start, past: bool = True) -> None:
        """Send the stream's position and the missed publications, then live ones.

        `past`: whether the reader may read earlier publications. If the channels cannot be
        followed now, the stream ends with the reason, and the reader may come back.
        """
        try:
            following = await self.node.hub.follow(self, channels, start, past)
        except Unavailable as error:
            self.end(OVERLOADED, str(error))
            return
        least, most = RETRY_MILLISECONDS
        retry = int(random.uniform(least, most))
        opening = self.format.make_opening(_subscribed(following), _reset(following), retry)
        rows, rest = following.publications, None
        if rows:
            encode = self.format.publications
            first, rest = self.node.replays.start(following.audience, rows, encode)
            opening += first
        if opening:
            self.send(opening)
        if rest is not None:
            self._transport.replay(rest)

    def check_not_ended(self) -> None:
        if self.state is not OPEN:
            raise Unavailable("the stream has ended", "stopping")

    def received(self, text: bytes) -> None:
        self.disconnect(POLICY, "this stream only sends; publish by POST to the channel's URL")

    def closed(self) -> None:
        self.node.users.leave(self.info.user)
        self.node.sessions.leave(self)
        super().closed()

    def alive(self) -> None:
        self._awaiting = False

    def insufficient(self, channel: str) -> None:
        self.disconnect(OVERLOADED, "insufficient state; come back with the last id")

    def due(self, now: float) -> float | None:
        if self._blocked_at is not None:
            # A ping would wait behind the unread bytes, and so would its answer.
            return now + self.node.limits.dead_seconds
        if self._awaiting:
            self.disconnect(POLICY, "no pong")
            return None
        self.send(self.format.heartbeat)
        if not self.format.answered:
            return now + self._interval()
        self._awaiting = True
        return now + self.node.limits.dead_seconds

    def expired(self) -> None:
        self.end(EXPIRED, "the token or login has expired")

    def end(self, code: int, reason: str) -> None:
        """End the stream, with its last message where the transport has no close codes."""
        if self.state is not OPEN:
            return
        if frame := self.format.make_end(End(code, reason)):
            self._transport.write(frame)
        self.disconnect(code, reason)

    def unsubscribe(self, channel: str, code: int, reason: str) -> bool:
        return end_without(self, channel, self.node.hub)

    def shut_down(self) -> None:
        self.disconnect(GOING_AWAY, "the server is shutting down")

    def _interval(self) -> float:
        limits = self.node.limits
        seconds = limits.ping_seconds if self.format.answered else limits.heartbeat_seconds
        return seconds * random.uniform(0.75, 1.0)


def _subscribed(following: Following) -> list[Subscribed]:
    cursor, lost = str(following.cursor), following.lost
    return [
        Subscribed(
            name,
            position.epoch,
            position.offset,
            cursor,
            name not in lost if lost else following.recovered,
        )
        for name, position in following.positions.items()
    ]


def _reset(following: Following) -> Reset | None:
    if not following.reason:
        return None
    cursor = following.cursor
    return Reset(following.reason, cursor.epoch, str(cursor), following.lost)
