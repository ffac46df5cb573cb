"""One HTTP request out, on a connection of its own, and the answer to it."""

from __future__ import annotations

import re
import time
import zlib
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import cast
from urllib.parse import urlsplit

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import (
    ConnectError,
    ConnectionClosed,
    DNSLookupError,
)
from twisted.internet.interfaces import (
    IPushProducer,
)
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

from pushserver.sources.http_client.connection import HEAD_BYTES, Dial
from pushserver.sources.interface import SourceFailed
from pushserver.usercode.reactor import Reactor

MOST_RETRY_SECONDS = 3_600.0
"""The longest Retry-After that is honoured."""

_BUSY = (429, 503)
# A header may hold any bytes, and some are sent back.
_AS_IT_IS = ("utf-8", "surrogateescape")
_NO_ANSWER = (
    ConnectError,
    ConnectionClosed,
    DNSLookupError,
    RequestGenerationFailed,
    RequestTransmissionFailed,
    ResponseFailed,
)


class Unusable(SourceFailed):
    """There was an answer, but none to use; the same request may fare better later.

    `retry_seconds` is how long the server wants to be left alone.
    """

    def __init__(self, message: str, retry_seconds: float = 0.0):
        super().__init__(message)
        self.retry_seconds = retry_seconds


class Answer:
    """An answer whose head has come; whoever has one must close it.

    What it raises names the host, and not the URL: that may have a secret in it.
    """

    def __init__(self, response: IResponse, dial: Dial, url: str):
        self.status: int = response.code
        self.url = url
        self.host = urlsplit(url).netloc
        self._response = response
        self._dial = dial
        self._body = _Body()
        response.deliverBody(self._body)

    def header(self, name: str) -> str:
        """A header's value, several joined by commas; empty without it."""
        values: list[bytes] = self._response.headers.getRawHeaders(name.encode(), [])
        return b", ".join(values).decode(*_AS_IT_IS)

    def unusable(self) -> Unusable:
        """What its status means to somebody who cannot use it."""
        phrase = RESPONSES.get(self.status, b"").decode()
        seconds = 0.0
        if self.status in _BUSY:
            # Its own clock, if it says what that shows, counts more than ours.
            now = _unix_time(self.header("date"))
            seconds = retry_after(self.header("retry-after"), time.time() if now is None else now)
        return Unusable(f"{self.host} answered {self.status} {phrase}".rstrip(), seconds)

    async def read(self) -> bytes:
        """The next piece of the body, empty at its end; no more is taken before it is asked for.

        Raises SourceFailed when the connection broke.
        """
        try:
            return await self._body.read()
        except ResponseFailed as error:
            raise _failure(self.host, error) from None

    async def read_all(self, max_bytes: int) -> bytes:
        """The whole body, inflated; raises Unusable if that is more than so many bytes."""
        too_long = Unusable(f"{self.host} answered with more than {max_bytes} bytes (max_bytes)")
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
            raise Unusable(f"{self.host} answered in {coding!r:.40}, expected gzip or nothing")
        try:
            body = _inflated(body, max_bytes + 1)
        except zlib.error as error:
            raise Unusable(f"{self.host} answered with what is no gzip: {error}") from None
        if len(body) > max_bytes:
            raise too_long
        return body

    def close(self) -> None:
        """Drop the connection, if it is still there."""
        self._dial.drop()


async def ask(reactor: Reactor, url: str, headers: Mapping[str, str]) -> Answer:
    """The answer to a GET, whatever its status is; raises SourceFailed if there is none.

    TLS is verified. Who is cancelled drops the connection.
    """
    dial = Dial(reactor)
    agent = Agent.usingEndpointFactory(reactor, dial)
    fields = Headers({name.encode(): [value.encode(*_AS_IT_IS)] for name, value in headers.items()})
    host = urlsplit(url).netloc
    try:
        response = await _or_cancelled(agent.request(b"GET", url.encode("ascii"), fields))
    except _NO_ANSWER as error:
        if dial.is_overfull:
            problem = f"{host} answered with a head of more than {HEAD_BYTES} bytes"
            raise Unusable(problem) from None
        raise _failure(host, error) from None
    dial.left = None
    return Answer(response, dial, url)


def retry_after(text: str, now: float) -> float:
    """How many seconds a Retry-After asks for, within bounds; 0 for none, or no sense."""
    text = text.strip()
    if re.fullmatch(r"[0-9]{1,9}", text):
        seconds = float(text)
    else:
        at = _unix_time(text)
        seconds = 0.0 if at is None else at - now
    return min(max(seconds, 0.0), MOST_RETRY_SECONDS)


def _unix_time(text: str) -> float | None:
    """The Unix time of a date in a header; None if it is none."""
    try:
        return parsedate_to_datetime(text).timestamp()
    except (ValueError, TypeError, OverflowError, IndexError):
        return None


def _or_cancelled(request: Deferred[IResponse]) -> Deferred[IResponse]:
    """The same, but that it fails with CancelledError when it is cancelled.

    By itself it does so with one of several others: for the name, the connection, the answer.
    """

    def cancel(outer: Deferred[IResponse]) -> None:
        outer.errback(CancelledError())
        request.cancel()

    def pass_on(result: IResponse | Failure) -> None:
        if not outer.called:
            outer.callback(result)

    outer: Deferred[IResponse] = Deferred(cancel)
    request.addBoth(pass_on)
    return outer


def _failure(host: str, error: Exception) -> SourceFailed:
    """What to raise for something that Twisted raised."""
    reasons = [failure.value for failure in getattr(error, "reasons", [])]
    return SourceFailed(f"{host}: {_words(reasons[0] if reasons else error):.200}")


def _words(error: BaseException) -> str:
    told = error.args[0] if error.args else ""
    if isinstance(told, list) and told and isinstance(told[0], tuple):
        # OpenSSL's: library, function, reason.
        return f"TLS: {told[0][-1]}"
    return str(error) or type(error).__name__


def _inflated(body: bytes, most: int) -> bytes:
    """At most so many bytes of what was compressed; raises zlib.error."""
    inflate = zlib.decompressobj(zlib.MAX_WBITS | 16)
    inflated = inflate.decompress(body, most)
    if not inflate.eof and len(inflated) < most:
        raise zlib.error("it was cut short")
    return inflated


class _Body(Protocol):
    """A body that is read piece by piece, from a connection that stands still meanwhile."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._end: Failure | None = None
        self._wanted: Deferred[None] | None = None

    def dataReceived(self, data: bytes) -> None:
        self._pieces.append(data)
        cast(IPushProducer, self.transport).pauseProducing()
        self._wake()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._end = reason
        self._wake()

    async def read(self) -> bytes:
        if not self._pieces and self._end is None:
            self._wanted = Deferred()
            cast(IPushProducer, self.transport).resumeProducing()
            await self._wanted
        if self._pieces:
            pieces, self._pieces = self._pieces, []
            return b"".join(pieces)
        # Without a length or chunks the end of a body is the end of the connection.
        if self._end is not None and not self._end.check(ResponseDone, PotentialDataLoss):
            self._end.raiseException()
        return b""

    def _wake(self) -> None:
        wanted, self._wanted = self._wanted, None
        if wanted is not None:
            wanted.callback(None)
