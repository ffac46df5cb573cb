"""Plain WebSockets, without a client library for the protocol on them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any

from websockets.exceptions import ConnectionClosed
from websockets.frames import Close
from websockets.sync.client import ClientConnection, connect

from tests.e2e.patience import PATIENCE
from tests.e2e.server import Server

CONNECT = '{"id":1,"connect":{}}'
SUBSCRIBE = '{"id":2,"subscribe":{"channel":"numbers"}}'


def dial(server: Server, path: str) -> AbstractContextManager[ClientConnection]:
    """Connect a WebSocket to a path of the server."""
    return connect(server.websocket(path), proxy=None, open_timeout=PATIENCE)


def frame(client: ClientConnection, seconds: float = PATIENCE) -> Any:
    """Wait for the next frame, which must be one JSON text."""
    return json.loads(client.recv(timeout=seconds))


@contextmanager
def dial_channel(server: Server) -> Iterator[tuple[ClientConnection, Any]]:
    """A raw WebSocket on `numbers`, and the position in its first frame."""
    with dial(server, "channels/numbers") as client:
        first = frame(client)
        assert list(first) == ["subscribed"]
        assert first["subscribed"]["channel"] == "numbers"
        yield client, first["subscribed"]


@contextmanager
def dial_centrifuge(server: Server) -> Iterator[ClientConnection]:
    """A WebSocket with the Centrifuge protocol, subscribed to `numbers`."""
    with dial(server, "connection/websocket") as client:
        client.send(f"{CONNECT}\n{SUBSCRIBE}")
        while not any(reply.get("id") == 2 for reply in objects(client)):
            pass
        yield client


def objects(client: ClientConnection) -> list[Any]:
    """Wait for the next frame and return its JSON objects, one from each line."""
    return [json.loads(line) for line in str(client.recv(timeout=PATIENCE)).splitlines()]


def closed_with(client: ClientConnection, seconds: float = PATIENCE) -> Close:
    """Read until the server closes, and return its close frame."""
    with suppress(ConnectionClosed):
        while True:
            client.recv(timeout=seconds)
    close = client.protocol.close_rcvd
    assert close is not None, "ended without a close frame"
    return close
