"""Collects the facts about a request: for the application, and those that prove an identity."""

from __future__ import annotations

from functools import partial

from twisted.web.server import Request

from pushserver.auth.credentials import Credentials
from pushserver.auth.proxies import Proxies
from pushserver.sessions.visit import Visit
from pushserver.web.checks import client_address, is_forwarding, own_origin
from pushserver.web.first_bytes import once
from pushserver.web.resource import header

TOKEN_SUBPROTOCOL = "pushserver.token."
"""The beginning of the subprotocol by which a page sends a token over a WebSocket."""

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
    scheme, host = own_origin(request, proxies)
    url = f"{scheme}://{host}{request.uri.decode('latin-1')}"
    return Visit(client_address(request, proxies) or "", protocol, headers, url)


def credentials(request: Request, cookie: str, proxies: Proxies) -> Credentials:
    """The credentials of a request; `cookie` is the name of the cookie with the token.

    The token comes in Authorization, or else in the query (`token`), in a subprotocol (raw
    WebSocket), or in the cookie: in this order, as a page cannot choose its cookies.
    """
    given = once(request, ("credentials", cookie), partial(_proofs, request, cookie))
    return Credentials(client_address(request, proxies), *given)


def are_given(request: Request, cookie: str) -> bool:
    """Whether the request has credentials; `cookie` as for `credentials`."""
    given = once(request, ("credentials", cookie), partial(_proofs, request, cookie))
    return given != _NONE


_Proofs = tuple[str, str | None, str | None, str | None]
_NONE: _Proofs = ("", None, None, None)


def _proofs(request: Request, cookie: str) -> _Proofs:
    """The fields of `Credentials` without the address, which the head alone has."""
    bearer = None
    key = header(request, "x-api-key")
    scheme, _, value = (header(request, "authorization") or "").partition(" ")
    if scheme.lower() == "bearer":
        bearer = value.strip()
    elif scheme.lower() == "apikey" and key is None:
        key = value.strip()
    given = key is not None or bearer is not None
    token, problem = None if given else _of_query(request) or _of_subprotocol(request), ""
    if not given and token is None and cookie:
        tokens = _of_cookie(request, cookie)
        token = next(iter(tokens), None)
        if len(tokens) > 1:
            problem = f"the cookie {cookie} is set {len(tokens)} times, with different values"
    return problem, key, token, bearer


def _of_query(request: Request) -> str | None:
    given = request.args.get(b"token")
    return given[-1].decode("utf-8", "replace") if given else None


def _of_subprotocol(request: Request) -> str | None:
    for name in (header(request, "sec-websocket-protocol") or "").split(","):
        if name.strip().startswith(TOKEN_SUBPROTOCOL):
            return name.strip().removeprefix(TOKEN_SUBPROTOCOL)
    return None


def _of_cookie(request: Request, cookie: str) -> set[str]:
    """The different tokens in cookies of this name: a page of a subdomain may have set another."""
    pairs = (header(request, "cookie") or "").replace(", ", "; ").split(";")
    cookies = (pair.strip().partition("=") for pair in pairs)
    return {value.strip('"') for name, _, value in cookies if name == cookie and value}
