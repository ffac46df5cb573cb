"""`python-socketio`, its ASGI server under uvicorn on uvloop.

usage: socketio_peer FEED PORT [URL of the Redis of several servers]
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from typing import Any

import socketio
import uvicorn

from benchmarks.servers.feed import Feed

MANAGER = socketio.AsyncRedisManager(sys.argv[3]) if len(sys.argv) > 3 else None
SERVER = socketio.AsyncServer(async_mode="asgi", client_manager=MANAGER)


async def publish(feed: Feed) -> None:
    """Publish for ever."""
    while True:
        for _, event in feed.due():
            await SERVER.emit("message", event)
        await SERVER.sleep(feed.wait())


def application(feed: Feed) -> Callable[..., Awaitable[Any]]:
    """The server, which publishes from its start."""

    async def start() -> None:
        SERVER.start_background_task(publish, feed)

    app: Callable[..., Awaitable[Any]] = socketio.ASGIApp(SERVER, on_startup=start)
    return app


uvicorn.run(
    application(Feed(sys.argv[1])), port=int(sys.argv[2]), loop="uvloop", log_level="warning"
)
