"""Nodes that follow a real Redis on a real reactor, with publishers and readers that check."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from itertools import count
from typing import Any

from twisted.internet import protocol
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ServerEndpoint, UNIXClientEndpoint
from twisted.internet.epollreactor import EPollReactor
from twisted.internet.protocol import Factory, connectionDone
from twisted.internet.task import deferLater
from twisted.python.failure import Failure

from pushserver.channels.channel import ChannelOptions
from pushserver.channels.history import History
from pushserver.channels.placement import Placement
from pushserver.channels.publication import Draft, Publication, Receipt
from pushserver.channels.sharded_history import ShardedHistory
from pushserver.config.redis_url import parse_url
from pushserver.errors import Unavailable
from pushserver.hub.follower import Follower, Image, Point
from pushserver.hub.metrics import Metrics
from pushserver.redis.log import RedisLog
from pushserver.redis.scripts import Bounds
from pushserver.redis.shards import ShardedLog
from pushserver.usercode.steady import steady
from tests.e2e.patience import PATIENCE
from tests.unit.fakes.tools import Watcher, make_node

OPTIONS = ChannelOptions(
    history_size=1_000_000, history_bytes=10**9, history_ttl=0, recovery_limit=1_000_000
)
CHANNELS = ("one", "two")


class Timer:
    """The time of a reactor, as nodes take it; its wall clock may be `ahead`, in seconds."""

    def __init__(self, reactor: Any, ahead: float):
        self.seconds = steady(reactor)
        self.callLater = reactor.callLater
        self._ahead = ahead

    def __call__(self) -> float:
        return self.seconds() + self._ahead


class Node:
    """A node that follows the log, or those of several URLs."""

    def __init__(self, crew: Crew, url: str, ahead: float):
        timer: Any = Timer(crew.reactor, ahead)
        options = crew.options
        urls, placement = url.split(), crew.placement

        def make_log(shard: int, place: Any = None) -> RedisLog:
            return RedisLog(
                parse_url(urls[shard]),
                crew.reactor,
                timer.seconds,
                lambda name: options,
                Bounds(log_length=crew.log_length),
                shard=shard,
                place=place,
            )

        self.log: Any
        if len(urls) == 1:
            self.log = make_log(0)
            self.logs = [self.log]
            history = History(lambda name: options, "none")
        else:
            self.log = ShardedLog(placement, make_log, timer.seconds)
            self.logs = self.log.logs
            history = ShardedHistory(lambda name: options, placement, len(urls))
        follower = Follower(history, Metrics(), self.log, timer.seconds)
        self.log.feed(follower)
        self.node = make_node(
            time=timer, broker=follower, run=crew.start, report=crew.problems.append
        )
        follower.reset = self.node.hub.reset
        self.log.start()


class Reader(Watcher):
    """Reads a channel at a node, live; joins again when it is told that it missed something."""

    def __init__(self, crew: Crew, node: Node, channel: str):
        super().__init__(f"reader {next(crew.numbers)}")
        self.crew, self.node, self.channel = crew, node, channel
        self.told = 0
        self.epoch, self.top = "", 0
        self.session: list[tuple[int, int]] = []
        """The offsets and values since it was told last."""
        self.first = 0
        self._joined = False

    async def join(self) -> None:
        self._joined = False
        while not self._joined:
            try:
                joined = await self.node.node.hub.subscribe(self, self.channel, None, 0)
            except Unavailable:
                await self.crew.sleep(0.02)
                continue
            self._joined = True
            self.epoch, self.top = joined.epoch, joined.offset
            self.first = joined.offset
            self.session.clear()

    def send(self, frame: bytes) -> None:
        for line in frame.splitlines():
            row = json.loads(line)
            if row["offset"] != self.top + 1:
                self.crew.problems.append(f"{row['offset']} after {self.top}")
            self.top = row["offset"]
            self.session.append((row["offset"], row["data"]))

    def insufficient(self, channel: str) -> None:
        self.told += 1
        self.crew.start(self.join())


class Crew:
    """The nodes, publishers and readers of one test, on a reactor of its own."""

    def __init__(
        self,
        options: ChannelOptions = OPTIONS,
        log_length: int = 100_000,
        channels: Sequence[str] = CHANNELS,
        shards: Mapping[str, int] | None = None,
    ) -> None:
        self.reactor: Any = EPollReactor()
        self.channels = channels
        self.placement = Placement(1 + max((shards or {}).values(), default=0), shards or {})
        self.options = options
        self.log_length = log_length
        self.problems: list[str] = []
        self.numbers = count(1)
        self.nodes: list[Node] = []
        self.clocks: Iterator[float] = iter(())
        """How far the clocks of the next nodes are ahead, in seconds."""
        self.readers: list[Reader] = []
        self.acknowledged: dict[int, tuple[str, Receipt]] = {}
        self.refused = 0
        self.lost = 0
        """The acknowledged publications that were not there at the last `check`."""
        self.refused_in: set[str] = set()
        self.is_finished = False
        """Whether nothing is published any more, and the readers have everything."""
        self._publishing = True
        self._publishers: list[Deferred[None]] = []

    def run(self, main: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run the coroutine to its end; raises its error."""
        results: list[Any] = []

        def begin() -> None:
            done: Deferred[Any] = Deferred.fromCoroutine(main())
            done.addTimeout(2 * PATIENCE, self.reactor)
            done.addBoth(results.append)
            done.addBoth(lambda _: self._end())

        self.reactor.callWhenRunning(begin)
        self.reactor.run(installSignalHandlers=False)
        # First these: they may be the reason for a timeout.
        assert self.problems == []
        if isinstance(results[0], Failure):
            results[0].raiseException()

    def _end(self) -> None:
        for node in self.nodes:
            node.log.stop()
        self.reactor.callLater(0, self.reactor.stop)

    def start(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        """Run a coroutine that nothing awaits."""
        done = Deferred.fromCoroutine(coroutine)
        done.addErrback(lambda failure: self.problems.append(failure.getTraceback()))

    async def sleep(self, seconds: float) -> None:
        await deferLater(self.reactor, seconds)

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait for a condition."""
        while not condition():
            await self.sleep(0.01)

    async def attached(self) -> None:
        """Wait until all nodes are attached."""
        logs = [log for node in self.nodes for log in node.logs]
        await self.until(lambda: all(log.state.attached for log in logs))

    def add(self, url: str) -> Node:
        """Start a node."""
        node = Node(self, url, next(self.clocks, 0.0))
        self.nodes.append(node)
        return node

    async def begin(self, *urls: str) -> None:
        """Start a node for each URL, with a reader of each channel, and two publishers."""
        for url in urls:
            self.add(url)
        await self.attached()
        for node in self.nodes:
            for channel in self.channels:
                reader = Reader(self, node, channel)
                self.readers.append(reader)
                await reader.join()
            for _ in range(2):
                self._publishers.append(Deferred.fromCoroutine(self._publish(node)))

    async def _publish(self, node: Node) -> None:
        while self._publishing:
            value, channel = next(self.numbers), random.choice(self.channels)
            try:
                receipt = await node.node.publish(Draft(channel, b"%d" % value))
            except Unavailable:
                self.refused += 1
                self.refused_in.add(channel)
                await self.sleep(0.02)
            else:
                self.acknowledged[value] = channel, receipt
            await self.sleep(random.choice([0, 0, 0.001]))

    async def progress(self, publications: int = 50) -> None:
        """Wait until as many more publications were acknowledged."""
        goal = len(self.acknowledged) + publications
        await self.until(lambda: len(self.acknowledged) >= goal)

    async def finish(self) -> None:
        """Stop the publishers, and wait until all readers have everything."""
        self._publishing = False
        for publisher in self._publishers:
            await publisher
        kept = await self.kept()
        tops = {channel: (rows[-1].epoch, len(rows)) for channel, rows in kept.items()}
        await self.until(lambda: all((r.epoch, r.top) == tops[r.channel] for r in self.readers))
        self.is_finished = True

    async def kept(self) -> dict[str, list[Publication]]:
        """The publications that Redis has, by channel."""
        node = self.nodes[0]
        while True:
            await self.attached()
            try:
                await node.node.load(self.channels, fresh=True)
            except Unavailable:
                # A node may notice only now that it has lost a Redis.
                await self.sleep(0.02)
            else:
                break
        return {channel: node.node.history.peek(channel).after(0) for channel in self.channels}

    async def check(self, *, lost: bool = False) -> None:
        """Each publication is there once; each reader has all since it joined or was told last.

        `lost`: Redis has lost some of the acknowledged ones.
        """
        images: list[Image] = []
        for shard, log in enumerate(self.nodes[0].logs):
            own = [channel for channel in self.channels if self.placement(channel) == shard]
            images += (await log._writer.images([Point(channel) for channel in own])).images
        found: dict[int, tuple[str, int]] = {}
        for image in images:
            for row in image.rows:
                value = int(row.data)
                assert value not in found, "published twice"
                found[value] = image.channel, row.offset
        missing = self.acknowledged.keys() - found.keys()
        self.lost = len(missing)
        if not lost:
            assert not missing, f"{self.lost} of {len(self.acknowledged)} are lost"
            for value, (channel, receipt) in self.acknowledged.items():
                assert found[value] == (channel, receipt.offset)
        by_place = {place: value for value, place in found.items()}
        for reader in self.readers:
            places = range(reader.first + 1, reader.top + 1)
            expected = [(offset, by_place[reader.channel, offset]) for offset in places]
            assert reader.session == expected

    @property
    def told(self) -> int:
        """How often readers were told that they missed something."""
        return sum(reader.told for reader in self.readers)


class _End(protocol.Protocol):
    """One end of a connection through the proxy."""

    transport: Any

    def __init__(self, proxy: Proxy) -> None:
        self.proxy = proxy
        self.other: _End | None = None
        self.waiting = b""

    def dataReceived(self, data: bytes) -> None:
        self.waiting += data
        self.proxy.crew.reactor.callLater(self.proxy.delay, self.pass_on)

    def pass_on(self) -> None:
        """Pass on what has come, if the other end is connected."""
        if self.other is None or self.other.transport is None:
            return
        data, self.waiting = self.waiting, b""
        self.proxy.left -= len(data)
        if self.proxy.left < 0:
            self.other.transport.write(data[: self.proxy.left])
            self.proxy.cut()
        else:
            self.other.transport.write(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.proxy.ends.discard(self)
        if self.other is not None and self.other.transport is not None:
            self.other.transport.loseConnection()


class Proxy:
    """Stands before a server on a Unix socket; cuts all connections after `left` more bytes.

    Bytes arrive `delay` seconds later.
    """

    def __init__(self, crew: Crew, path: str):
        self.crew = crew
        self.path = path
        self.left = 2**60
        self.delay = 0.0
        self.is_open = True
        self.ends: set[_End] = set()
        self.port: Any = None

    async def listen(self) -> str:
        """Listen; returns the URL."""
        factory: Any = Factory()
        factory.noisy = False
        factory.buildProtocol = lambda address: self._accept()
        endpoint = TCP4ServerEndpoint(self.crew.reactor, 0, interface="127.0.0.1")
        self.port = await endpoint.listen(factory)
        return f"redis://127.0.0.1:{self.port.getHost().port}"

    async def close(self) -> None:
        self.cut()
        await self.port.stopListening()

    def cut(self) -> None:
        """End all connections."""
        self.left = 2**60
        for end in tuple(self.ends):
            if end.transport is not None:
                end.transport.abortConnection()

    def _accept(self) -> _End | None:
        if not self.is_open:
            return None
        near, far = _End(self), _End(self)
        self.ends |= {near, far}
        factory: Any = Factory()
        factory.noisy = False
        factory.buildProtocol = lambda address: far
        connecting = UNIXClientEndpoint(self.crew.reactor, self.path).connect(factory)

        def connected(_: Any) -> None:
            near.other, far.other = far, near
            near.pass_on()

        connecting.addCallback(connected)
        connecting.addErrback(lambda _: near.transport.loseConnection())
        return near
