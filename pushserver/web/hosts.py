"""The hosts that a request may name: a defence against DNS rebinding (RFC 9110, 7.2 and 17.1).

The owner of `evil.example` can change its address to 127.0.0.1 while a page of it is open. The page
then reaches this server with `Host: evil.example:8080`, as its own origin. Its Host tells.
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
from pushserver.web.checks import forwarded_by
from pushserver.web.resource import Refusal, header

MAX_CACHED = 256
"""Size of the cache of checked hosts; to check one takes a few microseconds."""


class Hosts:
    """Checks the Host of requests over loopback.

    Allowed are the machine itself, IP addresses, `names`, and every host if a proxy forwarded the
    request. A page can send the headers of a proxy too, but it cannot choose the port in its Host:
    a request that names our own port was not forwarded.
    """

    def __init__(self, names: Collection[str]):
        """`names`: in lower case, without ports."""
        self._names = frozenset(names)
        self._cache: dict[str, bool] = {}

    def refusal(self, request: Request) -> Refusal | None:
        """The refusal of this request; None if it may be served."""
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
        allowed = self._cache.get(host)
        if allowed is None:
            allowed = (
                not host
                or loopback_host(host)
                or numeric_host(host)
                or host_name(host) in self._names
            )
            if len(self._cache) >= MAX_CACHED:
                self._cache.clear()
            self._cache[host] = allowed
        return allowed


def _rebound(request: Request, host: str) -> bool:
    """Whether a browser may have sent the request after DNS rebinding."""
    address = request.getHost()
    if not loopback_address(getattr(address, "host", "")):
        return False
    by = forwarded_by(request)
    # A page can neither send Via (a forbidden header of the Fetch standard) nor speak HTTP/1.0.
    if by == "HTTP/1.0" or header(request, "via") is not None:
        return False
    return not by or host_port(host, request.isSecure()) == _port(address)


def _port(address: IAddress) -> int:
    return int(getattr(address, "port", 0))
