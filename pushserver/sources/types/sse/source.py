"""`type = "sse"`: publishes the events of a stream of somebody else's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal

from msgspec import Meta
from zope.interface import implementer

from pushserver.channels import jsontext
from pushserver.channels.names import check_event
from pushserver.config.limits import Positive
from pushserver.errors import InvalidData, InvalidName
from pushserver.sources.http_client.fetch import Fetcher, with_timeout
from pushserver.sources.http_client.response import Response, UnusableResponse
from pushserver.sources.interface import Feed, ISource, SourceFailed
from pushserver.sources.types.publish import offer
from pushserver.sources.types.source_type import SourceType
from pushserver.sources.types.sse.parser import Event, Parser

RETRY_SECONDS = 3.0
"""How long after its end a stream is connected to again that has not said when."""
LEAST_RETRY_SECONDS, MOST_RETRY_SECONDS = 1.0, 60.0
KEEP_SECONDS = 1.0
"""How often at most the last id is remembered."""

_EVENT_STREAM = "text/event-stream"
# Beyond this a browser's numbers lose digits; what has more is an identifier.
_EXACT = 2**53


@dataclass(frozen=True, slots=True)
class Options:
    """What stands in the table of the source beside the common keys; times in seconds."""

    url: str
    events: list[str] = field(default_factory=list)
    """The names of the events to take, `message` for those without; empty for all."""
    format: Literal["auto", "json", "text"] = "auto"
    """What the data is: JSON, a string, or `auto`: JSON if it is that, else a string."""
    resume: bool = True
    """Whether a new start goes on after the last event that was seen."""
    headers: dict[str, str] = field(default_factory=dict, repr=False)
    timeout_seconds: Positive = 30.0
    """How long it may take until the stream begins."""
    silence_seconds: Positive = 60.0
    """How long nothing at all may come, before it is connected to again."""
    max_event_bytes: Annotated[int, Meta(ge=1, le=16_777_216)] = 1_048_576
    """The longest event; what is longer is left out, and told."""


@implementer(ISource)
class RemoteStream:
    """Keeps a stream open, and publishes its events in order.

    It connects again after each end, and goes on after the last event that it saw; that is
    remembered each second at most, so that a server that is killed publishes again what
    came in its last second.
    """

    def __init__(self, options: Options, fetcher: Fetcher):
        self._options = options
        self._fetcher = fetcher
        self._last_id = ""
        self._kept_id = ""
        self._kept_at = float("-inf")

    async def run(self, feed: Feed) -> None:
        self._last_id = self._kept_id = self._remembered(feed)
        try:
            while (pause := await self._visit(feed)) is not None:
                await feed.sleep(pause)
        finally:
            self._keep(feed)

    async def _visit(self, feed: Feed) -> float | None:
        """Follow one stream to its end; how long to wait for the next, None if there is none."""
        headers = {"accept": _EVENT_STREAM, "cache-control": "no-store"}
        if self._last_id:
            headers["last-event-id"] = self._last_id
        try:
            response = await self._fetcher.open(feed.reactor, headers)
            try:
                if response.status == 204:
                    return None
                _check(response)
                feed.ok()
                return await self._follow(feed, response)
            finally:
                response.close()
        except UnusableResponse as error:
            if not error.retry_seconds:
                raise
            feed.trouble(str(error))
            return error.retry_seconds

    async def _follow(self, feed: Feed, response: Response) -> float:
        options = self._options
        parser = Parser(options.max_event_bytes, self._last_id)
        came, skipped = False, 0
        problem = f"{response.host} ended the stream before anything came"
        while True:
            try:
                piece = await with_timeout(options.silence_seconds, feed.reactor, response.read())
            except TimeoutError:
                seconds = f"{options.silence_seconds:g} s (silence_seconds)"
                feed.trouble(f"nothing came from {response.host} for {seconds}")
                break
            except SourceFailed as error:
                problem = str(error)
                piece = b""
            if not piece:
                # That something came tells a stream that ends from a server that cannot.
                if not came:
                    raise SourceFailed(problem)
                if problem:
                    feed.trouble(problem)
                break
            came, problem = True, ""
            for event in parser.feed(piece):
                await self._publish(feed, event)
                self._saw(feed, event.id)
            self._saw(feed, parser.last_id)
            if parser.skipped > skipped:
                skipped = parser.skipped
                most = f"{options.max_event_bytes} bytes (max_event_bytes)"
                feed.trouble(f"an event of more than {most} was left out")
        retry = RETRY_SECONDS if parser.retry_seconds is None else parser.retry_seconds
        return min(max(retry, LEAST_RETRY_SECONDS), MOST_RETRY_SECONDS)

    async def _publish(self, feed: Feed, event: Event) -> None:
        options = self._options
        if options.events and event.name not in options.events:
            return
        name = ""
        if event.name != "message" and feed.event == "message":
            try:
                name = check_event(event.name)
            except InvalidName as error:
                feed.trouble(str(error))
        try:
            await offer(feed, self._value(event.data), name)
        except InvalidData as error:
            feed.trouble(f"an event was left out: {error}")

    def _value(self, data: str) -> object:
        if self._options.format == "text":
            return data
        try:
            value = jsontext.decode(data.encode())
        except InvalidData as error:
            if self._options.format == "json":
                raise InvalidData(f"it is not JSON: {error}") from None
            return data
        if self._options.format == "auto" and isinstance(value, int) and abs(value) > _EXACT:
            return data
        return value

    def _remembered(self, feed: Feed) -> str:
        known = feed.remembered()
        if not self._options.resume or not isinstance(known, Mapping):
            return ""
        last_id = known.get("id")
        of_this = known.get("url") == self._fetcher.url_digest
        return last_id if of_this and isinstance(last_id, str) else ""

    def _saw(self, feed: Feed, last_id: str) -> None:
        self._last_id = last_id
        if feed.monotonic() - self._kept_at >= KEEP_SECONDS:
            self._keep(feed)

    def _keep(self, feed: Feed) -> None:
        if self._last_id != self._kept_id:
            feed.remember({"url": self._fetcher.url_digest, "id": self._last_id})
            self._kept_id = self._last_id
            self._kept_at = feed.monotonic()


def _check(response: Response) -> None:
    """Raise UnusableResponse unless it is a stream of events."""
    if response.status != 200:
        raise response.status_error()
    media = response.header("content-type").partition(";")[0].strip().lower()
    if media != _EVENT_STREAM:
        problem = f"content-type {media!r:.60}, expected {_EVENT_STREAM}"
        raise UnusableResponse(f"{response.host} answered with {problem}")
    coding = response.header("content-encoding").strip().lower()
    if coding not in ("", "identity"):
        raise UnusableResponse(
            f"{response.host} answered in {coding!r:.40}, which was not asked for"
        )


def _make(options: Options) -> RemoteStream:
    fetcher = Fetcher(options.url, options.headers, options.timeout_seconds)
    return RemoteStream(options, fetcher)


SSE = SourceType(Options, _make)
