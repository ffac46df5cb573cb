"""Finds the identity of a peer by its credentials, or asks the application."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any, Literal, Protocol, TypeVar

from pushserver.auth.credentials import Credentials, looks_like_token
from pushserver.auth.identity import ANONYMOUS, Grant, Identity
from pushserver.auth.keys import Key, Keys
from pushserver.auth.token_keys import TokenKey
from pushserver.auth.wrong_keys import SLOW_SECONDS, WrongKeys
from pushserver.errors import (
    Denied,
    ExpiredToken,
    HandlerFailed,
    InvalidToken,
    Refused,
    Unavailable,
    WrongKey,
)
from pushserver.hub.metrics import Metrics
from pushserver.sessions.callbacks import Handlers
from pushserver.sessions.visit import Visit

T = TypeVar("T")


class Tokens(Protocol):
    """Verifies tokens; both methods raise Denied, and Unavailable if that cannot be told now."""

    async def connection(self, text: str) -> Identity:
        """The identity of a connection token."""

    async def subscription(self, text: str, channel: str, user: str) -> Grant:
        """The permission of a subscription token, which must be of this channel and user."""

    def accepts(self, key: TokenKey) -> bool:
        """Whether a token that this key verified is still valid."""


class NoTokens:
    """A server without keys of tokens."""

    async def connection(self, text: str) -> Identity:
        raise Denied(401, NO_TOKENS)

    async def subscription(self, text: str, channel: str, user: str) -> Grant:
        raise Denied(401, NO_TOKENS)

    def accepts(self, key: TokenKey) -> bool:
        return False


class TokenRemoved(Denied):
    """The key that verified a token is gone; another token may do."""

    def __init__(self) -> None:
        super().__init__(401, "the key of the token was removed from the configuration")


NO_TOKENS = "this server accepts no tokens (auth.token_secret, auth.token_keys)"


class Identification:
    """Identifies peers by an API key, a token, or the `authenticate` handler of the application.

    `monotonic` is the steady clock.
    """

    def __init__(
        self,
        keys: Keys,
        tokens: Tokens,
        wrong_keys: WrongKeys,
        handlers: Handlers,
        metrics: Metrics,
        monotonic: Callable[[], float],
    ):
        self._keys = keys
        self._tokens = tokens
        self.wrong_keys = wrong_keys
        self._handlers = handlers
        self._metrics = metrics
        self._monotonic = monotonic

    def reconfigure(self, keys: Keys, tokens: Tokens, wrong_keys_per_minute: int) -> None:
        """Change the keys and tokens that are accepted from now on."""
        self._keys = keys
        self._tokens = tokens
        self.wrong_keys.reconfigure(wrong_keys_per_minute)

    def current(self, identity: Identity) -> Identity:
        """The identity of a peer by the present configuration, which may have changed.

        Raises TokenRemoved, and Denied if its API key was removed.
        """
        self.check_proof(identity.proof)
        if identity.key is None:
            return identity
        key = self.key_with(identity.key.secret)
        if key is None:
            raise Denied(401, "the API key was removed from the configuration")
        return replace(identity, key=key)

    def key_with(self, secret: bytes) -> Key | None:
        """The key of the present configuration with this `Key.secret`."""
        return self._keys.with_secret(secret)

    def check_proof(self, key: TokenKey | None) -> None:
        """Raise TokenRemoved unless a token that this key verified is still valid."""
        if key is not None and not self._tokens.accepts(key):
            raise TokenRemoved

    @property
    def asks_application(self) -> bool:
        """Whether a peer without credentials may have an identity, so that a visit is needed."""
        return self._handlers.authenticates

    @property
    def accepts(self) -> tuple[Literal["token", "key"], ...]:
        """The kinds of credentials that a peer may have by the configuration."""
        kinds: list[Literal["token", "key"]] = []
        if not isinstance(self._tokens, NoTokens):
            kinds.append("token")
        if len(self._keys):
            kinds.append("key")
        return tuple(kinds)

    async def identify(
        self, credentials: Credentials, visit: Visit | None = None, data: bytes = b""
    ) -> Identity:
        """The identity of a peer; it has the `problem` of credentials that are not valid.

        A key counts before a token, and both before the application, which is asked about
        peers with neither. `data` is that of a `connect` command.
        """
        if credentials.problem:
            return Identity(problem=Denied(401, credentials.problem))
        try:
            key = credentials.key
            bearer, token = credentials.bearer, credentials.token
            if key is None and bearer is not None and self.is_key(bearer):
                key = bearer
            elif token is None:
                token = bearer
            if key is not None:
                return self.of_key(key, credentials.address, is_bearer=key is bearer)
            if token is not None:
                found = await self._counting_tokens(
                    self._tokens.connection(token), credentials.address
                )
                # The keys may have changed while those of a URL were read.
                return self.current(found)
            if visit is not None and self._handlers.authenticates:
                return await self._handlers.authenticate(visit, data)
        except (Denied, Unavailable) as error:
            return Identity(problem=error)
        except Refused as error:
            return Identity(problem=Denied(401, str(error)))
        except HandlerFailed as error:
            return Identity(problem=Unavailable(str(error), "application"))
        return ANONYMOUS

    def is_key(self, bearer: str) -> bool:
        """Whether this is a key; one of the configuration may have two dots, as tokens have."""
        return not looks_like_token(bearer) or self._keys.find(bearer) is not None

    def of_valid_key(self, credentials: Credentials) -> Identity | None:
        """The identity of credentials with an API key; None for others, and for a wrong key."""
        text = credentials.bearer if credentials.key is None else credentials.key
        key = None if text is None or credentials.problem else self._keys.find(text)
        return None if key is None else Identity(key=key)

    def of_key(self, text: str, address: str | None, is_bearer: bool = False) -> Identity:
        """The identity of an API key; raises WrongKey, which counts for the address.

        `is_bearer`: whether a token may come in its place.
        """
        key = self._keys.find(text)
        if key is None:
            none = "this server has no API keys (auth.api_keys or auth.keys), and a key was sent"
            known = "the API key is not one of auth.api_keys and auth.keys"
            problem = known if len(self._keys) else none
            if is_bearer:
                problem += "; nor is it a token, which has two dots"
            raise self._counted(WrongKey(problem), address)
        return Identity(key=key)

    async def grant(self, text: str, channel: str, user: str, address: str | None) -> Grant:
        """The permission of a subscription token; raises Denied."""
        return await self._counting_tokens(self._tokens.subscription(text, channel, user), address)

    async def _counting_tokens(self, found: Coroutine[Any, Any, T], address: str | None) -> T:
        """Count a token that is not valid for the address; one that has expired was valid."""
        try:
            return await found
        except ExpiredToken:
            raise
        except InvalidToken as error:
            raise self._counted(error, address, "token") from None

    def _counted(self, error: Denied, address: str | None, kind: str = "key") -> Denied:
        """Count a wrong key or token; return the error for its answer."""
        self._metrics.refusals[f"wrong_{kind}"] += 1
        if not self.wrong_keys.is_too_many(address, self._monotonic()):
            return error
        message = f"{error}; too many wrong {kind}s (wrong_keys_per_minute)"
        return WrongKey(message, 429, SLOW_SECONDS)
