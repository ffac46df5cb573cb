"""Streams over two logs, in any order of events: nothing is doubled, missing or out of its order.

Two nodes follow both logs, each with a delay of its own. A reader takes a part of what was sent to
it, comes back at either node with its last cursor, and continues in each channel, or is told.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from pushserver.channels.channel import ChannelOptions
from pushserver.channels.history import History
from pushserver.channels.names import namespace_of
from pushserver.channels.position import Cursor, Start, parse_cursor
from pushserver.channels.publication import Draft, Publication, Receipt
from pushserver.channels.sharded_history import ShardedHistory
from pushserver.errors import Unavailable
from pushserver.hub.follower import Follower, Point, image_of
from pushserver.hub.metrics import Metrics
from pushserver.sessions.event_stream import Stream
from tests.unit.fakes.tools import LINES, FakeTransport, Time, make_node, programs

CHANNELS = ("left:1", "left:2", "right:1", "right:2")
SHARDS = ("left", "right")
NODES = 2
OPTIONS = ChannelOptions(history_size=8, history_ttl=0, recovery_limit=8)


def shard_of(channel: str) -> int:
    return SHARDS.index(namespace_of(channel))


class Log:
    """A log: its publications, and those that have not arrived at each node yet."""

    def __init__(self, epoch: str):
        self.epochs = 0
        self.name = epoch
        self.late: list[list[Publication]] = [[] for _ in range(NODES)]
        self.away = [False] * NODES
        self.begin(0)

    def begin(self, seq: int) -> None:
        """Begin a new numbering, after this seq."""
        self.epochs += 1
        epoch = f"{self.name}{self.epochs}"
        self.history = History(lambda name: OPTIONS, epoch, seq)

    @property
    def end(self) -> Cursor:
        return Cursor(self.history.epoch, self.history.seq)

    def append(self, channel: str, data: int, time: float) -> Publication:
        row = self.history.number(Draft(channel, b"%d" % data), time)
        self.history.channel(channel)
        self.history.append(row, time)
        for late in self.late:
            late.append(row)
        return row


class Logs:
    """Both logs as one node follows them (`follower.Log`)."""

    def __init__(self, logs: Sequence[Log], number: int, time: Time):
        self.logs = logs
        self.number = number
        self.time = time
        self.follower: Follower

    async def publish(self, draft: Draft) -> Receipt:
        raise NotImplementedError

    async def clear(self, channel: str) -> None:
        raise NotImplementedError

    async def settle(self) -> None: ...

    def leave(self, channels: Sequence[str]) -> None: ...

    async def follow(self, points: Sequence[Point], names: Sequence[str]) -> None:
        for shard in sorted(set(map(shard_of, names))):
            own = [point for point in points if shard_of(point.channel) == shard]
            if self.logs[shard].away[self.number]:
                raise Unavailable("it is away", "broker")
            self.arrive(shard)
            self.follower.install(self._images(shard, own), self._ends(shard), lambda: None)

    def _images(self, shard: int, points: Sequence[Point]) -> list[Any]:
        history = self.logs[shard].history
        for point in points:
            history.channel(point.channel)
        return [image_of(history, point, self.time.seconds()) for point in points]

    def _ends(self, shard: int) -> list[tuple[int, Cursor]]:
        return [(shard, self.logs[shard].end)]

    def arrive(self, shard: int, most: int = 1000) -> None:
        """Let the next entries of a log arrive, in their order."""
        log, number = self.logs[shard], self.number
        if log.away[number]:
            return
        rows, log.late[number] = log.late[number][:most], log.late[number][most:]
        for row in rows:
            if row.channel in self.follower.history.channels:
                self.follower.row(row)
        if rows:
            self.follower.at(Cursor(log.history.epoch, rows[-1].seq), shard)

    def jump(self, shard: int) -> None:
        """Continue at the end of a log, with the channels from their histories."""
        log = self.logs[shard]
        log.away[self.number] = False
        log.late[self.number].clear()
        images = self._images(shard, self.follower.points(shard))
        self.follower.resume(images, self._ends(shard))


Check = Callable[[str, str, int, int], None]


class Reader:
    """A program with one stream at a time, and what it has processed.

    `check` is called with each publication: its channel, epoch, offset and data.
    """

    def __init__(self, check: Check, channels: Sequence[str]):
        self.check = check
        self.channels = channels
        self.cursor = ""
        self.tops: dict[str, tuple[str, int]] = {}
        self.transport: FakeTransport | None = None

    def connect(self, node: Any, last: int) -> None:
        transport = self.transport = FakeTransport(LINES)
        since = parse_cursor(self.cursor) if self.cursor else None
        stream = Stream(node, transport)
        start = Start(since=since, last=None if since else last)

        def refused(failure: Failure) -> None:
            failure.trap(Unavailable)
            if self.transport is transport:
                self.transport = None

        Deferred.fromCoroutine(stream.follow(self.channels, start)).addErrback(refused)
        self.lines: list[Any] = []
        self.noted = False

    def take(self, most: int) -> None:
        """Process the next lines of the stream, and no more than these."""
        if self.transport is None:
            return
        # The last line of a stream that cannot go on has its reason.
        self.lines += [line for line in self.transport.take() if "end" not in line]
        count = len(self.channels)
        if not self.noted and len(self.lines) >= count:
            reset = self.lines[count : count + 1]
            has_reset = bool(reset) and "reset" in reset[0]
            self._opened(self.lines[:count], reset[0]["reset"] if has_reset else None)
            del self.lines[: count + has_reset]
            self.noted = True
        for row in self.lines[:most]:
            self._got(row)
        del self.lines[:most]

    def leave(self, most: int) -> None:
        """Go away, and lose what is not processed yet."""
        if self.transport is not None:
            self.take(most)
            if self.transport.closed is None:
                stream: Any = self.transport.conversation
                stream.disconnect(1000, "")
                stream.closed()
            self.transport = None

    def _opened(self, notes: Sequence[Any], reset: Any) -> None:
        known, cursor = dict(self.tops), self.cursor
        for note in (each["subscribed"] for each in notes):
            channel, position = note["channel"], (note["epoch"], note["offset"])
            told = reset is not None and channel in reset.get("channels", self.channels)
            if told and reset["reason"] == "epoch" and channel in known:
                assert position[0] != known[channel][0], "told without a reason"
            assert note["recovered"] == (bool(cursor) and not told)
            if note["recovered"]:
                assert position == known[channel], f"{channel}: a gap at the resume"
            self.tops[channel] = position
            self.cursor = note["id"]
        if reset is not None:
            assert reset["id"] == self.cursor

    def _got(self, row: Any) -> None:
        channel = row["channel"]
        epoch, top = self.tops[channel]
        assert row["offset"] == top + 1, f"{channel}: offset {row['offset']} after {top}"
        self.check(channel, epoch, row["offset"], row["data"])
        self.tops[channel] = epoch, top + 1
        self.cursor = row["id"]


class World:
    """Two logs, two nodes, and the readers."""

    def __init__(self) -> None:
        self.time = Time()
        self.logs = [Log("L"), Log("R")]
        self.made: dict[tuple[str, str, int], int] = {}
        self.readers: list[Reader] = []
        self.tails = [Logs(self.logs, number, self.time) for number in range(NODES)]
        self.nodes = []
        for tail in self.tails:
            history = ShardedHistory(lambda name: OPTIONS, shard_of, len(SHARDS))
            tail.follower = Follower(history, Metrics(), tail, self.time.seconds)
            run = partial(Deferred.fromCoroutine)
            node = make_node(time=self.time, broker=tail.follower, run=run)  # type: ignore[arg-type]
            tail.follower.reset = node.hub.reset
            self.nodes.append(node)
            for shard in range(len(SHARDS)):
                tail.jump(shard)

    def publish(self, channel: str) -> None:
        self.time.now += 0.001
        value = len(self.made)
        row = self.logs[shard_of(channel)].append(channel, value, self.time.now)
        self.made[channel, row.epoch, row.offset] = value

    def check(self, channel: str, epoch: str, offset: int, data: int) -> None:
        assert self.made[channel, epoch, offset] == data

    def join(self, channels: Sequence[str], node: int, last: int) -> None:
        reader = Reader(self.check, channels)
        self.readers.append(reader)
        reader.connect(self.nodes[node], last)

    def move(self, number: int, node: int, most: int) -> None:
        """A reader has processed some of its lines, and continues at a node."""
        if self.readers:
            reader = self.readers[number % len(self.readers)]
            reader.leave(most)
            reader.connect(self.nodes[node], 2)

    def arrive(self, node: int, shard: int, most: int) -> None:
        self.tails[node].arrive(shard, most)

    def lose(self, node: int, shard: int) -> None:
        """A node loses a log for a while."""
        self.logs[shard].away[node] = True

    def back(self, node: int, shard: int) -> None:
        self.tails[node].jump(shard)

    def gap(self, node: int, channel: str, count: int) -> None:
        """A node loses a log for some publications, and gets them from the history."""
        self.lose(node, shard_of(channel))
        for _ in range(count):
            self.publish(channel)
        self.back(node, shard_of(channel))

    def renew(self, shard: int, empties: bool) -> None:
        """A log begins a new epoch; both nodes notice."""
        log = self.logs[shard]
        log.begin(0 if empties else log.history.seq)
        for tail in self.tails:
            tail.jump(shard)

    def turn(self) -> None:
        self.time.now += 1.0
        self.time.turn()

    def end(self) -> None:
        """Let everything arrive: each reader that was not told otherwise has everything."""
        for node, tail in enumerate(self.tails):
            for shard, log in enumerate(self.logs):
                if log.away[node]:
                    tail.jump(shard)
                tail.arrive(shard)
        self.time.pass_on()
        for reader in self.readers:
            transport = reader.transport
            assert transport is not None
            if transport.closed is None:
                reader.take(10_000)
                for channel in reader.channels:
                    log_channel = self.logs[shard_of(channel)].history.channel(channel)
                    assert reader.tops[channel] == (log_channel.epoch, log_channel.top)


channels = st.sampled_from(CHANNELS)
several = st.sampled_from(
    [CHANNELS, CHANNELS[:2], CHANNELS[1:3], ("right:1", "left:1"), ("right:2",)]
)
nodes, shards, some = st.integers(0, NODES - 1), st.integers(0, 1), st.integers(0, 3)
publishing = st.tuples(st.just("publish"), channels)
arriving = st.tuples(st.just("arrive"), nodes, shards, st.sampled_from([1, 2, 1000]))
rare = st.one_of(
    st.tuples(st.just("lose"), nodes, shards),
    st.tuples(st.just("back"), nodes, shards),
    st.tuples(st.just("renew"), shards, st.booleans()),
)
steps = st.one_of(
    publishing,
    publishing,
    publishing,
    arriving,
    arriving,
    st.tuples(st.just("turn")),
    st.tuples(st.just("gap"), nodes, channels, some),
    st.tuples(st.just("join"), several, nodes, some),
    st.tuples(st.just("move"), st.integers(0, 5), nodes, st.sampled_from([0, 1, 2, 1000])),
    rare,
)


@settings(max_examples=300)
@given(programs(steps))
# Two runs of publications that differ in their first one, and have the same cursors.
@example(
    [
        ("join", CHANNELS, 1, 1),
        ("publish", "left:1"),
        ("publish", "right:1"),
        ("gap", 1, "right:1", 2),
        ("publish", "left:1"),
        ("join", CHANNELS, 0, 3),
        ("move", 4, 0, 2),
    ]
)
def test_a_stream_over_two_logs_continues_in_each_or_says_where_it_does_not(
    program: list[tuple[Any, ...]],
) -> None:
    world = World()
    for name, *arguments in program:
        getattr(world, name)(*arguments)
    world.end()
