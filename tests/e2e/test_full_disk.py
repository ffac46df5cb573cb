"""A server whose disk is full when it is stopped."""

from __future__ import annotations

import json
import resource
import signal
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.e2e.conditions import wait_until
from tests.e2e.exchange import SSE, Reading, ask, history
from tests.e2e.server import Server
from tests.e2e.test_store import config, limit_files

FULL = 200_000
APP = """
import atexit
import os
from pushserver import PushServer

app = PushServer()
# twistd no longer logs what is printed.
atexit.register(os.write, 1, b"the application has ended")
"""


@pytest.fixture(params=["batched", "sync"])
def durability(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def drain() -> int:
    """The time limit of the stop: long, for tests that do something during it."""
    return 60


@pytest.fixture
def server(tmp_path: Path, durability: str, drain: int) -> Iterator[Server]:
    (tmp_path / "ending.py").write_text(APP)
    limits = f"[limits]\ndrain_seconds = {drain}"
    (tmp_path / "pushserver.toml").write_text(config(durability, limits))
    server = Server(tmp_path, "--config", "pushserver.toml", "--app", "ending:app")
    yield server.start()
    server.kill()
    assert "Traceback" not in server.log
    assert "Unhandled" not in server.log


def fill(server: Server) -> list[str]:
    """Publish until the disk is full; return the data that was accepted."""
    limit_files(server, FULL)
    accepted: list[str] = []
    while len(accepted) < 2_000:
        text = f"{len(accepted)}" + "x" * 5_000
        answer = ask(server, "POST", "channels/a", json.dumps(text).encode())
        if answer.status != 201:
            assert answer.status == 503
            return accepted
        accepted.append(text)
    raise AssertionError("the disk is never full")


def problems(server: Server) -> list[str]:
    """The lines of the log about the end of the store."""
    return [line for line in server.log.splitlines() if "the store was not closed" in line]


@pytest.mark.parametrize("drain", [1])
def test_stop_on_a_full_disk_counts_what_is_lost_and_readers_are_told(
    server: Server, durability: str
) -> None:
    accepted = fill(server)
    before = history(server, "a")
    assert server.stop() == (1 if durability == "batched" else -signal.SIGTERM)
    # Python makes these calls unless a signal ends it.
    assert ("the application has ended" in server.log) == (durability == "batched")
    server.start()
    after = history(server, "a")
    lost = len(accepted) - len(after["publications"])
    assert [row["data"] for row in after["publications"]] == accepted[: len(accepted) - lost]
    if durability == "sync":
        assert (lost, after["epoch"], problems(server)) == (0, before["epoch"], [])
        return
    [line] = problems(server)
    assert lost > 0
    assert f"{lost} accepted publications are lost: cannot write s.db: " in line
    assert after["epoch"] != before["epoch"]
    with closing(Reading(server, "channels/a", SSE, last_event_id=before["id"])) as stream:
        assert stream.block()["event"] == "pushserver-reset"


def test_disk_that_is_freed_during_the_stop_loses_nothing(server: Server) -> None:
    accepted = fill(server)
    before = history(server, "a")
    server.send(signal.SIGTERM)
    wait_until(lambda: "shutting down" in server.log)
    limit_files(server, resource.RLIM_INFINITY)
    assert server.wait() == -signal.SIGTERM
    server.start()
    after = history(server, "a")
    assert [row["data"] for row in after["publications"]] == accepted
    assert (after["epoch"], problems(server)) == (before["epoch"], [])
