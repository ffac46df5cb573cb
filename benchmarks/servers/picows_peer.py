"""`picows` on uvloop: a send for each client, as its example of a broadcast has it.

usage: picows_peer FEED PORT
"""

from __future__ import annotations

import asyncio
import json
import sys

import uvloop  # type: ignore[import-not-found]
from picows import (  # type: ignore[import-not-found]
    WSFrame,
    WSListener,
    WSMsgType,
    WSTransport,
    WSUpgradeRequest,
    ws_create_server,
)

from benchmarks.servers.feed import Feed

CLIENTS: set[WSTransport] = set()


class Client(WSListener):  # type: ignore[misc]
    """One client; it gets all publications while it is connected."""

    def on_ws_connected(self, transport: WSTransport) -> None:
        CLIENTS.add(transport)

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        CLIENTS.discard(transport)

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type == WSMsgType.CLOSE:
            transport.disconnect()


def made(request: WSUpgradeRequest) -> Client:
    """The listener of a new connection."""
    return Client()


async def main(feed: Feed, port: int) -> None:
    """Serve and publish."""
    await ws_create_server(made, "127.0.0.1", port, backlog=4096)
    while True:
        for _, event in feed.due():
            text = json.dumps(event, separators=(",", ":")).encode()
            for client in CLIENTS:
                client.send(WSMsgType.TEXT, text)
        await asyncio.sleep(feed.wait())


uvloop.run(main(Feed(sys.argv[1]), int(sys.argv[2])))
