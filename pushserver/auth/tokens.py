"""Verifies tokens: JSON Web Tokens (RFC 7519) of connections and of subscriptions.

The claims are those of Centrifugo; docs/auth.md has the table.
"""

from __future__ import annotations

import re
from base64 import urlsafe_b64decode
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NoReturn

from pushserver.auth.identity import LATEST, Grant, Identity
from pushserver.auth.patterns import Patterns
from pushserver.auth.token_keys import ALGORITHMS, TokenKey
from pushserver.channels import jsontext
from pushserver.channels.names import check_name, is_name, users_of
from pushserver.errors import (
    ExpiredToken,
    InvalidData,
    InvalidName,
    InvalidToken,
    UnknownKeyId,
)

MAX_USER = 255
"""In characters."""
MOST_TRIED = 8
"""The most keys that are tried on a token without a `kid`; 100 would take 10 ms."""
MOST_SHOWN = 80
"""The characters of a claim in an error."""

_FORM = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+){2}")
_SWITCHES = {
    "presence": True,
    "join_leave": True,
    "force_push_join_leave": False,
    "force_recovery": True,
    "force_positioning": True,
}
"""The options that a token may override, and whether every subscription has them here."""

Claims = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class TokenRules:
    """The rules for tokens beside their keys.

    `algorithms`: the allowed ones. `audience`: one of these texts must be in `aud`; a token that
    has an `aud` is refused if there are none. `issuer`: the `iss`, empty for any. `leeway`: seconds
    that the clocks may differ by. `requires_exp`: whether a token without an end is refused.
    `user_claim`: the claim with the user. `personal`: whether each user is subscribed to `#USER`.
    """

    algorithms: frozenset[str]
    audience: tuple[str, ...] = ()
    issuer: str = ""
    leeway: float = 0.0
    requires_exp: bool = True
    user_claim: str = "sub"
    max_bytes: int = 16_384
    max_channels: int = 128
    personal: bool = False


class Verifier:
    """Verifies tokens by the configured keys, and by those of a JSON Web Key Set."""

    def __init__(self, rules: TokenRules, keys: Iterable[TokenKey] = ()):
        self.rules = rules
        self._own = tuple(keys)
        self._keys = self._own
        self.published: tuple[TokenKey, ...] = ()

    def set_published(self, keys: Iterable[TokenKey]) -> None:
        """Use the keys of a set, in place of those of an earlier set."""
        self.published = tuple(keys)
        self._keys = (*self._own, *self.published)

    def accepts(self, key: TokenKey) -> bool:
        """Whether the key is one of these; it may have been made by another verifier."""
        return any(
            (key.algorithm, key.material) == (own.algorithm, own.material) for own in self._keys
        )

    def connection(self, text: str, now: float) -> Identity:
        """The identity that a token of a connection proves, at `now` in Unix seconds.

        Raises ExpiredToken; InvalidToken for any other fault; UnknownKeyId if no key has its `kid`.
        """
        claims, expires, key = self._claims(text, now)
        if "channel" in claims:
            _refuse(
                "this is a token of a subscription (it has the claim channel), not of a connection"
            )
        _check_no_bytes(claims, "")
        user = self._user(claims)
        return Identity(
            user=user,
            info=_json(claims, "info"),
            expires=expires,
            token=True,
            channels=self._channels(claims),
            subs=self._personal(user) | self._subs(claims),
            proof=key,
        )

    def subscription(self, text: str, channel: str, user: str, now: float) -> Grant:
        """The permission of a token for one channel, at `now` in Unix seconds.

        Raises the same as `connection`, also for a token of another channel or user.
        """
        claims, expires, key = self._claims(text, now)
        if "channel" not in claims:
            _refuse("the token of a subscription needs the claim channel")
        if claims["channel"] != channel:
            _refuse(f"channel is {_shown(claims['channel'])}, expected {_shown(channel)}")
        if self._user(claims) != user:
            claim = self.rules.user_claim
            _refuse(
                f"{claim} is {_shown(claims.get(claim, ''))}, expected the user of the connection,"
                f" {_shown(user)}"
            )
        return replace(_grant(channel, claims, expires, ""), proof=key)

    def _claims(self, text: str, now: float) -> tuple[Claims, float, TokenKey]:
        """The claims of a valid token, the end of what it permits, and the key that verified it."""
        head, signed, signature, body = self._parts(text)
        key = self._verified(head, signed, signature)
        claims = _object(body, "claims")
        self._check_party(claims)
        return claims, self._end(claims, now), key

    def _parts(self, text: str) -> tuple[Claims, bytes, bytes, bytes]:
        if len(text) > self.rules.max_bytes:
            _refuse(
                f"{len(text)} characters, expected {self.rules.max_bytes} at most"
                " (limits.token_bytes)"
            )
        if _FORM.fullmatch(text) is None:
            _refuse("expected a JSON Web Token: three parts in base64url, joined by dots")
        signed, _, signature = text.rpartition(".")
        first, _, body = signed.partition(".")
        return _object(_base64(first), "head"), signed.encode(), _base64(signature), _base64(body)

    def _verified(self, head: Claims, signed: bytes, signature: bytes) -> TokenKey:
        """The key of the signature; raises InvalidToken."""
        algorithm, kid = head.get("alg"), head.get("kid", "")
        if not isinstance(algorithm, str) or algorithm not in self.rules.algorithms:
            allowed = ", ".join(name for name in ALGORITHMS if name in self.rules.algorithms)
            _refuse(
                f"alg is {_shown(algorithm)}, expected {allowed or 'no token at all'}"
                " (auth.token_algorithms)"
            )
        if "crit" in head:
            # RFC 7515, 4.1.11: extensions that must be understood.
            _refuse(f"crit is {_shown(head['crit'])}, and this server knows no extensions")
        if not isinstance(kid, str):
            _refuse(f"kid is {_shown(kid)}, expected a text")
        keys = [
            key
            for key in self._keys
            if key.algorithm == algorithm and (not kid or not key.kid or key.kid == kid)
        ]
        if not kid and len(keys) > MOST_TRIED:
            _refuse(f"kid is missing, and this server has {len(keys)} keys for {algorithm}")
        found = next((key for key in keys if key.verifies(signed, signature)), None)
        if found is None:
            if kid and not any(key.kid == kid for key in self._keys):
                raise UnknownKeyId(f"invalid token: kid is {kid!r:.80}, and no key has this name")
            _refuse(
                f"the signature is not that of a key for {algorithm}, expected one of"
                f" {'auth.token_secret and ' if algorithm == 'HS256' else ''}auth.token_keys"
                f"{'' if algorithm == 'HS256' else ' and the JSON Web Key Set'}"
            )
        return found

    def _check_party(self, claims: Claims) -> None:
        rules = self.rules
        audience = claims.get("aud")
        given = audience if isinstance(audience, list) else [audience]
        if audience is None:
            given = []
        elif not all(isinstance(each, str) for each in given):
            _refuse(f"aud is {_shown(audience)}, expected a text or a list of texts")
        if not rules.audience and given:
            _refuse(f"aud is {_shown(audience)}, expected none while auth.token_audience is empty")
        if rules.audience and not set(rules.audience).intersection(given):
            expected = " or ".join(map(repr, rules.audience))
            _refuse(f"aud is {_given(audience)}, expected {expected} (auth.token_audience)")
        issuer = claims.get("iss")
        if rules.issuer and issuer != rules.issuer:
            _refuse(f"iss is {_given(issuer)}, expected {rules.issuer!r} (auth.token_issuer)")

    def _end(self, claims: Claims, now: float) -> float:
        """Check the times; return the end of what the token permits, 0 for none."""
        leeway = self.rules.leeway
        end, start = _time(claims, "exp"), _time(claims, "nbf")
        _time(claims, "iat")
        if end is None and self.rules.requires_exp:
            _refuse(
                "exp is missing, expected the end of the token in Unix seconds"
                " (auth.token_requires_exp)"
            )
        if start is not None and start > now + leeway:
            _refuse(f"nbf is {start:.0f}, in {start - now:.0f} s (auth.token_leeway_seconds)")
        if end is not None and end + leeway <= now:
            raise _expired("exp", end, now)
        if "expire_at" in claims:
            end = _time(claims, "expire_at")
            if end and end + leeway <= now:
                raise _expired("expire_at", end, now)
        if not end:
            return 0.0
        # What is accepted after its end lasts for the leeway, or a stream would end at once.
        return end if end > now else end + leeway

    def _user(self, claims: Claims) -> str:
        claim = self.rules.user_claim
        user = claims.get(claim, "")
        if not isinstance(user, str):
            hint = f', such as "{user}"' if type(user) is int else ""
            _refuse(f"{claim} is {_shown(user)}, expected a text{hint:.80}")
        if len(user) > MAX_USER or "\0" in user:
            problem = "has a NUL character" if "\0" in user else f"has {len(user)} characters"
            _refuse(f"{claim} {problem}, expected a text of {MAX_USER} at most, without NUL")
        return user

    def _personal(self, user: str) -> dict[str, Grant]:
        own = f"#{user}"
        # A name may have commas, and its channel would be that of several users.
        possible = is_name(own) and users_of(own) == frozenset({user})
        return {own: Grant(own)} if self.rules.personal and possible else {}

    def _channels(self, claims: Claims) -> Patterns:
        names = claims.get("channels")
        if names is None:
            return Patterns()
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            _refuse(f"channels is {_shown(names)}, expected a list of texts")
        self._check_count("channels", len(names))
        try:
            return Patterns.of(names)
        except ValueError as error:
            _refuse(f"channels: {error}")

    def _subs(self, claims: Claims) -> dict[str, Grant]:
        subs = claims.get("subs")
        if subs is None:
            return {}
        if not isinstance(subs, dict):
            _refuse(f"subs is {_shown(subs)}, expected an object with channels as its keys")
        self._check_count("subs", len(subs))
        grants = {}
        for channel, options in subs.items():
            try:
                check_name(channel)
            except InvalidName as error:
                _refuse(f"subs: {error}")
            if not isinstance(options, dict):
                _refuse(f"subs: {channel} is {_shown(options)}, expected an object")
            grants[channel] = _grant(channel, options, 0.0, f"subs: {channel}: ")
        return grants

    def _check_count(self, claim: str, count: int) -> None:
        most = self.rules.max_channels
        if count > most:
            _refuse(
                f"{claim} has {count} channels, expected {most} at most"
                " (limits.channels_per_client)"
            )


def _refuse(problem: str) -> NoReturn:
    raise InvalidToken(f"invalid token: {problem}")


def _expired(claim: str, end: float, now: float) -> ExpiredToken:
    return ExpiredToken(
        f"the token has expired: {claim} is {end:.0f}, {now - end:.0f} s ago; get a new one"
    )


def _check_no_bytes(options: Claims, where: str) -> None:
    """Refuse the claims of Centrifugo that are bytes in place of JSON."""
    for name in ("b64info", "b64data"):
        if name in options:
            _refuse(
                f"{where}{name} is not supported, expected {name.removeprefix('b64')} with JSON"
            )


def _grant(channel: str, options: Claims, expires: float, where: str) -> Grant:
    _check_no_bytes(options, where)
    override = options.get("override")
    if override is not None and not isinstance(override, dict):
        _refuse(f"{where}override is {_shown(override)}, expected an object")
    switches = {name: _switch(name, value, where) for name, value in (override or {}).items()}
    return Grant(channel, _json(options, "info"), _json(options, "data"), expires, switches)


def _switch(name: str, value: object, where: str) -> bool:
    """The value of an option, `{"value": true}`."""
    if name not in _SWITCHES:
        _refuse(f"{where}override.{name:.40} is unknown, expected one of {', '.join(_SWITCHES)}")
    switch = value.get("value", False) if isinstance(value, dict) else None
    if not isinstance(switch, bool):
        _refuse(f'{where}override.{name} is {_shown(value)}, expected {{"value": true}} or false')
    if _SWITCHES[name] and not switch:
        _refuse(f"{where}override.{name}: every subscription of this server has it")
    return switch


def _time(claims: Claims, name: str) -> float | None:
    """A claim in Unix seconds, which may have a fraction (RFC 7519, 2); None if it is missing."""
    value = claims.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        _refuse(f"{name} is {_shown(value)}, expected a number of Unix seconds")
    if not 0 <= value < LATEST:
        hint = ", not milliseconds" if value > 0 else ""
        _refuse(f"{name} is {_shown(value)}, expected a number of Unix seconds{hint}")
    return float(value)


def _json(claims: Claims, name: str) -> bytes:
    """A claim as JSON text; empty if it is missing or null."""
    value = claims.get(name)
    return b"" if value is None else jsontext.encode(value)


def _object(text: bytes, part: str) -> Claims:
    try:
        value = jsontext.decode(text, unique=True)
    except InvalidData as error:
        _refuse(f"its {part} cannot be read: {error}")
    if not isinstance(value, dict):
        _refuse(f"its {part} is {_shown(value)}, expected an object")
    return value


def _base64(text: str) -> bytes:
    try:
        return urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except ValueError:
        _refuse("expected a JSON Web Token: a part of it is not base64url")


def _given(value: object) -> str:
    return "missing" if value is None else _shown(value)


def _shown(value: object) -> str:
    """A value of a claim as JSON text, for an error."""
    text = jsontext.encode(value).decode()
    return text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]}..."
