"""The identity of a peer: its user, its API key, and the permissions of its token."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pushserver.auth.keys import Key
from pushserver.auth.patterns import NONE, Patterns
from pushserver.auth.token_keys import TokenKey
from pushserver.errors import PushServerError

LATEST = 100_000_000_000
"""The bound on ends of identities: the year 5138 in Unix seconds, and 1973 in milliseconds."""


@dataclass(frozen=True, slots=True)
class Grant:
    """The permission of a token for one channel: a subscription token, or an entry of `subs`.

    `info` (the `chan_info` of the subscription) and `data` (for the client) are JSON text, or
    empty. `expires` is the end of the subscription in Unix seconds, 0 for none. `override` has
    options of the channel for this subscription, such as `force_push_join_leave`. `proof`: the key
    that verified the token.
    """

    channel: str
    info: bytes = b""
    data: bytes = b""
    expires: float = 0.0
    override: Mapping[str, bool] = field(default_factory=dict)
    proof: TokenKey | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class Identity:
    """The facts about a peer that decide on its permissions.

    `user` is empty for an unknown peer; `info` is the `conn_info` as JSON text, or empty.
    `expires`: the end of the identity in Unix seconds, 0 for none. `token`: whether a token or the
    application's `authenticate` handler proved it. `key`: the API key of the request. `channels`:
    the channels that the token permits; `subs`: the subscriptions that the server makes for it.
    `problem`: the error of a key or token that the peer gave; where the identity does not suffice,
    the peer gets this error. `proof`: the key that verified the token, if there was one.
    """

    user: str = ""
    info: bytes = b""
    expires: float = 0.0
    token: bool = False
    key: Key | None = None
    channels: Patterns = NONE
    subs: Mapping[str, Grant] = field(default_factory=dict)
    problem: PushServerError | None = None
    proof: TokenKey | None = field(default=None, repr=False, compare=False)

    @property
    def is_anonymous(self) -> bool:
        """Whether nothing is known about the peer."""
        return not (self.user or self.token or self.key)

    @property
    def subscriptions(self) -> set[str]:
        """The channels to which the server subscribes its clients: all that its token names."""
        return {name for name in self.channels.texts if "*" not in name} | self.subs.keys()

    def covers(self, channel: str) -> bool:
        """Whether the token permits this channel."""
        return channel in self.subs or channel in self.channels


ANONYMOUS = Identity()
