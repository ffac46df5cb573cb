"""The rules for the names of channels, namespaces and events."""

from __future__ import annotations

import re

from pushserver.errors import InvalidName

NAME_RULE = (
    "1 to 128 characters of A-Z a-z 0-9 _ . : @ -, beginning with a letter or digit, perhaps with $"
    " before it (a private channel) and #USER,USER at its end (a channel of these users); or #USER"
)
EVENT_RULE = "1 to 128 printable characters"

MAX_NAME = 128

_USERS = r"#[A-Za-z0-9_.@-]+(?:,[A-Za-z0-9_.@-]+)*"
_NAME = re.compile(rf"\$?[A-Za-z0-9][A-Za-z0-9_.:@-]*(?:{_USERS})?|{_USERS}")


def check_name(name: str) -> str:
    """Return `name` if it is a valid channel name; raise InvalidName if not."""
    try:
        valid = is_name(name)
    except TypeError:
        valid = False
    if not valid:
        raise InvalidName(f"invalid channel name {_shown(name)}: expected {NAME_RULE}")
    return name


def is_name(name: str) -> bool:
    """Whether this is a valid channel name."""
    return len(name) <= MAX_NAME and _NAME.fullmatch(name) is not None


def check_namespace(name: str) -> str:
    """Return `name` if it is a valid namespace; raise InvalidName if not."""
    try:
        valid = len(name) < MAX_NAME and _NAME.fullmatch(f"{name}:") is not None
        valid = valid and ":" not in name and not name.startswith("$")
    except (TypeError, AttributeError):
        valid = False
    if not valid:
        raise InvalidName(
            f"invalid namespace {_shown(name)}: expected the part before the first colon of a"
            " channel's name, as chess in chess:12"
        )
    return name


def namespace_of(channel: str) -> str:
    """The part of a channel's name before the first colon, without the `$` of a private channel.

    Empty if there is no colon.
    """
    return channel.partition(":")[0].removeprefix("$") if ":" in channel else ""


def is_private(channel: str) -> bool:
    """Whether a reader of this channel needs a token: its name begins with `$`."""
    return channel.startswith("$")


def users_of(channel: str) -> frozenset[str] | None:
    """The users to whom the channel belongs (`inbox:#42`, `chat:#42,43`); None without `#`."""
    _, hash_, users = channel.partition("#")
    return frozenset(users.split(",")) if hash_ else None


def check_event(event: str) -> str:
    """Return `event` if it is a valid event name; raise InvalidName if not."""
    try:
        valid = 0 < len(event) <= 128 and event.isprintable()
    except (TypeError, AttributeError):
        valid = False
    if not valid:
        raise InvalidName(f"invalid event name {_shown(event)}: expected {EVENT_RULE}")
    return event


def _shown(name: object) -> str:
    """The beginning of a name; of another value of a program, which is not a text, its repr."""
    return repr(name[:140]) if isinstance(name, str) else f"{name!r:.140}"
