"""Autobahn's server protocol without what nobody here reads.

Measured with Autobahn 26.10: of an open connection's memory more than half is a dictionary of
some eighty attributes, nearly all of them as they were at the beginning, and what is left
over from the handshake; and a third of what a connect costs is timers, futures and a
description of the transport. Here what is the same for all is on the class, what
changes is made when it is first asked for, and the handshake's papers go when it is over.

All of it is taken from the Autobahn that is installed: a model connection says which
attributes there are. What this relies on beside that has tests in `test_lean`.
"""

from __future__ import annotations

from typing import Any, ClassVar

from autobahn.twisted.websocket import WebSocketServerProtocol
from autobahn.websocket.protocol import TrafficStats
from twisted.internet.defer import Deferred, succeed

PAPERS = (
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
"""What the handshake leaves behind, and nothing reads afterwards."""

_SAME_FOR_ALL = (type(None), bool, int, float, str, bytes, TrafficStats)


class LeanProtocol(WebSocketServerProtocol):
    """Autobahn's, with fewer attributes; `lean` makes the class that is used."""

    _heard: ClassVar[Deferred[None]] = succeed(None)

    def __init__(self) -> None:
        """Autobahn's makes two futures, and a list of events with listeners, for each."""

    @property
    def is_open(self) -> Deferred[None]:
        """Autobahn's word to who waits for it; nobody does."""
        return Deferred()

    @property
    def is_closed(self) -> Deferred[None]:
        """The same at the end."""
        return Deferred()

    def fire(self, event: str, *args: object, **kwargs: object) -> Deferred[None]:
        """Tell the listeners; there are none."""
        return self._heard

    def connectionMade(self) -> None:
        # No description of the transport is made, and TCP_NODELAY is set for certain:
        # Autobahn hides what goes wrong there. A Unix socket has none.
        transport: Any = self.transport
        peer = transport.getPeer()
        if hasattr(peer, "host"):
            transport.setTcpNoDelay(True)
        self.peer = f"{getattr(peer, 'host', 'unix')}:{getattr(peer, 'port', '')}"
        self._connectionMade()

    def _onOpen(self) -> None:
        mine = vars(self)
        for name in PAPERS:
            mine.pop(name, None)
        # A dictionary keeps the room of what was taken out of it, a new one has none.
        self.__dict__ = dict(mine.items())
        self.onOpen()


class _Made:
    """An attribute that is made when it is first asked for."""

    def __init__(self, name: str, make: type):
        self._name = name
        self._make = make
        # What cannot be made just so fails here, before anything listens.
        make()

    def __get__(self, instance: Any, owner: type) -> Any:
        if instance is None:
            return self
        value = instance.__dict__[self._name] = self._make()
        return value


def lean(base: type[LeanProtocol], factory: Any, options: dict[str, Any]) -> type[LeanProtocol]:
    """The class of this factory's connections: `base` with all that is the same for all.

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
            setattr(kind, name, value if shared else _Made(name, type(value)))
    setattr(kind, "_connectionMade", _count)  # noqa: B010
    return kind


def _count(self: Any) -> None:
    """What is left to be done for each connection."""
    self.factory.countConnections += 1
