"""The connection of one HTTP request out."""

from __future__ import annotations

from typing import Any, cast

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint, wrapClientTLS
from twisted.internet.interfaces import IProtocolFactory, IStreamClientEndpoint, ITCPTransport
from twisted.internet.protocol import Factory
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.web.client import URI, BrowserLikePolicyForHTTPS
from twisted.web.iweb import IAgentEndpointFactory
from zope.interface import implementer

from pushserver.usercode.reactor import Reactor

CONNECT_SECONDS = 10.0
HEAD_BYTES = 65_536
"""The longest head of an answer, all its headers together."""


class Line(ProtocolWrapper):
    """The connection, whose bytes are counted until the head of the answer has come."""

    factory: Dial

    def dataReceived(self, data: bytes) -> None:
        super().dataReceived(data)
        # The end of the head may have come with the begin of a long body.
        dial = self.factory
        if dial.left is not None:
            dial.left -= len(data)
            if dial.is_overfull:
                dial.drop()


@implementer(IAgentEndpointFactory, IStreamClientEndpoint)
class Dial(WrappingFactory):
    """The one connection of one request.

    Twisted bounds the length of a header, but not how many there are; and what it hands out
    with a body can close a connection politely only, for which a peer can make us wait.
    """

    protocol = Line
    noisy = False

    def __init__(self, reactor: Reactor):
        super().__init__(None)
        self.left: int | None = HEAD_BYTES
        self._reactor = reactor
        self._endpoint: Any = None
        self._line: Line | None = None

    @property
    def is_overfull(self) -> bool:
        """Whether more has come than a head may be."""
        return self.left is not None and self.left < 0

    def endpointForURI(self, uri: URI) -> Dial:
        host = uri.host.decode("ascii")
        self._endpoint = HostnameEndpoint(self._reactor, host, uri.port, timeout=CONNECT_SECONDS)
        if uri.scheme == b"https":
            verified = BrowserLikePolicyForHTTPS().creatorForNetloc(uri.host, uri.port)
            self._endpoint = wrapClientTLS(verified, self._endpoint)
        return self

    def connect(self, factory: IProtocolFactory) -> Deferred[Any]:
        # It would log a start and a stop for each request.
        cast(Factory, factory).noisy = False
        self.wrappedFactory = factory
        connecting: Deferred[Any] = self._endpoint.connect(self)
        return connecting.addCallback(self._connected)

    def drop(self) -> None:
        """End the connection at once."""
        if self._line is not None:
            cast(ITCPTransport, self._line.transport).abortConnection()

    def _connected(self, line: Line) -> Any:
        self._line = line
        return line.wrappedProtocol
