"""The connection of one outgoing HTTP request."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint, wrapClientTLS
from twisted.internet.interfaces import IProtocolFactory, IStreamClientEndpoint, ITCPTransport
from twisted.internet.protocol import Factory
from twisted.internet.task import deferLater
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.web.client import URI, BrowserLikePolicyForHTTPS
from twisted.web.iweb import IAgentEndpointFactory
from zope.interface import implementer

from pushserver.usercode.reactor import Reactor

CONNECT_SECONDS = 10.0
HEAD_BYTES = 65_536
"""The longest head of a response: the status line and all headers together."""
SHARE = 0.25
"""The part of the reactor's time that the handling of one response may take in the long run."""
MIN_REST_SECONDS = 0.05
MAX_REST_SECONDS = 5.0


class ResponseMeter(ProtocolWrapper):
    """Counts the bytes of the response until its head is complete, and the time that it takes."""

    factory: Connection

    def dataReceived(self, data: bytes) -> None:
        connection = self.factory
        started = connection.now()
        super().dataReceived(data)
        # Counted afterwards: the end of the head may share a read with a long body.
        if connection.head_bytes_left is not None:
            connection.head_bytes_left -= len(data)
            if connection.head_is_too_long:
                connection.abort()
        connection.on_received()
        connection.charge(started)


@implementer(IAgentEndpointFactory, IStreamClientEndpoint)
class Connection(WrappingFactory):
    """The connection of one request: bounds the head and the time it takes, and can be aborted.

    Twisted bounds the length of a header but not their number; and the transport of a body can
    only close a connection in order, which a peer can delay.

    64 KB, which Twisted reads at once, may be 11,000 chunks or 65,536 lines: 0.1 seconds of the
    reactor. So the reader of a body awaits `rest` before it reads on.
    """

    protocol = ResponseMeter
    noisy = False

    def __init__(self, reactor: Reactor):
        super().__init__(None)
        self.head_bytes_left: int | None = HEAD_BYTES
        """None once the head is complete."""
        self.on_received: Callable[[], None] = lambda: None
        """Called after each read from the socket has been handled."""
        self._charged_until = 0.0
        self._reactor = reactor
        self._endpoint: Any = None
        self._wrapper: ResponseMeter | None = None

    @property
    def head_is_too_long(self) -> bool:
        """Whether the head exceeds HEAD_BYTES."""
        return self.head_bytes_left is not None and self.head_bytes_left < 0

    def endpointForURI(self, uri: URI) -> Connection:
        host = uri.host.decode("ascii")
        self._endpoint = HostnameEndpoint(self._reactor, host, uri.port, timeout=CONNECT_SECONDS)
        if uri.scheme == b"https":
            verified = BrowserLikePolicyForHTTPS().creatorForNetloc(uri.host, uri.port)
            self._endpoint = wrapClientTLS(verified, self._endpoint)
        return self

    def connect(self, factory: IProtocolFactory) -> Deferred[Any]:
        # The factory would log a start and a stop for each request.
        cast(Factory, factory).noisy = False
        self.wrappedFactory = factory
        connecting: Deferred[Any] = self._endpoint.connect(self)
        return connecting.addCallback(self._connected)

    def now(self) -> float:
        """Return the time in seconds, from any beginning."""
        return self._reactor.seconds()

    def charge(self, started: float) -> None:
        """Count the time since `started` as taken by this response."""
        now = self.now()
        self._charged_until = max(self._charged_until, started) + (now - started) / SHARE

    async def rest(self) -> None:
        """Return when the response has taken no more than its SHARE of the time."""
        seconds = self._charged_until - self.now()
        if seconds >= MIN_REST_SECONDS:
            await deferLater(self._reactor, min(seconds, MAX_REST_SECONDS))

    def abort(self) -> None:
        """Close the connection at once, if it is open."""
        if self._wrapper is not None:
            cast(ITCPTransport, self._wrapper.transport).abortConnection()

    def _connected(self, wrapper: ResponseMeter) -> Any:
        self._wrapper = wrapper
        return wrapper.wrappedProtocol
