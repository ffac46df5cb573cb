"""Decides who may do something in a channel: one decision for all protocols."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from pushserver.auth.identity import Grant, Identity
from pushserver.auth.keys import Scope
from pushserver.channels.channel import ChannelOptions, Rule
from pushserver.channels.names import is_private, users_of
from pushserver.errors import Denied, NeedsKey, PushServerError

Action = Literal["subscribe", "publish", "history", "presence"]

_VERBS: dict[Action, str] = {
    "subscribe": "subscribing to",
    "publish": "publishing to",
    "history": "the history of",
    "presence": "the presence in",
}
_NEEDS: dict[Rule, str] = {
    "users": "a user",
    "token": "a token for this channel",
    "key": "an API key",
}
_CLOSED = "this server needs a token or an API key (auth.closed)"
_ORDER: tuple[Rule, ...] = ("anyone", "handler", "users", "token", "key", "nobody")
"""From the weakest rule to the strictest, for private channels."""


class Permissions:
    """The rules of all channels.

    The rules `subscribe`, `publish`, `history` and `presence` of a channel are one of:

    - `anyone`: every peer;
    - `users`: peers with a user, by a token, a handler of the application or both;
    - `token`: peers with a token for the channel: a subscription token, or a connection token
      whose `channels` or `subs` have it;
    - `key`: API keys with the scope, and while none are configured, programs on this machine;
    - `handler`: the clients of the Centrifuge protocol and of Socket.IO, and for `publish` the
      users by any protocol, for which the application's handler agrees;
    - `nobody`: the server's own sources and its application alone.

    An API key with the scope (`publish`, or `read` for the three others) is enough for all but
    `nobody`. Without a rule, `subscribe` is that of its handler, or else `anyone`; `publish` that
    of its handler, or else `key`; `history` and `presence` that of `subscribe`. A handler is asked
    in addition to any other rule. In a private channel (`$`) the rules are at least `token`. A
    channel with users (`#42`) is only for these.

    `handled`: whether the application has a handler `subscribe` or `publish` for this channel.
    `closed`: nothing is for anonymous peers (`auth.closed`).
    """

    def __init__(
        self,
        options: Callable[[str], ChannelOptions],
        handled: Callable[[str, str], bool],
        closed: bool = False,
    ):
        self._options = options
        self._handled = handled
        self.closed = closed

    def check(
        self,
        action: Action,
        channel: str,
        identity: Identity,
        grant: Grant | None = None,
        member: bool = False,
    ) -> bool:
        """Return whether the application's handler decides further; raise Denied.

        `grant` is that of a token for this channel. `member`: the peer is subscribed to the
        channel, so it may read the history and presence of a channel without rules for them.
        The error is NeedsKey if a key would do.
        """
        rule, setting, handled = self.rule(action, channel)
        if rule == "nobody":
            raise _for_nobody(action, channel, setting)
        scope: Scope = "publish" if action == "publish" else "read"
        key = identity.key
        if key is not None and key.allows(scope, channel):
            return False
        if member and setting == "subscribe":
            return False
        if self.closed and identity.is_anonymous:
            raise self._denied(identity, NeedsKey(401, _CLOSED))
        users = users_of(channel)
        if users is not None and identity.user not in users:
            raise self._denied(
                identity,
                NeedsKey(
                    _status(identity), f"{channel} is only for its users (the names after its #)"
                ),
            )
        permitted = grant is not None or identity.covers(channel)
        if (
            rule == "key"
            or (rule == "users" and not identity.user)
            or (rule == "token" and not permitted)
        ):
            raise self._denied(identity, self._needs(action, channel, rule, setting, identity))
        if rule == "handler" and not handled:
            raise Denied(
                403,
                f"{_VERBS[action]} {channel} is decided by a handler of the application, and there"
                f' is none ({setting} = "handler")',
            )
        return handled

    def subscriber_may(
        self,
        action: Literal["history", "presence"],
        channel: str,
        identity: Identity,
        grant: Grant | None = None,
    ) -> bool:
        """Whether a subscriber may also read this of the channel."""
        if not getattr(self._options(channel), action):
            return True
        try:
            self.check(action, channel, identity, grant, member=True)
        except PushServerError:
            return False
        return True

    def check_connect(self, identity: Identity) -> None:
        """Return if this peer may open a session; raise Denied."""
        if self.closed and identity.is_anonymous:
            raise identity.problem or NeedsKey(401, _CLOSED)

    def useful(self, channel: str) -> tuple[Literal["token", "key"], ...]:
        """The kinds of credentials that may change a decision about this channel."""
        rules = {self.rule(action, channel)[0] for action in ("subscribe", "publish")}
        if self.closed or users_of(channel) is not None or rules & {"users", "token", "handler"}:
            return ("token", "key")
        return ("key",) if "key" in rules else ()

    def check_somebody(self, action: Action, channel: str) -> None:
        """Raise Denied if this is for nobody, not even for an API key."""
        rule, setting, _ = self.rule(action, channel)
        if rule == "nobody":
            raise _for_nobody(action, channel, setting)

    def rule(self, action: Action, channel: str) -> tuple[Rule, str, bool]:
        """The rule that holds, the setting that it comes from, and whether a handler decides too.

        The setting is `subscribe` for the history and presence of a channel without own rules.
        """
        options = self._options(channel)
        own: Rule = getattr(options, action)
        setting: str = action
        event = "publish" if action == "publish" else "subscribe"
        if action != event and not own:
            own, setting = options.subscribe, "subscribe"
        asks = setting == event or own == "handler"
        handled = asks and self._handled(event, channel)
        if own:
            rule = own
        elif handled:
            rule = "handler"
        elif setting == "publish" and not options.client_publish:
            rule = "key"
        else:
            rule = "anyone"
        if is_private(channel) and _ORDER.index(rule) < _ORDER.index("token"):
            rule = "token"
        return rule, setting, handled

    def _needs(
        self, action: Action, channel: str, rule: Rule, setting: str, identity: Identity
    ) -> Denied:
        text = f'{_VERBS[action]} {channel} needs {_NEEDS[rule]} ({setting} = "{rule}")'
        key = identity.key
        if key is not None:
            text += f"; {key.problem('publish' if action == 'publish' else 'read', channel)}"
        return NeedsKey(_status(identity), text)

    def _denied(self, identity: Identity, error: Denied) -> PushServerError:
        return identity.problem or error


def _status(identity: Identity) -> int:
    return 401 if identity.is_anonymous else 403


def _for_nobody(action: Action, channel: str, setting: str) -> Denied:
    return Denied(403, f'{_VERBS[action]} {channel} is for nobody ({setting} = "nobody")')
