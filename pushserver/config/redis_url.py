"""The URL of a Redis server, or of the Sentinels that name it."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from pushserver.auth.origin import host_name
from pushserver.errors import InvalidConfig

PORT = 6379
SENTINEL_PORT = 26379
LONGEST_PATH = 107
"""The bytes of the longest path of a Unix socket."""
MOST_SENTINELS = 16

SENTINEL_RULE = "redis+sentinel://[user:password@]host[:port][,host[:port]...]/NAME[/db]"
URL_RULE = (
    "redis://[user:password@]host[:port][/db], rediss:// for TLS, unix:///path[?db=0], or"
    f" {SENTINEL_RULE}"
)

_TCP = {"redis": False, "valkey": False, "rediss": True, "valkeys": True}
"""The schemes, and whether each is TLS."""
_UNIX = ("unix", "redis+unix", "redis+socket")
_SENTINEL = {
    "redis+sentinel": False,
    "redis-sentinel": False,
    "sentinel": False,
    "valkey+sentinel": False,
    "rediss+sentinel": True,
    "rediss-sentinel": True,
    "sentinels": True,
    "valkeys+sentinel": True,
}
_HOSTS = re.compile(r"[^:/?#]+://(?:[^/?#]*@)?([^/?#]*)")
_SECRET = re.compile(r"(password|username)=[^&]*")
_MASTER = re.compile(r"[A-Za-z0-9._-]{1,64}")
"""The names that Sentinel permits."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where a Redis server is. `path` is that of a Unix socket; without one, `host` and `port`.

    `ca`: a file of certificates that vouch for the server, in place of those of the system. With
    `sentinels`, these know the host and the port of the server, by its name `master`.
    """

    host: str = ""
    port: int = PORT
    path: str = ""
    tls: bool = False
    user: str = ""
    password: str = ""
    database: int = 0
    ca: str = ""
    master: str = ""
    sentinels: tuple[Address, ...] = ()

    def __str__(self) -> str:
        """The address without the password."""
        if self.sentinels:
            return f"{self.master} of the Sentinels {', '.join(map(str, self.sentinels))}"
        place = self.path or (f"[{self.host}]" if ":" in self.host else self.host)
        return place if self.path else f"{place}:{self.port}"

    def __repr__(self) -> str:
        return f"<Address {self}>"

    def vouched_for_by(self, ca: str) -> Address:
        """The same with this file of certificates."""
        sentinels = tuple(replace(each, ca=ca) for each in self.sentinels)
        return replace(self, ca=ca, sentinels=sentinels)


def parse_url(url: str) -> Address:
    """Parse the URL of a server; raises InvalidConfig, whose text has no password."""
    try:
        url.encode()
        match = _HOSTS.match(url)
        hosts = match[1] if match else ""
        # Without the hosts: urlsplit refuses brackets behind a comma.
        parts = urlsplit(url[: match.start(1)] + url[match.end(1) :] if match else url)
        query = _query(parts.query)
        user = unquote(parts.username or "", errors="strict") or query.pop("username", "")
        password = unquote(parts.password or "", errors="strict") or query.pop("password", "")
        path = unquote(parts.path, errors="strict")
        database = query.pop("db", "")
        if parts.scheme in _SENTINEL:
            place, in_path = _named_by_sentinels(parts.scheme, hosts, path, query)
        elif parts.scheme in _UNIX:
            place, in_path = _unix(hosts, path), ""
        else:
            place, in_path = _tcp(parts.scheme, hosts), path.strip("/")
        digits = in_path or database or "0"
        valid = digits.isascii() and digits.isdigit() and len(digits) < 6
        valid = valid and not (in_path and database) and not query
        if not valid or parts.fragment or (user and not password):
            raise ValueError
    except ValueError:
        raise _invalid(url) from None
    return Address(**place, user=user, password=password, database=int(digits))


def _tcp(scheme: str, host: str) -> dict[str, Any]:
    tls = _TCP.get(scheme)
    if tls is None:
        raise ValueError
    return _host(host, PORT) | {"tls": tls}


def _unix(host: str, path: str) -> dict[str, Any]:
    is_path = path.startswith("/") and len(path.encode()) <= LONGEST_PATH and "\0" not in path
    if not is_path or host:
        raise ValueError
    return {"path": path}


def _named_by_sentinels(
    scheme: str, hosts: str, path: str, query: dict[str, str]
) -> tuple[dict[str, Any], str]:
    """Where a master is, and its database; takes what is of the Sentinels from the query."""
    name, _, database = path.strip("/").partition("/")
    tls = _SENTINEL[scheme]
    user, password = query.pop("sentinel_username", ""), query.pop("sentinel_password", "")
    sentinels = tuple(
        Address(**_host(each, SENTINEL_PORT), tls=tls, user=user, password=password)
        for each in hosts.split(",")
    )
    if not _MASTER.fullmatch(name) or len(sentinels) > MOST_SENTINELS or (user and not password):
        raise ValueError
    return {"tls": tls, "master": name, "sentinels": sentinels}, database


def _host(text: str, usual_port: int) -> dict[str, Any]:
    """A host and its port; raises ValueError."""
    parts = urlsplit(f"//{text}")
    host, port = parts.hostname or "", parts.port
    host.encode("idna")
    if not host_name(text) or port == 0:
        raise ValueError
    return {"host": host, "port": usual_port if port is None else port}


def _query(text: str) -> dict[str, str]:
    """The parameters of a URL, as clients of Redis have them; raises ValueError."""
    pairs = parse_qsl(text, keep_blank_values=True, strict_parsing=bool(text), errors="strict")
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError
    return found


def shown_redis(url: str) -> str:
    """The URL for an error, without user and password; it may be invalid."""
    before, at, place = url.rpartition("@")
    if at:
        scheme, mark, _ = before.partition("://")
        url = f"{scheme}{mark}...@{place}" if mark else f"...@{place}"
    return repr(_SECRET.sub(r"\1=...", url)[:200])


def _invalid(url: str) -> InvalidConfig:
    rule = SENTINEL_RULE if url.partition(":")[0].lower() in _SENTINEL else URL_RULE
    return InvalidConfig(f"invalid URL of a Redis server {shown_redis(url)}: expected {rule}")
