"""The answer to one request, which a thread of the application sends piece by piece."""

from __future__ import annotations

import threading
from typing import Any

from twisted.internet.interfaces import IPushProducer, IReactorFromThreads
from twisted.web.server import Request
from zope.interface import implementer

from pushserver.web.resource import Refusal, refuse
from pushserver.web.site import HEADERS
from pushserver.wsgi.head import Head

PIECE = 65_536
"""The most bytes that are sent at once; the connection asks for a pause at this size."""

FAILED = Refusal(500, "the application failed")
INCOMPLETE = Refusal(503, "the server is shutting down", {"retry-after": "1"})


class Disconnected(ConnectionAbortedError):
    """The client has left; nothing more is sent to it."""

    def __init__(self) -> None:
        super().__init__("the client has disconnected")


@implementer(IPushProducer)
class Answer:
    """Passes the pieces of one answer from its thread to the reactor's.

    One piece at a time is on its way, and none while the client does not read: `send` waits. All
    methods except `send` and `gone` are for the reactor's thread.
    """

    def __init__(self, request: Request, reactor: IReactorFromThreads):
        self._request = request
        self._reactor = reactor
        self._changed = threading.Condition()
        self._sending = False
        self._paused = False
        self._gone = False
        self._started = False
        request.notifyFinish().addBoth(lambda _: self.leave())

    @property
    def gone(self) -> bool:
        """Whether the client has left, or the answer has ended."""
        return self._gone

    def send(self, head: Head | None, data: bytes) -> None:
        """Send a piece, the first one with the head; returns before it has left.

        For the thread of the application. Raises Disconnected.
        """
        with self._changed:
            while (self._sending or self._paused) and not self._gone:
                self._changed.wait()
            if self._gone:
                raise Disconnected
            self._sending = True
        self._reactor.callFromThread(self._write, head, data)

    def _write(self, head: Head | None, data: bytes) -> None:
        if head is not None:
            self._begin(head)
        if not self._gone:
            self._request.write(data)
        self._change(sending=False)

    def _begin(self, head: Head) -> None:
        if self._gone:
            return
        request: Any = self._request
        self._started = True
        # The policies of the server's own pages are none of the application's.
        for name in HEADERS:
            if name != b"server":
                request.responseHeaders.removeHeader(name)
        request.defaultContentType = None
        request.setResponseCode(head.status, head.reason)
        for name, value in head.headers:
            request.responseHeaders.addRawHeader(name, value)
        request.registerProducer(self, True)

    def finish(self, head: Head | None) -> None:
        """Everything was sent; `head` if nothing was sent before."""
        if head is not None:
            self._begin(head)
        if not self._gone:
            self._request.unregisterProducer()
            self._request.finish()

    def fail(self, refusal: Refusal = FAILED) -> None:
        """The application has failed: say so, or close the connection if the head was sent."""
        if self._gone:
            return
        if self._started:
            self.leave()
            self._request.unregisterProducer()
            self._request.loseConnection()
            return
        body = refuse(self._request, refusal)
        self._request.setHeader(b"content-length", b"%d" % len(body))
        # twisted.web leaves out the body of an answer to HEAD.
        self._request.write(body)
        self._request.finish()

    def leave(self) -> None:
        """Send nothing more."""
        self._gone = True
        self._change(sending=False)

    def pauseProducing(self) -> None:
        self._change(paused=True)

    def resumeProducing(self) -> None:
        self._change(paused=False)

    def stopProducing(self) -> None:
        self.leave()

    def _change(self, sending: bool | None = None, paused: bool | None = None) -> None:
        with self._changed:
            self._sending = self._sending if sending is None else sending
            self._paused = self._paused if paused is None else paused
            self._changed.notify()
