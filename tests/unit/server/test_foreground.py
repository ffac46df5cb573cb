from __future__ import annotations

import argparse
import asyncio
import io
import threading
from typing import Any

import pytest

from pushserver import PushServer
from pushserver.cli import _parser
from pushserver.errors import StartFailed
from pushserver.server import foreground
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


def test_serve_has_the_options_of_twistd_and_two_more() -> None:
    parser: argparse.ArgumentParser = _parser()
    options = set(vars(parser.parse_args(["serve"]))) - {"run"}
    assert options == {*Options()} | {"open", "reactor"}
