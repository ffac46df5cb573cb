"""Signals to the processes of a server with workers, at any moment."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.e2e.conditions import wait_until
from tests.e2e.crew import MEMORY, Crew, state
from tests.e2e.exchange import ask, publish
from tests.e2e.sockets import closed_with, dial, frame
from tests.processes import lives

IGNORED = (signal.SIGHUP, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)
SLOW = """
import time
from pathlib import Path
from pushserver import PushServer

app = PushServer()

@app.on("stop")
def stop():
    Path("stopping").touch()
    while not Path("told").exists():
        time.sleep(0.01)
"""


@pytest.fixture
def crew(tmp_path: Path) -> Iterator[Crew]:
    (tmp_path / "slow.py").write_text(SLOW)
    crew = Crew(tmp_path, MEMORY, "slow:app", lasting=True, times="ALONE_SECONDS=60")
    try:
        yield crew
        (tmp_path / "told").touch()
        if crew.server.running:
            assert crew.server.stop() == -signal.SIGTERM
        crew.check_end()
        assert crew.server.problems == []
    finally:
        crew.clean()


def test_workers_ignore_the_signals_for_the_main_process_from_their_first_moment(
    crew: Crew,
) -> None:
    sent: set[int] = set()

    def send() -> bool:
        for pid in crew.workers().values():
            sent.add(pid)
            for number in IGNORED:
                with suppress(ProcessLookupError):
                    os.kill(pid, number)
        return "open http" in crew.log

    with crew.starting():
        wait_until(send)
    assert set(crew.workers().values()) == sent
    # One that ends is replaced; the second signal changes nothing.
    before = crew.workers()
    with dial(crew.server, "channels/a") as client:
        frame(client)
        for _ in range(2):
            os.kill(before[1], signal.SIGTERM)
            os.kill(before[2], signal.SIGTERM)
        assert closed_with(client).code == 1001
    for pid in before.values():
        wait_until(lambda pid=pid: not lives(pid))  # type: ignore[misc]
    wait_until(lambda: crew.workers().keys() == before.keys())
    wait_until(lambda: crew.checks() == (200, "ok"))
    assert [pid for pid in crew.all() if state(pid) == "Z"] == []


def test_workers_that_were_told_to_stop_do_not_serve_the_next_main_process(crew: Crew) -> None:
    crew.server.start()
    before = crew.workers()
    with dial(crew.server, "channels/a") as client:
        frame(client)
        crew.server.send(signal.SIGTERM)
        wait_until((crew.folder / "stopping").exists)
        crew.server.kill()
        crew.server.start()
        assert closed_with(client).code == 1001
    for pid in before.values():
        wait_until(lambda pid=pid: not lives(pid))  # type: ignore[misc]
    assert set(crew.workers().values()).isdisjoint(before.values())
    for n in range(20):
        assert publish(crew.server, "a", n)["offset"] == n + 1


def test_signals_while_settings_are_read_again(crew: Crew) -> None:
    (crew.folder / "told").touch()
    crew.server.start()
    workers = crew.workers()
    # Those to the group of the main process are not for the workers.
    assert not {os.getpgid(pid) for pid in workers.values()} & {os.getpgid(crew.main)}
    (crew.folder / "pushserver.toml").write_text(f"{MEMORY}[limits]\nbody_bytes = 10\n")
    crew.server.send(signal.SIGHUP)
    os.kill(workers[1], signal.SIGKILL)
    crew.server.send(signal.SIGHUP)
    crew.wait_for("another one starts")
    wait_until(lambda: crew.checks() == (200, "ok"))
    for _ in range(20):
        assert ask(crew.server, "POST", "channels/a", b'"0123456789"').status == 413
    crew.server.send(signal.SIGHUP)
    assert crew.server.stop() == -signal.SIGTERM
    assert crew.all() == set()


def test_port_in_use_ends_the_start_without_a_rest(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        address = f"127.0.0.1:{other.getsockname()[1]}"
        crew = Crew(tmp_path, MEMORY, "--listen", address, lasting=True)
        with pytest.raises(AssertionError, match=f"cannot listen on {address}: the port is in use"):
            crew.server.start()
        crew.check_end()


def test_stop_while_workers_start_leaves_nothing(crew: Crew) -> None:
    (crew.folder / "told").touch()
    with crew.starting() as main:
        wait_until(lambda: len(crew.workers()) == 2)
        os.kill(main, signal.SIGTERM)
    wait_until(lambda: not crew.all())
