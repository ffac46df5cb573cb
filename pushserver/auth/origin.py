"""The rules of origins and hosts: which pages may connect."""

from __future__ import annotations

import re
from collections.abc import Container
from functools import lru_cache
from ipaddress import ip_address

_HOST = re.compile(
    r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_.])?)(?::([0-9]{1,5}))?"
)
MAX_HOST = 255
"""The longest valid Host, in characters; a DNS name has at most 253."""


def valid_host(host: str) -> bool:
    """Whether this is a name or an address, with or without a port (RFC 9110, 7.2)."""
    return len(host) <= MAX_HOST and _valid_host(host)


@lru_cache(256)
def _valid_host(host: str) -> bool:
    match = _HOST.fullmatch(host)
    return match is not None and int(match[2] or 0) < 65536


def host_name(host: str) -> str:
    """The name or address in a Host, normalized for comparison; empty if invalid."""
    match = _HOST.fullmatch(host) if len(host) <= MAX_HOST else None
    return "" if match is None else match[1].strip("[]").lower().removesuffix(".")


def host_port(host: str, secure: bool) -> int:
    """The port in a valid Host, or the default one of http or https."""
    match = _HOST.fullmatch(host) if len(host) <= MAX_HOST else None
    port = None if match is None else match[2]
    return (443 if secure else 80) if port is None else int(port)


def same_origin(site: str | None) -> bool:
    """Whether a browser says that a page of the same origin made the request.

    `site` is the value of Sec-Fetch-Site (Fetch Metadata, 2.3), which no page can set.
    """
    return site == "same-origin"


def foreign_site(site: str | None) -> bool:
    """Whether a browser says that a page of another origin caused the request.

    A request for a picture and a no-cors fetch have Sec-Fetch-Site, but no Origin. `none`: a person
    typed the URL. Without the header the client is no browser or an old one, or the request went
    by plain http to another machine.
    """
    return site not in (None, "same-origin", "none")


def allowed_origin(
    origin: str | None, host: str, secure: bool, site: str | None, allowed: Container[str]
) -> bool:
    """Whether a request with these Origin, Host and Sec-Fetch-Site is allowed.

    The origin must be that of the request's URL, or one of `allowed` (`https://app.example`), or
    Sec-Fetch-Site must be `same-origin`. The origin `null` is that of a sandboxed frame, of a local
    file, or of a form on a page without referrers; only Sec-Fetch-Site distinguishes the last.
    A request without Origin is allowed unless Sec-Fetch-Site names another site.
    """
    if origin is None:
        return not foreign_site(site)
    origin = origin.lower()
    if origin in allowed or same_origin(site):
        return True
    scheme = "https" if secure else "http"
    default = ":443" if secure else ":80"
    return origin.removesuffix(default) == f"{scheme}://{host.lower()}".removesuffix(default)


_LOOPBACK_NAMES = frozenset(
    {"localhost", "localhost.localdomain", "ip6-localhost", "ip6-loopback", "localhost6"}
)
"""Names in the usual /etc/hosts, which cannot be registered in DNS."""


def loopback_host(host: str) -> bool:
    """Whether this Host names the machine itself.

    A foreign page whose name was pointed at 127.0.0.1 (DNS rebinding) has the same origin as the
    server, but is recognized by its Host.
    """
    name = host_name(host)
    return name in _LOOPBACK_NAMES or name.endswith(".localhost") or loopback_address(name)


def numeric_host(host: str) -> bool:
    """Whether this Host is an IP address, which cannot be pointed at another machine."""
    try:
        ip_address(host_name(host))
    except ValueError:
        return False
    return True


@lru_cache(256)
def loopback_address(address: str) -> bool:
    """Whether this is an IP address of the machine itself."""
    try:
        ip = ip_address(address)
    except ValueError:
        return False
    mapped = getattr(ip, "ipv4_mapped", None)
    return (mapped or ip).is_loopback
