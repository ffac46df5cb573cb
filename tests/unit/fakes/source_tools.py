"""Fakes to run sources in, on a clock that only the test advances."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from queue import SimpleQueue
from typing import Any, cast

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorFromThreads
from twisted.internet.task import Clock
from zope.interface import implementer

from pushserver.channels.publication import Draft, Receipt
from pushserver.hub.hub import Hub
from pushserver.sources.engine.environment import Environment, Plan
from pushserver.sources.engine.runner import Runner
from pushserver.sources.interface import Feed, ISource
from pushserver.store.source_memory import SourceMemory
from tests.unit.fakes.tools import Watcher, drive, make_node

NOW = 1_795_000_000.0
WAIT_SECONDS = 20.0


@implementer(IReactorFromThreads)
class ThreadClock(Clock):
    """A clock that collects the calls of threads until `take`."""

    def __init__(self) -> None:
        super().__init__()
        self._brought: SimpleQueue[Callable[[], object]] = SimpleQueue()

    def turn(self) -> None:
        """Make the calls that are due now, without those that they schedule."""
        calls: Any = self.getDelayedCalls()
        for call in [call for call in calls if call.getTime() <= self.seconds()]:
            self.calls.remove(call)
            call.called = 1
            call.func(*call.args, **call.kw)

    def callFromThread(
        self, callable: Callable[..., object], *args: object, **kwargs: object
    ) -> None:
        self._brought.put(lambda: callable(*args, **kwargs))

    def take(self, count: int = 1) -> None:
        """Wait for `count` calls of threads, and make them."""
        for _ in range(count):
            self._brought.get(timeout=WAIT_SECONDS)()

    @property
    def waiting(self) -> int:
        """The number of calls of threads that were not made."""
        return self._brought.qsize()


@implementer(ISource)
class Script:
    """A source that is one coroutine function."""

    stop_seconds = 0.0

    def __init__(self, run: Callable[[Feed], Awaitable[None]]):
        self.run = run


class SourceBench:
    """An environment for sources, with all drafts and their times; `wall` is its wall clock."""

    def __init__(self, wall: Callable[[], float] | None = None) -> None:
        self.clock = ThreadClock()
        self.clock.rightNow = NOW
        self.node = make_node()
        self.hub: Hub = self.node.hub
        self.memory = SourceMemory()
        self.drafts: list[Draft] = []
        self.times: list[float] = []
        self.refusal: Exception | None = None
        self.held: Deferred[None] | None = None
        now = self.monotonic = self.clock.seconds
        self.environment = Environment(
            cast(Any, self.clock), self.publish, self.hub, self.memory, wall or now, now, 2.0
        )

    async def publish(self, draft: Draft) -> Receipt:
        """Publish by the node; awaits `held` and raises `refusal` while they are set."""
        if self.held is not None:
            await self.held
        if self.refusal is not None:
            raise self.refusal
        self.drafts.append(draft)
        self.times.append(self.clock.seconds())
        return await self.node.publish(draft)

    def runner(self, source: object, **plan: Any) -> Runner:
        """Return a runner of the source, with the channel `c`, not started."""
        return Runner(
            source, Plan(**{"name": "s", "type": "test", "channel": "c", **plan}), self.environment
        )

    def started(self, source: object, **plan: Any) -> Runner:
        """Return a started runner of the source."""
        runner = self.runner(source, **plan)
        runner.startService()
        return runner

    def script(self, run: Callable[[Feed], Awaitable[None]], **plan: Any) -> Runner:
        """Return a started runner of a coroutine function."""
        return self.started(Script(run), **plan)

    def watch(self, watcher: Watcher, channel: str = "c") -> None:
        """Subscribe, and run the next turn."""
        drive(self.hub.subscribe(watcher, channel, None, 0))
        self.clock.advance(0)

    def leave(self, watcher: Watcher, channel: str = "c") -> None:
        """Unsubscribe, and run the next turn."""
        self.hub.unsubscribe(watcher, channel)
        self.clock.advance(0)

    @property
    def published(self) -> list[Any]:
        """The data of all publications."""
        return [json.loads(draft.data) for draft in self.drafts]


def stopped(runner: Runner) -> list[object]:
    """Stop the runner; the list gets the result."""
    result: list[object] = []
    runner.stopService().addBoth(result.append)
    return result
