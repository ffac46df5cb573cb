"""A connection of HTTP: one request after the other, and a deadline for each step.

twisted.web answers all requests that arrived together in one turn, whether the peer reads the
answers or not. Here a request starts when the previous answer has left (except for bytes that the
transport takes without a pause), and a turn starts a bounded number of them.
"""

from __future__ import annotations

import fcntl
import sys
import termios
from contextlib import suppress
from typing import Any, Protocol

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.protocol import connectionDone
from twisted.logger import (
    FilteringLogObserver,
    Logger,
    LogLevel,
    LogLevelFilterPredicate,
    globalLogPublisher,
)
from twisted.protocols.policies import ProtocolWrapper
from twisted.python.failure import Failure
from twisted.web import http

from pushserver.config.limits import Limits
from pushserver.web.first_bytes import MAX_NAME_BYTES
from pushserver.web.sockets import drop

MAX_BEHIND = 16_384
"""Bytes that may wait behind an unanswered request; with more the server does not read the peer."""

PIECE = 1_024
"""Bytes of a line that are collected before twisted.web searches its end, always from the start."""

_MAX_PIECES = 32

PER_TURN = 8
"""Requests of one connection that start in one turn of the reactor."""

STALLS = 2
"""Checks in a row without progress before a connection is dropped. With large segments (64 KB over
loopback) a slow reader takes nothing for a while and then much."""

LENGTH_DIGITS = 18
"""The longest Content-Length; Python refuses to read a number of more than 4,300 digits."""


class Port(Protocol):
    """The site of a connection, as the connection needs it; `PushSite` is one."""

    limits: Limits
    reactor: IReactorTime
    channels: set[Any]
    """The open connections."""

    def release(self, channel: DeadlineChannel, /) -> None:
        """The connection is gone."""


class DeadlineChannel(http.HTTPChannel):
    """twisted.web's connection, with bounds on time and on waiting bytes.

    A request has `request_seconds` to arrive; in twisted.web each byte restarts that time. An
    answer, and the end of the connection, may take any time if some bytes of them leave within
    twice `request_seconds`.
    """

    site: Port
    # twisted.web logs each timeout, and every idle connection ends by one.
    _log = Logger(
        observer=FilteringLogObserver(
            globalLogPublisher, [LogLevelFilterPredicate(defaultLogLevel=LogLevel.warn)]
        )
    )
    # `loseConnection` has a deadline of its own.
    abortTimeout: Any = None

    # On the class until they change: most connections are idle.
    _closing = False
    _continuing: IDelayedCall | None = None
    _progress: IDelayedCall | None = None
    _left_unsent = 0
    _stalls = 0
    _started = 0
    _pieces: list[bytes] | None = None

    def connectionMade(self) -> None:
        super().connectionMade()
        self.site.channels.add(self)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.site.release(self)
        self._stop_watching()
        if self._continuing is not None:
            self._continuing.cancel()
            self._continuing = None
        super().connectionLost(reason)

    def abort(self) -> None:
        """Drop the connection at once."""
        drop(self.transport)

    def loseConnection(self) -> None:
        """Close when everything is sent; no other request starts."""
        self._closing = True
        if self in self.site.channels:
            # The peer may not read, or under TLS not agree to the end.
            self._watch()
        super().loseConnection()

    def setTimeout(self, period: float | None) -> float | None:
        # twisted.web gives the returned time to the next request; the first one had a part of it.
        before = super().setTimeout(period)
        return None if before is None else self.site.limits.request_seconds

    def resetTimeout(self) -> None:
        """No-op: a byte does not restart the time."""

    def dataReceived(self, data: bytes) -> None:
        if not self._busyReceiving:
            self._started = 1
        if self.line_mode and not self.paused and b"\n" not in data:
            # A line that arrives in small pieces: twisted.web would search all of it each time.
            pieces = self._pieces = self._pieces or []
            pieces.append(data)
            if len(pieces) < _MAX_PIECES and sum(map(len, pieces)) < PIECE:
                return
            data = b""
        if self._pieces:
            data, self._pieces = b"".join((*self._pieces, data)), None
        super().dataReceived(data)
        if self.paused:
            self._pause_or_resume()

    def headerReceived(self, line: bytes) -> bool:
        name, _, value = line.partition(b":")
        too_long = len(value.strip()) > LENGTH_DIGITS and name.lower() == b"content-length"
        if len(name) > MAX_NAME_BYTES or too_long:
            self._respondToBadRequestAndDisconnect()
            return False
        accepted: bool = super().headerReceived(line)
        return accepted

    def rawDataReceived(self, data: bytes) -> None:
        if self._handlingRequest:
            if not self.persistent or self.transport is None:
                # No further request is read; the end of the connection is noticed by reading.
                return
            if len(self._dataBuffer) > _MAX_PIECES:
                # twisted.web adds up the sizes of all pieces for each new one.
                self._dataBuffer = [b"".join(self._dataBuffer)]
        super().rawDataReceived(data)

    def requestDone(self, request: Any) -> None:
        # The parser stops here until the next request may start.
        self.paused = True
        super().requestDone(request)
        if not self.persistent:
            return
        if self._waitingForTransport:
            # The time of the next request starts when this answer has left.
            self.setTimeout(None)
            self._pause_or_resume()
        elif not self._buffer:
            self.paused = False
        elif self._busyReceiving and self._started < PER_TURN:
            # The parser, which called this, continues in this turn.
            self._started += 1
            self.paused = False
        else:
            self._continue_soon()

    def pauseProducing(self) -> None:
        """The transport is full."""
        super().pauseProducing()
        self._watch()

    def resumeProducing(self) -> None:
        """The transport is empty."""
        if not self._closing:
            self._stop_watching()
        super().resumeProducing()
        if self.paused and not self._waitingForTransport and not self._closing:
            self.setTimeout(self.site.limits.request_seconds)
            self._continue_soon()

    def _continue_soon(self) -> None:
        if self._continuing is None:
            self._continuing = self.site.reactor.callLater(0, self._continue)
        self._pause_or_resume()

    def _continue(self) -> None:
        """Read the next request."""
        self._continuing = None
        if self._closing or self._waitingForTransport:
            return
        self.paused = False
        self._started = 1
        super().dataReceived(b"")
        if not self._handlingRequest:
            self._pause_or_resume()

    def _pause_or_resume(self) -> None:
        """Stop reading while the peer has to read first, or too many of its bytes wait."""
        full = self.paused and (self._waitingForTransport or len(self._buffer) > MAX_BEHIND)
        if full:
            self._networkProducer.pauseProducing()
        else:
            self._networkProducer.resumeProducing()

    def _send100Continue(self) -> None:
        # A request that was refused for its length has its answer already.
        if not self._closing:
            super()._send100Continue()

    def _watch(self) -> None:
        """Drop the connection if no bytes leave."""
        if self._progress is None:
            self._stalls = 0
            self._left_unsent = unsent(self.transport)
            self._check_later()

    def _check_later(self) -> None:
        seconds = self.site.limits.request_seconds
        self._progress = self.site.reactor.callLater(seconds, self._check_progress)

    def _check_progress(self) -> None:
        self._progress = None
        before, self._left_unsent = self._left_unsent, unsent(self.transport)
        self._stalls = self._stalls + 1 if self._left_unsent == before else 0
        if self._stalls >= STALLS:
            self.abort()
        else:
            self._check_later()

    def _stop_watching(self) -> None:
        if self._progress is not None:
            self._progress.cancel()
            self._progress = None


def unsent(transport: Any) -> int:
    """The number of bytes that wait in a transport and its socket; under TLS, encrypted ones."""
    while isinstance(transport, ProtocolWrapper):
        transport = transport.transport
    waiting: int = len(getattr(transport, "dataBuffer", b"")) - getattr(transport, "offset", 0)
    waiting += getattr(transport, "_tempDataLen", 0)
    return waiting + _in_kernel(getattr(transport, "socket", None))


def _in_kernel(connected: Any) -> int:
    """Bytes in the kernel that the peer has not acknowledged (tcp(7), SIOCOUTQ)."""
    with suppress(OSError, AttributeError, ValueError):
        count = fcntl.ioctl(connected.fileno(), termios.TIOCOUTQ, bytes(4))
        return int.from_bytes(count, sys.byteorder)
    return 0
