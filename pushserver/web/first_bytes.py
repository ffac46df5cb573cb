"""The first bytes of a connection: a WebSocket handshake goes a short way, the rest to twisted.web.

On the long way a handshake costs about twice as much: twisted.web reads it, a resource has it
written again for Autobahn, and Autobahn reads it once more. The short way takes only a head
that is exactly as it should be, and asks the same doors. Whatever else it is (a head in two
pieces, a header twice, a request that a door refuses) goes the long way from the
beginning, where it is answered. So both ways accept the same, and refuse in one voice.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any, cast

from twisted.internet.interfaces import IAddress, IReactorTime, ISSLTransport, ITCPTransport
from twisted.internet.protocol import Protocol, connectionDone
from twisted.protocols.policies import ProtocolWrapper
from twisted.python.failure import Failure
from twisted.web.http import parse_qs

from pushserver.auth.origin import valid_host

MOST_BYTES = 16_384
MOST_FIELDS = 500
"""The longest head, and the most fields in it, as twisted.web has it."""

NAME_BYTES = 256
"""The longest name of a header: twisted.web keeps 10,000 of them for ever, however long."""

LEAST_SECONDS = 0.001
"""What a request has left at least: the reactor takes nothing below 0, and twisted.web does not
stop a timer of 0 while it answers."""

_HEAD = re.compile(
    rb"GET (/[A-Za-z0-9_./:@~-]*)(?:\?([!-~]*))? HTTP/1\.1\r\n"
    rb"((?:[!#$%%&'*+.^_`|~0-9A-Za-z-]{1,%d}:[\t -~]*\r\n)+)\r\n" % NAME_BYTES
)
_KEY = re.compile(r"[A-Za-z0-9+/]{22}==")


class Head:
    """A handshake as it should be; to the doors it is a request."""

    method = b"GET"

    def __init__(self, path: bytes, query: bytes, fields: dict[str, str], transport: Any):
        self.path = path
        self.prepath: list[bytes] = []
        self.postpath = path[1:].split(b"/")
        self.args: dict[bytes, list[bytes]] = parse_qs(query, True) if query else {}
        self._fields = fields
        self._transport = transport

    @property
    def requestHeaders(self) -> Head:
        return self

    def getRawHeaders(self, name: str, default: Any = None) -> Any:
        """The values of a header, as `http_headers.Headers` gives them."""
        value = self._fields.get(name.lower())
        return default if value is None else [value]

    def getAllRawHeaders(self) -> Iterator[tuple[bytes, list[bytes]]]:
        """The names and values of all headers, as `http_headers.Headers` gives them."""
        return ((name.encode(), [value.encode()]) for name, value in self._fields.items())

    def isSecure(self) -> bool:
        return bool(ISSLTransport.providedBy(self._transport))

    def getClientAddress(self) -> Any:
        return self._transport.getPeer()

    def getHost(self) -> Any:
        return self._transport.getHost()


def read_head(data: bytes, transport: Any) -> Head | None:
    """The handshake that these bytes are, if they are one, whole, and nothing else."""
    head = _HEAD.fullmatch(data) if len(data) <= MOST_BYTES else None
    if head is None:
        return None
    lines = head[3].decode().split("\r\n")[:-1]
    pairs = [line.split(":", 1) for line in lines]
    fields = {name.lower(): value.strip(" \t") for name, value in pairs}
    if not len(lines) == len(fields) <= MOST_FIELDS or not _is_handshake(fields):
        return None
    return Head(head[1], head[2] or b"", fields, transport)


def _is_handshake(fields: dict[str, str]) -> bool:
    """RFC 6455, 4.2.1, with no body and nothing that a proxy could read in another way."""
    return (
        fields.get("upgrade", "").lower() == "websocket"
        and "upgrade" in (part.strip() for part in fields.get("connection", "").lower().split(","))
        and fields.get("sec-websocket-version") == "13"
        and _KEY.fullmatch(fields.get("sec-websocket-key", "")) is not None
        and valid_host(fields.get("host", ""))
        and not fields.keys() & {"content-length", "transfer-encoding", "expect"}
    )


Shortcut = Callable[[Any, Head, bytes], bool]


class Entrance(Protocol):
    """Waits for the first bytes, as long as for a request, and then hands the connection over.

    `shortcut` takes the transport, the head and its bytes, and returns False if it does not
    want them. `web` makes twisted.web's protocol, which has so many seconds left. `monotonic` is
    the steady clock.
    """

    def __init__(
        self,
        address: IAddress | None,
        reactor: IReactorTime,
        monotonic: Callable[[], float],
        seconds: float,
        shortcut: Shortcut,
        web: Callable[[IAddress | None, float], Protocol],
        gone: Callable[[Entrance], None],
    ):
        self._address = address
        self._reactor = reactor
        self._monotonic = monotonic
        self._seconds = seconds
        self._shortcut = shortcut
        self._web = web
        self._gone = gone
        self._closing = False
        self._until = monotonic() + seconds
        self._deadline = reactor.callLater(seconds, self.loseConnection)

    def dataReceived(self, data: bytes) -> None:
        if self._closing:
            return
        # Less than nothing is left where the reactor came late to what was there in time.
        left = max(self._until - self._monotonic(), LEAST_SECONDS)
        self._leave()
        transport: Any = self.transport
        head = read_head(data, transport)
        if head is None or not self._shortcut(transport, head, data):
            install(transport, self._web(self._address, left), data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._leave()

    def loseConnection(self) -> None:
        """Nothing was asked, nothing is owed; a peer under TLS is waited for a while."""
        if not self._closing:
            self._closing = True
            self._stop_waiting()
            self._deadline = self._reactor.callLater(self._seconds, self.abort)
            cast(ITCPTransport, self.transport).loseConnection()

    def abort(self) -> None:
        """Drop the connection at once."""
        cast(ITCPTransport, self.transport).abortConnection()

    def _leave(self) -> None:
        self._stop_waiting()
        self._gone(self)

    def _stop_waiting(self) -> None:
        if self._deadline.active():
            self._deadline.cancel()


def install(transport: Any, protocol: Protocol, data: bytes) -> None:
    """Let another protocol go on with the connection, beginning with this data."""
    wrapped = isinstance(transport, ProtocolWrapper)
    setattr(transport, "wrappedProtocol" if wrapped else "protocol", protocol)
    protocol.makeConnection(transport)
    protocol.dataReceived(data)
