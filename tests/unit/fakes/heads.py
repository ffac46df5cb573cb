"""Handshakes as bytes, and connections of several kinds to send them on."""

from __future__ import annotations

from typing import Any

from twisted.internet.address import IPv4Address, UNIXAddress
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.interfaces import ISSLTransport
from twisted.protocols.haproxy import proxyEndpoint
from twisted.protocols.policies import WrappingFactory
from zope.interface import directlyProvidedBy, directlyProvides

from tests.unit.fakes.web import KEY, Line, Server

RAW = "/channels/numbers"
TRANSPORTS = ("tcp", "unix", "wrapped", "secure", "wrapped secure", "proxied")

FIELDS = (
    b"Host: localhost:8080",
    b"Upgrade: websocket",
    b"Connection: Upgrade",
    b"Sec-WebSocket-Key: " + KEY,
    b"Sec-WebSocket-Version: 13",
)


def head(*fields: bytes, target: bytes = RAW.encode(), version: bytes = b"HTTP/1.1") -> bytes:
    """The bytes of a handshake; without fields those that belong there."""
    return b"\r\n".join([b"GET " + target + b" " + version, *(fields or FIELDS), b"", b""])


def with_fields(*more: bytes) -> bytes:
    """A handshake with more than the fields that belong there."""
    return head(*FIELDS, *more)


def without(name: bytes, *more: bytes) -> bytes:
    """A handshake that lacks a field, or has it as `more`."""
    return head(*(field for field in FIELDS if not field.startswith(name + b":")), *more)


def connect(server: Server, kind: str = "tcp") -> Line:
    """A connection over such a transport."""
    address = UNIXAddress(None) if kind == "unix" else IPv4Address("TCP", "127.0.0.1", 50000)
    line = Line(server.clock, address)
    if "secure" in kind:
        directlyProvides(line, directlyProvidedBy(line), ISSLTransport)
    factory: Any = server.site
    if "wrapped" in kind:
        factory = WrappingFactory(server.site)
    elif kind == "proxied":
        proxyEndpoint(TCP4ServerEndpoint(server.clock, 1)).listen(server.site)
        factory = server.clock.tcpServers.pop()[1]
    line.protocol = factory.buildProtocol(address)
    line.protocol.makeConnection(line)
    if kind == "proxied":
        line.send(b"PROXY TCP4 192.0.2.1 127.0.0.1 1 2\r\n")
    return line
