"""Readers that come back, against a plain model: over sweeps, forgotten channels and restarts.

A reader with a cursor or with a position of offset 0 is told of a loss if a missed publication is
not retained, and only then. A reader with a later position is told, besides, if its channel was
forgotten. All readers are told after a kill with batched durability.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pushserver.channels.channel import ChannelOptions
from pushserver.channels.forgotten import bucket
from pushserver.channels.position import Cursor, Position, Start, Vector, parse_cursor
from pushserver.channels.publication import Publication
from pushserver.hub.hub import Hub
from tests.unit.fakes.tools import Time, Watcher, drive, programs
from tests.unit.store.runs import RUNS, THREAD, Run, folder_in_memory

TTL = 10.0
CHANNELS = ["a", "b", "c"]
assert len({bucket(name) for name in CHANNELS}) == len(CHANNELS)


@dataclass
class Log:
    """A channel in the model: the retained publications (their data), with their times."""

    retained: dict[int, float] = field(default_factory=dict)
    life: int = 0
    """How often it was forgotten after publications."""
    used: bool = False
    """Whether it has had publications since."""


class Reader:
    """A reader with a position, or with a cursor.

    It has received, or been told of, all publications up to the number `seen`. `offset`, `life`
    and `epochs` are those of its position.
    """

    def __init__(self, channels: Sequence[str], by_cursor: bool):
        self.channels = channels
        self.by_cursor = by_cursor
        self.position: Position | Cursor | Vector | None = None
        self.life = 0
        self.seen = -1
        self.offset = 0
        self.epochs = 0
        self.watcher: Watcher | None = None
        self.told = 0


class World:
    """A server with a store, its readers, and a plain model beside it."""

    def __init__(self, path: Any, durability: str, size: int):
        self.path = path
        self.durability = durability
        self.options = ChannelOptions(history_size=size, history_ttl=TTL, recovery_limit=999)
        self.time = Time()
        self.readers = [Reader([name], False) for name in CHANNELS]
        self.readers += [Reader(names, True) for names in (["a"], ["a", "b"], ["b", "c"])]
        self.epochs = 0
        self.count = 0
        self.channel_of: dict[int, str] = {}
        self.logs = {name: Log() for name in CHANNELS}
        self.committed = deepcopy(self.logs)
        self.numbers: set[tuple[str, str, int]] = set()
        self.start()

    def start(self) -> None:
        self.run = Run(self.path, self.durability, self.options, time=self.time)
        still = Time()
        self.hub = Hub(self.run.history, self.run.metrics, still, still.seconds, self._reported)
        self.run.broker.attach(self._deliver)
        self._expire()
        self.committed = deepcopy(self.logs)

    # -- operations

    def publish(self, channel: str) -> None:
        number = self.count
        self.count += 1
        self.channel_of[number] = channel
        log = self.logs[channel]
        log.used = True
        log.retained[number] = self.time.now
        for old in list(log.retained)[: max(0, len(log.retained) - self.options.history_size)]:
            del log.retained[old]
        answer = self.run.publish(number, channel)
        if self.durability == "sync":
            self.commit()
        receipt = answer.result
        assert receipt.id == str(Cursor(self.run.history.epoch, receipt.seq))

    def commit(self) -> None:
        self.run.tick()
        while THREAD.jobs:
            THREAD.work()
            self.run.tick()
        self.committed = deepcopy(self.logs)

    def remove(self, channel: str) -> None:
        self.run.clear(channel)
        self.logs[channel].retained.clear()
        if self.durability == "sync":
            self.commit()

    def sweep(self, seconds: float) -> None:
        self.time.now += seconds
        self.run.broker.expire(self.time.now, self.hub.is_watched)
        self._expire()
        for name, log in self.logs.items():
            if log.used and not log.retained and not self.hub.is_watched(name):
                log.life += 1
                log.used = False

    def restart(self, pause: float) -> None:
        self._drop_all()
        self.run.stop()
        self.time.now += pause
        self.start()

    def kill(self, pause: float) -> None:
        self._drop_all()
        self.run.kill()
        self.logs = deepcopy(self.committed)
        self.time.now += pause
        self.start()
        self.epochs += self.durability == "batched"

    def come(self, index: int) -> None:
        reader = self.readers[index]
        if reader.watcher is not None:
            return
        reader.watcher = watcher = Watcher(str(index))
        first = reader.position is None
        if reader.by_cursor:
            rows, reason = self._follow(reader, watcher)
        else:
            rows, reason = self._subscribe(reader, watcher)
        missed = self._since(reader)
        if first:
            assert not rows
        elif reason:
            assert not rows
            reader.told += 1
            assert self._must_be_told(reader, missed), reason
        else:
            assert not self._must_be_told(reader, missed)
            assert [int(row.data) for row in rows] == missed
        self._done(reader)

    def leave(self, index: int) -> None:
        reader, watcher = self.readers[index], self.readers[index].watcher
        if watcher is None:
            return
        got = watcher.publications
        assert [publication["data"] for publication in got] == self._since(reader)
        assert watcher.gaps == []
        for publication in got:
            if isinstance(reader.position, Position):
                reader.position = Position(reader.position.epoch, publication["offset"])
            else:
                reader.position = parse_cursor(publication["id"])
        self._done(reader)
        assert self.hub.unsubscribe(watcher, next(iter(watcher.audiences)))
        reader.watcher = None

    # -- parts

    def _since(self, reader: Reader) -> list[int]:
        """The publications in the reader's channels since it was here."""
        return [
            n for n, name in self.channel_of.items() if n > reader.seen and name in reader.channels
        ]

    def _subscribe(self, reader: Reader, watcher: Watcher) -> tuple[Sequence[Publication], str]:
        [channel] = reader.channels
        assert reader.position is None or isinstance(reader.position, Position)
        joined = drive(self.hub.subscribe(watcher, channel, reader.position, 0))
        reader.position = Position(joined.epoch, joined.offset)
        return joined.publications, joined.reason

    def _follow(self, reader: Reader, watcher: Watcher) -> tuple[Sequence[Publication], str]:
        assert not isinstance(reader.position, Position)
        start = Start(last=0) if reader.position is None else Start(since=reader.position)
        following = drive(self.hub.follow(watcher, reader.channels, start))
        reader.position = following.cursor
        if following.publications:
            reader.position = parse_cursor(following.publications[-1].id)
        return following.publications, following.reason

    def _must_be_told(self, reader: Reader, missed: list[int]) -> bool:
        lost = any(n not in self.logs[self.channel_of[n]].retained for n in missed)
        lives = sum(self.logs[name].life for name in reader.channels)
        if self.epochs != reader.epochs:
            return True
        return lost or (reader.offset > 0 and lives != reader.life)

    def _done(self, reader: Reader) -> None:
        reader.seen = self.count - 1
        reader.life = sum(self.logs[name].life for name in reader.channels)
        reader.epochs = self.epochs
        reader.offset = getattr(reader.position, "offset", 0)

    def _expire(self) -> None:
        for log in self.logs.values():
            log.retained = {n: at for n, at in log.retained.items() if at + TTL > self.time.now}

    def _deliver(self, publication: Publication, _: Sequence[str] = ()) -> None:
        number = publication.epoch, publication.channel, publication.offset
        assert number not in self.numbers
        self.numbers.add(number)
        self.hub.deliver(publication)

    def _drop_all(self) -> None:
        for index in range(len(self.readers)):
            self.leave(index)

    def _reported(self, what: str) -> None:
        raise AssertionError(what)


def play(durability: str, size: int, steps: Sequence[tuple[Any, ...]]) -> list[int]:
    """Do all steps, then let all readers come back; return how often each was told of a loss."""
    with folder_in_memory() as folder:
        world = World(f"{folder}/s.db", durability, size)
        for name, *arguments in steps:
            getattr(world, name)(*arguments)
        for index in range(len(world.readers)):
            world.come(index)
        world._drop_all()
        for name, log in world.logs.items():
            retained = world.run.history.peek(name).after(0)
            assert [int(row.data) for row in retained] == list(log.retained)
        world.run.stop()
    RUNS.clear()
    return [reader.told for reader in world.readers]


channels = st.sampled_from(CHANNELS)
readers = st.integers(0, 5)
seconds = st.sampled_from([0.0, 4.0, 11.0])
steps = programs(
    st.tuples(st.just("publish"), channels)
    | st.tuples(st.just("publish"), channels)
    | st.tuples(st.just("come"), readers)
    | st.tuples(st.just("come"), readers)
    | st.tuples(st.just("leave"), readers)
    | st.tuples(st.just("leave"), readers)
    | st.tuples(st.just("remove"), channels)
    | st.tuples(st.just("sweep"), seconds)
    | st.tuples(st.just("sweep"), seconds)
    | st.just(("commit",))
    | st.tuples(st.sampled_from(["restart", "kill"]), seconds),
    most=60,
)


@pytest.mark.usefixtures("_expects_store_problems")
@pytest.mark.parametrize("durability", ["batched", "sync"])
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from([0, 2, 300]), steps)
def test_readers_miss_nothing_and_get_nothing_twice_unless_they_are_told(
    durability: str, size: int, steps: list[tuple[Any, ...]]
) -> None:
    play(durability, size, steps)


FORGET = [("remove", "a"), ("sweep", 0.0)]
MET = [("come", 0), ("publish", "a"), ("leave", 0)]
"""The reader of `a` with a position has seen its first publication."""


@pytest.mark.parametrize(
    ("steps", "told"),
    [
        # A channel without publications, released while the reader is away.
        ([("come", 0), ("leave", 0), ("publish", "a")], [0]),
        ([("publish", "a"), *FORGET, ("come", 0), ("leave", 0), ("publish", "a")], [0]),
        ([("come", 0), ("leave", 0), ("publish", "b"), ("remove", "b"), ("sweep", 0.0)], [0]),
        ([("come", 0), ("leave", 0), ("publish", "a"), *FORGET, ("publish", "a")], [1]),
        ([("come", 0), ("leave", 0), ("publish", "a"), ("restart", 1.0)], [0]),
        # A channel that is forgotten, and comes back with as many publications, or does not.
        ([*MET, *FORGET], [1]),
        ([*MET, *FORGET, ("publish", "a")], [1]),
        ([*MET, *FORGET, *[("publish", "a")] * 3], [1]),
        ([*MET, ("remove", "a"), ("publish", "a")], [0]),
        ([*MET, ("sweep", 604_800.0), ("publish", "a")], [1]),
        ([*MET, *FORGET, ("restart", 1.0), ("publish", "a")], [1]),
        # Expired during the restart, and not forgotten yet.
        ([*MET, ("restart", 11.0), ("publish", "a")], [0]),
        ([*MET, ("restart", 11.0), ("sweep", 0.0), ("publish", "a")], [1]),
    ],
)
@pytest.mark.parametrize("durability", ["batched", "sync"])
def test_reader_of_one_channel(
    durability: str, steps: list[tuple[Any, ...]], told: list[int]
) -> None:
    assert play(durability, 300, steps)[:1] == told
    # A second return has nothing more to tell.
    assert play(durability, 300, [*steps, ("come", 0), ("leave", 0)])[:1] == told


@pytest.mark.parametrize(
    ("steps", "told"),
    [
        ([("publish", "a"), *FORGET, ("publish", "a")], 1),
        ([*FORGET, ("publish", "a")], 0),
        ([("publish", "c"), ("remove", "c"), ("sweep", 0.0), ("publish", "a")], 0),
    ],
)
def test_reader_with_a_cursor(steps: list[tuple[Any, ...]], told: int) -> None:
    """Reader 4 reads `a` and `b`."""
    start = [("come", 4), ("publish", "a"), ("publish", "b"), ("leave", 4)]
    assert play("sync", 300, [*start, *steps])[4] == told


@pytest.mark.usefixtures("_expects_store_problems")
@pytest.mark.parametrize(("durability", "told"), [("sync", 0), ("batched", 1)])
def test_readers_of_a_killed_server(durability: str, told: int) -> None:
    start = [("come", 0), ("come", 3), ("publish", "a"), ("commit",), ("leave", 0), ("leave", 3)]
    assert play(durability, 300, [*start, ("kill", 1.0)])[0:4:3] == [told, told]
