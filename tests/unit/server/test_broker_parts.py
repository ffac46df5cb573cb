"""The parts of a server whose log is in Redis, without a Redis."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.testing import MemoryReactorClock

from pushserver.channels.history import History
from pushserver.cluster.measures import Measure, Measures
from pushserver.config.limits import Limits
from pushserver.config.settings import Broker, Config
from pushserver.diagnosis.facts import BrokerFacts
from pushserver.redis.problems import Problem
from pushserver.redis.scripts import Bounds
from pushserver.server.broker_parts import BrokerParts, keys_of
from pushserver.sessions.orders import End, Tell, encode
from pushserver.store.source_memory import SourceMemory
from tests.unit.fakes.tools import Time, make_node
from tests.unit.fakes.web import Trouble


class World:
    """A server that has not reached its Redis."""

    def __init__(self) -> None:
        config = Config(broker=Broker("redis://:secret@h", name="one"))
        self.reactor = MemoryReactorClock()
        history = History(config.channel_options())
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
    world.parts.log._failed(Problem("host h: refused", "Redis is away"))
    world.reactor.advance(3.0)
    assert world.parts.problem() == "Redis is away, for 3 s; the log has the reason"
    facts = BrokerFacts("h:6379", "one", 3.0, "host h: refused", 0, 0)
    assert world.parts.facts() == facts
    assert "host h: refused; it is tried again" in trouble.take()[0]
    world.parts.stopService()


def test_prefix_is_that_of_all_keys() -> None:
    keys = keys_of(Broker("redis://h", prefix="shop"))
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
    assert world.parts.log._writer.bounds == Bounds(channels=5, keys_per_publisher=6)
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

    monkeypatch.setattr(world.node.sessions, "all_of_user", fail)
    world.parts.log.ordered(encode(End("u", None, None, 4500, "")))
    world.parts.log.ordered(encode(Tell(b"not JSON", "", ())))
    assert ["an order of another server failed" in line for line in trouble.take()] == [True, True]
