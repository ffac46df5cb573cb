"""Workers that are killed or stopped under load: nothing is lost, doubled or out of order."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.conditions import wait_until
from tests.e2e.crew import STORES, Crew, stop_process
from tests.e2e.load import Load
from tests.e2e.patience import PATIENCE

CONNECTS = 200
REQUEST = b"GET /channels/c0?limit=1 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


def waiting(crew: Crew) -> list[socket.socket]:
    """Connections with a request each."""
    opened = []
    for _ in range(CONNECTS):
        one = socket.create_connection(("127.0.0.1", crew.server.port), timeout=PATIENCE)
        one.sendall(REQUEST)
        opened.append(one)
    return opened


def answered(connections: list[socket.socket]) -> int:
    """Read all answers; return the number of those that are in order."""
    count = 0
    for one in connections:
        with one, one.makefile("rb") as stream:
            count += b" 200 OK" in stream.read()
    return count


@pytest.fixture(params=list(STORES))
def crew(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Crew]:
    crew = Crew(tmp_path, STORES[request.param])
    try:
        yield crew
    finally:
        crew.clean()


def test_workers_that_are_killed_and_stopped_lose_nothing(crew: Crew) -> None:
    crew.server.start()
    with Load(crew.server.port) as load:
        load.go_on()
        for number in (1, 2):
            before = crew.workers()
            os.kill(before[number], signal.SIGKILL)
            crew.wait_for(f"worker {number} (process {before[number]}) has ended: SIGKILL")
            wait_until(lambda: crew.checks() == (200, "ok"))
            assert crew.workers().keys() == before.keys()
            load.go_on()
        before = crew.workers()
        stop_process(before[1])
        connections = waiting(crew)
        # Half of the attempts wait for the stopped one, which is replaced some seconds later.
        wait_until(lambda: crew.checks(0.1) == (503, "1 of 2 workers are not ready"))
        wait_until(lambda: crew.checks() == (200, "ok"))
        assert answered(connections) == CONNECTS
        load.go_on()
        load.finish()
        load.check()
    assert crew.server.stop() == -signal.SIGTERM
    crew.check_end()
