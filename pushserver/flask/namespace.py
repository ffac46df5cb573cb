"""`Namespace`: the handlers of a namespace as the methods of a class."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

from pushserver.errors import Refused
from pushserver.flask.handlers import CONNECTION, REFUSALS
from pushserver.flask.sending import Sending


class Namespace:
    """The handlers of a namespace as methods: `on_vote` handles the event `vote`.

    A method `error` gets the exceptions of the others, and its result is the acknowledgement.
    """

    def __init__(self, namespace: str | None = None):
        self.namespace = namespace or "/"
        self.socketio: Sending | None = None

    def _set_socketio(self, socketio: Sending) -> None:
        self.socketio = socketio

    @property
    def _own(self) -> Sending:
        if self.socketio is None:
            raise RuntimeError("register the namespace first: socketio.on_namespace(...)")
        return self.socketio

    def trigger_event(self, event: str, sid: str, *args: Any) -> Any:
        """Call the method of an event; a subclass may call another one."""
        function = getattr(self, f"on_{event}", None)
        if function is None:
            if event in CONNECTION:
                return None
            raise Refused("no handler")
        try:
            return self._own._handle_event(function, event, self.namespace, sid, *args)
        except REFUSALS:
            raise
        except Exception as error:
            handle = getattr(self, "error", None)
            if handle is None:
                raise
            return handle(error)

    def emit(self, event: str, data: Any = None, room: Any = None, **options: Any) -> None:
        """As `SocketIO.emit`, in this namespace."""
        options.setdefault("to", room)
        options["namespace"] = options.get("namespace") or self.namespace
        self._own.emit(event, data, **options)

    def send(self, data: Any, room: Any = None, **options: Any) -> None:
        """As `SocketIO.send`, in this namespace."""
        options.setdefault("to", room)
        options["namespace"] = options.get("namespace") or self.namespace
        self._own.send(data, **options)

    def call(self, event: str, data: Any = None, to: str | None = None, **options: Any) -> Any:
        """As `SocketIO.call`, in this namespace."""
        options["namespace"] = options.get("namespace") or self.namespace
        return self._own.call(event, data, to=to or options.pop("sid", None), **options)

    def enter_room(self, sid: str, room: Hashable, namespace: str | None = None) -> None:
        """Put a client into a room."""
        self._own.enter_room(sid, room, namespace or self.namespace)

    def leave_room(self, sid: str, room: Hashable, namespace: str | None = None) -> None:
        """Take a client out of a room."""
        self._own.leave_room(sid, room, namespace or self.namespace)

    def close_room(self, room: Hashable, namespace: str | None = None) -> None:
        """Take all clients out of a room."""
        self._own.close_room(room, namespace or self.namespace)

    def rooms(self, sid: str, namespace: str | None = None) -> list[Hashable]:
        """The rooms of a client."""
        return self._own.rooms(sid, namespace or self.namespace)

    def disconnect(self, sid: str, namespace: str | None = None) -> None:
        """End the connection of a client."""
        self._own.disconnect(sid, namespace or self.namespace)
