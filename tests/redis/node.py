"""A node that waits for each answer of Redis, and a clock for its scripts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec.structs import replace

from pushserver.channels.channel import ChannelOptions
from pushserver.channels.publication import Draft
from pushserver.hub.follower import Image, Point
from pushserver.redis import rows, scripts, upkeep_scripts
from pushserver.redis.connection import SCRIPTS
from pushserver.redis.keys import Keys
from pushserver.redis.rows import Entry
from pushserver.redis.script import Call, Script
from pushserver.redis.scripts import Attached, Bounds, Images, Known, Numbered
from pushserver.redis.upkeep_scripts import Swept
from tests.redis.server import Connection, RedisServer

KEYS = Keys()
CLOCK = "clock"


class Node:
    """A node with a connection of its own; the options are those of all channels."""

    def __init__(
        self,
        server: RedisServer,
        name: str = "n1",
        options: ChannelOptions = ChannelOptions(),
    ):
        self.name, self.options, self.bounds = name, options, Bounds()
        self.counter = 0
        self.epoch = ""
        self.redis: Connection
        self.connect(server)

    def connect(self, server: RedisServer) -> None:
        """Take another connection, which is not attached yet."""
        self.redis = server.connect()
        self.run = self.redis.run_id()

    def close(self) -> None:
        self.redis.close()

    def call(self, call: Call) -> Any:
        return self.redis.run(call)

    def attach(
        self, epoch: str, keep: bool = False, known: Sequence[Known] = (), shards: str = ""
    ) -> Attached:
        answer = self.call(scripts.attach(KEYS, self.run, epoch, keep, self.name, known, shards))
        attached = scripts.attached_of(answer)
        self.epoch = attached.epoch
        return attached

    def publish(self, channel: str = "a", data: bytes = b"1", **more: Any) -> Numbered:
        return self.send(Draft(channel, data, **more))

    def send(self, draft: Draft, counter: int = 0) -> Numbered:
        """Publish a draft, with the next counter unless one is given."""
        if not counter:
            self.counter += 1
        return scripts.numbered_of(self.call(self.publication(draft, counter or self.counter)))

    def publication(self, draft: Draft, counter: int) -> Call:
        return scripts.publish(KEYS, self.run, self.name, counter, draft, self.options, self.bounds)

    def image(self, channel: str = "a", epoch: str = "", offset: int = 0) -> Image:
        return self.images([Point(channel, epoch, offset)]).images[0]

    def images(self, points: Sequence[Point]) -> Images:
        return scripts.images_of(points, self.call(scripts.image(KEYS, self.run, points)))

    def clear(self, channel: str = "a") -> tuple[int, int, int]:
        evicted, seq, number = self.call(scripts.clear(KEYS, self.run, channel, self.bounds))
        return evicted, seq, number

    def due(self, most: int = 100) -> list[str]:
        return [name.decode() for name in self.call(upkeep_scripts.due(KEYS, self.run, most))]

    def sweep(self, channels: Sequence[str] | None = None) -> Swept:
        """Sweep these channels, or those that are due."""
        names = self.due() if channels is None else channels
        pairs = [(name, self.options.history_ttl) for name in names]
        return upkeep_scripts.swept_of(self.call(upkeep_scripts.sweep(KEYS, self.run, pairs)))

    def touch(self, *channels: str) -> list[int]:
        kept: list[int] = self.call(upkeep_scripts.touch(KEYS, self.run, channels))
        return kept

    def alive(self) -> tuple[str, str, int]:
        run, epoch, seq = self.call(scripts.alive(KEYS))
        return run.decode(), epoch.decode(), seq

    def log(self) -> list[Entry]:
        return [rows.entry_of(self.epoch, e) for e in self.redis("XRANGE", KEYS.log, "-", "+")]


class Timed(Node):
    """A node whose scripts take their time from a list in Redis, of seconds and microseconds."""

    def call(self, call: Call) -> Any:
        return super().call(replace(call, script=TIMED[call.script.name]))

    def set_clock(self, ms: int) -> None:
        self.redis.pipeline([("DEL", CLOCK), ("RPUSH", CLOCK, ms // 1000, ms % 1000 * 1000)])


TIMED = {
    script.name: Script(
        script.name,
        script.text.decode().replace(
            "redis.call('TIME')", f"redis.call('LRANGE', '{CLOCK}', 0, -1)"
        ),
    )
    for script in SCRIPTS
}
