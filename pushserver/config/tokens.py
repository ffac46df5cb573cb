"""Makes the verifier of tokens from the settings, and reads keys that are in files."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping
from urllib.parse import urlsplit

from pushserver.auth.issuer import Issuer
from pushserver.auth.jwks import MAX_JWKS_BYTES, read_jwks
from pushserver.auth.origin import loopback_host
from pushserver.auth.token_keys import (
    PUBLIC,
    SECRET,
    SECRET_BYTES,
    TokenKey,
    check_names,
    public_key,
    secret_key,
)
from pushserver.auth.tokens import TokenRules, Verifier
from pushserver.config.convert import Location, shown, shown_url
from pushserver.config.limits import Limits
from pushserver.config.secret_files import (
    read_file,
    readable_by_all,
    with_secret,
)
from pushserver.config.settings import Auth

_AUTH = Location("", "auth", {})
_FORMS = ("key", "file", "credential")
_COOKIE_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")


def with_token_keys(auth: Auth, environment: Mapping[str, str], auth_location: Location) -> Auth:
    """The settings with the keys of all files and credentials; raises InvalidConfig."""
    location = auth_location.inner("token_keys")
    keys = [
        with_secret(key, _FORMS, environment, location.inner(str(number)))
        for number, key in enumerate(auth.token_keys, 1)
    ]
    return dataclasses.replace(auth, token_keys=keys)


def make_issuer(auth: Auth) -> Issuer:
    """Makes tokens that a server with these settings accepts; without a secret if it has none."""
    secrets = [key.key for key in auth.token_keys if key.algorithm == "HS256"]
    return Issuer(
        auth.token_secret or next(iter(secrets), ""),
        auth.token_user_claim,
        next(iter(auth.token_audience), ""),
        auth.token_issuer,
    )


def check_cookie(auth: Auth, location: Location) -> None:
    """Raise InvalidConfig if no cookie can have the name `token_cookie` (RFC 6265, 4.1.1)."""
    if auth.token_cookie and not _COOKIE_NAME.fullmatch(auth.token_cookie):
        problem = (
            f"{shown(auth.token_cookie)}, expected the name of a cookie: letters, digits and"
            " !#$%&'*+-.^_`|~"
        )
        raise location.error("token_cookie", problem)


def check_jwks(auth: Auth, location: Location) -> None:
    """Raise InvalidConfig unless the file or URL of a set of keys can be used."""
    if auth.jwks_file and auth.jwks_url:
        raise location.error("jwks_url", "expected either jwks_file or jwks_url, got both")
    if auth.jwks_file:
        try:
            read_jwks(read_file(auth.jwks_file, MAX_JWKS_BYTES), algorithms(auth))
        except ValueError as error:
            raise location.error("jwks_file", str(error)) from None
    if auth.jwks_url and not _is_safe(auth.jwks_url):
        problem = (
            f"{shown_url(auth.jwks_url)}, expected a URL of https (or of http on this machine):"
            " keys that come over an open network may be those of an attacker"
        )
        raise location.error("jwks_url", problem)


def _is_safe(url: str) -> bool:
    try:
        parts = urlsplit(url)
        usable = bool(parts.hostname) and parts.port != 0 and "@" not in parts.netloc
    except ValueError:
        return False
    if not usable or not url.isascii() or not url.isprintable() or " " in url:
        return False
    return parts.scheme == "https" or (parts.scheme == "http" and loopback_host(parts.netloc))


def algorithms(auth: Auth) -> frozenset[str]:
    """The allowed algorithms: the configured ones, else those of the keys."""
    if auth.token_algorithms:
        return frozenset(auth.token_algorithms)
    found = {key.algorithm for key in auth.token_keys}
    own = {SECRET} if auth.token_secret else set()
    return frozenset({*found, *own, *(PUBLIC if auth.jwks_file or auth.jwks_url else ())})


def make_verifier(auth: Auth, limits: Limits, auth_location: Location = _AUTH) -> Verifier | None:
    """The verifier of tokens by the keys of the settings; None if the server has no keys.

    The settings have the keys of their files already. Raises InvalidConfig.
    """
    keys = [*_keys(auth, auth_location)]
    if not keys and not auth.jwks_file and not auth.jwks_url:
        return None
    try:
        check_names(keys)
    except ValueError as error:
        raise auth_location.error("token_keys", str(error)) from None
    rules = TokenRules(
        algorithms(auth),
        tuple(auth.token_audience),
        auth.token_issuer,
        auth.token_leeway_seconds,
        auth.token_requires_exp,
        auth.token_user_claim,
        limits.token_bytes,
        limits.channels_per_client,
        auth.personal_channels,
    )
    return Verifier(rules, keys)


def _keys(auth: Auth, location: Location) -> Iterator[TokenKey]:
    allowed = algorithms(auth)
    if auth.token_secret:
        if SECRET not in allowed:
            raise location.error("token_secret", f"it is for {SECRET}, expected it in {_SETTING}")
        try:
            yield secret_key(auth.token_secret)
        except ValueError as error:
            raise location.error("token_secret", str(error)) from None
    for number, settings in enumerate(auth.token_keys, 1):
        inner = location.inner("token_keys").inner(str(number))
        if settings.algorithm not in allowed:
            raise inner.error("algorithm", f"expected {settings.algorithm} in {_SETTING}")
        try:
            if settings.algorithm == SECRET:
                yield secret_key(settings.key, settings.kid)
            else:
                yield public_key(settings.key, settings.algorithm, settings.kid)
        except ValueError as error:
            raise inner.error("", str(error)) from None


def token_warnings(auth: Auth) -> Iterator[str]:
    """A line for each secret that can be guessed, or that all users can read."""
    secrets = {"auth.token_secret": auth.token_secret} if auth.token_secret else {}
    for number, key in enumerate(auth.token_keys, 1):
        if key.algorithm == SECRET:
            secrets[f"auth.token_keys.{number}"] = key.key
            if key.file and readable_by_all(key.file):
                yield (
                    f"auth.token_keys.{number}.file: all users of this machine can read"
                    f" {key.file!r:.300}; chmod o-r takes that away"
                )
    for setting, secret in secrets.items():
        if len(secret.encode("utf-8", "surrogatepass")) < SECRET_BYTES:
            yield (
                f"{setting} has fewer than {SECRET_BYTES} bytes, and can be guessed from a single"
                " token (RFC 7518, 3.2); pushserver key new makes a strong one"
            )


_SETTING = "token_algorithms"
