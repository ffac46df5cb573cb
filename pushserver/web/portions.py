"""Sends a long answer in portions, each when the last one has left."""

from __future__ import annotations

from collections.abc import Iterator

from twisted.internet.interfaces import IPushProducer
from twisted.web.server import Request
from zope.interface import implementer


@implementer(IPushProducer)
class Portions:
    """The body of an answer; `start` sends the head and the first portions.

    The connection asks for a pause when its buffer is full (64 KB), and counts its progress.
    """

    def __init__(self, request: Request, portions: Iterator[bytes]):
        self._request = request
        self._portions = portions
        self._paused = False
        self._ended = False

    def start(self) -> None:
        self._request.notifyFinish().addBoth(lambda _: self.stopProducing())
        self._request.registerProducer(self, True)
        self.resumeProducing()

    def pauseProducing(self) -> None:
        self._paused = True

    def resumeProducing(self) -> None:
        self._paused = False
        while not self._paused and not self._ended:
            portion = next(self._portions, b"")
            if portion:
                self._request.write(portion)
            else:
                self.stopProducing()
                self._request.unregisterProducer()
                self._request.finish()

    def stopProducing(self) -> None:
        """The answer is complete, or the connection is gone."""
        self._ended = True
        self._portions = iter(())
