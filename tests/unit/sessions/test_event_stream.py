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


def test_a_stream_begins_with_where_it_stands_and_goes_on_live() -> None:
    node = make_node()
    publish(node, "a", "before")
    reader = Reader(node)
    follow(reader)
    publish(node, "a", "after", "newnumber")
    begun, live = reader.take()
    assert begun == {
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


def test_what_was_missed_in_several_channels_comes_first_and_in_order() -> None:
    node = make_node()
    for name in "abcab":
        publish(node, name)
    reader = Reader(node)
    follow(reader, "ab", Start(since=Cursor(EPOCH, 1)))
    assert len(reader.transport.frames) == 1
    publish(node, "a")
    taken = reader.take()
    assert [note["subscribed"]["offset"] for note in taken[:2]] == [1, 0]
    assert all(note["subscribed"]["recovered"] for note in taken[:2])
    assert [(p["channel"], p["offset"], p["id"]) for p in taken[2:]] == [
        ("b", 1, "e1:2"),
        ("a", 2, "e1:4"),
        ("b", 2, "e1:5"),
        ("a", 3, "e1:6"),
    ]


def test_a_stream_that_cannot_go_on_says_so_before_anything_else_and_is_live() -> None:
    node = make_node(ChannelOptions(history_size=1))
    for _ in range(3):
        publish(node, "a")
    reader = Reader(node)
    follow(reader, "a", Start(since=Cursor(EPOCH, 1)))
    publish(node, "a")
    begun, reset, live = reader.take()
    assert (begun["subscribed"]["offset"], begun["subscribed"]["recovered"]) == (3, False)
    assert reset == {"reset": {"reason": "evicted", "epoch": EPOCH, "id": "e1:3"}}
    assert live["offset"] == 4


def test_the_time_to_come_back_after_differs_from_client_to_client() -> None:
    retries: list[int] = []

    def begin(channels: object, reset: object, retry: int) -> bytes:
        retries.append(retry)
        return b"0\n"

    node = make_node()
    for _ in range(50):
        follow(Reader(node, replace(LINES, make_opening=begin)))
    assert all(RETRY_MILLISECONDS[0] <= retry <= RETRY_MILLISECONDS[1] for retry in retries)
    assert len(set(retries)) > 10


def test_a_text_from_a_reader_ends_the_stream() -> None:
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


def test_a_stream_whose_heartbeats_are_not_answered_shows_that_it_lives() -> None:
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


def test_a_peer_that_does_not_answer_is_dropped_and_one_that_does_stays() -> None:
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


def test_an_ended_stream_is_not_woken_to_say_anything() -> None:
    time = Time()
    node = make_node(time=time)
    reader = Reader(node)
    follow(reader)
    reader.stream.shut_down()
    reader.take()
    wait(node, time, 100)
    assert reader.take() == []
    assert reader.closed == (1001, "the server is shutting down")


def test_an_end_is_one_end() -> None:
    reader = Reader(make_node())
    follow(reader)
    reader.stream.shut_down()
    reader.stream.disconnect(1008, "again")
    reader.stream.insufficient("a")
    assert reader.closed == (1001, "the server is shutting down")


def test_a_gap_ends_the_stream_so_that_the_reader_comes_back_with_its_cursor() -> None:
    node = make_node()
    reader = Reader(node)
    drive(reader.stream.follow(["numbers", "b"], Start()))
    node.hub.deliver(row(5))
    assert reader.closed is not None
    assert reader.closed[0] == 1013
    assert node.hub.channels() == {}


def test_a_stream_that_has_ended_and_is_still_there_is_dropped() -> None:
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


def test_dropping_a_reader_leaves_the_hub_at_once() -> None:
    node = make_node()
    reader = Reader(node)
    follow(reader, "ab")
    reader.stream.abort()
    assert reader.transport.aborted
    assert node.hub.channels() == {}


@pytest.mark.parametrize("channels", ["a", "ab"])
def test_a_reader_that_goes_leaves_nothing_behind(channels: str) -> None:
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


def test_no_ping_waits_behind_what_a_slow_reader_has_to_read_first() -> None:
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


def test_a_reader_that_does_not_read_on_at_all_is_dropped() -> None:
    time = Time()
    node = make_node(time=time)
    reader = Reader(node)
    reader.transport.block()
    for _ in range(90):
        time.now += 1
        node.peers.tick(node.monotonic())
    assert reader.transport.aborted
    assert node.hub.metrics.ended["1013"] == 1
