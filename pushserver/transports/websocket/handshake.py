"""Checks of WebSocket handshakes (RFC 6455, 4.2.1); Autobahn gets only heads that it accepts."""

from __future__ import annotations

import hashlib
import re
from base64 import b64encode
from functools import lru_cache
from typing import NamedTuple

from autobahn.websocket.compress import PerMessageDeflateOffer
from autobahn.websocket.protocol import WebSocketProtocol
from twisted.web.server import Request

from pushserver.web.first_bytes import KEY
from pushserver.web.resource import Refusal, header
from pushserver.web.visits import TOKEN_SUBPROTOCOL

SUBPROTOCOL = "centrifuge-json"
OWN_SUBPROTOCOL = "pushserver"
_DEFLATE = "permessage-deflate"

_MAGIC = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
"""Proves that the server knows the protocol (RFC 6455, 1.3)."""
_ANSWER = (
    b"HTTP/1.1 101 Switching Protocols\r\nServer: pushserver\r\n"
    b"Upgrade: WebSocket\r\nConnection: Upgrade\r\n"
)

_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_SUBPROTOCOL = re.compile(_TOKEN)
_EXTENSION = re.compile(
    rf'{_TOKEN}(?:[ \t]*;[ \t]*{_TOKEN}(?:[ \t]*=[ \t]*(?:{_TOKEN}|"{_TOKEN}"))?)*'
)


def check_handshake(request: Request) -> None:
    """Raise Refusal for a handshake that is not valid, apart from its offers."""
    if request.method != b"GET":
        raise Refusal(400, f"a WebSocket handshake is a GET, got {request.method!r:.20}")
    if request.clientproto != b"HTTP/1.1":
        raise Refusal(
            400,
            f"a WebSocket handshake is HTTP/1.1, got {request.clientproto.decode('latin-1')!r:.20}"
            " (nginx: proxy_http_version 1.1)",
        )
    encoding = header(request, "transfer-encoding")
    if encoding is not None or (request.content is not None and request.content.read(1)):
        raise Refusal(400, "a WebSocket handshake has no body, got one")
    connection = header(request, "connection") or ""
    if "upgrade" not in (part.strip() for part in connection.lower().split(",")):
        raise Refusal(400, f"Connection: {connection!r:.80}, expected Upgrade")
    version = header(request, "sec-websocket-version")
    if version != "13":
        raise Refusal(
            400,
            f"Sec-WebSocket-Version: {version!r:.80}, expected 13",
            {"sec-websocket-version": "13"},
        )
    key = header(request, "sec-websocket-key")
    if key is None or KEY.fullmatch(key) is None:
        raise Refusal(400, f"Sec-WebSocket-Key: {key!r:.80}, expected 16 bytes in base64")


class Accepted(NamedTuple):
    """The part of a valid handshake that its answer depends on.

    `subprotocol` is the accepted one, and `offers` are those of permessage-deflate; both may be
    empty.
    """

    key: str
    subprotocol: str
    offers: str

    @property
    def fields(self) -> dict[str, str]:
        """The fields of the handshake for Autobahn, without all that it could refuse or misread."""
        fields = {
            "Host": "localhost",
            "Upgrade": "websocket",
            "Connection": "Upgrade",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": self.key,
        }
        if self.subprotocol:
            fields["Sec-WebSocket-Protocol"] = self.subprotocol
        if self.offers:
            fields["Sec-WebSocket-Extensions"] = self.offers
        return fields

    def answer(self, extension: str) -> bytes:
        """The answer that Autobahn writes; `extension`: the accepted one, or ""."""
        digest = hashlib.sha1(self.key.encode() + _MAGIC, usedforsecurity=False).digest()
        return b"%b%b%b\r\n%b\r\n" % (
            _ANSWER,
            b"Sec-WebSocket-Protocol: %b\r\n" % self.subprotocol.encode()
            if self.subprotocol
            else b"",
            b"Sec-WebSocket-Accept: " + b64encode(digest),
            b"Sec-WebSocket-Extensions: %b\r\n" % extension.encode() if extension else b"",
        )


def accepted(request: Request) -> Accepted:
    """The accepted part of a valid handshake; raises Refusal for offers that are not valid."""
    subprotocols = header(request, "sec-websocket-protocol")
    extensions = header(request, "sec-websocket-extensions")
    return Accepted(
        header(request, "sec-websocket-key") or "",
        _subprotocol(subprotocols) if subprotocols else "",
        _deflate_offers(extensions) if extensions else "",
    )


def _subprotocol(text: str) -> str:
    """The offered subprotocol that is accepted; empty if there is none.

    A browser closes the connection if none is. A token comes as one, perhaps with OWN_SUBPROTOCOL
    beside it, which the answer has then.
    """
    names = [name for part in text.split(",") if (name := part.strip(" \t"))]
    if len(set(names)) != len(names) or not all(map(_SUBPROTOCOL.fullmatch, names)):
        raise Refusal(
            400, f"Sec-WebSocket-Protocol: {text!r:.80}, expected names, each of them once"
        )
    for name in (SUBPROTOCOL, OWN_SUBPROTOCOL):
        if name in names:
            return name
    return next((name for name in names if name.startswith(TOKEN_SUBPROTOCOL)), "")


@lru_cache(64)
def _deflate_offers(text: str) -> str:
    """The offers of permessage-deflate; cached, since all browsers send one of a few texts."""
    offers = [offer for part in text.split(",") if (offer := part.strip(" \t"))]
    if not all(map(_EXTENSION.fullmatch, offers)):
        raise Refusal(
            400, f"Sec-WebSocket-Extensions: {text!r:.80}, expected NAME; PARAMETER=VALUE"
        )
    offers = [offer for offer in offers if offer.partition(";")[0].strip(" \t").lower() == _DEFLATE]
    offered = ", ".join(offers)
    try:
        for _, parameters in WebSocketProtocol()._parseExtensionsHeader(offered):
            PerMessageDeflateOffer.parse(parameters)
    except Exception:
        # Autobahn raises Exception itself; its message has the peer's values in it.
        raise Refusal(
            400,
            f"Sec-WebSocket-Extensions: {text!r:.80}, a parameter of {_DEFLATE} is not valid",
        ) from None
    return offered
