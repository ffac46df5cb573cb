"""Connections of proxies that name their client in a header of the PROXY protocol.

The header comes before all other bytes, also before those of TLS. So it is read below TLS, by the
protocol of the port; afterwards the connection has the client's address and no further layer.
Requests on it are secure if the header says that the client's connection to the proxy has TLS.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.interfaces import IAddress, IProtocolFactory, IReactorTime
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure

from pushserver.auth.proxies import Proxies
from pushserver.auth.proxy_header import STARTS, End, read_proxy_header
from pushserver.usercode.rate import LOGGED_AT_ONCE, LogLimiter
from pushserver.web.peer import host
from pushserver.web.sockets import OVER_TLS, drop

PROXIED = "pushserver_proxied"
"""The attribute of the transport of a connection that began with the header of a proxy."""


class ProxiedFactory(Factory):
    """Reads the headers of trusted proxies, and hands all connections to `inner`.

    Each connection of one of `proxies` begins with a header. It is closed if that is not valid, or
    not there within `seconds`. Other peers connect without a header: one that sends one is closed,
    since it could name any address. Both are logged at a bounded rate. `monotonic` is the steady
    clock. `remember` gets each refusal, with the status 0.

    `of_processes`: the peers are other processes of the server, which know whether their client
    came through a proxy.
    """

    noisy = False
    _log = Logger()

    def __init__(
        self,
        inner: IProtocolFactory,
        proxies: Callable[[], Proxies],
        reactor: IReactorTime,
        monotonic: Callable[[], float],
        seconds: Callable[[], float],
        remember: Callable[[int, str | None, str], None] = lambda *_: None,
        of_processes: bool = False,
    ):
        self.of_processes = of_processes
        self._remember = remember
        self.inner = inner
        self.reactor = reactor
        self.limit = seconds
        self.waiting: set[HeaderReader] = set()
        self._proxies = proxies
        self._monotonic = monotonic
        # Strangers cannot use up the lines about the proxies.
        self._limiters = {trusted: LogLimiter(LOGGED_AT_ONCE) for trusted in (True, False)}

    def doStart(self) -> None:
        self.inner.doStart()

    def doStop(self) -> None:
        """The port is closed: close the connections without a header too."""
        for reader in tuple(self.waiting):
            drop(reader.transport)
        self.inner.doStop()

    def buildProtocol(self, addr: IAddress | None) -> Any:
        peer: Any = addr
        if host(peer) in self._proxies():
            return HeaderReader(self, peer)
        protocol: Any = self.inner.buildProtocol(peer)
        self._look(protocol, peer)
        return protocol

    def _look(self, protocol: Any, peer: IAddress | None) -> None:
        """Look for a header in the first bytes of another peer, for a clear line in the log."""
        receive = protocol.dataReceived

        def first(data: bytes) -> None:
            del protocol.dataReceived
            if data.startswith(STARTS):
                problem = "sent a header of the PROXY protocol, and is not one of trusted_proxies"
                self.refuse(peer, problem, trusted=False)
                drop(protocol.transport)
            else:
                receive(data)

        protocol.dataReceived = first

    def refuse(self, peer: IAddress | None, problem: str, trusted: bool) -> None:
        """Remember a connection that is closed, and log it."""
        self._remember(0, host(peer), problem)
        more = self._limiters[trusted].suffix(self._monotonic())
        if more is not None:
            self._log.warn(
                "closed a connection: {peer} {problem}{more}",
                peer=host(peer) or "unix",
                problem=problem,
                more=more,
                event_name="proxy_header_refused",
            )


class HeaderReader(Protocol):
    """Reads the header of one connection."""

    def __init__(self, factory: ProxiedFactory, peer: IAddress | None):
        self._factory = factory
        self._peer = peer
        self._data = b""

    def connectionMade(self) -> None:
        self._factory.waiting.add(self)
        self._deadline = self._factory.reactor.callLater(self._factory.limit(), self._late)

    def dataReceived(self, data: bytes) -> None:
        if self not in self._factory.waiting:
            return
        self._data += data
        try:
            header = read_proxy_header(self._data)
        except ValueError as error:
            self._refuse(f"is one of trusted_proxies, and sent {error}")
            return
        if header is None:
            return
        self._leave()
        transport: Any = self.transport
        if header.tls:
            setattr(transport, OVER_TLS, True)
        if not (self._factory.of_processes and header.direct):
            setattr(transport, PROXIED, True)
        peer: Any = self._peer
        if header.client is not None and header.server is not None:
            # On the transport itself: a wrapper would take its fast paths from it.
            peer, here = _address(header.client), _address(header.server)
            transport.getPeer = lambda peer=peer: peer
            transport.getHost = lambda here=here: here
        protocol: Any = self._factory.inner.buildProtocol(peer)
        rest, self._data = self._data[header.size :], b""
        transport.protocol = protocol
        protocol.makeConnection(transport)
        if rest:
            protocol.dataReceived(rest)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._leave()

    def _late(self) -> None:
        seconds = self._factory.limit()
        self._refuse(
            "is one of trusted_proxies, and sent no whole header of the PROXY protocol within"
            f" {seconds:g} seconds"
        )

    def _refuse(self, problem: str) -> None:
        self._leave()
        self._factory.refuse(self._peer, problem, trusted=True)
        drop(self.transport)

    def _leave(self) -> None:
        self._factory.waiting.discard(self)
        if self._deadline.active():
            self._deadline.cancel()


def _address(end: End) -> IAddress:
    return (IPv6Address if ":" in end[0] else IPv4Address)("TCP", *end)
