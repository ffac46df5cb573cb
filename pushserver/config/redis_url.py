"""The URL of a Redis server."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from pushserver.auth.origin import host_name
from pushserver.errors import InvalidConfig

PORT = 6379
LONGEST_PATH = 107
"""The bytes of the longest path of a Unix socket."""

URL_RULE = "redis://[user:password@]host[:port][/db], rediss:// for TLS, or unix:///path[?db=0]"

_TCP = {"redis": False, "valkey": False, "rediss": True, "valkeys": True}
"""The schemes, and whether each is TLS."""
_UNIX = ("unix", "redis+unix", "redis+socket")
_SECRET = re.compile(r"(password|username)=[^&]*")


@dataclass(frozen=True, slots=True)
class Address:
    """Where a Redis server is. `path` is that of a Unix socket; without one, `host` and `port`.

    `ca`: a file of certificates that vouch for the server, in place of those of the system.
    """

    host: str = ""
    port: int = PORT
    path: str = ""
    tls: bool = False
    user: str = ""
    password: str = ""
    database: int = 0
    ca: str = ""

    def __str__(self) -> str:
        """The address without the password."""
        place = self.path or (f"[{self.host}]" if ":" in self.host else self.host)
        return place if self.path else f"{place}:{self.port}"

    def __repr__(self) -> str:
        return f"<Address {self}>"


def parse_url(url: str) -> Address:
    """Parse the URL of a server; raises InvalidConfig, whose text has no password."""
    try:
        url.encode()
        parts = urlsplit(url)
        port = parts.port
        (parts.hostname or "").encode("idna")
        query = _query(parts.query)
        user = unquote(parts.username or "", errors="strict") or query.get("username", "")
        password = unquote(parts.password or "", errors="strict") or query.get("password", "")
        path = unquote(parts.path, errors="strict")
    except ValueError:
        raise _invalid(url) from None
    host, scheme = parts.hostname or "", parts.scheme
    database = query.get("db", "")
    place: dict[str, Any]
    if scheme in _UNIX:
        is_path = path.startswith("/") and len(path.encode()) <= LONGEST_PATH and "\0" not in path
        valid = is_path and not host and port is None
        place = {"path": path}
    else:
        name = path.strip("/")
        valid = scheme in _TCP and bool(host_name(parts.netloc.rpartition("@")[2]))
        valid = valid and port != 0 and not (name and database)
        database = name or database
        place = {"host": host, "port": PORT if port is None else port, "tls": _TCP.get(scheme)}
    digits = database or "0"
    valid = valid and digits.isascii() and digits.isdigit() and len(digits) < 6
    if not valid or parts.fragment or (user and not password):
        raise _invalid(url)
    return Address(**place, user=user, password=password, database=int(digits))


def _query(text: str) -> dict[str, str]:
    """The parameters of a URL, as clients of Redis have them; raises ValueError."""
    pairs = parse_qsl(text, keep_blank_values=True, strict_parsing=bool(text), errors="strict")
    found = dict(pairs)
    if len(found) < len(pairs) or not found.keys() <= {"db", "username", "password"}:
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
    return InvalidConfig(f"invalid URL of a Redis server {shown_redis(url)}: expected {URL_RULE}")
