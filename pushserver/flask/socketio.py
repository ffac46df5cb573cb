"""`SocketIO`: the class of Flask-SocketIO, on an application of pushserver."""

from __future__ import annotations

import threading
import time
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import flask

from pushserver.app.app import Adapter
from pushserver.app.client import Client
from pushserver.config.settings import Config
from pushserver.errors import InvalidData, Refused
from pushserver.flask.context import make_environ
from pushserver.flask.handlers import (
    ANY,
    CONNECTION,
    REFUSALS,
    Function,
    Reason,
    Registry,
    Table,
    check_namespace,
    reason_of,
)
from pushserver.flask.members import Member
from pushserver.flask.namespace import Namespace
from pushserver.flask.running import run, say_where
from pushserver.flask.sending import Sending
from pushserver.flask.server import Arguments, FlaskServer
from pushserver.flask.server_methods import ServerMethods
from pushserver.protocols.socketio import values
from pushserver.sessions.callbacks import Invitation

REJECTED = "Connection rejected by server"
INVALID_NAMESPACE = "Invalid namespace"
"""The messages of `connect_error` that clients know."""


class SocketIO(Sending, Adapter):
    """The Socket.IO server of a Flask program; `push` is its application of pushserver.

    docs/from-flask-socketio.md has the options, and the differences from Flask-SocketIO.
    """

    reason = Reason

    def __init__(self, app: flask.Flask | None = None, **options: Any):
        """Raises ValueError and TypeError for options that are not possible, and warns of others.

        Without `app`, `init_app` follows.
        """
        self._table = Table()
        self._registry = Registry(self._event)
        self._namespaces: dict[str, Namespace] = {}
        super().__init__(FlaskServer(self._registry, self._adjust))
        self.push.on("connect")(self._connect)
        self.push.on("disconnect")(self._disconnect)
        self.failure: BaseException | None = None
        """The last exception of a handler, for the test client."""
        self.testing: Any = None
        """The server of the test clients."""
        self._take(app, options)

    def init_app(self, app: flask.Flask | None, **options: Any) -> None:
        """Serve this Flask application; raises and warns as the constructor."""
        self._take(app, options)

    def _take(self, app: flask.Flask | None, options: dict[str, Any]) -> None:
        for text in self.options.update(options):
            warnings.warn(f"SocketIO: {text}", stacklevel=3)
        if app is not None:
            self.app = app
            app.extensions["socketio"] = self
            self.push.wsgi = app
            say_where(app)

    @property
    def push(self) -> FlaskServer:
        """The application of pushserver: its sources, handlers, tokens and pages."""
        return self._push

    @property
    def server(self) -> ServerMethods:
        """Some methods of python-socketio's server, under their names there."""
        return ServerMethods(self)

    def _adjust(self, config: Config) -> Config:
        config = self.options.adjust(config)
        self.main = config.socketio.channel
        return config

    # --- handlers ---------------------------------------

    def on(self, message: str, namespace: str | None = None) -> Callable[[Function], Function]:
        """Decorate the handler of an event; `*` stands for all events, or all namespaces.

        A second one for the same event takes the place of the first. Raises ValueError for an async
        function, and for a namespace that cannot be the name of a channel.
        """

        def decorate(function: Function) -> Function:
            self._table.add(namespace or "/", message, function)
            self._registry.note(message)
            return function

        return decorate

    def on_event(
        self, message: str, handler: Callable[..., Any], namespace: str | None = None
    ) -> None:
        """Register the handler of an event."""
        self.on(message, namespace)(handler)

    def event(self, *args: Any, **options: Any) -> Any:
        """Decorate the handler of the event that has the name of the function."""
        if len(args) == 1 and not options and callable(args[0]):
            return self.on(args[0].__name__)(args[0])
        return lambda function: self.on(function.__name__, *args, **options)(function)

    def on_namespace(self, namespace_handler: Namespace) -> None:
        """Register the handlers of a class; functions go before its methods."""
        if not isinstance(namespace_handler, Namespace):
            raise ValueError(f"{namespace_handler!r:.80} is no instance of Namespace")
        check_namespace(namespace_handler.namespace)
        namespace_handler._set_socketio(self)
        self._namespaces[namespace_handler.namespace] = namespace_handler
        for name in dir(namespace_handler):
            if name.startswith("on_") and name[3:] not in CONNECTION:
                self._registry.note(name[3:])

    # --- the server ---------------------------------------

    def run(
        self,
        app: flask.Flask | None = None,
        host: str | None = None,
        port: int | None = None,
        **options: Any,
    ) -> None:
        """Run the server in the foreground; see `running.run`."""
        if app is not None and app is not self.app:
            self.init_app(app)
        run(self.push, self.app, host, port, options)

    def stop(self) -> None:
        """Stop the server that `run` started, from any thread."""
        from twisted.internet import reactor

        stop: Any = reactor
        stop.callFromThread(stop.stop)

    def start_background_task(
        self, target: Callable[..., object], *args: Any, **options: Any
    ) -> threading.Thread:
        """Call the function in a thread of its own, which ends with the process."""
        thread = threading.Thread(target=target, args=args, kwargs=options, daemon=True)
        thread.start()
        return thread

    def sleep(self, seconds: float = 0) -> None:
        """Sleep in a thread."""
        time.sleep(seconds)

    def test_client(
        self,
        app: flask.Flask,
        namespace: str | None = None,
        query_string: str | None = None,
        headers: Mapping[str, str] | None = None,
        auth: Mapping[str, Any] | None = None,
        flask_test_client: Any = None,
    ) -> Any:
        """A client of a server without sockets, which is connected to the namespace."""
        from pushserver.flask.test_client import SocketIOTestClient

        return SocketIOTestClient(
            app, self, namespace, query_string, headers, auth, flask_test_client
        )

    # --- events of the server ---------------------------------------

    def accepts(self, namespace: str) -> bool:
        """Whether clients may connect to the namespace."""
        allowed = self.options.namespaces
        return (
            allowed == ANY
            or namespace in allowed
            or namespace in self._namespaces
            or self._table.has_namespace(namespace)
        )

    def _connect(self, client: Client, auth: Any) -> None:
        """Admit a client; those of the other protocol have no handlers of Flask."""
        if client.protocol != "socketio":
            return
        if not self.accepts(client.namespace):
            raise Refused(INVALID_NAMESPACE)
        app = self._app()
        environ = make_environ(app, client.url, client.address, client.headers)
        member = Member(client, client.namespace, environ)
        self.members.add(member)
        try:
            client.invite(self.channel(client.namespace), Invitation(initial=self.options.initial))
            answer = self._trigger("connect", member, (environ, auth))
            if answer is False:
                raise Refused(REJECTED)
            if not self.push.is_served(client):
                # The time of the handler was over, and nobody waits for its answer.
                raise Refused(REJECTED)
        except REFUSALS as refusal:
            self.members.remove(member)
            raise _refused(refusal) from None
        except BaseException:
            self.members.remove(member)
            raise

    def _disconnect(self, client: Client, reason: str) -> None:
        member = self.members.find(client.id, client.namespace)
        if member is not None:
            try:
                self._trigger("disconnect", member, (reason_of(reason),))
            finally:
                self.members.remove(member)

    def _event(self, client: Client, event: str, arguments: list[Any]) -> Any:
        member = self.members.find(client.id, client.namespace)
        if member is None:
            raise Refused("the client has left")
        answer = self._trigger(event, member, tuple(arguments))
        if self.testing is not None and answer is not None:
            # A test gets the exception that the acknowledgement would only log.
            try:
                values(answer if isinstance(answer, tuple) else (answer,))
            except InvalidData as error:
                self.failure = TypeError(str(error))
        return answer

    def _trigger(self, event: str, member: Member, arguments: Arguments) -> Any:
        """Call the handler of an event; raises Refused if there is none, but for a connection."""
        found = self._table.find(member.namespace, event)
        try:
            if found is not None:
                given = (event, *arguments) if found.with_event else arguments
                return self._handle_event(
                    found.function, event, member.namespace, member.sid, *given
                )
            methods = self._namespaces.get(member.namespace) or self._namespaces.get(ANY)
            if methods is not None:
                return methods.trigger_event(event, member.sid, *arguments)
        except REFUSALS:
            raise
        except BaseException as error:
            self.failure = error
            raise
        if event in CONNECTION:
            return None
        raise Refused("no handler")


def _refused(refusal: Exception) -> Refused:
    if isinstance(refusal, Refused):
        return refusal
    if not refusal.args:
        return Refused(REJECTED)
    message, *data = refusal.args
    return Refused(str(message), data=data[0] if len(data) == 1 else data or None)
