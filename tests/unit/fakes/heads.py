"""Handshakes as bytes, connections to send them on, and a server with shortcuts beside one without.

`compare` is the model of all shortcuts: both servers must do the same.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import Any

from twisted.internet.address import IPv4Address, UNIXAddress
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import ISSLTransport
from twisted.logger import LogLevel
from twisted.protocols.haproxy import proxyEndpoint
from twisted.protocols.policies import WrappingFactory
from zope.interface import directlyProvidedBy, directlyProvides

from pushserver.config.limits import Limits
from pushserver.config.settings import Config
from pushserver.config.settings import Server as ServerSection
from tests.unit.fakes.web import KEY, Line, Log, Server

RAW = "/channels/numbers"
ALLOWED = "https://app.example"
TRANSPORTS = ("tcp", "unix", "wrapped", "secure", "wrapped secure", "proxied")

FIELDS = (
    b"Host: localhost:8080",
    b"Upgrade: websocket",
    b"Connection: Upgrade",
    b"Sec-WebSocket-Key: " + KEY,
    b"Sec-WebSocket-Version: 13",
)


def head(*fields: bytes, target: bytes = RAW.encode(), version: bytes = b"HTTP/1.1") -> bytes:
    """The bytes of a handshake, with FIELDS unless others are given."""
    return b"\r\n".join([b"GET " + target + b" " + version, *(fields or FIELDS), b"", b""])


def with_fields(*more: bytes) -> bytes:
    """A handshake with more header fields."""
    return head(*FIELDS, *more)


def without(name: bytes, *more: bytes) -> bytes:
    """A handshake without a field, or with `more` in its place."""
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


@dataclass
class Visit:
    """What a peer received, and what the server logged and counted."""

    wire: bytes
    closing: bool
    aborted: bool
    log: list[str]
    ended: Counter[str]


_BY_CHANCE = re.compile(
    rb'\r\nDate: [^\r]*|(?<=retry: )[0-9]+|(?<="client":")[^"]*|(?<="session":")[^"]*'
)
_PEER = re.compile(r"(tcp4:)?127\.0\.0\.1:50000|unix:\S*")


class Side:
    """A server; `taken` has True for each handshake that took the short path, else False."""

    def __init__(self, shortcuts: bool, limits: Limits = Limits()):
        section = ServerSection(allowed_origins=[ALLOWED], compress=True)
        config = Config(server=section, limits=limits)
        self.server = Server(config=config, wall=lambda: 1_000.0, shortcuts=shortcuts)
        self.server.hub.history.epoch = "EPOCH"
        for number in range(3):
            self.server.publish("numbers", number)
        self.taken: list[bool] = []
        self._shortcut = self.server.site._shortcut
        if shortcuts:
            self.server.site._shortcut = self._take

    def _take(self, *arguments: Any) -> bool:
        shortcut: Any = self._shortcut
        self.taken.append(shortcut(*arguments))
        return self.taken[-1]

    def visit(
        self, *pieces: bytes, kind: str = "tcp", wait: int = 0, end: Exception | None = None
    ) -> Visit:
        """Send the pieces on a connection while something is published, then end it."""
        line = connect(self.server, kind)
        with Log(LogLevel.info) as log:
            for piece in pieces:
                line.send(piece)
            self.server.publish("numbers", "live")
            self.server.advance(wait)
            wire = _BY_CHANCE.sub(b"", line.take())
            closing, aborted = line.disconnecting, line.aborted
            line._lose(end or ConnectionDone())
            logged = [_PEER.sub("PEER", text) for text in log.take()]
            self.server.clock.advance(20)
        assert self.server.is_empty()
        assert self.server.clock.getDelayedCalls() == []
        return Visit(wire, closing, aborted, logged, self.server.node.metrics.ended)


def compare(*pieces: bytes, limits: Limits = Limits(), **visit: Any) -> tuple[Visit, bool]:
    """The visit to both servers, which must be the same, and whether it took the short path."""
    side = Side(True, limits)
    outcome = side.visit(*pieces, **visit)
    # The second is made now: Autobahn has one clock, which is that of the last server.
    assert outcome == Side(False, limits).visit(*pieces, **visit)
    assert len(side.taken) <= 1
    return outcome, any(side.taken)
