"""SyncBroker against a model in plain lists; the test decides when a commit ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import lcm
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from pushserver.channels.channel import ChannelOptions
from pushserver.channels.history import History
from pushserver.channels.idempotency import REMEMBERED_SECONDS, Keys
from pushserver.channels.position import Position, channel_epoch
from pushserver.channels.publication import Draft, Publication, Receipt
from pushserver.errors import TooMany, Unavailable
from pushserver.hub.hub import Hub
from pushserver.hub.metrics import Metrics
from pushserver.store.batch import Batch, ChannelState
from pushserver.store.batcher import RETRY_SECONDS
from pushserver.store.committer import Committer
from pushserver.store.opening import StoreError
from pushserver.store.sync_broker import SyncBroker
from tests.unit.fakes.tools import EPOCH, Time, Watcher, drive, programs
from tests.unit.fakes.web import Trouble

TTL = 10.0
OPTIONS = {
    "a": ChannelOptions(history_ttl=TTL),
    "b": ChannelOptions(history_size=2, history_ttl=TTL),
    "quiet": ChannelOptions(history_size=3, history_ttl=0),
    "gone": ChannelOptions(history_size=0),
}
CHANNELS = list(OPTIONS)


class File:
    """A file in memory with the constraints of the tables."""

    def __init__(self) -> None:
        self.rows: dict[tuple[str, int], Publication] = {}
        self.channels: dict[str, ChannelState] = {}
        self.seq = 0
        self.forgotten: dict[str, int] = {}

    def write(self, batch: Batch) -> None:
        """Commit a batch; raises StoreError for a duplicate row."""
        for place in list(self.rows):
            if place[0] in batch.forgotten:
                del self.rows[place]
        for name in batch.forgotten:
            self.channels.pop(name, None)
        for row in batch.rows:
            if (row.channel, row.offset) in self.rows:
                raise StoreError(f"UNIQUE constraint failed: {row.channel}, {row.offset}")
        self.rows.update({(row.channel, row.offset): row for row in batch.rows})
        self.channels.update({numbers.name: numbers for numbers in batch.states})
        floors = {numbers.name: numbers.floor for numbers in batch.states}
        for channel, offset in list(self.rows):
            if offset <= floors.get(channel, 0):
                del self.rows[channel, offset]
        self.seq = batch.seq
        self.forgotten.update(batch.forgotten)

    def read(self, name: str) -> list[int]:
        """The offsets that a start would retain of this channel."""
        known = self.channels[name]
        offsets = sorted(o for c, o in self.rows if c == name and known.floor < o <= known.top)
        assert offsets == list(range(known.floor + 1, known.top + 1)), "a start would refuse it"
        size = options(name).history_size
        return offsets[-size:] if size else []


class FakeCommitter:
    """In place of the committer: a commit ends by `succeed` or `fail`."""

    def __init__(self, history: History, started: Callable[[Batch], None]):
        self.problem = ""
        self.file = File()
        self.jobs: list[tuple[Batch, Deferred[None]]] = []
        self.broken = False
        self._history = history
        self._started = started

    def commit(self, batch: Batch) -> Deferred[None]:
        if self.broken:
            raise RuntimeError("can't start new thread")
        assert not self.jobs, "two commits at once"
        self._started(batch)
        done: Deferred[None] = Deferred()
        self.jobs.append((batch, done))
        return done

    def succeed(self) -> None:
        """The current commit is in the file."""
        batch, done = self.jobs.pop()
        self.file.write(batch)
        self.problem = ""
        done.callback(None)

    def fail(self) -> None:
        """Nothing of the current commit is in the file."""
        _, done = self.jobs.pop()
        self.problem = "the disk is full"
        done.errback(Failure(StoreError(self.problem)))


def options(name: str) -> ChannelOptions:
    return OPTIONS.get(name, ChannelOptions())


@dataclass
class Life:
    """A channel from its creation until it is forgotten."""

    epoch: str
    top: int = 0
    seq: int = 0
    rows: list[Publication] = field(default_factory=list)


@dataclass
class Publishing:
    """A call of `publish` and its result."""

    channel: str
    key: str
    data: bytes
    results: list[Any] = field(default_factory=list)


class World:
    """A durable broker with a hub, and beside it a model in plain lists."""

    def __init__(self) -> None:
        self.time = Time()
        self.history = History(options, EPOCH)
        self.committer = FakeCommitter(self.history, self._started)
        self.reactor = Clock()
        self.keys = Keys(100)
        self.broker = SyncBroker(
            self.history,
            self.keys,
            Metrics(),
            self.time,
            self.time,
            cast(Committer, self.committer),
            self.reactor,
        )
        self.memory = self.broker.batcher.memory
        still = Time()
        # The clock of the fan-out stands still, so that no pass has to pause.
        self.hub = Hub(self.history, self.broker.metrics, still, still.seconds, self._reported)
        self.broker.attach(self._deliver)
        self._append = self.history.append
        self.history.append = self._appended  # type: ignore[method-assign,assignment]
        self.watchers: dict[str, Watcher] = {}
        self.reactions: list[tuple[Any, ...]] = []
        self.faults: list[str] = []
        self.count = 0
        self.calls: list[Publishing] = []
        # The model.
        self.lives: dict[str, Life] = {}
        self.flight: list[str] = []
        self.waiting: list[Publishing] = []
        self.known: dict[tuple[str, str], tuple[Receipt, float]] = {}
        self.forgotten: dict[str, int] = {}
        self.seq = 0
        self.numbers: set[tuple[str, str, int]] = set()
        self.unretained: list[Publication] = []
        self.asked_to_clear: list[str] = []
        self.clearing: list[str] = []
        self.in_flight: list[Publishing] = []
        self.problems: list[Exception] = []

    # -- operations of the test

    def watch(self, channel: str) -> None:
        if channel in self.watchers:
            return
        watcher = self.watchers[channel] = Watcher(channel)
        watcher.on_send = lambda frame: self._react()
        drive(self.hub.subscribe(watcher, channel, None, 0))
        self._create(channel)

    def unwatch(self, channel: str) -> None:
        watcher = self.watchers.pop(channel, None)
        if watcher is not None:
            assert watcher.gaps == []
            assert self.hub.unsubscribe(watcher, channel)
            self._release(channel)

    def publish(self, channel: str, key: str = "") -> Publishing:
        self.count += 1
        one = Publishing(channel, key, str(self.count).encode())
        self.calls.append(one)
        receipt, at = self.known.get((channel, key), (None, 0.0)) if key else (None, 0.0)
        again = receipt is not None and self.time.now < at + REMEMBERED_SECONDS
        if not again and not any(key and (w.channel, w.key) == (channel, key) for w in self._asked):
            self.waiting.append(one)
        draft = Draft(channel, one.data, key=key)
        Deferred.fromCoroutine(self.broker.publish(draft)).addBoth(one.results.append)
        if again:
            assert one.results == [receipt]
        return one

    def clear(self, channel: str) -> None:
        if channel in self.lives:
            self.asked_to_clear.append(channel)
        results: list[Any] = []
        Deferred.fromCoroutine(self.broker.clear(channel)).addBoth(results.append)

    def commit(self) -> None:
        if self.committer.jobs:
            for channel in self.clearing:
                self.lives[channel].rows.clear()
            self.committer.succeed()
            self._rested()

    def fail(self) -> None:
        if self.committer.jobs:
            self.committer.fail()
            self._rested()

    def turn(self) -> None:
        self.reactor.advance(RETRY_SECONDS)

    def remember(self) -> None:
        self.count += 1
        self.memory.set("s", self.count)

    def sweep(self, seconds: float) -> None:
        self.time.now += seconds
        for name, life in list(self.lives.items()):
            if ttl := options(name).history_ttl:
                life.rows[:] = [row for row in life.rows if row.time + ttl > self.time.now]
            if not life.rows and name not in self.watchers and name not in self.flight:
                self.forgotten[name] = life.seq or self.forgotten.get(name, 0)
                del self.lives[name]
        self.broker.expire(self.time.now, self.hub.is_watched)

    def react(self, *operation: Any) -> None:
        """Run this operation while the next publication is delivered."""
        self.reactions.append(operation)

    def fault(self, where: str) -> None:
        """Let the next append or deliver raise."""
        self.faults.append(where)

    def do(self, operation: str, *arguments: Any) -> None:
        getattr(self, operation)(*arguments)
        self.check()

    def finish(self) -> None:
        """End all commits, and make one with the changes of failed ones."""
        self.faults.clear()
        self.reactions.clear()
        self.publish("quiet")
        while self.committer.jobs:
            self.commit()
        self.check()
        done: list[Any] = []
        Deferred.fromCoroutine(self.broker.batcher.finish()).addBoth(done.append)
        while self.committer.jobs:
            self.commit()
        assert done == [True]
        self.check()

    # -- calls from the broker

    @property
    def _asked(self) -> list[Publishing]:
        return self.waiting + self.in_flight

    def _started(self, batch: Batch) -> None:
        self._landed()
        with self._noted():
            self._number(batch)
        self.clearing = [name for name in self.asked_to_clear if name in self.lives]
        self.asked_to_clear = []
        self.flight = [row.channel for row in batch.rows] + self.clearing
        self.in_flight, self.waiting = self.waiting, []

    def _number(self, batch: Batch) -> None:
        tops: dict[str, int] = {}
        assert [row.data for row in batch.rows] == [one.data for one in self.waiting]
        for n, row in enumerate(batch.rows, 1):
            self._create(row.channel)
            tops[row.channel] = tops.get(row.channel, self.lives[row.channel].top) + 1
            assert (row.offset, row.seq) == (tops[row.channel], self.seq + n)
            assert row.epoch == self.lives[row.channel].epoch
        assert batch.seq == self.seq + len(batch.rows)

    @contextmanager
    def _noted(self) -> Iterator[None]:
        """Keep errors of the model, which a guard of the broker would catch."""
        try:
            yield
        except (AssertionError, LookupError) as error:
            self.problems.append(error)
            raise

    def _rested(self) -> None:
        if not self.committer.jobs:
            self._landed()

    def _landed(self) -> None:
        flight, self.flight, self.in_flight, self.clearing = self.flight, [], [], []
        for channel in flight:
            if channel not in self.watchers:
                self._release(channel)

    def _appended(self, row: Publication, born: float) -> int:
        if "append" in self.faults:
            self.faults.remove("append")
            self.unretained.append(row)
            raise MemoryError
        return self._append(row, born)

    def _deliver(self, row: Publication, _: Sequence[str] = ()) -> None:
        with self._noted():
            self._take(row)
            self.hub.deliver(row)
        if "deliver" in self.faults:
            self.faults.remove("deliver")
            raise RuntimeError("no delivery")

    def _take(self, row: Publication) -> None:
        position, life = (row.channel, row.epoch, row.offset), self.lives[row.channel]
        assert position not in self.numbers
        self.numbers.add(position)
        assert (row.seq, row.offset) == (self.seq + 1, life.top + 1)
        self.seq, life.seq, life.top = row.seq, row.seq, row.offset
        one = self.in_flight.pop(0)
        assert one.data == row.data
        if row in self.unretained:
            life.rows.clear()
        else:
            life.rows.append(row)
            del life.rows[: max(0, len(life.rows) - options(row.channel).history_size)]
            if one.key:
                self.known[one.channel, one.key] = (row.receipt, row.time)

    def _react(self) -> None:
        if self.reactions:
            operation, *arguments = self.reactions.pop(0)
            getattr(self, operation)(*arguments)

    def _reported(self, what: str) -> None:
        # Called in the except clause of the subscriber that raised.
        with self._noted():
            raise AssertionError(what)

    # -- the model

    def _create(self, channel: str) -> None:
        generation = self.forgotten.get(channel, 0)
        self.lives.setdefault(channel, Life(channel_epoch(EPOCH, generation)))

    def _release(self, channel: str) -> None:
        life = self.lives.get(channel)
        if life is not None and not life.top and channel not in self.flight:
            del self.lives[channel]

    def check(self) -> None:
        if self.problems:
            raise self.problems[0]
        assert self.history.seq == self.seq
        for name in CHANNELS:
            assert self.history.forgotten.seq(name) == self.forgotten.get(name, 0)
        assert {n: (c.epoch, c.top) for n, c in self.history.channels.items()} == {
            n: (life.epoch, life.top) for n, life in self.lives.items()
        }
        for name, channel in self.history.channels.items():
            assert channel.after(0) == self.lives[name].rows
        for name, watcher in self.watchers.items():
            offsets = watcher.offsets
            assert offsets == list(
                range(self.lives[name].top + 1 - len(offsets), self.lives[name].top + 1)
            )
        if not self.committer.jobs:
            self.check_rest()

    def check_rest(self) -> None:
        """Check the state between commits."""
        assert (self.broker._pending, self.broker._next.waiting, self.waiting) == ({}, [], [])
        for one in self.calls:
            [result] = one.results
            if isinstance(result, Failure):
                assert result.check(Unavailable) is not None
        assert not self.broker._next.clears
        if not self.committer.problem:
            self.check_file()

    def check_file(self) -> None:
        """Check that a start would load the current history."""
        file = self.committer.file
        assert file.seq == self.seq
        for name, seq in self.forgotten.items():
            assert file.forgotten.get(name, 0) == seq
        published = {n: c for n, c in self.lives.items() if c.top}
        assert {
            n: (channel_epoch(EPOCH, c.generation), c.top) for n, c in file.channels.items()
        } == {n: (life.epoch, life.top) for n, life in published.items()}
        for name, life in published.items():
            assert file.read(name) == [row.offset for row in life.rows]


Step = tuple[Any, ...]


def evenly(*kinds: Sequence[Step]) -> list[Step]:
    """Repeat the steps of each kind, so that all kinds have the same share.

    Drawing from one list takes a third of the time of `st.one_of` with a strategy for each kind.
    """
    size = lcm(*map(len, kinds))
    return [step for kind in kinds for step in list(kind) * (size // len(kind))]


PUBLISHES = [("publish", name, key) for name in CHANNELS for key in ("", "", "k", "l")]
OPERATIONS: list[Sequence[Step]] = [
    PUBLISHES,
    [("watch", name) for name in CHANNELS],
    [("unwatch", name) for name in CHANNELS],
    [("clear", name) for name in CHANNELS],
    [("sweep", seconds) for seconds in (0.0, 4.0, 11.0, 400.0)],
    [("remember",), ("turn",)],
]
STEPS = evenly(
    *OPERATIONS,
    PUBLISHES,
    [("commit",)],
    [("commit",), ("fail",)],
    [("react", *operation) for operation in evenly(*OPERATIONS)],
    [("fault", "append"), ("fault", "deliver"), ("commit",), ("fail",)],
)


@pytest.fixture
def _faults_are_logged(trouble: Trouble) -> Any:
    yield
    for text in trouble.take():
        assert "lost its history in memory: MemoryError" in text or "no delivery" in text


@pytest.mark.usefixtures("_faults_are_logged")
@settings(max_examples=300)
@given(programs(st.sampled_from(STEPS), most=60))
def test_any_events_leave_each_call_answered_and_each_number_used_once(
    program: list[tuple[Any, ...]],
) -> None:
    world = World()
    for operation in program:
        world.do(*operation)
    world.finish()
    world.check_file()


def forgotten(world: World, offset: int) -> None:
    """Publish `offset` times to the channel `gone` first, and let it be forgotten."""
    for _ in range(offset):
        world.do("publish", "gone")
        world.do("commit")
    world.do("sweep", 0.0)
    world.do("commit")
    assert world.history.forgotten.seq("gone") == offset


def test_watcher_may_leave_during_the_first_commit_of_its_channel() -> None:
    world = World()
    world.do("watch", "quiet")
    forgotten(world, 10)
    first = world.publish("quiet", "k")
    world.do("unwatch", "quiet")
    world.do("commit")
    other = world.publish("a")
    world.do("commit")
    assert first.results == [Receipt(EPOCH, 11, 1)]
    assert other.results == [Receipt(EPOCH, 12, 1)]
    assert world.publish("quiet", "k").results == first.results
    world.finish()


def test_channels_may_be_forgotten_while_another_is_created() -> None:
    world = World()
    for _ in range(3):
        world.do("publish", "gone")
        world.do("commit")
    first = world.publish("a")
    world.do("sweep", 0.0)
    world.do("commit")
    assert first.results == [Receipt(EPOCH, 4, 1)]
    world.finish()


def test_channel_without_a_pause_between_commits_loses_expired_rows() -> None:
    """Each sweep happens during a commit."""
    world = World()
    world.do("publish", "gone")
    world.do("commit")
    for n in range(20):
        world.do("publish", "a")
        world.do("sweep", 2.0)
        world.do("publish", "a")
        world.do("commit")
        assert world.committer.jobs, n
        assert {row.time for row in world.history.peek("a").after(0)} >= {world.time.now - 2.0}
        assert len(world.history.peek("a")) <= 2 * TTL / 2.0
    assert list(world.history.channels) == ["a"]
    assert (
        len([place for place in world.committer.file.rows if place[0] == "a"]) <= 2 * TTL / 2.0 + 2
    )


def test_commit_that_cannot_start_fails_its_publishers_and_the_next_is_tried(
    trouble: Trouble,
) -> None:
    world = World()
    world.committer.broken = True
    first = world.publish("a", "k")
    assert [failure.type for failure in first.results] == [Unavailable]
    assert ["can't start new thread" in line for line in trouble.take()] == [True]
    world.remember()
    world.turn()
    assert trouble.take() == [], "logged once"
    world.committer.broken = False
    world.waiting.clear()
    second = world.publish("a", "k")
    world.do("commit")
    assert second.results == [Receipt(EPOCH, 1, 1)]


@pytest.mark.usefixtures("_faults_are_logged")
def test_row_that_could_not_be_retained_counts_as_evicted() -> None:
    world = World()
    world.do("publish", "a")
    world.do("commit")
    world.do("fault", "append")
    lost = world.publish("a", "k")
    world.do("commit")
    # The commit that deletes the rows of the channel.
    world.do("commit")
    after = world.publish("a")
    world.do("commit")
    assert (lost.results, after.results) == ([Receipt(EPOCH, 2, 2)], [Receipt(EPOCH, 3, 3)])
    assert world.history.resume("a", Position(EPOCH, 1)).reason == "evicted"
    resumed = world.history.resume("a", Position(EPOCH, 2))
    assert [row.offset for row in resumed.publications] == [3]
    world.finish()


def test_changes_of_a_failed_commit_are_committed_again_without_a_caller() -> None:
    world = World()
    world.remember()
    world.turn()
    world.fail()
    assert world.memory.waits
    world.turn()
    world.commit()
    assert not world.memory.waits
    assert not world.reactor.getDelayedCalls()


def test_stop_after_a_failure_tries_once_more() -> None:
    for operation, written in (("fail", False), ("commit", True)):
        world = World()
        world.remember()
        world.turn()
        world.fail()
        done = Deferred.fromCoroutine(world.broker.batcher.finish())
        world.do(operation)
        assert results(done) == [written]
        assert not world.reactor.getDelayedCalls()


def test_keys_of_pending_publications_count() -> None:
    time, history = Time(), History(options, EPOCH)
    committer = FakeCommitter(history, lambda batch: None)
    broker = SyncBroker(
        history, Keys(2), Metrics(), time, time, cast(Committer, committer), Clock()
    )
    first, second, third, again = (
        Deferred.fromCoroutine(broker.publish(Draft("a", b"1", key=key))) for key in "abca"
    )
    assert [type(found) for found in results(third)] == [Unavailable]
    while committer.jobs:
        committer.succeed()
    offsets = [[row.offset for row in results(done)] for done in (first, second, again)]
    assert offsets == [[1], [2], [1]]


@pytest.mark.parametrize("fails", [False, True])
def test_keys_of_pending_publications_count_for_their_publisher(fails: bool) -> None:
    time, history = Time(), History(options, EPOCH)
    committer = FakeCommitter(history, lambda batch: None)
    keys = Keys(20, 2)
    broker = SyncBroker(history, keys, Metrics(), time, time, cast(Committer, committer), Clock())

    def publish(key: str, publisher: str) -> Deferred[Any]:
        draft = Draft("a", b"1", key=key, publisher=publisher)
        return Deferred.fromCoroutine(broker.publish(draft))

    pending = [publish(key, "one") for key in "abab"]
    assert [type(found) for found in results(publish("c", "one"))] == [TooMany]
    pending.append(publish("c", "other"))
    while committer.jobs:
        committer.fail() if fails else committer.succeed()
    assert all(results(done) for done in pending)
    assert broker._pending_keys == {}
    assert keys._counts == ({} if fails else {"one": 2, "other": 1})


def results(done: Deferred[Any]) -> list[Any]:
    """The result or the exception of a Deferred, in a list; empty before it fires."""
    outcome: list[Any] = []
    done.addCallbacks(outcome.append, lambda failure: outcome.append(failure.value))
    return outcome
