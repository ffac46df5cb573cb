"""The rules for programs on this machine, which may publish while no API keys are configured."""

from __future__ import annotations

from collections.abc import Callable, Container
from dataclasses import dataclass

from pushserver.auth.origin import allowed_origin, loopback_address, loopback_host
from pushserver.errors import Denied, NeedsKey


@dataclass(frozen=True, slots=True)
class Caller:
    """The facts of a request that tell whether it comes from a program on this machine.

    `address`: the peer's IP address, None on a Unix socket. `site`: the value of Sec-Fetch-Site.
    `forwarded`: the sign of a proxy, such as the name of a header; empty if there is none.
    `is_own`: whether the program at the other end belongs to the server's own user or to root;
    None if the system does not tell.
    """

    address: str | None
    host: str
    origin: str | None
    site: str | None
    secure: bool
    forwarded: str
    is_own: Callable[[], bool | None]


@dataclass(frozen=True, slots=True)
class LocalRules:
    """Whether API keys are configured, and the allowed origins.

    `local_without_key`: whether programs on this machine need no key although there are some.
    """

    has_keys: bool
    origins: Container[str]
    local_without_key: bool = False


def check_local(caller: Caller, rules: LocalRules, proven: bool = False) -> None:
    """Return if the caller needs no key; raise Denied with the reason and the setting.

    The request must have come over loopback or a Unix socket, no proxy may have forwarded it, no
    page of another origin may have caused it (by Origin, Sec-Fetch-Site, or a Host that was
    pointed here), and the program must belong to the server's own user or root, which excludes
    most proxies. `proven`: a program with an unknown owner is refused too.
    """
    if rules.has_keys and not rules.local_without_key:
        raise NeedsKey(401, "an API key is needed (auth.api_keys or auth.keys): send X-API-Key")
    if caller.address is not None and not loopback_address(caller.address):
        raise NeedsKey(
            401, "a request from another machine needs an X-API-Key (auth.api_keys or auth.keys)"
        )
    if caller.forwarded:
        raise NeedsKey(
            401,
            f"a request through a proxy ({caller.forwarded}) needs an X-API-Key"
            " (auth.api_keys or auth.keys)",
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
        raise NeedsKey(
            401,
            "without an API key only programs of the server's own user or of root may publish, and"
            " this is not known to be one: set auth.api_keys or auth.keys and send X-API-Key",
        )
