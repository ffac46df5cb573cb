from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import Any, cast

import pytest

from pushserver.server.options import Options, makeService
from pushserver.server.service import PushService
from pushserver.server.signals import ANSWERED, SignalHandlers, ending, name_of
from pushserver.usercode.hangup import Early
from pushserver.usercode.rate import LOGGED_AT_ONCE
from tests.e2e.server import environment
from tests.unit.fakes.reactors import LifeCycle
from tests.unit.fakes.web import Log
from tests.unit.fakes.web import Server as WebServer

LEFT = {
    # Faults, and signals without handlers.
    *("SIGSEGV", "SIGBUS", "SIGFPE", "SIGILL", "SIGTRAP", "SIGSYS", "SIGABRT"),
    *("SIGKILL", "SIGSTOP"),
    # Twisted's, or ignored by Python.
    *("SIGTERM", "SIGINT", "SIGPIPE", "SIGXFSZ"),
    # Their default action ends nothing.
    *("SIGCHLD", "SIGCONT", "SIGURG", "SIGWINCH", "SIGTSTP", "SIGTTIN", "SIGTTOU"),
}


class System:
    """The signals of a process; `ended` is the signal that ended it at once."""

    def __init__(self, **others: Any):
        self.dispositions: dict[int, Any] = {
            int(getattr(signal, name)): value for name, value in others.items()
        }
        self.ended: int | None = None

    def getsignal(self, number: int) -> Any:
        return self.dispositions.get(number, signal.SIG_DFL)

    def signal(self, number: int, handler: Any) -> None:
        self.dispositions[number] = handler

    def raise_signal(self, number: int) -> None:
        handler = self.getsignal(number)
        if handler == signal.SIG_DFL:
            self.ended = number
        elif handler != signal.SIG_IGN:
            handler(number, None)


class Server:
    """A process with the handlers; its reactor runs unless `runs` is False."""

    def __init__(self, system: System | None = None, runs: bool = True):
        self.terminal = True
        self.reactor = LifeCycle()
        self.system = System() if system is None else system
        self.handlers = SignalHandlers(
            cast(Any, self.reactor), self.reactor.seconds, self.system, lambda: self.terminal
        )
        self.handlers.install()
        if runs:
            self.reactor.start()

    def get(self, number: int, times: int = 1) -> list[str]:
        """Send a signal, each time in a turn of its own; return the lines of the log."""
        with Log() as log:
            for _ in range(times):
                self.system.raise_signal(number)
                self.reactor.turn()
        return list(log.take())

    def stop(self) -> None:
        self.reactor.end(self.reactor._exitSignal)


class TestSignalsOfTwisted:
    """SIGINT and SIGTERM, whose handlers Twisted installs at the start of the reactor."""

    def running(self, *others: str) -> Server:
        server = Server(runs=False)
        reactor: Any = server.reactor
        reactor.sigInt, reactor.sigTerm = lambda *_: None, lambda *_: None
        handlers = {"SIGINT": reactor.sigInt, "SIGTERM": reactor.sigTerm}
        server.system.dispositions |= {
            int(getattr(signal, name)): handler for name, handler in handlers.items()
        }
        for name in others:
            server.system.dispositions[int(getattr(signal, name))] = signal.SIG_IGN
        reactor.start()
        return server

    @pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM, signal.SIGQUIT])
    @pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM, signal.SIGQUIT])
    def test_a_second_signal_has_one_line_with_the_next_step(self, first: int, second: int) -> None:
        server = self.running()
        assert server.get(first) == [f"received {name_of(first)}, shutting down"]
        lines = server.get(second, times=2)
        assert len(lines) == 2
        for line in lines:
            assert line.startswith(f"received {name_of(second)} again, and is still shutting down")
            assert line.endswith(f"kill -KILL {os.getpid()}")
        assert server.reactor._exitSignal == first

    def test_ctrl_c_during_the_start_ends_the_process_and_raises_nothing(self) -> None:
        system = System(SIGINT=signal.default_int_handler)
        server = Server(system, runs=False)
        assert server.get(signal.SIGINT) == []
        assert system.ended == signal.SIGINT

    def test_a_handler_of_the_application_stays(self) -> None:
        server = self.running("SIGINT")
        assert server.get(signal.SIGINT) == []
        assert server.get(signal.SIGTERM) == ["received SIGTERM, shutting down"]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have others")
def test_every_signal_is_logged_or_ends_the_server_or_has_a_reason_not_to() -> None:
    left = {int(getattr(signal, name)) for name in LEFT}
    taken = {*map(int, ANSWERED), *ending()}
    assert not left & taken
    assert {int(number) for number in signal.valid_signals()} == left | taken


@pytest.mark.parametrize("number", ANSWERED)
def test_logged_signal_changes_nothing(number: signal.Signals) -> None:
    server = Server()
    [line] = server.get(number)
    assert line.startswith(f"received {number.name}, which changes nothing")
    assert (server.system.ended, server.reactor.stops) == (None, 0)


@pytest.mark.parametrize("number", ANSWERED)
def test_handler_of_the_start_is_replaced(number: signal.Signals) -> None:
    early = Early()
    system = System(**{number.name: early})
    system.raise_signal(number)
    assert system.ended is None
    server = Server(system)
    assert system.getsignal(number) is not early
    [line] = server.get(number)
    assert "changes nothing" in line


START = """
import os, signal
from pushserver.usercode.hangup import NAMES, take_early

take_early()
for name in NAMES:
    os.kill(os.getpid(), getattr(signal, name))
print("started")
"""


def test_signals_during_a_start_change_nothing() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", START], capture_output=True, text=True, timeout=60, check=False
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "started\n", "")


def test_log_of_many_signals_is_limited() -> None:
    server = Server()
    lines = server.get(signal.SIGHUP, 1_000)
    assert len(lines) == LOGGED_AT_ONCE
    assert len(server.get(signal.SIGUSR1)) == 1
    server.reactor.advance(60)
    [line] = server.get(signal.SIGHUP)
    assert line.endswith("(and 990 that were not logged)")


def test_busy_reactor_has_one_waiting_call_for_each_signal() -> None:
    server = Server()
    for _ in range(1_000):
        for number in (signal.SIGHUP, signal.SIGUSR2, signal.SIGQUIT):
            server.system.raise_signal(number)
    assert len(server.reactor.waiting) == 3


@pytest.mark.parametrize("number", ending())
def test_other_signal_stops_the_server_and_then_ends_the_process(number: int) -> None:
    server = Server()
    server.system.raise_signal(number)
    # The handler itself interrupts other code.
    assert (server.reactor.stops, server.reactor._exitSignal) == (0, None)
    assert server.get(number) == [f"received {name_of(number)}, shutting down"]
    assert (server.reactor.stops, server.reactor._exitSignal) == (1, number)
    assert server.system.ended is None
    server.get(number)


def test_real_time_signals_have_names() -> None:
    assert [name_of(signal.SIGQUIT), name_of(signal.SIGRTMIN + 3)] == ["SIGQUIT", "SIGRTMIN+3"]


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGALRM, signal.SIGRTMIN])
@pytest.mark.parametrize("disposition", [signal.SIG_IGN, None, print])
def test_other_dispositions_are_kept(number: int, disposition: Any) -> None:
    system = System()
    system.dispositions[number] = disposition
    Server(system)
    assert system.dispositions[number] is disposition


def test_twistd_replaces_the_handler_of_sigusr1() -> None:
    system = System()
    Server(system)
    assert not system.getsignal(signal.SIGUSR1)


def test_ending_signal_before_the_reactor_runs_ends_the_process() -> None:
    server = Server(runs=False)
    assert server.get(signal.SIGQUIT) == []
    assert server.system.ended == signal.SIGQUIT


def test_logged_signal_before_the_reactor_runs_waits() -> None:
    server = Server(runs=False)
    server.system.raise_signal(signal.SIGHUP)
    assert server.system.ended is None
    assert len(server.reactor.waiting) == 1


def test_ending_signal_after_the_stop_ends_the_process() -> None:
    server = Server()
    server.stop()
    server.get(signal.SIGHUP)
    assert server.system.ended is None
    server.get(signal.SIGQUIT)
    assert server.system.ended == signal.SIGQUIT


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGQUIT])
def test_fork_is_ended_at_once(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server()
    monkeypatch.setattr("pushserver.server.signals.os.getpid", lambda: -1)
    assert server.get(number) == []
    assert server.system.ended == number
    assert server.reactor.stops == 0


def test_closed_terminal_stops_the_server() -> None:
    server = Server()
    server.terminal = False
    assert server.get(signal.SIGHUP) == ["received SIGHUP, shutting down"]
    assert server.reactor._exitSignal == signal.SIGHUP


def test_closed_terminal_does_not_stop_a_daemon(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server = Server()
    monkeypatch.setattr("pushserver.server.signals.os.getsid", lambda pid: -1)
    server.terminal = False
    assert "changes nothing" in server.get(signal.SIGHUP)[0]


class TestReload:
    """SIGHUP, when there is a server."""

    def test_reloads_and_other_signals_do_not(self) -> None:
        server, reloads = Server(), list[str]()
        server.handlers.reload = reloads.append
        assert server.get(signal.SIGHUP) == []
        assert "SIGUSR1, which changes nothing" in server.get(signal.SIGUSR1)[0]
        assert reloads == ["SIGHUP"]

    def test_two_in_one_turn_are_one(self) -> None:
        server, reloads = Server(), list[str]()
        server.handlers.reload = reloads.append
        for _ in range(2):
            server.system.raise_signal(signal.SIGHUP)
        server.reactor.turn()
        assert reloads == ["SIGHUP"]

    def test_one_before_the_reactor_runs_is_answered_when_it_does(self) -> None:
        server, reloads = Server(runs=False), list[str]()
        server.system.raise_signal(signal.SIGHUP)
        server.handlers.reload = reloads.append
        assert reloads == []
        server.reactor.start()
        server.reactor.turn()
        assert reloads == ["SIGHUP"]

    def test_the_end_of_the_terminal_still_stops_the_server(self) -> None:
        server, reloads = Server(), list[str]()
        server.handlers.reload = reloads.append
        server.terminal = False
        assert "shutting down" in server.get(signal.SIGHUP)[0]
        assert reloads == []

    def test_without_a_server_it_is_logged(self) -> None:
        assert "SIGHUP, which changes nothing" in Server().get(signal.SIGHUP)[0]


def test_handlers_are_installed_before_the_application_is_loaded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[str] = []
    server, handlers = WebServer(), Server().handlers

    def install(*_: object) -> SignalHandlers:
        calls.append("install")
        return handlers

    def make(*_: object) -> PushService:
        calls.append("make")
        return server.service

    monkeypatch.setattr("pushserver.server.signals.install", install)
    monkeypatch.setattr("pushserver.server.options.make", make)
    options = Options()
    options.parseOptions([])
    makeService(options)
    assert calls == ["install", "make"]
    assert handlers.reload == server.service.live.request


def test_signal_between_two_programs_is_not_lost() -> None:
    second = (
        "import signal; from pushserver.server import signals\n"
        "signal.signal(signal.SIGHUP, lambda *_: print('got it'))\n"
        "signals.release()\n"
    )
    first = (
        "import os, signal, sys; from pushserver.server import signals\n"
        "signals.hold()\n"
        "os.kill(os.getpid(), signal.SIGHUP)\n"
        f"os.execv(sys.executable, [sys.executable, '-c', {second!r}])\n"
    )
    process = subprocess.run(
        [sys.executable, "-c", first],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert process.stdout == "got it\n"


def test_other_threads_install_no_handlers() -> None:
    program = (
        "import signal, threading; from pushserver.server import signals\n"
        "thread = threading.Thread(target=signals.install, args=(None, None))\n"
        "thread.start(); thread.join()\n"
        "print(signal.getsignal(signal.SIGHUP) == signal.SIG_DFL)\n"
    )
    process = subprocess.run(
        [sys.executable, "-c", program],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert (process.stdout, process.stderr) == ("True\n", "")
