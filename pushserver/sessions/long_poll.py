"""Answers a long-poll request with the next publication, or with none after a time."""

from __future__ import annotations

from collections.abc import Callable

from pushserver.auth.identity import ANONYMOUS, Identity
from pushserver.channels.position import Start
from pushserver.channels.publication import ClientInfo
from pushserver.errors import Unavailable
from pushserver.hub.audience import Audience, Subscriber
from pushserver.protocols.formats import HISTORY, Format, cut_history
from pushserver.sessions.arriving import end_without
from pushserver.sessions.node import Node, new_id

LONG_POLL = "long-poll"
"""Its name among the formats of connections, in the counters."""


class LongPoll(Subscriber):
    """The subscriber of a long-poll request.

    `answer` is called once with a history object as JSON text: that of the next publications, at
    most `limit`, or `nothing` when none comes in time or the server stops. `fail` is called instead
    if the channel cannot be followed now.
    """

    __slots__ = (
        "_answer",
        "_channel",
        "_fail",
        "_limit",
        "_node",
        "_nothing",
        "audiences",
        "identity",
        "info",
    )

    def __init__(
        self,
        node: Node,
        channel: str,
        answer: Callable[[bytes], None],
        fail: Callable[[Unavailable], None],
        nothing: bytes,
        limit: int | None = None,
        identity: Identity = ANONYMOUS,
    ):
        self.identity = identity
        self.info = ClientInfo(new_id(), identity.user, identity.info)
        self.audiences: dict[str, Audience] = {}
        self._node = node
        self._channel = channel
        self._answer: Callable[[bytes], None] | None = answer
        self._fail = fail
        self._nothing = nothing
        self._limit = limit

    @property
    def format(self) -> Format:
        return HISTORY

    async def wait(self, seconds: float) -> None:
        """Wait for a publication from now on, for at most `seconds`, until the identity expires."""
        if self.identity.expires:
            seconds = min(seconds, max(0.0, self.identity.expires - self._node.clock()))
        self._node.sessions.enter(self)
        self._node.peers.wake_at(self, self._node.monotonic() + seconds)
        self._node.metrics.opened[LONG_POLL] += 1
        try:
            await self._node.hub.follow(self, (self._channel,), Start(last=0))
        except Unavailable as error:
            if self._answer is not None:
                self.leave()
                self._fail(error)

    def leave(self) -> None:
        """Unsubscribe, since the request is answered or gone."""
        if self._answer is not None:
            self._answer = None
            self._node.metrics.closed[LONG_POLL] += 1
        self._node.sessions.leave(self)
        self._node.peers.remove(self)
        self._node.hub.unsubscribe(self, self._channel)

    def check_not_ended(self) -> None:
        if self._answer is None:
            raise Unavailable("the request is answered or gone", "stopping")

    def send(self, frame: bytes) -> None:
        self._finish(frame if self._limit is None else cut_history(frame, self._limit))

    def insufficient(self, channel: str) -> None:
        self._finish(self._nothing)

    def wake(self, now: float) -> float | None:
        self._finish(self._nothing)
        return None

    def shut_down(self) -> None:
        self._finish(self._nothing)

    def end(self, code: int, reason: str) -> None:
        self._finish(self._nothing)

    def unsubscribe(self, channel: str, code: int, reason: str) -> bool:
        return end_without(self, channel, self._node.hub)

    def abort(self) -> None:
        self._finish(self._nothing)

    def _finish(self, body: bytes) -> None:
        answer = self._answer
        if answer is not None:
            self.leave()
            answer(body)
