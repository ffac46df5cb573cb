"""Workers of an earlier main process are found, with their listening sockets."""

from __future__ import annotations

import os
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from pushserver import __version__
from pushserver.cluster.messages import frame
from pushserver.server.workers import left as module
from pushserver.server.workers.control import Here
from pushserver.server.workers.crew import problem_of
from pushserver.server.workers.left import dismiss, find_left
from tests.unit.fakes.web import Log


@pytest.fixture
def killed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The processes that are killed, which the test then is not."""
    found: list[int] = []
    monkeypatch.setattr(os, "kill", lambda pid, number: found.append(pid))
    monkeypatch.setattr(module, "_wait", lambda pid: None)
    monkeypatch.setattr(module, "ANSWER_SECONDS", 0.2)
    return found


def waits(path: Path, answer: Callable[[socket.socket], None]) -> threading.Thread:
    """Wait for a main process, as a worker does, and answer it."""
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(path))
    listening.listen()

    def serve() -> None:
        with listening, listening.accept()[0] as connection:
            answer(connection)

    thread = threading.Thread(target=serve)
    thread.start()
    return thread


def here(number: int, *sockets: socket.socket, version: str = __version__) -> bytes:
    return frame(Here(version, number, os.getpid()))


def test_worker_comes_with_its_sockets(tmp_path: Path) -> None:
    with socket.socket() as port:
        port.bind(("127.0.0.1", 0))

        def answer(connection: socket.socket) -> None:
            text = here(3)
            socket.send_fds(connection, [text[:5]], [port.fileno()])
            connection.sendall(text[5:])
            connection.recv(100)

        thread = waits(tmp_path / "control-3", answer)
        found = find_left(str(tmp_path))
        assert list(found) == [3]
        one = found[3]
        assert (one.worker, one.pid, one.version) == (3, os.getpid(), __version__)
        assert [s.getsockname() for s in one.sockets] == [port.getsockname()]
        one.connection.close()
        one.sockets[0].close()
        thread.join()


def test_file_of_a_dead_worker_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "control-1"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
    (tmp_path / "http-1").touch()
    assert find_left(str(tmp_path)) == {}
    assert os.listdir(tmp_path) == ["http-1"]


def test_worker_that_does_not_answer_is_killed(tmp_path: Path, killed: list[int]) -> None:
    ends = threading.Event()

    def wait(connection: socket.socket) -> None:
        ends.wait(10)

    thread = waits(tmp_path / "control-1", wait)
    assert find_left(str(tmp_path)) == {}
    assert killed == [os.getpid()]
    ends.set()
    thread.join()


def test_stopped_worker_is_killed_earlier(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ANSWER_SECONDS", 1_000.0)
    monkeypatch.setattr(module, "STOPPED_SECONDS", 0.2)
    program = (
        "import os, signal, socket, sys; one = socket.socket(socket.AF_UNIX);"
        "one.bind(sys.argv[1]); one.listen(); print(flush=True);"
        "os.kill(os.getpid(), signal.SIGSTOP)"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "control-1")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.read(1)
        assert find_left(str(tmp_path)) == {}
        assert process.wait() == -signal.SIGKILL


def test_workers_answer_at_the_same_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STOPPED_SECONDS", 0.0)
    both = threading.Barrier(2)

    def answer(number: int, connection: socket.socket) -> None:
        both.wait(10)
        connection.sendall(here(number))
        connection.recv(1)

    threads = [waits(tmp_path / f"control-{number}", partial(answer, number)) for number in (1, 2)]
    found = find_left(str(tmp_path))
    assert sorted(found) == [1, 2]
    for one in found.values():
        one.connection.close()
    for thread in threads:
        thread.join()


def test_worker_that_answers_something_else_is_killed(tmp_path: Path, killed: list[int]) -> None:
    text = b"HTTP/1.1 200 OK\r\n"
    thread = waits(tmp_path / "control-1", lambda connection: connection.sendall(text))
    assert find_left(str(tmp_path)) == {}
    assert killed == [os.getpid()]
    thread.join()


def test_worker_of_another_version_is_told_to_end(tmp_path: Path) -> None:
    told: list[bytes] = []

    def answer(connection: socket.socket) -> None:
        connection.sendall(here(1, version="0.0.1"))
        told.append(connection.recv(100))

    thread = waits(tmp_path / "control-1", answer)
    (one,) = find_left(str(tmp_path)).values()
    problem = problem_of(one, 2)
    assert problem.startswith("its version is 0.0.1, ")
    with Log() as log:
        dismiss(one, problem)
    worker = f"worker 1 (process {one.pid}) of an earlier main process"
    assert log.take() == [f"{worker} is not kept: {problem}"]
    thread.join()
    (size,) = struct.unpack(">I", told[0][:4])
    assert len(told[0]) == 4 + size


def test_worker_that_is_one_too_many_is_not_kept(tmp_path: Path) -> None:
    thread = waits(tmp_path / "control-3", lambda connection: connection.sendall(here(3)))
    (one,) = find_left(str(tmp_path)).values()
    assert problem_of(one, 3) == ""
    assert problem_of(one, 2) == "there are 2 workers now"
    one.connection.close()
    thread.join()
