"""One connection of HTTP: its requests one after the other, and a deadline for each step.

twisted.web answers all requests that came in one piece in one turn, whether the peer reads the
answers or not. Here the next request is begun when the answer before it has left (but for
what a transport takes without asking for a pause), and a turn begins a bounded number of them.
"""

from __future__ import annotations

import fcntl
import sys
import termios
from contextlib import suppress
from typing import Any, Protocol, cast

from twisted.internet.interfaces import IDelayedCall, IReactorTime, ITCPTransport
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

MOST_BEHIND = 16_384
"""Bytes that may wait behind a request that is being answered; then the peer is not read."""

PIECE = 1_024
"""Bytes of a line that are collected before twisted.web looks for its end, each time from its
beginning."""

_MOST_PIECES = 32

PER_TURN = 8
"""Requests of one connection that are begun in one turn of the reactor."""

STALLS = 2
"""How many looks in a row find that nothing has left before a connection is dropped. Where segments
are large (64 KB over loopback) a slow reader takes nothing for a while and then much."""

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
    """twisted.web's connection, with bounds on time and on what waits.

    A request has `request_seconds` to arrive, however it drips: as it is, each byte that comes
    resets the timeout. An answer, and the end of the connection, may take as long as they
    like if something of them leaves within twice `request_seconds`.
    """

    site: Port
    # Without its line for each connection that timed out, as every idle one does.
    _log = Logger(
        observer=FilteringLogObserver(
            globalLogPublisher, [LogLevelFilterPredicate(defaultLogLevel=LogLevel.warn)]
        )
    )
    # The deadline of `loseConnection` does more.
    abortTimeout: Any = None

    # Of the class until they are needed: most connections are idle.
    _closing = False
    _beginning: IDelayedCall | None = None
    _progress: IDelayedCall | None = None
    _left_unsent = 0
    _stalls = 0
    _begun = 0
    _pieces: list[bytes] | None = None

    def connectionMade(self) -> None:
        super().connectionMade()
        self.site.channels.add(self)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.site.release(self)
        self._stop_watching()
        if self._beginning is not None:
            self._beginning.cancel()
            self._beginning = None
        super().connectionLost(reason)

    def abort(self) -> None:
        """Drop the connection at once."""
        cast(ITCPTransport, self.transport).abortConnection()

    def loseConnection(self) -> None:
        """Close when all is sent; no other request is begun."""
        self._closing = True
        if self in self.site.channels:
            # A peer that does not read, or under TLS does not close, is not waited for.
            self._watch()
        super().loseConnection()

    def setTimeout(self, period: float | None) -> float | None:
        # What is returned is what the next request gets. The first had what was left of it.
        before = super().setTimeout(period)
        return None if before is None else self.site.limits.request_seconds

    def resetTimeout(self) -> None:
        """A byte came; the time runs on."""

    def dataReceived(self, data: bytes) -> None:
        if not self._busyReceiving:
            self._begun = 1
        if self.line_mode and not self.paused and b"\n" not in data:
            # A line that drips: twisted.web would look at all of it for each byte.
            pieces = self._pieces = self._pieces or []
            pieces.append(data)
            if len(pieces) < _MOST_PIECES and sum(map(len, pieces)) < PIECE:
                return
            data = b""
        if self._pieces:
            data, self._pieces = b"".join((*self._pieces, data)), None
        super().dataReceived(data)
        if self.paused:
            self._read_or_not()

    def headerReceived(self, line: bytes) -> bool:
        name, _, value = line.partition(b":")
        too_long = len(value.strip()) > LENGTH_DIGITS and name.lower() == b"content-length"
        if len(name) > MAX_NAME_BYTES or too_long:
            self._respondToBadRequestAndDisconnect()
            return False
        known: bool = super().headerReceived(line)
        return known

    def rawDataReceived(self, data: bytes) -> None:
        if self._handlingRequest:
            if not self.persistent or self.transport is None:
                # Nothing is read as a request on this connection any more. Reading on shows
                # when the peer hangs up.
                return
            if len(self._dataBuffer) > _MOST_PIECES:
                # twisted.web counts them all for each that comes.
                self._dataBuffer = [b"".join(self._dataBuffer)]
        super().rawDataReceived(data)

    def requestDone(self, request: Any) -> None:
        # The parser stops here, and is told to go on when it may.
        self.paused = True
        super().requestDone(request)
        if not self.persistent:
            return
        if self._waitingForTransport:
            # The time of the next request begins when this answer has left.
            self.setTimeout(None)
            self._read_or_not()
        elif not self._buffer:
            self.paused = False
        elif self._busyReceiving and self._begun < PER_TURN:
            # The parser, which called this, goes on in this turn.
            self._begun += 1
            self.paused = False
        else:
            self._begin_soon()

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
            self._begin_soon()

    def _begin_soon(self) -> None:
        if self._beginning is None:
            self._beginning = self.site.reactor.callLater(0, self._begin)
        self._read_or_not()

    def _begin(self) -> None:
        """Read the next request."""
        self._beginning = None
        if self._closing or self._waitingForTransport:
            return
        self.paused = False
        self._begun = 1
        super().dataReceived(b"")
        if not self._handlingRequest:
            self._read_or_not()

    def _read_or_not(self) -> None:
        """Read on unless the peer has to read first, or enough of it waits."""
        full = self.paused and (self._waitingForTransport or len(self._buffer) > MOST_BEHIND)
        if full:
            self._networkProducer.pauseProducing()
        else:
            self._networkProducer.resumeProducing()

    def _send100Continue(self) -> None:
        # A request whose announced length was refused has its answer already.
        if not self._closing:
            super()._send100Continue()

    def _watch(self) -> None:
        """Drop the connection if nothing leaves."""
        if self._progress is None:
            self._stalls = 0
            self._left_unsent = unsent(self.transport)
            self._look_later()

    def _look_later(self) -> None:
        seconds = self.site.limits.request_seconds
        self._progress = self.site.reactor.callLater(seconds, self._look)

    def _look(self) -> None:
        self._progress = None
        before, self._left_unsent = self._left_unsent, unsent(self.transport)
        self._stalls = self._stalls + 1 if self._left_unsent == before else 0
        if self._stalls >= STALLS:
            self.abort()
        else:
            self._look_later()

    def _stop_watching(self) -> None:
        if self._progress is not None:
            self._progress.cancel()
            self._progress = None


def unsent(transport: Any) -> int:
    """How many bytes wait in a transport and its socket; under TLS they are encrypted already."""
    while isinstance(transport, ProtocolWrapper):
        transport = transport.transport
    waiting: int = len(getattr(transport, "dataBuffer", b"")) - getattr(transport, "offset", 0)
    waiting += getattr(transport, "_tempDataLen", 0)
    return waiting + _in_kernel(getattr(transport, "socket", None))


def _in_kernel(connected: Any) -> int:
    """Bytes that the kernel holds because the peer has not acknowledged them (tcp(7), SIOCOUTQ)."""
    with suppress(OSError, AttributeError, ValueError):
        found = fcntl.ioctl(connected.fileno(), termios.TIOCOUTQ, bytes(4))
        return int.from_bytes(found, sys.byteorder)
    return 0
