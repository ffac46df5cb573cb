"""Verifies a token by a configuration or by a running server, and says in words what it allows."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError

from pushserver.api_call import TIMEOUT_SECONDS, call
from pushserver.auth.identity import Identity
from pushserver.auth.jwks import MAX_JWKS_BYTES, read_jwks
from pushserver.auth.permissions import Action, Permissions
from pushserver.auth.tokens import Verifier
from pushserver.channels.names import check_name
from pushserver.command_line.token_reading import moment, parts
from pushserver.config.secret_files import read_file
from pushserver.config.settings import Auth, Config
from pushserver.config.tokens import algorithms, make_verifier
from pushserver.errors import CommandFailed, Denied
from pushserver.opener import make_request, printable, send

_ACTIONS: tuple[Action, ...] = ("subscribe", "publish", "history", "presence")
_ANY = "x"
"""A channel that stands for all those without options of their own."""


def checked(config: Config, text: str, channels: Sequence[str]) -> Iterator[str]:
    """The lines about a token on a server with this configuration.

    `channels`: names to decide on, besides those of the configuration. Raises CommandFailed with
    the reason if the token is refused.
    """
    for name in channels:
        check_name(name)
    verifier = _verifier(config)
    now = time.time()
    _, claims = parts(text)
    try:
        if "channel" in claims:
            yield from _subscription(verifier, config.auth, claims, text, channels, now)
            return
        identity = verifier.connection(text, now)
    except Denied as error:
        raise CommandFailed(f"refused: {error}") from None
    user, end = _user(identity.user), _end(identity.expires, now)
    yield f"valid: the token of a connection of {user}, {end}"
    if identity.info:
        yield f"other clients see {identity.info.decode()}"
    if identity.channels:
        yield f"it permits the channels {', '.join(identity.channels.texts)}"
    if identity.subs:
        yield f"the server subscribes it to {', '.join(identity.subs)}"
    yield from _rights(config, identity, channels)


def _subscription(
    verifier: Verifier,
    auth: Auth,
    claims: dict[str, Any],
    text: str,
    channels: Sequence[str],
    now: float,
) -> Iterator[str]:
    channel, user = str(claims["channel"]), str(claims.get(auth.token_user_claim, ""))
    grant = verifier.subscription(text, channel, user, now)
    for name in channels:
        verifier.subscription(text, name, user, now)
    yield (
        f"valid: the token of a subscription of {_user(user)} to {channel},"
        f" {_end(grant.expires, now)}"
    )
    if grant.info:
        yield f"other clients see {grant.info.decode()}"
    yield "the connection needs a token of its own, of the same user"


def _user(name: str) -> str:
    return f"the user {json.dumps(name, ensure_ascii=False)}" if name else "an unknown user"


def _end(expires: float, now: float) -> str:
    return f"until {moment(expires, now)}" if expires else "without an end"


def _verifier(config: Config) -> Verifier:
    """The verifier with all keys, also those of a file or URL; raises CommandFailed."""
    auth = config.auth
    verifier = make_verifier(auth, config.limits)
    if verifier is None:
        raise CommandFailed(
            "refused: the server has no keys for tokens, expected auth.token_secret, token_keys,"
            " jwks_file or jwks_url (in the file of --config, or in the environment)"
        )
    setting = "jwks_file" if auth.jwks_file else "jwks_url"
    try:
        if auth.jwks_file:
            content = read_file(auth.jwks_file, MAX_JWKS_BYTES)
        elif auth.jwks_url:
            with send(make_request(auth.jwks_url, "", {}), TIMEOUT_SECONDS) as response:
                content = response.read(MAX_JWKS_BYTES + 1)
        else:
            return verifier
        verifier.set_published(read_jwks(content, algorithms(auth)).keys)
    except (OSError, HTTPException, ValueError) as error:
        if isinstance(error, HTTPError):
            error.close()
        raise CommandFailed(f"auth.{setting}: {printable(str(error))}") from None
    return verifier


def _rights(config: Config, identity: Identity, channels: Sequence[str]) -> Iterator[str]:
    """Lines for each channel and each group of channels of the configuration."""
    permissions = Permissions(config.channel_options(), lambda event, name: False)

    def decided(action: Action, name: str) -> str:
        try:
            permissions.check(action, name, identity)
        except Denied as error:
            return f"no, {error}"
        return "yes"

    def ruled(action: Action, name: str) -> str:
        return _word(*permissions.rule(action, name)[:2], identity)

    for name in dict.fromkeys((*config.channels, *channels)):
        yield from _block(f"in {name}", name, decided)
    for name in config.namespaces:
        yield from _block(f"in other channels {name}:...", f"{name}:{_ANY}", ruled)
    yield from _block("in all other channels", _ANY, ruled)
    yield "where no rule is set, the handlers of an application may decide otherwise"


def _block(title: str, name: str, words: Callable[[Action, str], str]) -> Iterator[str]:
    """The title, and a line for all actions with the same words."""
    groups: dict[str, list[str]] = {}
    for action in _ACTIONS:
        groups.setdefault(words(action, name), []).append(action)
    yield title
    for text, actions in groups.items():
        yield f"  {', '.join(actions)}: {text}"


def _word(rule: str, setting: str, identity: Identity) -> str:
    """The right of the identity in channels of which only the rule is known."""
    because = f' ({setting} = "{rule}")'
    if rule == "handler":
        return f"a handler of the application decides{because}"
    if rule == "token":
        named = bool(identity.channels or identity.subs)
        return f"only where the token permits it{because}" if named else f"no{because}"
    allowed = rule == "anyone" or (rule == "users" and bool(identity.user))
    return "yes" if allowed else f"no{because}"


def checked_by_server(url: str, text: str) -> Iterator[str]:
    """The lines about a token that a running server accepts: it is given to it in a connect.

    Raises CommandFailed with the reason if the server refuses it.
    """
    _, claims = parts(text)
    if "channel" in claims:
        raise CommandFailed(
            "this is the token of a subscription: check it by --config; --url connects, which needs"
            " the token of a connection"
        )
    command = json.dumps({"id": 1, "connect": {"token": text}}).encode()
    yield from call(
        url,
        "/connection/http_stream",
        partial(_connected, url.rstrip("/")),
        expected="the reply to a connect",
        body=command,
    )


def _connected(url: str, reply: Any) -> list[str]:
    """The lines about the reply to a connect; raises CommandFailed for a refusal."""
    connect, push = reply.get("connect"), reply.get("push")
    if connect is not None:
        end = f"for {connect['ttl']} seconds" if connect.get("expires") else "without an end"
        lines = [f"{url} accepts it, {end}"]
        if connect.get("subs"):
            lines.append(f"it subscribes the client to {printable(', '.join(connect['subs']))}")
        return lines
    error = push["disconnect"] if push else reply["error"]
    reason = printable(str(error.get("message") or error.get("reason")))
    raise CommandFailed(f"refused by {url}: {error.get('code')}: {reason}")
