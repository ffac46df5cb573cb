"""The peer of one request, for handlers of the application that decide about clients."""

from __future__ import annotations

from collections.abc import Callable

from pushserver.auth.identity import Identity
from pushserver.channels.publication import ClientInfo
from pushserver.protocols import centrifuge
from pushserver.sessions.callbacks import USUAL, Answered, Broadcast, Invitation
from pushserver.sessions.visit import Visit


class RequestSession:
    """A `ClientSession` without a connection: it has an identity, and nothing can be sent to it.

    Its id is empty, as in the publications of requests.
    """

    __slots__ = ("identity", "info", "visit")

    secret = ""
    namespace = ""
    full_namespace = ""
    channels: frozenset[str] = frozenset()
    connected = False

    def __init__(self, identity: Identity, visit: Visit):
        self.identity = identity
        self.info = ClientInfo("", identity.user, identity.info)
        self.visit = visit

    @property
    def address(self) -> str | None:
        return self.visit.address or None

    def identify(self, user: str, info: bytes) -> None:
        raise RuntimeError("the user of a request is set by authenticate or its token, not later")

    def broadcast(self, broadcast: Broadcast) -> None:
        """No-op."""

    def sender(self, data: object, event: str) -> Callable[[], None]:
        centrifuge.encode_message(data, event)
        return lambda: None

    def caller(
        self, data: object, event: str, answered: Answered, seconds: float
    ) -> Callable[[], None]:
        raise RuntimeError("the client of a request cannot be called: it has no connection")

    async def invite(self, channel: str, invitation: Invitation = USUAL) -> None:
        """No-op."""

    def prolong(self, expires: float) -> None:
        """No-op."""

    def unsubscribe(self, channel: str, code: int, reason: str) -> bool:
        return False

    def disconnect(self, code: int, reason: str) -> None:
        """No-op."""
