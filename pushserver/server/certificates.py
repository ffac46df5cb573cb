"""The certificate of an endpoint, which can be read again while the port is open."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.interfaces import (
    IAddress,
    IListeningPort,
    IProtocol,
    IProtocolFactory,
    IStreamServerEndpoint,
)
from twisted.internet.protocol import Factory
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure
from zope.interface import implementer

from pushserver.usercode.reactor import Reactor

UNREADABLE = (
    "the file of privateKey or certKey has no key or certificate in PEM"
    " (-----BEGIN PRIVATE KEY-----, -----BEGIN CERTIFICATE-----)"
)


def has_certificate(text: str) -> bool:
    """Whether the endpoint `text` is one of TLS."""
    return text.startswith(("ssl:", "haproxy:ssl:"))


class Certificate:
    """The certificate of the endpoint `text`, and its private key.

    Each connection gets the newest one; an open connection keeps its own.
    """

    def __init__(self, reactor: Reactor, text: str, socket: IStreamServerEndpoint | None = None):
        """Read the files; raises an exception with the reason if they are not valid.

        `socket`: an endpoint that is open already, in place of the port in `text`.
        """
        self._reactor = reactor
        self._socket = socket
        self._text = text
        self._options: Any = None
        self._tls: Any = None
        self._site: IProtocolFactory = Factory()
        self.endpoint = self._parse(_Reactor(reactor, self._listen))

    def read(self) -> Callable[[], bool]:
        """Read the files again; return the call that uses them, and tells whether they changed.

        Raises an exception with the reason if they are not valid.
        """
        found: list[Any] = []

        def listen(port: int, factory: object, contextFactory: Any, **_: object) -> None:
            found.append(contextFactory)

        self._parse(_Reactor(self._reactor, listen)).listen(Factory())
        [options] = found

        def use() -> bool:
            if self._tls is None or _digests(options) == _digests(self._options):
                return False
            self._options = options
            self._tls = TLSMemoryBIOFactory(options, False, self._site, self._reactor)
            return True

        return use

    def _parse(self, reactor: Any) -> IStreamServerEndpoint:
        try:
            endpoint: IStreamServerEndpoint = serverFromString(reactor, self._text)
        except Exception as error:
            # The text of an error of OpenSSL is a list, without the name of a file.
            if error.args and isinstance(error.args[0], list):
                raise ValueError(UNREADABLE) from None
            raise
        return endpoint

    def _listen(
        self,
        port: int,
        factory: IProtocolFactory,
        contextFactory: Any,
        backlog: int = 50,
        interface: str = "",
    ) -> IListeningPort:
        """Listen in the place of `IReactorSSL.listenSSL`, with a factory that can be replaced."""
        self._options, self._site = contextFactory, factory
        self._tls = TLSMemoryBIOFactory(contextFactory, False, factory, self._reactor)
        tls: Any = _TLS(self)
        if self._socket is not None:
            return _result(self._socket.listen(tls))
        return self._reactor.listenTCP(port, tls, backlog, interface)

    def build(self, address: IAddress) -> IProtocol | None:
        """The protocol of a new connection, by the newest certificate."""
        protocol: IProtocol | None = self._tls.buildProtocol(address)
        return protocol

    @property
    def site(self) -> IProtocolFactory:
        """The factory of the protocol inside TLS."""
        return self._site


@implementer(IProtocolFactory)
class _TLS:
    """The factory of the port."""

    def __init__(self, certificate: Certificate):
        self._certificate = certificate

    def doStart(self) -> None:
        self._certificate.site.doStart()

    def doStop(self) -> None:
        self._certificate.site.doStop()

    def buildProtocol(self, address: IAddress) -> IProtocol | None:
        return self._certificate.build(address)


class _Reactor:
    """A reactor for one endpoint, with a function in the place of its `listenSSL`."""

    def __init__(self, reactor: Any, listen: Callable[..., object]):
        self._reactor = reactor
        self.listenSSL = listen

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reactor, name)


def _result(listening: Deferred[IListeningPort]) -> IListeningPort:
    """The result of a Deferred that has one, or its exception."""
    results: list[Any] = []
    listening.addBoth(results.append)
    [result] = results
    if isinstance(result, Failure):
        result.raiseException()
    port: IListeningPort = result
    return port


def _digests(options: Any) -> list[bytes]:
    certificates = [options.certificate, *(options.extraCertChain or ())]
    return [certificate.digest("sha256") for certificate in certificates]
