"""Asks one URL again and again."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from pushserver.sources.http_client.fetch import Document, Fetcher
from pushserver.sources.http_client.response import Unusable
from pushserver.sources.interface import Feed

Take = Callable[[Document], Awaitable[None]]


class Rounds:
    """Looks every so many seconds, and costs the server as little as can be.

    An answer that cannot be used is told as trouble, and the next look is when it is time.
    Where there is no answer the attempt fails, and the next look is after the back-off.
    """

    def __init__(self, fetcher: Fetcher, every: float, max_bytes: int, conditional: bool = True):
        self._fetcher = fetcher
        self._every = every
        self._max_bytes = max_bytes
        self._conditional = conditional
        self._validators: dict[str, str] = {}
        self._due = float("-inf")

    async def run(self, feed: Feed, take: Take) -> None:
        """Give `take` each document, but what it has taken again only unless `conditional`.

        It may raise Unusable. Whoever is cancelled and runs again looks when it would have
        been time.
        """
        while True:
            left = self._due - feed.monotonic()
            if left > 0:
                await feed.sleep(left)
            began = feed.monotonic()
            try:
                await self._look(feed, take)
            except Unusable as error:
                feed.trouble(str(error))
                self._due = began + max(self._every, error.retry_seconds)
            else:
                feed.ok()
                self._due = began + self._every

    async def _look(self, feed: Feed, take: Take) -> None:
        document = await self._fetcher.fetch(feed.reactor, self._validators, self._max_bytes)
        if document is None:
            return
        # What follows is of the last document that was taken.
        await take(document)
        if self._conditional:
            asked = {"if-none-match": document.etag, "if-modified-since": document.last_modified}
            self._validators = {name: value for name, value in asked.items() if value}
