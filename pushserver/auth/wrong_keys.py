"""Slows the wrong API keys of one address; a right key is never slowed."""

from __future__ import annotations

from ipaddress import IPv6Address, ip_address, ip_network

from pushserver.usercode.rate import Rate

MAX_ADDRESSES = 1_000
"""Addresses that are counted separately; the one that was seen least recently is forgotten."""

SLOW_SECONDS = 1.0
"""The time until the answer to a wrong key over the rate."""


class WrongKeys:
    """The rates of wrong keys by address: `per_minute` of them at once, and in each minute.

    Many users may share an address (NAT, a proxy), so nothing but wrong keys is slowed.
    """

    def __init__(self, per_minute: int):
        self._per_minute = per_minute
        self._rates: dict[str, Rate] = {}

    def is_too_many(self, address: str | None, now: float) -> bool:
        """Count a wrong key from this address; return whether it is one too many.

        The address None is a Unix socket. `now` is in seconds of the steady clock.
        """
        name = group(address)
        rate = self._rates.pop(name, None) or Rate(self._per_minute / 60, self._per_minute)
        self._rates[name] = rate
        if len(self._rates) > MAX_ADDRESSES:
            del self._rates[next(iter(self._rates))]
        return not rate.allows(now)


def group(address: str | None) -> str:
    """The address; for IPv6 its network of 64 bits, since one host may have all addresses in it."""
    try:
        ip = ip_address((address or "").partition("%")[0])
    except ValueError:
        return address or ""
    if isinstance(ip, IPv6Address) and ip.ipv4_mapped is None:
        return str(ip_network((ip, 64), strict=False))
    return str(ip)
