"""`type = "feed"`: publishes the new entries of a feed: RSS, Atom or JSON Feed."""

from __future__ import annotations

import json
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta, Struct
from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessExitedAlready
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure
from zope.interface import implementer

from pushserver.config.limits import Positive
from pushserver.sources.http_client.fetch import Document, Fetcher, with_timeout
from pushserver.sources.http_client.polling import Polling
from pushserver.sources.http_client.response import UnusableResponse
from pushserver.sources.interface import Feed, ISource
from pushserver.sources.types.publish import offer
from pushserver.sources.types.source_type import SourceType
from pushserver.usercode.reactor import Reactor

MOST_SEEN = 2_000
"""How many entries are remembered, those of the last document before all others."""
READ_SECONDS = 30
"""How long the reading of a document may take."""

_LIBRARY = "feedparser"
_PROGRAM = str(Path(__file__).with_name("reader.py"))


@dataclass(frozen=True, slots=True)
class Options:
    """What stands in the table of the source beside the common keys; times in seconds."""

    url: str
    every: Positive = 300.0
    first: Annotated[int, Meta(ge=0, le=1_000)] = 10
    """How many of the newest entries are published when the feed is first seen."""
    headers: dict[str, str] = field(default_factory=dict, repr=False)
    timeout_seconds: Positive = 30.0
    max_bytes: Annotated[int, Meta(ge=1, le=16_777_216)] = 4_194_304
    """The longest document, also after it was inflated."""


class Entry(Struct, frozen=True):
    """One entry; `digest` is what to know it again by, `published` in UTC as ISO 8601 has it."""

    digest: str
    id: str
    title: str
    link: str
    summary: str
    published: str | None
    author: str
    feed: str

    def data(self) -> dict[str, Any]:
        """What of it is published."""
        data = msgspec.structs.asdict(self)
        del data["digest"]
        return data


class Contents(Struct, frozen=True):
    """What was read of a document: its entries in its own order, or why there are none."""

    error: str = ""
    title: str = ""
    entries: list[Entry] = []


Read = Callable[[Any, Document], Awaitable[Contents]]


async def read(reactor: Reactor, document: Document) -> Contents:
    """What is in the document, read by another process; `error` says so where it cannot."""
    head = {
        # Without what may be a secret: a link may begin with it.
        "url": urlsplit(document.url)._replace(query="", fragment="").geturl(),
        "content_type": document.content_type,
        "seconds": READ_SECONDS,
    }
    reader = _Reader(json.dumps(head).encode() + b"\n" + document.body)
    arguments = [sys.executable, "-P", _PROGRAM]
    try:
        reactor.spawnProcess(reader, sys.executable, arguments, env=None)
    except OSError as error:
        return Contents(error=f"no process for it: {error.strerror}")
    try:
        await with_timeout(READ_SECONDS, reactor, reader.wait())
    except TimeoutError:
        return Contents(error=f"it takes more than {READ_SECONDS} s to read")
    finally:
        reader.kill()
        await reader.wait()
    try:
        return msgspec.json.decode(b"".join(reader.output), type=Contents)
    except msgspec.DecodeError:
        return Contents(error="it takes too much time or memory to read")


class _Reader(ProcessProtocol):
    """Gives a process its input, and keeps its output."""

    transport: Any

    def __init__(self, text: bytes):
        self.output: list[bytes] = []
        self._text = text
        self._ended = False
        self._waiting: list[Deferred[None]] = []

    async def wait(self) -> None:
        """Return when it has ended."""
        if not self._ended:
            waits: Deferred[None] = Deferred()
            self._waiting.append(waits)
            await waits

    def kill(self) -> None:
        """End it at once, if it runs."""
        if not self._ended:
            try:
                self.transport.signalProcess("KILL")
            except ProcessExitedAlready:
                """Its end is about to be told."""

    def connectionMade(self) -> None:
        self.transport.write(self._text)
        self.transport.closeStdin()

    def outReceived(self, data: bytes) -> None:
        self.output.append(data)

    def errReceived(self, data: bytes) -> None:
        """What Python says when it ends badly; that it did is seen by its output."""

    def processEnded(self, reason: Failure) -> None:
        self._ended = True
        for waits in self._waiting:
            if not waits.called:
                waits.callback(None)


@implementer(ISource)
class Entries:
    """Looks into the feed again and again, and publishes what it has not seen, oldest first.

    It remembers what it has seen, across a restart too. An entry that was published right
    before the server was killed is known by its idempotency key.
    """

    def __init__(self, options: Options, fetcher: Fetcher, read: Read = read):
        self._first = options.first
        self._mark = fetcher.url_digest
        self._host = fetcher.host
        self._read = read
        self._polling = Polling(fetcher, options.every, options.max_bytes)

    async def run(self, feed: Feed) -> None:
        async def take(document: Document) -> None:
            contents = await self._read(feed.reactor, document)
            if contents.error:
                raise UnusableResponse(
                    f"{self._host} answered with what is no feed: {contents.error}"
                )
            await self._publish(feed, contents.entries)

        await self._polling.run(feed, take)

    async def _publish(self, feed: Feed, entries: list[Entry]) -> None:
        known = _seen(feed.remembered(), self._mark)
        seen = dict.fromkeys(known or ())
        there = {entry.digest: entry for entry in entries}
        new = oldest_first([entry for digest, entry in there.items() if digest not in seen])
        if known is None:
            old = len(new) - self._first
            seen |= dict.fromkeys(entry.digest for entry in new[: max(old, 0)])
            new = new[max(old, 0) :]
        try:
            for entry in new:
                await offer(feed, entry.data(), key=_key(feed.name, entry))
                seen[entry.digest] = None
        finally:
            gone = [digest for digest in seen if digest not in there]
            kept = [digest for digest in there if digest in seen]
            feed.remember({"url": self._mark, "seen": (gone + kept)[-MOST_SEEN:]})


def oldest_first(entries: list[Entry]) -> list[Entry]:
    """By their times, or where one has none the other way round: the newest stands first."""
    entries = entries[::-1]
    if any(entry.published is None for entry in entries):
        return entries
    return sorted(entries, key=lambda entry: entry.published or "")


def _seen(remembered: object, mark: str) -> list[str] | None:
    """What was seen of this URL; None if it was never looked at."""
    if not isinstance(remembered, dict) or remembered.get("url") != mark:
        return None
    seen = remembered.get("seen")
    return [digest for digest in seen if isinstance(digest, str)] if isinstance(seen, list) else []


def _key(name: str, entry: Entry) -> str:
    return f"feed:{sha256(f'{name}:{entry.digest}'.encode()).hexdigest()[:32]}"


def _make(options: Options) -> Entries:
    if find_spec(_LIBRARY) is None:
        raise ModuleNotFoundError(f"No module named {_LIBRARY!r}", name=_LIBRARY)
    fetcher = Fetcher(options.url, options.headers, options.timeout_seconds)
    return Entries(options, fetcher)


FEED = SourceType(Options, _make)
