"""The interfaces of a source, a webhook and a type of sources, and the feed of a source."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from typing import Any, Protocol

from zope.interface import Attribute, Interface

from pushserver.channels.publication import Receipt
from pushserver.errors import SourceFailed as SourceFailed
from pushserver.errors import Stopped as Stopped


class ISource(Interface):
    """Publishes from inside the server."""

    def run(feed: Feed) -> Awaitable[None]:
        """Publish by `feed` until cancelled.

        Returning ends the source for good; raising ends this attempt, and the next one starts
        after a back-off. It runs on the reactor's thread and must not block. It is cancelled
        (an `await` in it raises CancelledError) when the server stops or, on demand, when the
        channel has no subscriber any more. A source that then does not end in time is abandoned;
        the attribute `stop_seconds` gives it more time.
        """


class IHook(Interface):
    """A source to which other services post, at /hooks/NAME."""

    def receive(headers: Mapping[str, str], body: bytes) -> Awaitable[tuple[int, object]]:
        """Handle one request; return an HTTP status and a value for the JSON response.

        The names of the headers are in lower case; the length of the body is already bounded.
        """


class ISourceType(Interface):
    """A type of sources, as a plug-in: an object that provides this and IPlugin."""

    name: str = Attribute("The value of `type` in the configuration.")
    options: type = Attribute(
        "A frozen dataclass; its fields are the keys of [sources.NAME] beside the common ones."
        " Annotated and msgspec.Meta give their ranges."
    )
    extra: str = Attribute("The extra of pip that it needs, or an empty string.")

    def make(options: Any) -> Any:
        """Return an ISource with these options.

        Raises ValueError that names the key, its value and the expected value.
        """


class Feed(Protocol):
    """The methods by which a source publishes; for the reactor's thread only."""

    name: str
    """The name of the table [sources.NAME], or of the function."""
    channel: str
    event: str
    reactor: Any
    """The reactor of Twisted; a Clock in tests.

    Any, because functions of Twisted ask for one of its many interfaces.
    """

    async def publish(
        self,
        data: object,
        event: str = "",
        channel: str = "",
        tags: dict[str, str] | None = None,
        key: str = "",
    ) -> Receipt:
        """Publish a JSON value; an empty event or channel means that of the source.

        Waits while the source exceeds its rate: the source is slowed, and nothing is dropped.
        `key` is an idempotency key. Raises InvalidData for a value that JSON cannot hold,
        and Unavailable if the server cannot publish now. When it raises CancelledError, nothing
        was published.
        """

    def monotonic(self) -> float:
        """Seconds of a clock that never jumps, to measure durations with."""

    def delay(self) -> float:
        """Return the seconds that `publish` would wait now, or 0."""

    async def sleep(self, seconds: float) -> None:
        """Wait for `seconds`, at least for one turn of the reactor."""

    def remembered(self) -> object:
        """Return the JSON value last given to `remember`, or None.

        With a store the value survives a restart.
        """

    def remember(self, value: object) -> None:
        """Keep a JSON value for the next attempt and the next start of the server."""

    def trouble(self, message: str) -> None:
        """Report a warning that does not end the attempt.

        It is counted, shown as the last error, and logged once for each message.
        """

    def ok(self) -> None:
        """Report that the attempt works: it is connected, or has its first response.

        This clears the last error and resets the back-off. A publication does the same.
        """
