"""The environment that all sources of a server share, and the plan of one source."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from pushserver.channels.publication import Draft, Receipt
from pushserver.config.settings import Source
from pushserver.hub.audience import Subscriber
from pushserver.usercode.reactor import Reactor


class Subscriptions(Protocol):
    """The subscribers of channels; a hub provides this."""

    on_join: list[Callable[[str, Subscriber], None]]
    on_leave: list[Callable[[str, Subscriber], None]]

    def size(self, channel: str) -> int:
        """Return the number of subscribers of the channel."""


class Memory(Protocol):
    """The JSON values that sources remember, by their names."""

    def get(self, name: str) -> object:
        """Return the last value, or None."""

    def set(self, name: str, value: object) -> None:
        """Keep the value; raises InvalidData if JSON cannot hold it or it is too large."""


class Leases(Protocol):
    """The sources of several servers with a common log: each runs at one of them at a time."""

    def want(self, name: str, wants: bool, changed: Callable[[], None]) -> None:
        """Get and keep the lease of a source, or release it; `changed`: it was got or lost."""

    def holds(self, name: str) -> bool:
        """Return whether this server has the lease."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan(Source):
    """The settings of a source, and its name."""

    name: str


@dataclass(slots=True)
class Environment:
    """The services that all sources of a server share.

    `clock` returns Unix seconds, `now` the seconds of a monotonic clock; a source may take
    `stop_seconds` to end, which a reload may change. `leases`: None if the server is alone.
    """

    reactor: Reactor
    publish: Callable[[Draft], Awaitable[Receipt]]
    subscriptions: Subscriptions
    memory: Memory
    clock: Callable[[], float]
    now: Callable[[], float]
    stop_seconds: float = 2.0
    leases: Leases | None = None
