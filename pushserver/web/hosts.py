"""Which hosts a request may name: a defence against DNS rebinding (RFC 9110, 7.2 and 17.1).

A page of `evil.example` whose name is changed to 127.0.0.1 while it is open asks this server with
`Host: evil.example:8080`, and to its browser that is the page's own origin. Its Host gives it away.
"""

from __future__ import annotations

from collections.abc import Collection

from twisted.internet.interfaces import IAddress
from twisted.web.server import Request

from pushserver.auth.origin import (
    MAX_HOST,
    host_name,
    host_port,
    loopback_address,
    loopback_host,
    numeric_host,
)
from pushserver.web.resource import Refusal, forwarded_by, header

MOST_KNOWN = 256
"""How many hosts are remembered with the answer, as reading one takes a few microseconds."""


class Hosts:
    """The hosts that a request may name.

    Where a connection comes over loopback, those are the machine itself, IP addresses, `names`, and
    whatever a proxy says that it was asked for. A page can send a proxy's headers too, but not
    choose the port in its Host: a request that names our own port did not go through a proxy.
    """

    def __init__(self, names: Collection[str]):
        """`names`: in lower case, without ports."""
        self._names = frozenset(names)
        self._known: dict[str, bool] = {}

    def refusal(self, request: Request) -> Refusal | None:
        """Why this request is not served; None if it is."""
        host = header(request, "host") or ""
        if self._is_ours(host) or not _rebound(request, host):
            return None
        hint = "list it in server.names, or let the proxy send X-Forwarded-For"
        if by := forwarded_by(request):
            hint = f"list it in server.names ({by} does not count with this server's own port)"
        return Refusal(
            403,
            f"{host[:80]!r} is not a name of this server, which was reached over loopback: {hint}",
        )

    def _is_ours(self, host: str) -> bool:
        if len(host) > MAX_HOST:
            return False
        known = self._known.get(host)
        if known is None:
            known = (
                not host
                or loopback_host(host)
                or numeric_host(host)
                or host_name(host) in self._names
            )
            if len(self._known) >= MOST_KNOWN:
                self._known.clear()
            self._known[host] = known
        return known


def _rebound(request: Request, host: str) -> bool:
    """Whether the request may come straight from a browser that was led here."""
    address = request.getHost()
    if not loopback_address(getattr(address, "host", "")):
        return False
    by = forwarded_by(request)
    # No page can send Via (a forbidden header of the Fetch standard) or speak HTTP/1.0.
    if by == "HTTP/1.0" or header(request, "via") is not None:
        return False
    return not by or host_port(host, request.isSecure()) == _port(address)


def _port(address: IAddress) -> int:
    return int(getattr(address, "port", 0))
