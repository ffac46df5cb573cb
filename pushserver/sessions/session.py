"""One client of the Centrifuge protocol: its identity, its channels and its pings."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Literal

from msgspec import Struct

from pushserver.auth.credentials import NOTHING, Credentials
from pushserver.auth.identity import ANONYMOUS, Grant, Identity
from pushserver.channels.position import Position
from pushserver.channels.publication import ClientInfo, Publication
from pushserver.errors import PushServerError, Unsubscribed
from pushserver.hub.hub import Joined
from pushserver.protocols import centrifuge
from pushserver.protocols.centrifuge import CommandError
from pushserver.protocols.formats import SessionFormat
from pushserver.sessions.base import CLOSED, CLOSING, CONNECTING, GONE, NEW, OPEN, Transport
from pushserver.sessions.callbacks import NO_CALLS, USUAL, Answered, Broadcast, Invitation
from pushserver.sessions.command_queue import CommandQueue
from pushserver.sessions.expiry import end_expired, plan, ttl
from pushserver.sessions.node import Node
from pushserver.sessions.visit import UNKNOWN, Visit

Answer = Callable[["Session", str, bytes], Awaitable[Struct]]
"""Returns the result of a command, given its session, its method and its request as JSON text."""


class Session(CommandQueue):
    """A conversation in the Centrifuge client protocol, over any transport."""

    __slots__ = (
        "_answer",
        "_ping_due",
        "_ping_seconds",
        "credentials",
        "ended_by",
        "grants",
        "identity",
        "invited",
        "planned",
        "secret",
        "token_user",
        "visit",
    )

    slow_code = centrifuge.SLOW
    flood_code = centrifuge.TOO_MANY_REQUESTS
    namespace = ""
    full_namespace = ""

    def __init__(
        self,
        node: Node,
        transport: Transport[SessionFormat],
        answer: Answer,
        secret: str = "",
        visit: Visit = UNKNOWN,
        credentials: Credentials = NOTHING,
        address: str | None = None,
    ):
        """`secret` names the session in requests to `/emulation`; empty if there are none.

        `visit` and `credentials` are those of its request, until the client is admitted; `address`
        is that of the client, None on a Unix socket.
        """
        self.secret = secret
        self.visit = visit
        self.credentials = credentials
        self.identity = ANONYMOUS
        self._answer = answer
        self._ping_due = 0.0
        # The client is told at its connect, and would miss pings at a longer interval.
        self._ping_seconds = node.limits.ping_seconds
        self.ended_by = ""
        # The channels of subscriptions by the server; before the connect reply, of those that the
        # application and the token want.
        self.invited: set[str] = _NONE
        # The subscriptions by the connect reply that were ordered, for its user alone.
        self.planned: dict[str, Invitation] = _NO_PLANS
        # Of subscription tokens, and of subscriptions by the server that end.
        self.grants: dict[str, Grant] = _NO_GRANTS
        # The user of the token in the `connect` command; None without one.
        self.token_user: str | None = None
        super().__init__(node, transport, address)
        node.sessions.add(self)
        self.wake_at(node.monotonic() + node.limits.connect_seconds)

    def answer(self, method: str, text: bytes) -> Awaitable[Struct]:
        return self._answer(self, method, text)

    @property
    def connected(self) -> bool:
        return OPEN <= self.state <= CLOSING

    @property
    def channels(self) -> frozenset[str]:
        return frozenset(self.audiences)

    @property
    def wanted(self) -> set[str]:
        """The channels of the subscriptions by the server that the connect reply has."""
        if not self.planned:
            return self.invited
        return self.invited | {name for name in self.planned if self.plan_of(name)}

    def plan_of(self, channel: str) -> Invitation | None:
        """The subscription that was ordered for the user that the client has now."""
        plan = self.planned.get(channel)
        return plan if plan is not None and plan.user in ("", self.info.user) else None

    def start_connect(self) -> None:
        """Let the application decide whether to admit the client."""
        self.state = CONNECTING
        # Discard invitations and messages of an earlier connect that was refused.
        self.invited, self.planned, self._after_reply = _NONE, _NO_PLANS, ()

    def become(self, identity: Identity) -> None:
        """Set the identity, before the `connect` handler."""
        self.identity = identity
        self.info = ClientInfo(self.info.client, identity.user, identity.info)

    def identify(self, user: str, info: bytes) -> None:
        if self.state >= CLOSING:
            # It has left while its handler runs.
            return
        if self.state is not CONNECTING:
            raise RuntimeError("the user of a client is set in its connect handler, not later")
        self.info = ClientInfo(self.info.client, user, info)
        if user != self.identity.user:
            # Else most clients share one object.
            self.identity = replace(self.identity, user=user)

    def not_admitted(self) -> None:
        self.info = ClientInfo(self.info.client)
        self.identity, self.token_user = ANONYMOUS, None
        self.node.sessions.refused(self)

    def open(self) -> None:
        """Admit the client; its connect reply follows."""
        self.state = OPEN
        self.visit, self.credentials, self.planned = UNKNOWN, NOTHING, _NO_PLANS
        self.node.sessions.identify(self)
        self.node.users.enter(self.info.user)
        plan(self)
        # The first ping is at a random time: clients that connected together would otherwise
        # answer all their pings together.
        interval = self._ping_seconds = self.node.limits.ping_seconds
        self._ping_due = self.node.monotonic() + interval * random.uniform(0.5, 1.0)
        self.wake_at(self._ping_due)

    def may(
        self, action: Literal["history", "presence"], channel: str, grant: Grant | None = None
    ) -> bool:
        """Whether the client as a subscriber may also read this of the channel."""
        return self.node.permissions.subscriber_may(action, channel, self.identity, grant)

    def token_grant(self, channel: str) -> Grant | None:
        """The permission of the subscription token with which the client is in the channel."""
        return None if channel in self.invited else self.grants.get(channel)

    def grant(self, channel: str, grant: Grant) -> None:
        """Keep the permission for a channel, until its end or a newer one."""
        self.grants = {**self.grants, channel: grant}
        if self.state is OPEN:
            plan(self)

    @property
    def refreshes(self) -> bool:
        """Whether the client has a token that it can refresh."""
        return self.token_user is not None

    def expired(self) -> None:
        end_expired(self)

    def prolong(self, expires: float) -> None:
        self.identity = replace(self.identity, expires=expires)
        if not self.connected:
            # The connect reply has the end.
            return
        plan(self)
        if self.refreshes:
            self.push(centrifuge.refresh_push(ttl(expires, self.node)))

    def closed(self) -> None:
        self._leave_all()
        self.node.sessions.remove(self)
        if self.state is CLOSING:
            self.state = GONE
            self.node.users.leave(self.info.user)
            # While a command is handled, `_work` calls the handler after it.
            if not self._working or self.node.stopping:
                self.gone()
        # Last: a stopping server continues when the last peer is removed.
        super().closed()

    def gone(self) -> None:
        self.state = CLOSED
        self.node.handlers.disconnect(self, self.ended_by)

    def disconnect(self, code: int, reason: str) -> None:
        self.ended_by = self.ended_by or reason
        super().disconnect(code, reason)

    def broadcast(self, broadcast: Broadcast) -> None:
        format_, frames = self._transport.format, broadcast.frames
        if format_ not in frames:
            frames[format_] = format_.frame(broadcast.push)
        self._transport.write(frames[format_])

    def sender(self, data: object, event: str) -> Callable[[], None]:
        return partial(self.message, centrifuge.encode_message(data, event))

    def caller(
        self, data: object, event: str, answered: Answered, seconds: float
    ) -> Callable[[], None]:
        raise RuntimeError(NO_CALLS)

    def message(self, data: bytes) -> None:
        """Send JSON text that is no publication; sent after the connect reply at the earliest."""
        if self.state >= CLOSING:
            return
        if self.connected:
            self.push(centrifuge.message_push(data))
        else:
            self.push_after_reply(centrifuge.message_push(data))

    def insufficient(self, channel: str) -> None:
        if channel in self.invited:
            # The client cannot renew a subscription by the server, but it reconnects after this
            # code.
            self.disconnect(centrifuge.INSUFFICIENT_STATE, "insufficient state")
        else:
            self.push(
                centrifuge.unsubscribe_push(channel, centrifuge.INSUFFICIENT, "insufficient state")
            )

    def check_not_ended(self) -> None:
        """Raise CommandError if the session has ended; no client gets it."""
        if self.state >= CLOSING:
            # Not a constant: a raised error keeps its traceback, and so the session, alive.
            raise CommandError(centrifuge.INTERNAL, "the connection is closed")

    async def join(
        self,
        channel: str,
        position: Position | None,
        last: int,
        join_leave: bool | None = None,
        past: bool = True,
        is_loaded: bool = False,
    ) -> Joined:
        """Subscribe to the channel; the result has the publications to send first.

        `join_leave`: see `Invitation`. `past`: whether the client may read earlier publications.
        `is_loaded`: see `Hub.subscribe`. If it fails, the facts about the subscription are
        forgotten (`Presence.describe`).
        """
        try:
            self.check_not_ended()
            joined = await self.node.hub.subscribe(
                self, channel, position, last, past, once=True, is_loaded=is_loaded
            )
        except PushServerError:
            # Another subscription to the channel may have begun meanwhile, or be about to.
            if channel not in self.node.hub.channels_of(self):
                self.node.presence.forget(channel, self)
            raise
        options = self.node.history.options(channel)
        if join_leave is None:
            join_leave = options.force_push_join_leave
        if join_leave and options.join_leave:
            self.node.presence.observe(channel, self)
        return joined

    def check_joins(self, channel: str) -> None:
        """Push no more joins and leaves of a channel where these are not for the client any more.

        For a change of the rules or of its rights. Pushes that the server or a token asked for, or
        the channel's option, are no matter of the client's rights.
        """
        options, grant = self.node.history.options(channel), self.token_grant(channel)
        pushed = options.force_push_join_leave or channel in self.invited
        if grant is not None:
            pushed = grant.override.get("force_push_join_leave", pushed)
        if not options.join_leave or not (pushed or self.may("presence", channel, grant)):
            self.node.presence.ignore(channel, self)

    async def join_by_server(
        self, channel: str, invitation: Invitation = USUAL
    ) -> tuple[Joined, Sequence[Publication]]:
        """Subscribe to the channel; return the first publications separately, for pushes.

        The official client (5.8.0) ignores the publications of a subscription by the server,
        unless it recovered.
        """
        initial = invitation.initial
        if initial is None:
            initial = self.node.history.options(channel).initial
        if invitation.info:
            self.node.presence.describe(channel, self, invitation.info)
        past = invitation.position is not None or self.may("history", channel)
        # Before the connect reply, `load_together` has loaded it.
        joined = await self.join(
            channel,
            invitation.position,
            initial,
            invitation.join_leave,
            past,
            is_loaded=not self.connected,
        )
        rows = joined.publications
        first = replace(joined, offset=joined.offset - len(rows), publications=())
        return first, rows

    def leave(self, channel: str) -> bool:
        """Unsubscribe from the channel; False if the client was not in it."""
        self.invited.discard(channel)
        self.planned.pop(channel, None)
        self.grants.pop(channel, None)
        return self.node.hub.unsubscribe(self, channel)

    def unsubscribe(self, channel: str, code: int, reason: str) -> bool:
        if not self.leave(channel):
            return False
        if not self.connected:
            # The connect reply will not have the channel.
            return True
        self.push(centrifuge.unsubscribe_push(channel, code, reason))
        return True

    async def invite(self, channel: str, invitation: Invitation = USUAL) -> None:
        if self.state >= CLOSING or channel in self.audiences or channel in self.invited:
            return
        if not self.connected and invitation.user:
            self.planned = {**self.planned, channel: self.plan_of(channel) or invitation}
            return
        if invitation.user not in ("", self.info.user):
            return
        self.invited = {*self.invited, channel}
        if self.connected:
            try:
                joined, rows = await self.join_by_server(channel, invitation)
            except Unsubscribed:
                # `leave` removed the channel, or the client has subscribed to it itself; a later
                # invitation may have added it again.
                return
            except PushServerError:
                self.invited.discard(channel)
                if self.state < CLOSING:
                    raise
                return
            if invitation.expires:
                self.grant(channel, Grant(channel, expires=invitation.expires))
            self.push(
                centrifuge.subscribe_push(channel, joined.epoch, joined.offset, invitation.data)
            )
            if own_join := self.node.presence.own_join(channel, self):
                self.push(own_join)
            self._push_all([(channel, rows)] if rows else [])

    def due(self, now: float) -> float | None:
        if self.state is CONNECTING:
            # The application has its own time limit (handler_seconds).
            return now + self.node.limits.connect_seconds
        if self.state is NEW:
            self.disconnect(centrifuge.STALE, "no connect command came in time")
        elif self._blocked_at is not None:
            # A ping would wait behind the unread bytes, and so would its answer.
            return now + self.node.limits.pong_seconds
        elif self._awaiting_pong:
            self.disconnect(centrifuge.NO_PONG, "no pong")
        elif now < self._ping_due:
            return self._ping_due
        else:
            self._awaiting_pong = True
            self._ping_due = now + self._ping_seconds
            self._transport.write(self.format.ping)
            return now + self.node.limits.pong_seconds
        return None

    def shut_down(self) -> None:
        self.disconnect(centrifuge.SHUTDOWN, "the server is shutting down")

    def _close(self, code: int, reason: str) -> None:
        if not self.format.has_close_code:
            self.push(centrifuge.disconnect_push(code, reason))
        super()._close(code, reason)


_NONE: set[str] = set()
_NO_GRANTS: dict[str, Grant] = {}
_NO_PLANS: dict[str, Invitation] = {}
