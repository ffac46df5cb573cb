"""Verifies the tokens of peers, and reads the set of keys again for an unknown one."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from pushserver.auth.identity import Grant, Identity
from pushserver.auth.token_keys import TokenKey
from pushserver.auth.tokens import Verifier
from pushserver.errors import UnknownKeyId
from pushserver.server.jwks import PublishedKeys

Proof = TypeVar("Proof", Identity, Grant)


class VerifiedTokens:
    """The tokens that a server accepts; `clock` gives Unix seconds.

    Both methods raise InvalidToken, and Unavailable while the set of keys cannot be read.
    """

    def __init__(
        self, verifier: Verifier, clock: Callable[[], float], published: PublishedKeys | None
    ):
        self._verifier = verifier
        self._clock = clock
        self._published = published

    async def connection(self, text: str) -> Identity:
        """The identity that the token of a connection proves."""
        return await self._verified(lambda: self._verifier.connection(text, self._clock()))

    async def subscription(self, text: str, channel: str, user: str) -> Grant:
        """The permission of the token of a subscription, of this channel and user."""
        return await self._verified(
            lambda: self._verifier.subscription(text, channel, user, self._clock())
        )

    def accepts(self, key: TokenKey) -> bool:
        """Whether a token that this key verified is still valid; another verifier may have it."""
        return self._verifier.accepts(key)

    async def _verified(self, verify: Callable[[], Proof]) -> Proof:
        try:
            return verify()
        except UnknownKeyId:
            if self._published is None:
                raise
        await self._published.refresh()
        return verify()
