"""Fetches one URL at intervals."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from pushserver.sources.http_client.fetch import Document, Fetcher
from pushserver.sources.http_client.response import UnusableResponse
from pushserver.sources.interface import Feed

DocumentHandler = Callable[[Document], Awaitable[None]]


class Polling:
    """Fetches a document every `every` seconds, with conditional requests if `conditional`.

    An unusable response is a warning, and the next request follows at the usual interval. Without
    a response the attempt fails, and the next request follows after the back-off.
    """

    def __init__(self, fetcher: Fetcher, every: float, max_bytes: int, conditional: bool = True):
        self._fetcher = fetcher
        self._every = every
        self._max_bytes = max_bytes
        self._conditional = conditional
        self._validators: dict[str, str] = {}
        self._due = float("-inf")

    async def run(self, feed: Feed, handle: DocumentHandler) -> None:
        """Call `handle` with each document, or with modified ones only if `conditional`.

        `handle` may raise UnusableResponse. After a cancellation the next run keeps the
        interval.
        """
        while True:
            left = self._due - feed.monotonic()
            if left > 0:
                await feed.sleep(left)
            started = feed.monotonic()
            try:
                await self._poll(feed, handle)
            except UnusableResponse as error:
                feed.trouble(str(error))
                self._due = started + max(self._every, error.retry_seconds)
            else:
                feed.ok()
                self._due = started + self._every

    async def _poll(self, feed: Feed, handle: DocumentHandler) -> None:
        document = await self._fetcher.fetch(feed.reactor, self._validators, self._max_bytes)
        if document is None:
            return
        # The validators are those of the last document that was handled.
        await handle(document)
        if self._conditional:
            headers = {"if-none-match": document.etag, "if-modified-since": document.last_modified}
            self._validators = {name: value for name, value in headers.items() if value}
