"""Nodes on one Redis in any order of events: readers of each get what was published.

Each reader gets each publication of its channels once and in order, from the history or live, or is
notified of a gap. Each draft has one answer and is published once at most. Connections are cut at
any command, Redis crashes with its data set or an older one, and its log is trimmed or emptied.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from random import Random
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from pushserver.channels.channel import ChannelOptions
from pushserver.channels.forgotten import bucket
from pushserver.channels.history import History
from pushserver.channels.position import Cursor
from pushserver.channels.publication import Draft, Receipt
from pushserver.config.redis_url import Address
from pushserver.hub.follower import MAX_IDLE_SECONDS, Follower
from pushserver.hub.metrics import Metrics
from pushserver.redis.keys import Keys
from pushserver.redis.log import RedisLog
from pushserver.redis.rows import Content
from pushserver.redis.scripts import Bounds
from tests.unit.cluster.test_follower_model import OPTIONS, WIDE, Reader
from tests.unit.fakes.cluster import run
from tests.unit.fakes.redis import FakeConnection, FakeRedis
from tests.unit.fakes.tools import Time, make_node
from tests.unit.fakes.web import Trouble

CHANNELS = "abc"
NODES = 2
KEYS = Keys()

_content = msgspec.msgpack.Decoder(Content).decode


class Member:
    """A node: a follower of the log in Redis."""

    def __init__(self, world: World):
        class Connection(FakeConnection):
            redis = world.redis

        class Log(RedisLog):
            make_connection: Any = Connection
            pace_seconds = 0.0

        clock = world.clock
        options = world.options
        bounds = Bounds(log_length=world.log_length)
        self.log = Log(Address("x"), clock, clock.seconds, lambda name: options, bounds)
        history = History(lambda name: options, "none")
        follower = Follower(history, Metrics(), self.log, world.time.seconds)
        self.log.feed(follower)
        self.node = make_node(time=world.time, broker=follower, run=run)
        follower.reset = self.node.hub.reset
        self.links: list[Any] = [self.log._writing, self.log._reading]
        self.log.start()
        self.connect()

    def connect(self) -> None:
        for link in self.links:
            link.connect()

    def carry(self) -> bool:
        """Let everything arrive that is under way; whether there was anything."""
        moved = [link.bring_up() for link in self.links]
        return any([link.bring_down() for link in self.links] + moved)


class World:
    """The nodes, their readers, and all publications that Redis ever made."""

    def __init__(self, options: ChannelOptions, log_length: int):
        self.options = options
        self.log_length = log_length
        self.time = Time()
        self.clock = Clock()
        self.redis = FakeRedis(self.time)
        self.redis.published = self._published
        self.redis.renewed = self._renewed
        self.log: dict[tuple[str, str, int], int] = {}
        self.applied: Counter[int] = Counter()
        self.saved: Counter[int] = Counter()
        self.lost = ""
        self.answers: dict[int, Receipt | None] = {}
        self.readers: list[Reader] = []
        self.failures: list[Any] = []
        self._numbers = 0
        self._values = 0
        self.members = [Member(self) for _ in range(NODES)]
        self.settle()

    def _published(self, channel: str, epoch: str, offset: int, blob: bytes) -> None:
        value = int(_content(blob).data)
        assert (channel, epoch, offset) not in self.log, "numbers given twice"
        self.log[channel, epoch, offset] = value
        self.applied[value] += 1
        assert self.applied[value] == 1, f"published twice {value}"

    def _renewed(self, channel: str, epoch: str, offset: int, blob: bytes) -> None:
        self.log[channel, epoch, offset] = int(_content(blob).data)

    def note(self, failure: Any) -> None:
        """A step has failed: only because Redis was away."""
        if failure.value.__class__.__name__ != "Unavailable":
            self.failures.append(failure)

    def number(self) -> int:
        self._numbers += 1
        return self._numbers

    def check(self, channel: str, epoch: str, offset: int, data: int) -> None:
        """The reader got this publication: Redis must have made it."""
        assert self.log.get((channel, epoch, offset)) == data

    # --- the steps ---------------------------------------

    def publish(self, where: int, channel: str) -> None:
        self._values += 1
        value = self._values
        node = self.members[where].node
        published = Deferred.fromCoroutine(node.publish(Draft(channel, b"%d" % value)))

        def answer(receipt: Receipt | None) -> None:
            assert value not in self.answers, "answered twice"
            self.answers[value] = receipt
            if receipt is not None:
                assert self.log[channel, receipt.epoch, receipt.offset] == value

        def refused(failure: Any) -> None:
            self.note(failure)
            answer(None)

        published.addCallbacks(answer, refused)
        published.addErrback(self.failures.append)

    def join(self, where: int, channels: str) -> None:
        reader = Reader(self, self.members[where], channels)  # type: ignore[arg-type]
        self.readers.append(reader)
        reader.start({}, Cursor("", 0))

    def move(self, number: int, where: int) -> None:
        """A reader continues at another node, or at the same."""
        if self.readers:
            old = self.readers[number % len(self.readers)]
            old.leave()
            if old.joined:
                new = Reader(self, self.members[where], old.channels)  # type: ignore[arg-type]
                self.readers.append(new)
                new.start(old.tops, old.cursor)

    def leave(self, number: int) -> None:
        if self.readers:
            self.readers[number % len(self.readers)].leave()

    def clear(self, where: int, channel: str) -> None:
        done = Deferred.fromCoroutine(self.members[where].node.clear(channel))
        done.addErrback(self.note)

    def up(self, where: int, link: int, number: int) -> None:
        self.members[where].links[link].bring_up(number)

    def down(self, where: int, link: int, number: int) -> None:
        self.members[where].links[link].bring_down(number)
        self.time.turn()

    def trip(self, where: int) -> None:
        self.members[where].carry()
        self.time.turn()

    def cut(self, where: int, link: int, strays: bool) -> None:
        self.members[where].links[link].cut(strays)

    def stray(self, where: int) -> None:
        self.members[where].links[0].bring_stray()

    def connect(self, where: int) -> None:
        self.members[where].connect()

    def save(self) -> None:
        self.redis.save()
        self.saved = self.applied.copy()

    def crash(self, keeps: bool) -> None:
        """Redis is killed and starts again, with all of its data set or the saved one."""
        for member in self.members:
            for link in member.links:
                link.cut()
        self.redis.crash(keeps)
        if not keeps:
            self.applied = self.saved.copy()
            self.lost = self.redis.data.epoch

    def restore(self) -> None:
        """Redis starts with the saved data set, and says that it is complete.

        Some node has seen all that is lost, and all are back before the next publication: what one
        has seen, another does not know. What a crash has lost just before, no node has seen.
        """
        data = self.redis.data
        known = [(each.epoch, each.seq) for m in self.members for each in m.log._known()]
        if (data.epoch, data.seq) not in known or data.epoch == self.lost:
            return
        for member in self.members:
            for link in member.links:
                link.cut()
        self.redis.restore()
        self.applied = self.saved.copy()
        for member in self.members:
            for link in member.links:
                link.connect()

    def flush(self) -> None:
        self.redis.flush()
        self.redis.save()
        self.applied.clear()
        self.saved.clear()

    def trim(self, length: int) -> None:
        self.redis.trim(length)

    def forget_scripts(self) -> None:
        self.redis.knows_scripts = False

    def write_foreign(self) -> None:
        self.redis.write_foreign()

    def forget(self, channel: str) -> None:
        self.redis.forget(KEYS.channel(channel), b"%d" % bucket(channel))

    def later(self, seconds: float) -> None:
        for _ in range(round(min(seconds, 8.0) / 0.5)):
            self.clock.advance(0.5)
            for member in self.members:
                for link in member.links:
                    link.wake()
                    link.bring_down()
        self.time.now += seconds
        self.time.turn()
        for member in self.members:
            while member.node.expire():
                pass

    def settle(self) -> None:
        """Let everything arrive, and be checked."""
        for _ in range(60):
            for member in self.members:
                member.connect()
                while member.carry():
                    pass
            self.clock.advance(0.5)
            for member in self.members:
                member.links[1].wake()
            self.time.pass_on()
        for member in self.members:
            while member.carry():
                pass

    def end(self) -> None:
        """Each reader that was not told otherwise has everything; each publisher has its answer."""
        self.settle()
        for failure in self.failures:
            failure.raiseException()
        for member in self.members:
            state = member.log.state
            assert (state.attached, state.lag) == (True, 0), state
        assert self.answers.keys() == {*range(1, self._values + 1)}
        data = self.redis.data
        for reader in self.readers:
            if not reader.done:
                assert reader.joined
                reader.take()
                for channel in reader.channels:
                    stored = data.channels.get(KEYS.channel(channel))
                    epoch, top = reader.tops[channel]
                    if stored is None:
                        # It had no publication, or was forgotten.
                        assert epoch.partition("-")[0] == data.epoch
                    else:
                        generation = f"-{stored.generation}" if stored.generation else ""
                        assert (epoch, top) == (data.epoch + generation, stored.top)


def program(random: Random, length: int) -> Iterator[tuple[Any, ...]]:
    """Random steps; hypothesis alone would make short ones, in which little is under way."""
    choose = random.choice
    faults = choose([0.02, 0.1, 0.3])
    for _ in range(length):
        node, link, channel = choose(range(NODES)), choose([0, 1]), choose(CHANNELS)
        if random.random() < faults:
            yield choose(
                [
                    *6 * [("cut", node, link, choose([True, False]))],
                    ("leave", random.randrange(10)),
                    ("clear", node, channel),
                    ("crash", choose([True, False])),
                    ("save",),
                    ("restore",),
                    ("flush",),
                    ("forget_scripts",),
                    ("write_foreign",),
                    ("trim", random.randrange(4)),
                    ("forget", channel),
                    ("later", choose([0.5, 1.0, 6.0, MAX_IDLE_SECONDS, 400.0])),
                ]
            )
        else:
            few = choose([1, 2, 9])
            yield choose(
                [
                    *4 * [("publish", node, channel)],
                    ("join", node, choose(["a", "b", "c", "ab", "abc"])),
                    ("move", random.randrange(10), node),
                    *3 * [("trip", node)],
                    *2 * [("up", node, link, few), ("down", node, link, few)],
                    *2 * [("connect", node)],
                    ("stray", node),
                ]
            )


@pytest.mark.parametrize(
    ("options", "log_length"),
    [(OPTIONS, 10_000), (WIDE, 10_000), (WIDE, 4)],
    ids=["tight", "wide", "short log"],
)
def test_each_reader_has_each_publication_once_and_in_order_or_is_told(
    options: ChannelOptions, log_length: int, trouble: Trouble
) -> None:
    @settings(max_examples=50)
    @given(st.integers(0, 2**32), st.integers(20, 400))
    def run(seed: int, length: int) -> None:
        world = World(options, log_length)
        for name, *arguments in program(Random(seed), length):
            getattr(world, name)(*arguments)
        world.end()

    run()
    assert all(
        line.startswith(("not attached to Redis at ", "the log in Redis does not continue "))
        for line in trouble.take()
    )


def test_draft_that_arrives_late_in_a_new_log_is_published_once(trouble: Trouble) -> None:
    world = World(WIDE, 10_000)
    world.publish(1, "b")
    world.trip(1)
    world.publish(1, "a")
    world.cut(1, 0, True)
    world.connect(1)
    # The connection stays, as after FLUSHALL; another node begins the new log.
    world.cut(0, 1, False)
    world.flush()
    world.connect(0)
    world.stray(1)
    world.end()
    trouble.clear()
