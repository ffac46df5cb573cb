"""An application that forks: its children outlive a server with workers."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.conditions import wait_until
from tests.e2e.crew import STORES, Crew
from tests.e2e.load import Load

FORKS = """
import multiprocessing
import os
import time
from pathlib import Path

from pushserver import PushServer

app = PushServer()


def stay():
    while not Path("end").exists():
        time.sleep(0.05)


@app.on("connect")
def connect(client):
    # The links of the workers are there.
    try:
        Path("forked").mkdir()
    except FileExistsError:
        return
    multiprocessing.get_context("fork").Process(target=stay, daemon=True).start()
    if not os.fork():
        try:
            stay()
        finally:
            os._exit(0)
"""


@pytest.fixture
def crew(tmp_path: Path) -> Iterator[Crew]:
    (tmp_path / "forks.py").write_text(FORKS)
    crew = Crew(tmp_path, STORES["sync"], "forks:app", lasting=True, times="ALONE_SECONDS=60")
    try:
        yield crew
    finally:
        (tmp_path / "end").touch()
        crew.clean()


def test_next_server_is_not_kept_from_anything_by_the_forks_of_one_before(crew: Crew) -> None:
    crew.server.start()
    with Load(crew.server.port, 20) as load:
        workers = crew.workers()
        wait_until(lambda: len(crew.all()) == 5)
        forks = crew.all() - {crew.main, *workers.values()}
        load.go_on()
        crew.server.kill()
        crew.server.start()
        assert crew.workers() == workers
        load.go_on()
        assert crew.server.stop() == -signal.SIGTERM
        crew.server.start()
        assert forks <= crew.all()
        load.go_on()
        load.finish()
        load.check()
    (crew.folder / "end").touch()
    assert crew.server.stop() == -signal.SIGTERM
    wait_until(lambda: not crew.all())
    assert crew.server.problems == []
