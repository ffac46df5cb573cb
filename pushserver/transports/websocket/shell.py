"""Connects Autobahn, which does the handshake, the frames and the close, to a conversation."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

from autobahn.twisted.websocket import WebSocketServerProtocol
from twisted.internet.interfaces import IConsumer, IPushProducer, ITCPTransport
from twisted.logger import Logger

from pushserver.errors import TooMany
from pushserver.protocols.formats import Format
from pushserver.sessions.base import Conversation
from pushserver.transports.backlog import Bounds
from pushserver.transports.outlet import LOST_OUTLET, SLOW, Outlet, make_outlet
from pushserver.usercode.rate import Rate
from pushserver.usercode.turns import SLICE_SECONDS
from pushserver.web.peer import host, host_and_port
from pushserver.web.sockets import drop, is_closed, unsent

MESSAGE_TOO_BIG, INTERNAL_ERROR = 1009, 1011
MAX_REASON_BYTES = 120

STEPS = 64
"""Steps of Autobahn's parser in one slice: a frame is two, its head and its payload."""

_OPENED = (WebSocketServerProtocol.STATE_OPEN, WebSocketServerProtocol.STATE_CLOSING)
_MESSAGES = (1, 2)
"""The opcodes of a frame that begins a message (RFC 6455, 5.2)."""


def close_reason(text: str) -> bytes:
    """The text as a reason that fits into a close frame and is not empty and not JSON.

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
    return text.encode(errors="replace")[:MAX_REASON_BYTES].decode(errors="ignore")


class _Transport(ITCPTransport, IConsumer, IPushProducer):
    """Twisted's transport of a TCP connection."""


class WebSocketTransport:
    """Sends the frames of one connection."""

    __slots__ = ("_protocol", "conversation", "format", "outlet")

    def __init__(self, protocol: WebSocketShell, format: Any, bounds: Bounds):
        self.format = format
        self._protocol = protocol
        self.conversation: Conversation[Any] | None = None
        # Behind WebSocketResource the HTTP channel is still registered as the producer.
        protocol.transport.unregisterProducer()
        self.outlet: Outlet = make_outlet(protocol.transport, bounds, self, protocol.ps_empty)

    @property
    def peer(self) -> str:
        return str(self._protocol.peer)

    def attach(self, conversation: Conversation[Any]) -> None:
        self.conversation = self._protocol.ps_conversation = conversation

    def write(self, frame: bytes) -> None:
        """Send a ready frame; nothing follows a close frame."""
        if self._protocol.state == WebSocketServerProtocol.STATE_OPEN:
            self.outlet.write(frame)

    def replay(self, frames: Iterator[bytes]) -> None:
        if self._protocol.state == WebSocketServerProtocol.STATE_OPEN:
            self.outlet.replay(frames)

    def close(self, code: int, reason: str) -> None:
        # Autobahn's sendClose refuses the server's own codes (1001, 1003, 1008, 1011) by raising.
        self._protocol.sendCloseFrame(code=code, reasonUtf8=close_reason(reason), isReply=False)

    def abort(self) -> None:
        self.outlet.finish()
        # The loss is reported in a later turn; until then Autobahn would still read frames.
        self._protocol.state = WebSocketServerProtocol.STATE_CLOSED
        drop(self._protocol.transport)

    def lost(self) -> None:
        """Break the reference cycles of a lost connection, so that no collection is needed."""
        self.conversation = None
        self.outlet.clear()
        self.outlet = LOST_OUTLET

    def slow(self, queued: int, setting: str = "queue_bytes") -> None:
        self._protocol.ps_slow(queued, setting)


MakeConversation = Callable[[WebSocketTransport], Conversation[Any]]


class WebSocketShell(WebSocketServerProtocol):
    """Autobahn's protocol; passes texts and the end of the connection to a conversation.

    Autobahn uses 227 names (`log`, `state`, `data`, `peer`, ...), so ours begin with `ps_`.
    Each callback is guarded: an exception would drop the connection without a close frame, or
    leave it open and mute.
    """

    transport: _Transport
    ps_log: Logger
    ps_make_conversation: MakeConversation
    ps_format: Format
    ps_empty = False
    """Whether the transport's buffer is empty when the connection opens."""
    ps_counted_as: str | None = None
    """See `web.admission`."""
    ps_client = ""
    """The address of the client for the log, if a trusted proxy named it."""
    ps_conversation: Conversation[Any] | None = None
    ps_transport: WebSocketTransport | None = None
    ps_waiting = False
    """Whether bytes wait for a later turn; the peer is not read meanwhile."""
    ps_flooding = False
    """Whether the peer sent too many frames; the others are dropped unread."""
    ps_control_frames: Rate | None = None

    def connectionMade(self) -> None:
        # Autobahn's own describes the transport, which fails for TLS behind a protocol wrapper;
        # and it hides errors of TCP_NODELAY.
        peer = self.transport.getPeer()
        self.peer = self.ps_client or host_and_port(peer)
        self.ps_no_delay(peer)
        self._connectionMade()

    def ps_no_delay(self, peer: Any) -> None:
        """Send small frames at once, and those that wait in the kernel."""
        # A Unix socket has no such option.
        if hasattr(peer, "host"):
            self.transport.setTcpNoDelay(True)

    def _onOpen(self) -> None:
        # Autobahn's own describes the transport too.
        self.onOpen()

    def consumeData(self) -> None:
        # Autobahn handles all frames that it has in one turn.
        autobahn: Any = self
        if self.state not in _OPENED:
            super().consumeData()
            return
        if self.ps_waiting:
            return
        turns = self.factory.ps_turns
        until = turns.monotonic() + SLICE_SECONDS
        steps = STEPS
        while not self.ps_flooding:
            if not steps or self.ps_yields() or turns.monotonic() >= until:
                self.ps_wait()
                return
            steps -= 1
            if not autobahn.processData() or self.state == WebSocketServerProtocol.STATE_CLOSED:
                return
        self.data = b""

    def ps_yields(self) -> bool:
        """Whether the conversation has more to do in the next turn."""
        return self.ps_conversation is not None and self.ps_conversation.is_yielding

    def ps_wait(self) -> None:
        """Handle the remaining bytes in a later turn, and read no more until then."""
        self.ps_waiting = True
        self.transport.pauseProducing()
        self.factory.ps_turns.later(self.ps_continue)

    def ps_continue(self) -> None:
        self.ps_waiting = False
        if is_closed(self.transport):
            # Without a close frame: a WebSocket has no half-closed state (RFC 6455, 7.1.1).
            drop(self.transport)
            return
        self.consumeData()
        if not self.ps_waiting and not self.ps_flooding:
            self.transport.resumeProducing()

    def onFrameBegin(self) -> None:
        autobahn: Any = self
        if autobahn.current_frame.opcode not in _MESSAGES and self.ps_is_flood():
            self.ps_flooding = True
            self.ps_guard(self.ps_refuse_flood)
        else:
            super().onFrameBegin()

    def ps_is_flood(self) -> bool:
        """Count a frame that begins no message; return whether it is one too many.

        An honest client sends a ping every few seconds, and long messages in pieces of a kilobyte
        or more. A message is not counted here: it is a command, which the session answers or
        refuses.
        """
        if self.ps_control_frames is None:
            per_second = self.factory.ps_control_frames_per_second
            self.ps_control_frames = Rate(per_second, 10 * per_second)
        return not self.ps_control_frames.allows(self.factory.ps_turns.monotonic())

    def ps_refuse_flood(self) -> None:
        # Even to drop 600 MB a second takes a third of a core; Autobahn ends the connection soon.
        self.transport.pauseProducing()
        error = TooMany("too many control frames", "control_frames_per_second")
        conversation = self.ps_conversation
        if conversation is not None:
            self.ps_note(error, conversation.flood_code)
            conversation.disconnect(conversation.flood_code, str(error))

    def ps_note(self, error: TooMany, code: int) -> None:
        """Count and log an excess of the peer, whose connection ends with this close code."""
        conversation = self.ps_conversation
        if conversation is not None:
            address = self.ps_client or host(self.transport.getPeer())
            conversation.node.note_excess(error, address, code)

    def _max_message_size_exceeded(self, msg_size: int, max_msg_size: int, reason: str) -> None:
        # A hook of Autobahn, also for a message that is too long after decompression. Its own line
        # of the log has neither the address nor the setting.
        error = TooMany(f"a message of more than {max_msg_size} bytes", "frame_bytes")
        self.ps_guard(self.ps_note, error, MESSAGE_TOO_BIG)
        super()._max_message_size_exceeded(msg_size, max_msg_size, reason)

    def onConnect(self, request: Any) -> str | None:
        # The handshake has at most the accepted one: see `handshake.accepted_fields`.
        return next(iter(request.protocols), None)

    def onOpen(self) -> None:
        self.ps_guard(self.ps_open)

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        conversation = self.ps_conversation
        if self.ps_transport is None or conversation is None:
            return
        if not isBinary:
            self.ps_guard(conversation.received, payload)
        elif conversation.takes_binary:
            self.ps_guard(conversation.received_binary, payload)
        else:
            self.ps_guard(self.ps_refuse_binary)

    def sendData(self, data: bytes, sync: bool = False, chopsize: int | None = None) -> None:
        # Autobahn sends all its frames here. Once the connection is open the outlet keeps them in
        # order and counts them (a client that pings and never reads is slow).
        if self.ps_transport is not None:
            self.ps_transport.outlet.write(data)
        else:
            self.transport.write(data)

    def sendCloseFrame(
        self, code: int | None = None, reasonUtf8: bytes | None = None, isReply: bool = False
    ) -> None:
        if self.ps_transport is not None and not self.ps_transport.outlet.finish():
            self.ps_transport.abort()
        else:
            super().sendCloseFrame(code, reasonUtf8, isReply)

    def _fail_connection(self, code: int = 1001, reason: str = "going away") -> None:
        if self.state == WebSocketServerProtocol.STATE_CLOSING:
            # Autobahn would end the connection at a second fault, without the peer's answer to the
            # close: a text that is not UTF-8 has two. With `failedByMe` it keeps no more messages.
            self.failedByMe = True
        else:
            super()._fail_connection(code, reason)

    def _closeConnection(self, abort: bool = False) -> None:
        # Autobahn resets a connection after the peer's answer to a close, or without one in time.
        # A browser then says that the close was not clean, and a close frame that the peer has
        # received but not read is lost. So only a peer that has not received it all is reset.
        if abort and not self.wasClean and unsent(self.transport):
            drop(self.transport)
        else:
            # Twisted calls shutdown() first, so a fork with a copy of the socket does not matter.
            self.transport.loseConnection()

    def onPong(self, payload: bytes) -> None:
        if self.ps_conversation is not None:
            self.ps_conversation.alive()

    def onClose(self, wasClean: bool, code: int | None, reason: str | None) -> None:
        if self.ps_waiting:
            # Nothing of a peer that left is handled.
            self.factory.ps_turns.cancel(self.ps_continue)
            self.data = b""
        counted_as, self.ps_counted_as = self.ps_counted_as, None
        self.factory.ps_leave(counted_as)
        # Autobahn calls it after a failed handshake too: then there is no conversation.
        conversation, self.ps_conversation = self.ps_conversation, None
        transport, self.ps_transport = self.ps_transport, None
        if conversation is not None:
            self.ps_log.debug(
                "{peer} left: {code} {reason}",
                peer=self.peer,
                code=code,
                reason=reason,
                event_name="client_left",
            )
            conversation.closed()
        if transport is not None:
            transport.lost()

    def ps_open(self) -> None:
        autobahn: Any = self
        if autobahn._perMessageCompress is not None and self.ps_format.coded is not None:
            self.ps_format = self.ps_format.coded
        self.ps_transport = WebSocketTransport(self, self.ps_format, self.factory.ps_bounds)
        self.ps_conversation = self.ps_make_conversation(self.ps_transport)
        self.ps_log.debug(
            "{peer} came by {transport}",
            peer=self.peer,
            transport=self.ps_format.name,
            event_name="client_connected",
        )

    def ps_refuse_binary(self) -> None:
        if self.ps_conversation is not None:
            # `self.log`, as each client can do it: it has a line a second.
            self.log.info(
                "{peer} sent a binary frame by {transport}: expected JSON text (the Protobuf form"
                " of the Centrifuge protocol is not spoken here)",
                peer=self.peer,
                transport=self.ps_format.name,
                event_name="binary_refused",
            )
            code = self.ps_format.binary_code
            self.ps_conversation.disconnect(
                code, "binary frames are not understood; send JSON text"
            )

    def ps_guard(self, call: Callable[..., None], *args: object) -> None:
        try:
            call(*args)
        except Exception:
            self.ps_log.failure("a WebSocket conversation failed", event_name="conversation_failed")
            if self.ps_conversation is not None:
                self.ps_conversation.disconnect(INTERNAL_ERROR, "internal server error")
            else:
                self.sendCloseFrame(INTERNAL_ERROR, b"internal server error")

    def ps_slow(self, queued: int, setting: str = "queue_bytes") -> None:
        """Drop a peer that does not read."""
        self.log.info(
            SLOW, peer=self.peer, queued=queued, setting=setting, event_name="peer_dropped"
        )
        if self.ps_conversation is not None:
            self.ps_conversation.slow()
