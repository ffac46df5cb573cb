"""A server with workers, whose log is in Redis: each process is killed under load.

Nothing is lost, doubled or out of order, and readers are told what Redis has lost.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.e2e.conditions import wait_until
from tests.e2e.crew import Crew
from tests.e2e.load import Load
from tests.redis.server import RedisServer


@contextmanager
def crewed(folder: Path, redis: RedisServer) -> Iterator[Crew]:
    """A server with two workers, which the next main process finds."""
    text = f'[sources]\n[broker]\nurl = "unix://{redis.path}"\n'
    folder.mkdir()
    crew = Crew(folder, text, lasting=True, times="ALONE_SECONDS=60")
    try:
        crew.server.start()
        yield crew
        assert crew.server.stop() == -signal.SIGTERM
        crew.check_end()
        assert crew.server.problems == []
    finally:
        crew.clean()


@pytest.mark.fault("the main process of a server with workers dies")
def test_nothing_is_lost_whichever_process_is_killed(tmp_path: Path) -> None:
    with (
        RedisServer(tmp_path, appendonly="yes", appendfsync="always") as redis,
        crewed(tmp_path / "crew", redis) as crew,
        Load(crew.server.port) as load,
    ):
        load.go_on()
        os.kill(crew.workers()[1], signal.SIGKILL)
        load.go_on()
        redis.restart()
        load.go_on()
        before = crew.workers()
        crew.server.kill()
        crew.server.start()
        load.go_on()
        assert crew.workers() == before
        load.finish()
        load.check()


def test_readers_are_told_once_what_redis_has_lost(tmp_path: Path, redis: RedisServer) -> None:
    with crewed(tmp_path / "crew", redis) as crew, Load(crew.server.port) as load:
        load.go_on()
        redis.restart()
        load.go_on()
        load.finish()
        wait_until(lambda: crew.checks() == (200, "ok"))
        assert {reader.record.resets for reader in load.readers} == {1}
