"""Publishing what came from elsewhere."""

from __future__ import annotations

from pushserver.errors import Unavailable
from pushserver.sources.interface import Feed, SourceFailed


async def offer(feed: Feed, data: object, event: str = "", key: str = "") -> None:
    """Publish it, as `Feed.publish` does.

    Raises InvalidData for what cannot be published, and SourceFailed when nothing can: for
    the server's own trouble no source leaves a traceback.
    """
    try:
        await feed.publish(data, event, key=key)
    except Unavailable as error:
        raise SourceFailed(f"nothing can be published: {error}") from None
