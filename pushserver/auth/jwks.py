"""Reads a set of JSON Web Keys (RFC 7517): the public keys of another service."""

from __future__ import annotations

from dataclasses import dataclass

from pushserver.auth.token_keys import TokenKey, key_of_jwk
from pushserver.channels import jsontext
from pushserver.errors import InvalidData

MAX_JWKS_BYTES = 262_144
MAX_JWKS_KEYS = 100


@dataclass(frozen=True, slots=True)
class KeySet:
    """The keys, and for each other entry of the set the reason why it is no key here."""

    keys: tuple[TokenKey, ...]
    skipped: tuple[str, ...] = ()


def read_jwks(text: bytes, algorithms: frozenset[str]) -> KeySet:
    """The keys for these algorithms; entries that verify no tokens here are skipped.

    Raises ValueError if the text is not a set, is too long, or has no usable key.
    """
    if len(text) > MAX_JWKS_BYTES:
        raise ValueError(f"{len(text)} bytes, expected {MAX_JWKS_BYTES} at most")
    try:
        content = jsontext.decode(text)
    except InvalidData as error:
        raise ValueError(f"not JSON: {error}") from None
    entries = content.get("keys") if isinstance(content, dict) else None
    if not isinstance(entries, list):
        raise ValueError('expected a set of keys, {"keys": [...]}')
    if len(entries) > MAX_JWKS_KEYS:
        raise ValueError(f"{len(entries)} keys, expected {MAX_JWKS_KEYS} at most")
    keys: list[TokenKey] = []
    skipped: list[str] = []
    for number, entry in enumerate(entries, 1):
        try:
            keys.append(_key(entry, algorithms))
        except ValueError as error:
            skipped.append(f"key {number}: {error}")
    if not keys:
        reason = f" ({skipped[0]})" if skipped else ""
        raise ValueError(f"no usable key among {len(entries)}{reason}")
    return KeySet(tuple(keys), tuple(skipped))


def _key(entry: object, algorithms: frozenset[str]) -> TokenKey:
    if not isinstance(entry, dict):
        raise ValueError(f"expected an object, got {entry!r:.40}")
    key = key_of_jwk(entry)
    if key.algorithm not in algorithms:
        raise ValueError(f"it is for {key.algorithm}, which token_algorithms does not have")
    return key
