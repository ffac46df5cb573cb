"""Runs commands as forks of a process that has imported their modules already.

Nearly all of the CPU time of a start are these imports, and the tests start hundreds of servers and
commands. A fork runs its command as a new interpreter would: with the arguments, folder, variables
and files that it is given. It is used for `pushserver` and for twistd of this environment, and only
with the variables that this process has, but for those of the server: an interpreter or a library
may read others when it starts.
"""

from __future__ import annotations

import atexit
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from tests.e2e.patience import PATIENCE

REQUEST_BYTES = 2**17
CHECKOUT = str(Path(__file__).parents[2])
PROGRAMS = {
    (sys.executable, "-P", "-m", "pushserver"): "pushserver",
    (sys.executable, "-m", "pushserver"): "pushserver",
    (sys.executable, "-P", str(Path(__file__).with_name("twistd.py"))): "twistd",
}
"""The programs by the beginning of their command lines."""
WORKER = "worker"
OF_SERVERS = (
    "PUSHSERVER_",
    "NOTIFY_",
    "LISTEN_",
    "PYTEST_",
    "RUNTIME_DIRECTORY",
    "TEST_",
    "TMPDIR",
    "UPSTREAM",
    "XDG_RUNTIME_DIR",
)
"""The beginnings of the variables that nothing reads before a server does."""


@dataclass(frozen=True)
class Request:
    """A program to run in a fork; `numbers`: those of its files, in their order."""

    program: str
    arguments: Sequence[str]
    command: Sequence[str]
    folder: str
    variables: Mapping[str, str]
    numbers: Sequence[int] = (0, 1, 2)
    open_files: tuple[int, int] = (0, 0)
    """The limits of a worker."""


class Forked:
    """A process, as `subprocess.Popen` has it, for which a `ForkServer` waits."""

    def __init__(self, fork_server: ForkServer, pid: int):
        self.pid = pid
        self.returncode: int | None = None
        self._fork_server = fork_server
        self._descriptor = os.pidfd_open(pid)

    def send_signal(self, number: int) -> None:
        """No-op after the end of the process was seen."""
        if self.returncode is None:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._descriptor, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def poll(self) -> int | None:
        """The status at its end; None while it runs."""
        return self.returncode if self.returncode is not None else self._ended(0)

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end; raises TimeoutExpired."""
        status = self.poll() if timeout == 0 else self._ended(timeout)
        if status is None:
            raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0)
        return status

    def _ended(self, seconds: float | None) -> int | None:
        if self.returncode is None:
            poll = select.poll()
            poll.register(self._descriptor, select.POLLIN)
            if not poll.poll(None if seconds is None else seconds * 1000):
                return None
            self.returncode = self._fork_server.status(self.pid)
            os.close(self._descriptor)
        return self.returncode


def start(
    command: Sequence[str],
    folder: Path,
    environment: Mapping[str, str],
    files: tuple[int, int, int],
) -> Forked | None:
    """Run a command with these files for its input, output and errors.

    Returns None for a command or an environment that only a new interpreter can have.
    """
    fork_server = _fork_server()
    request = _request(command, folder, environment)
    if request is None or _own(environment) != fork_server.variables:
        return None
    return Forked(fork_server, fork_server.fork(request, files))


def run(
    command: Sequence[str],
    folder: Path,
    environment: Mapping[str, str],
    text: str = "",
    joined: bool = False,
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end; `text`: its input. Raises TimeoutExpired.

    `joined`: its errors are in its output.
    """
    with TemporaryFile() as given, TemporaryFile() as output, TemporaryFile() as errors:
        given.write(text.encode())
        given.seek(0)
        files = given.fileno(), output.fileno(), (output if joined else errors).fileno()
        process = start(command, folder, environment, files) or subprocess.Popen(
            command, cwd=folder, env=environment, stdin=files[0], stdout=files[1], stderr=files[2]
        )
        try:
            status = process.wait(PATIENCE)
        finally:
            process.kill()
            process.wait()
        printed = []
        for file in output, errors:
            file.seek(0)
            printed.append(file.read().decode())
        return subprocess.CompletedProcess(command, status, *printed)


class ForkServer:
    """A process that has imported the modules, at the other end of a socket."""

    def __init__(self, connection: socket.socket):
        connection.settimeout(PATIENCE)
        self.variables = _own(os.environ)
        """The variables that its forks share with it."""
        self._socket = connection
        self._asking = threading.Lock()

    def fork(self, request: Request, files: Sequence[int]) -> int:
        """The id of the new process."""
        return self._ask(asdict(request), *files)

    def status(self, pid: int) -> int:
        """Wait for the end of a process; -N if signal N ended it."""
        return self._ask(pid)

    def close(self) -> None:
        """End the process."""
        self._socket.close()

    def _ask(self, asked: Any, *files: int) -> int:
        with self._asking:
            socket.send_fds(self._socket, [json.dumps(asked).encode()], files)
            answer = self._socket.recv(REQUEST_BYTES)
        assert answer, "the process that starts servers has ended"
        return int(answer)


def asked_for(requests: socket.socket, most: int) -> tuple[Request | int | None, list[int]]:
    """The next request to a fork server, with its files.

    It is for a fork, or for the status of a process at its end; None: it is to end.
    """
    data, files, _, _ = socket.recv_fds(requests, REQUEST_BYTES, most)
    asked = json.loads(data) if data else None
    return (Request(**asked) if isinstance(asked, dict) else asked), files


@cache
def _made() -> ForkServer:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        process = subprocess.Popen(
            [
                sys.executable,
                "-P",
                str(Path(__file__).with_name("fork_server.py")),
                str(theirs.fileno()),
            ],
            env=dict(os.environ) | {"PYTHONPATH": CHECKOUT},
            stdin=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
        )
    fork_server = ForkServer(ours)

    def end() -> None:
        fork_server.close()
        process.wait()

    atexit.register(end)
    return fork_server


def _fork_server() -> ForkServer:
    """The only one of this process; any thread may call it."""
    with _making:
        return _made()


_making = threading.Lock()


def _request(
    command: Sequence[str], folder: Path, environment: Mapping[str, str]
) -> Request | None:
    for start, program in PROGRAMS.items():
        if tuple(command[: len(start)]) == start:
            arguments = command[len(start) :]
            return Request(program, arguments, command, str(folder), dict(environment))
    return None


def _own(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that the forks share with the process that has imported the modules."""
    found = {n: value for n, value in environment.items() if not n.startswith(OF_SERVERS)}
    # A fork imports from the folders before.
    return found | {"PYTHONPATH": found.get("PYTHONPATH", CHECKOUT).split(os.pathsep)[-1]}
