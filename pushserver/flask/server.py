"""The application below a `SocketIO`: its server, and how events leave."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from pushserver.app.client import MAX_CALL_SECONDS, Client
from pushserver.app.handlers import ANY_NUMBER, Handler, HandlerRegistry
from pushserver.app.link import ServerLink
from pushserver.channels import jsontext
from pushserver.channels.names import check_event, check_name
from pushserver.channels.publication import Draft, Receipt, check_tags
from pushserver.config.settings import Config
from pushserver.errors import InvalidData, Unavailable
from pushserver.protocols.socketio_formats import ARGUMENTS, LIST
from pushserver.server.embedding import PushServer
from pushserver.sessions.callbacks import Broadcast
from pushserver.sessions.namespace import Namespace

Arguments = tuple[Any, ...]


class FlaskServer(PushServer):
    """The application of a Flask program.

    Events that are sent while no server runs, or while it stops, reach nobody: there are no
    clients.
    """

    needs_wsgi = True

    _log = Logger()

    def __init__(self, handlers: HandlerRegistry, adjust: Callable[[Config], Config]):
        super().__init__()
        self.handlers = handlers
        self._adjust = adjust

    def adjust(self, config: Config) -> Config:
        return self._adjust(config)

    def is_served(self, client: Client) -> bool:
        """Whether the client is connected, or its `connect` handler is still waited for."""
        dispatcher = self._dispatcher
        return dispatcher is not None and dispatcher.clients.get(client._session) is client

    def publish_to(
        self,
        channel: str,
        event: str,
        arguments: Arguments,
        joining: Callable[[], Iterable[Client]],
        skipped: Sequence[str] = (),
    ) -> None:
        """Publish an event, and send it to the clients that are `joining`.

        These are not subscribed yet. A client that subscribes meanwhile, or gets the publication
        from the history when it does, gets the event once. `skipped`: the ids of clients that do
        not get it. Raises InvalidName, InvalidData, Unavailable and NotRunning.
        """
        one = len(arguments) == 1
        draft = Draft(
            check_name(channel),
            jsontext.encode(arguments[0] if one else arguments),
            check_event(event),
            None if one else check_tags({ARGUMENTS: LIST}),
            skip=tuple(skipped),
        )

        def publish(link: ServerLink) -> Deferred[Any]:
            sessions = [client._session for client in joining() if client.id not in skipped]

            def send(receipt: Receipt) -> None:
                for session in sessions:
                    if isinstance(session, Namespace) and channel not in session.channels:
                        session.send_published(arguments, event, channel, receipt.offset)

            return Deferred.fromCoroutine(link.node.publish(draft)).addCallback(send)

        self._do(publish)

    def send_to(self, clients: Sequence[Client], event: str, arguments: Arguments) -> None:
        """Send an event to each of the clients; raises as `publish_to`."""
        sessions = [client._session for client in clients]
        try:
            broadcast = Broadcast.of(arguments[0], event) if len(arguments) == 1 else None
        except InvalidData:
            # It may have bytes.
            broadcast = None
        sends: list[Callable[[], object]] = []
        for session in sessions:
            if broadcast is None or not session.connected:
                sends.append(session.sender(arguments, event))
            else:
                sends.append(lambda session=session: session.broadcast(broadcast))  # type: ignore[misc]
        self._do_all(sends)

    def ask(
        self,
        clients: Sequence[Client],
        event: str,
        arguments: Arguments,
        callback: Callable[..., object],
    ) -> None:
        """Send an event, and call the callback in a thread with each acknowledgement.

        Those that come within a minute count. Raises as `publish_to`, and LimitExceeded for too
        many that wait.
        """
        handler = Handler(
            "the callback of emit", callback, ANY_NUMBER, True, key=("", "acknowledgement")
        )

        def answered(values: list[Any] | None) -> None:
            dispatcher = self._dispatcher
            if values is not None and dispatcher is not None:
                dispatcher.notify(handler, *values)

        sends = [
            client._session.caller(arguments, event, answered, MAX_CALL_SECONDS)
            for client in clients
        ]
        self._do_all(sends)

    def _do_all(self, sends: Sequence[Callable[[], object]]) -> None:
        """Call all of these functions in one turn of the reactor; see `_do`."""

        def send_all(link: ServerLink) -> None:
            for send in sends:
                send()

        self._do(send_all)

    def _failed(self, failure: Failure) -> None:
        error = failure.value
        if not (isinstance(error, Unavailable) and error.cause == "stopping"):
            self._log.failure("an event was not sent", failure, event_name="event_not_sent")

    def _do(self, function: Callable[[ServerLink], Any]) -> None:
        """Call a function in the reactor's thread, and wait for it in any other."""
        link = self._link
        if link is None:
            return
        try:
            if link.in_reactor_thread():
                maybeDeferred(function, link).addErrback(self._failed)
            else:
                link.wait(lambda: function(link))
        except Unavailable as error:
            if error.cause != "stopping":
                raise
