"""Admits a client of Socket.IO to a namespace, by the same rules as to a channel."""

from __future__ import annotations

from collections.abc import Mapping, Sized
from typing import Any, Protocol

from pushserver.auth.credentials import Credentials
from pushserver.auth.identity import ANONYMOUS, Identity
from pushserver.channels.names import is_name
from pushserver.errors import Denied, Invalid, TooMany
from pushserver.sessions.callbacks import Invitation
from pushserver.sessions.connecting import slow_down
from pushserver.sessions.namespace import Namespace
from pushserver.sessions.visit import Visit

INVALID_NAMESPACE = "Invalid namespace"
"""The message of Node's server, by which clients know it."""


class Request(Protocol):
    """The connection, with the facts about the request that opened it."""

    visit: Visit
    credentials: Credentials
    ended_by: str

    @property
    def namespaces(self) -> Sized:
        """Those of the client, with the new one."""


async def enter(
    namespace: Namespace, request: Request, auth: Mapping[str, Any], data: bytes
) -> None:
    """Identify the client, ask the application, check the permissions, and open the namespace.

    `auth` is the object of the CONNECT, `data` the same as JSON text, empty without one. Raises the
    reason why the client is not admitted.
    """
    node, channel = namespace.node, namespace.channel
    if channel:
        _check_exists(namespace)
    most = node.limits.channels_per_client
    if len(request.namespaces) > most:
        raise TooMany(f"more than {most} namespaces of one connection", "channels_per_client")
    identity = await _identify(namespace, request, auth, data)
    namespace.check_not_ended()
    namespace.become(identity)
    await node.handlers.connect(namespace, data)
    try:
        namespace.check_not_ended()
        identity = namespace.identity
        node.permissions.check_connect(identity)
        node.users.check(identity.user)
        if channel and node.permissions.check("subscribe", channel, identity):
            await node.handlers.subscribe(namespace, channel, data)
            # The rules may have changed while the handler ran.
            node.permissions.check("subscribe", channel, namespace.identity)
        await _invite_by_token(namespace, most)
        namespace.check_not_ended()
        await namespace.open()
    except BaseException:
        node.handlers.disconnect(namespace, request.ended_by)
        raise


async def _invite_by_token(namespace: Namespace, most: int) -> None:
    """Plan the subscriptions that the server makes for the token; see `refreshing`.

    They are rooms of the namespace, so a permission is checked for each.
    """
    node, identity = namespace.node, namespace.identity
    names = identity.subscriptions - {namespace.channel}
    if len(names | namespace.invited.keys()) > most:
        message = f"more than {most} channels of one namespace (channels_per_client)"
        raise TooMany(message, "channels_per_client")
    # Now: an order may take the client out of one while a handler decides about another.
    for channel in sorted(identity.subscriptions):
        grant = identity.subs.get(channel)
        if grant is not None:
            await namespace.invite(channel, Invitation(info=grant.info, expires=grant.expires))
        elif channel != namespace.channel:
            await namespace.invite(channel)
    for channel in sorted(names):
        if node.permissions.check("subscribe", channel, identity):
            await node.handlers.subscribe(namespace, channel, b"")
            namespace.check_not_ended()


def _check_exists(namespace: Namespace) -> None:
    """Raise Invalid unless there can be a channel that somebody may subscribe to."""
    if is_name(namespace.channel):
        try:
            namespace.node.permissions.check_somebody("subscribe", namespace.channel)
        except Denied:
            pass
        else:
            return
    raise Invalid(INVALID_NAMESPACE)


async def _identify(
    namespace: Namespace, request: Request, auth: Mapping[str, Any], data: bytes
) -> Identity:
    """The identity of the client; raises the problem of a token in its `auth`.

    A `token` there counts before the credentials of the request, if this server accepts tokens;
    otherwise it is the application's.
    """
    node, credentials = namespace.node, request.credentials
    identification = node.identification
    token = auth.get("token")
    given = isinstance(token, str) and "token" in identification.accepts
    if given:
        credentials = Credentials(credentials.address, token=token)
    elif credentials.is_empty and not identification.asks_application:
        return ANONYMOUS
    found = await identification.identify(credentials, request.visit, data)
    await slow_down(node, found.problem)
    if given and found.problem is not None:
        raise found.problem
    return found
