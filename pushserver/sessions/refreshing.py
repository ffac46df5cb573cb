"""Refreshes the tokens of connections and of subscriptions; and the channels of a token."""

from __future__ import annotations

from dataclasses import replace

from msgspec import Struct

from pushserver.auth.credentials import Credentials
from pushserver.auth.identity import Grant, Identity
from pushserver.channels.names import check_name
from pushserver.channels.publication import ClientInfo
from pushserver.errors import Denied, ExpiredToken, InvalidToken, WrongKey
from pushserver.protocols import centrifuge
from pushserver.protocols.centrifuge import CommandError, FrameError
from pushserver.sessions.callbacks import USUAL, Invitation
from pushserver.sessions.connecting import slow_down
from pushserver.sessions.expiry import plan, ttl
from pushserver.sessions.session import Session


async def refresh(session: Session, text: bytes) -> Struct:
    """Continue the session by a new token of the same user.

    Its permissions take the place of the earlier ones. An expired token ends the session with 3005,
    after which the client gets another one and reconnects.
    """
    request = centrifuge.request(text, centrifuge.RefreshRequest)
    if not request.token:
        raise FrameError("refresh needs a token")
    node = session.node
    credentials = Credentials(session.address, token=request.token)
    found = await node.identification.identify(credentials)
    await slow_down(session.node, found.problem)
    session.check_not_ended()
    before, info = session.identity, session.info
    # The `connect` handler of the application may have set another user than that of the token.
    user = info.user if session.token_user is None else session.token_user
    problem = found.problem
    if problem is None and found.user != user:
        message = f"invalid token: it is of the user {found.user!r:.40}, expected {user!r:.40}"
        problem = InvalidToken(message)
    if problem is not None:
        if not isinstance(problem, Denied):
            # The keys of tokens cannot be read now: the client tries again.
            raise problem
        expired = isinstance(problem, ExpiredToken)
        code = centrifuge.EXPIRED if expired else centrifuge.INVALID_TOKEN
        node.log_refusal(code, session.address, str(problem))
        session.disconnect(code, str(problem))
        return centrifuge.Empty()
    session.identity, session.token_user = replace(found, user=info.user), user
    if info.conn_info == before.info:
        session.info = ClientInfo(info.client, info.user, found.info)
    _leave_forbidden(session, before)
    plan(session)
    seconds = ttl(found.expires, node)
    return centrifuge.RefreshResult(session.info.client, node.version, seconds > 0, seconds)


def _leave_forbidden(session: Session, before: Identity) -> None:
    """Unsubscribe from the channels that the new token does not permit any more.

    A channel with a subscription token of its own stays, and one into which the application or the
    server API put the client. In those that stay, the new token decides about joins.
    """
    for channel in session.channels:
        session.check_joins(channel)
        if channel in session.grants:
            continue
        if channel in session.invited and not before.covers(channel):
            continue
        try:
            session.node.permissions.check("subscribe", channel, session.identity)
        except Denied as error:
            session.unsubscribe(channel, centrifuge.UNSUBSCRIBED, str(error))


async def sub_refresh(session: Session, text: bytes) -> Struct:
    """Continue a subscription by a new token for its channel."""
    request = centrifuge.request(text, centrifuge.SubRefreshRequest)
    channel = check_name(request.channel)
    if not request.token:
        raise FrameError("sub_refresh needs a token")
    _check_subscribed(session, channel)
    try:
        grant = await grant_of(session, channel, request.token)
    except ExpiredToken:
        # The client subscribes again, for which it gets another token.
        reason = "subscription expired"
        session.unsubscribe(channel, centrifuge.SUBSCRIPTION_ENDED, reason)
        raise
    session.check_not_ended()
    _check_subscribed(session, channel)
    session.node.permissions.check("subscribe", channel, session.identity, grant)
    session.grant(channel, grant)
    session.check_joins(channel)
    if grant.info:
        session.node.presence.describe(channel, session, grant.info)
    seconds = ttl(grant.expires, session.node)
    return centrifuge.SubRefreshResult(seconds > 0, seconds)


def _check_subscribed(session: Session, channel: str) -> None:
    if channel not in session.channels:
        message = f"not subscribed to {channel}"
        raise CommandError(centrifuge.PERMISSION_DENIED, message)


async def grant_of(session: Session, channel: str, token: str) -> Grant:
    """The permission of a subscription token for the user of the session; raises Denied."""
    identification, user = session.node.identification, session.info.user
    try:
        return await identification.grant(token, channel, user, session.address)
    except WrongKey as error:
        await slow_down(session.node, error)
        raise


def invitation_of(session: Session, channel: str) -> Invitation:
    """How the server subscribes the client at its connect.

    As an order for it says, or else as its token does.
    """
    plan, grant = session.plan_of(channel), session.identity.subs.get(channel)
    if grant is None or plan is not None:
        return plan or USUAL
    return Invitation(grant.data, grant.info, None, join_leave_of(grant))


def join_leave_of(grant: Grant | None) -> bool | None:
    """Whether the client gets the joins and leaves of others; None for the channel's option."""
    return None if grant is None else grant.override.get("force_push_join_leave")


async def invite_by_token(session: Session) -> None:
    """Plan the subscriptions that the server makes for the token of a client that connects.

    Raises Denied, and Refused by the handler of the application.
    """
    identity, node = session.identity, session.node
    names = identity.subscriptions
    most = node.limits.channels_per_client
    if len(names | session.invited) > most:
        message = f"more than {most} channels on one connection (channels_per_client)"
        raise CommandError(centrifuge.LIMIT_EXCEEDED, message)
    # Now: an order may take the client out of one while a handler decides about another.
    session.invited = {*session.invited, *names}
    for name in sorted(names):
        if node.permissions.check("subscribe", name, identity):
            await node.handlers.subscribe(session, name, b"")
            session.check_not_ended()
