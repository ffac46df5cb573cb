"""API keys, and their scopes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pushserver.auth.patterns import EVERY, Patterns

Scope = Literal["publish", "read", "admin"]
EVERYTHING: frozenset[Scope] = frozenset({"publish", "read", "admin"})


@dataclass(frozen=True, slots=True)
class Key:
    """A valid API key, without its secret: the channels that it is for, and its scopes there."""

    name: str = ""
    channels: Patterns = EVERY
    may: frozenset[Scope] = EVERYTHING

    def allows(self, scope: Scope, channel: str) -> bool:
        """Whether a request with this key may do this in the channel."""
        return scope in self.may and channel in self.channels


LOCAL = Key("a program on this machine")
"""Stands for programs on this machine while no keys are configured."""
