"""Who may publish over HTTP, use the server API, and read what is not for everybody."""

from __future__ import annotations

import hmac
from collections.abc import Collection
from dataclasses import dataclass

from pushserver.origin import allowed_origin, loopback_address, loopback_host


class Denied(Exception):
    """The caller may not; `status` is 401 when a key is wrong or missing, else 403."""

    def __init__(self, status: int, message: str):
        super().__init__(message)
        self.status = status
        self.message = message


@dataclass(frozen=True, slots=True)
class Caller:
    """What a request says of who makes it.

    `address` is the peer's IP address, None on a Unix socket; `key` what it gave as its
    API key; `forwarded`: whether a proxy says that it passed the request on.
    """

    address: str | None
    host: str
    origin: str | None
    secure: bool
    forwarded: bool
    key: str | None


def check_publisher(caller: Caller, keys: Collection[str], origins: Collection[str]) -> None:
    """Return if the caller may publish; raise Denied with the reason and the setting.

    That is whoever has a key; and without one whoever is on this machine, unless a proxy
    passed the request on (then the peer is the proxy), or a browser made it for a page of
    somebody else's (which its Origin tells, or its Host when a name was pointed here).
    """
    if has_key(caller, keys):
        return
    if caller.address is not None and not loopback_address(caller.address):
        raise Denied(401, "publishing from another machine needs an X-API-Key (auth.api_keys)")
    if caller.forwarded:
        raise Denied(401, "publishing through a proxy needs an X-API-Key (auth.api_keys)")
    if not loopback_host(caller.host):
        raise Denied(403, f"publishing without a key goes to localhost, not to {caller.host!r:.80}")
    if not allowed_origin(caller.origin, caller.host, caller.secure, origins):
        raise Denied(403, f"a page of {caller.origin!r:.80} may not publish (allowed_origins)")


def has_key(caller: Caller, keys: Collection[str]) -> bool:
    """Whether the caller gave a key; raises Denied for one that is none."""
    if caller.key is not None and not _known(caller.key, keys):
        raise Denied(401, "the API key is not one of auth.api_keys")
    return caller.key is not None


def _known(key: str, keys: Collection[str]) -> bool:
    # All of them, each in constant time: how long it takes says nothing of how much was right.
    given = key.encode("utf-8", "surrogateescape")
    matches = [hmac.compare_digest(given, known.encode()) for known in keys]
    return any(matches)
