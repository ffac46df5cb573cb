"""A node with the logs of two servers: each works alone, and all agree on their places."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from pushserver.channels.placement import Placement
from pushserver.channels.position import Start
from pushserver.channels.publication import Draft
from pushserver.channels.sharded_history import ShardedHistory
from pushserver.config.redis_url import Address
from pushserver.errors import Unavailable
from pushserver.hub.follower import Follower
from pushserver.hub.metrics import Metrics
from pushserver.redis.layout import Layout, Misplaced, Waits
from pushserver.redis.log import RedisLog
from pushserver.redis.shards import ShardedLeases, ShardedLog, ShardPlace
from pushserver.redis.state import State, combined
from tests.unit.cluster.test_follower_model import WIDE
from tests.unit.fakes.cluster import run
from tests.unit.fakes.redis import FakeConnection, FakeRedis
from tests.unit.fakes.tools import Time, Watcher, make_node
from tests.unit.fakes.web import Trouble

PLACEMENT = Placement(2, {"left": 0, "right": 1})
LEFT, RIGHT = "left:1", "right:1"


class World:
    """One node, attached to both."""

    def __init__(self) -> None:
        self.time, self.clock = Time(), Clock()
        self.servers = [FakeRedis(self.time) for _ in range(2)]
        self.log = ShardedLog(PLACEMENT, self._make_log, self.clock.seconds)
        options = WIDE
        history = ShardedHistory(lambda name: options, PLACEMENT, 2)
        follower = Follower(history, Metrics(), self.log, self.time.seconds)
        self.log.feed(follower)
        self.node = make_node(time=self.time, broker=follower, run=run)
        follower.reset = self.node.hub.reset
        self.links: list[list[Any]] = [[log._writing, log._reading] for log in self.log.logs]
        self.log.start()
        self.connect(0, 1)

    def _make_log(self, shard: int, place: ShardPlace) -> RedisLog:
        class Connection(FakeConnection):
            redis = self.servers[shard]

        class Log(RedisLog):
            make_connection: Any = Connection
            pace_seconds = 0.0

        address = Address(f"r{shard}")
        return Log(
            address, self.clock, self.clock.seconds, lambda name: WIDE, shard=shard, place=place
        )

    def connect(self, *shards: int) -> None:
        for shard in shards:
            for link in self.links[shard]:
                link.connect()
        self.settle()

    def cut(self, shard: int) -> None:
        for link in self.links[shard]:
            link.again("a fault")

    def settle(self) -> None:
        """Let everything arrive."""
        links = [link for both in self.links for link in both]
        while any([link.bring_up() for link in links] + [link.bring_down() for link in links]):
            pass
        self.time.pass_on()

    def call(self, coroutine: Any) -> Any:
        """The answer to a call."""
        answers: list[Any] = []
        Deferred.fromCoroutine(coroutine).addBoth(answers.append)
        self.settle()
        [answer] = answers
        if hasattr(answer, "raiseException"):
            answer.raiseException()
        return answer

    def publish(self, channel: str, data: int = 1) -> Any:
        return self.call(self.node.publish(Draft(channel, b"%d" % data)))


@pytest.fixture
def world() -> World:
    return World()


def test_each_channel_is_in_the_log_of_its_namespace(world: World) -> None:
    left, right = world.publish(LEFT), world.publish(RIGHT)
    assert [left.id, right.id] == [f"{server.data.epoch}:1" for server in world.servers]
    assert [len(server.data.log) for server in world.servers] == [1, 1]
    world.call(world.node.clear(RIGHT))
    assert [len(server.data.log) for server in world.servers] == [1, 2]


def test_one_that_is_away_costs_only_its_channels(world: World, trouble: Trouble) -> None:
    watcher = Watcher()
    for channel in (LEFT, RIGHT):
        world.call(world.node.hub.subscribe(watcher, channel, None, 0))
    world.cut(1)
    assert trouble.take() == ["not attached to Redis at r1:6379: a fault; it is tried again"]
    world.publish(LEFT, 1)
    world.call(world.node.load((LEFT,), fresh=True))
    with pytest.raises(Unavailable):
        world.publish(RIGHT)
    with pytest.raises(Unavailable):
        world.call(world.node.load((RIGHT,), fresh=True))
    with pytest.raises(Unavailable):
        world.call(world.node.load(("left:2", "right:2")))
    world.connect(1)
    world.publish(RIGHT, 2)
    assert [row["data"] for row in watcher.publications] == [1, 2]
    assert watcher.gaps == []


@pytest.mark.parametrize("link", [0, 1])
def test_reason_and_shard_are_told_to_all_who_need_it(
    world: World, trouble: Trouble, link: int
) -> None:
    world.links[1][link].again("the password of host h", "Redis refuses the password")
    world.links[1][1 - link].again("the password of host h", "Redis refuses the password")
    trouble.clear()
    watcher, names = Watcher(), (LEFT, RIGHT)
    for call in (
        world.node.publish(Draft(RIGHT, b"1")),
        world.node.clear(RIGHT),
        world.node.load((RIGHT,), fresh=True),
        world.node.hub.follow(watcher, names, Start()),
    ):
        with pytest.raises(Unavailable, match=r"^shard 1: Redis refuses the password$"):
            world.call(call)
    world.publish(LEFT)


def test_calls_under_way_fail_with_the_shard(world: World, trouble: Trouble) -> None:
    answers: list[Any] = []
    for call in (world.node.load((RIGHT,), fresh=True), world.node.clear(RIGHT)):
        Deferred.fromCoroutine(call).addErrback(lambda failure: answers.append(str(failure.value)))
    world.cut(1)
    trouble.clear()
    assert answers == ["shard 1: Redis is away"] * 2


def test_channels_of_the_faster_log_wait_for_the_others(world: World) -> None:
    world.publish(LEFT)
    watcher = Watcher()
    names = (LEFT, "left:2", RIGHT, "right:2")
    answers: list[Any] = []
    following = world.node.hub.follow(watcher, names, Start(last=9))
    Deferred.fromCoroutine(following).addBoth(answers.append)
    for slow in (True, False):
        for _ in range(5):
            for link in world.links[0] if slow else [*world.links[0], *world.links[1]]:
                link.bring_up()
                link.bring_down()
        while world.node.expire():
            pass
        assert bool(answers) is not slow
    assert [row.channel for row in answers[0].publications] == [LEFT]
    assert set(world.node.history.channels) == set(names)


def test_channels_of_a_load_that_fails_are_left(world: World, trouble: Trouble) -> None:
    world.links[1][1].again("a fault")
    trouble.clear()
    with pytest.raises(Unavailable):
        world.call(world.node.load(("left:2", RIGHT)))
    world.node.expire()
    assert world.node.history.channels == {}


def test_state_names_the_shard_with_the_problem(world: World, trouble: Trouble) -> None:
    assert combined(world.log.states).works
    world.cut(1)
    trouble.clear()
    one = combined(world.log.states)
    assert (one.attached, one.reason, one.losses) == (False, "shard 1: a fault", 1)
    lagging = State(True, 5, None, "", "", 2, 7)
    full = State(True, 1, None, "", "the memory of Redis is full", 1, 1)
    assert combined([lagging]) is lagging
    both = State(True, 6, None, "", "shard 1: the memory of Redis is full", 3, 8)
    assert combined([lagging, full]) == both


class Places:
    """The places that three servers have, and the sessions that ended because of them."""

    def __init__(self) -> None:
        self.left: list[str] = []
        self.all = Layout(Placement(3, {}), lambda reason, short: self.left.append(reason))

    def check(self, shard: int, found: str) -> None:
        self.all.check(shard, found)


def test_new_servers_are_used_when_all_are_known() -> None:
    places = Places()
    for shard in (0, 1):
        with pytest.raises(Waits, match=r"waits until shard [12] has"):
            places.check(shard, "")
    for shard in (2, 0, 1):
        places.check(shard, "")
    assert places.left == []


def test_server_with_its_place_needs_no_other_one() -> None:
    places = Places()
    places.check(1, "1/3")
    with pytest.raises(Waits):
        places.check(0, "")


@pytest.mark.parametrize("found", ["1/2", "0/3", "1/3 chat=0", "x" * 9_000])
def test_no_server_is_used_while_one_has_another_place(found: str) -> None:
    places = Places()
    places.check(0, "0/3")
    for _ in range(2):
        with pytest.raises(Misplaced, match=r"shard 1 has the place .* and '1/3' here") as refused:
            places.check(1, found)
        assert len(str(refused.value)) < 600
        assert repr(found[:200]) in str(refused.value)
    assert len(places.left) == 1, "the sessions end once"
    # The line about another server says so.
    assert places.left[0].startswith("it is not used, since shard 1 has the place")
    with pytest.raises(Misplaced, match=r"^it is not used, since shard 1 has the place"):
        places.check(0, "0/3")
    places.check(1, "1/3")
    places.check(0, "0/3")


class FakeLeases:
    """The leases of one log; the test grants them."""

    def __init__(self) -> None:
        self.wanted: dict[str, Any] = {}
        self.granted: set[str] = set()

    def want(self, name: str, wants: bool, changed: Any) -> None:
        if wants:
            self.wanted[name] = changed
        else:
            self.wanted.pop(name, None)
            self.granted.discard(name)

    def holds(self, name: str) -> bool:
        return name in self.granted

    @property
    def held(self) -> list[str]:
        return sorted(self.granted)

    def grant(self, name: str) -> None:
        self.granted.add(name)
        self.wanted[name]()

    def lose(self, name: str) -> None:
        self.granted.discard(name)
        self.wanted[name]()


class FakeLog:
    def __init__(self) -> None:
        self.leases = FakeLeases()
        self.state = State(True, 0, None, "", "", 0, 0)


def test_lease_is_that_of_the_first_log_and_then_of_the_others() -> None:
    logs: list[Any] = [FakeLog(), FakeLog()]
    first, second = (log.leases for log in logs)
    leases = ShardedLeases(logs)
    changes: list[bool] = []
    leases.want("s", True, lambda: changes.append(leases.holds("s")))
    assert (list(first.wanted), list(second.wanted)) == (["s"], [])
    first.grant("s")
    assert list(second.wanted) == ["s"]
    second.grant("s")
    assert (changes, leases.held) == ([False, True], ["s"])
    second.lose("s")
    first.lose("s")
    assert (changes, list(second.wanted), leases.held) == ([False, True, True, False], [], [])


def test_lease_does_not_wait_for_a_log_that_is_away() -> None:
    logs: list[Any] = [FakeLog(), FakeLog()]
    logs[1].state = State(False, 0, 1.0, "", "", 0, 0)
    leases = ShardedLeases(logs)
    leases.want("s", True, lambda: None)
    logs[0].leases.grant("s")
    assert leases.holds("s")
    leases.want("s", False, lambda: None)
    assert (logs[1].leases.wanted, leases.holds("s")) == ({}, False)
