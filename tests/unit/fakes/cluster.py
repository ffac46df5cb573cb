"""An author of a log and followers of it, with links whose bytes arrive when the test says so."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure

from pushserver.channels.channel import ChannelOptions
from pushserver.channels.history import History
from pushserver.channels.room import Room
from pushserver.cluster.author import Author, FollowerLink
from pushserver.cluster.measures import Measures
from pushserver.cluster.messages import Frames, FromAuthor, FromFollower
from pushserver.cluster.uplink import Uplink
from pushserver.hub.broker import Broker
from pushserver.hub.hub import Hub
from pushserver.hub.presence import Presence
from pushserver.server.follower_parts import make_follower_parts
from pushserver.server.meter import Meter
from pushserver.server.pulse import Pulse
from pushserver.sessions.callbacks import Handlers
from pushserver.transports.unsent import Unsent
from tests.unit.fakes.tools import Client, Time, make_node

MOST = 2**24


def run(coroutine: Any) -> None:
    """Run a coroutine that may wait for a message."""
    Deferred.fromCoroutine(coroutine)


class Pipe:
    """One direction of a link: bytes that were sent and have not arrived."""

    def __init__(self, types: Any) -> None:
        self.frames = Frames(types, MOST)
        self.waiting = b""

    def send(self, data: bytes) -> None:
        self.waiting += data

    def take(self, count: int) -> list[Any]:
        """The messages that are complete with the next `count` bytes."""
        data, self.waiting = self.waiting[:count], self.waiting[count:]
        return list(self.frames.feed(data)) if data else []


class Link:
    """A link of a follower to the author, with the ends of both."""

    def __init__(self, author: Author, uplink: Uplink):
        self.up = Pipe(FromFollower)
        self.down = Pipe(FromAuthor)
        self._uplink = uplink
        self._far = FollowerLink(author, self.down.send, self.down.send, run)
        uplink.connected(self.up.send)

    def bring_up(self, count: int = MOST) -> None:
        """Let bytes arrive at the author."""
        for message in self.up.take(count):
            self._far.received(message)

    def bring_down(self, count: int = MOST) -> None:
        """Let bytes arrive at the follower."""
        for message in self.down.take(count):
            self._uplink.received(message)

    def cut(self) -> None:
        """End the link; the bytes under way are lost."""
        self._far.lost()
        self._uplink.lost()


class Edge:
    """A process that follows the log: its node, and its link if there is one."""

    def __init__(
        self, options: ChannelOptions, time: Time, room: Room | None = None, worker: int = 1
    ):
        history = History(lambda name: options, "none", room=room)
        parts = make_follower_parts(history, time.seconds, run, worker)
        self.uplink = parts.uplink
        self.node = make_node(
            time=time,
            broker=parts.follower,
            run=run,
            handlers=parts.handlers,
            sessions=parts.roster,
            make_presence=parts.make_presence,
        )
        self.meter = Meter(self.node, Unsent(), Pulse(time.seconds))
        parts.attach(self.node, self.meter.measure)
        self.link: Link | None = None

    def connect(self, author: Author) -> None:
        """Link it to the author, in place of the present link."""
        self.cut()
        self.link = Link(author, self.uplink)

    def cut(self) -> None:
        if self.link is not None:
            link, self.link = self.link, None
            link.cut()


class Cluster:
    """An author and its followers; `options` are those of all channels.

    `handlers` is the application, with its `events` by namespace.
    """

    def __init__(
        self,
        broker: Broker,
        options: ChannelOptions,
        time: Time,
        edges: int,
        handlers: Handlers | None = None,
        events: Iterable[tuple[str, str]] = (),
        make_presence: Callable[[Hub, int], Presence] = Presence,
    ):
        self.time = time
        self.handlers = handlers
        self.events = events
        self.make_presence = make_presence
        self.edges = [Edge(options, time, worker=n) for n in range(1, edges + 1)]
        self.restart(broker)
        for edge in self.edges:
            edge.connect(self.author)
        self.settle()

    def restart(self, broker: Broker) -> None:
        """Replace the author by another process with this broker; all links end."""
        for edge in self.edges:
            edge.cut()
        self.node = make_node(
            time=self.time,
            broker=broker,
            run=run,
            handlers=self.handlers,
            make_presence=self.make_presence,
        )
        meter = Meter(self.node, Unsent(), Pulse(self.time.seconds))
        self.measures = Measures(meter.measure)
        self.author = Author(self.node, self.events, self.measures)

    def settle(self) -> None:
        """Let everything arrive that is under way, and deliver it."""
        for _ in range(20):
            for edge in self.edges:
                if edge.link is not None:
                    edge.link.bring_up()
                    edge.link.bring_down()
            self.time.pass_on()


def result(cluster: Cluster, coroutine: Any) -> Any:
    """The result of a call when everything has arrived; raises its error."""
    results: list[Any] = []
    call = Deferred.fromCoroutine(coroutine)
    call.addBoth(results.append)
    cluster.settle()
    if not results:
        raise AssertionError("the call waits")
    if hasattr(results[0], "raiseException"):
        results[0].raiseException()
    return results[0]


def say(cluster: Cluster, client: Client, *commands: dict[str, Any]) -> list[Any]:
    """The replies and pushes that a client has when everything has arrived."""
    found = client.say(*commands)
    cluster.settle()
    return [*found, *client.transport.take()]


class Wire:
    """The Unix socket between two processes on one memory reactor."""

    def __init__(self, reactor: Any):
        self._reactor = reactor
        self.ends: list[tuple[Any, StringTransport]] = []

    def connect(self, path: str) -> None:
        """Accept the last attempt of a process to connect to the socket at this path."""
        wanted, client, *_ = self._reactor.unixClients[-1]
        assert wanted == path
        (server,) = [port[1] for port in self._reactor.unixServers if port[0] == path]
        protocols = [factory.buildProtocol(None) for factory in (client, server)]
        self.ends = [(protocol, StringTransport()) for protocol in protocols]
        for protocol, transport in self.ends:
            transport.abortConnection = self.cut  # type: ignore[method-assign]
            protocol.makeConnection(transport)
        self.pump()

    def pump(self) -> None:
        """Carry the bytes of both ends to the other, until there are none."""
        while any(transport.value() for _, transport in self.ends):
            for (_, here), (there, _) in (self.ends, self.ends[::-1]):
                data = here.value()
                here.clear()
                if data:
                    there.dataReceived(data)

    def cut(self) -> None:
        """End the connection at both ends."""
        ends, self.ends = self.ends, []
        for protocol, _ in ends:
            protocol.connectionLost(Failure(ConnectionDone()))
