"""Which pages may connect: the Origin that a browser names against the Host that it asked."""

from __future__ import annotations

import re
from collections.abc import Collection
from functools import lru_cache
from ipaddress import ip_address

_HOST = re.compile(
    r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_.])?)(?::([0-9]{1,5}))?"
)


@lru_cache(256)
def valid_host(host: str) -> bool:
    """Whether this is a name or an address, with or without a port (RFC 9110, 7.2)."""
    match = _HOST.fullmatch(host)
    return match is not None and len(host) <= 255 and int(match[2] or 0) < 65536


def allowed_origin(origin: str | None, host: str, secure: bool, allowed: Collection[str]) -> bool:
    """Whether a request with this Origin may read and speak.

    Without the header it does not come from a page of somebody else's in a browser. Else
    it must be the very scheme, host and port that was asked, or one of `allowed`
    (`https://app.example`). `null` (a sandboxed frame, a local file) is nobody.
    """
    if origin is None:
        return True
    origin = origin.lower()
    if origin in allowed:
        return True
    scheme = "https" if secure else "http"
    default = ":443" if secure else ":80"
    return origin.removesuffix(default) == f"{scheme}://{host.lower()}".removesuffix(default)


def loopback_host(host: str) -> bool:
    """Whether this Host names the machine itself.

    A page of somebody else's whose name was pointed at 127.0.0.1 (DNS rebinding) is of the
    same origin as we are; its Host gives it away.
    """
    match = _HOST.fullmatch(host)
    if match is None:
        return False
    name = match[1].strip("[]").lower().removesuffix(".")
    return name == "localhost" or name.endswith(".localhost") or loopback_address(name)


@lru_cache(256)
def loopback_address(address: str) -> bool:
    """Whether this is an IP address of the machine itself."""
    try:
        ip = ip_address(address)
    except ValueError:
        return False
    mapped = getattr(ip, "ipv4_mapped", None)
    return (mapped or ip).is_loopback
