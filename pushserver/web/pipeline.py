"""A connection of HTTP: one request after the other, and a deadline for each step.

twisted.web answers all requests that arrived together in one turn, whether the peer reads the
answers or not. Here a request starts when the previous answer has left (except for bytes that the
transport takes without a pause), and a turn starts a bounded number of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from twisted.internet.interfaces import IDelayedCall, IHalfCloseableProtocol, IReactorTime
from twisted.internet.protocol import connectionDone
from twisted.logger import (
    FilteringLogObserver,
    Logger,
    LogLevel,
    LogLevelFilterPredicate,
    globalLogPublisher,
)
from twisted.python.failure import Failure
from twisted.web import http
from twisted.web.resource import IResource
from zope.interface import implementer

from pushserver.config.limits import Limits
from pushserver.errors import TooMany
from pushserver.usercode.rate import Budget, Rate
from pushserver.usercode.turns import SLICE_SECONDS, Turns
from pushserver.web.admission import Admission
from pushserver.web.first_bytes import MAX_NAME_BYTES
from pushserver.web.progress import Progress
from pushserver.web.short_post import Answers
from pushserver.web.short_posts import ShortPosts
from pushserver.web.sockets import drop, has_halves, is_reset

MAX_BEHIND = 16_384
"""Bytes that may wait behind an unanswered request; with more the server does not read the peer."""

PIECE = 1_024
"""Bytes of a line that are collected before twisted.web searches its end, always from the start."""

_MAX_PIECES = 32

CHUNKS = 2_048
"""Bytes of a chunked body between two looks at the time; with the shortest chunks these are 340."""

PER_TURN = 8
"""Requests of one connection that start in one turn of the reactor."""

AT_ONCE = 10
"""Requests at once, as a multiple of those a second."""

LINGER_SECONDS = 2
"""The time for a peer that is refused in the middle of its requests to read that and to close."""

TOO_LONG_TEXT = (
    b'{"error":{"code":431,"message":"a line of the head of the request has more than'
    b' %d bytes"}}\n' % http.HTTPChannel.MAX_LENGTH
)
TOO_LONG = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\nConnection: close\r\n"
    b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
    % (len(TOO_LONG_TEXT), TOO_LONG_TEXT)
)
"""The answer to a line of a head that is too long (RFC 6585, 5)."""

_TLS = b"\x16\x03"
"""The beginning of a handshake of TLS, which no request has."""

LENGTH_DIGITS = 18
"""The longest Content-Length; Python refuses to read a number of more than 4,300 digits."""


class Port(Protocol):
    """The site of a connection, as the connection needs it; `PushSite` is one."""

    limits: Limits
    reactor: IReactorTime
    channels: set[Any]
    """The open connections."""
    turns: Turns

    admission: Admission
    answers: Answers
    has_shortcuts: bool
    resource: IResource

    def log_tls(self, peer: Any, /) -> None:
        """A peer began TLS on a connection of plain HTTP."""

    def release(self, channel: DeadlineChannel, /) -> None:
        """The connection is gone."""


@implementer(IHalfCloseableProtocol)
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
    _continuing = False
    _until = 0.0
    _progress: Progress | None = None
    _started = 0
    _pieces: list[bytes] | None = None
    _refusals: Rate | None = None
    _budget: Budget | None = None
    _flooding = False
    _is_half_closed = False
    _lingering: IDelayedCall | None = None
    _unread = b""
    """The bytes behind the piece of a chunked body that is being read."""

    _short: ShortPosts | None = None
    """From the first POST on."""
    failure: BaseException | None = None
    """The reason why a request of the short path was not published; twisted.web answers it now."""

    counted_as: str | None = None
    """See `Admission`; None when another protocol has taken the connection over."""

    is_relayed = False
    """Whether another process of the server has the connection of the client."""

    is_open_ended = False
    """Whether the present answer may take any time: a long-poll or a stream."""

    when_half_closed: Callable[[], None] | None = None
    """Is called when the peer closes its side before the end of the present answer."""

    def connectionMade(self) -> None:
        super().connectionMade()
        self.site.channels.add(self)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.site.release(self)
        self.site.admission.leave(self.counted_as)
        if self._short is not None:
            self._short.lost()
            # Each refers to the other.
            self._short = None
        self._stop_watching()
        if self._continuing:
            self.site.turns.cancel(self._continue)
        if self._lingering is not None and self._lingering.active():
            self._lingering.cancel()
        super().connectionLost(reason)

    def abort(self) -> None:
        """Drop the connection at once."""
        drop(self.transport)

    def end(self) -> None:
        """Close after the answer to the present request, if that is not open-ended; else now."""
        if self._short is not None and self._short.waits:
            self._short.end_after_answer()
        elif self._handlingRequest and not self.is_open_ended:
            # `requestDone` closes it.
            self.persistent = False
        else:
            self.loseConnection()

    def loseConnection(self) -> None:
        """Close when everything is sent; no other request starts."""
        self._closing = True
        if self in self.site.channels:
            # The peer may not read, or under TLS not agree to the end.
            self._watch()
        if self._flooding and self._lingering is None and has_halves(self.transport):
            # The kernel resets a connection that is closed with unread bytes, and the peer may
            # lose the answer (RFC 9112, 9.6).
            self._lingering = self.site.reactor.callLater(LINGER_SECONDS, self.abort)
            transport: Any = self.transport
            transport.resumeProducing()
            transport.unregisterProducer()
            transport.loseWriteConnection()
        else:
            super().loseConnection()

    def readConnectionLost(self) -> None:
        """The peer has closed its side (`nc -N`); it may wait for its answers."""
        if self._lingering is not None or self.is_open_ended:
            # A peer that waits for news keeps its side open.
            transport: Any = self.transport
            transport.connectionLost(connectionDone)
            return
        self._is_half_closed = True
        if self.when_half_closed is not None:
            self.when_half_closed()
        self.end_if_done()

    def mark_open_ended(self) -> None:
        """Note that the present answer may take any time; a peer that has left is dropped."""
        self.is_open_ended = True
        if self._is_half_closed or self._bytes_behind > MAX_BEHIND:
            # In a later turn: the answer is just being made. twisted.web stops reading behind
            # MAX_BEHIND bytes, which came while the application was asked, and notices no end.
            self.site.reactor.callLater(0, self._drop_if_open_ended)

    @property
    def _bytes_behind(self) -> int:
        """The bytes that wait behind the request that is being answered."""
        return sum(map(len, self._dataBuffer))

    def _drop_if_open_ended(self) -> None:
        if self.is_open_ended:
            self.abort()

    def tell_half_closed(self, call: Callable[[], None]) -> None:
        """Call when the peer closes its side before the end of the present answer."""
        if self._is_half_closed:
            call()
        else:
            self.when_half_closed = call

    def writeConnectionLost(self) -> None:
        """No-op: the server's side is closed, and the peer's bytes are dropped until it closes."""

    def end_if_done(self) -> None:
        """Close after the last answer to a peer that has closed its side."""
        waits = self._handlingRequest or self._continuing or self._waitingForTransport
        waits = waits or (self._short is not None and self._short.waits)
        if self._is_half_closed and not waits and not self._closing:
            self.loseConnection()

    def count_request(self) -> TooMany | None:
        """Count a request; return the error if it is one too many.

        Connections of exempt addresses and of proxies have no bound.
        """
        short = self._short
        if short is not None and short.counted is not False:
            counted, short.counted = short.counted, False
            return counted
        if not self.counted_as:
            return None
        rate, clock = self.site.limits.requests_per_second, self.site.turns.monotonic
        if self._budget is None:
            self._budget = Budget(AT_ONCE * rate, clock())
        if not self._budget.is_exceeded(rate, AT_ONCE * rate, clock):
            return None
        return TooMany(
            f"more than {rate} requests a second on one connection", "requests_per_second"
        )

    def refused_too_often(self) -> bool:
        """Count a refused request; return whether it is one too many, and the last one."""
        if self._refusals is None:
            per_second = self.site.limits.refused_requests_per_second
            self._refusals = Rate(per_second, AT_ONCE * per_second)
        if self._refusals.allows(self.site.turns.monotonic()):
            return False
        self.persistent = False
        self._flooding = True
        return True

    def setTimeout(self, period: float | None) -> float | None:
        # twisted.web gives the returned time to the next request; the first one had a part of it.
        before = super().setTimeout(period)
        return None if before is None else self.site.limits.request_seconds

    def resetTimeout(self) -> None:
        """No-op: a byte does not restart the time."""

    def dataReceived(self, data: bytes) -> None:
        if self._lingering is not None:
            return
        short = self._short
        if short is None and data.startswith(b"POST "):
            short = self._short = ShortPosts(self)
        if short is not None:
            if short.waits:
                if short.wait_behind(data) > MAX_BEHIND:
                    self._networkProducer.pauseProducing()
                return
            if (short.has_part or data.startswith(b"POST ")) and not (data := short.received(data)):
                return
        self.receive(data)

    def receive(self, data: bytes) -> None:
        """Let twisted.web have these bytes."""
        if data.startswith(_TLS) and self.line_mode and not self._pieces:
            # It may have no newline, for which twisted.web would wait.
            self.site.log_tls(self.getPeer())
            self._respondToBadRequestAndDisconnect()
            return
        if not self._busyReceiving:
            self._started = 1
            self._until = self.site.turns.monotonic() + SLICE_SECONDS
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

    def is_between_requests(self) -> bool:
        """Whether twisted.web has nothing of the connection, and a request may begin."""
        waits = self._closing or self._waitingForTransport or self._is_half_closed or self.paused
        return not (waits or self.requests or self._pieces or self._buffer)

    def resume_reading(self) -> None:
        """Read the peer again, after too many of its bytes waited."""
        self._networkProducer.resumeProducing()

    def lineLengthExceeded(self, line: bytes) -> None:
        """Refuse a line of the head, such as a long token; twisted.web closes without an answer."""
        assert self.transport is not None
        self.transport.write(TOO_LONG)
        self.loseConnection()

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
            if self.is_open_ended and self._bytes_behind + len(data) > MAX_BEHIND:
                # Without reading, the server would not notice that the peer is gone.
                self.abort()
                return
            if len(self._dataBuffer) > _MAX_PIECES:
                # twisted.web adds up the sizes of all pieces for each new one.
                self._dataBuffer = [b"".join(self._dataBuffer)]
        elif self.length is None:
            self._read_chunks(data)
            return
        super().rawDataReceived(data)

    def _read_chunks(self, data: bytes) -> None:
        """Read a chunked body; after a slice the rest waits for its turn.

        64 KB may be 10,922 chunks of a byte: 50 ms.
        """
        while True:
            data, self._unread = data[:CHUNKS], data[CHUNKS:]
            super().rawDataReceived(data)
            data, self._unread = self._unread, b""
            if not data or self._closing:
                return
            if self.site.turns.monotonic() >= self._until:
                self._buffer = data
                self.paused = True
                self._continue_soon()
                return

    def _finishRequestBody(self, data: bytes) -> None:
        # The next requests.
        unread, self._unread = self._unread, b""
        super()._finishRequestBody(data + unread)

    def requestDone(self, request: Any) -> None:
        # The parser stops here until the next request may start.
        self.paused = True
        self.is_open_ended = False
        self.when_half_closed = None
        self.failure = None
        super().requestDone(request)
        if not self.persistent:
            return
        if self._waitingForTransport:
            # The time of the next request starts when this answer has left.
            self.setTimeout(None)
            self._pause_or_resume()
        elif not self._buffer:
            self.paused = False
            self.end_if_done()
        elif self._busyReceiving and self._has_time():
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

    def _has_time(self) -> bool:
        """Whether another request may start in this turn."""
        return self._started < PER_TURN and self.site.turns.monotonic() < self._until

    def _continue_soon(self) -> None:
        self._continuing = True
        self.site.turns.later(self._continue)
        self._pause_or_resume()

    def _continue(self) -> None:
        """Read the next request."""
        self._continuing = False
        if self._closing or self._waitingForTransport:
            return
        if is_reset(self.transport):
            self.abort()
            return
        self.paused = False
        self._started = 1
        self._until = self.site.turns.monotonic() + SLICE_SECONDS
        super().dataReceived(b"")
        if not self._handlingRequest:
            self._pause_or_resume()
        self.end_if_done()

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
            seconds = self.site.limits.request_seconds
            self._progress = Progress(self.site.reactor, seconds, self.transport)

    def _stop_watching(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None
