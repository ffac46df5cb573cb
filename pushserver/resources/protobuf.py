"""Refuses the Protobuf form of the Centrifuge protocol, on each of its transports."""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn

from twisted.logger import Logger
from twisted.web.server import Request

from pushserver.usercode.rate import LogLimiter
from pushserver.web.checks import client_address
from pushserver.web.mount import surroundings
from pushserver.web.resource import Refusal, header

SUBPROTOCOL = "centrifuge-protobuf"
JSON_SUBPROTOCOL = "centrifuge-json"

# centrifuge-js sends the first with its Protobuf form (5.8.0), the others are of other libraries.
_MEDIA = frozenset({"application/octet-stream", "application/protobuf", "application/x-protobuf"})

# Parameters of the query by which clients of all transports ask for Protobuf.
_PARAMETERS = (b"format", b"cf_protocol")

REMEDY = (
    "the Protobuf form of the Centrifuge protocol is not spoken here, expected JSON: the official"
    " clients for JavaScript, Python and Go have a JSON form"
)


def protobuf_sign(request: Request) -> str:
    """How the request asks for the Protobuf form; empty if it does not.

    A client that offers the JSON subprotocol as well gets JSON.
    """
    for name in _PARAMETERS:
        if b"protobuf" in request.args.get(name, ()):
            return f"{name.decode()}=protobuf"
    offered = {
        name.strip() for name in (header(request, "sec-websocket-protocol") or "").split(",")
    }
    if SUBPROTOCOL in offered and JSON_SUBPROTOCOL not in offered:
        return f"Sec-WebSocket-Protocol: {SUBPROTOCOL}"
    media = (header(request, "content-type") or "").partition(";")[0].strip().lower()
    return f"Content-Type: {media}" if media in _MEDIA else ""


class JsonOnly:
    """Refuses requests that ask for the Protobuf form, with a line a minute in the log.

    Such a client reconnects for ever, and does not show the reason of a refused handshake.
    """

    _log = Logger()

    def __init__(self, monotonic: Callable[[], float]):
        self._monotonic = monotonic
        self._limiter = LogLimiter()

    def check(self, request: Request) -> None:
        """Raise a logged Refusal for a request that asks for the Protobuf form."""
        sign = protobuf_sign(request)
        if sign:
            self._refuse(request, sign)

    def _refuse(self, request: Request, sign: str) -> NoReturn:
        suffix = self._limiter.suffix(self._monotonic())
        if suffix is not None:
            proxies = surroundings(request).trust.proxies
            self._log.info(
                "refused a client at {address} ({sign}): {remedy}{suffix}",
                address=client_address(request, proxies) or "a Unix socket",
                sign=sign,
                remedy=REMEDY,
                suffix=suffix,
                event_name="protobuf_refused",
            )
        raise Refusal(400, f"{sign}: {REMEDY}")
