"""Signals as in a terminal, the order of the files, the profiles of hypothesis, and known warnings.

By default hypothesis takes the same examples on every machine and ignores its speed.
`HYPOTHESIS_PROFILE=search` takes other examples each time, and more of them.
"""

from __future__ import annotations

import gc
import inspect
import os
import signal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from twisted.internet import tcp

# A shell ignores these for a program in the background, and so would each program of a test.
for _signal, _handler in (
    (signal.SIGINT, signal.default_int_handler),
    (signal.SIGQUIT, signal.SIG_DFL),
):
    if signal.getsignal(_signal) == signal.SIG_IGN:
        signal.signal(_signal, _handler)


# Here, since tests of other folders import those of tests/unit before its conftest.
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


FIRST = (
    "redis/test_servers.py",
    "e2e/test_login.py",
    "e2e/test_users.py",
    "e2e/test_frameworks.py",
    "page/test_live_page.py",
    "page/test_parts.py",
    "test_packaging.py",
    "e2e/test_chat_example.py",
    "page/test_views.py",
    "redis/test_presence_servers.py",
    "e2e/test_tutorial.py",
    "e2e/test_killed_main.py",
    "e2e/test_killed_workers.py",
    "e2e/test_behind_proxies.py",
    "e2e/test_browser.py",
    "doors/test_table.py",
)
"""The files that take longest: the last ones to start would keep one process busy at the end."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    places = {Path(__file__).parent / name: place for place, name in enumerate(FIRST)}
    assert all(path.exists() for path in places)
    items.sort(key=lambda item: places.get(item.path, len(places)))


# Nothing that is collected becomes garbage, and it is much: a third of the time of the collection.
gc.disable()


def pytest_collection_finish() -> None:
    gc.collect()
    gc.freeze()
    gc.enable()


def pytest_configure(config: pytest.Config) -> None:
    # Twisted 25.5 does not close the socket of a port that it cannot bind.
    if "skt.close" not in inspect.getsource(tcp.Port.startListening):
        ignored = r"ignore:Exception ignored in. <socket.socket .*'0.0.0.0', 0\)"
        config.addinivalue_line("filterwarnings", ignored)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what the tests of faults of Redis have found: `tests/redis/promises.py`."""
    rows = [
        value
        for reports in terminalreporter.stats.values()
        for report in reports
        if getattr(report, "when", "") == "teardown"
        for name, value in report.user_properties
        if name == "fault"
    ]
    if rows:
        heading = ["fault", "acknowledged", "lost", "doubled", "readers told"]
        terminalreporter.section("what is lost when (docs/scaling.md)")
        for row in [heading, *sorted(rows)]:
            terminalreporter.write_line(" | ".join(row))
