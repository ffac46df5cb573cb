"""Processes of measured servers: pinned to one core, and always ended."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.request import urlopen

from benchmarks.build import CHECKOUT

START_SECONDS = 30.0
END_SECONDS = 10.0


class DidNotStart(Exception):
    """The server does not listen; the text is the end of its output."""


@dataclass(frozen=True, slots=True)
class Cores:
    """The cores of the server and of the load tool; `nice`: the priority of both."""

    server: int
    tool: int
    nice: int = 0

    @property
    def shared(self) -> bool:
        """Whether both have the same core, because there is only one."""
        return self.server == self.tool


def choose_cores(nice: int = 0) -> Cores:
    """The first two cores that this process may use."""
    usable = sorted(os.sched_getaffinity(0))
    return Cores(usable[0], usable[-1] if len(usable) < 2 else usable[1], nice)


def raise_file_limit(wanted: int) -> int:
    """Raise the limit of open files for this process and its children; returns the new limit."""
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
    """The command line that runs on one core; its process ID is that of the started process."""
    before = ["nice", "-n", str(nice)] if nice else []
    if shutil.which("taskset"):
        before += ["taskset", "--cpu-list", str(core)]
    return [*before, *command]


@contextmanager
def on_core(core: int) -> Iterator[None]:
    """This process runs on one core while the context lasts."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def free_port() -> int:
    """A free port."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@contextmanager
def running(
    command: Sequence[str],
    port: int,
    log: Path,
    environment: Mapping[str, str],
    has_workers: bool = False,
) -> Iterator[list[int]]:
    """Run a server while the context lasts; yields the IDs of its processes. Raises DidNotStart.

    The workers of pushserver, if there are any, are then ready.
    """
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
        _wait_for(server, port, log, _is_ready if has_workers else _listens)
        yield [server.pid, *children(server.pid)]
    finally:
        _end(server)


def children(pid: int) -> list[int]:
    """All descendants of a process."""
    found: list[int] = []
    for tasks in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, tasks.read_text("ascii").split()):
            found += [child, *children(child)]
    return found


def _listens(port: int) -> None:
    """Raises OSError if nothing listens."""
    with socket.create_connection(("127.0.0.1", port), 1.0):
        return


def _is_ready(port: int) -> None:
    """Raises OSError if pushserver is not ready; its sockets listen before its workers do."""
    with urlopen(f"http://127.0.0.1:{port}/health/ready", timeout=1.0):
        return


def _wait_for(
    server: subprocess.Popen[bytes], port: int, log: Path, check: Callable[[int], None]
) -> None:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end and not _has_ended(server.pid):
        with suppress(OSError):
            check(port)
            return
        time.sleep(0.05)
    said = log.read_text("utf-8", "replace").strip()[-1500:]
    raise DidNotStart(said or "it does not listen")


def _end(server: subprocess.Popen[bytes]) -> None:
    """End the process and the rest of its session."""
    # Not by the methods of Popen, which reap it: its ID may be reused after that.
    os.kill(server.pid, signal.SIGTERM)
    end = time.monotonic() + END_SECONDS
    while time.monotonic() < end and not _has_ended(server.pid):
        time.sleep(0.02)
    with suppress(ProcessLookupError):
        os.killpg(server.pid, signal.SIGKILL)
    server.wait()


def _has_ended(pid: int) -> bool:
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
