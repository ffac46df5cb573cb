"""Followers and one process answer alike, operation by operation, in any order of events.

The one process is the author: a reader that asks a follower over a link on which nothing is under
way gets what the author itself would answer then. A live reader has all that the author has, or it
was told, and the author could not have continued it either. Where one side keeps less than the
other, its answers may have less. `test_follower_model` has what holds while bytes are under way.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred

from pushserver.channels.channel import CHANNEL_BYTES, ChannelOptions
from pushserver.channels.history import History
from pushserver.channels.idempotency import REMEMBERED_SECONDS
from pushserver.channels.position import Cursor, Position, Start
from pushserver.channels.publication import Draft, Publication, Receipt
from pushserver.channels.room import Room
from pushserver.errors import LimitExceeded, Unavailable
from pushserver.hub.follower import MAX_IDLE_SECONDS
from pushserver.protocols import centrifuge
from pushserver.sessions.history_request import history_result
from tests.unit.fakes.cluster import MOST, Cluster, Edge
from tests.unit.fakes.tools import Time, Watcher, make_broker

CHANNELS = "abc"
EDGE = range(2)
NEVER = ChannelOptions(history_size=6, history_ttl=0, recovery_limit=4)
# No sum of the steps of the clock: ages at both sides differ by the rounding of a float.
AGING = ChannelOptions(history_size=6, history_ttl=299.55, recovery_limit=4)
LARGE = ChannelOptions(history_size=1_000, history_ttl=0, recovery_limit=1_000)


@dataclass(frozen=True)
class Sizes:
    """The options of all channels, and the bounds of the author and of each follower."""

    options: ChannelOptions = NEVER
    author: Callable[[], Room] = Room
    edge: Callable[[], Room] = Room

    @property
    def author_loses(self) -> bool:
        """Whether the author evicts rows of which the followers do not learn."""
        return self.author is not Room

    @property
    def edge_loses(self) -> bool:
        return self.edge is not Room


def few() -> Room:
    return Room(most_channels=2)


def small() -> Room:
    return Room(most_bytes=3 * CHANNEL_BYTES + 2_500)


SIZES = {
    "wide": Sizes(),
    "large": Sizes(LARGE),
    "aging": Sizes(AGING),
    "few at the author": Sizes(author=few),
    "few at the followers": Sizes(edge=few),
    "small at the author": Sizes(LARGE, author=small),
    "small at the followers": Sizes(LARGE, edge=small),
}


@dataclass
class Reply:
    """The answer to a reader: publications by id, and the reason if it could not resume."""

    rows: list[str]
    reason: str
    positions: dict[str, tuple[str, int]]
    """By channel: its epoch and its last offset."""


class Reader(Watcher):
    """A live reader of one channel at a follower."""

    def __init__(self, world: World, edge: Edge, channel: str):
        super().__init__(f"reader {len(world.readers)}")
        self.world, self.edge, self.channel = world, edge, channel
        self.epoch, self.top = "", 0

    def insufficient(self, channel: str) -> None:
        super().insufficient(channel)
        self.take()
        log = self.world.history.peek(channel)
        if not self.world.sizes.author_loses and not self.world.sizes.edge_loses:
            assert log.epoch != self.epoch or log.floor > self.top, "told without need"

    def take(self) -> None:
        """Check what has come since: the next rows of the author."""
        for row in self.publications:
            assert row["offset"] == self.top + 1, "out of order"
            assert self.world.log[self.channel, self.epoch, row["offset"]] == row["data"]
            self.top += 1
        self.frames.clear()


class World:
    """An author and its followers."""

    def __init__(self, sizes: Sizes):
        self.sizes = sizes
        self.time = Time()
        self.log: dict[tuple[str, str, int], int] = {}
        self.keys: dict[tuple[str, str], tuple[float, Receipt]] = {}
        self.keyed: dict[int, str] = {}
        self.receipts: dict[int, Receipt] = {}
        self.positions: list[tuple[str, str, int]] = []
        self.cursors: list[Cursor] = []
        self.readers: list[Reader] = []
        self.problems: list[BaseException] = []
        self._values = 0
        self._runs = 0
        self.broker = self._make_broker()
        self.cluster = Cluster(self.broker, sizes.options, self.time, 0)
        for _ in EDGE:
            edge = Edge(sizes.options, self.time, sizes.edge())
            self.cluster.edges.append(edge)
            edge.connect(self.cluster.author)
        self.cluster.settle()

    @property
    def history(self) -> History:
        history: History = self.broker.history
        return history

    def _make_broker(self) -> Any:
        self._runs += 1
        epoch, options = f"run{self._runs}", self.sizes.options
        history = History(lambda name: options, epoch, room=self.sizes.author())
        broker: Any = make_broker(history=history, time=self.time)
        publish, append = broker.publish, broker.append

        async def record_receipt(draft: Draft) -> Receipt:
            receipt: Receipt = await publish(draft)
            self._check_receipt(draft, receipt)
            return receipt

        def record_row(row: Publication, *rest: Any) -> None:
            self.log[row.channel, row.epoch, row.offset] = json.loads(row.data)
            append(row, *rest)

        broker.publish, broker.append = record_receipt, record_row
        return broker

    def _check_receipt(self, draft: Draft, receipt: Receipt) -> None:
        # The key of the publisher, not that of the draft that has come to the author.
        key = self.keyed[json.loads(draft.data)]
        at, first = self.keys.get((draft.channel, key), (0.0, None))
        if first is not None and at + REMEMBERED_SECONDS > self.time.seconds():
            assert receipt == first, "published twice"
        else:
            if key:
                self.keys[draft.channel, key] = self.time.seconds(), receipt
            assert self.log[draft.channel, receipt.epoch, receipt.offset] == json.loads(draft.data)
        self.receipts[json.loads(draft.data)] = receipt
        self.positions.append((draft.channel, receipt.epoch, receipt.offset))
        self.cursors.append(Cursor(self.history.epoch, self.history.seq))

    # --- a turn at the followers ---------------------------------------

    def _linked(self, number: int) -> Edge | None:
        """The follower of this number with nothing under way; None if it has no link."""
        edge = self.cluster.edges[number]
        if edge.link is None:
            return None
        for _ in range(3):
            edge.link.bring_up()
            edge.link.bring_down()
        self.time.turn()
        self.time.pass_on()
        return edge

    def _ask(self, number: int, coroutine: Any) -> Any:
        """The result of a call; None if it fails, as it may only without a link or without room."""
        linked = self.cluster.edges[number].link is not None
        results: list[Any] = []
        Deferred.fromCoroutine(coroutine).addBoth(results.append)
        self._linked(number)
        if not linked and not results:
            raise AssertionError("a call waits without a link")
        (found,) = results
        if not hasattr(found, "raiseException"):
            return found
        if found.check(LimitExceeded) and (self.sizes.author_loses or self.sizes.edge_loses):
            return None
        if not found.check(Unavailable) or linked:
            found.raiseException()
        return None

    def _compare(self, expected: Reply, got: Reply) -> None:
        """Check a follower's answer against that of the author."""
        assert got.positions == expected.positions
        if not self.sizes.edge_loses:
            assert got.reason in (expected.reason, ""), "refused without need"
            assert not expected.rows or got.rows[-len(expected.rows) :] == expected.rows
        if not self.sizes.author_loses:
            assert expected.reason in (got.reason, ""), "resumed without need"
            assert not got.rows or expected.rows[-len(got.rows) :] == got.rows

    # --- the steps ---------------------------------------

    def publish(self, where: int, channel: str, key: str) -> None:
        """At the author (0) or at a follower."""
        draft = self._draft(channel, key)
        value = json.loads(draft.data)
        if not where:
            call: Any = Deferred.fromCoroutine(self.cluster.node.publish(draft))
            call.addErrback(lambda failure: failure.trap(LimitExceeded))
            return
        receipt = self._ask(where - 1, self.cluster.edges[where - 1].node.publish(draft))
        if receipt is not None:
            assert receipt == self.receipts[value]
        elif value not in self.receipts:
            assert value not in self.log.values(), "refused and published"

    def send(self, where: int, channel: str, key: str) -> None:
        """Publish at a follower, and do not wait for the answer."""
        draft = self._draft(channel, key)
        value = json.loads(draft.data)
        call: Any = Deferred.fromCoroutine(self.cluster.edges[where].node.publish(draft))

        def check(receipt: Receipt) -> None:
            assert receipt == self.receipts[value]

        call.addCallback(check)
        call.addErrback(self._note)

    def _draft(self, channel: str, key: str) -> Draft:
        self._values += 1
        self.keyed[self._values] = key
        return Draft(channel, b"%d" % self._values, key=key)

    def _note(self, failure: Any) -> None:
        if not failure.check(Unavailable):
            self.problems.append(failure.value)

    def subscribe(
        self, number: int, channel: str, back: int | None, stays: bool, settles: bool
    ) -> None:
        """Subscribe from a known position, or with the last publications.

        Unless it `settles` first, the follower may have less than the author at that moment.
        """
        known = [p for p in self.positions if p[0] == channel]
        position = None
        if back is not None and known:
            _, epoch, offset = known[-1 - back % len(known)]
            position = Position(epoch, max(0, offset - back // 3))
        edge = self.cluster.edges[number]
        if settles:
            self._linked(number)
        ahead = position is not None and position.offset > edge.node.history.top(channel)
        waits = ahead or channel not in edge.node.history.channels
        exact = edge.link is not None and (settles or waits)
        reader = Reader(self, edge, channel)

        async def subscribe() -> Any:
            # The next rows may come before `_ask` returns.
            joined = await edge.node.hub.subscribe(reader, channel, position, 3)
            reader.epoch, reader.top = joined.epoch, joined.offset
            return joined

        joined = self._ask(number, subscribe())
        if joined is None or reader.gaps:
            return
        rows = joined.publications
        got = Reply(_ids(rows), joined.reason, {channel: (joined.epoch, joined.offset)})
        for row in rows:
            assert self.log[channel, row.epoch, row.offset] == json.loads(row.data)
        if exact:
            self._compare(self._joined(channel, position), got)
        if stays:
            self.readers.append(reader)
        else:
            edge.node.hub.unsubscribe(reader, channel)

    def _joined(self, channel: str, position: Position | None) -> Reply:
        """The author's answer to this subscription."""
        log = self.history.peek(channel)
        where = {channel: (log.epoch, log.top)}
        if position is None:
            return Reply(_ids(log.last(3)), "", where)
        resumed = self.history.resume(channel, position)
        return Reply(_ids(resumed.publications), resumed.reason, where)

    def follow(self, number: int, channels: str, back: int | None) -> None:
        """Read several channels as one stream, from a known cursor, or the last publications."""
        start = Start(last=4)
        if back is not None and self.cursors:
            start = Start(since=self.cursors[-1 - back % len(self.cursors)])
        edge = self.cluster.edges[number]
        linked = self._linked(number) is not None
        watcher = Watcher("stream")
        found = self._ask(number, edge.node.hub.follow(watcher, channels, start))
        if found is None:
            return
        edge.node.hub.unsubscribe(watcher, found.audience)
        if not linked:
            return
        got = Reply(_ids(found.publications), found.reason, {})
        if self.sizes.edge_loses and start.since is None:
            # A row that the follower has lost makes room for an older one of another channel.
            for channel in channels:
                rows = [row for row in got.rows if row.startswith(channel)]
                known = _ids(self.history.peek(channel).after(0))
                assert known[len(known) - len(rows) :] == rows
        else:
            resumed = self.history.read(channels, start)
            self._compare(Reply(_ids(resumed.publications), resumed.reason, {}), got)

    def read(self, number: int, channel: str) -> None:
        """Ask for the whole history."""
        request = centrifuge.HistoryRequest(channel, -1)
        node = self.cluster.edges[number].node
        linked = self._linked(number) is not None
        found = self._ask(number, history_result(node, channel, request))
        if found is not None and linked:
            log = self.history.peek(channel)
            expected = Reply(
                [str(row.offset) for row in log.after(0)], "", {channel: (log.epoch, log.top)}
            )
            offsets = [str(pub.offset) for pub in found.publications]
            self._compare(expected, Reply(offsets, "", {channel: (found.epoch, found.offset)}))

    def leave(self, number: int) -> None:
        if self.readers:
            reader = self.readers.pop(number % len(self.readers))
            reader.take()
            reader.edge.node.hub.unsubscribe(reader, reader.channel)

    def clear(self, where: int, channel: str) -> None:
        if not where:
            Deferred.fromCoroutine(self.cluster.node.clear(channel))
            return
        self._ask(where - 1, self.cluster.edges[where - 1].node.clear(channel))

    def settle(self, number: int) -> None:
        """Everything arrives at a follower, and its readers have what the author has."""
        edge = self._linked(number)
        for reader in tuple(self.readers):
            if reader.edge is not edge:
                continue
            reader.take()
            if reader.gaps:
                self.readers.remove(reader)
            else:
                log = self.history.peek(reader.channel)
                assert (reader.epoch, reader.top) == (log.epoch, log.top)

    def carry(self, number: int, up: int, down: int) -> None:
        """Some bytes arrive, in each direction."""
        link = self.cluster.edges[number].link
        if link is not None:
            link.bring_up(up)
            link.bring_down(down)

    def cut(self, number: int) -> None:
        self.cluster.edges[number].cut()

    def connect(self, number: int) -> None:
        self.cluster.edges[number].connect(self.cluster.author)

    def restart(self, forgets: bool) -> None:
        """The author's process is replaced; `forgets`: its log is gone."""
        if forgets:
            self.broker = self._make_broker()
            self.keys.clear()
        self.cluster.restart(self.broker)
        self.history._followed.clear()
        for name in tuple(self.history.channels):
            # Nobody watches it in the new process.
            self.history.release(name)

    def later(self, seconds: float) -> None:
        for number in EDGE:
            self.settle(number)
        self.time.now += seconds
        self.time.turn()
        for node in (self.cluster.node, *(edge.node for edge in self.cluster.edges)):
            while node.expire():
                pass

    def end(self) -> None:
        for number, edge in enumerate(self.cluster.edges):
            if edge.link is None:
                self.connect(number)
            self.settle(number)
            for channel in CHANNELS:
                self.read(number, channel)
        assert self.problems == []


def _ids(rows: Sequence[Publication]) -> list[str]:
    return [f"{row.channel} {row.epoch} {row.offset}" for row in rows]


def program(random: Random, length: int) -> Iterator[tuple[Any, ...]]:
    """Random steps; hypothesis alone would make short ones."""
    choose = random.choice
    while length > 0:
        length -= 1
        edge, where, channel = choose(EDGE), choose([0, *(n + 1 for n in EDGE)]), choose(CHANNELS)
        key, back = choose(["", "", "", "k", "l"]), choose([None, *range(10)])
        stays, settles = choose([True, False]), choose([True, False])
        some, more = choose([0, 20, 100, MOST]), choose([0, 20, 100, MOST])
        seconds = choose([0.1, 1.0, MAX_IDLE_SECONDS, 200.0, 400.0])
        yield choose(
            [
                *3 * [("publish", where, channel, key)],
                ("send", edge, channel, key),
                *3 * [("subscribe", edge, channel, back, stays, settles)],
                ("follow", edge, choose(["ab", "abc", "c"]), back),
                ("read", edge, channel),
                *2 * [("settle", edge)],
                ("carry", edge, some, more),
                ("cut", edge),
                *2 * [("connect", edge)],
                choose(
                    [
                        ("leave", random.randrange(10)),
                        ("clear", where, channel),
                        ("restart", choose([True, False])),
                        ("later", seconds),
                    ]
                ),
            ]
        )


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
def test_follower_answers_as_its_author(sizes: Sizes) -> None:
    @settings(max_examples=30)
    @given(st.integers(0, 2**32), st.integers(10, 200))
    def run(seed: int, length: int) -> None:
        world = World(sizes)
        for name, *arguments in program(Random(seed), length):
            getattr(world, name)(*arguments)
        world.end()

    run()
