"""The parts of a server that is one of several, with their log in Redis."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from importlib.util import find_spec
from socket import gethostname
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred, TimeoutError
from twisted.logger import Logger

from pushserver import __version__
from pushserver.channels.history import History
from pushserver.cluster.author import Author
from pushserver.cluster.measures import Measure, Measures
from pushserver.config.limits import Limits
from pushserver.config.redis_url import parse_url
from pushserver.config.settings import Broker, Config
from pushserver.diagnosis.facts import BrokerFacts
from pushserver.errors import StartFailed
from pushserver.hub.follower import Follower
from pushserver.hub.hub import Hub
from pushserver.hub.metrics import Metrics
from pushserver.hub.presence import Presence
from pushserver.redis.connection import Place
from pushserver.redis.keys import Keys
from pushserver.redis.log import RedisLog
from pushserver.redis.presence import SharedPresence
from pushserver.redis.scripts import Bounds
from pushserver.redis.shards import ShardedLog
from pushserver.redis.state import State, combined
from pushserver.sessions.node import Node
from pushserver.sessions.orders import Order, carry_out, decode, encode
from pushserver.store.source_memory import SourceMemory
from pushserver.usercode.once import Once

LIBRARIES = ("txredisapi", "hiredis")
START_SECONDS = 5.0
"""The `start` handler of an application is called after this time, though Redis is away."""


LEAVE_SECONDS = 1.0
"""The longest time at the stop in which Redis is told of it."""


class BrokerParts(Service):
    """The log in Redis, and the follower that delivers from it, from the start to the stop."""

    _log = Logger()
    make_log: Callable[..., RedisLog] = RedisLog

    def __init__(
        self,
        config: Config,
        history: History,
        reactor: Any,
        monotonic: Callable[[], float],
        memory: SourceMemory,
    ):
        """`history` has no channels yet; `memory` is that of the sources."""
        check_libraries()
        settings = config.broker
        self._addresses = [parse_url(url).vouched_for_by(settings.ca) for url in settings.urls]
        self._reactor = reactor
        self._monotonic = monotonic
        self._stop = Once()
        self._since = 0.0
        self._clock: Callable[[], float] = lambda: 0.0
        self._has_room: Callable[[str], bool] = lambda channel: True
        keys = keys_of(settings)

        def make_log(shard: int, place: Place | None = None) -> RedisLog:
            return self.make_log(
                self._addresses[shard],
                reactor,
                monotonic,
                history.options,
                bounds_of(config.limits),
                keys[shard],
                has_room=lambda channel: self._has_room(channel),
                memory=memory if shard == 0 else None,
                name=settings.name,
                shard=shard,
                place=place,
            )

        self.log: RedisLog | ShardedLog
        if len(keys) == 1:
            self.log = make_log(0)
        else:
            self.log = ShardedLog(settings.placement, make_log, monotonic)
        self.node_name = settings.name or self.log.node
        """The name of this server among the others."""
        self.follower = Follower(history, Metrics(), self.log, monotonic)
        self.log.feed(self.follower)

    def make_presence(self, hub: Hub, announced_audience: int) -> Presence:
        """The presence of all servers."""
        return SharedPresence(hub, announced_audience, self.log.roll, self.log.rosters)

    def attach(self, node: Node, measures: Measures) -> None:
        """Use the node of this process, and its numbers; called once, before the start."""
        self.log.registry.about = lambda: self._about(measures.whole())
        node.list_nodes = self.log.registry.nodes
        node.tell_others = self._tell_others
        self.log.ordered = partial(self._ordered, node)
        self._since = round(node.clock(), 3)
        self._clock = node.clock
        # Workers add a rule to that of the node.
        self._has_room = lambda channel: node.has_room(channel)
        self.follower.reset = node.hub.reset

    async def _tell_others(self, order: Order) -> None:
        await self.log.order(encode(order))

    def _ordered(self, node: Node, text: bytes) -> None:
        try:
            order = decode(text)
        except ValueError as error:
            self._log.warn(
                "an order of another server was not understood: {problem}",
                problem=f"{error!s:.200}",
                event_name="order_refused",
            )
            return
        try:
            carry_out(node, order)
        except Exception:
            self._log.failure("an order of another server failed", event_name="order_failed")

    def share(self, author: Author) -> None:
        """Let the workers of this server begin anew with a channel whenever it does."""
        reset = self.follower.reset

        def reset_all(channel: str) -> None:
            reset(channel)
            author.replaced(channel)

        self.follower.reset = reset_all

    def _about(self, whole: Measure) -> dict[str, Any]:
        """What other servers read about this one."""
        return {
            "name": self.node_name,
            "host": gethostname(),
            "pid": os.getpid(),
            "version": __version__,
            "since": self._since,
            "time": round(self._clock(), 3),
            "lag": combined(self.log.states).lag,
            "connections": whole.clients,
            "sources": self.log.leases.held,
        }

    def reconfigure(self, limits: Limits, lasting: frozenset[str]) -> None:
        """Change the bounds, as `Follower.reconfigure`."""
        self.follower.reconfigure(limits, lasting)
        self.log.reconfigure(bounds_of(limits))

    def facts(self) -> BrokerFacts:
        """The facts for `/status`."""
        state = combined(self.log.states)
        since = state.deaf_since
        away = None if since is None else round(self._monotonic() - since, 3)
        return BrokerFacts(
            ", ".join(map(str, self._addresses)),
            self.node_name,
            away,
            state.reason or state.problem,
            state.lag,
            state.losses,
        )

    def problem(self) -> str:
        """Why this server gets no publications of others, or publishes none; for everybody."""
        states = self.log.states
        if len(states) == 1:
            return self._problem(states[0])
        return "" if any(state.works for state in states) else self.problem_of_some()

    def problem_of_some(self) -> str:
        """Why it does so in the channels of some shards."""
        problems = [(n, self._problem(state)) for n, state in enumerate(self.log.states)]
        return "; ".join(f"shard {n}: {problem}" for n, problem in problems if problem)

    def _problem(self, state: State) -> str:
        if state.deaf_since is None:
            return state.problem
        seconds = self._monotonic() - state.deaf_since
        return f"{state.problem}, for {seconds:.0f} s; the log has the reason"

    async def attached(self) -> None:
        """Wait until publications are accepted, for some seconds at most."""
        with suppress(TimeoutError):
            await self.log.when_attached().addTimeout(START_SECONDS, self._reactor)

    def startService(self) -> None:
        super().startService()
        self.log.start()

    def stopService(self) -> Deferred[None]:
        super().stopService()
        return self._stop.run(self._leave)

    async def _leave(self) -> None:
        leaving = Deferred.fromCoroutine(self._tell_leave())
        try:
            with suppress(TimeoutError):
                await leaving.addTimeout(LEAVE_SECONDS, self._reactor)
        finally:
            self.log.stop()

    async def _tell_leave(self) -> None:
        await self.log.roll.leave()
        await self.log.registry.leave()


def check_libraries() -> None:
    """Raise StartFailed if the client of Redis is not installed."""
    missing = [name for name in LIBRARIES if find_spec(name) is None]
    if missing:
        verb = "is" if len(missing) == 1 else "are"
        raise StartFailed(
            f"broker.url is set, and {' and '.join(missing)} {verb} not installed:"
            " pip install 'pushserver[redis]', or in a clone: pip install '.[redis]'"
        )


def keys_of(settings: Broker) -> list[Keys]:
    """The keys in each Redis of these settings."""
    first = f"{{{settings.prefix}}}"
    return [Keys(f"{{{prefix}}}", first) for prefix in settings.prefixes]


def bounds_of(limits: Limits) -> Bounds:
    """The bounds of the log in Redis."""
    return Bounds(
        channels=limits.channels, keys_per_publisher=limits.idempotency_keys_per_publisher
    )
