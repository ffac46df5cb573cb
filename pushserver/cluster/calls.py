"""The calls over a link that wait for their answers."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from itertools import count
from typing import Any

from twisted.internet.defer import Deferred

from pushserver.cluster.link import UNSENT_BYTES
from pushserver.cluster.messages import Message, frame
from pushserver.errors import PushServerError, Unavailable

WAITING_BYTES = UNSENT_BYTES // 2
"""The most bytes of calls that wait for their answers: those of them that the other end has not
read leave room for the messages without an answer."""
CALL_BYTES = 1_000
"""The memory of a call besides its message, roughly."""

Send = Callable[[bytes], None]
Run = Callable[[Coroutine[Any, Any, None]], None]
"""Runs a coroutine that nothing awaits."""


def away() -> Unavailable:
    """The error of a call that cannot be made, or of which the result is not known."""
    return Unavailable("another process of the server is away", "worker")


class Calls:
    """The calls over one link after the other; a number is never used again.

    Without a link each call fails with `away`, and so do those that wait when it is lost.
    """

    def __init__(self) -> None:
        self._send: Send | None = None
        self._answers: dict[int, tuple[Deferred[Any], int]] = {}
        self._numbers = count(1)
        self._bytes = 0
        self._settled: list[Deferred[None]] = []

    def connected(self, send: Send) -> None:
        """There is a link; `send` takes frames and raises nothing."""
        self._send = send

    def lost(self) -> None:
        """The link is gone."""
        self._send = None
        answers, self._answers = self._answers, {}
        self._bytes = 0
        for answer, _ in answers.values():
            answer.errback(away())
        self._settle()

    def tell(self, message: Message) -> None:
        """Send a message without an answer; a no-op without a link."""
        if self._send is not None:
            self._send(frame(message))

    def call(self, make: Callable[[int], Message]) -> Deferred[Any]:
        """Send the message that `make` makes of the call's number; return its answer.

        Raises Unavailable.
        """
        if self._send is None:
            raise away()
        number = next(self._numbers)
        text = frame(make(number))
        size = len(text) + CALL_BYTES
        if self._bytes + size > WAITING_BYTES:
            raise Unavailable("too many calls wait for another process", "overloaded")
        answer: Deferred[Any] = Deferred()
        self._answers[number] = answer, size
        self._bytes += size
        self._send(text)
        return answer

    def answer(self, number: int, value: object) -> None:
        """End a call with a result; a no-op for one that nobody awaits any more."""
        answer = self._take(number)
        if answer is not None:
            answer.callback(value)
            self._settle()

    def fail(self, number: int, error: PushServerError) -> None:
        """End a call with an error."""
        answer = self._take(number)
        if answer is not None:
            answer.errback(error)
            self._settle()

    async def settle(self) -> None:
        """Wait until no call waits."""
        if self._answers:
            settled: Deferred[None] = Deferred()
            self._settled.append(settled)
            await settled

    def _take(self, number: int) -> Deferred[Any] | None:
        answer, size = self._answers.pop(number, (None, 0))
        self._bytes -= size
        return answer

    def _settle(self) -> None:
        if not self._answers:
            settled, self._settled = self._settled, []
            for each in settled:
                each.callback(None)
