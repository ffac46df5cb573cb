"""`type = "poll"`: fetches a JSON document at intervals, and publishes it when it changes."""

from __future__ import annotations

import json
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
from pushserver.sources.types.publish import publish
from pushserver.sources.types.source_type import BuiltInType


@dataclass(frozen=True, slots=True)
class Options:
    """The keys of the table of the source beside the common ones; times in seconds."""

    url: str
    every: Positive = 60.0
    path: str = ""
    """A JSON Pointer (RFC 6901) to the part of the document that is published."""
    publish: Literal["changed", "always"] = "changed"
    """`changed`: a value equal to the last one is not published."""
    headers: dict[str, str] = field(default_factory=dict, repr=False)
    timeout_seconds: Positive = 30.0
    max_bytes: Annotated[int, Meta(ge=1, le=16_777_216)] = 1_048_576
    """The longest document, before and after decompression."""


@implementer(ISource)
class PollSource:
    """Fetches and publishes a document; remembers a digest of the last published value."""

    def __init__(self, options: Options, fetcher: Fetcher, pointer: Pointer):
        self._pointer = pointer
        self._always = options.publish == "always"
        self._identity = [fetcher.url_digest, options.path]
        self._polling = Polling(fetcher, options.every, options.max_bytes, not self._always)
        self._host = fetcher.host

    async def run(self, feed: Feed) -> None:
        async def handle(document: Document) -> None:
            await self._handle(feed, document)

        await self._polling.run(feed, handle)

    async def _handle(self, feed: Feed, document: Document) -> None:
        try:
            whole = jsontext.repaired(document.body)
        except InvalidData as error:
            raise UnusableResponse(f"{self._host} answered with invalid JSON: {error}") from None
        try:
            value = self._pointer.get(whole)
            state = {"of": self._identity, "digest": digest(value)}
            if self._always or feed.remembered() != state:
                await publish(feed, value)
                feed.remember(state)
        except NotThere as error:
            raise UnusableResponse(
                f"path: the answer of {self._host} has nothing at {error}"
            ) from None
        except (InvalidData, RecursionError) as error:
            raise UnusableResponse(
                f"the answer of {self._host} cannot be published: {error}"
            ) from None


def digest(value: object) -> str:
    """Return a digest that is equal for equal JSON values: 1.0 is 1, keys have no order."""
    text = json.dumps(_normalized(value), sort_keys=True, separators=(",", ":"))
    return sha256(text.encode()).hexdigest()


def _normalized(value: object) -> object:
    if isinstance(value, dict):
        return {key: _normalized(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_normalized(inner) for inner in value]
    if isinstance(value, float) and value.is_integer() and abs(value) < _LONG:
        return int(value)
    if isinstance(value, int) and abs(value) >= _LONG and value == float(value):
        # Not the other way round: 1e308 would become 309 digits, and a megabyte of it 54.
        return float(value)
    return value


def _make(options: Options) -> PollSource:
    fetcher = Fetcher(options.url, options.headers, options.timeout_seconds)
    try:
        pointer = Pointer(options.path)
    except ValueError as error:
        raise ValueError(f"path: {error}") from None
    return PollSource(options, fetcher, pointer)


_LONG = 1 << 64
"""Integers from this one on are written as floats where they are equal to one."""

POLL = BuiltInType(Options, _make)
