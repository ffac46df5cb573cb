"""Long replays over a real outlet: portions as the reader reads, and live publications behind."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pushserver.channels.channel import ChannelOptions
from pushserver.channels.position import Cursor, Start
from pushserver.channels.publication import Publication
from pushserver.protocols.formats import SESSION_LINES, STREAM_LINES
from pushserver.sessions import command_queue, commands, replay_cache
from pushserver.sessions.base import CLOSED, Conversation
from pushserver.sessions.callbacks import ClientSession, NoHandlers
from pushserver.sessions.event_stream import Stream
from pushserver.sessions.node import Node
from pushserver.sessions.session import Session
from tests.unit.fakes.sockets import PLENTY, Peer, backlog
from tests.unit.fakes.tools import EPOCH, Time, drive, make_node, programs, publish

CHANNELS = ("a", "b", "c")


class Wire(Peer):
    """A transport over an outlet and a socket."""

    def __init__(self, room: int = PLENTY, format: Any = STREAM_LINES) -> None:
        super().__init__()
        self.format = format
        self.conversation = None
        self.turn()
        self.socket.room = room
        self.ended = False

    def attach(self, conversation: Conversation[Any]) -> None:
        self.conversation = conversation

    def write(self, frame: bytes) -> None:
        if not self.ended:
            self.outlet.write(frame)

    def replay(self, frames: Iterator[bytes]) -> None:
        if not self.ended:
            self.outlet.replay(frames)

    def close(self, code: int, reason: str) -> None:
        if not self.ended:
            self.ended = True
            if self.outlet.finish():
                self.transport.write(b'{"end": 1}\n')
                self.transport.loseConnection()
            else:
                self.transport.abortConnection()

    def abort(self) -> None:
        self.ended = True
        self.outlet.finish()
        self.transport.abortConnection()

    def slow(self, queued: int, setting: str = "queue_bytes") -> None:
        self.slowness.append(queued)
        self.conversation.slow()

    @property
    def received(self) -> list[Any]:
        """The values of all whole lines."""
        *lines, _ = bytes(self.socket.taken).split(b"\n")
        return [json.loads(line) for line in lines if line]

    @property
    def data(self) -> list[Any]:
        return [value["data"] for value in self.received if "data" in value]


class Inviting(NoHandlers):
    """An application that puts each client into these channels."""

    def __init__(self, channels: Sequence[str]):
        self.channels = channels

    async def connect(self, session: ClientSession, data: bytes) -> bytes:
        for channel in self.channels:
            await session.invite(channel)
        return b""


class Follower:
    """A client of the Centrifuge protocol that takes its positions as the official ones do."""

    def __init__(self, node: Node, room: int = PLENTY):
        self.wire = Wire(room, SESSION_LINES)
        self.session = Session(node, self.wire, commands.answer)
        self.data: list[Any] = []
        self.positions: dict[str, int] = {}
        self.longest = 0
        self._seen = 0

    def say(self, **command: Any) -> None:
        self.session.received(json.dumps({"id": 1, **command}).encode())
        self.read()

    def read(self) -> None:
        """Take all lines that have arrived."""
        for value in self.wire.received[self._seen :]:
            self._seen += 1
            self.longest = max(self.longest, len(json.dumps(value)))
            push = value.get("push", {})
            if "pub" in push:
                self._take(push["channel"], push["pub"])
            for channel, answer in value.get("connect", {}).get("subs", {}).items():
                self._subscribed(channel, answer)
            if "subscribe" in value:
                self._subscribed("a", value["subscribe"])

    def _subscribed(self, channel: str, answer: Any) -> None:
        self.positions[channel] = answer.get("offset", 0)
        for publication in answer.get("publications", ()):
            self._take(channel, publication)

    def _take(self, channel: str, publication: Any) -> None:
        assert publication["offset"] == self.positions[channel] + 1, channel
        self.positions[channel] += 1
        self.data.append(publication["data"])


def follow(node: Node, wire: Wire, start: Start, channels: tuple[str, ...] = CHANNELS) -> Stream:
    stream = Stream(node, wire)
    drive(stream.follow(channels, start))
    return stream


@pytest.fixture(autouse=True)
def _small_portions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay_cache, "PORTION_BYTES", 600)
    monkeypatch.setattr(replay_cache.Replays.first, "__defaults__", (1_500,))
    monkeypatch.setattr(commands._subscribed, "__defaults__", (1_500,))
    monkeypatch.setattr(commands, "FIRST_BYTES", 1_500)
    monkeypatch.setattr(command_queue, "FIRST_BYTES", 1_500)


STEPS = st.one_of(
    st.tuples(st.just("publish"), st.sampled_from(CHANNELS), st.integers(0, 400)),
    st.tuples(st.just("publish"), st.sampled_from(CHANNELS), st.integers(0, 400)),
    st.tuples(st.just("room"), st.integers(0, 3_000) | st.just(PLENTY)),
    st.tuples(st.just("turn"), st.integers(1, 20)),
    st.tuples(st.just("rest"), st.just(0)),
)


@pytest.mark.parametrize("size", [300, 5])
@given(before=st.integers(0, 60), missed=st.integers(0, 60), steps=programs(STEPS))
def test_replayed_and_live_publications_come_once_and_in_order(
    size: int, before: int, missed: int, steps: list[Any]
) -> None:
    """With a history of five, rows of the replay are evicted before they are sent."""
    time = Time()
    node = make_node(ChannelOptions(history_size=size), time=time)
    published: list[Any] = []

    def put(channel: str, length: int) -> None:
        published.append([len(published), channel, "." * length])
        publish(node, channel, published[-1])

    for n in range(before + missed):
        put(CHANNELS[n % 3], 40 * (n % 7))
    start = Start(since=Cursor(EPOCH, before)) if size == 300 else Start(oldest=True)
    rows = node.history.read(CHANNELS, start).publications
    del published[: len(published) - len(rows)]
    assert [json.loads(row.data) for row in rows] == published
    first = before + missed - len(rows)
    wire = Wire(room=0)
    stream = follow(node, wire, start)
    for kind, *values in steps:
        if kind == "publish":
            channel, length = values
            published.append([first + len(published), channel, "." * length])
            publish(node, channel, published[-1])
        elif kind == "room":
            wire.socket.room = values[0]
        elif kind == "turn":
            for _ in range(values[0]):
                wire.turn()
        else:
            time.pass_on()
        got = wire.data
        assert got == published[: len(got)]
    wire.drain()
    time.pass_on()
    wire.drain()
    assert wire.data == published
    stream.disconnect(1001, "bye")
    wire.drain()
    stream.closed()
    assert stream.state is CLOSED


def test_memory_of_a_reader_that_reads_nothing_is_a_portion() -> None:
    node = make_node(ChannelOptions(history_size=1_000))
    for n in range(1_000):
        publish(node, "a", [n, "." * 100])
    wire = Wire(room=0)
    follow(node, wire, Start(oldest=True), ("a",))
    for _ in range(100):
        wire.turn()
    assert backlog(wire.outlet) < 6_000
    wire.drain()
    assert [value[0] for value in wire.data] == list(range(1_000))


def test_readers_of_the_same_history_share_its_portions() -> None:
    node = make_node(ChannelOptions(history_size=200))
    for n in range(200):
        publish(node, "a", [n, "." * 100])
    made: list[int] = []

    def encode(rows: Sequence[Publication]) -> bytes:
        made.append(len(rows))
        return STREAM_LINES.publications(rows)

    counted = replace(STREAM_LINES, publications=encode)
    wires = [Wire() for _ in range(20)]
    for wire in wires:
        wire.format = counted
        follow(node, wire, Start(oldest=True), ("a",))
    for wire in wires:
        wire.drain()
        assert [value[0] for value in wire.data] == list(range(200))
    assert sum(made) == 200


def test_end_during_a_replay_leaves_out_all_behind_it() -> None:
    node = make_node(ChannelOptions(history_size=200))
    for n in range(200):
        publish(node, "a", [n, "." * 100])
    wire = Wire(room=0)
    stream = follow(node, wire, Start(oldest=True), ("a",))
    publish(node, "a", [200, "live"])
    wire.socket.room = 10_000
    for _ in range(300):
        wire.turn()
    stream.shut_down()
    wire.drain()
    numbers = [value[0] for value in wire.data]
    assert numbers == list(range(len(numbers)))
    assert 40 < len(numbers) < 150
    assert wire.received[-1] == {"end": 1}


def long_history(*channels: str, handlers: Any = None) -> Node:
    """A node with sixty publications of 170 bytes in each channel."""
    node = make_node(ChannelOptions(history_size=300), handlers=handlers)
    for n in range(60):
        for channel in channels:
            publish(node, channel, [channel, n, "." * 150])
    return node


class TestCentrifuge:
    @pytest.mark.parametrize("recover", [{"recover": True}, {"data": {"last": 60}}])
    def test_long_recovery_is_a_reply_and_pushes(self, recover: Any) -> None:
        node = long_history("a")
        client = Follower(node)
        client.say(connect={})
        client.wire.socket.room = 0
        client.say(subscribe={"channel": "a", **recover})
        publish(node, "a", ["a", 60, "live"])
        for _ in range(500):
            client.wire.turn()
        assert backlog(client.wire.outlet) < 6_000
        while client.wire.outlet.blocked_at is not None:
            client.wire.socket.room = 1_000
            client.wire.turn()
            client.read()
        publish(node, "a", ["a", 61, "live"])
        client.read()
        assert [value[1] for value in client.data] == list(range(62))
        assert client.longest < 3_000

    def test_position_during_a_recovery_is_that_of_the_last_publication(self) -> None:
        node = long_history("a")
        data: list[Any] = []
        position: dict[str, Any] = {"offset": 0}
        for _ in range(100):
            client = Follower(node, room=4_000)
            client.say(connect={})
            client.say(subscribe={"channel": "a", "recover": True, "epoch": EPOCH, **position})
            for _ in range(100):
                client.wire.turn()
            client.read()
            data += client.data
            if client.positions["a"] == 60:
                break
            assert client.data, "no progress"
            position = {"offset": client.positions["a"]}
            client.session.closed()
        assert [value[1] for value in data] == list(range(60))

    @pytest.mark.parametrize("recovered", [True, False])
    def test_recoveries_of_many_channels_share_one_bound(self, recovered: bool) -> None:
        channels = [f"c{n}" for n in range(12)]
        node = long_history(*channels, handlers=Inviting(channels))
        client = Follower(node, room=0)
        position = {"recover": True, "epoch": EPOCH, "offset": 0}
        client.say(connect={"subs": dict.fromkeys(channels, position) if recovered else {}})
        for channel in channels:
            publish(node, channel, [channel, 60, "live"])
        for _ in range(100):
            client.wire.turn()
        # The live publications wait behind, and nothing else.
        assert backlog(client.wire.outlet) < 6_000 + 12 * 150
        client.wire.drain()
        client.read()
        expected = range(0 if recovered else 50, 61)
        for channel in channels:
            got = [value[1] for value in client.data if value[0] == channel]
            assert got == list(expected)

    def test_commands_wait_for_the_end_of_a_recovery(self) -> None:
        node = long_history("a")
        client = Follower(node)
        client.say(connect={})
        client.wire.socket.room = 0
        client.say(subscribe={"channel": "a", "recover": True})
        client.say(history={"channel": "a", "limit": -1})
        for _ in range(100):
            client.wire.turn()
        assert not any("history" in value for value in client.wire.received)
        client.wire.drain()
        assert "history" in client.wire.received[-1]

    def test_batch_of_histories_is_answered_as_the_client_reads(self) -> None:
        node = long_history("a")
        client = Follower(node)
        client.say(connect={})
        client.wire.socket.room = 0
        commands = [{"id": n, "history": {"channel": "a", "limit": -1}} for n in range(2, 202)]
        client.session.received("\n".join(map(json.dumps, commands)).encode())
        reply = 60 * 300
        for _ in range(20):
            client.wire.socket.room = 50_000
            for _ in range(200):
                client.wire.turn()
            # One reply is on its way.
            assert backlog(client.wire.outlet) < reply
        ids = [value["id"] for value in client.wire.received if "history" in value]
        assert ids == list(range(2, 2 + len(ids)))
        assert 5 < len(ids) < 150
