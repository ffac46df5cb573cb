from __future__ import annotations

import re

import pytest

from pushserver.channels.channel import ChannelOptions
from pushserver.channels.position import Position
from pushserver.channels.publication import Draft
from pushserver.errors import Unavailable
from pushserver.sessions.node import Node, new_id
from tests.unit.fakes.tools import EPOCH, Time, Watcher, drive, make_node, publish


def test_id_of_a_client_cannot_be_guessed_and_fits_into_a_url() -> None:
    ids = {new_id() for _ in range(1_000)}
    assert len(ids) == 1_000
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{16,}", client) for client in ids)


def watch(node: Node, channel: str = "numbers") -> Watcher:
    watcher = Watcher()
    drive(node.hub.subscribe(watcher, channel, None, 0))
    return watcher


def test_stopping_node_refuses_publications_with_the_reason() -> None:
    node = make_node()
    watcher = watch(node)
    publish(node)
    node.stop_publishing()
    with pytest.raises(Unavailable, match="shutting down"):
        drive(node.publish(Draft("numbers", b"1")))
    assert watcher.offsets == [1]
    assert node.history.seq == 1
    assert node.metrics.refusals == {"stopping": 1}


def test_clearing_drops_the_history_and_keeps_the_watchers() -> None:
    node = make_node()
    watcher = watch(node)
    publish(node)
    drive(node.clear("numbers"))
    assert node.history.peek("numbers").last(9) == []
    assert node.history.resume("numbers", Position(EPOCH, 0)).reason == "evicted"
    assert node.history.resume("numbers", Position("", 1)).recovered
    publish(node)
    assert watcher.offsets == [1, 2]


def test_expiring_forgets_channels_but_not_watched_ones() -> None:
    time = Time()
    node = make_node(ChannelOptions(history_ttl=10), time=time)
    publish(node, "a")
    publish(node, "b")
    watcher = watch(node, "b")
    time.now += 10.0
    node.expire()
    assert list(node.history.channels) == ["b"]
    assert node.metrics.evictions == 2
    publish(node, "b")
    assert watcher.offsets == [2]
