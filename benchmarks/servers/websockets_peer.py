"""Python `websockets`, by its own documentation's `broadcast()`, and on uvloop as it says.

usage: websockets_peer FEED PORT
"""

from __future__ import annotations

import asyncio
import json
import sys

import uvloop  # type: ignore[import-not-found]
from websockets.asyncio.server import ServerConnection, broadcast, serve

from benchmarks.servers.feed import Feed

CLIENTS: set[ServerConnection] = set()


async def hold(client: ServerConnection) -> None:
    """Send all publications to a client while it is connected."""
    CLIENTS.add(client)
    try:
        await client.wait_closed()
    finally:
        CLIENTS.remove(client)


async def main(feed: Feed, port: int) -> None:
    """Serve and publish."""
    async with serve(hold, "127.0.0.1", port, compression=None, backlog=4096):
        while True:
            for _, event in feed.due():
                broadcast(CLIENTS, json.dumps(event, separators=(",", ":")))
            await asyncio.sleep(feed.wait())


uvloop.run(main(Feed(sys.argv[1]), int(sys.argv[2])))
