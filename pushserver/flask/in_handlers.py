"""The functions of Flask-SocketIO that know the client of the handler that calls them."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import flask

from pushserver.flask.socketio import SocketIO


def _socketio() -> SocketIO:
    found: SocketIO = flask.current_app.extensions["socketio"]
    return found


def _here() -> Any:
    """The request of the handler; raises RuntimeError outside of one."""
    request: Any = flask.request
    if not hasattr(request, "sid"):
        raise RuntimeError(
            "this is no handler of Socket.IO: outside of one use the methods of SocketIO, such as"
            " socketio.emit(...)"
        )
    return request


def emit(event: str, *args: Any, **options: Any) -> None:
    """Send an event to the client of the handler, or where the options say.

    `broadcast=True`: to all clients of the namespace; `to` (or `room`): to a room, a client, or a
    list of these. The others are those of `SocketIO.emit`.
    """
    _socketio().emit(event, *args, **_with_target(options))


def send(message: Any, **options: Any) -> None:
    """Send the event `message`, or `json` with `json=True`; see `emit`."""
    _socketio().send(message, **_with_target(options))


def _with_target(options: dict[str, Any]) -> dict[str, Any]:
    broadcast, room = options.pop("broadcast", False), options.pop("room", None)
    to = options.pop("to", None) or room
    if "namespace" not in options:
        options["namespace"] = _here().namespace
    if to is None and not broadcast:
        to = _here().sid
    return {**options, "to": to}


def call(event: str, *args: Any, **options: Any) -> Any:
    """Send an event to the client, and return its acknowledgement; see `SocketIO.call`."""
    room = options.pop("room", None)
    to = options.pop("to", None) or room or _here().sid
    if "namespace" not in options:
        options["namespace"] = _here().namespace
    return _socketio().call(event, *args, to=to, **options)


def join_room(room: Hashable, sid: str | None = None, namespace: str | None = None) -> None:
    """Put the client into a room of its namespace."""
    _socketio().enter_room(sid or _here().sid, room, namespace or _here().namespace)


def leave_room(room: Hashable, sid: str | None = None, namespace: str | None = None) -> None:
    """Take the client out of a room."""
    _socketio().leave_room(sid or _here().sid, room, namespace or _here().namespace)


def close_room(room: Hashable, namespace: str | None = None) -> None:
    """Take all clients out of a room."""
    _socketio().close_room(room, namespace or _here().namespace)


def rooms(sid: str | None = None, namespace: str | None = None) -> list[Hashable]:
    """The rooms of the client, its own with its `sid` among them."""
    return _socketio().rooms(sid or _here().sid, namespace or _here().namespace)


def disconnect(sid: str | None = None, namespace: str | None = None, silent: bool = False) -> None:
    """End the client's connection to the namespace."""
    _socketio().disconnect(sid or _here().sid, namespace or _here().namespace)
