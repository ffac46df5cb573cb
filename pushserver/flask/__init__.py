"""The interface of Flask-SocketIO 5 for pushserver: `from pushserver.flask import SocketIO, emit`.

docs/from-flask-socketio.md lists the parts that are the same, and the differences.
"""

from __future__ import annotations

try:
    import flask as _flask  # noqa: F401
except ImportError as error:
    raise ImportError(
        "pushserver.flask needs Flask, which is not installed: pip install 'pushserver[flask]'"
    ) from error

from pushserver.flask.handlers import ConnectionRefusedError, Reason
from pushserver.flask.in_handlers import (
    call,
    close_room,
    disconnect,
    emit,
    join_room,
    leave_room,
    rooms,
    send,
)
from pushserver.flask.namespace import Namespace
from pushserver.flask.socketio import SocketIO
from pushserver.flask.test_client import SocketIOTestClient

__all__ = [
    "ConnectionRefusedError",
    "Namespace",
    "Reason",
    "SocketIO",
    "SocketIOTestClient",
    "call",
    "close_room",
    "disconnect",
    "emit",
    "join_room",
    "leave_room",
    "rooms",
    "send",
]
