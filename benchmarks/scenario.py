"""The input of the load tool."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields


@dataclass(frozen=True, slots=True)
class Group:
    """Clients of one kind; the terms are those of load.c.

    With several `channels` a "%" in the path or channel stands for the number of one. `once`:
    they get the one long publication of the load. `deflate`: they offer permessage-deflate.
    """

    protocol: str
    clients: int
    path: str
    channel: str = ""
    behaviour: str = "reads"
    channels: int = 1
    storms: bool = False
    once: bool = False
    deflate: bool = False

    def argument(self) -> str:
        """The group as an option of the load tool."""
        words = [f"protocol={self.protocol}", f"clients={self.clients}", f"path={self.path}"]
        words += [f"behaviour={self.behaviour}", f"channels={self.channels}"]
        words += [f"channel={self.channel}"] if self.channel else []
        words += [f"{flag}=1" for flag in ("storms", "once", "deflate") if getattr(self, flag)]
        return ",".join(words)


@dataclass(frozen=True, slots=True)
class Load:
    """One measurement. Times in seconds, `size` in bytes of JSON, `rate` in publications a second.

    `post`: the path that the tool itself posts to, over `posters` connections, in place of a
    server that publishes by itself. `storm`: how many publications those that storm are
    sent, of which they miss all but the first. `ramp` and `storm_ramp`: how many connects are
    under way at one time. `once`: how many bytes the one publication has that is posted when
    everything runs, in place of windows.
    """

    groups: tuple[Group, ...]
    rate: float
    size: int = 98
    warmup: float = 1.0
    windows: int = 3
    window: float = 3.0
    settle: float = 0.5
    idle: float = 0.0
    drain: float = 15.0
    ramp: int = 32
    storm: int = 0
    storm_ramp: int = 2_000
    once: int = 0
    post: str = ""
    posters: int = 1

    @property
    def clients(self) -> int:
        """The number of clients in all groups."""
        return sum(group.clients for group in self.groups)

    @property
    def planned(self) -> float:
        """Seconds after all clients are connected, without delays."""
        measured = 0.0 if self.storm or self.once else self.windows * (self.window + 0.3)
        return 2 * self.settle + self.idle + self.warmup + measured

    @property
    def longest(self) -> float:
        """Seconds within which the tool ends by itself, and a margin."""
        # 180 to connect, and 180 for a storm or the long publication, as in load.c.
        return self.planned + self.drain + 180 + 180 + 20

    def arguments(self) -> Iterator[str]:
        """The options of the load tool."""
        for group in self.groups:
            yield f"--group={group.argument()}"
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name != "groups" and value != "":
                yield f"--{field.name.replace('_', '-')}={value}"
