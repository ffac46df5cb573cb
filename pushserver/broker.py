"""Between publishing and delivering: what numbers and keeps publications."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from pushserver.channel import Draft, Publication
from pushserver.history import History

Deliver = Callable[[Publication], None]


class Broker(Protocol):
    """Numbers each draft, keeps it, and hands it on for delivery in the order of its offsets.

    `publish` answers when the publication is appended and kept to the degree that this
    broker promises. `history` is the log to read from, complete up to what was delivered.
    """

    history: History

    def attach(self, deliver: Deliver) -> None:
        """Hand each publication on to `deliver`; called once, before the first publish."""

    async def publish(self, draft: Draft) -> Publication:
        """Append the draft; raises nothing but what says that it was not appended."""


class MemoryBroker:
    """One process, its memory: all of a publication happens in the publisher's own turn."""

    def __init__(self, history: History, clock: Callable[[], float]):
        self.history = history
        self._clock = clock
        self._deliver: Deliver = _to_nobody

    def attach(self, deliver: Deliver) -> None:
        self._deliver = deliver

    async def publish(self, draft: Draft) -> Publication:
        publication = self.history.number(draft, self._clock())
        self.history.append(publication)
        self._deliver(publication)
        return publication


def _to_nobody(publication: Publication) -> None:
    """Until a hub is attached."""
