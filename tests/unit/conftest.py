"""Fixtures that undo changes to the process, and parts of the tests."""

from __future__ import annotations

import functools
import gc
import importlib.metadata
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from twisted.logger import LogLevel

from pushserver.server.gc_policy import Collector
from pushserver.usercode.stopwatch import Stopwatch
from tests.unit.fakes.web import Log, Server, Trouble, set_autobahns_clock

# For each test, pytest reads the version of Twisted from a file: a fifth of the time of all tests.
importlib.metadata.version = functools.cache(importlib.metadata.version)


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """`UNIT_PART=1/4`: only the first of four parts of the files, of about the same size."""
    if "UNIT_PART" not in os.environ or not collection_path.name.startswith("test_"):
        return None
    part, parts = map(int, os.environ["UNIT_PART"].split("/"))
    return _files().index(collection_path) % parts != part - 1 or None


@functools.cache
def _files() -> list[Path]:
    found = Path(__file__).parent.rglob("test_*.py")
    return sorted(found, key=lambda path: (path.stat().st_size, path))


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    """A server that can send files."""
    server = Server()
    server.send_files(monkeypatch)
    return server


@pytest.fixture(autouse=True)
def trouble() -> Iterator[Trouble]:
    """Warnings and failures in the log; a test must take those that it expects."""
    with Log(LogLevel.warn) as events:
        yield events
    set_autobahns_clock(None)
    assert events.take() == []


@pytest.fixture(autouse=True)
def _no_time_passes_in_handlers(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine any handler may take long enough for a line of the log."""
    monkeypatch.setattr(Stopwatch.__init__, "__defaults__", (lambda: 0.0,))


@pytest.fixture(autouse=True)
def _keep_signal_handlers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Signal handlers belong to the process: no server under test changes them."""
    monkeypatch.setattr("pushserver.server.signals.install", lambda *_: None)
    monkeypatch.setattr("pushserver.server.signals.hold", lambda: None)


@pytest.fixture(autouse=True)
def _keep_gc_settings() -> Iterator[None]:
    """So does the garbage collector: stop the policy of a server that a test left running."""
    yield
    for callback in tuple(gc.callbacks):
        policy = getattr(callback, "__self__", None)
        if isinstance(policy, Collector):
            policy.stop()
