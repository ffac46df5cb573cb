"""What sources run in, and how one of them is to run."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from pushserver.channels.publication import Draft, Receipt
from pushserver.config.settings import Source
from pushserver.hub.audience import Subscriber
from pushserver.usercode.reactor import Reactor


class Watch(Protocol):
    """Who watches what; a hub is one."""

    on_join: list[Callable[[str, Subscriber], None]]
    on_leave: list[Callable[[str, Subscriber], None]]

    def size(self, channel: str) -> int:
        """How many watch the channel."""


class Memory(Protocol):
    """What sources remember, by their names: JSON values."""

    def get(self, name: str) -> object:
        """What was set last; None if nothing was."""

    def set(self, name: str, value: object) -> None:
        """Keep this value; raises InvalidData if it is none or too large."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan(Source):
    """The settings of a source, and its name."""

    name: str


@dataclass(frozen=True, slots=True)
class Place:
    """What all sources of a server share.

    `clock` gives Unix seconds, `now` the seconds of the steady clock; `stop_seconds` says how long
    the end of a source is waited for.
    """

    reactor: Reactor
    publish: Callable[[Draft], Awaitable[Receipt]]
    watch: Watch
    memory: Memory
    clock: Callable[[], float]
    now: Callable[[], float]
    stop_seconds: float = 2.0
