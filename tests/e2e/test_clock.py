"""A server whose wall clock is set while it runs; the clock of the machine is not changed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from signal import Signals

import pytest

from tests.e2e.exchange import SSE, Reading, data, history, publish, wait_for_commit
from tests.e2e.server import TWISTD, Server, environment

HOUR = 3_600.0
DAY = 24 * HOUR

SITECUSTOMIZE = """
import os, time

_time, _file = time.time, os.environ["CLOCK_IS_OFF_BY"]


def _set():
    try:
        with open(_file) as file:
            return _time() + float(file.read())
    except OSError:
        return _time()


time.time = _set
"""
"""Python imports it first, so that every module gets this `time.time`."""

STORES = {
    "memory": "",
    "batched": '[store]\npath = "s.db"\n',
    "sync": '[store]\npath = "s.db"\ndurability = "sync"\n',
}
CONFIG = """
[sources.ticks]
type = "random"
channel = "ticks"
every = 0.2
[limits]
heartbeat_seconds = 0.5
[defaults]
history_ttl = 1800
"""


class Clock:
    """The wall clock of the server."""

    def __init__(self, folder: Path):
        folder.mkdir()
        (folder / "sitecustomize.py").write_text(SITECUSTOMIZE)
        self._folder = folder
        self._file = folder / "off"
        self.environment = environment(
            PYTHONPATH=f"{folder}:{environment()['PYTHONPATH']}", CLOCK_IS_OFF_BY=str(self._file)
        )

    def set(self, seconds: float) -> None:
        """Set the difference to the clock of the machine."""
        new = self._folder / "new"
        new.write_text(str(seconds))
        new.rename(self._file)


@pytest.fixture
def clock(tmp_path: Path) -> Clock:
    return Clock(tmp_path / "clock")


@pytest.fixture
def store() -> str:
    """The kind of the store."""
    return "batched"


@pytest.fixture
def reactor() -> str:
    return "epoll"


@pytest.fixture
def server(tmp_path: Path, clock: Clock, store: str, reactor: str) -> Iterator[Server]:
    (tmp_path / "pushserver.toml").write_text(STORES[store] + CONFIG)
    twistd = (*TWISTD, "--reactor", reactor)
    server = Server(tmp_path, "--config", "pushserver.toml", twistd=twistd, env=clock.environment)
    try:
        yield server.start()
        assert server.stop() == -Signals.SIGTERM
        assert server.problems == []
    finally:
        server.kill()


@pytest.mark.parametrize(
    ("store", "reactor", "step"),
    [
        ("memory", "epoll", -HOUR),
        ("batched", "epoll", -HOUR),
        ("batched", "epoll", DAY),
        ("batched", "asyncio", -HOUR),
        ("sync", "epoll", -HOUR),
        ("sync", "asyncio", DAY),
    ],
)
def test_server_continues_when_its_clock_is_set(
    server: Server, clock: Clock, store: str, step: float
) -> None:
    publish(server, "k", "before")
    with (
        closing(Reading(server, "channels/quiet", SSE)) as quiet,
        closing(Reading(server, "channels/ticks", SSE)) as ticks,
        ThreadPoolExecutor(1) as pool,
    ):
        clock.set(step)
        poll = pool.submit(history, server, "quiet", "since=now&wait=1")
        publish(server, "now", "?")
        [now] = history(server, "now")["publications"]
        assert now["time"] == pytest.approx(time.time() + step, abs=60)
        publish(server, "k", "after")
        first, second = history(server, "k")["publications"]
        assert first["time"] <= second["time"]
        for _ in range(2):
            while not quiet.line().startswith(":"):
                pass
        for _ in range(5):
            while "event" in ticks.block():
                pass
        assert data(poll.result()) == []
        assert data(history(server, "k")) == ["before", "after"], "nothing expired"
    if store == "memory":
        return
    wait_for_commit(server)
    server.kill()
    clock.set(0.0)
    server.start()
    assert data(history(server, "k")) == ["before", "after"]
