"""The values that a source has taken from its function and not published yet."""

from __future__ import annotations

from collections import deque

from twisted.internet.defer import CancelledError

from pushserver.errors import InvalidData
from pushserver.sources.engine.retry import publish_when_possible
from pushserver.sources.functions.ticks import TickFeed, report
from pushserver.sources.interface import SourceFailed, Stopped


class Values:
    """A queue that outlives an attempt: the next one publishes its values first.

    A value may have been taken out of a queue or a file, so it leaves this one only when it was
    published, or cannot be. There is one value, or a second one that a thread brings after its
    attempt has ended.
    """

    def __init__(self) -> None:
        self._values: deque[object] = deque()

    def __bool__(self) -> bool:
        return bool(self._values)

    def put(self, value: object) -> None:
        """Add a value; None is no value. May be called from a thread."""
        if value is not None:
            self._values.append(value)

    async def publish_all(self, feed: TickFeed) -> None:
        """Publish all values, in order."""
        while self._values:
            await self.publish(feed)

    async def publish(self, feed: TickFeed) -> None:
        """Publish the first value, if there is one; report a value that JSON cannot hold."""
        if not self._values:
            return
        try:
            await publish_when_possible(feed, self._values[0])
        except InvalidData as error:
            # Without a traceback, which would show only our own lines.
            report(feed, SourceFailed(str(error)))
        except (CancelledError, Stopped):
            raise
        except Exception:
            # The next attempt would fail with it too.
            self._values.popleft()
            raise
        self._values.popleft()
