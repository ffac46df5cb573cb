"""Publishes a value for as long as it takes, while the store refuses it."""

from __future__ import annotations

from pushserver.channels.publication import Receipt
from pushserver.errors import Unavailable
from pushserver.sources.interface import Feed

RETRY_SECONDS = 1.0
"""The delay before a value is published again, after the server could not publish it."""


async def publish_when_possible(
    feed: Feed, data: object, event: str = "", tags: dict[str, str] | None = None
) -> Receipt:
    """Publish by the feed; waits while the server cannot publish. Raises InvalidData.

    For values that cannot be read again. When this is cancelled, nothing was published.
    """
    while True:
        try:
            return await feed.publish(data, event, tags=tags)
        except Unavailable as error:
            feed.trouble(str(error))
        await feed.sleep(RETRY_SECONDS)
