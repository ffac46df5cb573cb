"""The heads of relayed requests and answers: their fields, and the facts about the client."""

from __future__ import annotations

import re
from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.web.server import Request

from pushserver.auth.proxy_header import End, make_proxy_header
from pushserver.web.checks import is_forwarding
from pushserver.web.gate import IsOwn
from pushserver.web.proxied import PROXIED

Field = tuple[bytes, bytes]
"""The name and the value of a header field."""

_HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"transfer-encoding",
        b"upgrade",
    }
)
"""Fields of one connection (RFC 9110, 7.6.1)."""

_NEVER_NAMED = frozenset(
    {b"authorization", b"content-length", b"cookie", b"host", b"origin", b"x-api-key"}
)
_STATUS = re.compile(rb"HTTP/1\.[01] ([1-9][0-9]{2})(?: (.*))?")


def read_answer_head(head: bytes) -> tuple[int, bytes, list[Field]]:
    """The status, the reason and the fields of an answer, without the empty line.

    Raises ValueError if it is not valid; its text says what it has.
    """
    first, *lines = head.split(b"\r\n")
    match = _STATUS.fullmatch(first)
    if match is None:
        raise ValueError(f"the first line {first[:80]!r}, expected HTTP/1.1 and a status")
    fields = []
    for line in lines:
        name, colon, value = line.partition(b":")
        if not colon:
            raise ValueError(f"the line {line[:80]!r}, expected a name, a colon and a value")
        fields.append((name, value.strip()))
    lengths = {value for name, value in fields if name.lower() == b"content-length"}
    if len(lengths) > 1 or not all(length.isdigit() for length in lengths):
        raise ValueError(f"the Content-Length {sorted(lengths)}, expected one number")
    return int(match[1]), match[2] or b"", fields


def relayed_head(request: Request, length: int, upgrades: bool, is_own: IsOwn) -> bytes:
    """The header of the PROXY protocol, and the head of the request with a body of this length.

    The other process finds the owner of a client by its address. It takes one without an address,
    on a Unix socket, for a program of the server's user if it is direct. `is_own`: see `gate`.
    """
    transport: Any = request.channel.transport
    client = _end(request.getClientAddress())
    header = make_proxy_header(
        client,
        _end(request.getHost()),
        request.isSecure(),
        direct=not getattr(transport, PROXIED, False)
        and (client is not None or is_own(request) is True),
    )
    fields = [
        (name, value)
        for name, values in request.requestHeaders.getAllRawHeaders()
        for value in values
    ]
    has_length = length or any(
        name.lower() in (b"content-length", b"transfer-encoding") for name, _ in fields
    )
    lines = [b"%b %b %b" % (request.method, request.uri, request.clientproto)]
    lines += [
        b"%b: %b" % field for field in passed_on(fields) if field[0].lower() != b"content-length"
    ]
    if has_length:
        lines.append(b"Content-Length: %d" % length)
    if upgrades:
        lines += [b"Connection: Upgrade"]
        lines += [b"Upgrade: %b" % value for name, value in fields if name.lower() == b"upgrade"]
    else:
        lines.append(b"Connection: close")
    return header + b"\r\n".join([*lines, b"", b""])


def passed_on(fields: list[Field]) -> list[Field]:
    """The fields that are not of one connection only.

    A client cannot have a field removed that a check reads: the other process would take the
    request of a proxy for one of this machine, for example.
    """
    named = {
        option.strip().lower()
        for name, value in fields
        if name.lower() == b"connection"
        for option in value.split(b",")
    }
    named = {
        name
        for name in named - _NEVER_NAMED
        if not is_forwarding(name) and not name.startswith(b"sec-")
    }
    return [field for field in fields if field[0].lower() not in _HOP_BY_HOP | named]


def _end(address: Any) -> End | None:
    return (address.host, address.port) if isinstance(address, IPv4Address | IPv6Address) else None
