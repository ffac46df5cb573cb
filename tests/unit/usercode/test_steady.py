"""What is measured and what is waited for, while the wall clock is set forward and back."""

from __future__ import annotations

import ast
import asyncio
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.asyncioreactor import AsyncioSelectorReactor
from twisted.internet.base import ReactorBase
from twisted.internet.epollreactor import EPollReactor
from twisted.internet.pollreactor import PollReactor
from twisted.internet.selectreactor import SelectReactor
from twisted.internet.task import Clock, LoopingCall
from twisted.internet.testing import MemoryReactorClock

import pushserver
from pushserver.channels.channel import ChannelOptions
from pushserver.channels.history import History
from pushserver.channels.idempotency import REMEMBERED_SECONDS, Keys
from pushserver.channels.publication import Draft
from pushserver.config.limits import Limits
from pushserver.config.settings import Config
from pushserver.config.settings import Server as ServerConfig
from pushserver.hub.broker import MemoryBroker
from pushserver.hub.metrics import Metrics
from pushserver.server.build import build
from pushserver.server.embedding import PushServer
from pushserver.sources.interface import Feed, SourceFailed
from pushserver.store.committer import Committer
from pushserver.store.recorder import BatchRecorder
from pushserver.testing.reactor import Stage
from pushserver.usercode.steady import births, steady
from tests.unit.fakes.source_tools import Desk
from tests.unit.fakes.tools import EPOCH, Client, Time, drive, programs
from tests.unit.fakes.web import Server, Trouble, parse
from tests.unit.store.test_sync_broker import FakeCommitter

HOUR = 3_600.0
STEPS = pytest.mark.parametrize("step", [-HOUR, HOUR, -10 * 365 * 24 * HOUR], ids=str)


class Unsteady(ReactorBase):
    """A reactor as Twisted's are, without input and output."""

    def installWaker(self) -> None:
        """It has no threads."""


class Machine:
    """A reactor, and two clocks beneath it: one that may be set, and one that may not."""

    def __init__(self) -> None:
        self.now = 1_795_000_000.0
        self.up = 500.0
        self.reactor = Unsteady()

    def wall(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.up

    def steady(self) -> Callable[[], float]:
        """Make the reactor steady."""
        return steady(self.reactor, self.wall, self.monotonic)

    def advance(self, seconds: float, pace: float = 1.0) -> None:
        """Let time pass, and the reactor make its calls."""
        while seconds > 0:
            passed = min(pace, seconds)
            self.now += passed
            self.up += passed
            seconds -= passed
            self.reactor.runUntilCurrent()
            self.reactor.runUntilCurrent()


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    machine = Machine()
    # As reactors are before they are made steady.
    monkeypatch.setattr(ReactorBase, "seconds", staticmethod(machine.wall))
    return machine


class TestAReactor:
    @STEPS
    def test_calls_when_it_is_due_by_the_time_that_has_passed(
        self, machine: Machine, step: float
    ) -> None:
        machine.steady()
        called: list[float] = []
        machine.reactor.callLater(5, lambda: called.append(machine.up))
        machine.now += step
        assert machine.reactor.timeout() == pytest.approx(5)
        machine.advance(4)
        assert called == []
        machine.advance(1)
        assert called == [505.0]

    @STEPS
    def test_keeps_calls_that_were_made_before(self, machine: Machine, step: float) -> None:
        called: list[str] = []
        machine.reactor.callLater(5, called.append, "kept")
        moved = machine.reactor.callLater(1, called.append, "moved")
        machine.steady()
        machine.now += step
        moved.reset(7)
        machine.advance(5)
        assert called == ["kept"]
        machine.advance(1)
        moved.reset(2)
        machine.advance(1)
        assert called == ["kept"]
        machine.advance(1)
        assert called == ["kept", "moved"]

    @STEPS
    def test_ticks_on_in_a_loop_that_ran_before(self, machine: Machine, step: float) -> None:
        ticks: list[float] = []
        loop = LoopingCall(lambda: ticks.append(machine.up))
        loop.clock = machine.reactor
        loop.start(2.0)
        machine.steady()
        machine.now += step
        machine.advance(6)
        assert ticks == [500.0, 502.0, 504.0, 506.0]

    def test_continues_from_the_present_unix_time(self, machine: Machine) -> None:
        seconds = machine.steady()
        assert seconds() == machine.reactor.seconds() == machine.now
        machine.now += HOUR
        machine.up += 2.0
        assert seconds() == machine.now - HOUR + 2.0

    def test_is_made_steady_once(self, machine: Machine) -> None:
        first = machine.steady()
        machine.now -= HOUR
        assert machine.steady() is first
        assert machine.reactor.seconds is first

    @pytest.mark.parametrize("clock", [Clock(), MemoryReactorClock(), Stage(), Time()])
    def test_that_is_a_clock_of_a_test_keeps_its_time(self, clock: Any) -> None:
        now = clock.seconds()
        measure = steady(clock)
        assert measure() == now
        assert "seconds" not in vars(clock)

    def test_with_a_clock_of_its_own_keeps_it(self, machine: Machine) -> None:
        machine.reactor.seconds = own = lambda: 7.0
        assert machine.steady() is own

        class Other(Unsteady):
            def seconds(self) -> float:
                return 8.0

        assert steady(Other())() == 8.0

    @pytest.mark.parametrize("kind", [SelectReactor, PollReactor, EPollReactor])
    @pytest.mark.parametrize("step", [-HOUR, HOUR])
    def test_of_any_kind_wakes_up_in_time(
        self, kind: Any, step: float, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.runs(kind(), step, monkeypatch)

    @pytest.mark.parametrize("step", [-HOUR, HOUR])
    def test_of_asyncio_wakes_up_in_time(
        self, step: float, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        loop = asyncio.new_event_loop()
        try:
            self.runs(AsyncioSelectorReactor(loop), step, monkeypatch)
        finally:
            loop.close()

    @staticmethod
    def runs(reactor: Any, step: float, monkeypatch: pytest.MonkeyPatch) -> None:
        """It turns until a call that was made after the step; the guard is made before."""
        import time

        wall = [0.0]
        monkeypatch.setattr(
            ReactorBase, "seconds", staticmethod(lambda: time.time() + wall[0]), raising=True
        )
        called: list[str] = []
        steady(reactor)
        guard = reactor.callLater(HOUR / 2, called.append, "much too early, or late")
        wall[0] = step
        reactor.callLater(0.02, called.append, "in time")
        began = time.monotonic()
        while not called and time.monotonic() - began < 10:
            reactor.iterate(reactor.timeout())
        assert called == ["in time"]
        guard.cancel()
        reactor.disconnectAll()
        for reader in list(reactor._internalReaders):
            reactor.removeReader(reader)
            reader.connectionLost(None)
        if hasattr(reactor, "_poller") and hasattr(reactor._poller, "close"):
            reactor._poller.close()


def test_the_server_makes_its_reactor_steady(machine: Machine) -> None:
    service = build(Config(sources={}), cast(Any, machine.reactor))
    assert vars(machine.reactor)["seconds"] is service.node.monotonic


class TestTheServer:
    """Started on a reactor that is as Twisted's, and then the wall clock is set."""

    @pytest.fixture
    def start(self, machine: Machine) -> Iterator[Callable[..., Server]]:
        machine.steady()
        servers: list[Server] = []

        def start(app: PushServer | None = None, limits: Limits = Limits()) -> Server:
            config = Config(limits=limits, server=ServerConfig(listen=[]))
            server = Server(config=config, app=app, clock=machine.reactor, wall=machine.wall)
            server.service.startService()
            machine.advance(1)
            servers.append(server)
            return server

        yield start
        for server in servers:
            server.service.stopService()
            machine.advance(10)
            assert server.is_empty()

    @STEPS
    def test_sends_heartbeats_all_the_time(
        self, machine: Machine, start: Callable[..., Server], step: float
    ) -> None:
        server = start(limits=Limits(ping_seconds=10.0, pong_seconds=8.0))
        client = Client(server.node)
        client.transport.take()
        machine.now += step
        machine.advance(12)
        assert client.transport.take() == [{}]
        machine.advance(10)
        assert client.closed is not None, "without a pong"
        client.session.closed()

    @STEPS
    def test_answers_a_long_poll_when_its_time_is_over(
        self, machine: Machine, start: Callable[..., Server], step: float
    ) -> None:
        server = start()
        line = server.open("/channels/a?wait=5")
        machine.now += step
        machine.advance(3)
        assert line.take() == b""
        machine.advance(3)
        assert parse(line.take()).json["publications"] == []

    @STEPS
    def test_lets_sources_tick(
        self, machine: Machine, start: Callable[..., Server], step: float
    ) -> None:
        app = PushServer()
        ticks = iter(range(1_000))
        app.source("a", every=2.0, thread=False, name="ticks")(lambda: next(ticks))
        server = start(app)
        before = server.hub.history.top("a")
        machine.now += step
        machine.advance(10)
        assert server.hub.history.top("a") == before + 5

    @STEPS
    def test_evicts_what_is_old_and_nothing_else(
        self, machine: Machine, start: Callable[..., Server], step: float
    ) -> None:
        server = start()
        drive(server.node.publish(Draft("a", b"1")))
        machine.now += step
        machine.advance(60)
        assert len(server.hub.history.peek("a")) == 1
        machine.up += ChannelOptions().history_ttl
        machine.advance(60)
        assert len(server.hub.history.peek("a")) == 0


@STEPS
def test_batches_are_committed(machine: Machine, step: float) -> None:
    machine.steady()
    history = History(lambda name: ChannelOptions(), EPOCH)
    committer = FakeCommitter(history, lambda batch: None)
    recorder = BatchRecorder(cast(Committer, committer), history, machine.reactor, 0.05)
    broker = MemoryBroker(
        history, Keys(9), Metrics(), machine.wall, machine.reactor.seconds, recorder
    )
    drive(broker.publish(Draft("a", b"1")))
    machine.now += step
    machine.advance(0.06, 0.02)
    committer.succeed()
    drive(broker.publish(Draft("a", b"2")))
    machine.now += step
    machine.advance(0.06, 0.02)
    committer.succeed()
    assert committer.file.read("a") == [1, 2]


@STEPS
def test_a_source_that_failed_is_started_again_after_its_back_off(
    step: float, trouble: Trouble
) -> None:
    wall, runs = Time(), []
    desk = Desk(wall)

    async def run(feed: Feed) -> None:
        runs.append(feed.monotonic())
        raise SourceFailed("once more")

    runner = desk.script(run, retry_seconds=4.0)
    wall.now += step
    attempt = runner.status().next_attempt
    assert attempt is not None
    assert 0 < attempt - wall.now <= 4.0
    desk.clock.advance(4.0)
    assert len(runs) == 2
    runner.stopService()
    assert len(trouble.take()) == 1


# -- ages ------------------------------------------------------------------------------------


def test_an_age_is_that_of_the_stamp_and_never_negative() -> None:
    assert births([90.0, 95.0, 100.0], wall=100.0, now=7.0) == [-3.0, 2.0, 7.0]
    assert births([100.5, 4_000.0], wall=100.0, now=7.0) == [7.0, 7.0]
    assert births([], wall=100.0, now=7.0) == []


def test_nothing_is_younger_than_what_was_made_after_it() -> None:
    """The clock was set back by an hour after the first two."""
    assert births([3_700.0, 3_710.0, 110.0, 120.0], wall=150.0, now=7.0) == [
        -33.0,
        -33.0,
        -33.0,
        -23.0,
    ]


@given(st.lists(st.floats(-1e6, 1e6)), st.floats(-1e6, 1e6))
def test_ages_never_grow_and_none_was_made_in_the_future(times: list[float], wall: float) -> None:
    found = births(times, wall, 50.0)
    assert found == sorted(found)
    assert all(born <= 50.0 for born in found)
    assert all(50.0 - born >= wall - at - 1e-6 for born, at in zip(found, times, strict=True))


TTL = 100.0
moves = programs(
    st.tuples(st.just("publish"), st.sampled_from("ab"), st.sampled_from(["", "k"]))
    | st.tuples(st.just("pass"), st.sampled_from([1.0, 60.0, 99.0, 250.0]))
    | st.tuples(st.just("set"), st.sampled_from([-HOUR, HOUR, -3e8, -0.5, 3.0]))
    | st.just(("sweep",)),
)


@given(moves)
def test_times_never_go_back_and_ages_are_those_that_passed(moves: list[tuple[Any, ...]]) -> None:
    wall, now = Time(), Time(7_000.0)
    history = History(lambda name: ChannelOptions(history_ttl=TTL), EPOCH)
    broker = MemoryBroker(history, Keys(100), Metrics(), wall, now)
    made: dict[str, list[tuple[int, float]]] = {"a": [], "b": []}
    keys: dict[str, tuple[int, float]] = {}
    for move, *arguments in moves:
        if move == "publish":
            channel, key = arguments
            offset = drive(broker.publish(Draft(channel, b"1", key=key))).offset
            known = keys.get(channel, (0, -REMEMBERED_SECONDS))
            if key and now.now < known[1] + REMEMBERED_SECONDS:
                assert offset == known[0]
                continue
            made[channel].append((offset, now.now))
            if key:
                keys[channel] = offset, now.now
        elif move == "pass":
            now.now += arguments[0]
            wall.now += arguments[0]
        elif move == "set":
            wall.now += arguments[0]
        else:
            broker.expire(now.now, lambda channel: False)
            young = {
                name: [offset for offset, born in rows if born + TTL > now.now]
                for name, rows in made.items()
            }
            assert {n: [r.offset for r in history.peek(n).after(0)] for n in "ab"} == young
        for name in "ab":
            times = [row.time for row in history.peek(name).after(0)]
            assert times == sorted(times)


def test_a_channel_whose_rows_are_gone_follows_the_clock_again() -> None:
    wall, now = Time(10_000.0), Time(0.0)
    history = History(lambda name: ChannelOptions(), EPOCH)
    broker = MemoryBroker(history, Keys(9), Metrics(), wall, now)
    watcher: list[float] = []
    broker.attach(lambda row: watcher.append(row.time))
    for step in (0.0, -HOUR, 1.0):
        wall.now += step
        drive(broker.publish(Draft("a", b"1")))
    drive(broker.clear("a"))
    drive(broker.publish(Draft("a", b"1")))
    assert watcher == [10_000.0, 10_000.0, 10_000.0, 6_401.0]


# -- the rule ---------------------------------------------------------------------------------

PACKAGE = Path(pushserver.__file__).parent
CLOCKS = {"usercode/steady.py", "testing/reactor.py", "testing/server.py", "opener.py"}
"""Those that are a clock themselves; and `opener`, which runs in scripts without a reactor."""
STAMPS = {
    "server/build.py",
    "app/failures.py",
    "sources/http_client/response.py",
    "sources/types/cron.py",
    "sources/types/webhook/source.py",
}
"""Where the wall clock is asked, for what others say in its time."""


def asked(source: str) -> set[str]:
    """The clocks that a module reads by itself."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute):
            owner = ast.unparse(node.value)
            if node.attr == "seconds" and re.search(r"(reactor|clock|timer)$", owner):
                found.add("reactor.seconds")
            if owner == "time" and node.attr in ("time", "monotonic", "perf_counter", "time_ns"):
                found.add(f"time.{node.attr}")
            if node.attr in ("now", "utcnow", "today") and owner.endswith(("datetime", "date")):
                found.add("datetime.now")
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(".seconds"):
            found.add("reactor.seconds")
        elif isinstance(node, ast.ImportFrom) and node.module == "time":
            found |= {f"time.{name.name}" for name in node.names}
    return found


MODULES = sorted(str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("module", MODULES)
def test_time_is_measured_by_the_clock_that_is_handed_on(module: str) -> None:
    allowed = {"time.time"} if module in STAMPS else set()
    if module not in CLOCKS:
        assert asked((PACKAGE / module).read_text("utf-8")) <= allowed


@pytest.mark.parametrize(
    ("source", "clocks"),
    [
        ("now = self._reactor.seconds()", {"reactor.seconds"}),
        ("Bounds(1, 2, reactor.seconds)", {"reactor.seconds"}),
        ("feed.reactor.seconds() + 1", {"reactor.seconds"}),
        ("import time\ntime.time()", {"time.time"}),
        ("from time import monotonic", {"time.monotonic"}),
        ("datetime.now(UTC)", {"datetime.now"}),
        ("self._bounds.seconds + audience.seconds", set()),
        ("time.sleep(1)", set()),
    ],
)
def test_the_rule_sees_clocks_and_nothing_else(source: str, clocks: set[str]) -> None:
    assert asked(source) == clocks
