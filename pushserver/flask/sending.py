"""Sends events to the clients of a Flask program, and puts them into rooms."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import flask

from pushserver.app.client import Client
from pushserver.channels.names import check_event
from pushserver.errors import InvalidData
from pushserver.flask.calling import Calling
from pushserver.flask.handlers import check_namespace
from pushserver.flask.members import MAIN_CHANNEL, channel_of
from pushserver.flask.server import Arguments, FlaskServer
from pushserver.protocols.socketio import RESERVED
from pushserver.sessions.callbacks import Invitation


class Sending(Calling):
    """The part of `SocketIO` that sends events.

    An event goes through the channel of its namespace or room. One with bytes, which no publication
    has, goes to each client, and so does one for a client, or for several rooms.
    """

    def __init__(self, push: FlaskServer):
        super().__init__()
        self._push = push
        self.main = MAIN_CHANNEL
        """The channel of the namespace `/`."""

    def accepts(self, namespace: str) -> bool:
        """Whether clients may connect to the namespace."""
        raise NotImplementedError

    def emit(
        self,
        event: str,
        data: Any = None,
        *,
        namespace: str | None = None,
        to: Any = None,
        room: Any = None,
        include_self: bool = True,
        skip_sid: Any = None,
        callback: Callable[..., object] | None = None,
        ignore_queue: bool = False,
        broadcast: bool = True,
    ) -> None:
        """Send an event to all clients of a namespace, or to those that `to` names.

        It may be called from any thread. A tuple as `data` is several arguments, None is none. `to`
        (or `room`): a room, the `sid` of a client, or a list of these. `include_self=False`, in a
        handler: not to its own client. `skip_sid`: the ids of others to leave out. `callback`:
        called with the acknowledgement of each client. Raises TypeError for values that JSON cannot
        hold, ValueError for an event that cannot be sent and for an invalid namespace, and
        Unavailable while the server cannot publish. `broadcast` and `ignore_queue`
        have no effect.
        """
        check_event(event)
        if event in RESERVED:
            raise ValueError(f"the event {event!r} is one of Socket.IO's own, which clients refuse")
        skipped = [str(sid) for sid in _several(skip_sid) or []]
        if not include_self:
            skipped.append(_own_sid())
        targets, name = _several(to or room), namespace or "/"
        arguments = data if isinstance(data, tuple) else () if data is None else (data,)
        try:
            if callback is not None:
                clients = self._clients(name, targets, skipped)
                self._push.ask(clients, event, arguments, self._in_context(callback))
                return
            if not self._publish(name, targets, skipped, event, arguments):
                clients = self._clients(name, targets, skipped)
                self._push.send_to(clients, event, arguments)
        except InvalidData as error:
            raise TypeError(str(error)) from error

    def _clients(
        self, namespace: str, targets: list[Hashable] | None, skipped: Sequence[str]
    ) -> list[Client]:
        chosen = self.members.chosen(namespace, targets)
        return [member.client for member in chosen if member.sid not in skipped]

    def _publish(
        self,
        namespace: str,
        targets: list[Hashable] | None,
        skipped: Sequence[str],
        event: str,
        arguments: Arguments,
    ) -> bool:
        """Publish to the channel of a namespace or a room; False if there is none, or for bytes."""
        if targets is None:
            room, channel = None, self.channel(namespace)
            if not self.accepts(namespace):
                check_namespace(namespace)
                return True
        elif len(targets) == 1 and self.members.find(targets[0], namespace) is None:
            room, channel = targets[0], channel_of(namespace, targets[0])
            if not self.members.chosen(namespace, targets):
                return True
        else:
            return False

        def joining() -> list[Client]:
            return [member.client for member in self.members.joining(namespace, room)]

        try:
            self._push.publish_to(channel, event, arguments, joining, skipped)
        except InvalidData:
            # Publications are JSON: bytes go to each client. Another fault is found there, too.
            return False
        return True

    def channel(self, namespace: str) -> str:
        """The channel of a namespace."""
        return self.main if namespace == "/" else namespace[1:]

    def send(
        self,
        data: Any,
        json: bool = False,
        namespace: str | None = None,
        to: Any = None,
        callback: Callable[..., object] | None = None,
        include_self: bool = True,
        skip_sid: Any = None,
        **options: Any,
    ) -> None:
        """Send the event `message`, or `json`; see `emit`."""
        self.emit(
            "json" if json else "message",
            data,
            namespace=namespace,
            to=to,
            callback=callback,
            include_self=include_self,
            skip_sid=skip_sid,
            **options,
        )

    def call(
        self,
        event: str,
        data: Any = None,
        *,
        to: Any = None,
        room: Any = None,
        namespace: str | None = None,
        timeout: float = 60,
        ignore_queue: bool = False,
    ) -> Any:
        """Send an event to one client, and return its acknowledgement; from any thread.

        Raises TimeoutError after `timeout` seconds (60 at most), ConnectionError if the client has
        left, and ValueError without a client.
        """
        sid = to or room
        member = self.members.find(sid, namespace or "/")
        if member is None:
            if sid is None:
                raise ValueError("call needs the sid of a client: to=...")
            raise ConnectionError(f"there is no client {sid!r:.80} in {namespace or '/'}")
        return member.client.call(event, () if data is None else data, timeout)

    # --- rooms ---------------------------------------

    def enter_room(self, sid: str, room: Hashable, namespace: str | None = None) -> None:
        """Put a client into a room.

        Raises ValueError for a client that is not connected, and LimitExceeded for one in 1,000.
        """
        member = self.members.find(sid, namespace or "/")
        if member is None:
            raise ValueError(f"there is no client {sid!r:.80} in {namespace or '/'}")
        if self.members.enter(member, room):
            member.client.invite(channel_of(member.namespace, room), Invitation(initial=0))

    def leave_room(self, sid: str, room: Hashable, namespace: str | None = None) -> None:
        """Take a client out of a room."""
        member = self.members.find(sid, namespace or "/")
        if member is not None and self.members.leave(member, room):
            member.client.leave(channel_of(member.namespace, room))

    def close_room(self, room: Hashable, namespace: str | None = None) -> None:
        """Take all clients out of a room."""
        for member in self.members.chosen(namespace or "/", [room]):
            self.leave_room(member.sid, room, namespace)

    def rooms(self, sid: str, namespace: str | None = None) -> list[Hashable]:
        """The rooms of a client, its own with its `sid` first."""
        member = self.members.find(sid, namespace or "/")
        return [] if member is None else [sid, *member.rooms]

    def disconnect(self, sid: str, namespace: str | None = None) -> None:
        """End the connection of a client to the namespace."""
        member = self.members.find(sid, namespace or "/")
        if member is not None:
            member.client.disconnect()


def _own_sid() -> str:
    request: Any = flask.request
    sid: str = request.sid
    return sid


def _several(value: Any) -> list[Hashable] | None:
    if value is None:
        return None
    return list(value) if isinstance(value, (list, tuple, set)) else [value]
