"""Checks of the sender of a request by its headers: pages, navigations, proxies."""

from __future__ import annotations

from functools import partial

from twisted.web.server import Request

from pushserver.auth.origin import allowed_origin, valid_host
from pushserver.auth.proxies import EVERYONE, NOTHING, Forwarded, Proxies, Trust, forwarded
from pushserver.web.peer import host, host_and_port
from pushserver.web.resource import Refusal, header


def check_origin(request: Request, trust: Trust) -> None:
    """Raise Refusal for a request of a page of another origin.

    The browser sends the page's origin in Origin or, without it (pictures, links, no-cors
    fetches), the relation of the origins in Sec-Fetch-Site. A request with neither header
    passes: it does not come from a page, or its browser sends neither. So the effect of a GET must
    not depend on this check alone.
    """
    origin, site = header(request, "origin"), header(request, "sec-fetch-site")
    scheme, host = "", header(request, "host") or ""
    if origin is not None:
        scheme, host = own_origin(request, trust.near)
    if allowed_origin(origin, host, scheme == "https", site, trust.origins):
        return
    if origin is not None:
        raise Refusal(
            403,
            f"a page of {origin!r:.200} may not use '{scheme}://{host}': expected a page of the"
            f" same origin, or of allowed_origins{_missing(request, trust, origin, scheme, host)}",
        )
    raise Refusal(
        403,
        f"a page of another origin (Sec-Fetch-Site: {site:.40}) may not use {host!r} in this"
        " way: expected an Origin header with one of allowed_origins",
    )


def own_origin(request: Request, proxies: Proxies) -> tuple[str, str]:
    """The scheme and the host of the server's URL, as the client of a trusted proxy knows it."""
    facts = _forwarded(request)
    scheme, host = ("", "") if facts is NOTHING else facts.origin(_peer(request), proxies)
    if not scheme:
        scheme = "https" if request.isSecure() else "http"
    return scheme, host or header(request, "host") or ""


def client_address(request: Request, proxies: Proxies) -> str | None:
    """The IP address of the client, behind trusted proxies; None on a Unix socket.

    For logs, and for limits of each client.
    """
    peer = _peer(request)
    return _forwarded(request).client(peer, proxies) if proxies else peer


def client_name(request: Request, proxies: Proxies) -> str:
    """The address of the client for the log, with the port if there is no trusted proxy."""
    peer, address = request.getClientAddress(), client_address(request, proxies)
    return host_and_port(peer) if address == host(peer) else str(address)


def _missing(request: Request, trust: Trust, origin: str, scheme: str, host: str) -> str:
    """The headers that a proxy in front has to send if the page is the server's own."""
    their_scheme, _, their_host = origin.partition("://")
    if their_scheme not in ("http", "https") or not valid_host(their_host):
        return ""
    peer, claimed = _peer(request), own_origin(request, EVERYONE)
    if peer not in trust.near and claimed == (their_scheme, their_host):
        return f"; if {peer} is the server's proxy, list it in server.trusted_proxies"
    headers = []
    if their_host != host.lower():
        headers.append(f"Host: {their_host}")
    if their_scheme != scheme:
        headers.append(f"X-Forwarded-Proto: {their_scheme}")
    return f"; a proxy that serves this page has to send {' and '.join(headers)}"


def _forwarded(request: Request) -> Forwarded:
    return forwarded(partial(header, request))


def _peer(request: Request) -> str | None:
    return host(request.getClientAddress())


def check_no_navigation(request: Request) -> None:
    """Raise Refusal for a browser that opens a URL as a document, or prefetches it as one.

    For URLs that start a stream or a session. A page elsewhere can cause both without an Origin
    and with `Sec-Fetch-Site: none`: by speculation rules, or by a redirect from a typed URL.
    EventSource, fetch and WebSockets do not navigate.
    """
    opened = header(request, "sec-fetch-mode") == "navigate"
    if opened or header(request, "sec-purpose") is not None:
        raise Refusal(
            403,
            "a browser cannot open this URL as a page: use EventSource, fetch or a client, or"
            " open the channel's page",
        )


_FORWARDING = frozenset(
    {
        b"forwarded",
        b"via",
        b"x-original-forwarded-for",
        b"x-original-host",
        b"x-real-ip",
        b"x-client-ip",
        b"x-cluster-client-ip",
        b"x-envoy-external-address",
        b"cdn-loop",
        b"cf-connecting-ip",
        b"fastly-client-ip",
        b"fly-client-ip",
        b"proxy-client-ip",
        b"true-client-ip",
    }
)


def forwarded_by(request: Request) -> str:
    """The sign that a proxy forwarded the request: a header's name or `HTTP/1.0`; empty without.

    nginx before 1.29.7 uses HTTP/1.0 and none of these headers with a bare `proxy_pass`; no
    browser uses HTTP/1.0.
    """
    if getattr(request, "clientproto", b"HTTP/1.1") != b"HTTP/1.1":
        return "HTTP/1.0"
    for name, _ in request.requestHeaders.getAllRawHeaders():
        if is_forwarding(name.lower()):
            return name.lower().decode("latin-1")
    return ""


def is_forwarding(name: bytes) -> bool:
    """Whether proxies send a header of this lower-case name."""
    return name in _FORWARDING or name.startswith(b"x-forwarded")
