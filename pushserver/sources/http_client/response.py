"""One outgoing HTTP request on its own connection, and its response."""

from __future__ import annotations

import re
import time
import zlib
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import cast
from urllib.parse import urlsplit

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectError, ConnectionClosed, DNSLookupError
from twisted.internet.interfaces import IPushProducer
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web.client import (
    Agent,
    RequestGenerationFailed,
    RequestTransmissionFailed,
    ResponseDone,
    ResponseFailed,
)
from twisted.web.http import RESPONSES, PotentialDataLoss
from twisted.web.http_headers import Headers
from twisted.web.iweb import IResponse

from pushserver.sources.http_client.connection import HEAD_BYTES, Connection
from pushserver.sources.interface import SourceFailed
from pushserver.usercode.reactor import Reactor

MAX_RETRY_SECONDS = 3_600.0
"""The longest Retry-After that is honoured."""

_BUSY = (429, 503)
# A header may hold any bytes, and an ETag is sent back.
_ANY_BYTES = ("utf-8", "surrogateescape")
_NO_ANSWER = (
    ConnectError,
    ConnectionClosed,
    DNSLookupError,
    RequestGenerationFailed,
    RequestTransmissionFailed,
    ResponseFailed,
)


class UnusableResponse(SourceFailed):
    """The server sent a response that cannot be used; a later request may succeed.

    `retry_seconds` is the time that the server asked us to wait, or 0.
    """

    def __init__(self, message: str, retry_seconds: float = 0.0):
        super().__init__(message)
        self.retry_seconds = retry_seconds


class Response:
    """A response whose head has arrived; it must be closed.

    Its exceptions name the host and never the URL, which may contain a secret.
    """

    def __init__(self, response: IResponse, connection: Connection, url: str):
        self.status: int = response.code
        self.url = url
        self.host = urlsplit(url).netloc
        self._response = response
        self._connection = connection
        self._body = _Body()
        connection.on_received = self._body.wake
        response.deliverBody(self._body)

    def header(self, name: str) -> str:
        """Return the value of a header, several joined by commas, or an empty string."""
        values: list[bytes] = self._response.headers.getRawHeaders(name.encode(), [])
        return b", ".join(values).decode(*_ANY_BYTES)

    def status_error(self) -> UnusableResponse:
        """Return the exception to raise for an unexpected status."""
        phrase = RESPONSES.get(self.status, b"").decode()
        seconds = 0.0
        if self.status in _BUSY:
            # The server's clock, if it sends Date, counts rather than ours.
            now = _unix_time(self.header("date"))
            seconds = retry_after(self.header("retry-after"), time.time() if now is None else now)
        return UnusableResponse(f"{self.host} answered {self.status} {phrase}".rstrip(), seconds)

    async def read(self) -> bytes:
        """Return the next piece of the body, empty at its end.

        Nothing is received between two calls. Raises SourceFailed if the connection broke.
        """
        if self._body.waits:
            await self._connection.rest()
        try:
            return await self._body.read()
        except ResponseFailed as error:
            raise _failure(self.host, error) from None

    async def read_all(self, max_bytes: int) -> bytes:
        """Return the decompressed body; raises UnusableResponse if it exceeds `max_bytes`."""
        too_long = UnusableResponse(
            f"{self.host} answered with more than {max_bytes} bytes (max_bytes)"
        )
        length = self._response.length
        if isinstance(length, int) and length > max_bytes:
            raise too_long
        pieces, size = [], 0
        while piece := await self.read():
            pieces.append(piece)
            size += len(piece)
            if size > max_bytes:
                raise too_long
        body = b"".join(pieces)
        coding = self.header("content-encoding").strip().lower()
        if coding in ("", "identity"):
            return body
        if coding not in ("gzip", "x-gzip"):
            raise UnusableResponse(
                f"{self.host} answered with the coding {coding!r:.40}, expected gzip or none"
            )
        try:
            body = _decompressed(body, max_bytes + 1)
        except zlib.error as error:
            raise UnusableResponse(f"{self.host} answered with invalid gzip: {error}") from None
        if len(body) > max_bytes:
            raise too_long
        return body

    def close(self) -> None:
        """Abort the connection, if it is still open."""
        self._connection.abort()


async def request(reactor: Reactor, url: str, headers: Mapping[str, str]) -> Response:
    """Return the response to a GET, whatever its status; raises SourceFailed if there is none.

    TLS is verified. Cancellation aborts the connection.
    """
    connection = Connection(reactor)
    agent = Agent.usingEndpointFactory(reactor, connection)
    fields = Headers(
        {name.encode(): [value.encode(*_ANY_BYTES)] for name, value in headers.items()}
    )
    host = urlsplit(url).netloc
    try:
        response = await _cancellable(agent.request(b"GET", url.encode("ascii"), fields))
    except _NO_ANSWER as error:
        if connection.head_is_too_long:
            problem = f"{host} answered with a head of more than {HEAD_BYTES} bytes"
            raise UnusableResponse(problem) from None
        raise _failure(host, error) from None
    connection.head_bytes_left = None
    return Response(response, connection, url)


def retry_after(text: str, now: float) -> float:
    """Return the seconds of a Retry-After, within bounds; 0 if it is empty or invalid."""
    text = text.strip()
    if re.fullmatch(r"[0-9]{1,9}", text):
        seconds = float(text)
    else:
        at = _unix_time(text)
        seconds = 0.0 if at is None else at - now
    return min(max(seconds, 0.0), MAX_RETRY_SECONDS)


def _unix_time(text: str) -> float | None:
    """Return the Unix time of a date in a header, or None if it is invalid."""
    try:
        return parsedate_to_datetime(text).timestamp()
    except (ValueError, TypeError, OverflowError, IndexError):
        return None


def _cancellable(requesting: Deferred[IResponse]) -> Deferred[IResponse]:
    """Return a Deferred that fails with CancelledError when it is cancelled.

    The Deferred of an Agent fails with a different exception in each phase: name, connection,
    response.
    """

    def cancel(outer: Deferred[IResponse]) -> None:
        outer.errback(CancelledError())
        requesting.cancel()

    def pass_on(result: IResponse | Failure) -> None:
        if not outer.called:
            outer.callback(result)

    outer: Deferred[IResponse] = Deferred(cancel)
    requesting.addBoth(pass_on)
    return outer


def _failure(host: str, error: Exception) -> SourceFailed:
    """Return the exception to raise in place of one of Twisted."""
    reasons = [failure.value for failure in getattr(error, "reasons", [])]
    return SourceFailed(f"{host}: {_description(reasons[0] if reasons else error):.200}")


def _description(error: BaseException) -> str:
    details = error.args[0] if error.args else ""
    if isinstance(details, list) and details and isinstance(details[0], tuple):
        # OpenSSL's: library, function, reason.
        return f"TLS: {details[0][-1]}"
    if error.args[1:] and isinstance(error.args[1], bytes):
        # Twisted's ParseError: the reason, and the malformed line.
        return f"{details}: {error.args[1]!r:.80}"
    return str(error) or type(error).__name__


def _decompressed(body: bytes, max_bytes: int) -> bytes:
    """Return at most `max_bytes` of the decompressed body; raises zlib.error."""
    decompressor = zlib.decompressobj(zlib.MAX_WBITS | 16)
    decompressed = decompressor.decompress(body, max_bytes)
    if not decompressor.eof and len(decompressed) < max_bytes:
        raise zlib.error("it was cut short")
    return decompressed


class _Body(Protocol):
    """A body that is read piece by piece; the connection is paused between two reads.

    One read from the socket may have thousands of chunks: the reader gets them together, when
    `wake` is called.
    """

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._end_reason: Failure | None = None
        self._reader: Deferred[None] | None = None

    @property
    def waits(self) -> bool:
        """Whether there is nothing to return yet."""
        return not self._pieces and self._end_reason is None

    def dataReceived(self, data: bytes) -> None:
        if not self._pieces:
            cast(IPushProducer, self.transport).pauseProducing()
        self._pieces.append(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._end_reason = reason
        self.wake()

    async def read(self) -> bytes:
        if self.waits:
            self._reader = Deferred()
            cast(IPushProducer, self.transport).resumeProducing()
            await self._reader
        if self._pieces:
            pieces, self._pieces = self._pieces, []
            return b"".join(pieces)
        # PotentialDataLoss: a body without a length or chunks ends with its connection.
        if self._end_reason is not None and not self._end_reason.check(
            ResponseDone, PotentialDataLoss
        ):
            self._end_reason.raiseException()
        return b""

    def wake(self) -> None:
        """Let `read` return, if there is something to return."""
        if self.waits:
            return
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.callback(None)
