"""Carries out the commands of Centrifuge clients: connect, subscribe, publish and the others."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress

from msgspec import UNSET, Raw, Struct, UnsetType, structs

from pushserver.auth.identity import ANONYMOUS, Grant
from pushserver.auth.permissions import Action
from pushserver.channels.names import check_name
from pushserver.channels.position import Position
from pushserver.channels.publication import Draft
from pushserver.errors import Denied, Invalid, PushServerError, Refused, TooMany, Unsubscribed
from pushserver.hub.hub import Joined
from pushserver.protocols import centrifuge
from pushserver.protocols.centrifuge import CommandError, SubscribePosition, SubscribeResult
from pushserver.sessions.connecting import identify
from pushserver.sessions.expiry import ttl
from pushserver.sessions.history_request import history_result
from pushserver.sessions.loading import load_together
from pushserver.sessions.refreshing import (
    grant_of,
    invitation_of,
    invite_by_token,
    join_leave_of,
    refresh,
    sub_refresh,
)
from pushserver.sessions.replay_cache import FIRST_BYTES
from pushserver.sessions.session import Session

_FIRST_CLOSE_CODE = 3000


async def connect(session: Session, text: bytes) -> Struct:
    request = centrifuge.request(text, centrifuge.ConnectRequest)
    node = session.node
    session.start_connect()
    identity = await identify(session, request)
    if identity is None:
        return centrifuge.Empty()
    # It may have left while it was identified.
    session.check_not_ended()
    if identity is not ANONYMOUS:
        session.become(identity)
        session.token_user = identity.user if request.token else None
    try:
        answer = await node.handlers.connect(session, _text(request.data))
    except Refused as refused:
        code = refused.code or centrifuge.REFUSED
        if code < _FIRST_CLOSE_CODE:
            # An error reply; the client then closes the connection itself.
            raise
        session.disconnect(code, refused.reason)
        return centrifuge.Empty()
    if not _may_connect(session):
        node.handlers.disconnect(session, session.ended_by)
        return centrifuge.Empty()
    try:
        subs = await _admit(session, request.subs, identity is not ANONYMOUS)
    except TooMany as error:
        node.note_excess(error, session.address, centrifuge.CONNECTION_LIMIT)
        session.disconnect(centrifuge.CONNECTION_LIMIT, str(error))
        return centrifuge.Empty()
    # A client without a token of its own has nothing to refresh.
    seconds = ttl(session.identity.expires, node) if session.refreshes else 0
    return centrifuge.ConnectResult(
        session.info.client,
        node.version,
        seconds > 0,
        seconds,
        data=Raw(answer) if answer else UNSET,
        subs=subs,
        ping=max(1, round(node.limits.ping_seconds)),
        pong=True,
        session=session.secret,
        node=node.history.epoch if session.secret else "",
        time=int(node.clock() * 1000),
    )


def _may_connect(session: Session) -> bool:
    """Disconnect a client that may not connect, and return False."""
    node = session.node
    try:
        node.permissions.check_connect(session.identity)
    except Denied as error:
        node.log_refusal(centrifuge.NOT_PERMITTED, session.address, str(error))
        session.disconnect(centrifuge.NOT_PERMITTED, str(error))
        return False
    return True


async def _admit(
    session: Session, before: Mapping[str, SubscribePosition], is_identified: bool
) -> dict[str, SubscribeResult]:
    """Admit the client; return its subscriptions to the channels that it was invited to.

    Raises TooMany for a user with too many connections.
    `before` has the client's positions in these channels from an earlier connection.
    `is_identified`: by a token or otherwise, before the `connect` handler.
    """
    try:
        session.check_not_ended()
        # Again at the end, as others of the same user may come meanwhile.
        session.node.users.check(session.info.user)
        if is_identified:
            await invite_by_token(session)
        subs: dict[str, SubscribeResult] = {}
        left = FIRST_BYTES
        await load_together(
            session.node, lambda: session.wanted, lambda: _is_ahead(session, before)
        )
        while missing := session.wanted - session.channels:
            for name in missing:
                if name not in session.wanted:
                    continue
                session.invited = {*session.invited, name}
                with suppress(Unsubscribed):
                    subs[name] = await _join_invited(session, name, before, left)
                    left -= _size(subs[name])
        _may_connect(session)
        session.check_not_ended()
        session.node.users.check(session.info.user)
    except BaseException:
        for name in session.channels:
            session.leave(name)
        session.node.handlers.disconnect(session, session.ended_by)
        raise
    session.open()
    return {name: sub for name, sub in subs.items() if name in session.audiences}


def _is_ahead(session: Session, before: Mapping[str, SubscribePosition]) -> bool:
    top = session.node.history.top
    return any(
        before[name].recover and before[name].offset > top(name)
        for name in session.wanted & before.keys()
    )


async def _join_invited(
    session: Session, channel: str, before: Mapping[str, SubscribePosition], most: int
) -> SubscribeResult:
    earlier, invitation = before.get(channel), invitation_of(session, channel)
    if earlier is not None and earlier.recover:
        position = Position(earlier.epoch, earlier.offset)
        if invitation.info:
            session.node.presence.describe(channel, session, invitation.info)
        past = session.may("history", channel)
        joined = await session.join(
            channel, position, 0, invitation.join_leave, past, is_loaded=True
        )
        result = _subscribed(session, channel, joined, position, most)
    else:
        joined, rows = await session.join_by_server(channel, invitation)
        session.push_rows_after_reply(channel, rows)
        result = _subscribed(session, channel, joined, None)
    if invitation.expires:
        session.grant(channel, Grant(channel, expires=invitation.expires))
    return result if not invitation.data else structs.replace(result, data=Raw(invitation.data))


async def subscribe(session: Session, text: bytes) -> Struct:
    request = centrifuge.request(text, centrifuge.SubscribeRequest)
    channel = check_name(request.channel)
    _check_may_subscribe(session, channel, request)
    grant = await grant_of(session, channel, request.token) if request.token else None
    handled = session.node.permissions.check("subscribe", channel, session.identity, grant)
    last, asks_initial = _initial(session, request)
    if handled:
        await session.node.handlers.subscribe(session, channel, _text(request.data))
        _check_again(session, "subscribe", channel, grant)
    position = Position(request.epoch, request.offset) if request.recover else None
    # The rest from the last join to the reply runs in one turn of the reactor: no publication comes
    # between.
    joined = None
    while joined is None:
        # The client's own subscription replaces one by the server.
        session.leave(channel)
        if grant is not None and grant.info:
            session.node.presence.describe(channel, session, grant.info)
        wanted = request.join_leave and session.may("presence", channel, grant)
        join_leave = join_leave_of(grant) or wanted or None
        past = session.may("history", channel, grant)
        try:
            joined = await session.join(channel, position, last, join_leave, past)
        except Unsubscribed:
            # One by the server may have begun while the channel was loaded.
            if channel not in session.channels:
                raise
    # One that was ordered meanwhile is not needed any more.
    session.invited.discard(channel)
    try:
        _check_again(session, "subscribe", channel, grant)
    except PushServerError:
        session.leave(channel)
        raise
    if joined.reason and request.flag & centrifuge.FLAG_REJECT_UNRECOVERED:
        session.leave(channel)
        raise CommandError(centrifuge.UNRECOVERABLE, f"unrecoverable position: {joined.reason}")
    result = _subscribed(session, channel, joined, position)
    if asks_initial:
        initial = session.node.history.options(channel).initial
        result.data = Raw(b'{"initial":%d,"top":%d}' % (initial, joined.offset))
    if grant is None:
        return result
    session.grant(channel, grant)
    seconds = ttl(grant.expires, session.node)
    return structs.replace(result, expires=seconds > 0, ttl=seconds)


def _subscribed(
    session: Session,
    channel: str,
    joined: Joined,
    position: Position | None,
    most: int = FIRST_BYTES,
) -> SubscribeResult:
    """The answer to a client that joined, from `position` if it has one.

    It has about `most` bytes of publications; the others are pushed after it. To the client both
    are the same: it takes its position from the answer and then from each publication.
    """
    if own_join := session.node.presence.own_join(channel, session):
        session.push_after_reply(own_join)
    recovered = position is not None and not joined.reason
    rows, text, count = joined.publications, b"", 0
    if rows and most > 0:
        encode = centrifuge.publications
        text, count = session.node.replays.first(channel, rows, encode, most)
    offset = joined.offset - len(rows) if recovered or count < len(rows) else joined.offset
    session.push_rows_after_reply(channel, rows[count:])
    return SubscribeResult(
        recoverable=True,
        positioned=True,
        epoch=joined.epoch,
        offset=offset,
        publications=Raw(text) if text else UNSET,
        recovered=recovered,
        was_recovering=position is not None,
    )


def _size(result: SubscribeResult) -> int:
    publications = result.publications
    return 0 if publications is UNSET else len(bytes(publications))


def _check_may_subscribe(
    session: Session, channel: str, request: centrifuge.SubscribeRequest
) -> None:
    if request.type:
        raise CommandError(
            centrifuge.NOT_AVAILABLE, "type: this server has stream subscriptions only"
        )
    if request.tf is not UNSET:
        raise CommandError(centrifuge.NOT_AVAILABLE, "tf: this server filters no publications")
    if channel in session.channels:
        if channel in session.invited:
            return
        message = f"already subscribed to {channel}"
        raise CommandError(centrifuge.ALREADY_SUBSCRIBED, message)
    limit = session.node.limits.channels_per_client
    if len(session.channels) >= limit:
        message = f"more than {limit} channels on one connection (channels_per_client)"
        raise CommandError(centrifuge.LIMIT_EXCEEDED, message)


def _initial(session: Session, request: centrifuge.SubscribeRequest) -> tuple[int, bool]:
    """The number of last publications in the answer to a subscribe without a position.

    And whether the request asks for the number of them without `last`.
    """
    options = session.node.history.options(request.channel)
    if request.data is UNSET or request.data == b"null":
        return options.initial, False
    wanted = _subscribe_data(bytes(request.data))
    last, asks_initial = wanted.last, wanted.initial is True
    if last is None:
        return options.initial, asks_initial
    if last < 0:
        raise Invalid(f"data.last is {last}, expected 0 or more")
    return min(last, options.history_size), asks_initial


async def unsubscribe(session: Session, text: bytes) -> Struct:
    session.leave(check_name(centrifuge.request(text, centrifuge.ChannelRequest).channel))
    return centrifuge.Empty()


async def publish(session: Session, text: bytes) -> Struct:
    request = centrifuge.request(text, centrifuge.PublishRequest)
    channel = check_name(request.channel)
    node, handlers = session.node, session.node.handlers
    # Permission first: reading the data costs more than refusing it.
    grant = session.token_grant(channel)
    handled = node.permissions.check("publish", channel, session.identity, grant)
    node.publications.check(session.identity, session.address)
    data = centrifuge.request_data(bytes(request.data))
    if handled:
        await handlers.publish(session, channel, data)
        _check_again(session, "publish", channel, session.token_grant(channel))
    await node.publish(Draft(channel, data, info=node.presence.info(channel, session)))
    return centrifuge.Empty()


async def history(session: Session, text: bytes) -> Struct:
    request = centrifuge.request(text, centrifuge.HistoryRequest)
    channel = await _readable(session, "history", request.channel)
    result = await history_result(session.node, channel, request)
    _check_still(session, "history", channel)
    return result


async def presence(session: Session, text: bytes) -> Struct:
    request = centrifuge.request(text, centrifuge.ChannelRequest)
    channel = await _readable(session, "presence", request.channel)
    clients = await session.node.presence.clients(channel)
    _check_still(session, "presence", channel)
    return centrifuge.PresenceResult(
        {name: centrifuge.info(client) for name, client in clients.items()}
    )


async def presence_stats(session: Session, text: bytes) -> Struct:
    request = centrifuge.request(text, centrifuge.ChannelRequest)
    channel = await _readable(session, "presence", request.channel)
    stats = await session.node.presence.stats(channel)
    _check_still(session, "presence", channel)
    return centrifuge.PresenceStatsResult(*stats)


async def rpc(session: Session, text: bytes) -> Struct:
    request = centrifuge.request(text, centrifuge.RpcRequest)
    data = await session.node.handlers.rpc(session, request.method, _text(request.data))
    return centrifuge.RpcResult(Raw(data) if data else UNSET)


async def send(session: Session, text: bytes) -> Struct:
    request = centrifuge.request(text, centrifuge.SendRequest)
    await session.node.handlers.message(session, _text(request.data))
    return centrifuge.Empty()


async def ping(session: Session, text: bytes) -> Struct:
    return centrifuge.Empty()


METHODS: dict[str, Callable[[Session, bytes], Awaitable[Struct]]] = {
    "connect": connect,
    "subscribe": subscribe,
    "unsubscribe": unsubscribe,
    "publish": publish,
    "history": history,
    "presence": presence,
    "presence_stats": presence_stats,
    "ping": ping,
    "rpc": rpc,
    "send": send,
    "refresh": refresh,
    "sub_refresh": sub_refresh,
}


def answer(session: Session, method: str, text: bytes) -> Awaitable[Struct]:
    """The result of a command; raises a PushServerError with a `centrifuge_code`."""
    return METHODS[method](session, text)


async def _readable(session: Session, action: Action, name: str) -> str:
    """Check that the client may read this of the channel; return the name."""
    channel, member = check_name(name), name in session.channels
    grant = session.token_grant(channel)
    if session.node.permissions.check(action, channel, session.identity, grant, member):
        await session.node.handlers.subscribe(session, channel, b"")
        _check_again(session, action, channel, grant, member and name in session.channels)
    return channel


def _check_again(
    session: Session, action: Action, channel: str, grant: Grant | None, member: bool = False
) -> None:
    """Raise Denied if the rules or the client's rights have changed meanwhile."""
    session.check_not_ended()
    if grant is not None:
        session.node.identification.check_proof(grant.proof)
    session.node.permissions.check(action, channel, session.identity, grant, member)


def _check_still(session: Session, action: Action, channel: str) -> None:
    """The same after the answer was found, which may have taken a while."""
    grant, member = session.token_grant(channel), channel in session.channels
    _check_again(session, action, channel, grant, member)


def _subscribe_data(text: bytes) -> centrifuge.SubscribeData:
    """Read `last` if the data is an object; the application may give it any other form."""
    if not text.lstrip().startswith(b"{"):
        return centrifuge.SubscribeData()
    return centrifuge.request(text, centrifuge.SubscribeData)


def _text(data: Raw | UnsetType) -> bytes:
    return b"" if data is UNSET else bytes(data)
