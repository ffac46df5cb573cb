"""The end of connections that are one too many.

A connection that is closed at once costs the least. But most clients learn the reason only from an
answer to their first request, so some connections get one. A reader of server-sent events does not:
EventSource gives up for good after any answer, and reconnects after a connection that was lost.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from math import ceil
from typing import Any, cast

import msgspec
from twisted.internet.interfaces import IDelayedCall, IReactorTime, ITCPTransport
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web import http

from pushserver.errors import TooMany
from pushserver.usercode.rate import Rate
from pushserver.web.sockets import drop

SECONDS = 2
"""The time for the first bytes."""

WAITING = 20
"""The connections whose first bytes are waited for; all others are closed at once."""

PER_SECOND = 20
"""The answers in a second; with TLS each needs a handshake."""

_EVENT_STREAM = b"text/event-stream"
_RESET = struct.pack("ii", 1, 0)


class Exits:
    """Makes the protocols of connections that are one too many.

    `answer` makes the whole answer from an error.
    """

    def __init__(
        self,
        reactor: IReactorTime,
        clock: Callable[[], float],
        answer: Callable[[TooMany], bytes],
    ):
        self.waiting: set[TurnedAway] = set()
        self._reactor = reactor
        self._clock = clock
        self._answer = answer
        self._rate = Rate(PER_SECOND)

    def protocol(self, error: TooMany) -> Protocol:
        """The protocol of a connection that this error refuses."""
        if len(self.waiting) >= WAITING or not self._rate.allows(self._clock()):
            return _Dropped()
        return TurnedAway(self._answer(error), self._reactor, self.waiting)


class _Dropped(Protocol):
    """Closes its connection at once."""

    def connectionMade(self) -> None:
        # By a reset: the kernel would keep each connection that the server closes for a minute.
        connected = getattr(self.transport, "socket", None)
        if connected is not None:
            with suppress(OSError):
                connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        cast(ITCPTransport, self.transport).abortConnection()


class TurnedAway(Protocol):
    """Answers the first bytes of its connection, and closes it."""

    def __init__(self, answer: bytes, reactor: IReactorTime, waiting: set[TurnedAway]):
        self._answer: bytes = answer
        self._waiting = waiting
        self._deadline: IDelayedCall = reactor.callLater(SECONDS, self._drop)
        waiting.add(self)

    def dataReceived(self, data: bytes) -> None:
        transport: Any = self.transport
        answer, self._answer = self._answer, b""
        if answer and _EVENT_STREAM not in data:
            transport.write(answer)
        transport.loseConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._waiting.discard(self)
        if self._deadline.active():
            self._deadline.cancel()

    def _drop(self) -> None:
        drop(self.transport)


def answer_at_once(status: int, message: str, fields: dict[bytes, bytes]) -> bytes:
    """A whole answer in JSON, the last one of its connection."""
    body = msgspec.json.encode({"error": {"code": status, "message": message}}) + b"\n"
    head = b"HTTP/1.1 %d %b\r\n" % (status, http.RESPONSES.get(status, b"Too Many Requests"))
    fields = {
        **fields,
        b"content-type": b"application/json",
        b"content-length": b"%d" % len(body),
        b"connection": b"close",
    }
    head += b"".join(b"%b: %b\r\n" % field for field in fields.items())
    return head + b"\r\n" + body


def retry_after(error: TooMany) -> str:
    """The value of Retry-After (RFC 9110, 10.2.3), in whole seconds."""
    return str(max(1, ceil(error.seconds)))
