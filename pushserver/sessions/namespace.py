"""One namespace of a Socket.IO client: its subscriptions, its identity and its calls."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, Protocol

from pushserver.auth.identity import ANONYMOUS, Identity
from pushserver.channels.names import check_event
from pushserver.channels.position import Position
from pushserver.channels.publication import ClientInfo, Publication
from pushserver.errors import InvalidName, LimitExceeded, PushServerError, Refused, Unsubscribed
from pushserver.hub.audience import Audience, Outlet
from pushserver.hub.hub import Joined
from pushserver.protocols import centrifuge, socketio
from pushserver.protocols.socketio import RESERVED, Values
from pushserver.protocols.socketio_formats import UNNAMED, EngineFormat, NamespaceFormat
from pushserver.sessions.base import CLOSED, CONNECTING, OPEN
from pushserver.sessions.callbacks import USUAL, Answered, Broadcast, Invitation
from pushserver.sessions.loading import load_together
from pushserver.sessions.node import Node, new_id
from pushserver.sessions.recovery import Return, make_pid
from pushserver.sessions.visit import Visit

MAX_CALLS = 256
"""Calls of one client that wait for its acknowledgement."""


class Connection(Protocol):
    """The connection of the client, as its namespaces use it."""

    node: Node
    visit: Visit
    address: str | None

    @property
    def format(self) -> EngineFormat:
        """The encoding on this connection."""

    @property
    def outlet(self) -> Outlet | None:
        """The outlet of its socket."""

    def send(self, frame: bytes) -> None:
        """Send a frame."""

    def replay(self, channel: str, rows: Sequence[Publication], format: NamespaceFormat) -> None:
        """Send publications, a long run of them in portions as the peer reads."""

    def send_message(self, text: bytes, attachments: Sequence[bytes] = ()) -> None:
        """Send a packet of Socket.IO, and its attachments."""

    def check_not_ended(self) -> None:
        """Raise Refused if the connection has ended."""

    def plan_expiry(self) -> None:
        """Plan the next end, after a change of one."""

    def forget(self, namespace: Namespace, reason: str) -> None:
        """Forget a namespace that has ended, and tell the application."""

    def disconnect(self, code: int, reason: str) -> None:
        """End the connection."""


class Namespace:
    """A client in one namespace: a subscriber of the hub, and a session of the application."""

    __slots__ = (
        "__weakref__",
        "_after_connect",
        "_calls",
        "_connection",
        "_ends",
        "_last_call",
        "_leaving",
        "_returning",
        "audiences",
        "channel",
        "format",
        "identity",
        "info",
        "invited",
        "name",
        "node",
        "planned",
        "state",
    )

    secret = ""

    def __init__(self, connection: Connection, name: str, channel: str, recovers: bool = False):
        """`channel`: the one that the namespace stands for; empty for none.

        `recovers`: whether a client that returns gets the publications of that one which it missed.
        """
        self.name, self.channel = name, channel
        self.info = ClientInfo(new_id())
        self.identity = ANONYMOUS
        self.node = connection.node
        self.format = connection.format.of(name, channel if recovers else "")
        self._returning: Return | None = None
        self.audiences: dict[str, Audience] = {}
        self.state = CONNECTING
        # The subscriptions and messages that wait for the answer to the CONNECT.
        self.invited: dict[str, Invitation] = {}
        # Of these, the subscriptions that were ordered, for its user alone.
        self.planned: dict[str, Invitation] = {}
        self._after_connect: list[tuple[Callable[[], None], str, int]] = []
        self._connection = connection
        self._calls: dict[int, Answered] = {}
        self._last_call = -1
        # Whether the client has left, and packets from before are still being handled.
        self._leaving = False
        # The Unix times at which subscriptions by the server end, by channel.
        self._ends: dict[str, float] = {}
        self.node.sessions.add(self)

    # --- a subscriber of the hub ---------------------------------------

    @property
    def outlet(self) -> Outlet | None:
        return self._connection.outlet

    def send(self, frame: bytes) -> None:
        self._connection.send(frame)

    def insufficient(self, channel: str) -> None:
        self._connection.disconnect(centrifuge.INSUFFICIENT_STATE, "insufficient state")

    # --- its life ---------------------------------------

    @property
    def visit(self) -> Visit:
        return self._connection.visit

    @property
    def address(self) -> str | None:
        return self._connection.address

    @property
    def namespace(self) -> str:
        """That of a channel of this name: `chess` for `/chess` and `/chess:12`, empty for `/`."""
        return self.name.removeprefix("/").partition(":")[0].removeprefix("$")

    @property
    def full_namespace(self) -> str:
        return self.name

    @property
    def connected(self) -> bool:
        return self.state is OPEN and not self._leaving

    @property
    def channels(self) -> frozenset[str]:
        return frozenset(self.audiences)

    def returns(self, returning: Return) -> None:
        """The client has been here before, and asks for the publications that it missed."""
        self._returning = returning

    def change_format(self, engine: EngineFormat) -> NamespaceFormat:
        """Take the format of another connection; returns the one before."""
        before, self.format = self.format, engine.of(self.name, self.format.numbered)
        return before

    def become(self, identity: Identity) -> None:
        """Set the identity, before the `connect` handler."""
        self.identity = identity
        self.info = ClientInfo(self.info.client, identity.user, identity.info)

    def identify(self, user: str, info: bytes) -> None:
        if self.state is CLOSED:
            # It has left while its handler runs.
            return
        if self.state is not CONNECTING:
            raise RuntimeError("the user of a client is set in its connect handler, not later")
        self.info = ClientInfo(self.info.client, user, info)
        self.identity = replace(self.identity, user=user)

    def check_not_ended(self) -> None:
        """Raise Refused if the namespace or its connection has ended."""
        if self.state is CLOSED:
            raise Refused("disconnected by the application")
        self._connection.check_not_ended()

    async def open(self) -> None:
        """Admit the client: subscribe it to its channels, and send all that waits for that.

        Raises LimitExceeded if the server keeps no more channels, Unavailable, and Denied and
        TooMany if the client may not enter any more after the channels were loaded.
        """
        node = self.node
        await load_together(node, self._wanted, self._is_ahead)
        joined, pid = [], ""
        if self.channel:
            pid, rows = await self._join_own(self._invitation(self.channel) or USUAL)
            joined.append((self.channel, rows))
        while channel := next(iter((*self.invited, *self._ordered())), ""):
            invitation = self._invitation(channel)
            if invitation is not None and channel not in self.audiences:
                with suppress(LimitExceeded, Unsubscribed):
                    joined.append(await self._join(channel, invitation))
        self.check_not_ended()
        node.permissions.check_connect(self.identity)
        if self.channel:
            node.permissions.check("subscribe", self.channel, self.identity)
        node.users.check(self.info.user)
        self.state = OPEN
        self.planned.clear()
        node.sessions.identify(self)
        node.users.enter(self.info.user)
        self._connection.plan_expiry()
        self._connection.send_message(socketio.encode_connect(self.name, self.info.client, pid))
        sends, self._after_connect = self._after_connect, []
        first = {channel: rows[0].offset for channel, rows in joined if rows}
        for send, channel, offset in sends:
            if offset < first.get(channel, 0):
                send()
        for channel, rows in joined:
            self._connection.replay(channel, rows, self.format)
        for send, channel, _ in sends:
            if channel not in first:
                send()

    def _invitation(self, channel: str) -> Invitation | None:
        """Take the invitation that waits for the client; None without one, or for another user."""
        own, plan = self.invited.pop(channel, None), self.planned.pop(channel, None)
        return plan if plan is not None and plan.user == self.info.user else own

    def _wanted(self) -> set[str]:
        """The channels that the client joins when it is admitted."""
        own = {self.channel} if self.channel else set()
        return self.invited.keys() | own | set(self._ordered())

    def _ordered(self) -> list[str]:
        """The channels of `planned` for the user that the client has now."""
        return [name for name, plan in self.planned.items() if plan.user == self.info.user]

    def _is_ahead(self) -> bool:
        returning = self._returning
        return (
            returning is not None
            and bool(self.channel)
            and returning.position.offset > self.node.history.top(self.channel)
        )

    def end(self, reason: str) -> None:
        """Leave all channels, and forget the client."""
        state, self.state = self.state, CLOSED
        if state is CLOSED:
            return
        self.leave_all()
        # They refer to the namespace.
        self._after_connect.clear()
        self.node.sessions.remove(self)
        self._end_calls()
        if state is OPEN:
            self.node.users.leave(self.info.user)
            self._connection.forget(self, reason)

    def leaves(self) -> None:
        """Note that the client has left; `end` follows when its earlier packets are handled."""
        if self.state is OPEN:
            self._leaving = True
            self.leave_all()
            self._end_calls()

    def _end_calls(self) -> None:
        calls, self._calls = self._calls, {}
        for answered in calls.values():
            answered(None)

    def leave_all(self) -> None:
        """Get no more publications."""
        for channel in tuple(self.audiences):
            self.node.hub.unsubscribe(self, channel)

    def disconnect(self, code: int, reason: str) -> None:
        """End the namespace; with a code after which a client reconnects, the whole connection.

        The protocol's own DISCONNECT is final: a client that gets it stays away.
        """
        if centrifuge.reconnects(code):
            self._connection.disconnect(code, reason)
        elif self.state is OPEN:
            self.node.metrics.ended[str(code)] += 1
            self._connection.send_message(socketio.encode_disconnect(self.name))
            self.end(reason)
        else:
            # Its `connect` handler still runs; `check_not_ended` follows.
            self.end(reason)

    # --- the end of its rights ---------------------------------------

    @property
    def ends(self) -> list[float]:
        """The Unix times at which its identity or a subscription ends."""
        own = [self.identity.expires] if self.identity.expires else []
        return own + list(self._ends.values())

    def expire(self, now: float) -> None:
        """End all whose time is over. A client that reconnects may have a newer token."""
        if 0 < self.identity.expires <= now:
            self._connection.disconnect(centrifuge.EXPIRED, "expired")
            return
        for channel, end in tuple(self._ends.items()):
            if end <= now:
                self.unsubscribe(channel, centrifuge.SUBSCRIPTION_ENDED, "subscription expired")

    def prolong(self, expires: float) -> None:
        self.identity = replace(self.identity, expires=expires)
        self._connection.plan_expiry()

    # --- its channels ---------------------------------------

    async def invite(self, channel: str, invitation: Invitation = USUAL) -> None:
        if self.state is CONNECTING and invitation.user:
            earlier = self.planned.get(channel)
            if earlier is None or earlier.user != invitation.user:
                self.planned[channel] = invitation
        elif self.state is CONNECTING:
            self.invited.setdefault(channel, invitation)
        elif invitation.user not in ("", self.info.user):
            return
        elif self.connected and channel not in self.node.hub.channels_of(self):
            try:
                channel, rows = await self._join(channel, invitation)
            except Unsubscribed:
                return
            except PushServerError:
                if self.state is not CLOSED:
                    raise
            else:
                self._connection.replay(channel, rows, self.format)

    def unsubscribe(self, channel: str, code: int, reason: str) -> bool:
        self.invited.pop(channel, None)
        self.planned.pop(channel, None)
        self._ends.pop(channel, None)
        return self.node.hub.unsubscribe(self, channel)

    async def _join_own(self, invitation: Invitation) -> tuple[str, Sequence[Publication]]:
        """Join the channel of the namespace; the `pid` is empty if clients are not recovered."""
        channel, returning, node = self.channel, self._returning, self.node
        if not self.format.numbered:
            return "", (await self._join(channel, invitation))[1]
        if returning is not None:
            past = node.permissions.subscriber_may("history", channel, self.identity)
            # The join has the facts of the invitation.
            self._note(channel, invitation)
            found = await self._subscribe(channel, returning.position, 0, past)
            if not found.reason:
                return returning.pid, found.publications
        rows = (await self._join(channel, invitation))[1]
        log = node.history.channels[channel]
        before = rows[0].offset - 1 if rows else log.top
        return make_pid(self.info.client, Position(log.epoch, before)), rows

    async def _join(
        self, channel: str, invitation: Invitation = USUAL
    ) -> tuple[str, Sequence[Publication]]:
        node, position = self.node, invitation.position
        self._note(channel, invitation)
        past = position is not None or node.permissions.subscriber_may(
            "history", channel, self.identity
        )
        last = invitation.initial
        if last is None:
            last = node.history.options(channel).initial
        joined = await self._subscribe(channel, position, last, past)
        return channel, joined.publications

    async def _subscribe(
        self, channel: str, position: Position | None, last: int, past: bool
    ) -> Joined:
        """Subscribe to a channel; if that fails, forget the facts of `_note`."""
        try:
            return await self.node.hub.subscribe(
                # Before the answer to the CONNECT, `load_together` has loaded it.
                self,
                channel,
                position,
                last,
                past,
                is_loaded=self.state is CONNECTING,
            )
        except PushServerError:
            # Another subscription to the channel may have begun meanwhile, or be about to.
            if channel not in self.node.hub.channels_of(self):
                self.node.presence.forget(channel, self)
                self._ends.pop(channel, None)
            raise

    def _note(self, channel: str, invitation: Invitation) -> None:
        """Note the facts of an invitation about the subscription."""
        if invitation.info:
            self.node.presence.describe(channel, self, invitation.info)
        if invitation.expires:
            self._ends[channel] = invitation.expires
            self._connection.plan_expiry()

    # --- messages ---------------------------------------

    def broadcast(self, broadcast: Broadcast) -> None:
        frames = broadcast.frames
        if self.format not in frames:
            frames[self.format] = self.format.event(broadcast.event, broadcast.data)
        self.send(frames[self.format])

    def sender(self, data: object, event: str) -> Callable[[], None]:
        if self.format.numbered:
            # A client takes a text at the end for the offset, also the name of the event.
            arguments = data if isinstance(data, tuple) else (data,)
            if not arguments or isinstance(arguments[-1], str):
                data = (*arguments, None)
        values = _values(data, event)
        return lambda: self._emit(values)

    def send_published(self, data: object, event: str, channel: str, offset: int) -> None:
        """Send the event of a publication that came before the client subscribes, once it does.

        Not if the client gets the publication then from the history of the channel. Does nothing
        if the client is admitted.
        """
        if self.state is CONNECTING:
            self._after_connect.append((self.sender(data, event), channel, offset))

    def caller(
        self, data: object, event: str, answered: Answered, seconds: float
    ) -> Callable[[], None]:
        values = _values(data, event)
        return lambda: self.call(values, answered, seconds)

    def call(self, values: Values, answered: Answered, seconds: float) -> None:
        """Send an event that the client acknowledges; raises LimitExceeded for too many.

        `values` has the event first. `answered` is called once, in `seconds` at the latest.
        """
        if self.state is CLOSED or self._leaving:
            answered(None)
            return
        if len(self._calls) >= MAX_CALLS:
            raise LimitExceeded(f"{MAX_CALLS} calls of this client wait already", "calls")
        self._last_call += 1
        number = self._last_call
        self._calls[number] = answered
        self.node.timer.callLater(seconds, lambda: self.acknowledged(number, None))
        self._emit(values, number)

    def acknowledged(self, number: int, arguments: list[Any] | None) -> None:
        """Give the acknowledgement to its call; one that nobody waits for is ignored."""
        answered = self._calls.pop(number, None)
        if answered is not None:
            answered(arguments)

    def acknowledge(self, number: int, values: Values) -> None:
        """Answer an event of the client, unless it has left."""
        if self.connected:
            text = socketio.encode(self.name, socketio.ACK, values, number)
            self._connection.send_message(text, values.attachments)

    def _emit(self, values: Values, number: int | None = None) -> None:
        if self.connected:
            text = socketio.encode(self.name, socketio.EVENT, values, number)
            self._connection.send_message(text, values.attachments)
        elif self.state is CONNECTING:
            self._after_connect.append((lambda: self._emit(values, number), "", 0))


def _values(data: object, event: str) -> Values:
    """An event; a tuple is several arguments."""
    arguments = data if isinstance(data, tuple) else (data,)
    return socketio.values([checked_event(event), *arguments])


def checked_event(event: str) -> str:
    """The name of an event for a client of Socket.IO; raises InvalidName."""
    if event in RESERVED:
        raise InvalidName(f"the event {event!r} is one of Socket.IO's own, which clients refuse")
    return check_event(event) if event else UNNAMED
