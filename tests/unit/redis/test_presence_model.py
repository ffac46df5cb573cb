"""The presence of three nodes on one Redis, in any order of events.

At each node each observer is told of each client alternately that it joined and left, and in the
end knows and lists exactly those that are there. Nodes freeze past their lease and come back, or
die; connections are cut, and their commands arrive late; Redis loses its data, or a part.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from pushserver.channels.channel import ChannelOptions
from pushserver.channels.history import History
from pushserver.channels.publication import ClientInfo
from pushserver.config.redis_url import Address
from pushserver.hub.follower import Follower
from pushserver.hub.metrics import Metrics
from pushserver.redis.log import RedisLog
from pushserver.redis.presence import SharedPresence
from pushserver.redis.scripts import Bounds
from tests.unit.fakes.cluster import run
from tests.unit.fakes.redis import FakeConnection, FakeRedis
from tests.unit.fakes.tools import Time, Watcher, make_node
from tests.unit.fakes.web import Trouble

CHANNELS = "ab"
NODES = 3
LEASE = 10.0
LIMIT = 6
"""The most subscribers of a channel whose joins are pushed."""


class Client(Watcher):
    """A client in one channel, which checks what it is told of the others."""

    def __init__(self, name: str, user: str, channel: str, in_crowds: bool = False):
        super().__init__(name, user=user)
        self.in_crowds = in_crowds
        self.channel = channel
        self.told: dict[str, bool] = {}
        """By client: whether it was told last that it is there."""

    def push(self, text: bytes) -> None:
        super().push(text)
        push = self.pushes[-1]
        assert push["channel"] == self.channel
        [kind] = push.keys() & {"join", "leave"}
        client, has_joined = push[kind]["info"]["client"], kind == "join"
        # In a crowd it may have missed the other one.
        is_new = self.told.get(client) is not has_joined
        assert is_new or self.in_crowds, f"{kind} of {client} twice"
        self.told[client] = has_joined


class Member:
    """A node with a clock of its own, which stands still while the node is frozen."""

    def __init__(self, world: World):
        class Connection(FakeConnection):
            redis = world.redis

        class Log(RedisLog):
            make_connection: Any = Connection
            pace_seconds = 0.0

        self.clock = Clock()
        self.clock.advance(world.clock.seconds())
        self.behind = 0.0
        self.frozen = False
        self.clients: list[Client] = []
        options = world.options
        self.log = Log(Address("x"), self.clock, self.clock.seconds, options, Bounds(log_length=50))
        follower = Follower(History(options, "none"), Metrics(), self.log, self.clock.seconds)
        self.log.feed(follower)
        shared = partial(SharedPresence, roll=self.log.roll, rosters=self.log.rosters)
        self.node = make_node(
            time=Time(), broker=follower, run=run, make_presence=lambda hub, _: shared(hub, LIMIT)
        )
        follower.reset = self.node.hub.reset
        self.links: list[Any] = [self.log._writing, self.log._reading]
        self.log.start()
        self.connect()

    def connect(self) -> None:
        for link in self.links:
            link.connect()

    def advance(self, seconds: float) -> None:
        """Let time pass; for a frozen node when it goes on."""
        self.behind += seconds
        if not self.frozen:
            seconds, self.behind = self.behind, 0.0
            self.clock.advance(seconds)

    def carry(self) -> bool:
        moved = [link.bring_up() for link in self.links]
        return any([link.bring_down() for link in self.links] + moved)

    def join(self, client: Client, observes: bool) -> None:
        """Join as far as a node without a wait for the history can."""
        self.clients.append(client)
        client.insufficient = lambda channel: self.clients.remove(client)  # type: ignore[method-assign]
        self.node.hub.enter(client, client.channel)
        if observes:
            self.node.presence.observe(client.channel, client)

    def leave(self, client: Client) -> None:
        self.clients.remove(client)
        self.node.hub.unsubscribe(client, client.channel)


class World:
    """The nodes, their clients, and the network between them and Redis."""

    def __init__(
        self,
        redis: Any = None,
        options: Any = lambda name: ChannelOptions(),
        crowds: bool = False,
    ):
        self.crowds = crowds
        self.clock = Clock()
        self.clock.advance(1_000.0)
        self.options = options
        self.redis: Any = redis or FakeRedis(self.clock.seconds)
        self.redis.now = self.clock.seconds
        self.members = [Member(self) for _ in range(NODES)]
        self.dead: list[Member] = []
        self.left: list[tuple[Member, Client]] = []
        self._names = 0
        self.settle(1)

    # --- the steps ---------------------------------------

    def join(self, where: int, channel: str, observes: bool) -> Client | None:
        member = self.members[where]
        if member.frozen:
            return None
        self._names += 1
        name, user = f"c{self._names}", f"u{self._names % 3}"
        client = Client(name, user, channel, self.crowds)
        member.join(client, observes)
        return client

    def leave(self, where: int, number: int) -> None:
        member = self.members[where]
        if member.clients and not member.frozen:
            client = member.clients[number % len(member.clients)]
            member.leave(client)
            self.left.append((member, client))

    def come_back(self, number: int, observes: bool) -> None:
        """A client that has left joins again, over the same connection."""
        if self.left:
            member, client = self.left[number % len(self.left)]
            if member in self.members and not member.frozen:
                self.left.remove((member, client))
                client.told.clear()
                member.join(client, observes)

    def carry(self, where: int) -> None:
        if not self.members[where].frozen:
            self.members[where].carry()

    def up(self, where: int, link: int, number: int) -> None:
        self.members[where].links[link].bring_up(number)

    def down(self, where: int, link: int, number: int) -> None:
        if not self.members[where].frozen:
            self.members[where].links[link].bring_down(number)

    def cut(self, where: int, link: int, strays: bool) -> None:
        if not self.members[where].frozen:
            self.members[where].links[link].cut(strays)

    def stray(self, where: int) -> None:
        self.members[where].links[0].bring_stray()

    def connect(self, where: int) -> None:
        if not self.members[where].frozen:
            self.members[where].connect()

    def freeze(self, where: int) -> None:
        self.members[where].frozen = True

    def thaw(self, where: int) -> None:
        self.members[where].frozen = False
        self.members[where].advance(0.0)

    def kill(self, where: int, keeps: bool) -> None:
        """A node dies, and another one is started in its place.

        That `keeps` its clients if they are connections of workers.
        """
        before = self.members[where]
        self.dead.append(before)
        after = self.members[where] = Member(self)
        for client in before.clients if keeps else ():
            client.audiences.clear()
            client.told.clear()
            after.join(client, observes=True)

    def save(self) -> None:
        self.redis.save()

    def crash(self, keeps: bool) -> None:
        self._cut_all()
        self.redis.crash(keeps)

    def flush(self) -> None:
        self.redis.flush()
        self.redis.save()

    def trim(self, length: int) -> None:
        self.redis.trim(length)

    def pass_on(self, seconds: float) -> None:
        for _ in range(round(seconds / 0.5)):
            self.clock.advance(0.5)
            for member in self.members:
                member.advance(0.5)
                if not member.frozen:
                    member.links[1].wake()

    def _cut_all(self) -> None:
        for member in self.members:
            for link in member.links:
                link.cut()

    def settle(self, seconds: float) -> None:
        """Let everything arrive that is under way, at a network without faults."""
        for _ in range(round(seconds / 0.5)):
            for where in range(NODES):
                self.connect(where)
            self._carry_all()
            self.pass_on(0.5)
        self._carry_all()

    def _carry_all(self) -> None:
        while True:
            if not any([m.carry() for m in self.members if not m.frozen]):  # noqa: C419
                return

    # --- the checks ---------------------------------------

    def here(self, channel: str) -> dict[str, ClientInfo]:
        """The clients of a channel."""
        return {
            client.info.client: client.info
            for member in self.members
            for client in member.clients
            if client.channel == channel
        }

    def ask(self, member: Member, coroutine: Any) -> Any:
        answers: list[Any] = []
        Deferred.fromCoroutine(coroutine).addBoth(answers.append)
        while not answers:
            assert member.carry(), "no answer"
        return answers[0]

    def check(self) -> None:
        """All nodes list the same, and each observer was told of it, if it was told at all.

        In crowds it may have been told, and then not.
        """
        numbers = {channel: len(self.here(channel)) for channel in CHANNELS if self.here(channel)}
        for member in self.members:
            assert self.ask(member, member.node.presence.watchers()) == numbers
        for channel in CHANNELS:
            here = self.here(channel)
            for member in self.members:
                presence = member.node.presence
                assert self.ask(member, presence.clients(channel)) == here
                users = {info.user for info in here.values()}
                assert self.ask(member, presence.stats(channel)) == (len(here), len(users))
                for client in member.clients:
                    if client.channel == channel and not self.crowds:
                        assert all(
                            has_joined is (k in here) for k, has_joined in client.told.items()
                        )

    def end(self) -> None:
        for where in range(NODES):
            self.thaw(where)
        self.settle(45)
        self.check()
        data = getattr(self.redis, "data", None)
        if data is not None:
            subscribers = data.subscribers
            assert (len(subscribers.terms), subscribers.dead) == (NODES, set())
            assert subscribers.members.keys() <= subscribers.terms.keys()
            numbers = {c.encode(): len(self.here(c)) for c in CHANNELS if self.here(c)}
            assert subscribers.counts == numbers
        # From here on, nobody misses anything, unless there is no room for it.
        for channel in CHANNELS:
            if len(self.here(channel)) >= LIMIT:
                continue
            observer = self.join(0, channel, True)
            assert observer is not None
            self.settle(1)
            other = self.join(1, channel, False)
            assert other is not None
            self.settle(1)
            if len(self.here(channel)) <= LIMIT:
                assert observer.told == {other.info.client: True}
            self.members[1].leave(other)
            self.settle(1)
            if len(self.here(channel)) < LIMIT:
                assert observer.told == {other.info.client: False}


def program(random: Random, length: int, most: int) -> Iterator[tuple[Any, ...]]:
    choose = random.choice
    faults = choose([0.03, 0.1, 0.3])
    number = 0
    for _ in range(length):
        node, link, channel = choose(range(NODES)), choose([0, 1]), choose(CHANNELS)
        if random.random() < faults:
            yield choose(
                [
                    *4 * [("cut", node, link, choose([True, False]))],
                    *3 * [("freeze", node)],
                    *3 * [("thaw", node)],
                    ("kill", node, choose([True, False])),
                    ("crash", choose([True, False])),
                    ("save",),
                    ("flush",),
                    ("trim", random.randrange(4)),
                    *4 * [("pass_on", choose([0.5, 3.0, LEASE + 4.0]))],
                ]
            )
        elif random.random() < 0.4 and number < most:
            number += 1
            yield "join", node, channel, choose([True, False])
        else:
            few = choose([1, 2, 9])
            yield choose(
                [
                    *2 * [("leave", node, random.randrange(10))],
                    ("come_back", random.randrange(10), choose([True, False])),
                    *3 * [("carry", node)],
                    *2 * [("up", node, link, few), ("down", node, link, few)],
                    ("pass_on", 0.5),
                    *2 * [("connect", node)],
                    ("stray", node),
                ]
            )


def play(world: World, steps: Iterator[tuple[Any, ...]]) -> None:
    for name, *arguments in steps:
        getattr(world, name)(*arguments)
    world.end()


@pytest.mark.parametrize("most", [LIMIT, 100], ids=["few", "crowds"])
def test_everybody_knows_who_is_there(most: int, trouble: Trouble) -> None:
    @settings(max_examples=30)
    @given(st.integers(0, 2**32), st.integers(10, 250))
    def run(seed: int, length: int) -> None:
        play(World(crowds=most > LIMIT), program(Random(seed), length, most))

    run()
    assert all(
        line.startswith(("not attached to Redis at ", "the log in Redis does not continue "))
        for line in trouble.take()
    )
