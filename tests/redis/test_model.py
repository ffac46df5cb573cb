"""The scripts and one process in memory do the same, operation by operation."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import count
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from pushserver.channels.channel import Channel, ChannelOptions
from pushserver.channels.forgotten import bucket
from pushserver.channels.history import History
from pushserver.channels.idempotency import REMEMBERED_SECONDS
from pushserver.channels.idempotency import Keys as IdempotencyKeys
from pushserver.channels.position import ZERO, Cursor, Position, Start, channel_epoch, split_epoch
from pushserver.channels.publication import Draft, Publication, content_bytes
from pushserver.errors import TooMany
from pushserver.hub.broker import MemoryBroker
from pushserver.hub.follower import Image, Point, image_of
from pushserver.hub.metrics import Metrics
from pushserver.redis.rows import Appended, Cleared
from pushserver.redis.script import EMPTY_MS
from pushserver.redis.scripts import Bounds
from pushserver.redis.upkeep_scripts import Swept
from tests.redis.node import KEYS, Timed
from tests.redis.server import RedisError, RedisServer
from tests.unit.fakes.tools import Time, drive

MOST_KEYS = 3
OPTIONS = {
    "few": ChannelOptions(history_size=4, history_ttl=0, recovery_limit=3),
    "aging": ChannelOptions(history_size=20, history_ttl=299.555, recovery_limit=20),
    "bytes": ChannelOptions(history_bytes=60, history_ttl=400.005),
    "many": ChannelOptions(),
    "none": ChannelOptions(history_size=0),
    "none of a long text": ChannelOptions(history_bytes=15, history_ttl=0),
}


def twin(name: str) -> str:
    """Another name in the same bucket."""
    return next(other for n in count() if bucket(other := f"{name}{n}") == bucket(name))


CHANNELS = ("a", "b", "\u00fc:\u4e2d\n", twin("a"))


def as_copied(image: Image, options: ChannelOptions, seq: int) -> History:
    """The history of a follower with this image."""
    run, _ = split_epoch(image.epoch)
    history = History(lambda name: options, run, seq)
    channel = history.restore(image.channel, image.epoch, image.floor, image.floor_seq)
    for row in image.rows:
        history.room.append(channel, row, 0.0)
    return history


class World:
    """A log in Redis with two nodes, and one in memory."""

    def __init__(self, redis: RedisServer, options: ChannelOptions):
        self.options = options
        self.time = Time()
        self.runs = 1
        self.history = History(lambda name: options, "e1")
        keys = IdempotencyKeys(1_000, MOST_KEYS)
        self.broker = MemoryBroker(self.history, keys, Metrics(), self.time, self.time.seconds)
        self.broker.attach(lambda row, skip: self.log.append(row))
        self.log: list[Publication | str] = []
        self.kept_until: dict[str, float] = {}
        """By channel without rows."""
        self.positions: list[tuple[str, Position]] = []
        self.cursors: list[Cursor] = []
        redis.connection("FLUSHALL")
        bounds = Bounds(keys_per_publisher=MOST_KEYS)
        self.nodes = [Timed(redis, name, options) for name in ("n1", "n2")]
        self.redis = redis.connection
        self.later(0.0)
        for node in self.nodes:
            node.bounds = bounds
            node.run = "run1"
            assert node.attach("e1").epoch == "e1"

    # --- the steps ---------------------------------------

    def publish(self, node: int, channel: str, key: str, publisher: str, size: int) -> None:
        data = json.dumps("\u00e9" * size).encode()
        draft = Draft(channel, data, "event", key=key, publisher=publisher)
        before = self.history.seq
        try:
            receipt = drive(self.broker.publish(draft))
        except TooMany:
            with pytest.raises(RedisError, match=r"^KEYS "):
                self.nodes[node].send(draft)
            return
        numbers = self.nodes[node].send(draft)
        own = channel_epoch(numbers.epoch, numbers.generation)
        assert (own, numbers.seq, numbers.offset) == (receipt.epoch, receipt.seq, receipt.offset)
        assert numbers.kind == ("new" if self.history.seq > before else "key")
        if numbers.kind == "new":
            self._emptied(channel)
        self.positions.append((channel, Position(receipt.epoch, receipt.offset)))
        self.cursors.append(Cursor(self.history.epoch, self.history.seq))

    def again(self, node: int, back: int, channel: str) -> None:
        """A node sends a draft another time."""
        sender = self.nodes[node]
        last = self.redis("HGET", KEYS.nodes, sender.name)
        if last:
            counter = max(1, int(last.split(b":")[0]) - back)
            assert sender.send(Draft(channel, b"0"), counter).kind == "again"

    def clear(self, node: int, channel: str) -> None:
        known = self.history.channels.get(channel)
        before = 0 if known is None else len(known)
        drive(self.broker.clear(channel))
        evicted, seq, number = self.nodes[node].clear(channel)
        assert (evicted, seq, number > 0) == (before, self.history.seq, known is not None)
        if known is not None:
            self.log.append(channel)
            self._emptied(channel)

    def sweep(self, node: int) -> None:
        with_rows = {name for name, c in self.history.channels.items() if len(c)}

        def is_kept(name: str) -> bool:
            if name in with_rows:
                self._emptied(name)
            return self.time.now < self.kept_until[name]

        before = self.broker.metrics.evictions, len(self.history.channels)
        while self.broker.expire(self.time.seconds(), is_kept):
            pass
        after = self.broker.metrics.evictions, len(self.history.channels)
        expected = Swept(after[0] - before[0], before[1] - after[1], ())
        assert self.nodes[node].sweep() == expected

    def _emptied(self, channel: str) -> None:
        self.kept_until[channel] = self.time.now + EMPTY_MS / 1000

    def touch(self, node: int, channels: tuple[str, ...]) -> None:
        kept = self.history.channels
        assert self.nodes[node].touch(*channels) == [int(name in kept) for name in channels]
        for name in channels:
            if name in kept and not len(kept[name]):
                self._emptied(name)

    def later(self, seconds: float) -> None:
        self.time.now = round(self.time.now + seconds, 3)
        now = round(self.time.now * 1000)
        self.nodes[0].set_clock(now)
        # Redis knows only its own clock.
        for key in self.redis("KEYS", KEYS.key("*", "*").replace(b"\n", b"?")):
            if int(self.redis("GET", key).split()[-1]) + REMEMBERED_SECONDS * 1000 <= now:
                self.redis("DEL", key)

    def attach(self, node: int, other_run: bool, keep: bool) -> None:
        """Both nodes have new connections: to this run of Redis, or to another one."""
        self.runs += other_run
        epoch = f"e{self.runs}"
        for one in (self.nodes[node], self.nodes[1 - node]):
            if other_run:
                # The first one comes with a run that is not stored yet, the other one with the old.
                one.run = f"run{self.runs - (one is not self.nodes[node])}"
                with pytest.raises(RedisError, match=r"^FENCED "):
                    one.send(Draft("a", b"1"), one.counter + 1)
            one.run = f"run{self.runs}"
            attached = one.attach(epoch if one is self.nodes[node] else "other", keep)
            if other_run and not keep:
                assert attached.epoch == epoch
                self._renumber(epoch)
                keep = True
            assert (attached.epoch, attached.seq) == (self.history.epoch, self.history.seq)
            assert attached.counter <= one.counter

    def _renumber(self, epoch: str) -> None:
        """Memory has another epoch from now on, with all that it has."""
        history = self.history
        history.epoch = epoch
        for old in list(history.channels.values()):
            own = channel_epoch(epoch, split_epoch(old.epoch)[1])
            births = list(old.births(0))
            channel = history.restore(old.name, own, old.floor, old.floor_seq)
            for row, born in zip(old.after(0), births, strict=True):
                history.room.append(channel, structs.replace(row, epoch=own), born)
        # The entries of the log have no epoch.
        self.log = [
            row
            if isinstance(row, str)
            else structs.replace(row, epoch=channel_epoch(epoch, split_epoch(row.epoch)[1]))
            for row in self.log
        ]

    # --- the readers ---------------------------------------

    def image(self, node: int, channel: str, back: int | None) -> None:
        point = Point(channel)
        position = self._position(channel, back)
        if position is not None:
            point = Point(channel, position.epoch, position.offset)
        answer = self.nodes[node].images([point])
        assert (answer.epoch, answer.seq) == (self.history.epoch, self.history.seq)
        expected = image_of_any(self.history, point, self.time.seconds())
        found = answer.images[0]
        assert [round(age, 3) for age in found.ages] == [round(age, 3) for age in expected.ages]
        assert structs.replace(found, ages=[]) == structs.replace(expected, ages=[])

    def resume(self, node: int, channel: str, back: int | None, cursor: int | None) -> None:
        """Readers at a follower that has an image are answered as at the author."""
        image = self.nodes[node].image(channel)
        copy = as_copied(image, self.options, self.history.seq)
        position = self._position(channel, back) or ZERO
        for asked in (position, Position(position.epoch, 0), Position("", position.offset)):
            assert copy.resume(channel, asked) == self.history.resume(channel, asked)
        start = Start(oldest=True)
        if cursor is not None and self.cursors:
            start = Start(since=self.cursors[-1 - cursor % len(self.cursors)])
        assert copy.read([channel], start) == self.history.read([channel], start)

    def _position(self, channel: str, back: int | None) -> Position | None:
        known = [position for name, position in self.positions if name == channel]
        if back is None or not known:
            return None
        position = known[-1 - back % len(known)]
        return Position(position.epoch, max(0, position.offset - back % 3))

    # --- the comparison ---------------------------------------

    def compare(self) -> None:
        """Redis and memory have the same."""
        redis = self.redis
        kept = self.history.channels
        assert {name.decode() for name in redis("ZRANGE", KEYS.due, 0, -1)} == kept.keys()
        assert int(redis("HGET", KEYS.meta, "seq")) == self.history.seq
        for name in CHANNELS:
            seq = redis("HGET", KEYS.meta, f"b{bucket(name)}") or 0
            assert int(seq) == self.history.forgotten.seq(name)
            if name in kept:
                assert self._stored(name) == self._in_memory(kept[name])
            else:
                assert redis("EXISTS", KEYS.channel(name), KEYS.rows(name)) == 0

    def _stored(self, name: str) -> Any:
        fields = ("top", "floor", "fq", "g", "b")
        numbers = self.redis("HMGET", KEYS.channel(name), *fields)
        rows = []
        for id_, (_, q, _, t, _, n, _, _) in self.redis("XRANGE", KEYS.rows(name), "-", "+"):
            rows.append((id_.decode(), int(q), int(t), int(n)))
        return tuple(map(int, numbers)), rows

    def _in_memory(self, channel: Channel) -> Any:
        generation = split_epoch(channel.epoch)[1]
        numbers = (channel.top, channel.floor, channel.floor_seq, generation, channel.bytes)
        rows = [
            (f"{row.offset}-0", row.seq, round(row.time * 1000), content_bytes(row))
            for row in channel.after(0)
        ]
        return numbers, rows

    def end(self) -> None:
        """The log in Redis has what was published and cleared."""
        found: list[Publication | str] = []
        for entry in self.nodes[0].log():
            assert isinstance(entry, Appended | Cleared)
            found.append(entry.channel if isinstance(entry, Cleared) else entry.publication)
        assert found == self.log

    def close(self) -> None:
        for node in self.nodes:
            node.close()


def image_of_any(history: History, point: Point, now: float) -> Image:
    """As `image_of`, also for a channel that is not kept."""
    if point.channel in history.channels:
        return image_of(history, point, now)
    channel = history.peek(point.channel)
    return Image(point.channel, channel.epoch, 0, channel.floor_seq, [], [], 0)


def program(random: Random, length: int) -> Iterator[tuple[Any, ...]]:
    """Random steps; hypothesis alone would make short ones."""
    choose = random.choice
    for _ in range(length):
        node, channel = choose((0, 1)), choose(CHANNELS)
        back, cursor = choose([None, *range(12)]), choose([None, *range(20)])
        seconds = choose([0.001, 1.0, 50.0, 200.0, 301.0])
        yield choose(
            [
                *6 * [("publish", node, channel, "", "", choose([1, 3, 8]))],
                *2 * [("publish", node, channel, choose("kl"), choose(["", "p"]), 1)],
                ("again", node, choose([0, 1, 5]), channel),
                ("image", node, channel, back),
                *2 * [("resume", node, channel, back, cursor)],
                *2 * [("sweep", node)],
                *2 * [("later", seconds)],
                choose(
                    [
                        ("clear", node, channel),
                        ("touch", node, tuple(random.sample(CHANNELS, 2))),
                        ("attach", node, choose([True, False]), choose([True, False])),
                    ]
                ),
            ]
        )


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_redis_does_as_memory(shared_redis: RedisServer, options: ChannelOptions) -> None:
    @settings(max_examples=15, derandomize=True, database=None, deadline=None)
    @given(st.integers(0, 2**32), st.integers(50, 200))
    def run(seed: int, length: int) -> None:
        world = World(shared_redis, options)
        try:
            for name, *arguments in program(Random(seed), length):
                getattr(world, name)(*arguments)
                world.compare()
            world.end()
        finally:
            world.close()

    run()
