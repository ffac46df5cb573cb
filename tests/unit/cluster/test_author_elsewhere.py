"""An author whose own log is elsewhere: it loads the channels that its followers want."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import pytest
from twisted.internet.defer import Deferred

from pushserver.channels.publication import Draft
from pushserver.cluster.author import AGAIN_SECONDS, LOAD_SECONDS, Author, FollowerLink
from pushserver.cluster.messages import (
    Attach,
    Failed,
    Follow,
    Forgotten,
    Frames,
    FromAuthor,
    Images,
    Leave,
    Row,
)
from pushserver.errors import LimitExceeded, Unavailable
from pushserver.hub.follower import Point
from tests.unit.fakes.cluster import MOST, run
from tests.unit.fakes.tools import Time, drive, make_node


class World:
    """An author and one link; the test answers the calls of `load`."""

    def __init__(self) -> None:
        self.time = Time()
        self.node = make_node(time=self.time)
        self.loads: list[tuple[Sequence[str], bool, Deferred[None]]] = []
        cast(Any, self.node).load = self._load
        self.author = Author(self.node)
        frames = Frames(FromAuthor, MOST)
        self.sent: list[Any] = []

        def send(data: bytes) -> None:
            self.sent += frames.feed(data)

        self.link = FollowerLink(self.author, send, send, run)

    async def _load(self, channels: Sequence[str], fresh: bool = False) -> None:
        loaded: Deferred[None] = Deferred()
        self.loads.append((channels, fresh, loaded))
        await loaded

    def take(self) -> list[Any]:
        sent, self.sent = self.sent, []
        return sent

    def publish(self) -> None:
        drive(self.node.publish(Draft("a", b"1")))


@pytest.fixture
def world() -> World:
    return World()


def test_images_come_when_the_channels_are_here(world: World) -> None:
    world.link.received(Follow(7, [Point("a")]))
    [(channels, fresh, loaded)] = world.loads
    assert (channels, fresh, world.take()) == (["a"], True, [])
    world.publish()
    loaded.callback(None)
    [images] = world.take()
    assert isinstance(images, Images)
    assert (images.call, [len(image.rows) for image in images.images]) == (7, [1])
    world.publish()
    assert [type(message) for message in world.take()] == [Row]


def test_failure_is_that_of_the_call(world: World) -> None:
    world.link.received(Follow(7, [Point("a")]))
    world.loads[0][2].errback(Unavailable("Redis is away", "broker"))
    [failed] = world.take()
    assert isinstance(failed, Failed)
    assert failed.call == 7


def test_link_that_was_lost_meanwhile_follows_nothing(world: World) -> None:
    world.link.received(Follow(7, [Point("a")]))
    world.link.received(Attach([Point("b", "e", 1)]))
    world.link.lost()
    for *_, loaded in world.loads:
        loaded.callback(None)
    world.publish()
    assert world.take() == []
    assert world.author._links == {}


def test_channels_of_a_follower_that_comes_back_are_waited_for(world: World) -> None:
    world.link.received(Attach([Point("a", "e", 1)]))
    for n in range(3):
        channels, fresh, loaded = world.loads[n]
        assert (channels, fresh) == (["a"], False)
        if n < 2:
            loaded.errback(Unavailable("Redis is away", "broker"))
            world.time.now += AGAIN_SECONDS
            world.time.turn()
    assert world.take() == []
    world.publish()
    world.loads[-1][2].callback(None)
    [images] = world.take()
    assert [image.channel for image in images.images] == ["a"]


@pytest.mark.parametrize("error", [Unavailable("away", "broker"), LimitExceeded("full", "x")])
def test_wait_has_an_end(world: World, error: Unavailable) -> None:
    world.link.received(Attach([Point("a", "e", 1)]))
    if not isinstance(error, LimitExceeded):
        world.time.now += LOAD_SECONDS
    world.loads[0][2].errback(error)
    [images] = world.take()
    assert images.images == []


def test_follower_without_channels_is_not_kept_waiting(world: World) -> None:
    world.link.received(Attach([]))
    assert world.loads == []
    assert [message.images for message in world.take()] == [[]]


def test_followers_begin_anew_with_a_channel_that_was_replaced(world: World) -> None:
    world.link.received(Follow(7, [Point("a")]))
    world.loads[0][2].callback(None)
    world.take()
    world.author.replaced("a")
    world.author.replaced("a")
    assert world.take() == [Forgotten("a")]
    world.publish()
    assert world.take() == []


class TestAChangeDuringTheAttach:
    """The follower joins or leaves a channel while its other ones are loaded."""

    def test_new_channel_comes_after_those_that_it_had(self, world: World) -> None:
        world.publish()
        epoch = world.node.history.peek("a").epoch
        world.link.received(Attach([Point("a", epoch, 1)]))
        world.loads[0][2].errback(Unavailable("Redis is away", "broker"))
        world.link.received(Follow(7, [Point("y")]))
        assert len(world.loads) == 1
        world.time.now += AGAIN_SECONDS
        world.time.turn()
        world.loads[1][2].callback(None)
        [images] = world.take()
        assert (images.call, [image.channel for image in images.images]) == (0, ["a"])
        world.loads[2][2].callback(None)
        [images] = world.take()
        assert (images.call, [image.channel for image in images.images]) == (7, ["y"])

    def test_channel_that_was_left_is_followed_no_more(self, world: World) -> None:
        world.publish()
        epoch = world.node.history.peek("a").epoch
        world.link.received(Attach([Point("a", epoch, 1)]))
        world.link.received(Leave(["a"]))
        world.loads[0][2].callback(None)
        world.take()
        assert world.author._links == {}
        world.publish()
        assert world.take() == []

    def test_link_that_is_lost_forgets_it(self, world: World) -> None:
        world.link.received(Attach([Point("a", "e", 1)]))
        world.link.received(Follow(7, [Point("y")]))
        world.link.lost()
        world.loads[0][2].callback(None)
        assert len(world.loads) == 1
        assert world.take() == []
