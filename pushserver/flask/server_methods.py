"""`socketio.server`: the methods of python-socketio's server that programs of Flask call."""

from __future__ import annotations

from typing import Any

from pushserver.flask.sending import Sending

METHODS = frozenset(
    {
        *("emit", "send", "call", "enter_room", "leave_room", "close_room", "rooms", "disconnect"),
        *("start_background_task", "sleep"),
    }
)


class ServerMethods:
    """Calls the same methods of `SocketIO`; other attributes raise AttributeError."""

    def __init__(self, socketio: Sending):
        self._socketio = socketio

    def __getattr__(self, name: str) -> Any:
        if name in METHODS:
            return getattr(self._socketio, name)
        raise AttributeError(
            f"socketio.server has no {name!r:.80}: it has some methods of python-socketio's server,"
            " and there is no such server here"
        )

    def get_environ(self, sid: str, namespace: str | None = None) -> dict[str, Any] | None:
        """The WSGI environment of the request that opened the connection; None if it has left."""
        member = self._socketio.members.find(sid, namespace or "/")
        return None if member is None else member.environ
