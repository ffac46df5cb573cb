"""A connected client, as an application's handlers see it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from typing import Any

from twisted.internet.defer import Deferred

from pushserver.app.link import ServerLink
from pushserver.app.result import Awaited
from pushserver.auth.keys import SCOPES, Scope
from pushserver.channels import jsontext
from pushserver.channels.names import check_name
from pushserver.errors import Unavailable
from pushserver.protocols import centrifuge
from pushserver.sessions.callbacks import USUAL, ClientSession, Invitation
from pushserver.sessions.orders import invite

MAX_CALL_SECONDS = 60.0
"""The greatest `timeout` of `Client.call`, whose memory is kept for that time."""

_NOT_CONNECTED = "the client is not connected"

MAX_USER, MAX_INFO = 255, 4_096
"""The most characters of `Client.user`, and bytes of JSON of `Client.info`."""


class Client:
    """One connection of the Centrifuge protocol, or of Socket.IO to a namespace; for any thread.

    For a publication by POST it is the user of the request: `id` is empty, `protocol` is http,
    `state` is new, nothing can be sent to it, and `headers` are those of the request.

    `id` is unguessable and new for each connection. `state` is for values of the application.
    `address` is the IP address, behind `trusted_proxies` that of the client, empty on a Unix
    socket; `protocol` is websocket, http_stream, sse or socketio; `namespace` is that of Socket.IO,
    such as `/chess`, else empty. `headers` are those of the request by lower-case name, without
    those of proxies, and `url` is its URL, in the `connect` handler only: afterwards they are
    empty. In a forked process of the server the methods raise NotRunning.
    """

    def __init__(self, session: ClientSession, link: ServerLink):
        self.id = session.info.client
        self.state: dict[str, Any] = {}
        self.namespace = session.full_namespace
        visit = session.visit
        self.address, self.protocol, self.headers = visit.address, visit.protocol, visit.headers
        self.url = visit.url
        self._session = session
        self._link = link

    def __repr__(self) -> str:
        return f"<Client {self.id}>"

    @property
    def user(self) -> str:
        """The id of the user; empty if unknown.

        Set it in the `connect` handler, to a text of 255 characters at most: presence, joins and
        publications of the client have it. Raises TypeError, ValueError, and RuntimeError later.
        """
        return self._session.info.user

    @user.setter
    def user(self, user: str) -> None:
        if not isinstance(user, str):
            raise TypeError(f"client.user is {user!r:.60}, expected a text")
        if len(user) > MAX_USER:
            raise ValueError(f"client.user has {len(user)} characters, expected {MAX_USER} at most")
        jsontext.encode(user)
        self._session.identify(user, self._session.info.conn_info)

    @property
    def info(self) -> object:
        """A JSON value about the client, such as its name, for those who see its presence.

        At first that of its token or of the `authenticate` handler. Set it in the `connect`
        handler, to 4,096 bytes of JSON at most. Raises InvalidData, ValueError, and RuntimeError
        later.
        """
        text = self._session.info.conn_info
        return json.loads(text) if text else None

    @info.setter
    def info(self, info: object) -> None:
        text = b"" if info is None else jsontext.encode(info)
        if len(text) > MAX_INFO:
            raise ValueError(
                f"client.info has {len(text)} bytes of JSON, expected {MAX_INFO} at most"
            )
        self._session.identify(self._session.info.user, text)

    @property
    def expires(self) -> float | None:
        """The Unix time at which its token or login ends; None if that has no end.

        A newer token, and `refresh` of the server API, change it.
        """
        return self._session.identity.expires or None

    def key_allows(self, scope: Scope, channel: str) -> bool:
        """Whether the API key of its connection has the scope for the channel.

        False without a key, whatever the rules of the channel are. Raises ValueError for another
        scope, and InvalidName.
        """
        if scope not in SCOPES:
            raise ValueError(f"the scope is {scope!r:.60}, expected {', '.join(SCOPES)}")
        key = self._session.identity.key
        name = check_name(channel)
        return key is not None and key.allows(scope, name)

    @property
    def cookies(self) -> dict[str, str]:
        """The cookies by name, as `headers` in the `connect` handler only."""
        return cookies(self.headers)

    def admitted(self) -> None:
        """The `connect` handler has returned: forget the headers and the URL."""
        self.headers, self.url = {}, ""

    @property
    def channels(self) -> frozenset[str]:
        """The channels of the client; in other threads than the reactor's, as of a moment ago."""
        return self._session.channels

    @property
    def connected(self) -> bool:
        """Whether the client is connected; False in its `connect` handler."""
        return self._session.connected

    def send(self, data: object, event: str = "") -> None:
        """Send to this client alone; its `message` handler gets the data.

        With an event, it gets `{"event": ..., "data": ...}`. A message of a `connect` handler is
        sent after the connect reply. Does nothing if the client is gone. Raises InvalidData for
        a value that JSON cannot hold.
        """
        self._link.call_soon(self._session.sender(data, event))

    def call(self, event: str, data: object = None, timeout: float = 10.0) -> Any:
        """Send an event that the client acknowledges, and return its acknowledgement.

        In a thread it waits; in a coroutine, await the result. A tuple as `data` is several
        arguments; of an acknowledgement, no value is None, and several are a tuple. `timeout`: up
        to 60 seconds. Raises TimeoutError, ConnectionError for a client that is not connected (as
        in its `connect` handler) or leaves meanwhile, RuntimeError for one of the Centrifuge
        protocol, which has no acknowledgements, LimitExceeded for more than 256 calls at a time,
        Unavailable while the worker that has the client is away, ValueError and InvalidData.
        """
        if not 0 < timeout <= MAX_CALL_SECONDS:
            raise ValueError(f"timeout {timeout}: expected up to {MAX_CALL_SECONDS} seconds")
        session, answer = self._session, Deferred[Any]()

        def answered(values: list[Any] | None) -> None:
            if values is not None:
                answer.callback(values[0] if len(values) == 1 else tuple(values) or None)
            elif session.connected:
                problem = f"the client did not acknowledge {event!r:.80} in {timeout:g} seconds"
                answer.errback(TimeoutError(problem))
            else:
                answer.errback(ConnectionError(_NOT_CONNECTED))

        send = session.caller(data, event, answered, timeout)

        def start() -> Deferred[Any]:
            if not session.connected:
                answered(None)
            else:
                try:
                    send()
                except Unavailable:
                    answer.errback()
            return answer

        if self._link.in_reactor_thread():
            return Awaited(start())
        return self._link.wait(start)

    def join(self, channel: str) -> None:
        """Subscribe the client to the channel; raises InvalidName.

        A later subscribe by the client replaces this one. Called in a `connect` handler, the
        subscription is part of the connect reply and is recovered on reconnect.
        """
        self.invite(channel, USUAL)

    def invite(self, channel: str, invitation: Invitation) -> None:
        """As `join`; an invitation other than the usual one is not for each protocol."""
        check_name(channel)
        node = self._link.node
        self._link.call_soon(lambda: node.run(invite(node, self._session, channel, invitation)))

    def leave(self, channel: str) -> None:
        """Unsubscribe the client from the channel; does nothing if it is not in it."""
        check_name(channel)
        self._link.call_soon(
            lambda: self._session.unsubscribe(
                channel, centrifuge.UNSUBSCRIBED, "taken out by the server"
            )
        )

    def disconnect(self, reason: str = "disconnected by the application", code: int = 4500) -> None:
        """End the connection; with a code from 4500 to 4999 the client does not reconnect."""
        if not 4000 <= code <= 4999:
            raise ValueError(f"code {code}: expected 4000 to 4999")
        text = str(reason).encode("utf-8", "replace").decode()
        self._link.call_soon(lambda: self._session.disconnect(code, text))


current_client: ContextVar[Client | None] = ContextVar("current_client", default=None)
"""The client whose handler runs."""

Skip = Client | str | Iterable[Client | str]


def skipped(skip: Skip, include_self: bool) -> tuple[str, ...]:
    """The ids of the clients that do not get a publication or a message.

    Raises TypeError for another value, and RuntimeError without `include_self` if no client's
    handler runs.
    """
    several = (skip,) if isinstance(skip, Client | str) else tuple(skip)
    ids = [client.id if isinstance(client, Client) else client for client in several]
    for client in ids:
        if not isinstance(client, str):
            raise TypeError(f"skip has {client!r:.60}, expected clients or their ids")
    if not include_self:
        current = current_client.get()
        if current is None:
            raise RuntimeError("include_self=False outside of a client's handler: use skip=client")
        ids.append(current.id)
    return tuple(ids)


def cookies(headers: Mapping[str, str]) -> dict[str, str]:
    """The cookies of a request by name."""
    pairs = (text.partition("=") for text in headers.get("cookie", "").split(";"))
    return {name.strip(): value.strip().strip('"') for name, equals, value in pairs if equals}
