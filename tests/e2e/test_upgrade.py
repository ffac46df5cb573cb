"""A server with workers whose package is replaced by one of another version."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from pushserver import __version__
from tests.e2e.conditions import wait_until
from tests.e2e.crew import STORES, Crew
from tests.e2e.exchange import ask, data, history, publish
from tests.e2e.load import Load
from tests.e2e.server import CHECKOUT
from tests.processes import lives

OLD = "0.0.1"


def install(folder: Path, version: str) -> Path:
    """Put the package into the folder, as this version; return the folder."""
    package = folder / "pushserver"
    if not package.exists():
        for name in ("pushserver", "static", "templates", "docs"):
            shutil.copytree(CHECKOUT / name, folder / name)
    init = package / "__init__.py"
    text = init.read_text()
    line = f'__version__ = "{version}"'
    changed, count = re.subn(r'^__version__ = ".+"$', line, text, flags=re.MULTILINE)
    assert count == 1
    # Another file, as an installation makes it: of the other one, compiled code may be used.
    init.unlink()
    shutil.rmtree(package / "__pycache__", ignore_errors=True)
    init.write_text(changed)
    return folder


def version(crew: Crew) -> str:
    """The version of the server that answers."""
    (node,) = json.loads(ask(crew.server, "POST", "api/info", b"{}").text)["result"]["nodes"]
    text: str = node["version"].removeprefix("pushserver ")
    return text


@pytest.fixture
def crew(tmp_path: Path) -> Iterator[Crew]:
    package = install(tmp_path / "package", OLD)
    crew = Crew(tmp_path, STORES["sync"], lasting=True, times="ALONE_SECONDS=60", package=package)
    try:
        yield crew
        assert crew.server.stop() == -signal.SIGTERM
        assert crew.all() == set()
    finally:
        crew.clean()


def test_next_main_process_replaces_the_workers_of_another_version(crew: Crew) -> None:
    crew.server.start()
    assert version(crew) == OLD
    with Load(crew.server.port) as load:
        load.go_on()
        before = crew.workers()
        crew.server.kill()
        install(crew.folder / "package", __version__)
        crew.server.start()
        for pid in before.values():
            wait_until(lambda pid=pid: not lives(pid))  # type: ignore[misc]
        load.go_on()
        wait_until(lambda: crew.checks() == (200, "ok"))
        assert set(crew.workers().values()).isdisjoint(before.values())
        assert len(crew.workers()) == 2
        assert version(crew) == __version__
        load.finish()
        load.check()
        for publisher in load.publishers:
            found = data(history(crew.server, publisher.channel, "limit=10000"))
            assert publisher.check(found) == []
    assert crew.server.problems == []


def test_workers_of_a_replaced_package_refuse_to_start(crew: Crew) -> None:
    crew.server.start()
    before = crew.workers()
    install(crew.folder / "package", __version__)
    os.kill(before[1], signal.SIGKILL)
    crew.wait_for(f"the main process has version '{OLD}' of pushserver", 2)
    # No connection waits for the worker that there is not.
    for _ in range(20):
        assert crew.checks() == (503, "1 of 2 workers are not ready")
    for n in range(10):
        assert publish(crew.server, "a", n)["offset"] == n + 1
