"""Patterns of channel names: `*` stands for any characters, also for none."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from pushserver.channels.names import is_name
from pushserver.errors import Invalid

MAX_PATTERN = 128
"""In characters, as the longest name of a channel."""
PATTERN_RULE = "a channel's name, with a * for any characters, such as chat:*"

_PATTERN = re.compile(r"(?:[*#]|\$?[A-Za-z0-9*])[A-Za-z0-9_.:@*#,-]*")


@dataclass(frozen=True, slots=True)
class Patterns:
    """A container of channel names."""

    texts: tuple[str, ...] = ()

    @classmethod
    def of(cls, texts: Iterable[str]) -> Patterns:
        """These patterns; raises Invalid for one that no channel can match."""
        return cls(tuple(map(check_pattern, texts)))

    def __contains__(self, channel: object) -> bool:
        return any(matches(pattern, str(channel)) for pattern in self.texts)

    def __bool__(self) -> bool:
        return bool(self.texts)


EVERY = Patterns(("*",))
NONE = Patterns()


def check_pattern(text: str) -> str:
    """Return the pattern if a channel's name can match it; raise Invalid if not."""
    valid = len(text) <= MAX_PATTERN and _PATTERN.fullmatch(text) is not None
    if valid and "*" not in text:
        valid = is_name(text)
    if not valid:
        raise Invalid(f"{text!r:.140} is no pattern of channels: expected {PATTERN_RULE}")
    return text


def matches(pattern: str, channel: str) -> bool:
    """Whether the pattern matches the whole name; takes time in proportion to both lengths."""
    first, *others = pattern.split("*")
    if not others:
        return pattern == channel
    *middle, last = others
    end = len(channel) - len(last)
    if not channel.startswith(first) or not channel.endswith(last) or end < len(first):
        return False
    at = len(first)
    for part in middle:
        at = channel.find(part, at, end)
        if at < 0:
            return False
        at += len(part)
    return True
