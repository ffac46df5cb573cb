"""Sources of several servers: a runner runs its source while it has the lease."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from twisted.internet.defer import Deferred
from zope.interface import implementer

from pushserver.sources.engine.runner import Runner
from pushserver.sources.interface import Feed, IHook
from tests.unit.fakes.source_tools import Script, SourceBench, stopped
from tests.unit.fakes.tools import Watcher


class Leases:
    """Those of one server; the test gives and takes the lease."""

    def __init__(self) -> None:
        self.wanted: Callable[[], None] | None = None
        self.has = False

    def want(self, name: str, wants: bool, changed: Callable[[], None]) -> None:
        assert name == "s"
        self.wanted = changed if wants else None
        self.has = self.has and wants

    def holds(self, name: str) -> bool:
        return self.has

    def give(self, has: bool = True) -> None:
        assert self.wanted is not None
        self.has = has
        self.wanted()


class Bench(SourceBench):
    """Sources that publish once in each attempt, and then wait."""

    def __init__(self) -> None:
        super().__init__()
        self.environment.leases = self.leases = Leases()
        self.ending: Deferred[None] = Deferred()

    async def run(self, feed: Feed) -> None:
        await feed.publish(len(self.drafts))
        await self.ending


@pytest.fixture
def bench() -> Bench:
    return Bench()


def state(runner: Runner) -> str:
    return runner.status().state


def test_source_runs_while_the_server_has_the_lease(bench: Bench) -> None:
    runner = bench.script(bench.run)
    assert (state(runner), bench.published) == ("elsewhere", [])
    bench.leases.give()
    assert (state(runner), bench.published) == ("running", [0])
    assert bench.drafts[0].lease == "s"
    bench.leases.give(False)
    assert (state(runner), bench.leases.wanted is not None) == ("elsewhere", True)
    bench.ending = Deferred()
    bench.leases.give()
    assert bench.published == [0, 1]
    assert stopped(runner) == [None]
    assert bench.leases.wanted is None


def test_lease_is_kept_until_the_attempt_has_ended(bench: Bench) -> None:
    slow: Deferred[None] = Deferred()

    async def run(feed: Feed) -> None:
        try:
            await Deferred()
        finally:
            await slow

    source = Script(run)
    source.stop_seconds = 1.0
    runner = bench.started(source)
    bench.leases.give()
    over = stopped(runner)
    assert (over, bench.leases.wanted is not None) == ([], True)
    slow.callback(None)
    assert (over, bench.leases.wanted) == ([None], None)


def test_lease_of_a_source_that_has_ended_is_kept_until_the_stop(bench: Bench) -> None:
    runner = bench.script(bench.run)
    bench.leases.give()
    bench.ending.callback(None)
    assert (state(runner), bench.leases.has) == ("ended", True)
    assert stopped(runner) == [None]
    assert bench.leases.wanted is None


def test_lease_of_a_source_on_demand_is_for_a_server_with_watchers(bench: Bench) -> None:
    runner = bench.script(bench.run, on_demand=True, linger_seconds=5.0)
    assert (state(runner), bench.leases.wanted) == ("waiting", None)
    watcher = Watcher()
    bench.watch(watcher)
    assert state(runner) == "elsewhere"
    bench.leases.give()
    assert state(runner) == "running"
    bench.leave(watcher)
    bench.clock.advance(4.9)
    assert bench.leases.has
    bench.clock.advance(0.1)
    assert (state(runner), bench.leases.wanted) == ("waiting", None)


def test_hook_runs_at_all_servers(bench: Bench) -> None:
    hook = implementer(IHook)(type("Hook", (Script,), {}))(bench.run)
    runner = bench.started(hook)
    assert (state(runner), bench.drafts[0].lease) == ("running", "")
    assert bench.leases.wanted is None
