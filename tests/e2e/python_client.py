"""The official Python client, subscribed to one channel."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable
from typing import Any

import centrifuge

from tests.e2e.server import Server


class Events(centrifuge.SubscriptionEventHandler):  # type: ignore[misc]
    """The events of the subscription, in their order."""

    def __init__(self) -> None:
        self._events: asyncio.Queue[tuple[str, Any]] = asyncio.Queue()

    async def on_subscribed(self, context: Any) -> None:
        await self._events.put(("subscribed", context))

    async def on_publication(self, context: Any) -> None:
        await self._events.put(("publication", context.pub))

    async def next(self, name: str) -> Any:
        """Wait for the next event, which must have this name."""
        event, context = await self._events.get()
        assert event == name, context
        return context


def watch(server: Server, channel: str, story: Callable[[Events], Awaitable[None]]) -> None:
    """Run the story with a client that subscribes; the client rests while the story blocks."""
    asyncio.run(_watch(server, channel, story))
    # centrifuge-python 0.7.0 leaves a lost connection to the garbage collector, which would
    # otherwise report it in another test.
    gc.collect()


async def _watch(server: Server, channel: str, story: Callable[[Events], Awaitable[None]]) -> None:
    events = Events()
    client = centrifuge.Client(server.websocket("connection/websocket"), min_reconnect_delay=0.1)
    await client.connect()
    await client.new_subscription(channel, events=events).subscribe()
    try:
        async with asyncio.timeout(30):
            await story(events)
    finally:
        await client.disconnect()
