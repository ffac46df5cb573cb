"""Collects the facts about a request for the application's `connect` handler."""

from __future__ import annotations

from twisted.web.server import Request

from pushserver.auth.proxies import Proxies
from pushserver.sessions.visit import Visit
from pushserver.web.checks import client_address, is_forwarding

_LEFT_OUT = frozenset(
    {
        *("connection", "upgrade", "keep-alive", "te", "trailer", "transfer-encoding"),
        *("proxy-connection", "proxy-authorization", "content-length", "expect"),
        "x-api-key",
    }
)
"""Headers of one connection, and the key of the server API."""


def visit(request: Request, protocol: str, proxies: Proxies) -> Visit:
    """The facts about a request.

    Headers of proxies are left out, since anyone can send them: `address` takes account of those
    of trusted ones. So are the fields of the WebSocket handshake.
    """
    headers = {}
    for raw, values in request.requestHeaders.getAllRawHeaders():
        name = raw.decode("latin-1").lower()
        if name in _LEFT_OUT or name.startswith("sec-websocket-") or is_forwarding(raw.lower()):
            continue
        separator = b"; " if name == "cookie" else b", "
        headers[name] = separator.join(values).decode("utf-8", "replace")
    return Visit(client_address(request, proxies) or "", protocol, headers)
