"""WebSocket: Autobahn shakes hands, reads frames and closes; the conversation is elsewhere."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from autobahn.twisted.websocket import WebSocketServerProtocol
from twisted.internet.interfaces import (
    IConsumer,
    ITCPTransport,
)
from twisted.logger import Logger

from pushserver.protocols.formats import DEFLATED, Format
from pushserver.protocols.websocket_frames import is_pong_frame, whole_text
from pushserver.sessions.base import Conversation
from pushserver.transports.outlet import GONE, Bounds, Outlet, make_outlet, send_first
from pushserver.transports.websocket.deflate import Inflater
from pushserver.transports.websocket.lean import LeanProtocol

INTERNAL_ERROR = 1011
REASON_BYTES = 120


def close_reason(text: str) -> bytes:
    """A reason that fits into a close frame and that every client takes for a text.

    centrifuge-js 5.8.0 parses the reason as JSON first: an empty one after a final code
    makes it reconnect for ever, and one that is JSON (`7`) stops it for good.
    """
    text = _cut(text or "closed")
    try:
        json.loads(text)
    except RecursionError:
        text = _cut(f"reason: {text}")
    except ValueError:
        pass
    else:
        text = _cut(f"reason: {text}")
    return text.encode()


def _cut(text: str) -> str:
    return text.encode(errors="replace")[:REASON_BYTES].decode(errors="ignore")


class _Transport(ITCPTransport, IConsumer):
    """A TCP connection, as Twisted has it."""


class WebSocketTransport:
    """One peer's frames out."""

    __slots__ = ("_protocol", "conversation", "format", "outlet")

    def __init__(self, protocol: WebSocketShell, format: Any, bounds: Bounds):
        self.format = format
        self._protocol = protocol
        self.conversation: Conversation[Any] | None = None
        # Behind WebSocketResource the HTTP channel is still registered as the producer.
        protocol.transport.unregisterProducer()
        self.outlet: Outlet = make_outlet(protocol.transport, bounds, self, protocol.ps_empty)

    def attach(self, conversation: Conversation[Any]) -> None:
        """Tell this conversation what becomes of the connection."""
        self.conversation = conversation

    def write(self, frame: bytes) -> None:
        """Send a ready frame; nothing follows a close frame."""
        if self._protocol.state == WebSocketServerProtocol.STATE_OPEN:
            self.outlet.write(frame)

    def raw(self, data: bytes) -> None:
        """Autobahn's own frames, in their place among ours."""
        self.outlet.write(data)

    def finish(self) -> bool:
        """The close frame is the next to leave, and the last; False if it cannot be waited for."""
        return self.outlet.finish()

    def close(self, code: int, reason: str) -> None:
        # Autobahn's sendClose refuses the server's own codes (1001, 1003, 1008, 1011) by raising.
        self._protocol.sendCloseFrame(code=code, reasonUtf8=close_reason(reason), isReply=False)

    def abort(self) -> None:
        self.outlet.finish()
        # Autobahn would still take a frame for this peer while the loss is on its way here.
        self._protocol.state = WebSocketServerProtocol.STATE_CLOSED
        self._protocol.transport.abortConnection()

    def lost(self) -> None:
        """The connection is gone: what is left is freed without a collection."""
        self.conversation = None
        self.outlet = GONE

    def slow(self, queued: int) -> None:
        self._protocol.ps_slow(queued)


Begin = Callable[[WebSocketTransport], Conversation[Any]]


class WebSocketShell(LeanProtocol):
    """Autobahn's protocol with nothing of ours but a few attributes.

    It owns 227 names (`log`, `state`, `data`, `peer`, ...), so ours begin with `ps_`.
    Each callback is guarded: what one of them raises would drop the connection without a
    close frame, or leave it open and mute.
    """

    transport: _Transport
    ps_log: Logger
    ps_begin: Begin
    ps_format: Format
    ps_empty = False
    """Whether all that was written to the transport is in the socket."""
    ps_direct = False
    """Whether the answer to the handshake is the first that is written to the transport."""
    ps_conversation: Conversation[Any] | None = None
    ps_transport: WebSocketTransport | None = None

    def dataReceived(self, data: bytes) -> None:
        # Nearly all that clients ever say are answers to pings and short texts, one at a time;
        # Autobahn takes ten times as long to read one.
        conversation = self.ps_conversation
        if conversation is None or not self.ps_between_frames():
            super().dataReceived(data)
        elif is_pong_frame(data):
            conversation.alive()
        elif (text := whole_text(data)) is None or len(text) > self.factory.maxFramePayloadSize:
            super().dataReceived(data)
        else:
            self.ps_guard(conversation.received, text)

    def ps_between_frames(self) -> bool:
        """Whether a frame begins with what comes next."""
        autobahn: Any = self
        return (
            self.state == WebSocketServerProtocol.STATE_OPEN
            and not autobahn.data
            and not autobahn.inside_message
            and autobahn.current_frame is None
        )

    def onConnect(self, request: Any) -> str | None:
        return next((p for p in request.protocols if p == "centrifuge-json"), None)

    def onOpen(self) -> None:
        self.ps_guard(self.ps_open)

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        if self.ps_transport is None or self.ps_conversation is None:
            return
        if isBinary:
            self.ps_guard(self.ps_refuse_binary)
        else:
            self.ps_guard(self.ps_conversation.received, payload)

    def sendData(self, data: bytes, sync: bool = False, chopsize: int | None = None) -> None:
        # All of Autobahn's frames come by here. Once the connection is open they go our
        # way: in order, and charged (a client that pings and never reads is a slow one).
        if self.ps_transport is not None:
            self.ps_transport.raw(data)
        elif self.ps_direct:
            self.ps_direct = False
            self.ps_empty = send_first(self.transport, data)
        else:
            self.transport.write(data)

    def sendCloseFrame(
        self, code: int | None = None, reasonUtf8: bytes | None = None, isReply: bool = False
    ) -> None:
        if self.ps_transport is not None and not self.ps_transport.finish():
            self.ps_transport.abort()
        else:
            super().sendCloseFrame(code, reasonUtf8, isReply)

    def onPong(self, payload: bytes) -> None:
        if self.ps_conversation is not None:
            self.ps_conversation.alive()

    def onClose(self, wasClean: bool, code: int | None, reason: str | None) -> None:
        # Comes also when the handshake failed: then there is no conversation.
        conversation, self.ps_conversation = self.ps_conversation, None
        transport, self.ps_transport = self.ps_transport, None
        if conversation is not None:
            self.ps_log.debug(
                "{peer} left: {code} {reason}", peer=self.peer, code=code, reason=reason
            )
            conversation.closed()
        if transport is not None:
            transport.lost()

    def ps_open(self) -> None:
        autobahn: Any = self
        if autobahn._perMessageCompress is not None:
            autobahn._perMessageCompress = Inflater(autobahn.maxMessagePayloadSize)
            self.ps_format = DEFLATED[self.ps_format]
        self.ps_transport = WebSocketTransport(self, self.ps_format, self.factory.ps_bounds)
        self.ps_conversation = self.ps_begin(self.ps_transport)
        self.ps_log.debug(
            "{peer} came by {transport}", peer=self.peer, transport=self.ps_format.name
        )

    def ps_refuse_binary(self) -> None:
        if self.ps_conversation is not None:
            code = self.ps_format.binary_code
            self.ps_conversation.disconnect(
                code, "binary frames are not understood; send JSON text"
            )

    def ps_guard(self, call: Callable[..., None], *args: object) -> None:
        try:
            call(*args)
        except Exception:
            self.ps_log.failure("a WebSocket conversation failed")
            if self.ps_conversation is not None:
                self.ps_conversation.disconnect(INTERNAL_ERROR, "internal server error")
            else:
                self.sendCloseFrame(INTERNAL_ERROR, b"internal server error")

    def ps_slow(self, queued: int) -> None:
        """The peer does not read."""
        self.ps_log.info(
            "{peer} is dropped: it left {queued} bytes unread (queue_bytes)",
            peer=self.peer,
            queued=queued,
        )
        if self.ps_conversation is not None:
            self.ps_conversation.slow()
