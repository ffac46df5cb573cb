"""Shortcuts of a WebSocket connection around Autobahn; PUSHSERVER_SHORTCUTS=off omits them.

Measured with Autobahn 26.10. More than half of an open connection's memory is a dictionary of
some eighty attributes: nearly all of them still have their first value, and the rest is left over
from the handshake. Two thirds of the time of a connect format the arguments of debug lines that
are not logged, and a third of the rest makes timers and futures. Autobahn takes ten times as long
as `whole_text` to read a short text.

So a value that is the same for all connections is on the class, a value that changes is made when
it is first read, and the attributes of the handshake are deleted after it. A model connection of
the installed Autobahn has the list of attributes. `test_lean` tests all other assumptions.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any, ClassVar

from autobahn.twisted import websocket as adapter
from autobahn.twisted.websocket import WebSocketServerProtocol
from autobahn.websocket import protocol
from autobahn.websocket.protocol import TrafficStats
from twisted.internet.defer import Deferred, succeed

from pushserver.protocols.websocket_frames import is_pong_frame, whole_text
from pushserver.transports.websocket.deflate import Inflater
from pushserver.transports.websocket.handshake import Accepted
from pushserver.transports.websocket.shell import WebSocketShell
from pushserver.web.first_bytes import hand_over
from pushserver.web.peer import host_and_port
from pushserver.web.sockets import MORE, send_now

FORMATTERS: dict[ModuleType, tuple[str, ...]] = {
    protocol: ("pformat", "hltype", "hlval"),
    adapter: ("hltype", "hlval"),
}
"""The functions that format the arguments of debug lines, in the modules that look them up."""

HANDSHAKE_ATTRIBUTES = (
    "http_headers",
    "http_request_data",
    "http_request_host",
    "http_request_params",
    "http_request_path",
    "http_request_uri",
    "http_response_data",
    "http_status_line",
    "websocket_extensions",
    "websocket_extensions_in_use",
    "websocket_origin",
    "websocket_protocols",
    "_wskey",
)
"""Set during the handshake and never read afterwards."""

_SAME_FOR_ALL = (type(None), bool, int, float, str, bytes, TrafficStats)


def hush() -> None:
    """Let Autobahn log its debug lines without their arguments, in the whole process.

    Autobahn formats them before it checks whether the line is logged: the options of each new
    connection, and the name of each function, in colour where `click` is installed.
    """
    for module, names in FORMATTERS.items():
        for name in names:
            if hasattr(module, name):
                setattr(module, name, _nothing)


def _nothing(*args: object, **kwargs: object) -> str:
    return ""


class LeanShell(WebSocketShell):
    """The shell with all shortcuts; `lean` makes the class to use."""

    _fired: ClassVar[Deferred[None]] = succeed(None)

    # Set by Autobahn's handshake, which `ps_accept` omits.
    current_frame: Any = None
    inside_message = False
    websocket_protocol_in_use: str | None = None
    websocket_version = 13

    def __init__(self) -> None:
        """Make neither the two futures nor the list of events with listeners."""

    @property
    def is_open(self) -> Deferred[None]:
        """An unused future."""
        return Deferred()

    @property
    def is_closed(self) -> Deferred[None]:
        """An unused future."""
        return Deferred()

    def fire(self, event: str, *args: object, **kwargs: object) -> Deferred[None]:
        """No-op: there are no listeners."""
        return self._fired

    def ps_accept(self, transport: Any, peer: Any, handshake: Accepted, extension: str) -> None:
        """Answer the handshake of a connection that was another protocol's, and open it.

        This leaves the state that Autobahn's handshake leaves. The answer waits in the kernel for
        the first frame of the conversation, and leaves with that one or at the end of this call.
        """
        hand_over(transport, self)
        self.connected, self.transport = 1, transport
        self.peer = self.ps_client or host_and_port(peer)
        self._connectionMade()
        if handshake.subprotocol:
            self.websocket_protocol_in_use = handshake.subprotocol
        if extension:
            # `ps_open` replaces it, as it replaces Autobahn's.
            self._perMessageCompress: Any = extension
        self.ps_empty = send_now(transport, handshake.answer(extension), MORE)
        self.state = WebSocketServerProtocol.STATE_OPEN
        self.onOpen()
        self.ps_no_delay(peer)

    def _onOpen(self) -> None:
        attributes = vars(self)
        for name in HANDSHAKE_ATTRIBUTES:
            attributes.pop(name, None)
        # A dictionary keeps the room of deleted keys; a new one has none.
        self.__dict__ = dict(attributes.items())
        super()._onOpen()

    def dataReceived(self, data: bytes) -> None:
        # Clients send almost only pongs and short texts, each in a separate segment.
        conversation = self.ps_conversation
        if conversation is None or not self.ps_between_frames() or conversation.is_yielding:
            super().dataReceived(data)
        elif is_pong_frame(data):
            conversation.alive()
        elif (text := whole_text(data)) is None or len(text) > self.factory.maxFramePayloadSize:
            super().dataReceived(data)
        else:
            self.ps_guard(conversation.received, text)

    def ps_between_frames(self) -> bool:
        """Whether the next bytes are the start of a frame that is not part of a message."""
        autobahn: Any = self
        return (
            self.state == WebSocketServerProtocol.STATE_OPEN
            and not autobahn.data
            and not autobahn.inside_message
            and autobahn.current_frame is None
        )

    def ps_open(self) -> None:
        autobahn: Any = self
        if autobahn._perMessageCompress is not None:
            autobahn._perMessageCompress = Inflater(autobahn.maxMessagePayloadSize)
        super().ps_open()


class _MadeOnRead:
    """An attribute whose value is made when it is first read."""

    def __init__(self, name: str, make: type):
        self._name = name
        self._make = make
        # A type that needs arguments fails here, before the server listens.
        make()

    def __get__(self, instance: Any, owner: type) -> Any:
        if instance is None:
            return self
        value = instance.__dict__[self._name] = self._make()
        return value


def lean(base: type[LeanShell], factory: Any, options: dict[str, Any]) -> type[LeanShell]:
    """The class of this factory's connections: `base`, with all values that connections share.

    `options` are Autobahn's own, which it would copy to each connection.
    """
    kind = type(base.__name__, (base,), options)
    model: Any = kind()
    model.factory, model.peer = factory, ""
    before = set(vars(model))
    model._connectionMade()
    factory.countConnections -= 1
    for name, value in vars(model).items():
        if name not in before:
            shared = isinstance(value, _SAME_FOR_ALL)
            setattr(kind, name, value if shared else _MadeOnRead(name, type(value)))
    setattr(kind, "_connectionMade", _count)  # noqa: B010
    return kind


def _count(self: Any) -> None:
    """Replaces `_connectionMade`, since the class has its attributes: only count the connection."""
    self.factory.countConnections += 1
