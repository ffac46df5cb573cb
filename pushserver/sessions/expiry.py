"""Ends sessions and subscriptions whose tokens have expired."""

from __future__ import annotations

from typing import Protocol

from pushserver.auth.identity import Grant, Identity
from pushserver.protocols import centrifuge
from pushserver.sessions.node import Node

GRACE_SECONDS = 25.0
"""The time for a client to refresh a token that has expired."""


class ExpiringSession(Protocol):
    """A session as these functions use it."""

    node: Node
    identity: Identity
    grants: dict[str, Grant]
    invited: set[str]

    @property
    def refreshes(self) -> bool:
        """Whether the client has a token that it can refresh."""

    def expire_at(self, expires: float) -> None:
        """Have `end_expired` called at this Unix time; 0 for never."""

    def unsubscribe(self, channel: str, code: int, reason: str) -> bool:
        """Unsubscribe the client with a push."""

    def disconnect(self, code: int, reason: str) -> None:
        """End the session."""


def plan(session: ExpiringSession) -> None:
    """Plan the next end, after a change of the identity or of the grants."""
    ends = [grant.expires + GRACE_SECONDS for grant in session.grants.values() if grant.expires]
    if end := session_end(session):
        ends.append(end)
    session.expire_at(min(ends, default=0.0))


def session_end(session: ExpiringSession) -> float:
    """The Unix time at which the session ends without a refresh; 0 for none.

    A client that has a login in place of a token cannot refresh it, so it gets no extra time: it
    reconnects, and is identified again.
    """
    expires = session.identity.expires
    return expires + GRACE_SECONDS if expires and session.refreshes else expires


def end_expired(session: ExpiringSession) -> None:
    """End the session or its subscriptions, if their time and that for a refresh are over.

    A client cannot renew a subscription by the server, but it may get it again by reconnecting.
    """
    now, end = session.node.clock(), session_end(session)
    if end and end <= now:
        session.disconnect(centrifuge.EXPIRED, "expired")
        return
    for channel, grant in tuple(session.grants.items()):
        if grant.expires and grant.expires + GRACE_SECONDS <= now:
            if channel in session.invited:
                session.disconnect(centrifuge.SUBSCRIPTION_EXPIRED, "subscription expired")
                return
            session.unsubscribe(channel, centrifuge.SUBSCRIPTION_ENDED, "subscription expired")
    plan(session)


def ttl(expires: float, node: Node) -> int:
    """The seconds until the client has to refresh, at least 1; 0 without an end."""
    return max(1, int(expires - node.clock())) if expires else 0
