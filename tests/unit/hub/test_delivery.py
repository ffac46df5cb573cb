"""The guarantee: every publication once and in order, or the reader is told of a gap.

Random publications, evictions, disconnects, reconnects and restarts over the memory broker, as
clients see them, which know only the frames that they got.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pushserver.channels.channel import ChannelOptions
from pushserver.channels.history import History
from pushserver.channels.position import Start, parse_cursor
from tests.unit.fakes.tools import (
    Client,
    Reader,
    Time,
    drive,
    make_broker,
    make_node,
    programs,
    publish,
)

Op = tuple[Any, ...]


class World:
    """Servers, one after the other, and all publications."""

    def __init__(self, options: ChannelOptions):
        self.options = options
        self.time = Time()
        self.life = 0
        self.truth: dict[tuple[str, str, int], int] = {}
        self.start()

    def start(self) -> None:
        self.life += 1
        self.epoch = f"e{self.life}"
        history = History(lambda name: self.options, self.epoch)
        broker = make_broker(history=history, time=self.time)
        self.node = make_node(broker=broker, time=self.time)
        self.hub = self.node.hub

    def publish(self, channel: str, size: int) -> None:
        number = len(self.truth)
        log = self.hub.history.peek(channel)
        epoch, offset = log.epoch, log.top + 1
        assert (epoch, channel, offset) not in self.truth
        # Noted first, as it is sent during the call.
        self.truth[epoch, channel, offset] = number
        receipt = publish(self.node, channel, {"n": number, "padding": "x" * size})
        assert (receipt.epoch, receipt.offset) == (epoch, offset)


class Log:
    """The positions of one client by channel; raises AssertionError at a gap or a repetition."""

    def __init__(self, world: World):
        self.world = world
        self.at: dict[str, tuple[str, int]] = {}
        self.gaps = 0

    def recovered(self, channel: str, epoch: str, offset: int) -> None:
        before, last = self.at[channel]
        if before == epoch:
            assert offset == last, f"{channel} continues from {offset} after {last}"
        else:
            # The channel was forgotten, and had no more publications before.
            assert offset == 0, f"{channel} continues from {offset} in another generation"
            assert (before, channel, last + 1) not in self.world.truth
        self.at[channel] = (epoch, offset)

    def begins(self, channel: str, epoch: str, offset: int) -> None:
        self.gaps += channel in self.at
        self.at[channel] = (epoch, offset)

    def event(self, channel: str, offset: int, data: Any) -> None:
        epoch, last = self.at[channel]
        assert offset == last + 1, f"{channel}: {offset} after {last}"
        assert data["n"] == self.world.truth[epoch, channel, offset]
        self.at[channel] = (epoch, offset)


class Peer:
    """A client that connects, disconnects, and resumes from its position."""

    def __init__(self, world: World, channels: str):
        self.world = world
        self.channels = channels
        self.log = Log(world)
        self.reactions: list[Op] = []
        self.live = False

    connected = False

    def connect(self) -> None:
        raise NotImplementedError

    def drop(self) -> None:
        raise NotImplementedError

    def react(self) -> None:
        if self.live and self.reactions:
            do(self.world, self.peers, self.reactions.pop())

    peers: list[Peer]


class SessionPeer(Peer):
    """On the Centrifuge protocol, with a position for each channel."""

    def connect(self) -> None:
        self.client = Client(self.world.node, connect=False)
        self.client.transport.on_write = self.read
        self.connected = True
        self.live = False
        self.client.session.received(b'{"id":1,"connect":{}}')
        for number, channel in enumerate(self.channels, 2):
            request: dict[str, Any] = {"channel": channel, "flag": 1}
            if channel in self.log.at:
                epoch, offset = self.log.at[channel]
                request |= {"recover": True, "epoch": epoch, "offset": offset}
            self.asked = channel
            command = {"id": number, "subscribe": request}
            self.client.session.received(json.dumps(command).encode())
        self.live = True

    def read(self, frame: bytes) -> None:
        for message in map(json.loads, frame.splitlines()):
            if "subscribe" in message:
                result, channel = message["subscribe"], self.asked
                rows = result.get("publications", [])
                if result.get("recovered"):
                    self.log.recovered(channel, result["epoch"], result.get("offset", 0))
                else:
                    self.log.begins(channel, result["epoch"], result.get("offset", 0) - len(rows))
                for row in rows:
                    self.log.event(channel, row["offset"], row["data"])
            elif "push" in message:
                pub = message["push"]["pub"]
                self.log.event(message["push"]["channel"], pub["offset"], pub["data"])
                self.react()

    def drop(self) -> None:
        self.connected = False
        self.client.transport.aborted = True
        self.client.session.closed()


class StreamPeer(Peer):
    """On a raw stream, with one cursor for all its channels."""

    cursor = ""

    def connect(self) -> None:
        self.reader = Reader(self.world.node)
        self.reader.transport.on_write = self.read
        self.connected = True
        self.live = False
        start = Start(since=parse_cursor(self.cursor)) if self.cursor else Start(last=2)
        drive(self.reader.stream.follow(list(self.channels), start))
        self.live = True

    def read(self, frame: bytes) -> None:
        for message in map(json.loads, frame.splitlines()):
            if "subscribed" in message:
                note = message["subscribed"]
                if note["recovered"]:
                    assert note["id"] == self.cursor
                    self.log.recovered(note["channel"], note["epoch"], note["offset"])
                else:
                    self.log.begins(note["channel"], note["epoch"], note["offset"])
                self.cursor = note["id"]
            elif "reset" not in message:
                self.log.event(message["channel"], message["offset"], message["data"])
                self.cursor = message["id"]
                self.react()

    def drop(self) -> None:
        self.connected = False
        self.reader.transport.aborted = True
        self.reader.stream.closed()


def do(world: World, peers: list[Peer], op: Op) -> None:
    match op:
        case ("publish", channel, size):
            world.publish(channel, size)
        case ("connect", number) if not peers[number].connected:
            peers[number].connect()
        case ("drop", number) if peers[number].connected:
            peers[number].drop()
        case ("clear", channel):
            drive(world.node.clear(channel))
        case ("expire", seconds):
            world.time.now += seconds
            world.node.expire()
        case ("restart",):
            for peer in peers:
                if peer.connected:
                    peer.drop()
            world.start()
        case ("react", number, reactions):
            peers[number].reactions = list(reactions)


def play(options: ChannelOptions, ops: list[Op]) -> list[Peer]:
    """Do all operations, reconnect all clients, and check that each is at the top."""
    world = World(options)
    peers: list[Peer] = [
        SessionPeer(world, "ab"),
        StreamPeer(world, "abc"),
        SessionPeer(world, "a"),
        StreamPeer(world, "b"),
    ]
    for peer in peers:
        peer.peers = peers
    for op in ops:
        do(world, peers, op)
    for peer in peers:
        peer.reactions.clear()
        if not peer.connected:
            peer.connect()
    for peer in peers:
        for channel in peer.channels:
            log = world.hub.history.peek(channel)
            assert peer.log.at[channel] == (log.epoch, log.top)
    for peer in peers:
        peer.drop()
    assert world.hub.channels() == {}
    assert len(world.node.peers) == 0
    return peers


channels = st.sampled_from("abc")
number = st.integers(0, 3)
publishes = st.tuples(st.just("publish"), channels, st.sampled_from([0, 0, 30]))
connects = st.tuples(st.just("connect"), number)
drops = st.tuples(st.just("drop"), number)
clears = st.tuples(st.just("clear"), channels)
plain = (
    publishes
    | publishes
    | connects
    | connects
    | drops
    | clears
    | st.tuples(st.just("expire"), st.integers(1, 8))
    | st.just(("restart",))
)


def reacting(inner: st.SearchStrategy[Op]) -> st.SearchStrategy[list[Op]]:
    """Programs in which the next publication may make a peer act."""
    reacts = st.tuples(st.just("react"), number, st.lists(inner, min_size=1, max_size=3))
    return programs(plain | reacts | reacts)


options = st.builds(
    ChannelOptions,
    history_size=st.sampled_from([0, 1, 2, 5, 300]),
    history_bytes=st.sampled_from([0, 60, 100_000]),
    history_ttl=st.sampled_from([0.0, 10.0]),
    initial=st.integers(0, 3),
    recovery_limit=st.sampled_from([1, 3, 300]),
)


@given(options, programs(plain))
def test_every_reader_gets_all_publications_once_and_in_order_or_a_gap(
    options: ChannelOptions, ops: list[Op]
) -> None:
    play(options, ops)


@given(options, reacting(publishes | clears))
def test_guarantee_holds_when_subscribers_publish_during_a_delivery(
    options: ChannelOptions, ops: list[Op]
) -> None:
    play(options, ops)


@settings(max_examples=3 * settings().max_examples)
@given(options, reacting(publishes | clears | connects | drops))
def test_guarantee_holds_when_others_join_and_leave_during_a_delivery(
    options: ChannelOptions, ops: list[Op]
) -> None:
    play(options, ops)


def test_reader_that_returns_in_time_has_no_gap() -> None:
    """The properties above would also hold if every reader were always told of a gap."""
    ops: list[Op] = [("connect", n) for n in range(4)]
    for n in range(4):
        ops += [("publish", "a", 0), ("drop", n), ("publish", "a", 0), ("publish", "b", 0)]
        ops += [("connect", n), ("publish", "b", 0)]
    assert [peer.log.gaps for peer in play(ChannelOptions(), ops)] == [0, 0, 0, 0]


@pytest.mark.parametrize(
    ("options", "ops"),
    [
        (ChannelOptions(history_size=1), [("publish", "a", 0), ("publish", "a", 0)]),
        (ChannelOptions(recovery_limit=1), [("publish", "a", 0), ("publish", "a", 0)]),
        (ChannelOptions(history_bytes=0), [("publish", "a", 0)]),
        (ChannelOptions(), [("publish", "a", 0), ("clear", "a")]),
        (ChannelOptions(history_ttl=5), [("publish", "a", 0), ("expire", 5)]),
        (ChannelOptions(), [("restart",)]),
    ],
)
def test_reader_that_missed_evicted_publications_has_a_gap(
    options: ChannelOptions, ops: list[Op]
) -> None:
    start: list[Op] = [("connect", 2), ("publish", "a", 0), ("drop", 2)]
    assert play(options, [*start, *ops])[2].log.gaps == 1
