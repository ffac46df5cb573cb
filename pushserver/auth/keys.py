"""API keys: their names, what each may do, and how the key of a request is found."""

from __future__ import annotations

import hmac
import re
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Literal, get_args

from pushserver.auth.patterns import EVERY, Patterns
from pushserver.channels.names import is_name
from pushserver.errors import Denied

Scope = Literal["publish", "read", "admin"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
EVERYTHING = frozenset(SCOPES)

WEAK_LENGTH = 16
"""A key with fewer characters can be guessed; the start warns about it."""
PREFIX = "psk_"
"""The beginning of each new key, by which scanners of source code can find it."""
NAME_RULE = "1 to 64 characters of A-Z a-z 0-9 _ -"
HASH_RULE = "sha256: and 64 hexadecimal digits, as `pushserver key new` prints"

_VERBS: dict[Scope, str] = {
    "publish": "publish to",
    "read": "read",
    "admin": "administer",
}
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_HASH = re.compile(r"sha256:[0-9a-f]{64}", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Key:
    """A key of the configuration, without its secret: `may` do this on these channels.

    The keys of `auth.api_keys` have no name, and may do everything. `secret` is the hash of the
    secret, by which the key is found in a later configuration.
    """

    name: str = ""
    channels: Patterns = EVERY
    may: frozenset[Scope] = EVERYTHING
    secret: bytes = field(default=b"", repr=False, compare=False)

    @property
    def setting(self) -> str:
        """The setting that has the key."""
        return f"auth.keys.{self.name}" if self.name else "auth.api_keys"

    def allows(self, scope: Scope, channel: str | None) -> bool:
        """Whether the key may do this on the channel, or, with None, on the whole server."""
        if scope not in self.may:
            return False
        return "*" in self.channels.texts if channel is None else channel in self.channels

    def check(self, scope: Scope, channel: str | None) -> None:
        """Return if `allows` says so; else raise Denied with the reason and the setting."""
        if not self.allows(scope, channel):
            raise Denied(403, self.problem(scope, channel))

    def check_scope(self, scope: Scope) -> None:
        """Return if the key may do this on some channels; else raise Denied, as `check`."""
        if scope not in self.may:
            raise Denied(403, f"the key {self.name} may not {_VERBS[scope]} anything: {self}")

    def problem(self, scope: Scope, channel: str | None) -> str:
        """The reason why the key may not do this."""
        where = "the whole server"
        if channel is not None:
            where = channel if is_name(channel) else repr(channel[:140])
        return f"the key {self.name} may not {_VERBS[scope]} {where}: {self}"

    def __str__(self) -> str:
        may = _listed([scope for scope in SCOPES if scope in self.may])
        channels = ", ".join(self.channels.texts)
        return f"it may {may} on the channels {channels:.300} ({self.setting})"


LOCAL = Key("a program on this machine")
"""Stands for programs on this machine while no keys are configured."""


class Keys:
    """The keys of the configuration, each with the SHA-256 of its secret.

    One fast hash is enough for a new key, since nobody can try 256 random bits. It is no
    protection for a short one, but a slow hash for each request would let anybody keep the server
    busy by wrong keys.
    """

    def __init__(self, keys: Iterable[tuple[Key, bytes]] = ()):
        self._keys: Sequence[tuple[Key, bytes]] = tuple(keys)

    def __len__(self) -> int:
        return len(self._keys)

    def with_secret(self, digest: bytes) -> Key | None:
        """The key with this `Key.secret`, as an earlier configuration or another process has it."""
        return next((each for each, secret in self._keys if secret == digest), None)

    def find(self, text: str) -> Key | None:
        """The key with this secret. The time does not depend on the secrets."""
        given = digest(text)
        found = None
        for key, secret in self._keys:
            if hmac.compare_digest(given, secret):
                found = key
        return found


def digest(text: str) -> bytes:
    """The hash of a key."""
    # A header may have bytes that are no UTF-8, which become surrogates.
    return sha256(text.encode("utf-8", "surrogatepass")).digest()


def new_key() -> str:
    """A new key, of 256 random bits."""
    return PREFIX + secrets.token_urlsafe(32)


def hash_of(text: str) -> str:
    """The hash of a key, as the configuration has it."""
    return f"sha256:{digest(text).hex()}"


def is_hash(text: str) -> bool:
    """Whether this is the hash of a key, and not a key."""
    return _HASH.fullmatch(text) is not None


def digest_in(text: str) -> bytes:
    """The digest in a hash of the configuration; raises ValueError, which does not show it."""
    if not is_hash(text):
        raise ValueError(f"expected {HASH_RULE}")
    return bytes.fromhex(text.partition(":")[2])


def check_key_name(name: str) -> str:
    """Return `name` if it is a valid name of a key; raise ValueError if not."""
    if _NAME.fullmatch(name) is None:
        raise ValueError(f"invalid name of a key {name[:80]!r}: expected {NAME_RULE}")
    return name


def check_scopes(names: Iterable[str]) -> frozenset[Scope]:
    """The scopes with these names; raises ValueError for another name and for none at all."""
    found = []
    for name in names:
        scope = next((scope for scope in SCOPES if scope == name), None)
        if scope is None:
            raise ValueError(f"{name[:40]!r}, expected {_listed(SCOPES, 'or')}")
        found.append(scope)
    if not found:
        raise ValueError(f"expected {_listed(SCOPES, 'or')}, got nothing")
    return frozenset(found)


def _listed(words: Sequence[str], last: str = "and") -> str:
    *most, end = words
    return f"{', '.join(most)} {last} {end}" if most else end
