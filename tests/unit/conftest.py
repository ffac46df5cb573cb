"""How hypothesis searches, and what of the log a test has to expect.

hypothesis takes the same examples on every machine, and has no opinion on its speed;
`HYPOTHESIS_PROFILE=search` looks further, each time elsewhere.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings
from twisted.logger import LogLevel

from pushserver.server.gc_policy import Collector
from tests.unit.fakes.web import Log, Server, Trouble, set_autobahns_clock

settings.register_profile(
    "search", deadline=None, max_examples=2_000, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile(
    "same",
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=50,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    """A server that can send files."""
    server = Server()
    server.send_files(monkeypatch)
    return server


@pytest.fixture(autouse=True)
def trouble() -> Iterator[Trouble]:
    """Warnings and failures in the log; a test must take all that it causes."""
    with Log(LogLevel.warn) as found:
        yield found
    set_autobahns_clock(None)
    assert found.take() == []


@pytest.fixture(autouse=True)
def _signals_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is done on a signal is the process's too."""
    monkeypatch.setattr("pushserver.server.signals.install", lambda *_: None)
    monkeypatch.setattr("pushserver.server.signals.hold", lambda: None)


@pytest.fixture(autouse=True)
def _collected_as_before() -> Iterator[None]:
    """Python's collector is the process's: a server that a test has left running lets go of it."""
    yield
    for told in tuple(gc.callbacks):
        ours = getattr(told, "__self__", None)
        if isinstance(ours, Collector):
            ours.stop()
