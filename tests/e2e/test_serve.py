"""`pushserver serve`, `python -m pushserver` and `app.run()` in processes of their own."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.e2e.lines import Lines
from tests.e2e.patience import PATIENCE

PLAIN = """\
from pushserver import PushServer

app = PushServer()


@app.source("numbers", every=0.05)
def tick():
    return 1
"""
COROUTINE = """\
import asyncio

from pushserver import PushServer

app = PushServer()


@app.source("numbers")
async def tick(feed):
    while True:
        await asyncio.sleep(0.01)
        async with asyncio.timeout(5):
            await feed.publish(type(asyncio.get_running_loop()).__name__)
"""
RUN = """

if __name__ == "__main__":
    app.run(port=0)
    print("stopped")
"""
SERVE = [sys.executable, "-m", "pushserver", "serve", "--port", "0"]


@contextmanager
def started(folder: Path, *command: str) -> Iterator[tuple[Lines, str]]:
    """The process, and the URL that its first line has."""
    # A shell starts background processes with SIGINT ignored.
    start = "import os, signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)"
    words = [sys.executable, "-c", f"{start}; os.execv(sys.argv[1], sys.argv[1:])", *command]
    process = Lines(words, folder)
    try:
        first = process.next()
        assert first.startswith("pushserver "), first
        yield process, first.rpartition(" ")[2]
    finally:
        process.close()


def newest(url: str) -> object:
    """The data of the newest publication; waits for one."""
    with urllib.request.urlopen(
        f"{url}channels/numbers?wait=20&limit=1", timeout=PATIENCE
    ) as answer:
        return json.load(answer)["publications"][-1]["data"]


@pytest.mark.parametrize("given", [["ticker.py"], ["ticker:app"], ["ticker"], []])
def test_serve_runs_an_application_or_the_source_of_numbers(
    tmp_path: Path, given: list[str]
) -> None:
    (tmp_path / "ticker.py").write_text(PLAIN)
    with started(tmp_path, *SERVE, *given) as (process, url):
        assert newest(url) == 1 if given else newest(url)
        os.kill(process.pid, signal.SIGINT)
        assert process.wait() == -signal.SIGINT
    assert [path.name for path in tmp_path.iterdir() if path.suffix != ""] == ["ticker.py"]


def test_program_that_runs_its_application_continues_after_the_stop(tmp_path: Path) -> None:
    (tmp_path / "ticker.py").write_text(PLAIN + RUN)
    with started(tmp_path, sys.executable, "ticker.py") as (process, url):
        assert newest(url) == 1
        os.kill(process.pid, signal.SIGINT)
        assert "stopped" in process.to_the_end()
        assert process.wait() == 0


def test_second_run_in_one_process_is_an_error(tmp_path: Path) -> None:
    code = (
        f"{PLAIN}\nfrom twisted.internet import reactor\n\nreactor.callLater(0.1, reactor.stop)\n"
        "app.run(port=0)\ntry:\n    app.run(port=0)\nexcept RuntimeError as error:\n"
        "    print(error)\n"
    )
    (tmp_path / "twice.py").write_text(code)
    command = [sys.executable, "twice.py"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.splitlines()[1].startswith("a reactor runs once in a process")


@pytest.mark.parametrize("command", [[sys.executable, "ticker.py"], [*SERVE, "ticker.py"]])
def test_coroutines_get_the_reactor_of_asyncio(tmp_path: Path, command: list[str]) -> None:
    (tmp_path / "ticker.py").write_text(COROUTINE + RUN)
    with started(tmp_path, *command) as (process, url):
        assert "EventLoop" in str(newest(url))
        os.kill(process.pid, signal.SIGTERM)
        process.to_the_end()
        assert process.wait() in (0, -signal.SIGTERM)


def test_two_servers_run_from_one_folder(tmp_path: Path) -> None:
    with started(tmp_path, *SERVE) as (_, first), started(tmp_path, *SERVE) as (_, second):
        assert first != second
        assert newest(first)
        assert newest(second)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nothing.py"], "nothing.py does not exist"),
        (["--port", "70000"], "port 70000 is out of range"),
        (["--host", "192.0.2.1"], "192.0.2.1 is no address of this machine"),
        (["--reactor", "nuclear"], "--reactor nuclear: expected asyncio"),
        (["--config", "no.toml"], "no.toml"),
        (["broken.py"], "ZeroDivisionError"),
    ],
)
def test_failed_start_has_status_1_and_a_reason(
    tmp_path: Path, arguments: list[str], words: str
) -> None:
    (tmp_path / "broken.py").write_text("1 / 0\n")
    ended = subprocess.run(
        [*SERVE[:-2], *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert ended.returncode == 1
    assert words in ended.stderr
    assert ended.stderr.startswith("pushserver: ")
    assert ended.stderr.count("Traceback") == ("broken.py" in arguments)
    assert "Unhandled" not in ended.stderr
    assert ended.stdout == ""


def test_busy_port_names_its_program_and_a_free_one(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = str(busy.getsockname()[1])
        ended = subprocess.run(
            [*SERVE[:-1], port], cwd=tmp_path, capture_output=True, text=True, timeout=60
        )
    assert ended.returncode == 1
    [line] = ended.stderr.splitlines()
    assert line.startswith(f"pushserver: cannot listen on 127.0.0.1:{port}: the port is in use by ")
    assert "or choose another port" in line


def test_interrupt_while_the_application_is_imported_ends_quietly(tmp_path: Path) -> None:
    code = "import time\nprint('pushserver importing', flush=True)\ntime.sleep(60)\n"
    (tmp_path / "slow.py").write_text(code)
    with started(tmp_path, *SERVE, "slow.py") as (process, _):
        os.kill(process.pid, signal.SIGINT)
        assert "Traceback" not in "".join(process.to_the_end())
        assert process.wait() == 130
