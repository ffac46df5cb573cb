"""What publishes from inside the server."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from random import random

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from pushserver import payload
from pushserver.channel import Draft, Receipt

Publish = Callable[[Draft], Awaitable[Receipt]]


def random_number() -> dict[str, float]:
    """A number from 0 to 10 with three decimals."""
    return {"number": round(random() * 10, 3)}


class TimerSource(Service):
    """Publishes what a function returns, at once and then each `every` seconds.

    A tick that raises is logged and the next one comes: a LoopingCall on its own stops
    for good at the first exception.
    """

    _log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        publish: Publish,
        make: Callable[[], object],
        channel: str,
        event: str,
        every: float,
    ):
        self._publish = publish
        self._make = make
        self._channel = channel
        self._event = event
        self._every = every
        self._loop = LoopingCall(lambda: Deferred.fromCoroutine(self._tick()))
        self._loop.clock = clock

    def startService(self) -> None:
        super().startService()
        self._loop.start(self._every)

    def stopService(self) -> None:
        super().stopService()
        if self._loop.running:
            self._loop.stop()

    async def _tick(self) -> None:
        try:
            data = payload.encode(self._make())
            await self._publish(Draft(self._channel, data, self._event))
        except Exception:
            self._log.failure("a tick of the source of {channel} failed", channel=self._channel)
