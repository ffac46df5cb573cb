"""A node whose Redis is another one than that of the other nodes does not use it."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock

from pushserver.redis.agreement import Agreement
from pushserver.redis.agreement_scripts import AGREE
from pushserver.redis.commands import Gone
from pushserver.redis.keys import Keys
from pushserver.redis.layout import Misplaced
from pushserver.redis.registry import BEAT_SECONDS
from tests.unit.fakes.tools import drive


class Shard:
    """The log of a shard, whose server says that others have another epoch of the `strange`."""

    def __init__(self, number: int) -> None:
        self.keys = Keys(f"{{ps{number}}}")
        self.attached = SimpleNamespace(epoch=f"e{number}")
        self.own: Any = SimpleNamespace(send=self._send, run="run", attached=self.attached)
        self.session: Any = None
        self.strange: list[int] = []
        self.claims: list[list[bytes]] = []
        self.left: list[str] = []
        self.is_gone = False

    def _send(self, command: Sequence[bytes]) -> Deferred[Any]:
        if self.is_gone:
            return fail(Gone("gone"))
        if command[0] == b"HGET":
            return succeed(b"past;")
        assert command[1] == AGREE.sha
        self.claims.append(list(command[7:]))
        return succeed(self.strange)

    def connect_again(self, reason: str, short: str) -> None:
        self.left.append(reason)
        self.session = None


class World:
    def __init__(self) -> None:
        self.clock = Clock()
        self.shards = [Shard(0), Shard(1)]
        self.agreement = Agreement(lambda: self.shards, self.clock.seconds)

    def enter(self, number: int) -> None:
        drive(self.agreement.enter(number, self.shards[number].own))
        self.shards[number].session = self.shards[number].own


@pytest.fixture
def world() -> World:
    return World()


def test_each_server_is_told_of_all_that_are_used(world: World) -> None:
    first, second = world.shards
    world.enter(0)
    world.enter(1)
    own, other = [b"0", b"e0", b"past;"], [b"1", b"e1", b"past;"]
    assert (first.claims, second.claims) == ([own, own + other], [own + other])
    first.session = None
    world.clock.advance(BEAT_SECONDS)
    for number in (0, 1):
        drive(world.agreement.work(number))
    assert (len(first.claims), second.claims[-1]) == (2, other)
    drive(world.agreement.work(1))
    assert len(second.claims) == 2, "told again after a pause"


def test_strange_server_is_not_used(world: World) -> None:
    first, second = world.shards
    world.enter(0)
    first.strange = [1]
    with pytest.raises(Misplaced, match="another Redis as shard 1"):
        world.enter(1)
    assert (first.left, second.left) == ([], [])


def test_strange_server_that_came_first_is_left(world: World) -> None:
    first, second = world.shards
    world.enter(1)
    first.strange = [1]
    world.enter(0)
    assert (len(second.left), first.left) == (1, [])
    world.clock.advance(BEAT_SECONDS)
    first.strange = [0]
    drive(world.agreement.work(0))
    assert len(first.left) == 1


def test_server_that_is_lost_says_nothing(world: World) -> None:
    first, _ = world.shards
    world.enter(0)
    first.is_gone = True
    world.enter(1)
    drive(world.agreement.work(0))
    with pytest.raises(Gone):
        world.enter(0)
