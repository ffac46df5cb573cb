"""Streams over plain HTTP: answers without an end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, cast

from twisted.internet.interfaces import IPushProducer
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.server import NOT_DONE_YET, Request
from zope.interface import implementer

from pushserver.backlog import Backlog
from pushserver.formats import Format
from pushserver.limits import Limits
from pushserver.site import PushRequest


class Conversation(Protocol):
    """What is on the other side of the transport."""

    def slow(self) -> None:
        """The peer leaves more unread than it may: end it at once."""

    def closed(self) -> None:
        """The connection is gone."""


class Responses:
    """Makes transports of requests."""

    def __init__(self, limits: Limits, log: Logger):
        self._limits = limits
        self._log = log

    def open(
        self, request: Request, format: Format, begin: Callable[[ResponseTransport], Conversation]
    ) -> int:
        """Answer the request with a stream; `begin` gets its transport."""
        request.setHeader(b"cache-control", b"no-store")
        # Else nginx keeps the answer until it has four kilobytes of it.
        request.setHeader(b"x-accel-buffering", b"no")
        transport = ResponseTransport(request, format, self._limits, self._log)
        transport.attach(begin(transport))
        return NOT_DONE_YET


@implementer(IPushProducer)
class ResponseTransport:
    """One peer's frames out, as the body of a response that has begun."""

    def __init__(self, request: Request, format: Any, limits: Limits, log: Logger):
        self.format = format
        self._request: Request | None = request
        self._backlog = Backlog(limits.queue_bytes)
        self._log = log
        address = request.getClientAddress()
        self._peer = f"{getattr(address, 'host', 'unix')}:{getattr(address, 'port', '')}"
        self._conversation: Conversation | None = None
        self._finished = request.notifyFinish()
        request.registerProducer(self, True)

    def attach(self, conversation: Conversation) -> None:
        """Tell the conversation when the peer is gone."""
        self._log.debug("{peer} came by {transport}", peer=self._peer, transport=self.format.name)
        self._conversation = conversation
        self._finished.addBoth(self._gone)

    def write(self, frame: bytes) -> None:
        if self._request is not None:
            self._request.write(frame)
            if not self._backlog.add(len(frame)):
                self._log.info(
                    "{peer} is dropped: it left {queued} bytes unread (queue_bytes)",
                    peer=self._peer,
                    queued=self._backlog.queued,
                )
                if self._conversation is not None:
                    self._conversation.slow()

    def close(self, code: int, reason: str) -> None:
        """End the response and the connection."""
        request, self._request = self._request, None
        if request is not None:
            channel = request.channel
            request.unregisterProducer()
            request.finish()
            channel.loseConnection()

    def abort(self) -> None:
        request, self._request = self._request, None
        if request is not None:
            cast(PushRequest, request).abort()

    def pauseProducing(self) -> None:
        self._backlog.pause()

    def resumeProducing(self) -> None:
        self._backlog.resume()

    def stopProducing(self) -> None:
        """The connection is lost; the request's notifyFinish says so to the conversation."""

    def _gone(self, result: Failure | None) -> None:
        self._request = None
        conversation, self._conversation = self._conversation, None
        self._log.debug("{peer} left", peer=self._peer)
        if conversation is not None:
            conversation.closed()
