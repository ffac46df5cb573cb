"""The rules for the names of channels, namespaces and events."""

from __future__ import annotations

import re

from pushserver.errors import InvalidName

NAME_RULE = "1 to 128 characters of A-Z a-z 0-9 _ . : @ -, beginning with a letter or digit"
EVENT_RULE = "1 to 128 printable characters"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:@-]{0,127}")


def check_name(name: str) -> str:
    """Return `name` if it is a valid channel name; raise InvalidName if not."""
    if _NAME.fullmatch(name) is None:
        raise InvalidName(f"invalid channel name {name[:140]!r}: expected {NAME_RULE}")
    return name


def check_namespace(name: str) -> str:
    """Return `name` if it is a valid namespace; raise InvalidName if not."""
    if ":" in name or _NAME.fullmatch(f"{name}:") is None:
        raise InvalidName(
            f"invalid namespace {name[:140]!r}: expected the part before the first colon of a"
            " channel's name, as chess in chess:12"
        )
    return name


def namespace_of(channel: str) -> str:
    """The part of a channel's name before the first colon; empty if there is no colon."""
    return channel.partition(":")[0] if ":" in channel else ""


def check_event(event: str) -> str:
    """Return `event` if it is a valid event name; raise InvalidName if not."""
    if not (0 < len(event) <= 128 and event.isprintable()):
        raise InvalidName(f"invalid event name {event[:140]!r}: expected {EVENT_RULE}")
    return event
