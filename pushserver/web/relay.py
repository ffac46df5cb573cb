"""Passes requests on to another process of the server, and its answers back.

Each request has a connection of its own to that process's Unix socket, which begins with a header
of the PROXY protocol: the other process sees the addresses of the client's connection, its TLS, and
whether a proxy is before it. Peers cannot write that header; nothing of this is in the fields of
the request, so none has to be removed that a peer could have added.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from twisted.internet.defer import Deferred
from twisted.web.server import NOT_DONE_YET, Request

from pushserver.errors import TooMany
from pushserver.protocols.formats import STREAM_SSE, End
from pushserver.usercode.rate import LOGGED_AT_ONCE, LogLimiter
from pushserver.web.accept import preferred
from pushserver.web.exchange import Exchange
from pushserver.web.gate import IsOwn
from pushserver.web.resource import (
    EVENT_STREAM,
    HTML,
    JSON,
    RETRY,
    TOO_MANY,
    LeafResource,
    Refusal,
    Refusing,
    header,
    is_upgrade,
    refuse,
)
from pushserver.web.site import PushSite
from pushserver.web.splice import Splice

TRY_AGAIN_LATER = 1013
"""The code of a stream that cannot begin at present (RFC 6455, 7.4.1, and its registry)."""


class Relay(LeafResource):
    """Answers each request with the answer of the process that listens on the socket at `path`.

    That process reads the header of the PROXY protocol (`ProxiedFactory` with `of_processes`).
    `at_once` is the bound of requests that wait for an answer or the rest of it, `upgraded_at_once`
    that of connections whose protocol was changed. `seconds` is the time for the connection, and
    for the head of the answer after it. `monotonic` is the steady clock. `is_own`: see
    `gate.IsOwn`.
    """

    def __init__(
        self,
        path: str,
        reactor: Any,
        monotonic: Callable[[], float],
        at_once: int = 1_024,
        upgraded_at_once: int = 10_000,
        seconds: float = 60,
        is_own: IsOwn = lambda request: None,
    ):
        super().__init__()
        self.path = path
        self.reactor = reactor
        self.seconds = seconds
        self.waiting: set[Exchange] = set()
        self.upgraded: set[Splice] = set()
        self.is_own = is_own
        self._at_once = at_once
        self._upgraded_at_once = upgraded_at_once
        self._monotonic = monotonic
        self._limiter = LogLimiter(LOGGED_AT_ONCE)
        self._empty: Deferred[None] | None = None

    def render(self, request: Request) -> bytes | int:
        upgrades = is_upgrade(request)
        if len(self.waiting) >= self._at_once:
            return _unavailable(request, f"{self._at_once} requests wait for another process")
        if upgrades and len(self.upgraded) >= self._upgraded_at_once:
            return _unavailable(
                request, f"{self._upgraded_at_once} connections to another process are open"
            )
        if upgrades:
            try:
                # As a WebSocket of this process: the other one counts no connections.
                cast(PushSite, request.site).admission.claim(request)
            except TooMany as error:
                return refuse(request, error)
        exchange = Exchange(self, request, upgrades)
        try:
            exchange.connect()
        except OSError as error:
            # Twisted makes the socket at once: there may be no file left for it.
            exchange.fail(f"there is no connection to another process: {error.strerror}")
        return NOT_DONE_YET

    def stop(self) -> None:
        """Drop all connections to the other process, and with them those of the clients."""
        for exchange in tuple(self.waiting):
            exchange.stop()
        for splice in tuple(self.upgraded):
            splice.stop()

    def drain(self) -> Deferred[None]:
        """Fires when the connections have ended whose protocol was changed."""
        self._empty = Deferred()
        self._end_if_empty()
        return self._empty

    def splice(self, request: Request, other: Any, data: bytes) -> None:
        """Connect the client of a request with the other process; `data` is for the client."""
        self.upgraded.add(Splice(request, other, data, self.reactor, self._ended))

    def _ended(self, splice: Splice) -> None:
        self.upgraded.discard(splice)
        self._end_if_empty()

    def _end_if_empty(self) -> None:
        if self._empty is not None and not self._empty.called and not self.upgraded:
            self._empty.callback(None)

    def answer_failure(self, request: Request, problem: str) -> None:
        """Answer a request whose answer has not begun."""
        more = self._limiter.suffix(self._monotonic())
        if more is not None:
            self._log.warn(
                "a request was not answered: {problem}{more}",
                problem=problem,
                more=more,
                event_name="relay_failed",
            )
        self._finish(request, _unavailable(request, problem))

    def answer_flood(self, request: Request) -> None:
        """Answer one refused request too many of a connection."""
        self._finish(request, Refusing(TOO_MANY).render(request))

    def _finish(self, request: Request, body: bytes | int) -> None:
        assert isinstance(body, bytes)
        if request.method != b"HEAD":
            request.setHeader(b"content-length", b"%d" % len(body))
        request.write(body)
        request.finish()


def _unavailable(request: Request, problem: str) -> bytes | int:
    """The answer to a request that cannot be passed on now.

    For an EventSource it is a stream that ends with the reason: it would not come back after a 503.
    """
    text = f"{problem}; try again later"
    accept = header(request, "accept") or ""
    if request.method == b"GET" and preferred(accept, (JSON, HTML, EVENT_STREAM)) == EVENT_STREAM:
        request.setHeader(b"content-type", EVENT_STREAM.encode())
        request.setHeader(b"cache-control", b"no-store")
        return STREAM_SSE.make_end(End(TRY_AGAIN_LATER, text))
    return Refusing(Refusal(503, text, RETRY)).render(request)
