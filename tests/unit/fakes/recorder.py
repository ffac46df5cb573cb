"""A feed that records the acts of a source."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from pushserver.channels import jsontext
from pushserver.channels.publication import Receipt
from tests.unit.fakes.tools import EPOCH


class Recorder:
    """A Feed. Publications wait while `held`; each publication first raises the next of `fails`."""

    def __init__(self, reactor: Any = None, remembered: object = None):
        self.name = "log"
        self.channel = "lines"
        self.event = "message"
        self.reactor = Clock() if reactor is None else reactor
        self.monotonic: Callable[[], float] = self.reactor.seconds
        self.published: list[Any] = []
        self.tags: list[dict[str, str] | None] = []
        self.troubles: list[str] = []
        self.oks = 0
        self.memory = remembered
        self.held: Deferred[None] | None = None
        self.waits = False
        """Whether a publication was held."""
        self.fails: list[Exception] = []
        self._waits: list[tuple[int, Deferred[None]]] = []

    async def publish(
        self,
        data: object,
        event: str = "",
        channel: str = "",
        tags: dict[str, str] | None = None,
        key: str = "",
    ) -> Receipt:
        jsontext.encode(data)
        if self.held is not None:
            self.waits = True
            await self.held
        if self.fails:
            raise self.fails.pop(0)
        self.published.append(data)
        self.tags.append(tags)
        for count, waiting in self._waits:
            if len(self.published) >= count:
                # In another turn: in this one the source runs.
                self.reactor.callLater(0, waiting.callback, None)
        self._waits = [(count, w) for count, w in self._waits if len(self.published) < count]
        return Receipt(EPOCH, len(self.published), len(self.published))

    def delay(self) -> float:
        return 0.0

    async def sleep(self, seconds: float) -> None:
        done: Deferred[None] = Deferred(lambda _: call.cancel())
        call = self.reactor.callLater(seconds, done.callback, None)
        await done

    def remembered(self) -> object:
        return self.memory

    def remember(self, value: object) -> None:
        jsontext.encode(value)
        self.memory = value

    def trouble(self, message: str) -> None:
        self.troubles.append(message)

    def ok(self) -> None:
        self.oks += 1

    def hold(self) -> Deferred[None]:
        """Publish nothing until the result is fired."""
        self.held = Deferred()
        return self.held

    def release(self) -> None:
        """Let publications through."""
        held, self.held = self.held, None
        assert held is not None
        held.callback(None)

    def until(self, count: int) -> Deferred[None]:
        """Fires after this number of publications."""
        waiting: Deferred[None] = Deferred()
        if len(self.published) >= count:
            waiting.callback(None)
        else:
            self._waits.append((count, waiting))
        return waiting
