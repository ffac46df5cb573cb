"""What a source is, what it is given, and how a type of sources is made known."""

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

        Returning ends the source for good; raising ends this attempt, and it is started
        again after a back-off. It runs on the reactor's thread and must not block. It is
        cancelled (CancelledError out of what it awaits) when the server stops or, on demand,
        when nobody watches any more. It is left behind when it then does not end; a source
        that needs longer for that than others has an attribute `stop_seconds`.
        """


class IHook(Interface):
    """A source to which outside services post, at /hooks/NAME."""

    def receive(headers: Mapping[str, str], body: bytes) -> Awaitable[tuple[int, object]]:
        """Take one request; an HTTP status and an answer for JSON.

        The names of the headers are in lower case; the body is bounded already.
        """


class ISourceType(Interface):
    """A type of sources, as a plug-in: an object that provides this and IPlugin."""

    name: str = Attribute("What `type = ` says.")
    options: type = Attribute(
        "A frozen dataclass; its fields are the keys of [sources.NAME] beside the common ones."
        " A range is said by Annotated and msgspec.Meta."
    )
    extra: str = Attribute("The extra of pip that it needs, or an empty string.")

    def make(options: Any) -> Any:
        """An ISource with these options.

        Raises ValueError that names the key, its value and what was expected.
        """


class Feed(Protocol):
    """What a source publishes by; for the thread of the reactor alone."""

    name: str
    """Of [sources.NAME], or of the function."""
    channel: str
    event: str
    reactor: Any
    """The reactor of Twisted; in a test a clock.

    Any, so that it can be given to what asks for one of Twisted's many interfaces of it.
    """

    async def publish(
        self,
        data: object,
        event: str = "",
        channel: str = "",
        tags: dict[str, str] | None = None,
        key: str = "",
    ) -> Receipt:
        """Publish a JSON value; where event or channel is empty, those of the source.

        Waits while the source is over its rate: it is slowed, and nothing is dropped. `key`
        is an idempotency key. Raises InvalidData for what JSON cannot hold, and Unavailable.
        """

    def monotonic(self) -> float:
        """Seconds to measure with: where the wall clock is set, these go on as before."""

    def delay(self) -> float:
        """For how many seconds `publish` would wait now; 0: not at all."""

    async def sleep(self, seconds: float) -> None:
        """Wait."""

    def remembered(self) -> object:
        """The JSON value given to `remember` last, None if there is none.

        Also across a restart, where there is a store.
        """

    def remember(self, value: object) -> None:
        """Keep a JSON value for the next attempt, or the next start of the server."""

    def trouble(self, message: str) -> None:
        """Something went wrong that does not end the attempt.

        It is counted, shown as the last error, and logged once for each message.
        """

    def ok(self) -> None:
        """The attempt works: connected, or answered for the first time.

        The last error is over, and the back-off starts anew. A publication says the same.
        """
