"""Followers of a log in any order of events: readers of each get what the author published.

Each reader gets each publication of its channels once and in order, from the history or live, or is
notified of a gap. Links are slow, cut and made again, and the author is restarted.
"""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from pushserver.channels.channel import ChannelOptions
from pushserver.channels.history import History
from pushserver.channels.position import Cursor, Position, Start
from pushserver.channels.publication import Draft, Publication, Receipt
from pushserver.errors import Unavailable
from pushserver.hub.follower import MAX_IDLE_SECONDS
from pushserver.hub.hub import Following, Joined
from tests.unit.fakes.cluster import Cluster, Edge
from tests.unit.fakes.tools import Time, Watcher, make_broker, programs

CHANNELS = "abc"
EDGES = 2
OPTIONS = ChannelOptions(history_size=6, history_ttl=300, recovery_limit=6)
WIDE = ChannelOptions(history_size=10_000, history_bytes=10**9, history_ttl=0, recovery_limit=9_999)

Numbers = dict[str, int]


class Reader(Watcher):
    """A reader of one channel, or of several as one stream, at one follower."""

    def __init__(self, world: World, edge: Edge, channels: str):
        super().__init__(f"reader {world.number()}")
        self.world = world
        self.edge = edge
        self.channels = channels
        self.joined = False
        self.seen = 0
        self.tops: dict[str, tuple[str, int]] = {}
        """By channel: the epoch, and the last offset that it has got."""
        self.cursor = Cursor("", 0)
        self.done = False

    def start(self, positions: dict[str, tuple[str, int]], cursor: Cursor) -> None:
        """Join its channels; from its position or cursor, if there is one."""
        hub = self.edge.node.hub
        if len(self.channels) == 1:
            channel = self.channels
            known = positions.get(channel)
            position = None if known is None else Position(*known)
            joining = Deferred.fromCoroutine(hub.subscribe(self, channel, position, 3))
            joining.addCallback(partial(self._joined, known))
        else:
            since = cursor if cursor.epoch else None
            start = Start(since, None if since else 3)
            following = Deferred.fromCoroutine(hub.follow(self, self.channels, start))
            following.addCallback(partial(self._follows, since))
        final: Deferred[Any] = joining if len(self.channels) == 1 else following
        final.addErrback(self._refused)

    def _refused(self, failure: Failure) -> None:
        self._end()
        self.world.note(failure)

    def leave(self) -> None:
        if self.joined and not self.done:
            self.take()
            self.edge.node.hub.unsubscribe(self, " ".join(sorted(self.channels)))
        self._end()

    def insufficient(self, channel: str) -> None:
        self.take()
        super().insufficient(channel)
        self._end()

    def take(self) -> None:
        """Check the live publications that have come since."""
        for row in self.publications[self.seen :]:
            self._got(row["channel"], Cursor(*_cursor(row["id"])), row["offset"], row["data"])
            self.seen += 1

    def _end(self) -> None:
        self.done = True

    def _joined(self, known: tuple[str, int] | None, answer: Joined) -> None:
        rows = answer.publications
        self.joined = True
        if known is not None and not answer.reason:
            assert answer.epoch == known[0] or not known[1], "resumed in another epoch"
        first = answer.offset - len(rows)
        if known is not None and not answer.reason and answer.epoch == known[0]:
            assert first == known[1], "a gap at the resume"
        self.tops[self.channels] = answer.epoch, first
        self._rows(rows)
        assert self.tops[self.channels] == (answer.epoch, answer.offset)

    def _follows(self, since: Cursor | None, answer: Following) -> None:
        self.joined = True
        (self.cursor,) = answer.cursor.parts
        if since is not None and answer.recovered:
            assert answer.cursor == since
        for channel, position in answer.positions.items():
            self.tops[channel] = position.epoch, position.offset
        self._rows(answer.publications)

    def _rows(self, rows: Any) -> None:
        for row in rows:
            self._got(row.channel, Cursor(*_cursor(row.id)), row.offset, json.loads(row.data))

    def _got(self, channel: str, at: Cursor, offset: int, data: int) -> None:
        epoch, top = self.tops[channel]
        assert offset == top + 1, f"{channel}: offset {offset} after {top}"
        self.world.check(channel, epoch, offset, data)
        if self.cursor.epoch == at.epoch:
            assert at.seq > self.cursor.seq, "out of order"
        self.tops[channel] = epoch, offset
        self.cursor = at


def _cursor(text: str) -> tuple[str, int]:
    epoch, _, seq = text.partition(":")
    return epoch, int(seq)


class World:
    """The cluster, its readers, and all publications that the author ever made."""

    def __init__(self, options: ChannelOptions = OPTIONS):
        self.time = Time()
        self.options = options
        self.log: dict[tuple[str, str, int], int] = {}
        self.receipts: list[tuple[str, int, Receipt]] = []
        self.readers: list[Reader] = []
        self.failures: list[Failure] = []
        self._numbers = 0
        self._values = 0
        self._runs = 0
        self.broker = self._make_broker()
        self.cluster = Cluster(self.broker, options, self.time, EDGES)
        self._watch()

    def _make_broker(self) -> Any:
        self._runs += 1
        return make_broker(
            history=History(lambda name: self.options, f"run{self._runs}"), time=self.time
        )

    def _watch(self) -> None:
        append = self.broker.append

        def record(row: Publication, *rest: Any) -> None:
            self.log[row.channel, row.epoch, row.offset] = json.loads(row.data)
            append(row, *rest)

        self.broker.append = record

    def note(self, failure: Failure) -> None:
        """A step has failed: only because the author was away."""
        if failure.check(Unavailable) is None:
            self.failures.append(failure)

    def number(self) -> int:
        self._numbers += 1
        return self._numbers

    def check(self, channel: str, epoch: str, offset: int, data: int) -> None:
        """The reader got this publication: the author must have made it."""
        assert self.log.get((channel, epoch, offset)) == data

    # --- the steps ---------------------------------------

    def publish(self, where: int, channel: str) -> None:
        """At the author (0) or at a follower."""
        node = self.cluster.node if not where else self.cluster.edges[where - 1].node
        self._values += 1
        value = self._values
        published = Deferred.fromCoroutine(node.publish(Draft(channel, b"%d" % value)))
        published.addCallback(lambda receipt: self.receipts.append((channel, value, receipt)))
        published.addErrback(self.note)

    def join(self, edge: int, channels: str) -> None:
        reader = Reader(self, self.cluster.edges[edge], channels)
        self.readers.append(reader)
        reader.start({}, Cursor("", 0))

    def move(self, number: int, edge: int) -> None:
        """A reader continues at another follower, or at the same."""
        if self.readers:
            old = self.readers[number % len(self.readers)]
            old.leave()
            if old.joined:
                new = Reader(self, self.cluster.edges[edge], old.channels)
                self.readers.append(new)
                new.start(old.tops, old.cursor)

    def leave(self, number: int) -> None:
        if self.readers:
            self.readers[number % len(self.readers)].leave()

    def clear(self, channel: str) -> None:
        done = Deferred.fromCoroutine(self.cluster.node.clear(channel))
        done.addErrback(self.note)

    def up(self, edge: int, count: int) -> None:
        link = self.cluster.edges[edge].link
        if link is not None:
            link.bring_up(count)

    def down(self, edge: int, count: int) -> None:
        link = self.cluster.edges[edge].link
        if link is not None:
            link.bring_down(count)

    def trip(self, edge: int) -> None:
        """Everything under way arrives, in both directions, and is delivered."""
        self.up(edge, 10_000)
        self.down(edge, 10_000)
        self.time.turn()

    def cut(self, edge: int) -> None:
        self.cluster.edges[edge].cut()

    def connect(self, edge: int) -> None:
        self.cluster.edges[edge].connect(self.cluster.author)

    def restart(self, forgets: bool) -> None:
        """The author's process is replaced; `forgets`: its log is gone."""
        if forgets:
            self.broker = self._make_broker()
            self._watch()
        self.cluster.restart(self.broker)

    def later(self, seconds: float) -> None:
        self.time.now += seconds
        self.time.turn()
        for node in (self.cluster.node, *(edge.node for edge in self.cluster.edges)):
            while node.expire():
                pass

    def end(self) -> None:
        """Let everything arrive; each reader that was not told otherwise has everything."""
        for edge in self.cluster.edges:
            if edge.link is None:
                edge.connect(self.cluster.author)
        self.cluster.settle()
        for failure in self.failures:
            failure.raiseException()
        for reader in self.readers:
            if not reader.done:
                assert reader.joined
                reader.take()
                for channel in reader.channels:
                    log = self.broker.history.peek(channel)
                    assert reader.tops[channel] == (log.epoch, log.top)
        for channel, value, receipt in self.receipts:
            assert self.log[channel, receipt.epoch, receipt.offset] == value


edges = st.integers(0, EDGES - 1)
channels = st.sampled_from(CHANNELS)
publishing = st.tuples(st.just("publish"), st.integers(0, EDGES), channels)
joining = st.tuples(st.just("join"), edges, st.sampled_from(["a", "b", "c", "ab", "abc"]))
moving = st.tuples(st.just("move"), st.integers(0, 9), edges)
trips = st.tuples(st.just("trip"), edges)
slow = st.tuples(st.sampled_from(["up", "down"]), edges, st.sampled_from([3, 50, 10_000]))
rare = st.one_of(
    st.tuples(st.just("leave"), st.integers(0, 9)),
    st.tuples(st.just("clear"), channels),
    st.tuples(st.just("cut"), edges),
    st.tuples(st.just("restart"), st.booleans()),
    st.tuples(st.just("later"), st.sampled_from([0.1, 1.0, MAX_IDLE_SECONDS, 400.0])),
)
linking = st.tuples(st.just("connect"), edges)
steps = st.one_of(
    publishing,
    publishing,
    publishing,
    joining,
    moving,
    trips,
    trips,
    trips,
    slow,
    slow,
    linking,
    rare,
)


@pytest.mark.parametrize("options", [OPTIONS, WIDE], ids=["tight", "wide"])
def test_each_reader_has_each_publication_once_and_in_order_or_is_told(
    options: ChannelOptions,
) -> None:
    @settings(max_examples=200)
    @given(programs(steps))
    def run(program: list[tuple[Any, ...]]) -> None:
        world = World(options)
        for name, *arguments in program:
            getattr(world, name)(*arguments)
        world.end()

    run()
