"""Makes the API keys of the configuration, and reads those that are in files."""

from __future__ import annotations

import dataclasses
import unicodedata
from collections.abc import Iterator, Mapping

from pushserver.auth.keys import (
    WEAK_LENGTH,
    Key,
    Keys,
    check_key_name,
    check_scopes,
    digest,
    digest_in,
    is_hash,
)
from pushserver.auth.patterns import Patterns
from pushserver.config.convert import Location
from pushserver.config.secret_files import readable_by_all, with_secret
from pushserver.config.settings import Auth, KeySettings

_AUTH = Location("", "auth", {})
_FORMS = ("key", "hash", "file", "credential")


def with_secrets(auth: Auth, environment: Mapping[str, str], auth_location: Location) -> Auth:
    """The settings with the secrets of all files and credentials; raises InvalidConfig."""
    location = auth_location.inner("keys")
    keys = {
        name: with_secret(key, _FORMS, environment, location.inner(name))
        for name, key in auth.keys.items()
    }
    return dataclasses.replace(auth, keys=keys)


def make_keys(auth: Auth, auth_location: Location = _AUTH) -> Keys:
    """The keys of the settings, which have the secrets of their files already.

    Raises InvalidConfig for an invalid key, and for one secret with two names.
    """
    found: dict[bytes, Key] = {}
    for number, text in enumerate(auth.api_keys, 1):
        if problem := _problem(text):
            raise auth_location.error("api_keys", f"key {number} {problem}")
        found[digest(text)] = Key(secret=digest(text))
    tables = auth_location.inner("keys")
    for name, settings in auth.keys.items():
        location = tables.inner(name)
        secret = _secret(settings, location)
        if secret in found:
            other = found[secret].setting
            raise location.error("", f"it is the same key as in {other}, expected another one")
        found[secret] = _key(name, settings, secret, location)
    return Keys((key, secret) for secret, key in found.items())


def _key(name: str, settings: KeySettings, secret: bytes, location: Location) -> Key:
    setting = ""
    try:
        check_key_name(name)
        setting = "channels"
        channels = Patterns.of(settings.channels)
        setting = "may"
        return Key(name, channels, check_scopes(settings.may), secret)
    except ValueError as error:
        raise location.error(setting, str(error)) from None


def _secret(settings: KeySettings, location: Location) -> bytes:
    if bool(settings.key) == bool(settings.hash):
        raise location.error("", "expected either key or hash")
    if settings.hash:
        try:
            return digest_in(settings.hash)
        except ValueError as error:
            raise location.error("hash", str(error)) from None
    if problem := _problem(settings.key):
        raise location.error("", f"the key {problem}")
    return digest(settings.key)


def _problem(text: str) -> str:
    """The reason why a text cannot be a key, without the text; empty if it can."""
    if text != text.strip() or any(unicodedata.category(letter) == "Cc" for letter in text):
        return (
            "cannot be sent in a header; expected a text without control characters, and without"
            " white space at its ends"
        )
    return "is a hash; expected the key itself, or `hash` for a named key" if is_hash(text) else ""


def key_warnings(auth: Auth) -> Iterator[str]:
    """A line for each key that can be guessed, and for each file that all users can read."""
    texts = {f"auth.api_keys: key {number}": text for number, text in enumerate(auth.api_keys, 1)}
    texts |= {f"auth.keys.{name}: the key": key.key for name, key in auth.keys.items() if key.key}
    for which, text in texts.items():
        if len(text) < WEAK_LENGTH:
            yield (
                f"{which} has fewer than {WEAK_LENGTH} characters and can be guessed; pushserver"
                " key new makes a strong one"
            )
    for name, key in auth.keys.items():
        if key.file and readable_by_all(key.file):
            yield (
                f"auth.keys.{name}.file: all users of this machine can read {key.file!r:.300};"
                " chmod o-r takes that away"
            )
