"""Checks of the sender of a request by its headers: pages, navigations, proxies."""

from __future__ import annotations

from collections.abc import Container

from twisted.web.server import Request

from pushserver.auth.origin import allowed_origin
from pushserver.web.resource import Refusal, header


def check_origin(request: Request, allowed: Container[str]) -> None:
    """Raise Refusal for a request of a page of another origin.

    The browser sends the page's origin in Origin or, without it (pictures, links, no-cors
    fetches), the relation of the origins in Sec-Fetch-Site. A request with neither header
    passes: it does not come from a page, or its browser sends neither. So the effect of a GET must
    not depend on this check alone.
    """
    origin, host = header(request, "origin"), header(request, "host") or ""
    site = header(request, "sec-fetch-site")
    if allowed_origin(origin, host, request.isSecure(), site, allowed):
        return
    if origin is not None:
        raise Refusal(
            403,
            f"a page of {origin!r} may not use {host!r}: expected a page of the"
            " same origin, or of allowed_origins",
        )
    raise Refusal(
        403,
        f"a page of another origin (Sec-Fetch-Site: {site:.40}) may not use {host!r} in this"
        " way: expected an Origin header with one of allowed_origins",
    )


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
        b"cf-connecting-ip",
        b"fastly-client-ip",
        b"fly-client-ip",
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
        name = name.lower()
        if name in _FORWARDING or name.startswith(b"x-forwarded"):
            return name.decode("latin-1")
    return ""
