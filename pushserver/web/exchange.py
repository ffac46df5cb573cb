"""One relayed request: its connection to the other process, and the answer that comes back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from typing import Protocol as Interface

from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IAddress, IDelayedCall
from twisted.internet.protocol import ClientFactory, Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web.http import NO_BODY_CODES, _ChunkedTransferDecoder, _MalformedChunkedDataError
from twisted.web.http_headers import Headers
from twisted.web.server import Request

from pushserver.web.gate import IsOwn
from pushserver.web.mount import REFUSED, abort, refused_too_often
from pushserver.web.relayed_heads import Field, passed_on, read_answer_head, relayed_head
from pushserver.web.sockets import drop

PORTION = 65_536
"""Bytes of a request's body that are read into memory at once."""

MAX_HEAD = 65_536
"""Bytes of the head of an answer; an application may set many cookies."""


class Owner(Interface):
    """The relay, as its exchanges need it."""

    path: str
    reactor: Any
    is_own: IsOwn
    seconds: float
    waiting: set[Exchange]

    def splice(self, request: Request, other: Any, data: bytes) -> None:
        """Connect the client of a request with the other process; `data` is for the client."""

    def answer_failure(self, request: Request, problem: str) -> None:
        """Answer a request whose answer has not begun."""

    def answer_flood(self, request: Request) -> None:
        """Answer one refused request too many of a connection."""


class _Dial(ClientFactory):
    """Makes one connection, whose protocol is the exchange."""

    noisy = False

    def __init__(self, exchange: Exchange):
        self._exchange = exchange

    def buildProtocol(self, addr: IAddress | None) -> Exchange:
        return self._exchange

    def clientConnectionFailed(self, connector: object, reason: Failure) -> None:
        # Its text has the path of the socket.
        self._exchange.fail("another process of the server is away")


class Exchange(Protocol):
    """One request and its answer; the protocol of the connection to the other process."""

    def __init__(self, relay: Owner, request: Request, upgrades: bool):
        self._relay = relay
        self._request: Request | None = request
        self._upgrades = upgrades
        self._connector: Any = None
        self._deadline: IDelayedCall | None = None
        self._head = bytearray()
        self._read: Callable[[bytes], None] = self._read_head
        self._left = 0
        self._answered = False
        self._until_close = False
        self._half_closed = False
        relay.waiting.add(self)
        channel: Any = request.channel
        channel.tell_half_closed(self._close_half)
        request.notifyFinish().addErrback(self._client_gone)

    def connect(self) -> None:
        """Begin; raises OSError if there is no file for a socket."""
        relay = self._relay
        self._connector = relay.reactor.connectUNIX(relay.path, _Dial(self), relay.seconds)

    def connectionMade(self) -> None:
        transport: Any = self.transport
        if self._request is None:
            drop(transport)
            return
        self._deadline = self._relay.reactor.callLater(self._relay.seconds, self._late)
        content: Any = self._request.content
        length = content.seek(0, 2)
        content.seek(0)
        head = relayed_head(self._request, length, self._upgrades, self._relay.is_own)
        if length <= PORTION:
            transport.write(head + content.read())
        else:
            transport.write(head)
            transport.registerProducer(self, False)
        if self._half_closed:
            transport.loseWriteConnection()

    def _close_half(self) -> None:
        """The client has closed its side: the other process knows whether it may wait so."""
        self._half_closed = True
        transport: Any = self.transport
        if transport is not None:
            # Behind the bytes that wait, and those of the producer.
            transport.loseWriteConnection()

    def resumeProducing(self) -> None:
        """Send the next portion of the body: the previous one has left."""
        transport: Any = self.transport
        content: Any = None if self._request is None else self._request.content
        data = content.read(PORTION) if content is not None else b""
        if data:
            transport.write(data)
        else:
            transport.unregisterProducer()

    def stopProducing(self) -> None:
        """No-op: `connectionLost` follows."""

    def dataReceived(self, data: bytes) -> None:
        self._read(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._until_close and reason.check(ConnectionDone):
            self._finish()
        elif self._answered or self._half_closed:
            self._break_off()
        else:
            # The request may have been handled.
            self.fail("another process of the server ended the connection without an answer")

    def fail(self, problem: str) -> None:
        """Answer 503, if the answer has not begun."""
        request = self._release()
        if request is not None:
            self._relay.answer_failure(request, problem)

    def stop(self) -> None:
        """Drop both connections, or answer if the answer has not begun."""
        if self._answered:
            self._break_off()
        else:
            self.fail("the server stops")

    def _late(self) -> None:
        self.fail(f"another process of the server has not answered in {self._relay.seconds:g} s")

    def _client_gone(self, _: Failure) -> None:
        self._release()

    def _release(self) -> Request | None:
        """End the connection to the other process; return the request, once."""
        request, self._request = self._request, None
        self._relay.waiting.discard(self)
        self._read = _ignore
        self._stop_deadline()
        if self.transport is not None:
            drop(self.transport)
        elif self._connector is not None and request is not None:
            # No-op if this attempt has failed.
            self._connector.disconnect()
        return request

    def _stop_deadline(self) -> None:
        if self._deadline is not None and self._deadline.active():
            self._deadline.cancel()

    def _read_head(self, data: bytes) -> None:
        searched = max(0, len(self._head) - 3)
        self._head += data
        while True:
            end = self._head.find(b"\r\n\r\n", searched)
            if end < 0:
                if len(self._head) > MAX_HEAD:
                    self.fail(f"the head of the answer has more than {MAX_HEAD} bytes")
                return
            head, rest = bytes(self._head[:end]), bytes(self._head[end + 4 :])
            try:
                status, reason, fields = read_answer_head(head)
            except ValueError as error:
                self.fail(f"the answer of another process has {error}")
                return
            if status >= 200:
                break
            if status == 101 and self._upgrades:
                self._upgrade(head + b"\r\n\r\n" + rest)
                return
            # 100 Continue: the client has had one of this process. The others are not in use.
            self._head, searched = self._head[end + 4 :], 0
        self._head.clear()
        self._stop_deadline()
        self._answer(status, reason, fields)
        if rest and self._request is not None:
            self._read(rest)

    def _answer(self, status: int, reason: bytes, fields: list[Field]) -> None:
        """Begin the answer."""
        request, transport = self._request, self.transport
        assert request is not None
        kept = [field for field in fields if field[0].lower() != REFUSED]
        if len(kept) < len(fields) and refused_too_often(request.channel):
            self._release()
            self._relay.answer_flood(request)
            return
        lengths = {value for name, value in fields if name.lower() == b"content-length"}
        self._answered = True
        request.setResponseCode(status, reason)
        # In place of those that this process has set.
        request.responseHeaders = Headers()
        request.defaultContentType = None
        for name, value in passed_on(kept):
            request.responseHeaders.addRawHeader(name, value)
        request.registerProducer(transport, True)
        request.write(b"")
        if request.method == b"HEAD" or status in NO_BODY_CODES or lengths == {b"0"}:
            self._finish()
        elif any(name.lower() == b"transfer-encoding" for name, _ in fields):
            decoder = _ChunkedTransferDecoder(request.write, lambda _: self._finish())
            self._read = lambda data: self._read_chunks(decoder, data)
        elif lengths:
            self._left = int(lengths.pop())
            self._read = self._read_length
        else:
            self._until_close = True
            self._read = request.write

    def _read_chunks(self, decoder: Any, data: bytes) -> None:
        try:
            decoder.dataReceived(data)
        except _MalformedChunkedDataError:
            self._break_off()

    def _read_length(self, data: bytes) -> None:
        assert self._request is not None
        data = data[: self._left]
        self._left -= len(data)
        self._request.write(data)
        if not self._left:
            self._finish()

    def _finish(self) -> None:
        """The answer is complete."""
        request = self._release()
        if request is not None:
            request.unregisterProducer()
            request.finish()

    def _break_off(self) -> None:
        """Drop the client too: the end of an answer that is not complete would look like one."""
        request = self._release()
        if request is not None:
            request.unregisterProducer()
            abort(request.channel)

    def _upgrade(self, data: bytes) -> None:
        """HTTP ends here: connect both ends, with the first bytes for the client."""
        request, self._request = self._request, None
        assert request is not None
        self._relay.waiting.discard(self)
        self._stop_deadline()
        self._relay.splice(request, self.transport, data)


def _ignore(_: bytes) -> None:
    """No-op: nothing more is read."""
