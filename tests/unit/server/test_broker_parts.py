"""The parts of a server whose log is in Redis, without a Redis."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from twisted.internet.testing import MemoryReactorClock

from pushserver.channels.room import Room
from pushserver.cluster.measures import Measure, Measures
from pushserver.config.limits import Limits
from pushserver.config.settings import Broker, Config
from pushserver.diagnosis.facts import BrokerFacts
from pushserver.redis.problems import Problem
from pushserver.redis.scripts import Bounds
from pushserver.redis.state import State
from pushserver.server.broker_parts import BrokerParts, keys_of
from pushserver.server.build import make_history
from pushserver.sessions.orders import End, Tell, encode
from pushserver.store.source_memory import SourceMemory
from tests.unit.fakes.tools import Time, make_node
from tests.unit.fakes.web import Trouble


class World:
    """A server that has not reached its Redis."""

    def __init__(self, url: str | list[str] = "redis://:secret@h") -> None:
        config = Config(broker=Broker(url, name="one"))
        self.reactor = MemoryReactorClock()
        history = make_history(config, Room())
        self.parts = BrokerParts(
            config, history, self.reactor, self.reactor.seconds, SourceMemory()
        )
        self.node = make_node(time=Time(), broker=self.parts.follower)
        self.parts.attach(self.node, Measures(lambda: Measure(clients=7)))


@pytest.fixture
def world() -> World:
    return World()


def test_problem_is_for_everybody_and_facts_are_for_the_admin(
    world: World, trouble: Trouble
) -> None:
    world.parts.startService()
    log: Any = world.parts.log
    log._failed(Problem("host h: refused", "Redis is away"))
    world.reactor.advance(3.0)
    assert world.parts.problem() == "Redis is away, for 3 s; the log has the reason"
    facts = BrokerFacts("h:6379", "one", 3.0, "host h: refused", 0, 0)
    assert world.parts.facts() == facts
    assert "host h: refused; it is tried again" in trouble.take()[0]
    world.parts.stopService()


def test_prefix_is_that_of_all_keys() -> None:
    [keys] = keys_of(Broker("redis://h", prefix="shop"))
    assert (keys.meta, keys.lease("s"), keys.name("n")) == (
        b"{shop}:m",
        b"{shop}:l:s",
        b"{shop}:nn:n",
    )


def test_others_read_about_it(world: World) -> None:
    about = world.parts.log.registry.about()
    assert (about["name"], about["connections"], about["sources"]) == ("one", 7, [])


def test_reload_changes_the_bounds_of_the_log(world: World) -> None:
    world.parts.reconfigure(Limits(channels=5, idempotency_keys_per_publisher=6), frozenset())
    log: Any = world.parts.log
    assert log._writer.bounds == Bounds(channels=5, keys_per_publisher=6)
    assert world.parts.follower.history.room.most_channels == 5


@pytest.mark.parametrize("text", [b"", b"what", encode([9, 9])])
def test_order_that_is_not_known_is_told(world: World, trouble: Trouble, text: bytes) -> None:
    world.parts.log.ordered(text)
    [line] = trouble.take()
    assert line.startswith("an order of another server was not understood: ")


def test_order_that_fails_costs_nothing_else(
    world: World, trouble: Trouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("no")

    monkeypatch.setattr(world.node.sessions, "of_user", fail)
    world.parts.log.ordered(encode(End("u", None, None, 4500, "")))
    world.parts.log.ordered(encode(Tell(b"not JSON", "", ())))
    assert ["an order of another server failed" in line for line in trouble.take()] == [True, True]


def test_problems_of_some_shards_are_apart_from_those_of_all(trouble: Trouble) -> None:
    parts: Any = World(["redis://a", "redis://b"]).parts
    assert parts.problem() == parts.problem_of_some() != ""
    fine = State(True, 0, None, "", "", 0, 0)
    logs = parts.log.logs
    parts.log.logs = [SimpleNamespace(state=fine), logs[1]]
    assert parts.problem() == ""
    logs[1]._failed(Problem("host b: refused", "Redis is away"))
    trouble.clear()
    assert parts.problem_of_some() == "shard 1: Redis is away, for 0 s; the log has the reason"
    facts = parts.facts()
    assert (facts.address, facts.problem) == ("a:6379, b:6379", "shard 1: host b: refused")


def test_prefixes_are_those_of_all_shards() -> None:
    found = keys_of(Broker(["redis://a", "redis://b"]))
    assert [(keys.meta, keys.place) for keys in found] == [
        (b"{ps0}:m", b"{ps0}:m"),
        (b"{ps1}:m", b"{ps0}:m"),
    ]
