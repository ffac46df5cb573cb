from __future__ import annotations

import argparse
import asyncio
import io
import threading
from typing import Any

import pytest
from twisted.logger import Logger, LogLevel
from twisted.python.failure import Failure

from pushserver import PushServer
from pushserver.cli import _parser
from pushserver.errors import StartFailed
from pushserver.server import foreground
from pushserver.server.logging import foreground_observer
from pushserver.server.options import Options


def with_source(*functions: Any) -> PushServer:
    app = PushServer()
    for number, function in enumerate(functions):
        app.source("numbers", every=1.0, name=f"s{number}")(function)
    return app


def plain() -> int:
    return 1


async def coroutine() -> int:
    return 1


async def async_generator() -> Any:
    yield 1


class Callable:
    async def __call__(self) -> int:
        return 1


class TestCoroutines:
    @pytest.mark.parametrize("function", [coroutine, async_generator, Callable()])
    def test_of_a_source_are_noticed(self, function: Any) -> None:
        assert with_source(plain, function).has_coroutines

    def test_of_a_handler_are_noticed(self) -> None:
        app = with_source(plain)
        app.on("message", thread=False)(lambda client, data: None)
        assert not app.has_coroutines

        async def connect(client: object) -> None:
            pass

        app.on("connect")(connect)
        assert app.has_coroutines

    def test_are_missing_in_an_empty_application(self) -> None:
        assert not PushServer().has_coroutines


def test_server_is_refused_where_a_loop_of_asyncio_runs() -> None:
    async def main() -> None:
        PushServer().run(port=0)

    with pytest.raises(StartFailed, match=r"in a coroutine or a notebook: start it in a process"):
        asyncio.run(main())


def test_reactor_cannot_be_chosen_after_it_was_installed() -> None:
    from twisted.internet import reactor

    installed: Any = reactor
    with pytest.raises(StartFailed, match=r"--reactor poll: .*has installed a reactor already"):
        foreground._install("poll", None)
    assert foreground._install("", with_source(coroutine)) is installed


def test_run_reports_impossible_arguments() -> None:
    with pytest.raises(StartFailed, match="port 70000 is out of range"):
        PushServer().run(port=70_000)
    with pytest.raises(StartFailed, match="--listen excludes"):
        PushServer().run(port=1, listen=["2"])


def test_slow_import_is_told_with_its_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    timers: list[Timer] = []

    class Timer:
        def __init__(self, seconds: float, call: Any):
            self.call = call
            timers.append(self)

        def start(self) -> None: ...

        def cancel(self) -> None:
            timers.remove(self)

    monkeypatch.setattr("threading.Timer", Timer)
    code = compile("\n\nfire()\n", "slow.py", "exec")
    with foreground._slow_import_noted("slow.py"):
        exec(code, {"fire": timers[0].call, "__name__": "slow"})
    [line] = capsys.readouterr().err.splitlines()
    told = "pushserver: slow.py is still being imported, at line 3 of slow.py; Ctrl-C ends that"
    assert line == told
    assert timers == []
    with foreground._slow_import_noted(""):
        assert timers == []


def test_closed_output_is_no_failure() -> None:
    closed = io.StringIO()
    closed.close()
    foreground._print("line", closed)
    foreground._print("line", None)


class TestTheBrowser:
    @pytest.fixture
    @staticmethod
    def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
        urls: list[str] = []
        monkeypatch.setattr(foreground, "_browse", urls.append)
        return urls

    def opens(self, urls: list[str], browse: bool) -> None:
        foreground._announce(urls, browse)
        for thread in threading.enumerate():
            if thread.name.startswith("browser"):
                thread.join()

    def test_opens_the_first_url(self, opened: list[str]) -> None:
        self.opens(["unix:/run/a", "http://localhost:1/", "http://localhost:2/"], True)
        assert opened == ["http://localhost:1/"]

    def test_opens_nothing_unless_asked(self, opened: list[str]) -> None:
        self.opens(["http://localhost:1/"], False)
        self.opens(["unix:/run/a"], True)
        assert opened == []

    def test_that_is_missing_is_told(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr("webbrowser.open", lambda url: False)
        foreground._browse("http://localhost:1/")
        error = capsys.readouterr().err
        assert error == "pushserver: no browser was found to open http://localhost:1/\n"


class TestTheLog:
    @pytest.fixture
    @staticmethod
    def out() -> io.StringIO:
        return io.StringIO()

    def log(self, out: Any, namespace: str = "pushserver.x") -> Logger:
        return Logger(namespace, observer=foreground_observer(out))

    def test_line_has_the_time_of_day_and_the_text(self, out: io.StringIO) -> None:
        self.log(out).info("source {name} started", name="a")
        clock, _, text = out.getvalue().partition(" ")
        assert [part.isdigit() for part in clock.split(":")] == [True] * 3
        assert text == "source a started\n"

    def test_line_names_a_level_above_info(self, out: io.StringIO) -> None:
        self.log(out).warn("low")
        self.log(out).error("bad")
        lines = [line.partition(" ")[2] for line in out.getvalue().splitlines()]
        assert lines == ["warn: low", "error: bad"]

    @pytest.mark.parametrize("namespace", ["twisted.internet.tcp.Port", "log_legacy"])
    def test_twisted_is_heard_from_a_warning_on(self, out: io.StringIO, namespace: str) -> None:
        log = self.log(out, namespace)
        log.info("(TCP Port 8080 Closed)")
        log.debug("more")
        assert out.getvalue() == ""
        log.warn("odd")
        assert out.getvalue().endswith("warn: odd\n")

    def test_failure_has_its_traceback(self, out: io.StringIO) -> None:
        try:
            raise ValueError("7")
        except ValueError:
            self.log(out).failure("a handler failed", Failure())
        assert "critical: a handler failed\n" in out.getvalue()
        assert "ValueError: 7" in out.getvalue()

    def test_debug_and_empty_events_are_left_out(self, out: io.StringIO) -> None:
        self.log(out).debug("x")
        self.log(out).emit(LogLevel.info)
        assert out.getvalue() == ""

    def test_survives_a_terminal_that_is_gone(self) -> None:
        class Gone(io.StringIO):
            def write(self, text: str) -> int:
                raise OSError(5, "Input/output error")

        self.log(Gone()).info("x")


def test_serve_has_the_options_of_twistd_and_two_more() -> None:
    parser: argparse.ArgumentParser = _parser()
    options = set(vars(parser.parse_args(["serve"]))) - {"run"}
    assert options == {*Options()} | {"open", "reactor"}
