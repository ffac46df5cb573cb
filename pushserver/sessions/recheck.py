"""Ends the sessions and subscriptions that a new configuration does not permit."""

from __future__ import annotations

from collections.abc import Iterator

from pushserver.errors import Denied, PushServerError
from pushserver.protocols import centrifuge
from pushserver.sessions.base import CLOSING
from pushserver.sessions.event_stream import Stream
from pushserver.sessions.identification import TokenRemoved
from pushserver.sessions.long_poll import LongPoll
from pushserver.sessions.node import Node
from pushserver.sessions.session import Session
from pushserver.sessions.socketio import SocketIO

CHECKS = 500
"""The peers and subscriptions that one turn of the reactor checks: about two milliseconds."""


class Recheck:
    """The rules of a new configuration, for peers that connected before it.

    A peer whose API key was removed is ended, and so is one whose token was verified by a key that
    was removed. A subscription by the client that the rules refuse is ended, and so are the pushes
    of joins and leaves for which it asked. Subscriptions by the server or the application stay: the
    rules are not for these.
    """

    def __init__(self, node: Node):
        self._node = node
        self._identification = node.identification

    def run(self) -> Iterator[None]:
        """Check all open peers; yields after each CHECKS checks."""
        checks = 0
        for peer in self._node.peers:
            try:
                if isinstance(peer, Session):
                    self._check_session(peer)
                elif isinstance(peer, SocketIO):
                    self._check_namespaces(peer)
                elif isinstance(peer, (Stream, LongPoll)):
                    self._check_reader(peer)
                checks += 1
                if isinstance(peer, Session):
                    checks += len(peer.audiences)
                elif isinstance(peer, SocketIO):
                    checks += len(peer.namespaces)
            except Exception:
                self._node.report("a peer could not be checked by the new configuration")
            if checks >= CHECKS:
                checks = 0
                yield

    def _check_session(self, session: Session) -> None:
        if session.state >= CLOSING:
            return
        permissions = self._node.permissions
        try:
            identity = session.identity = self._identification.current(session.identity)
            if session.connected:
                permissions.check_connect(identity)
        except TokenRemoved as error:
            # The client gets another token and comes back.
            session.disconnect(centrifuge.EXPIRED, str(error))
            return
        except PushServerError as error:
            session.disconnect(centrifuge.NOT_PERMITTED, str(error))
            return
        for channel in session.channels:
            session.check_joins(channel)
            if channel in session.invited:
                continue
            grant = session.token_grant(channel)
            try:
                if grant is not None:
                    self._identification.check_proof(grant.proof)
                permissions.check("subscribe", channel, identity, grant)
            except TokenRemoved as error:
                # The client gets another token and subscribes again.
                session.unsubscribe(channel, centrifuge.SUBSCRIPTION_ENDED, str(error))
            except PushServerError as error:
                session.unsubscribe(channel, centrifuge.UNSUBSCRIBED, str(error))

    def _check_namespaces(self, peer: SocketIO) -> None:
        """The rules are for the channels of the namespaces, and not for rooms."""
        if peer.state >= CLOSING:
            return
        permissions = self._node.permissions
        for namespace in tuple(peer.namespaces.values()):
            try:
                identity = namespace.identity = self._identification.current(namespace.identity)
                if namespace.connected:
                    permissions.check_connect(identity)
                    if namespace.channel:
                        permissions.check("subscribe", namespace.channel, identity)
            except TokenRemoved as error:
                peer.disconnect(centrifuge.EXPIRED, str(error))
                return
            except PushServerError as error:
                namespace.disconnect(centrifuge.NOT_PERMITTED, str(error))

    def _check_reader(self, reader: Stream | LongPoll) -> None:
        try:
            identity = reader.identity = self._identification.current(reader.identity)
            for channel in self._node.hub.channels_of(reader):
                if self._node.permissions.check("subscribe", channel, identity):
                    # As in `Gate.check_reader`: a handler decides about clients, not readers.
                    if identity.key is None:
                        raise Denied(403, f"reading {channel} needs an API key now")
                    identity.key.check("read", channel)
        except TokenRemoved as error:
            reader.end(centrifuge.EXPIRED, str(error))
        except PushServerError as error:
            # A stream is for all of its channels or none.
            reader.end(centrifuge.FORCE_NO_RECONNECT, str(error))
