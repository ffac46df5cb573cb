"""`type = "sse"`: publishes the events of a stream of another server."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal

from msgspec import Meta
from zope.interface import implementer

from pushserver.channels import jsontext
from pushserver.channels.names import check_event
from pushserver.config.limits import Positive
from pushserver.errors import InvalidData, InvalidName
from pushserver.protocols.formats import END_EVENT, SUBSCRIBED_EVENT
from pushserver.sources.engine.retry import publish_when_possible
from pushserver.sources.http_client.fetch import Fetcher, with_timeout
from pushserver.sources.http_client.response import Response, UnusableResponse
from pushserver.sources.interface import Feed, ISource, SourceFailed
from pushserver.sources.types.source_type import BuiltInType
from pushserver.sources.types.sse.parser import Event, Parser

RETRY_SECONDS = 3.0
"""The delay before a new connection if the stream set none."""
MIN_RETRY_SECONDS, MAX_RETRY_SECONDS = 1.0, 60.0
REMEMBER_SECONDS = 1.0
"""The last id is remembered at most this often."""

_EVENT_STREAM = "text/event-stream"
# Larger integers lose digits in browsers; they are identifiers.
_EXACT = 2**53


@dataclass(frozen=True, slots=True)
class Options:
    """The keys of the table of the source beside the common ones; times in seconds."""

    url: str
    events: list[str] = field(default_factory=list)
    """The names of the events to publish, `message` for unnamed ones; empty for all."""
    format: Literal["auto", "json", "text"] = "auto"
    """The type of the data; `auto`: JSON if it is valid JSON, else text."""
    resume: bool = True
    """Whether a new start continues after the last event."""
    headers: dict[str, str] = field(default_factory=dict, repr=False)
    timeout_seconds: Positive = 30.0
    """The time to the head of the response."""
    silence_seconds: Positive = 60.0
    """The connection is replaced after this time without any data."""
    max_event_bytes: Annotated[int, Meta(ge=1, le=16_777_216)] = 1_048_576
    """The longest event; longer ones are skipped with a warning."""


@implementer(ISource)
class SseSource:
    """Keeps a stream open, and publishes its events in order.

    It reconnects after each end, and continues after the last event. The last id is remembered
    once a second, so that the events of the last second are repeated if the server is killed.
    Without an id nothing is repeated: the next run first publishes the events that were read.
    """

    def __init__(self, options: Options, fetcher: Fetcher):
        self._options = options
        self._fetcher = fetcher
        self._last_id = ""
        self._remembered_id = ""
        self._remembered_at = float("-inf")
        # Events that were read and not published yet.
        self._events: deque[Event] = deque()

    async def run(self, feed: Feed) -> None:
        self._last_id = self._remembered_id = self._recall(feed)
        try:
            await self._publish_rest(feed)
            while (pause := await self._connect(feed)) is not None:
                await feed.sleep(pause)
        finally:
            self._remember(feed)

    async def _connect(self, feed: Feed) -> float | None:
        """Follow a stream to its end; return the delay before the next, None if there is none."""
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
        has_data, skipped = False, 0
        problem = f"{response.host} ended the stream before it sent anything"
        while True:
            try:
                piece = await with_timeout(options.silence_seconds, feed.reactor, response.read())
            except TimeoutError:
                seconds = f"{options.silence_seconds:g} s (silence_seconds)"
                feed.trouble(f"{response.host} sent nothing for {seconds}")
                break
            except SourceFailed as error:
                problem = str(error)
                piece = b""
            if not piece:
                # A stream without any data is a failing server, not the end of a stream.
                if not has_data:
                    raise SourceFailed(problem)
                if problem:
                    feed.trouble(problem)
                break
            has_data, problem = True, ""
            self._events.extend(parser.feed(piece))
            await self._publish_events(feed)
            self._set_last_id(feed, parser.last_id)
            if parser.skipped > skipped:
                skipped = parser.skipped
                limit = f"{options.max_event_bytes} bytes (max_event_bytes)"
                feed.trouble(f"an event of more than {limit} was skipped")
        retry = RETRY_SECONDS if parser.retry_seconds is None else parser.retry_seconds
        return min(max(retry, MIN_RETRY_SECONDS), MAX_RETRY_SECONDS)

    async def _publish_rest(self, feed: Feed) -> None:
        """Publish the events that the last run has left, unless the other server repeats them."""
        if self._last_id:
            self._events.clear()
        await self._publish_events(feed)

    async def _publish_events(self, feed: Feed) -> None:
        while self._events:
            event = self._events[0]
            await self._publish(feed, event)
            self._events.popleft()
            self._set_last_id(feed, event.id)

    async def _publish(self, feed: Feed, event: Event) -> None:
        options = self._options
        if event.name == END_EVENT:
            feed.trouble(f"the other server ended the stream: {event.data:.200}")
            return
        if event.name == SUBSCRIBED_EVENT or (options.events and event.name not in options.events):
            return
        name = ""
        if event.name != "message" and feed.event == "message":
            try:
                name = check_event(event.name)
            except InvalidName as error:
                feed.trouble(str(error))
        try:
            await publish_when_possible(feed, self._value(event.data), name)
        except InvalidData as error:
            feed.trouble(f"an event was skipped: {error}")

    def _value(self, data: str) -> object:
        if self._options.format == "text":
            return data
        try:
            value = jsontext.repaired(data.encode())
        except InvalidData as error:
            if self._options.format == "json":
                raise InvalidData(f"it is not JSON: {error}") from None
            return data
        if self._options.format == "auto" and isinstance(value, int) and abs(value) > _EXACT:
            return data
        return value

    def _recall(self, feed: Feed) -> str:
        remembered = feed.remembered()
        if not self._options.resume or not isinstance(remembered, Mapping):
            return ""
        last_id = remembered.get("id")
        same_url = remembered.get("url") == self._fetcher.url_digest
        return last_id if same_url and isinstance(last_id, str) else ""

    def _set_last_id(self, feed: Feed, last_id: str) -> None:
        self._last_id = last_id
        if feed.monotonic() - self._remembered_at >= REMEMBER_SECONDS:
            self._remember(feed)

    def _remember(self, feed: Feed) -> None:
        if self._last_id != self._remembered_id:
            feed.remember({"url": self._fetcher.url_digest, "id": self._last_id})
            self._remembered_id = self._last_id
            self._remembered_at = feed.monotonic()


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


def _make(options: Options) -> SseSource:
    fetcher = Fetcher(options.url, options.headers, options.timeout_seconds)
    return SseSource(options, fetcher)


SSE = BuiltInType(Options, _make)
