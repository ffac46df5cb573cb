"""A follower's end of its link to the author: the calls that wait, and the log's changes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import count
from typing import Any

from twisted.internet.defer import Deferred

from pushserver import __version__
from pushserver.channels.publication import Draft, Receipt, content_bytes
from pushserver.cluster.messages import (
    Clear,
    Cleared,
    Done,
    Failed,
    Follow,
    FromAuthor,
    Hello,
    Images,
    Leave,
    Publish,
    Published,
    Row,
    error_of,
    frame,
)
from pushserver.errors import Unavailable
from pushserver.hub.follower import Follower, Point

WAITING_BYTES = 64 * 2**20
"""The most bytes of calls that wait for their answers."""
CALL_BYTES = 1_000
"""The memory of a call besides its texts, roughly."""

Send = Callable[[bytes], None]


class _Call:
    """A call that waits."""

    __slots__ = ("answer", "size")

    def __init__(self, size: int):
        self.answer: Deferred[Any] = Deferred()
        self.size = size


class Uplink:
    """The log of another process (`follower.Log`), over a link that may be lost and come back.

    Without a link each call fails with Unavailable, and so do the calls that wait when it is lost:
    whether those were carried out is not known. `follower` gets the log's changes.
    """

    follower: Follower

    def __init__(self) -> None:
        self._send: Send | None = None
        self._calls: dict[int, _Call] = {}
        self._numbers = count(1)
        self._bytes = 0
        self._settled: list[Deferred[None]] = []

    # --- the link ---------------------------------------

    def connected(self, send: Send) -> None:
        """There is a link; `send` takes frames."""
        self._send = send
        send(frame(Hello(__version__, self.follower.points())))

    def lost(self) -> None:
        """The link is gone: fail the calls that wait."""
        self._send = None
        calls, self._calls = self._calls, {}
        self._bytes = 0
        for call in calls.values():
            call.answer.errback(_away())
        self._settle()

    def received(self, message: FromAuthor) -> None:
        """Pass a change on, or an answer to its call."""
        follower = self.follower
        if isinstance(message, Row):
            follower.row(message.publication, message.skip)
        elif isinstance(message, Published):
            self._answer(message.call, message.receipt)
        elif isinstance(message, Images):
            follower.at(message.epoch, message.seq)
            if message.call:
                answer = self._take(message.call)
                follower.install(message.images, lambda: answer.callback(None))
                self._settle()
            else:
                follower.resume(message.images)
        elif isinstance(message, Cleared):
            follower.cleared(message.channel)
        elif isinstance(message, Done):
            self._answer(message.call, None)
        elif isinstance(message, Failed):
            self._take(message.call).errback(error_of(message))
            self._settle()

    # --- the log ---------------------------------------

    async def publish(self, draft: Draft) -> Receipt:
        size = content_bytes(draft)
        receipt: Receipt = await self._call(lambda call: frame(Publish(call, draft)), size)
        return receipt

    async def clear(self, channel: str) -> None:
        await self._call(lambda call: frame(Clear(call, channel)))

    async def follow(self, points: Sequence[Point]) -> None:
        await self._call(lambda call: frame(Follow(call, list(points))))

    def leave(self, channels: Sequence[str]) -> None:
        if self._send is not None:
            self._send(frame(Leave(list(channels))))

    async def settle(self) -> None:
        if self._calls:
            settled: Deferred[None] = Deferred()
            self._settled.append(settled)
            await settled

    def _call(self, make: Callable[[int], bytes], size: int = 0) -> Deferred[Any]:
        if self._send is None:
            raise _away()
        call = _Call(size + CALL_BYTES)
        if self._bytes + call.size > WAITING_BYTES:
            raise Unavailable("too many calls wait for the main process", "overloaded")
        number = next(self._numbers)
        self._calls[number] = call
        self._bytes += call.size
        self._send(make(number))
        return call.answer

    def _take(self, number: int) -> Deferred[Any]:
        """The answer of a call that has ended; one that nobody awaits after the link was lost."""
        call = self._calls.pop(number, None)
        if call is None:
            return Deferred()
        self._bytes -= call.size
        return call.answer

    def _answer(self, number: int, value: object) -> None:
        self._take(number).callback(value)
        self._settle()

    def _settle(self) -> None:
        if not self._calls:
            settled, self._settled = self._settled, []
            for each in settled:
                each.callback(None)


def _away() -> Unavailable:
    return Unavailable("the main process of the server is away", "worker")
