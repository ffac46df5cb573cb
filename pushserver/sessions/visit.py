"""The facts about a client's request that the application may use to decide about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Visit:
    """A request that opens a connection.

    `address` is the IP address of the client, behind trusted proxies; empty on a Unix socket.
    `protocol` is `websocket`, `http_stream`, `sse` or `socketio`. `headers` are by lower-case name,
    several of one name joined by a comma, and those of `cookie` by a semicolon. `url` is that of
    the request, with the scheme and the host that the client used; empty if there was no request.
    """

    address: str = ""
    protocol: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    url: str = ""


UNKNOWN = Visit()
