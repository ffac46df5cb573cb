"""The main process starts its workers, watches them and stops them."""

from __future__ import annotations

import os
import signal
import socket
from typing import Any

import pytest

from pushserver import __version__
from pushserver.cluster.messages import Frames
from pushserver.diagnosis.facts import WorkerState
from pushserver.server.workers.control import Configure, Drain, FromMain, Ping, Pong, Ready, Stop
from pushserver.server.workers.left import DISMISS_SECONDS, Left
from pushserver.server.workers.slot import (
    FIRST_PAUSE,
    LASTING_SECONDS,
    LONGEST_PAUSE,
    LONGEST_WAIT,
    MOST_MISSED,
    START_SECONDS,
)
from pushserver.server.workers.supervisor import KILL_SECONDS, Supervisor
from tests.unit.fakes.web import Trouble
from tests.unit.server.workers.fakes import Control, FakeProcess, Launcher, Reactor


class World:
    """A supervisor of two workers."""

    def __init__(self, log: Trouble) -> None:
        self.log = log
        self.reactor = Reactor()
        self.launcher = Launcher()
        self.config = b"{}"
        self.sockets: list[tuple[str, int]] = []
        self.supervisor = Supervisor(
            2,
            self.launcher,
            lambda: self.config,
            self.reactor,
            self.reactor.seconds,
            suspend=lambda worker: self.sockets.append(("suspend", worker)),
            resume=lambda worker: self.sockets.append(("resume", worker)),
        )

    @property
    def processes(self) -> list[FakeProcess]:
        return self.launcher.processes

    @property
    def controls(self) -> list[Control]:
        return self.reactor.controls

    def make_ready(self) -> None:
        for control in self.controls:
            control.say(Ready())

    def pass_seconds(self, seconds: int, *answering: Control) -> None:
        """Let time pass, while these workers answer."""
        for _ in range(seconds):
            self.reactor.advance(1.0)
            for control in answering:
                if Ping() in control.heard():
                    control.say(Pong())


@pytest.fixture
def world(trouble: Trouble) -> World:
    world = World(trouble)
    world.supervisor.startService()
    assert not world.processes, "the reactor does not run, and a signal would leave them alone"
    world.reactor.run()
    return world


def test_server_is_ready_when_all_its_workers_are(world: World) -> None:
    calls: list[None] = []
    world.supervisor.when_ready(lambda: calls.append(None))
    world.controls[0].say(Ready())
    assert (calls, world.supervisor.problem()) == ([], "1 of 2 workers are not ready")
    world.controls[1].say(Ready())
    assert (calls, world.supervisor.problem()) == ([None], "")


def test_kept_worker_is_ready_when_it_follows_the_log_of_this_process() -> None:
    reactor, launcher = Reactor(), Launcher()
    ours, theirs = socket.socketpair()
    left = Left(1, os.getpid(), __version__, ours, [])
    supervisor = Supervisor(1, launcher, lambda: b"{}", reactor, reactor.seconds, {1: left})
    supervisor.startService()
    with theirs:
        reactor.run()
        (control,) = reactor.controls
        assert launcher.processes == []
        assert control.heard() == [Configure(b"{}")]
        assert supervisor.problem() == "1 of 1 workers are not ready"
        control.say(Ready())
        assert supervisor.problem() == ""
        (process,) = reactor.getReaders()
        os.close(process.fileno())


def test_worker_that_ends_is_replaced_at_once(world: World) -> None:
    world.make_ready()
    world.pass_seconds(int(LASTING_SECONDS), *world.controls)
    world.processes[0].end("SIGKILL")
    assert world.supervisor.problem() == "1 of 2 workers are not ready"
    assert world.supervisor.states() == [
        WorkerState(1, 0, "waiting", 1),
        WorkerState(2, 1001, "ready", 0),
    ]
    world.reactor.advance(0)
    assert world.supervisor.states()[0] == WorkerState(1, 1002, "starting", 1)
    assert len(world.processes) == 3
    world.controls[2].say(Ready())
    assert world.supervisor.problem() == ""
    assert world.log.take() == ["worker 1 (process 1000) has ended: SIGKILL; another one starts"]


def test_worker_that_ends_early_is_replaced_after_a_growing_pause(world: World) -> None:
    pauses = []
    for _ in range(9):
        count = len(world.processes)
        world.processes[-1].end("status 1")
        calls: Any = world.reactor.getDelayedCalls()
        (call,) = [call for call in calls if call.func == world.supervisor.slots[1].start]
        pauses.append(call.getTime() - world.reactor.seconds())
        world.reactor.advance(pauses[-1])
        assert len(world.processes) == count + 1
    assert pauses[:3] == [0.0, FIRST_PAUSE, pytest.approx(2 * FIRST_PAUSE)]
    assert pauses[-1] == LONGEST_PAUSE
    assert sum("worker 2" in line for line in world.log.take()) == 9


def test_no_connection_waits_for_a_worker_that_is_replaced_after_a_pause(world: World) -> None:
    world.make_ready()
    world.sockets.clear()
    world.processes[1].end("status 1")
    world.reactor.advance(0)
    assert world.sockets == []
    world.processes[2].end("status 1")
    assert world.sockets == [("suspend", 2)]
    world.reactor.advance(FIRST_PAUSE)
    assert world.sockets == [("suspend", 2)]
    world.controls[3].say(Ready())
    assert world.sockets == [("suspend", 2), ("resume", 2)]
    assert len(world.log.take()) == 2


def test_connections_wait_for_the_successor_of_a_worker_that_was_ready(world: World) -> None:
    for _ in range(9):
        world.controls[-1].say(Ready())
        world.processes[-1].end("SIGKILL")
        world.reactor.advance(LONGEST_WAIT)
    assert len(world.processes) == 11
    assert ("suspend", 2) not in world.sockets
    assert sum("worker 2" in line for line in world.log.take()) == 9


def test_worker_that_does_not_answer_is_killed(world: World) -> None:
    world.make_ready()
    world.pass_seconds(MOST_MISSED, world.controls[0])
    assert world.processes[1].signals == []
    assert world.supervisor.problem() == "1 of 2 workers are not ready"
    world.pass_seconds(1, world.controls[0])
    assert world.processes[1].signals == [signal.SIGKILL]
    assert world.processes[0].signals == []
    assert world.log.take() == [
        "worker 2 (process 1001) has not answered for 5 seconds, and is killed"
    ]


def test_worker_that_answers_again_in_time_is_kept(world: World) -> None:
    world.make_ready()
    world.pass_seconds(MOST_MISSED)
    for control in world.controls:
        control.say(Pong())
    assert world.supervisor.problem() == ""
    world.pass_seconds(20, *world.controls)
    assert [process.signals for process in world.processes] == [[], []]


def test_main_process_that_was_blocked_kills_no_worker(world: World) -> None:
    world.make_ready()
    world.pass_seconds(3, *world.controls)
    world.reactor.advance(60.0)
    for control in world.controls:
        control.say(Pong())
    world.pass_seconds(3, *world.controls)
    assert [process.signals for process in world.processes] == [[], []]


def test_worker_whose_connection_ends_is_killed_if_it_lives_on(world: World) -> None:
    world.make_ready()
    world.controls[0].protocol.connectionLost()
    world.pass_seconds(MOST_MISSED + 1, world.controls[1])
    assert world.processes[0].signals == [signal.SIGKILL]
    assert len(world.log.take()) == 1


def test_worker_that_does_not_become_ready_is_killed(world: World) -> None:
    world.controls[0].say(Ready())
    world.pass_seconds(START_SECONDS, world.controls[0])
    assert world.processes[1].signals == []
    world.pass_seconds(1, world.controls[0])
    assert world.processes[1].signals == [signal.SIGKILL]
    assert world.log.take() == [
        "worker 2 (process 1001) is not ready after 30 seconds, and is killed"
    ]


def test_worker_that_cannot_be_started_is_tried_again(world: World) -> None:
    world.launcher.problem = OSError(24, "Too many open files")
    world.processes[0].end("status 1")
    world.reactor.advance(0)
    assert world.log.take()[1:] == ["worker 1 could not be started: [Errno 24] Too many open files"]
    world.launcher.problem = None
    world.reactor.advance(FIRST_PAUSE)
    assert len(world.processes) == 3


class TestNoFileLeft:
    """The main process cannot open another file for a moment."""

    PROBLEM = OSError(24, "Too many open files")

    @pytest.fixture
    def no_files(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(*_: object) -> None:
            raise self.PROBLEM

        monkeypatch.setattr(socket, "socketpair", fail)

    def test_worker_is_tried_again(
        self, world: World, no_files: None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        world.processes[0].end("status 1")
        world.reactor.advance(0)
        assert world.log.take()[1:] == [f"worker 1 could not be started: {self.PROBLEM}"]
        assert ("suspend", 1) in world.sockets
        monkeypatch.undo()
        world.reactor.advance(FIRST_PAUSE)
        assert len(world.processes) == 3

    def test_all_workers_are_tried_again_after_a_start(
        self, trouble: Trouble, no_files: None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        world = World(trouble)
        world.supervisor.startService()
        world.reactor.run()
        assert len(world.log.take()) == 2
        monkeypatch.undo()
        world.reactor.advance(FIRST_PAUSE)
        assert len(world.processes) == 2
        world.make_ready()
        assert world.supervisor.problem() == ""

    def test_worker_without_a_control_connection_is_replaced(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(*_: object) -> None:
            raise self.PROBLEM

        monkeypatch.setattr(world.reactor, "adoptStreamConnection", fail)
        world.processes[0].end("status 1")
        world.reactor.advance(0)
        assert world.processes[2].signals == [signal.SIGKILL]
        monkeypatch.undo()
        world.processes[2].end("SIGKILL")
        world.reactor.advance(FIRST_PAUSE)
        assert world.supervisor.states()[0].state == "starting"
        assert f"has no control connection ({self.PROBLEM})" in world.log.take()[1]

    def test_kept_worker_that_cannot_be_watched_is_let_go(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(*_: object) -> None:
            raise self.PROBLEM

        reactor, launcher = Reactor(), Launcher()
        ours, theirs = socket.socketpair()
        left = Left(1, os.getpid(), __version__, ours, [])
        supervisor = Supervisor(1, launcher, lambda: b"{}", reactor, reactor.seconds, {1: left})
        supervisor.startService()
        monkeypatch.setattr(os, "pidfd_open", fail)
        with theirs:
            reactor.run()
            frames = Frames(FromMain, 2**20)
            assert list(frames.feed(theirs.recv(4_096))) == [Stop(DISMISS_SECONDS)]
            assert theirs.recv(1) == b""
        assert len(launcher.processes) == 1


def test_settings_are_told_to_all_workers(world: World) -> None:
    world.config = b'{"server":{}}'
    world.supervisor.configure()
    for control in world.controls:
        assert control.heard() == [Configure(world.config)]


def test_stop_drains_the_workers_and_waits_for_their_ends(world: World) -> None:
    world.make_ready()
    world.supervisor.drain()
    for control in world.controls:
        assert control.heard() == [Drain()]
    over: list[Any] = []
    world.supervisor.end(3.0).addCallback(over.append)
    for control in world.controls:
        assert Stop(3.0) in control.heard()
    world.processes[0].end("status 0")
    assert over == []
    world.processes[1].end("status 0")
    assert over == [None]
    world.reactor.advance(60)
    assert len(world.processes) == 2


def test_worker_that_does_not_end_in_time_is_killed(world: World) -> None:
    world.make_ready()
    world.supervisor.end(3.0)
    world.reactor.advance(3.0 + KILL_SECONDS)
    assert [process.signals for process in world.processes] == [[signal.SIGKILL]] * 2


def test_stop_while_a_worker_waits_for_its_start_is_over_with_the_others(world: World) -> None:
    for process in tuple(world.processes):
        process.end("status 1")
    over: list[Any] = []
    world.supervisor.end(3.0).addCallback(over.append)
    assert over == [None]
    world.reactor.advance(60)
    assert len(world.processes) == 2
    assert len(world.log.take()) == 2
