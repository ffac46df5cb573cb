"""The registry of nodes on a real Redis."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from pushserver.errors import Unavailable
from pushserver.redis.connection import NameTaken, Session
from pushserver.redis.failures import Failures
from pushserver.redis.registry import BEAT_SECONDS, NODE_SECONDS, Registry
from tests.redis.node import KEYS
from tests.redis.server import RedisServer
from tests.redis.test_leases import Node as Leasing


class Node(Leasing):
    """A node that tells its name and a number."""

    def __init__(self, redis: RedisServer, node: str, name: str = "", number: int = 0):
        super().__init__(redis, node)
        self.again: list[str] = []
        self.registry = Registry(
            KEYS,
            node,
            name,
            lambda: self.session,
            self.again.append,
            self.clock.seconds,
            Failures(str, self.clock.seconds),
            self.refuse,
        )
        self.registry.about = lambda: {"name": name, "pid": number, "host": "h"}

    def result(self, coroutine: Any) -> Any:
        results: list[Any] = []
        Deferred.fromCoroutine(coroutine).addBoth(results.append)
        [result] = results
        return result

    def beat(self) -> None:
        self.clock.advance(BEAT_SECONDS)
        assert self.result(self.registry.work()) is None

    def listed(self) -> list[int]:
        return [node["pid"] for node in self.result(self.registry.nodes())]


@pytest.fixture
def nodes(redis: RedisServer) -> Iterator[tuple[Node, Node]]:
    both = Node(redis, "n1", "b", 1), Node(redis, "n2", "a", 2)
    yield both
    for node in both:
        node.close()


def test_nodes_are_listed_by_name_until_they_leave(nodes: tuple[Node, Node]) -> None:
    one, two = nodes
    for node in nodes:
        node.beat()
    assert one.listed() == two.listed() == [2, 1]
    one.result(one.registry.leave())
    one.beat()
    assert two.listed() == [2]


def test_node_that_was_silent_is_gone(redis: RedisServer, nodes: tuple[Node, Node]) -> None:
    _, two = nodes
    for node in nodes:
        node.beat()
    redis.connection("ZADD", "{ps0}:n", 1, "n1")
    assert two.listed() == [2]
    two.beat()
    assert redis.connection("HKEYS", "{ps0}:ni") == [b"n2"]


def test_name_has_one_node_at_a_time(redis: RedisServer, nodes: tuple[Node, Node]) -> None:
    one, _ = nodes
    one.beat()
    other = Node(redis, "n3", "b", 3)
    session = other.session
    assert session is not None
    refused = other.result(other.registry.enter(session.send, session.run))
    assert refused.check(NameTaken)
    assert "'b' (broker.name): process 1 of h" in str(refused.value)
    one.result(one.registry.leave())
    assert other.result(other.registry.enter(session.send, session.run)) is None
    assert other.listed() == [3]
    # The first one goes on after a long stop.
    one.registry._told = float("-inf")
    one.beat()
    assert "'b' (broker.name): process 3 of h" in one.again[0]
    other.close()


def test_node_without_a_name_is_not_refused(redis: RedisServer) -> None:
    both = [Node(redis, f"n{n}", "", n) for n in range(2)]
    for node in both:
        node.beat()
    assert both[0].listed() == [0, 1]
    assert not redis.connection("KEYS", "{ps0}:nn:*")
    for node in both:
        node.close()


def test_what_another_program_wrote_is_left_out(
    redis: RedisServer, nodes: tuple[Node, Node]
) -> None:
    one, _ = nodes
    one.beat()
    redis.connection("ZADD", "{ps0}:n", "+inf", "x", "+inf", "y", "+inf", "z")
    redis.connection("HSET", "{ps0}:ni", "x", "{", "y", "[]")
    assert one.listed() == [1]


def test_nodes_stay_and_keep_their_names_though_the_memory_is_full(
    redis: RedisServer, nodes: tuple[Node, Node]
) -> None:
    one, two = nodes
    one.beat()
    redis.connection("ZADD", "{ps0}:n", 1, "n1")
    redis.connection("CONFIG", "SET", "maxmemory", 1)
    redis.connection("PEXPIRE", "{ps0}:nn:b", 0)
    for node in nodes:
        node.beat()
    assert one.listed() == [2, 1]
    assert 0 < redis.connection("PTTL", "{ps0}:nn:b") <= NODE_SECONDS * 1000
    assert one.refusals == two.refusals == []


def test_refused_beat_is_told(redis: RedisServer, nodes: tuple[Node, Node]) -> None:
    one, _ = nodes
    redis.connection("CONFIG", "SET", "min-replicas-to-write", 1)
    one.beat()
    assert one.refusals == ["NOREPLICAS"]
    redis.connection("CONFIG", "SET", "min-replicas-to-write", 0)
    one.beat()
    assert one.listed() == [1]
    assert one.refusals == ["NOREPLICAS"]


def test_list_needs_a_session(nodes: tuple[Node, Node]) -> None:
    one, _ = nodes
    session, one.session = one.session, None
    assert one.result(one.registry.nodes()).check(Unavailable)
    one.beat()
    one.session = session
    one.is_away = True
    one.beat()
    assert one.result(one.registry.nodes()).check(Unavailable)
    assert isinstance(one.session, Session)
    assert one.again == []
