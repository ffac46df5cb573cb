"""Checks of WebSocket handshakes (RFC 6455, 4.2.1); Autobahn gets only heads that it accepts."""

from __future__ import annotations

import re
from functools import lru_cache

from autobahn.websocket.compress import PerMessageDeflateOffer
from autobahn.websocket.protocol import WebSocketProtocol
from twisted.web.server import Request

from pushserver.web.first_bytes import KEY
from pushserver.web.resource import Refusal, header
from pushserver.web.visits import TOKEN_SUBPROTOCOL

SUBPROTOCOL = "centrifuge-json"
OWN_SUBPROTOCOL = "pushserver"
_DEFLATE = "permessage-deflate"

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


def accepted_fields(request: Request) -> dict[str, str]:
    """The fields of the handshake for Autobahn, without all that it could refuse or misread.

    Raises Refusal for offers that are not valid.
    """
    fields = {
        "Host": "localhost",
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": header(request, "sec-websocket-key") or "",
    }
    subprotocols = header(request, "sec-websocket-protocol")
    if subprotocols and (accepted := _subprotocol(subprotocols)):
        fields["Sec-WebSocket-Protocol"] = accepted
    extensions = header(request, "sec-websocket-extensions")
    if extensions and (offers := _deflate_offers(extensions)):
        fields["Sec-WebSocket-Extensions"] = offers
    return fields


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
