"""One process, workers, several servers, and several with workers: all answer alike.

They get the same operations of clients and of the server API; each time, when all is quiet again,
the answers and what was pushed to each client are compared. Names of clients and epochs are those
of each system; here they are replaced by the order in which they appeared.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import count
from random import Random
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from pushserver.channels.channel import ChannelOptions
from pushserver.channels.history import History
from pushserver.channels.idempotency import REMEMBERED_SECONDS
from pushserver.channels.idempotency import Keys as IdempotencyKeys
from pushserver.channels.position import Cursor, Position, Start, split_epoch
from pushserver.channels.publication import Draft
from pushserver.cluster.measures import Measures
from pushserver.config.limits import Limits
from pushserver.config.settings import Broker, Config
from pushserver.errors import PushServerError
from pushserver.hub.broker import MemoryBroker
from pushserver.hub.metrics import Metrics
from pushserver.redis.keys import Keys
from pushserver.redis.log import RedisLog
from pushserver.redis.roll import PAUSE_SECONDS
from pushserver.server.broker_parts import BrokerParts
from pushserver.server.meter import Meter
from pushserver.server.pulse import Pulse
from pushserver.sessions.node import Node
from pushserver.sessions.orders import End, Order, Unsubscribe, carry_out
from pushserver.store.source_memory import SourceMemory
from pushserver.transports.unsent import Unsent
from tests.redis.server import RedisServer
from tests.redis.test_presence import Real
from tests.unit.fakes.cluster import Cluster, run
from tests.unit.fakes.redis import FakeConnection
from tests.unit.fakes.tools import Client, Time, Watcher, make_node

CHANNELS = ("a", "b", "c")
PLACES = 2
TICK = 5.0
"""The seconds after which nodes do what is due."""
STEP = 10
"""The seconds between two operations: all that is due has been done."""
MOST_KEYS = 4
OPTIONS = {
    "few": ChannelOptions(
        history_size=5, history_ttl=0, recovery_limit=3, publish="anyone", initial=2
    ),
    # Between two operations.
    "aging": ChannelOptions(history_size=50, history_ttl=10 * STEP + 4.5, publish="anyone"),
    "small": ChannelOptions(history_bytes=40, history_ttl=0, publish="anyone"),
    "announced to all": ChannelOptions(
        history_size=3, history_ttl=0, publish="anyone", force_push_join_leave=True
    ),
}


class System:
    """One of the ways to run a server: clients are at one of its `places`."""

    places: Sequence[Node]

    def __init__(self, time: Time, options: ChannelOptions):
        self.time, self.options = time, options

    def settle(self) -> None:
        """Let all messages arrive."""
        for _ in range(3):
            self.time.pass_on()

    def advance(self, seconds: float) -> None:
        """The time has passed."""

    def node(self, place: int) -> Node:
        """The node of this place."""
        return self.places[place % len(self.places)]

    def author(self, place: int) -> Node:
        """The node that has the API of this place."""
        return self.node(place)

    def expire(self) -> None:
        """Evict what is due."""
        for node in {
            id(n): n for p in range(PLACES) for n in (self.node(p), self.author(p))
        }.values():
            while node.expire():
                pass


def memory_broker(time: Time, options: ChannelOptions) -> MemoryBroker:
    history = History(lambda name: options, "e1")
    keys = IdempotencyKeys(1_000, MOST_KEYS)
    return MemoryBroker(history, keys, Metrics(), time, time.seconds)


class OneProcess(System):
    def __init__(self, time: Time, options: ChannelOptions):
        super().__init__(time, options)
        broker = memory_broker(time, options)
        self.places = [make_node(time=time, broker=broker, run=run)]


class Workers(System):
    """A main process with two workers."""

    def __init__(self, time: Time, options: ChannelOptions):
        super().__init__(time, options)
        self._cluster = Cluster(memory_broker(time, options), options, time, PLACES)
        self.places = [edge.node for edge in self._cluster.edges]

    def settle(self) -> None:
        self._cluster.settle()

    def author(self, place: int) -> Node:
        return self._cluster.node


class Server:
    """One of several servers, with a log in Redis and a clock of the test."""

    def __init__(self, time: Time, options: ChannelOptions, redis: Real, prefix: str, clock: Clock):
        class Connection(FakeConnection):
            pass

        class Log(RedisLog):
            make_connection: Any = Connection
            pace_seconds = 0.0

        class Parts(BrokerParts):
            make_log = Log

        Connection.redis = redis  # type: ignore[assignment]
        limits = Limits(idempotency_keys_per_publisher=MOST_KEYS)
        config = Config(broker=Broker(url="redis://x", prefix=prefix), limits=limits)
        history = History(lambda name: options, "none")
        self.parts = Parts(config, history, clock, clock.seconds, SourceMemory())
        log: Any = self.parts.log
        self.links: list[Any] = [log._writing, log._reading]

    def attach(self, node: Node) -> None:
        meter = Meter(node, Unsent(), Pulse(node.monotonic))
        self.parts.attach(node, Measures(meter.measure))
        self.parts.startService()
        for link in self.links:
            link.connect()

    def carry(self) -> bool:
        moved = [link.bring_up() for link in self.links]
        return any([link.bring_down() for link in self.links] + moved)


class Servers(System):
    """Two servers on one Redis."""

    prefix = "two"

    def __init__(self, time: Time, options: ChannelOptions, redis: RedisServer):
        super().__init__(time, options)
        self._clock = Clock()
        self._clock.advance(time.seconds())
        real = Real(redis, Keys(f"{{{self.prefix}}}"))
        real.now = time
        self._servers = [
            Server(time, options, real, self.prefix, self._clock) for _ in range(PLACES)
        ]
        self.places = [self._start(server) for server in self._servers]
        self.settle()

    def _start(self, server: Server) -> Node:
        parts = server.parts
        node = make_node(
            time=self.time, broker=parts.follower, run=run, make_presence=parts.make_presence
        )
        server.attach(node)
        return node

    def settle(self) -> None:
        while any([server.carry() for server in self._servers]):  # noqa: C419
            self.time.pass_on()
        self.time.pass_on()

    def advance(self, seconds: float) -> None:
        self._clock.advance(seconds)
        for server in self._servers:
            server.links[1].wake()
        self.settle()


class ServersWithWorkers(Servers):
    """Two servers on one Redis, each with a worker, which has the clients."""

    prefix = "both"

    def __init__(self, time: Time, options: ChannelOptions, redis: RedisServer):
        self._clusters: list[Cluster] = []
        super().__init__(time, options, redis)
        self._authors, self.places = self.places, [c.edges[0].node for c in self._clusters]

    def _start(self, server: Server) -> Node:
        parts = server.parts
        cluster = Cluster(
            parts.follower, self.options, self.time, 1, make_presence=parts.make_presence
        )
        server.attach(cluster.node)
        parts.share(cluster.author)
        self._clusters.append(cluster)
        return cluster.node

    def settle(self) -> None:
        for _ in range(4):
            for cluster in self._clusters:
                cluster.settle()
            super().settle()

    def author(self, place: int) -> Node:
        return self._authors[place % PLACES]


class Run:
    """One system, its clients and what they know; each operation returns what must be equal."""

    def __init__(self, system: System):
        self.system = system
        self.clients: list[Client] = []
        self.positions: dict[str, list[Position]] = defaultdict(list)
        self.cursors: list[Cursor] = []
        self._inboxes: list[list[Any]] = []
        self._names: dict[str, str] = {}
        self._lost: set[int] = set()
        self._streams: list[Callable[[], object]] = []
        self._numbers = count()

    # --- operations of clients ---------------------------------------

    def connect(self, place: int) -> Any:
        client = Client(self.system.node(place), connect=False)
        number = len(self.clients)
        self.clients.append(client)
        self._inboxes.append([])
        self._names[client.session.info.client] = f"client {number}"
        return self._say(number, "connect")

    def subscribe(self, number: int, channel: str, back: int | None, observes: bool) -> Any:
        fields: dict[str, Any] = {"channel": channel, "join_leave": observes}
        position = self._position(channel, back)
        if position is not None:
            fields |= {"recover": True, "epoch": position.epoch, "offset": position.offset}
        return self._say(number, "subscribe", **fields)

    def unsubscribe(self, number: int, channel: str) -> Any:
        return self._say(self._passing(number), "unsubscribe", channel=channel)

    def send(self, number: int, channel: str, value: int) -> Any:
        """A client publishes."""
        return self._say(number, "publish", channel=channel, data=value)

    def history(self, number: int, channel: str, back: int | None, limit: int, turns: bool) -> Any:
        fields: dict[str, Any] = {"channel": channel, "limit": limit, "reverse": turns}
        position = self._position(channel, back)
        if position is not None:
            fields["since"] = {"epoch": position.epoch, "offset": position.offset}
        return self._say(number, "history", **fields)

    def presence(self, number: int, channel: str) -> Any:
        return [self._say(number, name, channel=channel) for name in ("presence", "presence_stats")]

    def close(self, number: int) -> Any:
        """The connection of a client is lost, unless it has been."""
        self._lose(self._passing(number))

    # --- operations of the server API ---------------------------------------

    def publish(self, place: int, channel: str, value: int, key: str, publisher: str) -> Any:
        draft = Draft(channel, b"%d" % value, key=key, publisher=publisher)
        found = self._call(self.system.author(place).publish(draft))
        if isinstance(found, str):
            return found
        self.positions[channel].append(Position(found.epoch, found.offset))
        run, generation = split_epoch(found.epoch)
        self.cursors.append(Cursor(run, found.seq))
        return found.offset, found.seq, generation

    def clear(self, place: int, channel: str) -> Any:
        return self._call(self.system.author(place).clear(channel))

    def stream(self, place: int, channels: str, back: int | None, last: int) -> Any:
        """Read channels as one stream."""
        start = Start(last=last)
        if back is not None and self.cursors:
            start = Start(since=self.cursors[-1 - back % len(self.cursors)])
        node, watcher = self.system.node(place), Watcher(f"stream {next(self._numbers)}")
        found = self._call(node.hub.follow(watcher, channels, start))
        self._streams.append(partial(node.hub.unsubscribe, watcher, found.audience))
        rows = [(row.channel, row.offset, row.seq, row.data) for row in found.publications]
        where = {c: (split_epoch(p.epoch)[1], p.offset) for c, p in found.positions.items()}
        return rows, where, found.recovered, found.reason

    def order(self, place: int, number: int, channel: str) -> Any:
        """End a client, or its subscription, wherever it is."""
        client = self.clients[self._passing(number)].session.info.client
        order: Order = End("", client, None, 4000, "out")
        if channel:
            order = Unsubscribe("", client, None, channel, 2000, "out")
        node = self.system.author(place)
        carry_out(node, order)
        return self._call(node.tell_others(order))

    def watchers(self, place: int) -> Any:
        return self._call(self.system.author(place).presence.watchers())

    # --- what they are told ---------------------------------------

    def told(self) -> Any:
        """What came to each client since the last call: of each kind, in order.

        Publications, and joins and leaves of a client, may come before or after others.
        """
        self._settle()
        found = []
        for client, inbox in zip(self.clients, self._inboxes, strict=True):
            by_kind: dict[str, list[Any]] = defaultdict(list)
            for push in inbox:
                [kind] = push.keys() - {"channel"}
                name = push[kind]["info"]["client"] if kind in ("join", "leave") else kind
                by_kind[f"{push.get('channel')} {name}"].append(push)
            inbox.clear()
            found.append((by_kind, client.closed))
        for number, client in enumerate(self.clients):
            if client.closed is not None:
                self._lose(number)
        # Others are not told of one that comes and goes at once.
        streams, self._streams = self._streams, []
        for leave in streams:
            leave()
        self._settle()
        self.system.advance(PAUSE_SECONDS)
        return found

    def _settle(self) -> None:
        self.system.settle()
        for client, inbox in zip(self.clients, self._inboxes, strict=True):
            inbox += [self._plain(value)["push"] for value in client.transport.take()]

    def _passing(self, number: int) -> int:
        """A client that need not stay."""
        return PLACES + number % (len(self.clients) - PLACES)

    def _lose(self, number: int) -> None:
        if number not in self._lost:
            self._lost.add(number)
            self.clients[number].session.closed()
            self._settle()

    def _say(self, number: int, method: str, **fields: Any) -> Any:
        """The reply to a command; None if the client is gone."""
        number %= len(self.clients)
        client = self.clients[number]
        if number in self._lost:
            return None
        client.id += 1
        client.session.received(json.dumps({"id": client.id, method: fields}).encode())
        self.system.settle()
        values = [self._plain(value) for value in client.transport.take()]
        self._inboxes[number] += [value["push"] for value in values if "push" in value]
        return [value for value in values if "push" not in value]

    def _position(self, channel: str, back: int | None) -> Position | None:
        known = self.positions[channel]
        if back is None or not known:
            return None
        position = known[-1 - back % len(known)]
        return Position(position.epoch, max(0, position.offset - back % 3))

    def _call(self, coroutine: Any) -> Any:
        """The result of a call, or the name of its error."""
        results: list[Any] = []
        Deferred.fromCoroutine(coroutine).addBoth(results.append)
        self._settle()
        assert results, "the call waits"
        found = results[0]
        if hasattr(found, "raiseException"):
            assert found.check(PushServerError), found.getTraceback()
            return type(found.value).__name__
        return found

    def _plain(self, value: Any) -> Any:
        """The value without what is each system's own: names, the part of an epoch, times."""
        if isinstance(value, str):
            return self._names.get(value, value)
        if isinstance(value, list):
            return [self._plain(each) for each in value]
        if not isinstance(value, dict):
            return value
        return {
            self._names.get(name, name): split_epoch(each)[1]
            if name == "epoch"
            else self._plain(each)
            for name, each in value.items()
            if name not in ("time", "session", "node")
        }


class World:
    """All systems, which get the same operations at the same time."""

    def __init__(self, options: ChannelOptions, redis: RedisServer):
        redis.connection("FLUSHALL")
        self._redis = redis.connection
        self.time = Time()
        systems: dict[str, System] = {
            "one process": OneProcess(self.time, options),
            "workers": Workers(self.time, options),
            "servers": Servers(self.time, options, redis),
            "servers with workers": ServersWithWorkers(self.time, options, redis),
        }
        self.runs = {name: Run(system) for name, system in systems.items()}
        for number in range(PLACES):
            self.do("connect", number)
            for channel in CHANNELS:
                # A watched channel is not forgotten.
                self.do("subscribe", number, channel, None, True)
        self.do("connect", 0)

    def do(self, name: str, *arguments: Any) -> None:
        """Let each system do it, and compare the answers with those of the first."""
        if name == "later":
            self._later(*arguments)
        else:
            self._compare(name, lambda run: getattr(run, name)(*arguments))
        self._later(1)
        self._compare("told", Run.told)

    def _compare(self, name: str, operation: Callable[[Run], Any]) -> None:
        found = {system: operation(run) for system, run in self.runs.items()}
        first = found["one process"]
        for system, answer in found.items():
            assert answer == first, f"{name}: {system}"

    def _later(self, steps: int) -> None:
        seconds = steps * STEP
        for key in self._redis("KEYS", "{*}:k:*"):
            # Redis knows only its own clock.
            since = int(self._redis("GET", key).split()[-1])
            if since + REMEMBERED_SECONDS * 1000 <= (self.time.now + seconds) * 1000:
                self._redis("DEL", key)
        for _ in range(round(seconds / TICK)):
            self.time.now += TICK
            for each in self.runs.values():
                each.system.advance(TICK)
                each.system.expire()


def program(random: Random, length: int) -> Iterator[tuple[Any, ...]]:
    choose = random.choice
    for value in range(length):
        place, channel, number = choose(range(PLACES)), choose(CHANNELS), random.randrange(8)
        back, other = choose([None, *range(10)]), choose([True, False])
        key = choose(["", "", "k", "l", "m"])
        yield choose(
            [
                *2 * [("connect", place)],
                *3 * [("subscribe", number, channel, back, other)],
                *5 * [("publish", place, channel, value, key, choose(["", "p"]))],
                *2 * [("send", number, channel, value)],
                *2 * [("history", number, channel, back, choose([-1, 0, 1, 3]), other)],
                *2 * [("stream", place, choose(["a", "ab", "abc"]), back, choose([0, 2, 9]))],
                *2 * [("presence", number, channel)],
                ("watchers", place),
                ("unsubscribe", number, channel),
                ("close", number),
                ("order", place, number, choose(["", channel])),
                ("clear", place, channel),
                ("later", choose([1, 9, 31])),
            ]
        )


@pytest.mark.parametrize("name", OPTIONS)
def test_all_systems_answer_alike(shared_redis: RedisServer, name: str) -> None:
    world = World(OPTIONS[name], shared_redis)
    # Another program for each.
    for operation, *arguments in program(Random(name), 60):
        world.do(operation, *arguments)
