"""The bounds of several processes: each counts its own, and what it hears of the others.

Once all has arrived, each process knows what one process would that had everything.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pushserver.auth.identity import Identity
from pushserver.auth.quotas import RESERVED, Connections
from pushserver.channels.channel import ChannelOptions
from pushserver.cluster.messages import Counted
from pushserver.cluster.shared_bounds import SharedBounds
from pushserver.errors import TooMany
from pushserver.sessions.node import Node
from tests.unit.fakes.cluster import Cluster, Edge
from tests.unit.fakes.tools import Time, make_broker, make_node, programs

OPTIONS = ChannelOptions()
EDGES = 3
MAIN = EDGES
"""The number of the main process here; the edges have those before it."""
NAMES = ("", "203.0.113.9", "198.51.100.7")
USERS = ("", "anna", "bo")
MOST, PER_NAME, PER_USER = 6, 3, 2
NO_RATE = 10**9


class World:
    """A main process and its workers, and the connections that each has open."""

    def __init__(self, new_per_second: int = NO_RATE):
        self.time = Time()
        self._new_per_second = new_per_second
        self.cluster = Cluster(self._broker(), OPTIONS, self.time, EDGES)
        for number in range(EDGES + 1):
            self._bound(self.node(number))
        self.open: list[list[str]] = [[] for _ in range(EDGES + 1)]
        self.users: list[list[str]] = [[] for _ in range(EDGES + 1)]
        self.unheard = [0] * (EDGES + 1)
        """What each process may not know of: connections of others since the last `settle`."""

    def _broker(self) -> Any:
        return make_broker(OPTIONS, time=self.time)

    def _bound(self, node: Node) -> None:
        node.connections.reconfigure(MOST, PER_NAME, self._new_per_second)
        node.users.most = PER_USER

    def node(self, number: int) -> Node:
        return self.cluster.node if number == MAIN else self.cluster.edges[number].node

    # --- connections ---------------------------------------

    def enter(self, number: int, name: str) -> bool:
        try:
            self.node(number).connections.enter(name, self.time.seconds())
        except TooMany:
            return False
        self.open[number].append(name)
        most = MOST + (0 if name else RESERVED)
        assert sum(map(len, self.open)) <= most + self.unheard[number]
        self._unheard_elsewhere(number, 1)
        return True

    def leave(self, number: int, which: int) -> None:
        names = self.open[number]
        if names:
            self.node(number).connections.leave(names.pop(which % len(names)))

    def rename(self, number: int, which: int, name: str) -> None:
        names = self.open[number]
        if not names:
            return
        at = which % len(names)
        try:
            self.node(number).connections.rename(names[at], name, self.time.seconds())
        except TooMany:
            return
        names[at] = name

    def enter_user(self, number: int, user: str) -> bool:
        users = self.node(number).users
        try:
            users.check(user)
        except TooMany:
            return False
        users.enter(user)
        if user:
            self.users[number].append(user)
        return True

    def leave_user(self, number: int, which: int) -> None:
        users = self.users[number]
        if users:
            self.node(number).users.leave(users.pop(which % len(users)))

    # --- links ---------------------------------------

    def up(self, number: int, count: int) -> None:
        link = self.cluster.edges[number].link
        if link is not None:
            link.bring_up(count)

    def down(self, number: int, count: int) -> None:
        link = self.cluster.edges[number].link
        if link is not None:
            link.bring_down(count)

    def cut(self, number: int) -> None:
        self.cluster.edges[number].cut()
        self._unheard_elsewhere(number, len(self.open[number]))

    def connect(self, number: int) -> None:
        self.cut(number)
        self.cluster.edges[number].connect(self.cluster.author)

    def die(self, number: int) -> None:
        """A worker ends, and another one takes its place, which is not linked yet."""
        self.cut(number)
        self.cluster.edges[number] = Edge(OPTIONS, self.time)
        self._bound(self.node(number))
        self.open[number], self.users[number] = [], []
        self.unheard[number] += sum(map(len, self.open))

    def restart(self) -> None:
        """The main process ends, and another one takes its place."""
        self.cluster.restart(self._broker())
        self._bound(self.cluster.node)
        self.open[MAIN], self.users[MAIN] = [], []
        for number in range(EDGES + 1):
            self._unheard_elsewhere(number, len(self.open[number]))

    def settle(self) -> None:
        """Link those that are not, and let everything arrive."""
        for number, edge in enumerate(self.cluster.edges):
            if edge.link is None:
                self.connect(number)
        self.cluster.settle()
        self.unheard = [0] * (EDGES + 1)

    def _unheard_elsewhere(self, number: int, count: int) -> None:
        for other in range(EDGES + 1):
            if other != number:
                self.unheard[other] += count

    # --- checks ---------------------------------------

    def check_own(self) -> None:
        """Nobody counts less than it has itself, and nobody keeps names without a number."""
        for number in range(EDGES + 1):
            node, own = self.node(number), Counter(self.open[number])
            assert node.connections.open >= own.total()
            _check_at_least(node.connections._by_name, own)
            _check_at_least(node.users._counts, Counter(self.users[number]))

    def check(self) -> None:
        """Each process counts what all have together."""
        names = Counter(name for each in self.open for name in each)
        users = Counter(user for each in self.users for user in each)
        for number in range(EDGES + 1):
            node = self.node(number)
            assert node.connections.open == names.total()
            assert node.connections._by_name == {n: c for n, c in names.items() if n}
            assert node.users._counts == dict(users)


def _check_at_least(counted: dict[str, int], own: Counter[str]) -> None:
    assert all(count > 0 for count in counted.values())
    assert all(counted[name] >= count for name, count in own.items() if name)


PROCESS, EDGE, WHICH = st.integers(0, EDGES), st.integers(0, EDGES - 1), st.integers(0, 9)
SIZE = st.sampled_from([1, 7, 40, 10_000])
COUNTING = (
    st.tuples(st.just("enter"), PROCESS, st.sampled_from(NAMES))
    | st.tuples(st.just("leave"), PROCESS, WHICH)
    | st.tuples(st.just("rename"), PROCESS, WHICH, st.sampled_from(NAMES))
    | st.tuples(st.just("enter_user"), PROCESS, st.sampled_from(USERS))
    | st.tuples(st.just("leave_user"), PROCESS, WHICH)
)
LINKS = (
    st.tuples(st.just("turn"))
    | st.tuples(st.just("settle"))
    | st.tuples(st.sampled_from(["up", "down"]), EDGE, SIZE)
    | st.tuples(st.sampled_from(["cut", "connect", "die"]), EDGE)
    | st.tuples(st.just("restart"))
)


@settings(deadline=None)
@given(programs(COUNTING | LINKS))
def test_each_process_counts_what_all_have_when_everything_has_arrived(
    steps: list[tuple[Any, ...]],
) -> None:
    world = World()
    for name, *arguments in steps:
        if name == "turn":
            world.time.turn()
        else:
            getattr(world, name)(*arguments)
        world.check_own()
    world.settle()
    world.check()


@settings(deadline=None)
@given(programs(COUNTING | st.tuples(st.just("wait"), st.sampled_from([0.1, 1.0, 5.0])), 40))
def test_several_processes_admit_what_one_process_would(steps: list[tuple[Any, ...]]) -> None:
    world, alone = World(1), Connections(MOST, PER_NAME, 1)
    for name, *arguments in steps:
        if name == "wait":
            world.time.now += arguments[0]
        elif name == "enter":
            try:
                alone.enter(arguments[1], world.time.seconds())
            except TooMany:
                assert not world.enter(*arguments)
            else:
                assert world.enter(*arguments)
        elif name == "leave" and world.open[arguments[0]]:
            names = world.open[arguments[0]]
            alone.leave(names[arguments[1] % len(names)])
            world.leave(*arguments)
        elif name == "enter_user":
            count = sum(each.count(arguments[1]) for each in world.users)
            assert world.enter_user(*arguments) is (count < PER_USER)
        elif name == "leave_user":
            world.leave_user(*arguments)
        world.settle()
    world.check()


@pytest.fixture
def world() -> World:
    return World()


A = NAMES[1]


def test_changes_of_one_turn_are_one_message_and_none_if_nothing_is_left(world: World) -> None:
    link = world.cluster.edges[0].link
    assert link is not None
    for _ in range(PER_NAME):
        world.enter(0, A)
        world.enter_user(0, "anna")
    world.leave(0, 0)
    world.time.turn()
    (message,) = link.up.take(10_000)
    assert message == Counted(
        False,
        {"connections": {A: 2}, "users": {"anna": 2}},
        {"new_connections_per_second": {A: 3}},
    )
    world.enter(0, "")
    world.leave(0, 2)
    world.time.turn()
    assert link.up.take(10_000) == []


def test_changes_go_to_all_processes_but_the_one_that_made_them(world: World) -> None:
    world.enter(0, A)
    world.time.turn()
    world.up(0, 10_000)
    world.time.turn()
    links = [edge.link for edge in world.cluster.edges]
    assert [link and link.down.take(10_000) for link in links] == [
        [],
        *2 * [[Counted(False, {"connections": {A: 1}}, {"new_connections_per_second": {A: 1}})]],
    ]


def test_worker_without_a_link_keeps_what_it_knows_of_the_others(world: World) -> None:
    world.enter(0, A)
    world.enter(1, A)
    world.settle()
    world.cut(0)
    assert world.enter(0, A)
    assert not world.enter(0, A)
    world.leave(1, 0)
    world.settle()
    assert world.enter(0, A)
    world.settle()
    world.check()


def test_worker_that_dies_leaves_room_for_others(world: World) -> None:
    for _ in range(PER_NAME):
        world.enter(0, A)
        world.enter_user(0, "anna")
    world.settle()
    assert not world.enter(1, A)
    assert not world.enter_user(MAIN, "anna")
    world.die(0)
    world.cluster.settle()
    assert world.enter(1, A)
    assert world.enter_user(MAIN, "anna")
    world.settle()
    world.check()


def test_new_worker_knows_the_others_before_it_has_the_log(world: World) -> None:
    world.enter(MAIN, A)
    world.enter(1, A)
    world.die(0)
    world.cluster.settle()
    world.connect(0)
    world.up(0, 10_000)
    link = world.cluster.edges[0].link
    assert link is not None
    first, *_ = link.down.take(10_000)
    assert first == Counted(True, {"connections": {A: 2}, "users": {}}, {})


def test_link_that_is_lost_under_load_leaves_no_wrong_numbers(world: World) -> None:
    for cycle in range(50):
        for number in range(EDGES):
            world.enter(number, NAMES[cycle % 3])
            world.enter_user(number, USERS[cycle % 3])
        world.time.turn()
        world.up(cycle % EDGES, cycle)
        world.down(cycle % EDGES, cycle)
        world.connect(cycle % EDGES)
        for number in range(EDGES):
            world.leave(number, 0)
            world.leave_user(number, 0)
        world.check_own()
    world.settle()
    world.check()


def test_nothing_is_kept_of_connections_that_are_gone(world: World) -> None:
    for n in range(200):
        world.enter(n % EDGES, f"10.0.0.{n}")
        world.enter_user(n % EDGES, f"user {n}")
        world.settle()
        world.leave(n % EDGES, 0)
        world.leave_user(n % EDGES, 0)
        world.connect(n % EDGES)
    world.settle()
    for number in range(EDGES + 1):
        node = world.node(number)
        assert (node.connections._by_name, node.users._counts) == ({}, {})
        bounds: Any = node.users.changed
        shared: SharedBounds = bounds.func.__self__
        kept = [shared._own, *(link.numbers for link in shared._links)]
        assert not any(names for numbers in kept for names in numbers.values())
    assert len(world.cluster.author.bounds._links) == EDGES


@pytest.mark.parametrize("first", range(EDGES + 1))
def test_rates_are_those_of_the_whole_server(world: World, first: int) -> None:
    def publications(number: int) -> int:
        for count in range(10_000):
            try:
                world.node(number).publications.check(Identity("anna"), None)
            except TooMany:
                return count
        raise AssertionError("there is no rate")

    def wrong_keys(number: int) -> int:
        wrong = world.node(number).identification.wrong_keys
        now = world.time.seconds()
        return next(count for count in range(10_000) if wrong.is_too_many(A, now))

    assert publications(first) > 0
    assert wrong_keys(first) > 0
    world.settle()
    for number in range(EDGES + 1):
        assert publications(number) == wrong_keys(number) == 0
        # With all that the others have charged.
    world.time.now += 60.0
    counts = [publications(first), wrong_keys(first)]
    world.time.turn()
    assert [publications((first + 1) % EDGES), wrong_keys((first + 1) % EDGES)] == counts


def test_charges_without_a_link_remain_here(world: World) -> None:
    world.cut(0)
    world.node(0).publications.check(Identity("anna"), None)
    world.connect(0)
    link = world.cluster.edges[0].link
    assert link is not None
    world.time.turn()
    sent = [message for message in link.up.take(10_000) if isinstance(message, Counted)]
    assert sent == [Counted(True, {"connections": {}, "users": {}}, {})]


def test_one_process_tells_nobody() -> None:
    node = make_node()
    assert node.connections.changed is None
    assert node.users.changed is None
    assert {rates.charged for rates in node.publications.rates.values()} == {None}
