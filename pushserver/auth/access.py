"""The rules of access: publishing over HTTP, the server API, and guarded channels."""

from __future__ import annotations

import hmac
from collections.abc import Callable, Collection, Container
from dataclasses import dataclass

from pushserver.auth.origin import allowed_origin, loopback_address, loopback_host
from pushserver.errors import Denied, WrongKey


@dataclass(frozen=True, slots=True)
class Caller:
    """The facts of a request that decide on its access.

    `address`: the peer's IP address, None on a Unix socket. `site`: the value of Sec-Fetch-Site.
    `forwarded`: the sign of a proxy, such as the name of a header; empty if there is none. `key`:
    the API key of the request. `is_own`: whether the program at the other end belongs to the
    server's own user or to root; None if the system does not tell.
    """

    address: str | None
    host: str
    origin: str | None
    site: str | None
    secure: bool
    forwarded: str
    key: str | None
    is_own: Callable[[], bool | None]


@dataclass(frozen=True, slots=True)
class Rules:
    """The configured API keys and origins.

    `local_without_key`: whether programs on this machine need no key although keys are configured.
    """

    keys: frozenset[str]
    origins: Container[str]
    local_without_key: bool = False


def check_publisher(caller: Caller, rules: Rules, proven: bool = False) -> None:
    """Return if the caller may publish; raise Denied with the reason and the setting.

    A valid key is always enough. Without one, and only if no keys are configured (or
    `local_without_key` is set), a program on this machine may publish. Then the request must have
    come over loopback or a Unix socket, no proxy may have forwarded it, no page of another origin
    may have caused it (by Origin, Sec-Fetch-Site, or a Host that was pointed here), and the program
    must belong to the server's own user or root, which excludes most proxies. `proven`: a program
    with an unknown owner is refused too.
    """
    if has_key(caller, rules.keys):
        return
    if rules.keys and not rules.local_without_key:
        raise Denied(401, "an API key is needed (auth.api_keys): send X-API-Key")
    if caller.address is not None and not loopback_address(caller.address):
        raise Denied(401, "a request from another machine needs an X-API-Key (auth.api_keys)")
    if caller.forwarded:
        raise Denied(
            401,
            f"a request through a proxy ({caller.forwarded}) needs an X-API-Key (auth.api_keys)",
        )
    if not loopback_host(caller.host):
        raise Denied(
            403, f"without an API key, expected localhost as the Host, got {caller.host!r:.80}"
        )
    if not allowed_origin(caller.origin, caller.host, caller.secure, caller.site, rules.origins):
        elsewhere = caller.origin is None
        page = f"elsewhere ({caller.site!r:.40})" if elsewhere else f"of {caller.origin!r:.80}"
        raise Denied(403, f"a page {page} may not publish (allowed_origins)")
    own = caller.is_own()
    if own is False or (own is None and proven):
        raise Denied(
            401,
            "without an API key only programs of the server's own user or of root may publish, and"
            " this is not known to be one: set auth.api_keys and send X-API-Key",
        )


def has_key(caller: Caller, keys: Collection[str]) -> bool:
    """Whether the caller gave a valid API key; raises WrongKey for an invalid one."""
    if caller.key is not None and not _is_one_of(caller.key, keys):
        none = "this server has no API keys (auth.api_keys), and a key was sent"
        raise WrongKey("the API key is not one of auth.api_keys" if keys else none)
    return caller.key is not None


def _is_one_of(key: str, keys: Collection[str]) -> bool:
    # All keys are compared, each in constant time, so that the time tells nothing about them.
    given = key.encode("utf-8", "surrogateescape")
    valid = [key.encode("utf-8", "surrogateescape") for key in keys]
    matches = [hmac.compare_digest(given, key) for key in valid]
    return any(matches)
