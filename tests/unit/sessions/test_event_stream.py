from __future__ import annotations

import gc
from dataclasses import replace
from itertools import pairwise

import pytest

from pushserver.channels.channel import ChannelOptions
from pushserver.channels.position import Cursor, Start
from pushserver.config.limits import Limits
from pushserver.sessions.base import CLOSING_SECONDS
from pushserver.sessions.event_stream import RETRY_MILLISECONDS, Stream
from pushserver.sessions.node import Node
from tests.unit.fakes.tools import EPOCH, LINES, Reader, Time, drive, make_node, publish, row

NOW = Start()
QUIET = replace(LINES, answered=False)


def follow(reader: Reader, channels: str = "a", start: Start = NOW) -> None:
    drive(reader.stream.follow(list(channels), start))


def test_stream_starts_with_its_position_and_continues_live() -> None:
    node = make_node()
    publish(node, "a", "before")
    reader = Reader(node)
    follow(reader)
    publish(node, "a", "after", "newnumber")
    opening, live = reader.take()
    assert opening == {
        "subscribed": {
            "channel": "a",
            "epoch": EPOCH,
            "offset": 1,
            "id": "e1:1",
            "recovered": False,
        }
    }
    assert (live["data"], live["event"], live["offset"], live["id"]) == (
        "after",
        "newnumber",
        2,
        "e1:2",
    )


def test_missed_publications_of_several_channels_come_first_and_in_order() -> None:
    node = make_node()
    for name in "abcab":
        publish(node, name)
    reader = Reader(node)
    follow(reader, "ab", Start(since=Cursor(EPOCH, 1)))
    assert len(reader.transport.frames) == 1
    publish(node, "a")
    messages = reader.take()
    assert [note["subscribed"]["offset"] for note in messages[:2]] == [1, 0]
    assert all(note["subscribed"]["recovered"] for note in messages[:2])
    assert [(p["channel"], p["offset"], p["id"]) for p in messages[2:]] == [
        ("b", 1, "e1:2"),
        ("a", 2, "e1:4"),
        ("b", 2, "e1:5"),
        ("a", 3, "e1:6"),
    ]


def test_stream_that_cannot_resume_sends_a_reset_first_and_is_live() -> None:
    node = make_node(ChannelOptions(history_size=1))
    for _ in range(3):
        publish(node, "a")
    reader = Reader(node)
    follow(reader, "a", Start(since=Cursor(EPOCH, 1)))
    publish(node, "a")
    opening, reset, live = reader.take()
    assert (opening["subscribed"]["offset"], opening["subscribed"]["recovered"]) == (3, False)
    assert reset == {"reset": {"reason": "evicted", "epoch": EPOCH, "id": "e1:3"}}
    assert live["offset"] == 4


def test_reconnect_delay_differs_from_client_to_client() -> None:
    retries: list[int] = []

    def make_opening(channels: object, reset: object, retry: int) -> bytes:
        retries.append(retry)
        return b"0\n"

    node = make_node()
    for _ in range(50):
        follow(Reader(node, replace(LINES, make_opening=make_opening)))
    assert all(RETRY_MILLISECONDS[0] <= retry <= RETRY_MILLISECONDS[1] for retry in retries)
    assert len(set(retries)) > 10


def test_text_from_the_reader_ends_the_stream() -> None:
    node = make_node()
    reader = Reader(node)
    follow(reader)
    reader.stream.received(b"hello")
    assert reader.closed is not None
    assert reader.closed[0] == 1008
    assert "POST" in reader.closed[1]
    assert node.hub.channels() == {}
    reader.stream.received(b"hello again")


def wait(node: Node, time: Time, seconds: int) -> None:
    for _ in range(seconds):
        time.now += 1
        node.peers.tick(node.monotonic())


def test_stream_without_answers_sends_heartbeats() -> None:
    time = Time()
    node = make_node(time=time, limits=Limits(heartbeat_seconds=20))
    reader = Reader(node, QUIET)
    follow(reader)
    reader.take()
    beats = []
    for second in range(1, 200):
        wait(node, time, 1)
        beats += [second for beat in reader.take() if beat == "ping"]
    assert reader.closed is None
    assert 14 <= beats[0] <= 22
    assert all(14 <= b - a <= 22 for a, b in pairwise(beats))


def test_peer_without_a_pong_is_dropped_and_an_answering_one_stays() -> None:
    time = Time()
    node = make_node(time=time, limits=Limits(ping_seconds=10, dead_seconds=5))
    alive, dead = Reader(node), Reader(node)
    follow(alive)
    follow(dead)
    alive.take()
    pings = 0
    for _ in range(100):
        wait(node, time, 1)
        if "ping" in alive.take():
            pings += 1
            alive.stream.alive()
    assert alive.closed is None
    assert pings > 5
    assert dead.closed == (1008, "no pong")
    assert node.hub.channels() == {"a": 1}


def test_ended_stream_sends_no_heartbeat() -> None:
    time = Time()
    node = make_node(time=time)
    reader = Reader(node)
    follow(reader)
    reader.stream.shut_down()
    reader.take()
    wait(node, time, 100)
    assert reader.take() == []
    assert reader.closed == (1001, "the server is shutting down")


def test_stream_is_closed_once() -> None:
    reader = Reader(make_node())
    follow(reader)
    reader.stream.shut_down()
    reader.stream.disconnect(1008, "again")
    reader.stream.insufficient("a")
    assert reader.closed == (1001, "the server is shutting down")


def test_gap_ends_the_stream() -> None:
    node = make_node()
    reader = Reader(node)
    drive(reader.stream.follow(["numbers", "b"], Start()))
    node.hub.deliver(row(5))
    assert reader.closed is not None
    assert reader.closed[0] == 1013
    assert node.hub.channels() == {}


def test_connection_that_stays_after_the_close_is_dropped() -> None:
    time = Time()
    node = make_node(time=time)
    gone, stays = Reader(node), Reader(node)
    for reader in (gone, stays):
        follow(reader, "ab")
        reader.stream.disconnect(1008, "enough")
    gone.stream.closed()
    time.now += CLOSING_SECONDS - 1
    node.peers.tick(node.monotonic())
    assert not stays.transport.aborted
    time.now += 2
    node.peers.tick(node.monotonic())
    assert (gone.transport.aborted, stays.transport.aborted) == (False, True)
    assert node.hub.metrics.ended == {"1008": 2}
    stays.stream.closed()
    assert len(node.peers) == 0


def test_dropped_reader_leaves_the_hub_at_once() -> None:
    node = make_node()
    reader = Reader(node)
    follow(reader, "ab")
    reader.stream.abort()
    assert reader.transport.aborted
    assert node.hub.channels() == {}


@pytest.mark.parametrize("channels", ["a", "ab"])
def test_reader_that_leaves_is_forgotten(channels: str) -> None:
    node = make_node()
    for _ in range(3):
        reader = Reader(node)
        follow(reader, channels)
        reader.stream.closed()
        reader.stream.closed()
        del reader
    gc.collect()
    assert not [
        o for o in gc.get_objects() if isinstance(o, Stream) and getattr(o, "node", None) is node
    ]
    assert (node.hub.channels(), len(node.peers), node.hub.history.channels) == ({}, 0, {})


def test_no_ping_is_sent_behind_unread_bytes() -> None:
    time = Time()
    node = make_node(time=time)
    reader = Reader(node)
    reader.transport.block()
    for _ in range(40):
        time.now += 1
        node.peers.tick(node.monotonic())
    assert reader.take() == []
    assert not reader.transport.aborted
    reader.transport.drain()
    for _ in range(30):
        time.now += 1
        node.peers.tick(node.monotonic())
    assert reader.take() == ["ping"]


def test_reader_that_stops_reading_is_dropped() -> None:
    time = Time()
    node = make_node(time=time)
    reader = Reader(node)
    reader.transport.block()
    for _ in range(90):
        time.now += 1
        node.peers.tick(node.monotonic())
    assert reader.transport.aborted
    assert (node.hub.metrics.ended["1013"], node.hub.metrics.slow) == (1, 1)
