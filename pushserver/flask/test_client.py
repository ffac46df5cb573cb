"""The test client of Flask-SocketIO: a client of the real server, without sockets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import flask
from flask.testing import EnvironBuilder
from werkzeug.datastructures import EnvironHeaders

from pushserver.channels import jsontext
from pushserver.config.limits import Limits
from pushserver.config.settings import Config
from pushserver.errors import InvalidData
from pushserver.flask.server import FlaskServer
from pushserver.protocols import socketio as packets
from pushserver.protocols.engineio import MESSAGE, encode
from pushserver.protocols.formats import UNSUPPORTED
from pushserver.protocols.socketio import Packet
from pushserver.protocols.socketio_formats import EngineFormat
from pushserver.sessions.base import Conversation
from pushserver.sessions.socketio import SocketIO as Session
from pushserver.sessions.visit import Visit
from pushserver.testing.server import TestServer


class Tested(Protocol):
    """The `SocketIO` of the program.

    `failure`: the last exception of a handler; `testing`: the server of its test clients.
    """

    app: flask.Flask | None
    failure: BaseException | None
    testing: Any

    @property
    def push(self) -> FlaskServer:
        """The application of pushserver."""

    def init_app(self, app: flask.Flask | None) -> None:
        """Serve this Flask application."""


__test__ = False

MANY = 1_000_000
"""Time stands still between two calls of a test, so a rate is a number of them."""


def _frame(kind: bytes, data: bytes) -> bytes:
    return b"%b%d:%b" % (kind, len(data), data)


_FRAMES = EngineFormat(
    "test",
    publications=lambda rows: b"",
    binary_code=UNSUPPORTED,
    frame=lambda packet: _frame(b"t", packet),
    binary_frame=lambda data: _frame(b"b", data),
    ping=b"",
)
"""Each frame has its kind and its length before it."""


class _Transport:
    """The transport between a session and the test client."""

    format = _FRAMES
    outlet = None

    def __init__(self, client: SocketIOTestClient):
        self._client = client

    def attach(self, conversation: Conversation[EngineFormat]) -> None:
        """No-op."""

    def write(self, frame: bytes) -> None:
        self._client.take(frame)

    def replay(self, frames: Iterator[bytes]) -> None:
        for frame in frames:
            self._client.take(frame)

    def close(self, code: int, reason: str) -> None:
        self._client.end()

    def abort(self) -> None:
        self._client.end()


class SocketIOTestClient:
    """A client of one connection, with any number of namespaces.

    An exception of a handler is raised by the method that caused the call.
    """

    __test__ = False

    def __init__(
        self,
        app: flask.Flask,
        socketio: Tested,
        namespace: str | None = None,
        query_string: str | None = None,
        headers: Mapping[str, str] | None = None,
        auth: Mapping[str, Any] | None = None,
        flask_test_client: Any = None,
    ):
        self.app = app
        self.socketio = socketio
        self.flask_test_client = flask_test_client
        self.connected: dict[str, bool] = {}
        self.queue: list[dict[str, Any]] = []
        self.acks: list[Any] | None = None
        self.callback_counter = 0
        self._incomplete: tuple[Packet, list[bytes]] | None = None
        self._session: Session | None = None
        self.connect(namespace, query_string, headers, auth)

    @property
    def eio_sid(self) -> str:
        """The id of the connection."""
        return "" if self._session is None else self._session.info.client

    def is_connected(self, namespace: str | None = None) -> bool:
        """Whether the client is connected to the namespace."""
        return self.connected.get(namespace or "/", False)

    def connect(
        self,
        namespace: str | None = None,
        query_string: str | None = None,
        headers: Mapping[str, str] | None = None,
        auth: Mapping[str, Any] | None = None,
    ) -> None:
        """Connect to a namespace.

        The query and the headers are those of the connection, so those of the first call count.
        """
        server = self._server()
        if self._session is None:
            with server.reactor.lock:
                visit = self._visit(query_string, headers)
                self._session = Session(server.service.node, _Transport(self), visit)
        data = b"" if auth is None else jsontext.encode(auth)
        name = namespace or "/"
        head = b"0" if name == "/" else b"0%b," % name.encode()
        self._say(head + data)

    def disconnect(self, namespace: str | None = None) -> None:
        """Leave the namespace."""
        name = self._check(namespace)
        del self.connected[name]
        self._say(packets.encode_disconnect(name))

    def emit(self, event: str, *args: Any, **options: Any) -> Any:
        """Send an event; with `callback=True`, return the acknowledgement.

        An acknowledgement with one value is the value, with more the list of them.
        """
        name = self._check(options.pop("namespace", None))
        number = None
        if options.pop("callback", False):
            self.callback_counter += 1
            number = self.callback_counter
        try:
            values = packets.values([event, *args])
        except InvalidData as error:
            raise TypeError(str(error)) from error
        self.acks = None
        self._say(packets.encode(name, packets.EVENT, values, number), *values.attachments)
        return self._acknowledgement()

    def _acknowledgement(self) -> Any:
        acks, self.acks = self.acks, None
        if acks is None:
            return None
        return acks[0] if len(acks) == 1 else acks

    def send(
        self, data: Any, json: bool = False, callback: bool = False, namespace: str | None = None
    ) -> Any:
        """Send the event `message`, or `json`."""
        event = "json" if json else "message"
        return self.emit(event, data, callback=callback, namespace=namespace)

    def get_received(self, namespace: str | None = None) -> list[dict[str, Any]]:
        """The events of the namespace since the last call, each with `name`, `args`, `namespace`.

        `args` of `message` and `json` is the value, of other events the list of arguments.
        """
        name = self._check(namespace)
        self._server().settle()
        received = [event for event in self.queue if event["namespace"] == name]
        self.queue = [event for event in self.queue if event["namespace"] != name]
        return received

    def take(self, frames: bytes) -> None:
        """Receive frames of the server."""
        while frames:
            size, _, rest = frames[1:].partition(b":")
            kind, data, frames = frames[:1], rest[: int(size)], rest[int(size) :]
            if kind == b"b":
                assert self._incomplete is not None
                packet, attachments = self._incomplete
                attachments.append(data)
            elif data[:1] != b"4":
                # The opening of Engine.IO, or a ping.
                continue
            else:
                packet, attachments = packets.decode(data[1:]), []
                self._incomplete = packet, attachments
            if len(attachments) == packet.attachments:
                self._incomplete = None
                self._receive(packet, attachments)

    def end(self) -> None:
        """The server has closed the connection."""
        self.connected.clear()
        if self._session is not None:
            self._server().reactor.callLater(0, self._session.closed)
            self._session = None

    def _receive(self, packet: Packet, attachments: list[bytes]) -> None:
        name = packet.namespace
        if packet.kind == packets.CONNECT:
            self.connected[name] = True
        elif packet.kind in (packets.DISCONNECT, packets.CONNECT_ERROR):
            self.connected[name] = False
        elif packet.kind in (packets.ACK, packets.BINARY_ACK):
            self.acks = packets.arguments(packet, attachments)
        else:
            event, arguments = packets.event(packet, attachments)
            args: Any = arguments
            if event in ("message", "json"):
                args = arguments[0] if arguments else None
            self.queue.append({"name": event, "args": args, "namespace": name})

    def _say(self, *texts: bytes) -> None:
        session, server = self._session, self._server()
        if session is None:
            raise RuntimeError("not connected")
        self.socketio.failure = None
        with server.reactor.lock:
            session.received(encode(MESSAGE, texts[0]))
            for data in texts[1:]:
                session.received_binary(data)
        server.settle()
        failure, self.socketio.failure = self.socketio.failure, None
        if failure is not None:
            raise failure

    def _check(self, namespace: str | None) -> str:
        name = namespace or "/"
        if not self.is_connected(name):
            raise RuntimeError("not connected")
        return name

    def _server(self) -> TestServer:
        """The server of all test clients of the program, which runs from the first one on."""
        if self.socketio.testing is None:
            if self.socketio.app is None:
                self.socketio.init_app(self.app)
            limits = Limits(commands_per_second=MANY, channels_per_client=MANY)
            config = self.socketio.push.adjust(Config(sources={}, limits=limits))
            self.socketio.testing = TestServer(self.socketio.push, config)
        server: TestServer = self.socketio.testing
        return server

    def _visit(self, query_string: str | None, headers: Mapping[str, str] | None) -> Visit:
        query = (query_string or "").removeprefix("?")
        path = f"/socket.io/?{query}" if query else "/socket.io/"
        if self.flask_test_client is not None:
            made = self.flask_test_client._request_from_builder_args(
                args=(), kwargs={"path": path, "headers": headers}
            )
            environ = made.environ
            self.flask_test_client._add_cookies_to_wsgi(environ)
        else:
            environ = EnvironBuilder(self.app, path=path, headers=headers).get_environ()
        given = {name.lower(): value for name, value in EnvironHeaders(environ)}
        host = given.pop("host", "localhost")
        url = f"{environ['wsgi.url_scheme']}://{host}{path}"
        return Visit(environ.get("REMOTE_ADDR") or "127.0.0.1", "socketio", given, url)
