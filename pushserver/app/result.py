"""The results of methods of `PushServer` and of clients, for any kind of coroutine."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from pushserver.channels.publication import Receipt


class Published:
    """A publication that was handed to the server.

    It is `done` at once, unless the server commits before it answers (`durability = "sync"`).
    `await` returns the Receipt with `offset`, `epoch` and `id`; on the asyncio reactor also in
    asyncio's coroutines.
    """

    _log = Logger()

    def __init__(self, receipt: Receipt | Deferred[Receipt]):
        self._receipt: Receipt | None = None
        self._failure: Failure | None = None
        self._waiting: list[Deferred[Receipt]] = []
        if isinstance(receipt, Deferred):
            receipt.addCallbacks(self._keep, self._failed)
        else:
            self._receipt = receipt

    @property
    def done(self) -> bool:
        """Whether the publication has its offset."""
        return self._receipt is not None

    @property
    def receipt(self) -> Receipt:
        """The receipt; raises RuntimeError before the commit, and Unavailable if it failed."""
        if self._failure is not None:
            self._failure.raiseException()
        if self._receipt is None:
            raise RuntimeError("not committed yet: await the publication")
        return self._receipt

    @property
    def offset(self) -> int:
        """The number of the publication in its channel."""
        return self.receipt.offset

    @property
    def id(self) -> str:
        """The id of the publication, from which a reader can resume."""
        return self.receipt.id

    def __await__(self) -> Generator[Any, Any, Receipt]:
        if self._receipt is not None or self._failure is not None:
            return self.receipt
        waiting: Deferred[Receipt] = Deferred()
        self._waiting.append(waiting)
        receipt: Receipt = yield from _await(waiting)
        return receipt

    def _keep(self, receipt: Receipt) -> None:
        self._receipt = receipt
        waiting, self._waiting = self._waiting, []
        for deferred in waiting:
            deferred.callback(receipt)

    def _failed(self, failure: Failure) -> None:
        self._failure = failure
        waiting, self._waiting = self._waiting, []
        if not waiting:
            self._log.failure(
                "a publication failed, and nobody awaited it",
                failure,
                event_name="publication_failed",
            )
        for deferred in waiting:
            deferred.errback(failure)


class Awaited:
    """A result that comes later, for any kind of coroutine: of `Client.call` and `App.last`."""

    def __init__(self, answer: Deferred[Any]):
        self._answer = answer

    def __await__(self) -> Generator[Any, Any, Any]:
        return (yield from _await(self._answer))


def _await(deferred: Deferred[Any]) -> Generator[Any, Any, Any]:
    if _in_asyncio():
        return (yield from deferred.asFuture(asyncio.get_running_loop()).__await__())
    return (yield from deferred.__await__())


def _in_asyncio() -> bool:
    try:
        return asyncio.current_task() is not None
    except RuntimeError:
        return False
