"""The rules of each script, on a real server."""

from __future__ import annotations

from typing import Any

import pytest

from pushserver.channels.channel import ChannelOptions
from pushserver.channels.publication import ClientInfo, Draft
from pushserver.hub.follower import Image, Point
from pushserver.redis import rows, scripts
from pushserver.redis.keys import Keys
from pushserver.redis.rows import Appended, Cleared
from pushserver.redis.scripts import Attached, Bounds, Numbered
from tests.redis.server import RedisError, RedisServer

KEYS = Keys()
OPTIONS = ChannelOptions(history_size=3, history_ttl=0)


class Node:
    """A node with a connection of its own."""

    def __init__(self, server: RedisServer, name: str = "n1", keep: bool = False):
        self.name, self.keep = name, keep
        self.options, self.bounds = OPTIONS, Bounds()
        self.counter = 0
        self.connect(server)

    def connect(self, server: RedisServer) -> None:
        """Another connection, which is not attached."""
        self.redis = server.connect()
        self.run = self.redis.run_id()

    def attach(self, epoch: str = "e1") -> Attached:
        call = scripts.attach(KEYS, self.run, epoch, self.keep, self.name)
        return scripts.attached_of(self.redis.run(call))

    def publish(self, channel: str = "a", data: bytes = b"1", **more: Any) -> Numbered:
        self.counter += 1
        return self.send(self.counter, Draft(channel, data, **more))

    def send(self, counter: int, draft: Draft) -> Numbered:
        call = scripts.publish(KEYS, self.run, self.name, counter, draft, self.options, self.bounds)
        return scripts.numbered_of(self.redis.run(call))

    def image(self, channel: str = "a", epoch: str = "", offset: int = 0) -> Image:
        points = [Point(channel, epoch, offset)]
        call = scripts.image(KEYS, self.run, points)
        return scripts.images_of(points, self.redis.run(call)).images[0]

    def clear(self, channel: str = "a") -> list[int]:
        answer: list[int] = self.redis.run(scripts.clear(KEYS, self.run, channel, self.bounds))
        return answer

    def log(self, epoch: str = "e1") -> list[Appended | Cleared]:
        return [rows.entry_of(epoch, e) for e in self.redis("XRANGE", KEYS.log, "-", "+")]

    def close(self) -> None:
        self.redis.close()


@pytest.fixture
def node(shared_redis: RedisServer) -> Any:
    shared_redis.connection("FLUSHALL")
    node = Node(shared_redis)
    node.attach()
    yield node
    node.close()


def offsets(image: Image) -> list[int]:
    return [row.offset for row in image.rows]


def test_publications_are_numbered_in_their_channels_and_over_all(node: Node) -> None:
    found = [node.publish(channel) for channel in "aba"]
    assert [(one.kind, one.seq, one.offset) for one in found] == [
        ("new", 1, 1),
        ("new", 2, 1),
        ("new", 3, 2),
    ]
    assert {(one.epoch, one.generation) for one in found} == {("e1", 0)}


def test_log_and_history_have_the_draft(node: Node) -> None:
    info = ClientInfo("c", "ü", b"{}", b"[1]")
    data = b'{"a": "\xc3\xbc"}'
    draft = Draft("x:\u00fc\u4e2d", data, "event", {"a": "\u00fc"}, info, skip=("me",))
    numbers = node.send(1, draft)
    (entry,) = node.log()
    assert isinstance(entry, Appended)
    row = entry.publication
    assert (row.channel, row.data, row.event, row.tags, row.info) == (
        draft.channel,
        data,
        "event",
        {"a": "\u00fc"},
        info,
    )
    assert (row.seq, row.offset, row.time) == (1, 1, numbers.time / 1000)
    assert (entry.node, entry.counter, entry.skip) == ("n1", 1, ("me",))
    assert node.image(draft.channel).rows == [row]


def test_only_the_newest_rows_are_retained(node: Node) -> None:
    for _ in range(5):
        node.publish()
    image = node.image()
    assert (offsets(image), image.floor, image.floor_seq) == ([3, 4, 5], 2, 2)


def test_fenced(node: Node) -> None:
    node.run = "other"
    with pytest.raises(RedisError, match=r"^FENCED "):
        node.publish()


def test_clear(node: Node) -> None:
    node.publish()
    node.publish()
    assert node.clear() == [2, 2, 1]
    assert node.clear() == [0, 2, 2]
    assert node.clear("b") == [0, 2, 0]
    assert node.log()[2:] == [Cleared("a", 2, 1), Cleared("a", 2, 2)]
    image = node.image()
    assert (offsets(image), image.floor, image.floor_seq, image.evicted) == ([], 2, 2, 2)
