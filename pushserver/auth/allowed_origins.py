"""The origins of `server.allowed_origins`: exact ones, and patterns with one label open."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv6Address

import idna

from pushserver.auth.origin import MAX_HOST

EXAMPLE = "https://app.example:8443"
PATTERN_EXAMPLE = "https://*.app.example"

_ORIGIN = re.compile(r"([a-z][a-z0-9+.-]*)://(\[[0-9a-f:.]+\]|[^][/?#@:%\\\s]+)(?::([0-9]{1,5}))?")
_NAME = re.compile(r"(?:[a-z0-9_-]{1,63}\.)*[a-z0-9_-]{1,63}\.?")
_TOP_LEVEL = re.compile(r"(?!localhost)[^.]*\.?|.*\.[0-9]+\.?")
"""The rest of a pattern that would contain every page below `.com`, or is an address."""
_FIRST_LABEL = re.compile(r"(?<=://)[a-z0-9_-]+(?=\.)")
_DEFAULT_PORTS = {"http": "80", "https": "443"}


@dataclass(frozen=True, slots=True)
class Origins:
    """A container of origins, normalized: in lower case, without default ports, IDN as `xn--`.

    `patterns`: `https://*.app.example` contains each origin with one label in place of the `*`.
    """

    exact: frozenset[str] = frozenset()
    patterns: frozenset[str] = frozenset()

    @classmethod
    def of(cls, texts: Iterable[str]) -> Origins:
        """The origins of the configuration; raises ValueError for an invalid one."""
        origins = frozenset(map(normal_origin, texts))
        patterns = frozenset(origin for origin in origins if "*" in origin)
        return cls(origins - patterns, patterns)

    def __contains__(self, origin: object) -> bool:
        """Whether the value of an Origin header is one of these."""
        origin = _without_default_port(str(origin).lower())
        if origin in self.exact:
            return True
        return bool(self.patterns) and _FIRST_LABEL.sub("*", origin, 1) in self.patterns

    def has_exact(self, origin: str) -> bool:
        """Whether the value of an Origin header is configured itself, not by a pattern."""
        return _without_default_port(origin.lower()) in self.exact


def normal_origin(text: str) -> str:
    """The origin or pattern as browsers send it in Origin; raises ValueError with the reason."""
    expected = f"expected one such as {EXAMPLE}"
    if text == "*":
        raise ValueError(f"{text!r} would allow every page: name each origin, such as {EXAMPLE}")
    match = _ORIGIN.fullmatch(text.lower())
    if match is None:
        if text.endswith("/") and _ORIGIN.fullmatch(text.lower().rstrip("/")):
            expected = f"expected {text.rstrip('/')}, without a slash at the end"
        raise ValueError(f"{text!r:.300} is no origin; {expected}")
    scheme, host, port = match.groups()
    name = host.removeprefix("*.")
    wildcard = host[: -len(name)]
    if "*" in name:
        raise ValueError(
            f"{text!r:.300} is no origin: a * stands for the first label of a name, as in"
            f" {PATTERN_EXAMPLE}"
        )
    try:
        name = _normal_host(name)
    except ValueError as error:
        raise ValueError(f"{text!r:.300} is no origin ({error}); {expected}") from None
    if wildcard and _TOP_LEVEL.fullmatch(name):
        raise ValueError(f"{text!r:.300} is no pattern of names below a domain; {expected}")
    if port is not None and int(port) > 65535:
        raise ValueError(f"{text!r:.300} is no origin (the port is over 65535); {expected}")
    suffix = "" if port is None else f":{int(port)}"
    return _without_default_port(f"{scheme}://{wildcard}{name}{suffix}")


def _normal_host(host: str) -> str:
    if host.startswith("["):
        return f"[{IPv6Address(host[1:-1]).compressed}]"
    if not host.isascii():
        # As in browsers; the codec of Python would make `strasse` of `straße`. `twisted[tls]`
        # requires this library.
        host = idna.encode(host[:MAX_HOST], uts46=True).decode()
    if len(host) > MAX_HOST or _NAME.fullmatch(host) is None:
        raise ValueError("invalid host name")
    return host


def _without_default_port(origin: str) -> str:
    port = _DEFAULT_PORTS.get(origin.partition("://")[0])
    return origin if port is None else origin.removesuffix(f":{port}")
