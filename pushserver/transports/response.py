"""Streams conversations as the bodies of HTTP responses."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.server import NOT_DONE_YET, Request

from pushserver.auth.proxies import Proxies
from pushserver.protocols.formats import Format
from pushserver.sessions.base import Conversation
from pushserver.transports.backlog import Bounds
from pushserver.transports.limited_log import LimitedLog
from pushserver.transports.outlet import LOST_OUTLET, SLOW, Outlet, make_outlet
from pushserver.web.admission import Admission
from pushserver.web.checks import client_name
from pushserver.web.heads import forget_head
from pushserver.web.mount import abort, end, mark_open_ended
from pushserver.web.sockets import is_closed


class Responses:
    """Answers requests with streams."""

    def __init__(self, bounds: Bounds, log: Logger, proxies: Proxies, admission: Admission):
        """`proxies`: those whose word on the client's address is logged."""
        self._admission = admission
        self._bounds = bounds
        self._log = log
        self._limited = LimitedLog(log, bounds.clock)
        self._proxies = proxies

    def open(
        self,
        request: Request,
        format: Format,
        make_conversation: Callable[[ResponseTransport], Conversation[Any]],
    ) -> int:
        """Answer the request with a stream; `make_conversation` gets its transport.

        Raises TooMany.
        """
        if is_closed(request.channel.transport):
            abort(request.channel)
            return NOT_DONE_YET
        self._admission.claim(request)
        request.setHeader(b"cache-control", b"no-store")
        # Without it nginx buffers the response until it has four kilobytes.
        request.setHeader(b"x-accel-buffering", b"no")
        # The head; twisted.web says "chunked" in it where the client speaks HTTP/1.1.
        request.write(b"")
        if request.chunked and format.coded is not None:
            format = format.coded
        peer = client_name(request, self._proxies)
        transport = ResponseTransport(request, format, self._bounds, self._log, self._limited, peer)
        path = request.path
        forget_head(request, answered=True)
        try:
            make_conversation(transport)
        except Exception:
            # The head is sent: the response can only be ended.
            self._log.failure("{path} failed", path=path, event_name="request_failed")
            transport.close(0, "")
        return NOT_DONE_YET


class ResponseTransport:
    """Sends frames as the body of a response whose head is sent.

    They are not written through twisted.web, since each is a whole chunk already.
    """

    def __init__(
        self,
        request: Request,
        format: Any,
        bounds: Bounds,
        log: Logger,
        limited: LimitedLog,
        peer: str,
    ):
        """`limited`: for lines that each peer can cause; `peer`: the client's address, for both."""
        self.format = format
        self._request = request
        self._channel: Any = request.channel
        # The connection ends with the response, so no further request is read.
        self._channel.persistent = False
        mark_open_ended(self._channel)
        self._open = True
        self._log = log
        self._limited = limited
        self.peer = peer
        self.conversation: Conversation[Any] | None = None
        self._finished = request.notifyFinish()
        transport: Any = self._channel.transport
        # The HTTP channel is its producer, and would stop reading while the buffer is full.
        transport.unregisterProducer()
        self.outlet: Outlet = make_outlet(transport, bounds, self)

    def attach(self, conversation: Conversation[Any]) -> None:
        self._log.debug(
            "{peer} came by {transport}",
            peer=self.peer,
            transport=self.format.name,
            event_name="client_connected",
        )
        self.conversation = conversation
        self._finished.addBoth(self._gone)

    def write(self, frame: bytes) -> None:
        """Send a ready frame; nothing follows the end."""
        if self._open:
            self.outlet.write(frame)

    def replay(self, frames: Iterator[bytes]) -> None:
        if self._open:
            self.outlet.replay(frames)

    def close(self, code: int, reason: str) -> None:
        """End the response and the connection."""
        if self._open:
            self._open = False
            if self.outlet.finish():
                self._request.finish()
                end(self._channel)
            else:
                abort(self._channel)

    def abort(self) -> None:
        self._open = False
        self.outlet.finish()
        abort(self._channel)

    def slow(self, queued: int, setting: str = "queue_bytes") -> None:
        self._limited.info(
            SLOW, peer=self.peer, queued=queued, setting=setting, event_name="peer_dropped"
        )
        if self.conversation is not None:
            self.conversation.slow()

    def _gone(self, result: Failure | None) -> None:
        self._open = False
        conversation, self.conversation = self.conversation, None
        self._log.debug("{peer} left", peer=self.peer, event_name="client_left")
        if conversation is not None:
            conversation.closed()
        self.outlet.clear()
        self.outlet = LOST_OUTLET
