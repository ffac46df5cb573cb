"""The first bytes of a connection: a short path for WebSocket handshakes, else twisted.web.

Through twisted.web a handshake costs about twice as much: twisted.web parses it, a resource has it
written again for Autobahn, and Autobahn parses it once more. The short path accepts only a head
that is certainly valid, and asks the same resources. Everything else (a head in two pieces, a
repeated header, a request that the resource refuses) goes to twisted.web from its first byte, which
answers it. So both paths accept the same handshakes and refuse with the same words.
PUSHSERVER_SHORTCUTS=off omits the short path.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any, NamedTuple, TypeVar, cast

from twisted.internet.interfaces import IAddress, IDelayedCall, IReactorTime, ITCPTransport
from twisted.internet.protocol import Protocol, connectionDone
from twisted.protocols.policies import ProtocolWrapper
from twisted.python.failure import Failure
from twisted.web.http import parse_qs

from pushserver.auth.origin import valid_host
from pushserver.web.deadlines import MIN_SECONDS, Deadlines
from pushserver.web.sockets import drop, is_secure

MAX_HEAD_BYTES = 16_384
MAX_FIELDS = 500
"""The limits of twisted.web for a head, and for the header fields in it."""

MAX_NAME_BYTES = 256
"""Of a header's name: twisted.web keeps up to 10,000 names in a cache, however long they are."""

MAX_KEPT_BYTES = 2_048
"""The longest head that is parsed once for all connections that repeat it."""
KEPT_HEADS = 256
"""The heads that are kept, with their fields: 1.4 MB with one long field each, 6.5 with many short
ones."""

_HEAD = re.compile(
    rb"GET (/[A-Za-z0-9_./:@~-]*)(?:\?([!-~]*))? HTTP/1\.1\r\n"
    rb"((?:[!#$%%&'*+.^_`|~0-9A-Za-z-]{1,%d}:[\t -~]*\r\n)+)\r\n" % MAX_NAME_BYTES
)
KEY = re.compile(r"[A-Za-z0-9+/]{22}==")
_KEY_FIELD = b"\r\nSec-WebSocket-Key: "
_SOME_KEY = b"A" * 22 + b"=="


class Head:
    """A valid handshake, which resources read as a request.

    `facts`: those that resources have found in the head alone, for all requests with the same one.
    """

    method = b"GET"

    def __init__(
        self,
        path: bytes,
        args: dict[bytes, list[bytes]],
        fields: dict[str, str],
        facts: dict[object, Any],
        transport: Any,
        channel: Any = None,
    ):
        self.path = path
        self.prepath: list[bytes] = []
        self.postpath = path[1:].split(b"/")
        self.args = args
        self.channel = channel
        self.fields = fields
        self.facts = facts
        self._transport = transport
        self._peer: Any = None

    @property
    def requestHeaders(self) -> Head:
        return self

    def getRawHeaders(self, name: str, default: Any = None) -> Any:
        """The values of a header, as `http_headers.Headers` gives them."""
        value = self.fields.get(name.lower())
        return default if value is None else [value]

    def getAllRawHeaders(self) -> Iterator[tuple[bytes, list[bytes]]]:
        """The names and values of all headers, as `http_headers.Headers` gives them."""
        return ((name.encode(), [value.encode()]) for name, value in self.fields.items())

    def isSecure(self) -> bool:
        return is_secure(self._transport)

    def getClientAddress(self) -> Any:
        # Several checks ask, and a connection does not change it.
        if self._peer is None:
            self._peer = self._transport.getPeer()
        return self._peer

    def getHost(self) -> Any:
        return self._transport.getHost()


Fact = TypeVar("Fact")


def once(request: Any, name: object, find: Callable[[], Fact]) -> Fact:
    """What `find` finds in the head of the request, found once for those with the same head.

    `name` has all else that it depends on. What it raises is not kept.
    """
    facts: dict[object, Any] | None = getattr(request, "facts", None)
    if facts is None:
        return find()
    found: Fact | None = facts.get(name)
    if found is None:
        found = facts[name] = find()
    return found


class _Parsed(NamedTuple):
    """A handshake without its connection."""

    path: bytes
    args: dict[bytes, list[bytes]]
    fields: dict[str, str]
    facts: dict[object, Any]


def read_head(data: bytes, transport: Any, channel: Any = None) -> Head | None:
    """The handshake in these bytes; None if they are not exactly one.

    `channel`: the protocol of the connection.
    """
    start = data.find(_KEY_FIELD) + len(_KEY_FIELD)
    end = start + len(_SOME_KEY)
    if start < len(_KEY_FIELD) or data[end : end + 2] != b"\r\n" or len(data) > MAX_KEPT_BYTES:
        parsed = _parse(data)
        return None if parsed is None else Head(*parsed, transport, channel)
    # Clients that come back, and those of one program, repeat all but their key.
    key = data[start:end].decode("latin-1")
    parsed = _parse_once(data[:start] + _SOME_KEY + data[end:])
    if parsed is None or KEY.fullmatch(key) is None:
        return None
    path, args, fields, facts = parsed
    return Head(path, args, {**fields, "sec-websocket-key": key}, facts, transport, channel)


def _parse(data: bytes) -> _Parsed | None:
    head = _HEAD.fullmatch(data) if len(data) <= MAX_HEAD_BYTES else None
    if head is None:
        return None
    lines = head[3].decode().split("\r\n")[:-1]
    pairs = [line.split(":", 1) for line in lines]
    fields = {name.lower(): value.strip(" \t") for name, value in pairs}
    if not len(lines) == len(fields) <= MAX_FIELDS or not _is_handshake(fields):
        return None
    return _Parsed(head[1], parse_args(head[2]), fields, {})


_parse_once = lru_cache(KEPT_HEADS)(_parse)


def parse_args(query: bytes | None) -> dict[bytes, list[bytes]]:
    """The parameters in a query, as twisted.web parses them."""
    return parse_qs(query, True) if query else {}


def _is_handshake(fields: dict[str, str]) -> bool:
    """RFC 6455, 4.2.1; no body, and nothing that a proxy could parse differently."""
    return (
        fields.get("upgrade", "").lower() == "websocket"
        and "upgrade" in (part.strip() for part in fields.get("connection", "").lower().split(","))
        and fields.get("sec-websocket-version") == "13"
        and KEY.fullmatch(fields.get("sec-websocket-key", "")) is not None
        and valid_host(fields.get("host", ""))
        and not fields.keys() & {"content-length", "transfer-encoding", "expect"}
    )


Shortcut = Callable[[Any, Head], bool]


class FirstBytes(Protocol):
    """Waits for the first bytes, then hands the connection over.

    `shortcut` is called with the transport and the head; it returns False if the
    connection has to go to twisted.web. `make_web` makes the protocol of twisted.web, with the
    seconds that are left until the deadline for the first request, and `counted_as`. `release` is
    called when this protocol has nothing more to do with the connection, and `leave` with
    `counted_as` (see `admission`) when the connection is gone. `monotonic` is the steady clock.
    """

    def __init__(
        self,
        address: IAddress | None,
        reactor: IReactorTime,
        monotonic: Callable[[], float],
        deadlines: Deadlines,
        shortcut: Shortcut,
        make_web: Callable[[IAddress | None, float, str | None], Protocol],
        release: Callable[[FirstBytes], None],
        leave: Callable[[str | None], None],
        counted_as: str | None,
    ):
        self.counted_as = counted_as
        self._gone = leave
        self._address = address
        self._reactor = reactor
        self._monotonic = monotonic
        self._deadlines = deadlines
        self._shortcut = shortcut
        self._make_web = make_web
        self._release = release
        self._closing = False
        self._end: IDelayedCall | None = None
        self._until = deadlines.add(self)

    def dataReceived(self, data: bytes) -> None:
        if self._closing:
            return
        # Negative if the bytes were in time and the reactor was late.
        left = max(self._until - self._monotonic(), MIN_SECONDS)
        self._leave()
        transport: Any = self.transport
        head = read_head(data, transport, self)
        if head is None or not self._shortcut(transport, head):
            web = self._make_web(self._address, left, self.counted_as)
            hand_over(transport, web)
            web.makeConnection(transport)
            web.dataReceived(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._leave()
        self._gone(self.counted_as)

    def end(self) -> None:
        """Close: no request has arrived."""
        self.loseConnection()

    def loseConnection(self) -> None:
        """Close; after as long again abort, as a peer under TLS may not agree to the end."""
        if not self._closing:
            self._closing = True
            self._stop_waiting()
            self._end = self._reactor.callLater(self._deadlines.seconds, self.abort)
            cast(ITCPTransport, self.transport).loseConnection()

    def abort(self) -> None:
        """Drop the connection at once."""
        drop(self.transport)

    def _leave(self) -> None:
        self._stop_waiting()
        self._release(self)

    def _stop_waiting(self) -> None:
        self._deadlines.remove(self)
        if self._end is not None and self._end.active():
            self._end.cancel()


def hand_over(transport: Any, protocol: Protocol) -> None:
    """Let the transport call another protocol from now on."""
    wrapped = isinstance(transport, ProtocolWrapper)
    setattr(transport, "wrappedProtocol" if wrapped else "protocol", protocol)
