"""Publishes for sources that get their data from elsewhere."""

from __future__ import annotations

from pushserver.errors import Unavailable
from pushserver.sources.interface import Feed, SourceFailed


async def publish(feed: Feed, data: object, event: str = "", key: str = "") -> None:
    """Publish by the feed; raises InvalidData, and SourceFailed in place of Unavailable.

    A fault of the server must not be logged with a traceback of the source.
    """
    try:
        await feed.publish(data, event, key=key)
    except Unavailable as error:
        raise SourceFailed(f"nothing can be published: {error}") from None
