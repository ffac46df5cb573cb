"""Makes tokens for clients, by the standard library alone."""

from __future__ import annotations

import hmac
import json
import math
import os
import time
from base64 import urlsafe_b64encode
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pushserver.auth.patterns import check_pattern
from pushserver.channels.names import check_name
from pushserver.errors import Invalid

SECRET_VARIABLE = "PUSHSERVER_AUTH_TOKEN_SECRET"
MAX_USER = 255
MAX_SECONDS = 315_360_000
"""Ten years."""

_HEAD = {"alg": "HS256", "typ": "JWT"}
_OWN = ("sub", "iat", "exp", "channels", "channel", "info")


def token(
    user: str,
    *,
    channels: Iterable[str] | None = None,
    seconds: float = 3600.0,
    secret: str | None = None,
    info: object = None,
    channel: str | None = None,
    claims: Mapping[str, object] | None = None,
) -> str:
    """Return a token, with which a client is `user` for `seconds`; "" is an unknown user.

    `channels`: patterns of channels (`chat:*`) that the token permits, besides those that are for
    every user. `channel`: make a subscription token for this one channel, which the client gives
    in addition to the token of its connection. `info`: any JSON, which other clients see as that
    of the connection or subscription. `claims`: more claims, such as `aud` and `iss`.

    `secret` is the server's `auth.token_secret`, by default PUSHSERVER_AUTH_TOKEN_SECRET of the
    environment. The token is a JSON Web Token, signed by HS256. Whoever has it is the user: send
    it by HTTPS only, and never log it. Raises ValueError for each value that a server would refuse.
    """
    content: dict[str, Any] = {"sub": _checked_user(user)}
    content |= _times(seconds)
    if channel is not None:
        if channels is not None:
            raise Invalid("expected either channel, for a subscription token, or channels")
        content["channel"] = check_name(_text("channel", channel))
    if channels is not None:
        content["channels"] = _patterns(channels)
    if info is not None:
        content["info"] = info
    for name, value in (claims or {}).items():
        if name in _OWN:
            raise Invalid(f"claims has {name}, which has an argument of its own")
        content[_text("a name in claims", name)] = value
    return sign(content, _secret(secret))


NO_SECRET = (
    "the server has no key for HS256 (auth.token_secret, auth.token_keys), which signs tokens"
)


@dataclass(frozen=True)
class Issuer:
    """Makes tokens that one server accepts, by its settings."""

    secret: str = ""
    """That of HS256; empty if the server has none, and so accepts no such tokens."""
    user_claim: str = "sub"
    audience: str = ""
    issuer: str = ""

    def token(
        self,
        user: str,
        *,
        channels: Iterable[str] | None = None,
        seconds: float = 3600.0,
        info: object = None,
        channel: str | None = None,
    ) -> str:
        """Return a token; the arguments and errors are those of the function `token`."""
        claims = {"aud": self.audience, "iss": self.issuer}
        if self.user_claim != "sub":
            claims[self.user_claim] = user
        return token(
            user,
            channels=channels,
            seconds=seconds,
            secret=self.secret,
            info=info,
            channel=channel,
            claims={name: value for name, value in claims.items() if value},
        )


def sign(content: Mapping[str, Any], secret: bytes) -> str:
    """Return the JSON Web Token of these claims; raises ValueError if they are no JSON."""
    try:
        body = json.dumps(content, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError) as error:
        raise Invalid(f"the claims do not fit into JSON: {error}") from None
    try:
        # A text with a lone surrogate has no UTF-8; json.dumps would escape it.
        json.dumps(content, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise Invalid(f"the claims have a text that is not Unicode: {error}") from None
    signed = f"{_part(json.dumps(_HEAD, separators=(',', ':')))}.{_part(body)}"
    signature = hmac.digest(secret, signed.encode(), "sha256")
    return f"{signed}.{_encoded(signature)}"


def _part(text: str) -> str:
    return _encoded(text.encode())


def _encoded(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode()


def _text(name: str, value: object) -> str:
    if not isinstance(value, str):
        hint = f', such as "{value}"' if type(value) is int else ""
        raise Invalid(f"{name} is {value!r:.60}, expected a text{hint:.40}")
    return value


def _checked_user(user: object) -> str:
    text = _text("user", user)
    if len(text) > MAX_USER or "\0" in text:
        problem = "has a NUL character" if "\0" in text else f"has {len(text)} characters"
        raise Invalid(f"user {problem}, expected a text of {MAX_USER} at most, without NUL")
    return text


def _times(seconds: object) -> dict[str, int]:
    # A NaN is in no range.
    if not isinstance(seconds, int | float) or seconds is True or not 0 < seconds <= MAX_SECONDS:
        raise Invalid(f"seconds is {seconds!r:.60}, expected more than 0 and at most {MAX_SECONDS}")
    now = time.time()
    return {"iat": int(now), "exp": math.ceil(now + seconds)}


def _patterns(channels: Iterable[str]) -> list[str]:
    if isinstance(channels, str | bytes):
        raise Invalid(
            f"channels is {channels!r:.60}, expected a list of patterns, such as ['chat:*']"
        )
    return [check_pattern(_text("one of channels", each)) for each in channels]


def _secret(secret: object) -> bytes:
    text = os.environ.get(SECRET_VARIABLE) if secret is None else secret
    if text is None:
        raise Invalid(
            f"there is no secret: expected the server's auth.token_secret as secret=..., or"
            f" {SECRET_VARIABLE}"
        )
    # Messages do not contain it.
    if not isinstance(text, str) or not text:
        raise Invalid("the secret is empty or no text, expected the server's auth.token_secret")
    if text.lstrip().startswith("-----BEGIN "):
        raise Invalid("the secret is a public or private key, expected that of HS256")
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise Invalid("the secret is not text in UTF-8") from None
