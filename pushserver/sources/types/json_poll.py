"""`type = "poll"`: publishes a JSON document that is fetched, or a part of it, as it changes."""

from __future__ import annotations

import json
from codecs import BOM_UTF8
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Annotated, Literal

from msgspec import Meta
from zope.interface import implementer

from pushserver.channels import jsontext
from pushserver.config.limits import Positive
from pushserver.errors import InvalidData
from pushserver.sources.http_client.fetch import Document, Fetcher
from pushserver.sources.http_client.polling import Polling
from pushserver.sources.http_client.response import UnusableResponse
from pushserver.sources.interface import Feed, ISource
from pushserver.sources.types.json_pointer import NotThere, Pointer
from pushserver.sources.types.publish import offer
from pushserver.sources.types.source_type import SourceType


@dataclass(frozen=True, slots=True)
class Options:
    """What stands in the table of the source beside the common keys; times in seconds."""

    url: str
    every: Positive = 60.0
    path: str = ""
    """A JSON Pointer (RFC 6901) to what is published of the document."""
    publish: Literal["changed", "always"] = "changed"
    """Whether only what is another value than the last one is published."""
    headers: dict[str, str] = field(default_factory=dict, repr=False)
    timeout_seconds: Positive = 30.0
    max_bytes: Annotated[int, Meta(ge=1, le=16_777_216)] = 1_048_576
    """The longest document, also after it was inflated."""


@implementer(ISource)
class Poll:
    """Fetches the document again and again.

    It remembers what it published last, across a restart too, by a digest.
    """

    def __init__(self, options: Options, fetcher: Fetcher, pointer: Pointer):
        self._pointer = pointer
        self._always = options.publish == "always"
        # What this is the last value of.
        self._of = [fetcher.url_digest, options.path]
        self._polling = Polling(fetcher, options.every, options.max_bytes, not self._always)
        self._host = fetcher.host

    async def run(self, feed: Feed) -> None:
        async def take(document: Document) -> None:
            await self._take(feed, document)

        await self._polling.run(feed, take)

    async def _take(self, feed: Feed, document: Document) -> None:
        try:
            whole = jsontext.decode(document.body.removeprefix(BOM_UTF8))
        except InvalidData as error:
            raise UnusableResponse(f"{self._host} answered with what is no JSON: {error}") from None
        try:
            value = self._pointer.look(whole)
            known = {"of": self._of, "digest": digest(value)}
            if self._always or feed.remembered() != known:
                await offer(feed, value)
                feed.remember(known)
        except NotThere as error:
            raise UnusableResponse(
                f"path: the answer of {self._host} has nothing at {error}"
            ) from None
        except (InvalidData, RecursionError) as error:
            raise UnusableResponse(
                f"what {self._host} answered cannot be published: {error}"
            ) from None


def digest(value: object) -> str:
    """The same for the same JSON values: the order of keys and 1.0 for 1 make no other value."""
    text = json.dumps(_plain(value), sort_keys=True, separators=(",", ":"))
    return sha256(text.encode()).hexdigest()


def _plain(value: object) -> object:
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def _make(options: Options) -> Poll:
    fetcher = Fetcher(options.url, options.headers, options.timeout_seconds)
    try:
        pointer = Pointer(options.path)
    except ValueError as error:
        raise ValueError(f"path: {error}") from None
    return Poll(options, fetcher, pointer)


POLL = SourceType(Options, _make)
