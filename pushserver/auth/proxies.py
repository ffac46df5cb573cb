"""The rules of trust in proxies, and in the client, scheme and host that they forward.

A proxy forwards these facts in X-Forwarded-For, -Proto and -Host, or in Forwarded (RFC 7239). The
value at the right is that of the nearest proxy; values further left count only as far as the
proxies to the right of them are trusted, since every client can send such headers itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from pushserver.auth.allowed_origins import Origins
from pushserver.auth.origin import valid_host

UNIX = "unix"
"""Stands for all peers on Unix sockets in `server.trusted_proxies`."""

Header = Callable[[str], str | None]


@dataclass(frozen=True, slots=True)
class Proxies:
    """A container of addresses; None is the address of a peer on a Unix socket."""

    networks: tuple[IPv4Network | IPv6Network, ...] = ()
    unix: bool = False

    @classmethod
    def of(cls, texts: Iterable[str]) -> Proxies:
        """The proxies of the configuration; raises ValueError for an invalid one."""
        texts = frozenset(texts)
        return cls(tuple(map(_network, texts - {UNIX})), UNIX in texts)

    def __contains__(self, address: object) -> bool:
        if address is None:
            return self.unix
        ip = _ip(str(address)) if self.networks else None
        return ip is not None and any(ip in network for network in self.networks)

    def __bool__(self) -> bool:
        return self.unix or bool(self.networks)


def _ip(text: str) -> IPv4Address | IPv6Address | None:
    try:
        ip = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped: IPv4Address | None = getattr(ip, "ipv4_mapped", None)
    return mapped or ip


def _network(text: str) -> IPv4Network | IPv6Network:
    try:
        return ip_network(text)
    except ValueError as error:
        reason = " (it has bits of a host)" if "host bits" in str(error) else ""
        raise ValueError(
            f"{text!r:.80} is not an address or network{reason}; expected one such as 127.0.0.1,"
            f" 10.0.0.0/8 or fd00::/8, or {UNIX}"
        ) from None


NO_PROXIES = Proxies()
LOCAL = Proxies.of(["127.0.0.0/8", "::1", UNIX])
EVERYONE = Proxies.of(["0.0.0.0/0", "::/0", UNIX])


@dataclass(frozen=True, slots=True)
class Trust:
    """The pages and the proxies that the configuration trusts.

    `near`: the proxies whose scheme and host are trusted: the configured ones, and all on this
    machine. A page can send none of these headers to another origin, because its browser asks
    first (a preflight) and is refused. A client that is no browser can send any Origin anyway.
    """

    origins: Origins
    proxies: Proxies
    near: Proxies = field(init=False)

    def __post_init__(self) -> None:
        networks = self.proxies.networks + LOCAL.networks
        object.__setattr__(self, "near", Proxies(networks, unix=True))


@dataclass(frozen=True, slots=True)
class Forwarded:
    """The values that proxies added to a request, those of the nearest proxy last.

    `addresses` are as they were sent: with ports, or `unknown`, or not valid.
    """

    addresses: Sequence[str] = ()
    schemes: Sequence[str] = ()
    hosts: Sequence[str] = ()

    def client(self, peer: str | None, proxies: Proxies) -> str | None:
        """The address of the client: the last one that is not a trusted proxy's (RFC 7239, 7.4).

        Where the last trusted proxy does not name its client, the proxy itself is the client.
        """
        return self._walk(peer, proxies)[0]

    def origin(self, peer: str | None, proxies: Proxies) -> tuple[str, str]:
        """The scheme and the host of the URL that the client requested; "" where unknown."""
        _, trusted = self._walk(peer, proxies)
        scheme = _nth_last(self.schemes, trusted).lower()
        host = _nth_last(self.hosts, trusted)
        scheme = {"wss": "https", "ws": "http"}.get(scheme, scheme)
        return scheme if scheme in ("http", "https") else "", host if valid_host(host) else ""

    def _walk(self, peer: str | None, proxies: Proxies) -> tuple[str | None, int]:
        """The address of the client, and the number of trusted proxies behind it."""
        client, trusted = peer, 0
        for text in reversed(self.addresses):
            if client not in proxies:
                return client, trusted
            trusted += 1
            address = _address(text)
            if not address:
                return client, trusted
            client = address
        return client, trusted + (client in proxies)


NOTHING = Forwarded()
_HEADERS = ("x-forwarded-for", "x-forwarded-proto", "x-forwarded-host")


def forwarded(header: Header) -> Forwarded:
    """The values of the headers of a request, which `header` returns, lines joined by commas.

    Forwarded counts only without any of the other three: most proxies set those and pass on the
    Forwarded of their clients.
    """
    texts = [header(name) for name in _HEADERS]
    if any(texts):
        return Forwarded(*map(_list, texts))
    text = header("forwarded")
    if not text:
        return NOTHING
    elements = parse_forwarded(text)
    return Forwarded(
        [element.get("for", "") for element in elements],
        [element.get("proto", "") for element in elements],
        [element.get("host", "") for element in elements],
    )


# Some proxies send a value with a colon without the quotes that it needs (RFC 7239, 4).
_PAIR = re.compile(
    r"[ \t]*(?:([!#$%&'*+.^_`|~0-9A-Za-z-]+)="
    r'(?:([^\s,;"\\]*)|"((?:[^"\\]|\\.)*)")[ \t]*)?(;|,|\Z)'
)


def parse_forwarded(text: str) -> list[dict[str, str]]:
    """The elements of a Forwarded header, with names in lower case; empty if it is not valid.

    One client's open quote would otherwise hide the element that the proxy appended.
    """
    elements: list[dict[str, str]] = [{}]
    end = 0
    while end < len(text):
        match = _PAIR.match(text, end)
        if match is None:
            return []
        name, token, quoted, separator = match.groups()
        if name is not None:
            value = token if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
            elements[-1].setdefault(name.lower(), value)
        if separator == "," and elements[-1]:
            elements.append({})
        end = match.end()
    return [element for element in elements if element]


def _list(text: str | None) -> list[str]:
    return [] if text is None else [part.strip(" \t") for part in text.split(",")]


def _nth_last(values: Sequence[str], number: int) -> str:
    """The value that the outermost trusted proxy sent, or the first if there are fewer."""
    return values[max(len(values) - number, 0)] if values and number else ""


_PORT = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([0-9.]+))(?::(?:[0-9]{1,5}|_[A-Za-z0-9._-]+))?")


def _address(node: str) -> str:
    """The address in a node such as `192.0.2.1:80` or `[::1]:_port` (RFC 7239, 6); "" if none."""
    match = _PORT.fullmatch(node)
    ip = _ip(node if match is None else match[1] or match[2])
    return "" if ip is None else str(ip)
