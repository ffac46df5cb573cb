"""Servers under measurement: pinned to one core, waited for, and ended whatever happens."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from benchmarks.build import CHECKOUT

START_SECONDS = 30.0
END_SECONDS = 10.0


class DidNotStart(Exception):
    """The server does not listen; the text has the end of what it said."""


@dataclass(frozen=True, slots=True)
class Cores:
    """Which core the server has, and which the load tool; `nice`: how both are scheduled."""

    server: int
    tool: int
    nice: int = 0

    @property
    def shared(self) -> bool:
        """Whether both have the same, for want of a second one."""
        return self.server == self.tool


def choose_cores(nice: int = 0) -> Cores:
    """The first two that this process may use."""
    usable = sorted(os.sched_getaffinity(0))
    return Cores(usable[0], usable[-1] if len(usable) < 2 else usable[1], nice)


def raise_file_limit(wanted: int) -> int:
    """Let this process and its children open as many files; returns how many they may."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < wanted:
        # Needs CAP_SYS_RESOURCE.
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, wanted))
            return wanted
    files = wanted if hard == resource.RLIM_INFINITY else hard
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, hard))
    return files


def pinned(core: int, nice: int, command: Sequence[str]) -> list[str]:
    """The command, to run on one core; both programs become it, so that its number is known."""
    before = ["nice", "-n", str(nice)] if nice else []
    if shutil.which("taskset"):
        before += ["taskset", "--cpu-list", str(core)]
    return [*before, *command]


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@contextmanager
def running(
    command: Sequence[str], port: int, log: Path, environment: Mapping[str, str]
) -> Iterator[list[int]]:
    """Run a server while the context lasts; gives the ids of its processes. Raises DidNotStart."""
    with log.open("wb") as output:
        server = subprocess.Popen(
            command,
            cwd=CHECKOUT,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        _wait_for(server, port, log)
        yield [server.pid, *children(server.pid)]
    finally:
        _end(server)


def children(pid: int) -> list[int]:
    """The processes that a process started, and theirs."""
    found: list[int] = []
    for tasks in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, tasks.read_text("ascii").split()):
            found += [child, *children(child)]
    return found


def _wait_for(server: subprocess.Popen[bytes], port: int, log: Path) -> None:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end and not _has_ended(server.pid):
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1.0):
            return
        time.sleep(0.05)
    said = log.read_text("utf-8", "replace").strip()[-1500:]
    raise DidNotStart(said or "it does not listen")


def _end(server: subprocess.Popen[bytes]) -> None:
    """End the process and whatever of its own session it left."""
    # Not by Popen's methods, which reap it: until it is reaped nobody else gets its number.
    os.kill(server.pid, signal.SIGTERM)
    end = time.monotonic() + END_SECONDS
    while time.monotonic() < end and not _has_ended(server.pid):
        time.sleep(0.02)
    with suppress(ProcessLookupError):
        os.killpg(server.pid, signal.SIGKILL)
    server.wait()


def _has_ended(pid: int) -> bool:
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
