"""What `PushServer.publish` gives back, on whatever thread and in whatever kind of coroutine."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from pushserver.channel import Receipt


class Published:
    """A publication that was handed over; to be awaited, or asked.

    It is `done` at once unless the server commits before it answers (`durability = "sync"`).
    `await` gives the Receipt: `offset`, `epoch`, `id`; on the asyncio reactor in asyncio's
    coroutines too.
    """

    _log = Logger()

    def __init__(self, receipt: Deferred[Receipt]):
        self._deferred = receipt
        self._receipt: Receipt | None = None
        self._awaited = False
        receipt.addCallbacks(self._keep, self._failed)

    @property
    def done(self) -> bool:
        """Whether it has its offset."""
        return self._receipt is not None

    @property
    def receipt(self) -> Receipt:
        """Where it ended up; raises RuntimeError while that is not known."""
        if self._receipt is None:
            raise RuntimeError("not committed yet: await the publication")
        return self._receipt

    @property
    def offset(self) -> int:
        """Its number in its channel."""
        return self.receipt.offset

    @property
    def id(self) -> str:
        """The cursor to go on from after it."""
        return self.receipt.id

    def __await__(self) -> Generator[Any, Any, Receipt]:
        self._awaited = True
        if self._receipt is not None:
            return self._receipt
        waiting: Deferred[Receipt] = Deferred()
        self._deferred.addBoth(_copy, waiting)
        if _in_asyncio():
            return (yield from waiting.asFuture(asyncio.get_running_loop()).__await__())
        return (yield from waiting.__await__())

    def _keep(self, receipt: Receipt) -> Receipt:
        self._receipt = receipt
        return receipt

    def _failed(self, failure: Failure) -> Failure | None:
        if self._awaited:
            return failure
        self._log.failure("a publication failed, and nobody awaited it", failure)
        return None


def _copy(result: Any, to: Deferred[Receipt]) -> Any:
    to.callback(result)
    return None if isinstance(result, Failure) else result


def _in_asyncio() -> bool:
    try:
        return asyncio.current_task() is not None
    except RuntimeError:
        return False
