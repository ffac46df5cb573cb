"""Times and timers while the wall clock is set forward and back."""

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
from pushserver.sessions.base import CLOSING_SECONDS
from pushserver.sources.interface import Feed, SourceFailed
from pushserver.store.committer import Committer
from pushserver.store.recorder import BatchRecorder
from pushserver.testing.reactor import TestReactor
from pushserver.usercode.steady import births, steady
from tests.unit.fakes.source_tools import SourceBench
from tests.unit.fakes.tools import EPOCH, Client, Time, drive, programs
from tests.unit.fakes.web import Server, Trouble, handshake, parse
from tests.unit.store.test_sync_broker import FakeCommitter

HOUR = 3_600.0
STEPS = pytest.mark.parametrize("step", [-HOUR, HOUR, -10 * 365 * 24 * HOUR], ids=str)


class Unsteady(ReactorBase):
    """A reactor like those of Twisted, without input and output."""

    def installWaker(self) -> None:
        """No-op: it has no threads."""


class Machine:
    """A reactor and its two clocks: `now`, which can be set, and `up`, which cannot."""

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
        """Let time pass, and the reactor call its timers."""
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
    # Like the clock of a reactor that is not yet steady.
    monkeypatch.setattr(ReactorBase, "seconds", staticmethod(machine.wall))
    return machine


class TestTheReactor:
    @STEPS
    def test_timer_fires_after_the_time_that_passed(self, machine: Machine, step: float) -> None:
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
    def test_existing_timers_are_kept(self, machine: Machine, step: float) -> None:
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
    def test_existing_looping_call_keeps_its_interval(self, machine: Machine, step: float) -> None:
        ticks: list[float] = []
        loop = LoopingCall(lambda: ticks.append(machine.up))
        loop.clock = machine.reactor
        loop.start(2.0)
        machine.steady()
        machine.now += step
        machine.advance(6)
        assert ticks == [500.0, 502.0, 504.0, 506.0]

    def test_clock_starts_at_the_unix_time(self, machine: Machine) -> None:
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

    @pytest.mark.parametrize("clock", [Clock(), MemoryReactorClock(), TestReactor(), Time()])
    def test_clock_of_a_test_is_kept(self, clock: Any) -> None:
        now = clock.seconds()
        measure = steady(clock)
        assert measure() == now
        assert "seconds" not in vars(clock)

    def test_reactor_with_another_clock_keeps_it(self, machine: Machine) -> None:
        machine.reactor.seconds = own = lambda: 7.0
        assert machine.steady() is own

        class Other(Unsteady):
            def seconds(self) -> float:
                return 8.0

        assert steady(Other())() == 8.0

    @pytest.mark.parametrize("kind", [SelectReactor, PollReactor, EPollReactor])
    @pytest.mark.parametrize("step", [-HOUR, HOUR])
    def test_reactor_of_any_kind_wakes_up_in_time(
        self, kind: Any, step: float, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.runs(kind(), step, monkeypatch)

    @pytest.mark.parametrize("step", [-HOUR, HOUR])
    def test_asyncio_reactor_wakes_up_in_time(
        self, step: float, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        loop = asyncio.new_event_loop()
        try:
            self.runs(AsyncioSelectorReactor(loop), step, monkeypatch)
        finally:
            loop.close()

    @staticmethod
    def runs(reactor: Any, step: float, monkeypatch: pytest.MonkeyPatch) -> None:
        """Iterate until a timer set after the step fires; the guard was set before it."""
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


def test_server_makes_its_reactor_steady(machine: Machine) -> None:
    service = build(Config(sources={}), cast(Any, machine.reactor))
    assert vars(machine.reactor)["seconds"] is service.node.monotonic


class TestServer:
    """A server on a reactor like those of Twisted; then the wall clock is set."""

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
    def test_sends_heartbeats_at_their_interval(
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
    def test_drops_a_websocket_that_does_not_answer_its_close(
        self, machine: Machine, start: Callable[..., Server], step: float, trouble: Trouble
    ) -> None:
        server = start()
        line = server.open("/channels/a", **handshake())
        machine.now += step
        peer: Any
        [peer] = server.node.peers
        peer.disconnect(1008, "the end")
        machine.advance(1)
        assert not line.lost
        machine.advance(CLOSING_SECONDS + 2)
        assert line.lost
        trouble.take()

    @STEPS
    def test_closes_a_connection_whose_request_does_not_arrive(
        self, machine: Machine, start: Callable[..., Server], step: float
    ) -> None:
        server = start(limits=Limits(request_seconds=10))
        lines = [server.connect() for _ in range(2)]
        lines[1].protocol.dataReceived(b"POST /channels/a HTTP/1.1\r\n")
        machine.now += step
        machine.advance(8)
        assert not any(line.disconnecting for line in lines)
        machine.advance(4)
        assert all(line.disconnecting for line in lines)

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
    def test_evicts_old_publications_only(
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
    recorder = BatchRecorder(
        cast(Committer, committer), history, machine.monotonic, machine.reactor, 0.05
    )
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
def test_failed_source_restarts_after_its_backoff(step: float, trouble: Trouble) -> None:
    wall, runs = Time(), []
    bench = SourceBench(wall)

    async def run(feed: Feed) -> None:
        runs.append(feed.monotonic())
        raise SourceFailed("once more")

    runner = bench.script(run, retry_seconds=4.0)
    wall.now += step
    attempt = runner.status().next_attempt
    assert attempt is not None
    assert 0 < attempt - wall.now <= 4.0
    bench.clock.advance(4.0)
    assert len(runs) == 2
    runner.stopService()
    assert len(trouble.take()) == 1


# -- ages ------------------------------------------------------------------------------------


def test_births_follow_the_times_and_are_never_in_the_future() -> None:
    assert births([90.0, 95.0, 100.0], wall=100.0, now=7.0) == [-3.0, 2.0, 7.0]
    assert births([100.5, 4_000.0], wall=100.0, now=7.0) == [7.0, 7.0]
    assert births([], wall=100.0, now=7.0) == []


def test_births_never_decrease() -> None:
    """The clock was set back by an hour after the first two times."""
    assert births([3_700.0, 3_710.0, 110.0, 120.0], wall=150.0, now=7.0) == [
        -33.0,
        -33.0,
        -33.0,
        -23.0,
    ]


@given(st.lists(st.floats(-1e6, 1e6)), st.floats(-1e6, 1e6))
def test_births_of_any_times_never_decrease_and_are_never_in_the_future(
    times: list[float], wall: float
) -> None:
    ages = births(times, wall, 50.0)
    assert ages == sorted(ages)
    assert all(born <= 50.0 for born in ages)
    assert all(50.0 - born >= wall - at - 1e-6 for born, at in zip(ages, times, strict=True))


TTL = 100.0
moves = programs(
    st.tuples(st.just("publish"), st.sampled_from("ab"), st.sampled_from(["", "k"]))
    | st.tuples(st.just("pass"), st.sampled_from([1.0, 60.0, 99.0, 250.0]))
    | st.tuples(st.just("set"), st.sampled_from([-HOUR, HOUR, -3e8, -0.5, 3.0]))
    | st.just(("sweep",)),
)


@given(moves)
def test_times_of_a_channel_never_decrease_and_expiry_follows_the_steady_clock(
    moves: list[tuple[Any, ...]],
) -> None:
    wall, now = Time(), Time(7_000.0)
    history = History(lambda name: ChannelOptions(history_ttl=TTL), EPOCH)
    broker = MemoryBroker(history, Keys(100), Metrics(), wall, now)
    made: dict[str, list[tuple[int, float]]] = {"a": [], "b": []}
    keys: dict[str, tuple[int, float]] = {}
    for move, *arguments in moves:
        if move == "publish":
            channel, key = arguments
            offset = drive(broker.publish(Draft(channel, b"1", key=key))).offset
            first = keys.get(channel, (0, -REMEMBERED_SECONDS))
            if key and now.now < first[1] + REMEMBERED_SECONDS:
                assert offset == first[0]
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


def test_empty_channel_follows_the_wall_clock_again() -> None:
    wall, now = Time(10_000.0), Time(0.0)
    history = History(lambda name: ChannelOptions(), EPOCH)
    broker = MemoryBroker(history, Keys(9), Metrics(), wall, now)
    watcher: list[float] = []
    broker.attach(lambda row, _: watcher.append(row.time))
    for step in (0.0, -HOUR, 1.0):
        wall.now += step
        drive(broker.publish(Draft("a", b"1")))
    drive(broker.clear("a"))
    drive(broker.publish(Draft("a", b"1")))
    assert watcher == [10_000.0, 10_000.0, 10_000.0, 6_401.0]


# -- the rule ---------------------------------------------------------------------------------

PACKAGE = Path(pushserver.__file__).parent
CLOCKS = {
    "usercode/steady.py",
    "testing/reactor.py",
    "testing/server.py",
    "command_line/measuring.py",
    "opener.py",
    "command_line/piping.py",
    "publisher.py",
    "command_line/screen.py",
    "command_line/top_command.py",
    "usercode/stopwatch.py",
}
"""Modules that are clocks, and those that run in scripts without a reactor."""
ALLOWED = {
    # The duration of a turn, of a reactor whose clock belongs to several servers.
    "server/epoll_limit.py": {"time.perf_counter"},
    # Unix time, for timestamps of others.
    "server/build.py": {"time.time"},
    "auth/issuer.py": {"time.time"},
    "command_line/token_checking.py": {"time.time"},
    "command_line/token_command.py": {"time.time"},
    "app/failures.py": {"time.time"},
    "sources/http_client/response.py": {"time.time"},
    # How long the reactor was busy.
    "sources/http_client/connection.py": {"reactor.seconds"},
    "sources/types/cron.py": {"time.time"},
    "sources/types/webhook/source.py": {"time.time"},
    # The date of an answer, which twisted.web reads from the same clock.
    "web/short_post.py": {"time.time"},
    # For systemd, which has the clock of the system.
    "server/systemd.py": {"time.clock_gettime_ns"},
    # They pass the reactor of the process to `build`, which makes it steady.
    "server/options.py": {"the global reactor"},
    "server/foreground.py": {"the global reactor"},
    "server/embedding.py": {"the global reactor"},
    "server/workers/worker.py": {"the global reactor"},
    # It stops it.
    "flask/socketio.py": {"the global reactor"},
}
_OF_TIME = re.compile(r"(time|monotonic|perf_counter|process_time|thread_time|clock_gettime)(_ns)?")
_WITHOUT_ARGUMENT = {"localtime": 1, "gmtime": 1, "ctime": 1, "asctime": 1, "strftime": 2}
"""Functions of `time`, and the number of arguments with which they do not read the clock."""
_SQL = re.compile(r"\bCURRENT_(TIME|DATE|TIMESTAMP)\b|\(\s*'now'|\bunixepoch\(\s*\)")


class Clocks(ast.NodeVisitor):
    """Collects the clocks that a module reads, and timers on another clock than a given one."""

    def __init__(self) -> None:
        self.found: set[str] = set()
        self._loops = 0
        self._loop_clocks = 0

    def visit_Module(self, node: ast.Module) -> None:
        self.generic_visit(node)
        if self._loops > self._loop_clocks:
            self.found.add("a LoopingCall without a clock")

    def visit_Import(self, node: ast.Import) -> None:
        for name in node.names:
            if name.asname and name.name in ("time", "datetime"):
                self.found.add(f"{name.name} under another name")
            if name.name == "twisted.internet.reactor":
                self.found.add("the global reactor")

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        names = {name.name for name in node.names}
        if node.module == "time":
            self.found |= {f"time.{name}" for name in names}
        elif node.module == "datetime":
            if any(n.asname for n in node.names if n.name in ("datetime", "date")):
                self.found.add("datetime under another name")
        elif node.module == "twisted.internet" and "reactor" in names:
            self.found.add("the global reactor")
        elif node.module == "twisted.python.runtime" and "seconds" in names:
            self.found.add("runtime.seconds")
        elif node.module == "email.utils":
            self.found |= {f"email.{name}" for name in names & {"formatdate", "localtime"}}

    def visit_Attribute(self, node: ast.Attribute) -> None:
        owner = ast.unparse(node.value)
        if node.attr == "seconds" and re.search(r"(reactor|clock|timer)$", owner):
            self.found.add("reactor.seconds")
        if owner == "time" and _OF_TIME.fullmatch(node.attr):
            self.found.add(f"time.{node.attr}")
        if node.attr == "time" and re.search(r"loop(\(\))?$", owner):
            self.found.add("loop.time")
        if node.attr in ("now", "utcnow", "today") and owner.endswith(("datetime", "date")):
            self.found.add("datetime.now")
        if owner.endswith("runtime") and node.attr == "seconds":
            self.found.add("runtime.seconds")
        if isinstance(node.ctx, ast.Store) and node.attr == "clock":
            self._loop_clocks += 1
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        called = ast.unparse(node.func)
        if called.endswith(".seconds"):
            self.found.add("reactor.seconds")
        module, _, name = called.rpartition(".")
        if module == "time" and len(node.args) < _WITHOUT_ARGUMENT.get(name, 0):
            self.found.add(f"time.{name}")
        if name == "LoopingCall":
            self._loops += 1
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, str) and _SQL.search(node.value):
            self.found.add("the clock of SQLite")


def clocks_read_by(source: str) -> set[str]:
    """The clocks that a module reads directly."""
    clocks = Clocks()
    clocks.visit(ast.parse(source))
    return clocks.found


MODULES = sorted(str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("module", MODULES)
def test_module_uses_the_clock_that_it_was_given(module: str) -> None:
    if module not in CLOCKS:
        found = clocks_read_by((PACKAGE / module).read_text("utf-8"))
        assert found <= ALLOWED.get(module, set())


@pytest.mark.parametrize(
    ("source", "clocks"),
    [
        ("now = self._reactor.seconds()", {"reactor.seconds"}),
        ("Bounds(1, 2, reactor.seconds)", {"reactor.seconds"}),
        ("feed.reactor.seconds() + 1", {"reactor.seconds"}),
        ("import time\ntime.time()", {"time.time"}),
        ("Stamp(clock=time.time_ns)", {"time.time_ns"}),
        ("time.clock_gettime(time.CLOCK_REALTIME)", {"time.clock_gettime"}),
        ("time.monotonic_ns()", {"time.monotonic_ns"}),
        ("import time as t\nt.time()", {"time under another name"}),
        (
            "import datetime as dt\ndt.datetime.now()",
            {"datetime under another name", "datetime.now"},
        ),
        ("from datetime import datetime as D\nD.now()", {"datetime under another name"}),
        ("from time import monotonic", {"time.monotonic"}),
        ("datetime.now(UTC)", {"datetime.now"}),
        ("time.localtime()", {"time.localtime"}),
        ("time.strftime('%H')", {"time.strftime"}),
        ("formatdate()\nfrom email.utils import formatdate", {"email.formatdate"}),
        ("asyncio.get_running_loop().time()", {"loop.time"}),
        ("self._loop.time() + 1", {"loop.time"}),
        ("from twisted.internet import defer, reactor", {"the global reactor"}),
        ("import twisted.internet.reactor", {"the global reactor"}),
        ("from twisted.python.runtime import seconds", {"runtime.seconds"}),
        (
            "from twisted.python import runtime\nruntime.seconds()",
            {"runtime.seconds", "reactor.seconds"},
        ),
        ("LoopingCall(f).start(1)", {"a LoopingCall without a clock"}),
        ("a = LoopingCall(f)\na.clock = c\ntask.LoopingCall(f)", {"a LoopingCall without a clock"}),
        ("db.execute(\"DELETE FROM t WHERE at < datetime('now')\")", {"the clock of SQLite"}),
        ("'CREATE TABLE t (at DEFAULT CURRENT_TIMESTAMP)'", {"the clock of SQLite"}),
        ("loop = LoopingCall(f)\nloop.clock = reactor", set()),
        ("self._bounds.seconds + audience.seconds", set()),
        ("time.sleep(1)", set()),
        ("time.strftime('%H', time.localtime(at))", set()),
        ("publication.time + draft.time", set()),
        ("'since=now, oldest, or an id'", set()),
    ],
)
def test_rule_finds_clocks_and_nothing_else(source: str, clocks: set[str]) -> None:
    assert clocks_read_by(source) == clocks
