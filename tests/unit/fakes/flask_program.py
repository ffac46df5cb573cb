"""A Flask program with a SocketIO, whose clients are without sockets."""

from __future__ import annotations

from typing import Any

from flask import Flask

from pushserver.flask import SocketIO
from pushserver.sessions.visit import Visit
from tests.unit.fakes.socketio import IoClient


class Program:
    """A Flask application with a SocketIO, and the calls of its handlers."""

    def __init__(self, **options: Any):
        self.app = Flask("program")
        self.app.secret_key = "secret"
        self.socketio = SocketIO(self.app, **options)
        self.calls: list[Any] = []

    def note(self, *values: Any) -> None:
        self.calls.append(values[0] if len(values) == 1 else values)

    def client(self, namespace: str = "/", **options: Any) -> Any:
        return self.socketio.test_client(self.app, namespace, **options)

    def raw(self, *namespaces: str, visit: Visit | None = None, **more: Any) -> IoClient:
        """A client that shows each packet; needs one of `client` before it."""
        node = self.socketio.testing.service.node
        return IoClient(node, *namespaces, visit=visit or Visit("127.0.0.1", "socketio"), **more)

    def close(self) -> None:
        if self.socketio.testing is not None:
            self.socketio.testing.close()
