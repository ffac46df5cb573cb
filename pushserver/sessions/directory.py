"""Finds sessions by client, by user and by secret, and other readers by their user."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol, cast

from pushserver.auth.identity import Identity
from pushserver.channels.publication import ClientInfo
from pushserver.hub.audience import Subscriber
from pushserver.sessions.callbacks import ClientSession


class Reader(Protocol):
    """A stream, a long-poll, or a request that may become one of them."""

    __slots__ = ()

    @property
    def info(self) -> ClientInfo:
        """The ids of the client and its user."""

    @property
    def identity(self) -> Identity:
        """Its identity, by which it may read."""

    def end(self, code: int, reason: str) -> None:
        """End it with the reason, where the protocol has a place for that."""

    def unsubscribe(self, channel: str, code: int, reason: str) -> bool:
        """End it if it reads the channel; False otherwise.

        A stream is for all of its channels or none.
        """


class Directory:
    """The sessions of this process, from the start of each until its connection is gone."""

    def __init__(self) -> None:
        self._by_client: dict[str, ClientSession] = {}
        self._by_secret: dict[str, ClientSession] = {}
        self._by_user: dict[str, dict[ClientSession, None]] = {}
        self._not_admitted: dict[ClientSession, None] = {}
        self._readers: dict[str, dict[Reader, None]] = {}

    def __iter__(self) -> Iterator[ClientSession]:
        return iter(tuple(self._by_client.values()))

    def add(self, session: ClientSession) -> None:
        """Add a session whose user is not known yet."""
        self._by_client[session.info.client] = session
        self._not_admitted[session] = None

    def identify(self, session: ClientSession) -> None:
        """Index the session by its user and its secret too; neither changes afterwards."""
        self._not_admitted.pop(session, None)
        if session.secret:
            self._by_secret[session.secret] = session
        if session.info.user:
            self._by_user.setdefault(session.info.user, {})[session] = None

    def remove(self, session: ClientSession) -> None:
        self._not_admitted.pop(session, None)
        self._by_client.pop(session.info.client, None)
        self._by_secret.pop(session.secret, None)
        of_user = self._by_user.get(session.info.user)
        if of_user is not None:
            of_user.pop(session, None)
            if not of_user:
                del self._by_user[session.info.user]

    def refused(self, session: ClientSession) -> None:
        """The client was not admitted; it may ask again on its connection, as another user."""

    def by_client(self, client: str) -> Subscriber | None:
        """The session of this client, which is a subscriber, too."""
        return cast("Subscriber | None", self._by_client.get(client))

    def enter(self, reader: Reader) -> None:
        """Add a stream or a long-poll, if it has a user: others have no right that could end."""
        if reader.info.user:
            self._readers.setdefault(reader.info.user, {})[reader] = None

    def leave(self, reader: Reader) -> None:
        of_user = self._readers.get(reader.info.user)
        if of_user is not None:
            of_user.pop(reader, None)
            if not of_user:
                del self._readers[reader.info.user]

    def readers(self, user: str, client: str | None = None) -> list[Reader]:
        """The streams and long-polls of the user; with a client, only the one that has it."""
        of_user = self._readers.get(user, ())
        return [reader for reader in of_user if not client or reader.info.client == client]

    def by_secret(self, secret: str) -> ClientSession | None:
        """The connected session with this secret."""
        return self._by_secret.get(secret)

    def of_user(
        self, user: str, client: str | None = None, secret: str | None = None
    ) -> list[ClientSession]:
        """The sessions of the user; with a client or a secret, only the one that has it.

        Also those that are about to be admitted: their `connect` handlers or their channels were
        asked for before. The empty user has all sessions without a user, and no index.
        """
        match = self._by_client.get(client) if client else self._by_secret.get(secret or "")
        all_of_user = (*self._by_user.get(user, ()), *self._not_admitted) if user else self
        return [
            session
            for session in ([match] if client or secret else all_of_user)
            if session is not None
            and session.info.user == user
            and (not client or session.info.client == client)
            and (not secret or session.secret == secret)
        ]
