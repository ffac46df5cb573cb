"""Slows the wrong API keys and tokens of one address; right ones are never slowed."""

from __future__ import annotations

from functools import lru_cache
from ipaddress import IPv6Address, ip_address, ip_network

from pushserver.auth.rates import Rates

SLOW_SECONDS = 1.0
"""The time until the answer to a wrong key over the rate."""


class WrongKeys:
    """The rates of wrong keys and tokens by address: `per_minute` at once, and in each minute.

    Many users may share an address (NAT, a proxy), so nothing but wrong ones is slowed.
    """

    def __init__(self, per_minute: int):
        self.rates = Rates(per_minute / 60, per_minute)

    def reconfigure(self, per_minute: int) -> None:
        """Change the rate."""
        self.rates.reconfigure(per_minute / 60, per_minute)

    def is_too_many(self, address: str | None, now: float) -> bool:
        """Count a wrong key from this address; return whether it is one too many.

        The address None is a Unix socket. `now` is in seconds of the steady clock.
        """
        return self.rates.delay(group(address), now) > 0


@lru_cache(1_024)
def group(address: str | None) -> str:
    """The address; for IPv6 its network of 64 bits, since one host may have all addresses in it."""
    try:
        ip = ip_address((address or "").partition("%")[0])
    except ValueError:
        return address or ""
    if not isinstance(ip, IPv6Address):
        return str(ip)
    return str(ip.ipv4_mapped or ip_network((ip, 64), strict=False))
