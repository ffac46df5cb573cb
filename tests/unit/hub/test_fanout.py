"""Fan-out past the transports: each gets exactly what was published while it was there.

First the hub with subscribers that have real outlets; then the whole server with Twisted's
own TCP transports, over sockets that take what they are told to. Half of those transports
are of a subclass, for which the ordinary way out is taken: both give the same bytes.
"""

from __future__ import annotations

import json
import re
from socket import IPPROTO_TCP, TCP_NODELAY
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.address import IPv4Address
from twisted.internet.tcp import Server as TCPServer

from pushserver.channels.publication import ClientInfo, Draft, Publication
from pushserver.config.limits import Limits
from pushserver.hub.hub import Hub
from pushserver.protocols.formats import Format, each
from pushserver.transports.outlet import PlainOutlet, make_outlet
from tests.unit.fakes.tools import (
    FakeOutlet,
    Shape,
    Watcher,
    deliver,
    drive,
    make_hub,
    make_node,
    programs,
)
from tests.unit.fakes.web import Frame, Server, handshake, masked, parse, request
from tests.unit.fakes.web import frames as parse_frames
from tests.unit.transports.test_outlet import (
    PLENTY,
    Derived,
    Peer,
    Wire,
    backlog,
    make_transport,
    turn,
)

Op = tuple[Any, ...]

CONNECT = b'{"id":1,"connect":{}}'
SUBSCRIBE = b'{"id":2,"subscribe":{"channel":"numbers"}}'
SUBSCRIBE_WITH_LEAVES = b'{"id":2,"subscribe":{"channel":"numbers","join_leave":true}}'


FRAMES = re.compile(rb"(<head>|\([^)]*\)|\[\w+ (\w+) [^\]]*\])")


def encoded(name: str, channel: str, offset: int, data: bytes) -> bytes:
    return b"[%b %b %d %b]" % (name.encode(), channel.encode(), offset, data)


def shape(name: str) -> Format:
    def publication(row: Publication) -> bytes:
        return encoded(name, row.channel, row.offset, row.data)

    return Format(name, each(publication), 1003)


SHAPES = [shape("one"), shape("two")]


class Member(Peer):
    """A subscriber with an outlet; `expected` is what it is to be sent, replies apart.

    That is all that was published in a channel while it was there, in order. Channels have
    no order among them.
    """

    def __init__(self, world: World, number: int, queue: int):
        self.world = world
        self.info = ClientInfo(str(number))
        self.format = SHAPES[number % 2]
        self.channels: list[str] = []
        self.reactions: list[str] = []
        self.fails = False
        self.expected: dict[bytes, bytes] = {b"": b"<head>"}
        super().__init__(PlainOutlet if number == 4 else make_outlet, queue, head=b"<head>")

    def send(self, frame: bytes) -> None:
        self.outlet.write(frame)
        if self.reactions:
            self.world.publish(self.reactions.pop(), 10)
        if self.fails:
            self.fails = False
            raise ValueError("it fails")

    def insufficient(self, channel: str) -> None:
        raise AssertionError("a gap")

    def slow(self, queued: int) -> None:
        for channel in tuple(self.channels):
            self.leave(channel)
        super().slow(queued)

    def expect(self, channel: str, frame: bytes) -> None:
        key = channel.encode()
        self.expected[key] = self.expected.get(key, b"") + frame

    def _say(self, piece: bytes) -> None:
        super()._say(piece)
        self.expect("", piece)

    def came(self) -> dict[bytes, bytes]:
        """What came by channel, with what may have come in part at the end."""
        found: dict[bytes, bytes] = {}
        for frame, channel in FRAMES.findall(self.wire.taken):
            found[channel] = found.get(channel, b"") + frame
        return found

    def compare(self) -> None:
        taken = self.wire.taken
        came = self.came()
        assert all(self.expected[channel].startswith(text) for channel, text in came.items())
        whole = sum(map(len, came.values()))
        rest = bytes(taken[whole:])
        assert b"".join(frame for frame, _ in FRAMES.findall(taken)) == taken[:whole]
        assert not rest or any(
            text[len(came.get(channel, b"")) :].startswith(rest)
            for channel, text in self.expected.items()
        )

    def join(self, channel: str) -> None:
        if channel not in self.channels and self.open:
            self.channels.append(channel)
            drive(self.world.hub.subscribe(self, channel, None, 0))

    def leave(self, channel: str) -> None:
        if channel in self.channels:
            self.channels.remove(channel)
            assert self.world.hub.unsubscribe(self, channel)


class World:
    """A hub and its members."""

    def __init__(self, queues: tuple[int, ...] = (PLENTY,) * 5):
        self.reports = 0
        self.published = 0
        self.node = make_node(report=self.report)
        self.hub: Hub = self.node.hub
        self.members = [Member(self, number, queue) for number, queue in enumerate(queues)]

    def report(self, what: str) -> None:
        self.reports += 1

    def publish(self, channel: str, size: int) -> None:
        self.published += 1
        data = b'"%d"' % self.published + b" " * size
        offset = self.hub.history.top(channel) + 1
        for member in self.members:
            if channel in member.channels:
                member.expect(channel, encoded(member.format.name, channel, offset, data))
        drive(self.node.publish(Draft(channel, data)))

    def check(self) -> None:
        for member in self.members:
            member.check()
        for channel in "abc":
            audience = self.hub._audiences.get(channel)
            there = [m for m in self.members if channel in m.channels]
            assert self.hub.size(channel) == len(there)
            for group_shape, group in {} if audience is None else audience.groups.items():
                mine = [m for m in there if m.format is group_shape]
                assert set(group.others) == {m for m in mine if m.outlet.direct is None}
                ready = {m.outlet.direct: m for m in mine if m.outlet.direct}
                assert group.ready == ready

    def end(self) -> None:
        for member in self.members:
            member.drain()
        self.check()
        for member in self.members:
            if not member.slowness:
                assert member.came() == member.expected


CHANNELS = st.sampled_from("aabc")
WHO = st.integers(0, 4)
MEMBERS = (
    st.tuples(st.just("publish"), CHANNELS, st.integers(0, 60))
    | st.tuples(st.just("publish"), CHANNELS, st.integers(0, 400))
    | st.tuples(st.just("join"), WHO, CHANNELS)
    | st.tuples(st.just("room"), WHO, st.integers(0, 400))
    | st.tuples(st.just("turn"), WHO)
    | st.tuples(st.sampled_from(["leave", "react"]), WHO, CHANNELS)
    | st.tuples(st.just("bite"), WHO, st.integers(1, 60) | st.just(PLENTY))
    | st.tuples(st.sampled_from(["fail", "drain"]), WHO)
    | st.tuples(st.just("reply"), WHO, st.integers(1, 60))
)


def step(world: World, op: Op) -> None:
    what, *values = op
    if what == "publish":
        world.publish(*values)
        return
    member = world.members[values[0]]
    match what:
        case "room" | "bite":
            setattr(member.wire, what, values[1])
        case "fail":
            member.fails = True
        case "react":
            member.reactions.append(values[1])
        case "reply" if member.open:
            world.published += 1
            member.write(b"(%d" % world.published + b"." * values[1] + b")")
        case "join" | "leave" | "turn" | "drain":
            getattr(member, what)(*values[1:])


def play(world: World, ops: list[Op]) -> World:
    # Some are there from the beginning, ready, so that most publications reach somebody.
    for member in world.members:
        member.turn()
        member.join("a")
    for op in ops:
        step(world, op)
        world.check()
    world.end()
    return world


@given(ops=programs(MEMBERS, most=100))
def test_everybody_gets_exactly_what_was_published_while_it_was_there(ops: list[Op]) -> None:
    world = play(World(), ops)
    assert all(not member.slowness for member in world.members)


@given(ops=programs(MEMBERS, most=100))
def test_also_when_some_do_not_read_and_are_dropped(ops: list[Op]) -> None:
    play(World((PLENTY, 100, 100, PLENTY, 100)), ops)


@given(
    ops=programs(MEMBERS, most=80).map(
        lambda ops: [op for op in ops if op[0] == "publish" or op[1] != 0]
    ),
    queue=st.sampled_from([60, 200, PLENTY]),
)
def test_one_that_stops_reading_changes_nothing_for_the_others(ops: list[Op], queue: int) -> None:
    worlds = [World((queue, PLENTY, PLENTY, PLENTY, PLENTY)) for _ in range(2)]
    worlds[0].members[0].wire.room = 0
    for world in worlds:
        play(world, ops)
    stuck, reading = ([bytes(m.wire.taken) for m in world.members] for world in worlds)
    assert stuck[1:] == reading[1:]


def test_one_in_several_channels_is_moved_in_all_of_them() -> None:
    world = World()
    member = world.members[0]
    member.turn()
    for channel in "abc":
        member.join(channel)
    member.wire.room = 5
    world.publish("a", 0)
    for channel in "abc":
        assert not world.hub._audiences[channel].groups[member.format].ready
        world.publish(channel, 0)
    world.check()
    member.drain()
    for channel in "abc":
        assert not world.hub._audiences[channel].groups[member.format].others
        world.publish(channel, 0)
    world.end()


def test_an_error_of_one_socket_is_not_the_others() -> None:
    world = World()
    for member in world.members:
        member.turn()
        member.join("a")
    world.members[0].wire.error = 32
    for _ in range(3):
        world.publish("a", 5)
    for member in world.members[1:]:
        member.drain()
        assert member.came() == member.expected
    assert world.reports == 0


def test_each_delivery_is_counted_whichever_way_it_took() -> None:
    world = World()
    for member in world.members:
        member.turn()
        member.join("a")
    world.members[2].wire.room = 3
    world.publish("a", 5)
    world.publish("a", 5)
    assert world.hub.metrics.deliveries == 10


# -- what changes sides within a pass -------------------------------------------------------------


class Ready(Watcher):
    """A subscriber that is sent to directly."""

    def __init__(self, name: str, format: Format):
        super().__init__(name, format)
        self.outlet: Any = FakeOutlet()
        self.outlet.direct = self.take_all

    def take_all(self, frame: bytes) -> int:
        self.frames.append(frame)
        return len(frame)


def watched(host_does: Any) -> Ready:
    """Publish to a host that is sent to one by one, and to a ready guest of another format."""
    hub = make_hub()
    host, guest = Watcher("host"), Ready("guest", Shape("other").format)
    for watcher in (host, guest):
        drive(hub.subscribe(watcher, "numbers", None, 0))
    host.on_send = lambda frame: host_does(hub, guest)
    deliver(hub)
    host.on_send = lambda frame: None
    deliver(hub)
    return guest


def test_one_that_is_blocked_in_a_pass_before_its_turn_misses_nothing() -> None:
    def block(hub: Hub, guest: Ready) -> None:
        guest.outlet.direct = None
        guest.audiences["numbers"].block(guest, guest.take_all)

    assert watched(block).offsets == [1, 2]


def test_one_that_is_drained_in_a_pass_before_its_turn_gets_nothing_twice() -> None:
    def drain(hub: Hub, guest: Ready) -> None:
        guest.outlet.direct = guest.take_all
        guest.audiences["numbers"].unblock(guest)

    hub = make_hub()
    host, guest = Watcher("host"), Ready("guest", Shape("other").format)
    guest.outlet.direct = None
    for watcher in (host, guest):
        drive(hub.subscribe(watcher, "numbers", None, 0))
    host.on_send = lambda frame: drain(hub, guest)
    deliver(hub)
    assert guest.offsets == [1]


def test_one_that_joins_ready_in_a_pass_gets_it_from_the_history_alone() -> None:
    hub = make_hub()
    other = Shape("other").format
    host, there, guest = Watcher("host"), Ready("there", other), Ready("guest", other)
    for watcher in (host, there):
        drive(hub.subscribe(watcher, "numbers", None, 0))
    joined: list[Any] = []
    host.on_send = lambda frame: joined.append(drive(hub.subscribe(guest, "numbers", None, 10)))
    deliver(hub)
    assert [row.offset for row in joined[0].publications] + guest.offsets == [1]


# -- the whole server -----------------------------------------------------------------------------


class Socket(Wire):
    """With an address."""

    def getsockname(self) -> tuple[str, int]:
        return "127.0.0.1", 8080


class Plug:
    """A client's end of a raw WebSocket, with Twisted's own transport on the server's."""

    request = request("/channels/numbers", **handshake())

    def __init__(self, server: Server, kind: type[TCPServer]):
        self.server = server
        self.wire = Socket()
        protocol: Any = server.site.buildProtocol(IPv4Address("TCP", "127.0.0.1", 50000))
        self.transport = make_transport(self.wire, server.clock, protocol, kind)
        protocol.makeConnection(self.transport)
        self.send(self.request)
        # The head, and what the conversation begins with.
        self.turn()
        self.turn()
        self.begin()

    def begin(self) -> None:
        """Until it is live; what came up to then is its own."""
        assert parse(bytes(self.wire.taken)).status == 101
        self.before = len(self.wire.taken)

    def send(self, data: bytes) -> None:
        """Nothing of what it causes is written by the reactor before the next turn."""
        if self.transport.connected:
            self.transport.protocol.dataReceived(data)

    def turn(self) -> None:
        """A turn of the reactor for this connection alone: the others' sockets stay as they are."""
        clock = self.server.clock
        others = [writer for writer in clock.writers if writer is not self.transport]
        for writer in others:
            clock.removeWriter(writer)
        turn(clock)
        for writer in others:
            clock.addWriter(writer)

    def drain(self) -> None:
        """Read all there is."""
        self.wire.room = self.wire.bite = PLENTY
        self.turn()
        for _ in range(1000):
            if self.transport not in self.server.clock.writers:
                return
            self.turn()
        raise AssertionError("it writes for ever")

    @property
    def conversation(self) -> Any:
        """The server's side."""
        peers: list[Any] = list(self.server.node.peers)
        [found] = [p for p in peers if p.outlet._transport is self.transport]
        return found

    def ping(self, payload: bytes) -> None:
        self.send(masked(payload, opcode=9))

    def leave(self) -> None:
        """From the client's side."""
        self.send(masked(b"\x03\xe8", opcode=8))

    def came(self) -> bytes:
        return bytes(self.wire.taken[self.before :])

    def seen(self) -> list[tuple[str, Any]]:
        """What came, each part by its kind."""
        return [self.part(frame) for frame in parse_frames(self.came())]

    def part(self, frame: Frame) -> tuple[str, Any]:
        match frame.opcode:
            case 1:
                return self.told(json.loads(frame.payload))
            case 8:
                return CLOSE
            case 10:
                return "pong", frame.payload
        raise AssertionError(frame)

    def told(self, value: Any) -> tuple[str, Any]:
        return "publication", value["data"]["n"]


CLOSE = ("close", None)


class Session(Plug):
    """On the Centrifuge protocol."""

    request = request("/connection/websocket", **handshake())

    def begin(self) -> None:
        super().begin()
        self.send(masked(CONNECT + b"\n" + SUBSCRIBE))
        self.turn()
        self.before = len(self.wire.taken)

    def ask(self, number: int) -> None:
        self.send(masked(b'{"id":%d,"ping":{}}' % number))

    def told(self, value: Any) -> tuple[str, Any]:
        if "push" in value:
            return "publication", value["push"]["pub"]["data"]["n"]
        return "reply", value["id"]


class Lines(Plug):
    """A response without an end."""

    request = request("/channels/numbers", accept="application/x-ndjson")

    def begin(self) -> None:
        assert parse(bytes(self.wire.taken)).status == 200
        self.before = bytes(self.wire.taken).index(b"\r\n\r\n")

    def leave(self) -> None:
        """Nothing that it could say."""

    def seen(self) -> list[tuple[str, Any]]:
        answer = parse(bytes(self.wire.taken))
        found = [self.told(json.loads(line)) for line in answer.body.splitlines() if line]
        found = [part for part in found if part[0] == "publication"]
        return [*found, CLOSE] if answer.whole else found

    def told(self, value: Any) -> tuple[str, Any]:
        return super().told(value) if "data" in value else ("other", value)


class Observer(Lines):
    """On the Centrifuge protocol over NDJSON; it wants to hear of joins and leaves."""

    request = request("/connection/http_stream", "POST", CONNECT + b"\n" + SUBSCRIBE_WITH_LEAVES)

    def told(self, value: Any) -> tuple[str, Any]:
        publication = value.get("push", {}).get("pub")
        return ("publication", publication["data"]["n"]) if publication else ("other", value)


class Pair:
    """Two clients that do the same, one sent to directly and the other in the ordinary way.

    `story` is what each has to see, replies apart: those may come later.
    """

    def __init__(self, server: Server, kind: type[Plug]):
        self.plugs = kind(server, TCPServer), kind(server, Derived)
        self.kind = kind
        self.story: list[tuple[str, Any]] = []
        self.asked: list[int] = []
        self.ended = False

    def ping(self, payload: bytes) -> None:
        if self.kind is not Lines:
            self.story.append(("pong", payload))
            for plug in self.plugs:
                plug.ping(payload)

    def ask(self, number: int) -> None:
        for plug in self.plugs:
            if isinstance(plug, Session):
                plug.ask(number)
        self.asked.append(number)

    def close(self, by_client: bool) -> None:
        self.ended = True
        self.story.append(CLOSE)
        for plug in self.plugs:
            if by_client and self.kind is not Lines:
                plug.leave()
            else:
                plug.conversation.disconnect(3000, "enough")

    def check(self) -> None:
        for plug in self.plugs:
            plug.drain()
            seen = plug.seen()
            assert [part for part in seen if part[0] != "reply"] == self.story
            if isinstance(plug, Session):
                replies = [number for what, number in seen if what == "reply"]
                assert replies == self.asked[: len(replies)]
                assert self.ended or replies == self.asked
        if self.kind is not Session:
            one, other = self.plugs
            assert one.came() == other.came()

    def end(self) -> None:
        if not self.ended:
            self.close(by_client=False)
        for plug in self.plugs:
            plug.drain()
            plug.leave()
            plug.drain()
            assert plug.wire.closed
            assert plug.transport.producer is None


KINDS: list[type[Plug]] = [Plug, Session, Lines]
PLUGS = st.tuples(st.integers(0, 2), st.integers(0, 1))
PAIRS = st.integers(0, 2)
CLIENTS = (
    st.tuples(st.just("publish"), st.integers(0, 40))
    | st.tuples(st.just("publish"), st.integers(0, 300))
    | st.tuples(st.just("ping"), PAIRS, st.integers(4, 60))
    | st.tuples(st.just("ask"), PAIRS)
    | st.tuples(st.just("room"), PLUGS, st.integers(0, 500))
    | st.tuples(st.just("bite"), PLUGS, st.integers(1, 100) | st.just(PLENTY))
    | st.tuples(st.just("turn"), PLUGS)
    | st.tuples(st.just("turn"), PLUGS)
    | st.tuples(st.just("close"), PAIRS, st.booleans())
)


def act(server: Server, pairs: list[Pair], number: int, op: Op) -> None:
    what, *values = op
    if what == "publish":
        publish_number(server, number, *values)
        for pair in pairs:
            if not pair.ended:
                pair.story.append(("publication", number))
    elif what in ("room", "bite", "turn"):
        (pair, side), *given = values
        plug = pairs[pair].plugs[side]
        if given:
            setattr(plug.wire, what, *given)
        else:
            plug.turn()
    elif not pairs[values[0]].ended:
        pair = pairs[values[0]]
        match what:
            case "ping":
                pair.ping((b"%d" % number).ljust(values[1], b"."))
            case "ask":
                pair.ask(number + 10)
            case "close":
                pair.close(values[1])


def publish_number(server: Server, number: int, size: int = 100) -> None:
    data = b'{"n":%d,"p":"%b"}' % (number, b"x" * size)
    drive(server.node.publish(Draft("numbers", data)))


@given(ops=programs(CLIENTS, most=80))
def test_every_client_gets_the_same_bytes_whichever_way_they_go(ops: list[Op]) -> None:
    server = Server()
    pairs = [Pair(server, kind) for kind in KINDS]
    groups = server.hub._audiences["numbers"].groups.values()
    assert [(len(group.ready), len(group.others)) for group in groups] == [(1, 1)] * 3
    for number, op in enumerate(ops):
        act(server, pairs, number, op)
    for pair in pairs:
        pair.check()
        pair.end()
    assert server.is_empty()


@pytest.mark.parametrize("kind", [TCPServer, Derived])
@pytest.mark.parametrize("room", [0, 10, PLENTY])
def test_a_peers_close_frame_is_answered_and_never_followed(kind: Any, room: int) -> None:
    server = Server()
    plugs = [cls(server, kind) for cls in (Plug, Session)]
    for plug in plugs:
        plug.wire.room = room
    publish_number(server, 0)
    for number, plug in enumerate(plugs, 1):
        plug.leave()
        publish_number(server, number)
    for plug in plugs:
        plug.drain()
    publish_number(server, 3)
    one, other = plugs
    assert one.seen() == [("publication", 0), CLOSE]
    assert other.seen() == [("publication", 0), ("publication", 1), CLOSE]


@pytest.mark.parametrize("kind", [Plug, Session, Lines, Observer])
def test_nagle_is_off_whoever_asks(kind: type[Plug]) -> None:
    options = kind(Server(), TCPServer).wire.options
    nodelay = [value for *option, value in options if option == [IPPROTO_TCP, TCP_NODELAY]]
    assert nodelay[-1] is True


def test_the_drop_of_one_costs_another_nothing_that_hears_of_it() -> None:
    # One that never reads is dropped within a pass. Another, of a format that comes later in
    # this pass, is told that it left, and its socket takes only the half of that.
    server = Server(Limits(queue_bytes=1_000))
    stuck, observer = Session(server, TCPServer), Observer(server, TCPServer)
    stuck.wire.room = 0
    last = 0
    outlet = stuck.conversation.outlet
    # One in the transport's buffer, and one on its way.
    while backlog(outlet) <= 4_000 + len(outlet._backlog._pieces[0]) if last > 1 else True:
        publish_number(server, last)
        last += 1
    observer.wire.room = 20
    publish_number(server, last)
    assert stuck.transport._aborting
    observer.drain()
    publish_number(server, last + 1)
    assert observer.seen() == [("publication", number) for number in range(last + 2)]
