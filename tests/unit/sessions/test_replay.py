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
from pushserver.protocols.formats import STREAM_LINES
from pushserver.sessions import replay_cache
from pushserver.sessions.base import CLOSED, Conversation
from pushserver.sessions.event_stream import Stream
from pushserver.sessions.node import Node
from tests.unit.fakes.sockets import PLENTY, Peer, backlog
from tests.unit.fakes.tools import EPOCH, Time, drive, make_node, programs, publish

CHANNELS = ("a", "b", "c")


class Wire(Peer):
    """The transport of a one-way stream, over an outlet and a socket."""

    format = STREAM_LINES

    def __init__(self, queue: int = PLENTY, room: int = PLENTY) -> None:
        super().__init__(bounds=(queue, 10.0))
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

    def slow(self, queued: int) -> None:
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


def follow(node: Node, wire: Wire, start: Start, channels: tuple[str, ...] = CHANNELS) -> Stream:
    stream = Stream(node, wire)
    drive(stream.follow(channels, start))
    return stream


@pytest.fixture(autouse=True)
def _small_portions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay_cache, "PORTION_BYTES", 600)
    monkeypatch.setattr(replay_cache.Replays.start, "__defaults__", (1_500,))


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
