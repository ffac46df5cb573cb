"""`type = "feed"`: publishes the new entries of a feed: RSS, Atom or JSON Feed."""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
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
from pushserver.sources.types.child_environment import child_environment
from pushserver.sources.types.feed.reader import KEY_CHARACTERS
from pushserver.sources.types.publish import publish
from pushserver.sources.types.source_type import BuiltInType
from pushserver.usercode.reactor import Reactor

MAX_SEEN = 2_000
"""How many entries are remembered; those of the last document are kept first."""
READ_SECONDS = 30
"""The time to parse a document."""

_LIBRARY = "feedparser"
_PROGRAM = str(Path(__file__).with_name("reader.py"))


@dataclass(frozen=True, slots=True)
class Options:
    """The keys of the table of the source beside the common ones; times in seconds."""

    url: str
    every: Positive = 300.0
    first: Annotated[int, Meta(ge=0, le=1_000)] = 10
    """How many of the newest entries are published after the first request."""
    headers: dict[str, str] = field(default_factory=dict, repr=False)
    timeout_seconds: Positive = 30.0
    max_bytes: Annotated[int, Meta(ge=1, le=16_777_216)] = 4_194_304
    """The longest document, before and after decompression."""


class Entry(Struct, frozen=True):
    """One entry; `published` is in UTC (ISO 8601).

    `digest` begins with a key, which is that of the id or link. Some feeds give several entries
    the same; the rest of the digest is that of the title, the link and the date.
    """

    digest: str
    id: str
    title: str
    link: str
    summary: str
    published: str | None
    author: str
    feed: str

    def data(self) -> dict[str, Any]:
        """Return the data to publish."""
        data = msgspec.structs.asdict(self)
        del data["digest"]
        return data


class Contents(Struct, frozen=True):
    """The entries of a document in its order, or the reason why it cannot be parsed."""

    error: str = ""
    title: str = ""
    entries: list[Entry] = []


Read = Callable[[Any, Document], Awaitable[Contents]]


async def read(reactor: Reactor, document: Document) -> Contents:
    """Parse the document in another process; never raises, but sets `error`."""
    head = {
        # Without the query, which may be a secret: links may be relative to this URL.
        "url": urlsplit(document.url)._replace(query="", fragment="").geturl(),
        "content_type": document.content_type,
        "seconds": READ_SECONDS,
    }
    process = _ReaderProcess(json.dumps(head).encode() + b"\n" + document.body)
    arguments = [sys.executable, "-P", _PROGRAM]
    try:
        reactor.spawnProcess(process, sys.executable, arguments, child_environment(os.environ))
    except OSError as error:
        return Contents(error=f"cannot start a process: {error.strerror}")
    try:
        await with_timeout(READ_SECONDS, reactor, process.wait())
    except TimeoutError:
        return Contents(error=f"it takes more than {READ_SECONDS} s to read")
    finally:
        process.kill()
        await process.wait()
    try:
        return msgspec.json.decode(b"".join(process.output), type=Contents)
    except msgspec.DecodeError:
        return Contents(error="it takes too much time or memory to read")


class _ReaderProcess(ProcessProtocol):
    """Writes the input of a process, and collects its output."""

    transport: Any

    def __init__(self, text: bytes):
        self.output: list[bytes] = []
        self._text = text
        self._ended = False
        self._waiters: list[Deferred[None]] = []

    async def wait(self) -> None:
        """Return when the process has ended."""
        if not self._ended:
            ended: Deferred[None] = Deferred()
            self._waiters.append(ended)
            await ended

    def kill(self) -> None:
        """Kill the process if it runs."""
        if not self._ended:
            try:
                self.transport.signalProcess("KILL")
            except ProcessExitedAlready:
                """processEnded is about to be called."""

    def connectionMade(self) -> None:
        self.transport.write(self._text)
        self.transport.closeStdin()

    def outReceived(self, data: bytes) -> None:
        self.output.append(data)

    def errReceived(self, data: bytes) -> None:
        """Ignore a traceback; the failure shows in the output."""

    def processEnded(self, reason: Failure) -> None:
        self._ended = True
        for ended in self._waiters:
            if not ended.called:
                ended.callback(None)


@implementer(ISource)
class FeedSource:
    """Fetches a feed at intervals, and publishes its new entries, oldest first.

    It remembers the published entries. The idempotency key of an entry prevents its repetition
    if the server was killed right after the publication.
    """

    def __init__(self, options: Options, fetcher: Fetcher, read: Read = read):
        self._first = options.first
        self._url_digest = fetcher.url_digest
        self._host = fetcher.host
        self._read = read
        self._polling = Polling(fetcher, options.every, options.max_bytes)

    async def run(self, feed: Feed) -> None:
        async def handle(document: Document) -> None:
            contents = await self._read(feed.reactor, document)
            if contents.error:
                problem = f"{self._host} answered with an invalid feed: {contents.error}"
                raise UnusableResponse(problem)
            await self._publish(feed, contents.entries)

        await self._polling.run(feed, handle)

    async def _publish(self, feed: Feed, entries: list[Entry]) -> None:
        remembered = _seen(feed.remembered(), self._url_digest)
        seen = set(remembered or ())
        current = {entry.digest: entry for entry in entries}
        shared = _shared(current) | _shared(seen)
        seen_keys = {_key(digest) for digest in seen} - shared
        new = oldest_first(
            [
                entry
                for digest, entry in current.items()
                if digest not in seen and _key(digest) not in seen_keys
            ]
        )
        skipped = max(len(new) - self._first, 0) if remembered is None else 0
        unpublished = {entry.digest for entry in new[skipped:]}
        # The new digest of a changed entry replaces its old one.
        current_keys = {_key(digest) for digest in current} - shared
        gone = [
            digest
            for digest in remembered or ()
            if digest not in current and _key(digest) not in current_keys
        ]
        try:
            for entry in new[skipped:]:
                await publish(feed, entry.data(), key=_idempotency_key(feed.name, entry))
                unpublished.remove(entry.digest)
        finally:
            kept = [digest for digest in current if digest not in unpublished]
            feed.remember({"url": self._url_digest, "seen": (gone + kept)[-MAX_SEEN:]})


def oldest_first(entries: list[Entry]) -> list[Entry]:
    """Sort by time; if an entry has no time, reverse: feeds begin with the newest entry."""
    entries = entries[::-1]
    if any(entry.published is None for entry in entries):
        return entries
    return sorted(entries, key=lambda entry: entry.published or "")


def _key(digest: str) -> str:
    """Return the key of a digest; the digests of earlier versions have nothing else."""
    return digest[:KEY_CHARACTERS]


def _shared(digests: Iterable[str]) -> set[str]:
    """Return the keys that several entries have: they identify none of them."""
    counts = Counter(map(_key, digests))
    return {key for key, count in counts.items() if count > 1}


def _seen(remembered: object, url_digest: str) -> list[str] | None:
    """Return the digests of the entries of this URL, or None before the first document."""
    if not isinstance(remembered, dict) or remembered.get("url") != url_digest:
        return None
    seen = remembered.get("seen")
    return [digest for digest in seen if isinstance(digest, str)] if isinstance(seen, list) else []


def _idempotency_key(name: str, entry: Entry) -> str:
    return f"feed:{sha256(f'{name}:{entry.digest}'.encode()).hexdigest()[:32]}"


def _make(options: Options) -> FeedSource:
    if find_spec(_LIBRARY) is None:
        raise ModuleNotFoundError(f"No module named {_LIBRARY!r}", name=_LIBRARY)
    fetcher = Fetcher(options.url, options.headers, options.timeout_seconds)
    return FeedSource(options, fetcher)


FEED = BuiltInType(Options, _make)
