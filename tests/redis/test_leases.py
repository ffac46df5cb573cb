"""Leases on a real Redis, by nodes whose clocks the test moves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock

from pushserver.channels.publication import Draft
from pushserver.redis import scripts
from pushserver.redis.commands import ErrorReply, Gone
from pushserver.redis.connection import SCRIPTS, Session
from pushserver.redis.leases import LEASE_SECONDS, RENEW_SECONDS, Leases
from pushserver.store.source_memory import SourceMemory
from tests.redis.node import KEYS
from tests.redis.node import Node as Connected
from tests.redis.server import RedisError, RedisServer


class Node:
    """A node that wants leases; its commands are answered at once."""

    def __init__(self, redis: RedisServer, name: str):
        self.connected = Connected(redis, name)
        attached = self.connected.attach("epoch")
        self.session: Session | None = Session(self._send, self.connected.run, attached)
        self.clock = Clock()
        self.memory = SourceMemory()
        self.refusals: list[str] = []
        self.leases = Leases(
            KEYS, name, lambda: self.session, self.clock.seconds, self.memory, self.refuse
        )
        self.events: list[bool] = []
        for script in SCRIPTS:
            self.connected.redis("SCRIPT", "LOAD", script.text)
        self.is_away = False

    def _send(self, command: Sequence[bytes]) -> Deferred[Any]:
        if self.is_away:
            return fail(Gone("away"))
        try:
            return succeed(self.connected.redis(*command))
        except RedisError as error:
            return fail(ErrorReply(str(error)))

    def refuse(self, error: ErrorReply, session: Session) -> None:
        self.refusals.append(error.word)

    def want(self, wants: bool = True, name: str = "s") -> None:
        self.leases.want(name, wants, lambda: self.events.append(self.leases.holds(name)))

    def work(self, seconds: float = 0.0) -> None:
        self.clock.advance(seconds)
        done: list[Any] = []
        Deferred.fromCoroutine(self.leases.work()).addBoth(done.append)
        assert done == [None]

    def publish(self) -> str:
        """Publish as the source; returns the kind of the answer, or the word of the error."""
        self.connected.counter += 1
        call = scripts.publish(
            KEYS,
            self.connected.run,
            self.connected.name,
            self.connected.counter,
            Draft("a", b"1", lease="s"),
            self.connected.options,
            self.connected.bounds,
            self.leases.fence("s") or "lost",
        )
        try:
            return scripts.numbered_of(self.connected.call(call)).kind
        except RedisError as error:
            return str(error).partition(" ")[0]

    def close(self) -> None:
        self.connected.close()


@pytest.fixture
def nodes(redis: RedisServer) -> Iterator[tuple[Node, Node]]:
    both = Node(redis, "n1"), Node(redis, "n2")
    yield both
    for node in both:
        node.close()


def expire(redis: RedisServer) -> None:
    """Let the lease end as it does after LEASE_SECONDS."""
    redis.connection("PEXPIRE", "{ps0}:l:s", 0)


def test_one_node_has_it_and_the_other_gets_it_when_it_is_released(
    nodes: tuple[Node, Node],
) -> None:
    one, two = nodes
    for node in nodes:
        node.want()
        node.work()
    assert (one.events, two.events) == ([True], [])
    assert (one.publish(), two.publish()) == ("new", "LEASE")
    assert (one.leases.held, two.leases.held) == (["s"], [])
    one.want(False)
    two.work(RENEW_SECONDS)
    assert two.events == [True]
    assert (one.publish(), two.publish()) == ("LEASE", "new")


def test_it_is_kept_while_it_is_renewed(redis: RedisServer, nodes: tuple[Node, Node]) -> None:
    one, two = nodes
    for node in nodes:
        node.want()
        node.work()
    for _ in range(20):
        one.work(RENEW_SECONDS)
        two.work(RENEW_SECONDS)
    assert (one.events, two.events) == ([True], [])
    assert 0 < redis.connection("PTTL", "{ps0}:l:s") <= LEASE_SECONDS * 1000


def test_node_that_cannot_renew_it_gives_it_up_by_its_own_clock(nodes: tuple[Node, Node]) -> None:
    one, _ = nodes
    one.want()
    one.work()
    one.session = None
    one.work(LEASE_SECONDS - 0.1)
    assert one.events == [True]
    one.work(0.1)
    assert one.events == [True, False]
    assert one.leases.fence("s") is None


def test_tenure_is_over_before_the_node_notices(
    redis: RedisServer, nodes: tuple[Node, Node]
) -> None:
    one, two = nodes
    for node in nodes:
        node.want()
        node.work()
    # The first process is stopped, with a publication that is ready to be sent.
    fence = one.leases.fence("s")
    expire(redis)
    two.work(RENEW_SECONDS)
    assert two.leases.holds("s")
    assert one.leases.fence("s") == fence
    assert (one.publish(), two.publish()) == ("LEASE", "new")
    one.work(RENEW_SECONDS)
    assert one.events == [True, False]


def test_next_tenure_of_the_same_node_is_another_one(
    redis: RedisServer, nodes: tuple[Node, Node]
) -> None:
    one, _ = nodes
    one.want()
    one.work()
    before = one.leases.fence("s")
    one.clock.advance(LEASE_SECONDS)
    expire(redis)
    one.work()
    one.work()
    assert one.leases.fence("s") not in (None, before)
    assert one.events == [True, False, True]


def test_publication_that_was_sent_twice_is_found_also_after_the_tenure(
    redis: RedisServer, nodes: tuple[Node, Node]
) -> None:
    one, _ = nodes
    one.want()
    one.work()
    assert one.publish() == "new"
    expire(redis)
    one.connected.counter -= 1
    assert one.publish() == "again"


def test_what_a_source_remembers_goes_with_the_lease(
    redis: RedisServer, nodes: tuple[Node, Node]
) -> None:
    one, two = nodes
    one.want()
    one.work()
    one.memory.set("s", {"seen": 1})
    one.work(0.5)
    one.memory.set("s", {"seen": 2})
    one.want(False)
    two.want()
    two.work()
    assert two.memory.get("s") == {"seen": 2}
    # The one that lost it changes nothing.
    one.memory.set("s", {"seen": 3})
    one.work(0.5)
    assert redis.connection("HGET", "{ps0}:r", "s") == b'{"seen":2}'


def test_value_that_could_not_be_sent_is_sent_later(
    redis: RedisServer, nodes: tuple[Node, Node]
) -> None:
    one, _ = nodes
    one.want()
    one.work()
    one.memory.set("s", 1)
    one.is_away = True
    one.work(0.5)
    one.is_away = False
    one.work(0.5)
    assert redis.connection("HGET", "{ps0}:r", "s") == b"1"


def test_lease_whose_key_another_program_has_is_not_got(
    redis: RedisServer, nodes: tuple[Node, Node]
) -> None:
    one, _ = nodes
    redis.connection("SADD", "{ps0}:l:s", "theirs")
    one.want()
    one.want(name="other")
    one.work()
    assert one.leases.held == ["other"]


def test_leases_are_renewed_and_got_though_the_memory_is_full(
    redis: RedisServer, nodes: tuple[Node, Node]
) -> None:
    one, two = nodes
    one.want()
    one.work()
    redis.connection("CONFIG", "SET", "maxmemory", 1)
    for _ in range(10):
        one.work(RENEW_SECONDS)
    assert one.leases.holds("s")
    expire(redis)
    two.want()
    two.work()
    assert two.leases.holds("s")
    assert one.refusals == two.refusals == []


def test_value_that_redis_refuses_costs_no_lease_and_is_sent_later(
    redis: RedisServer, nodes: tuple[Node, Node]
) -> None:
    one, _ = nodes
    one.want()
    one.work()
    redis.connection("CONFIG", "SET", "maxmemory", 1)
    for n in range(10):
        one.memory.set("s", n)
        one.work(RENEW_SECONDS)
    assert one.leases.holds("s")
    assert set(one.refusals) == {"OOM"}
    redis.connection("CONFIG", "SET", "maxmemory", 0)
    one.work(0.5)
    assert redis.connection("HGET", "{ps0}:r", "s") == b"9"


def test_answer_that_comes_after_the_lease_is_not_wanted_releases_it(
    redis: RedisServer, nodes: tuple[Node, Node]
) -> None:
    one, _ = nodes
    one.want()
    send, answers = one._send, []

    def late(command: Sequence[bytes]) -> Deferred[Any]:
        waiting: Deferred[Any] = Deferred()
        answers.append((waiting, send(command)))
        return waiting

    session = one.session
    assert session is not None
    one.session = Session(late, session.run, session.attached)
    Deferred.fromCoroutine(one.leases.work())
    one.want(False)
    waiting, answer = answers.pop()
    answer.chainDeferred(waiting)
    assert redis.connection("EXISTS", "{ps0}:l:s") == 0
    assert one.events == []


def test_value_of_another_source_is_written_though_a_release_failed(
    nodes: tuple[Node, Node],
) -> None:
    node, successor = nodes
    node.want(name="s")
    node.want(name="other")
    node.work()
    node.memory.set("other", {"etag": 1})
    node.is_away = True
    node.want(False, name="s")
    assert node.memory.waits
    node.is_away = False
    node.work()
    assert not node.memory.waits
    node.want(False, name="other")
    successor.want(name="other")
    successor.work()
    assert successor.memory.get("other") == {"etag": 1}
