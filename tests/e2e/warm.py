"""Runs commands as forks of a process that has imported their modules already.

Nearly all of the CPU time of a start are these imports, and the tests start hundreds of servers and
commands. A fork runs its command as a new interpreter would: with the arguments, folder, variables
and files that it is given. It is used for `pushserver` and for twistd of this environment, and only
with the variables that this process has, but for those of the server: an interpreter or a library
may read others when it starts.
"""

from __future__ import annotations

import atexit
import gc
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
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from tests.e2e.patience import PATIENCE

MODULES = (
    "pushserver.cli",
    "pushserver.server.foreground",
    "pushserver.sources.types.random",
    "encodings.idna",
    "twisted.application.app",
    "twisted.cred.strcred",
    "twisted.internet.epollreactor",
    "twisted.plugins",
    "twisted.scripts._twistd_unix",
    "twisted.scripts.twistd",
    # The interfaces that the cache of Twisted's plugins names.
    "twisted.trial.itrial",
    "twisted.words.iwords",
)
"""The modules, with all that they import. None of them installs a reactor."""
REQUEST_BYTES = 2**17
CHECKOUT = str(Path(__file__).parents[2])
PROGRAMS = {
    (sys.executable, "-P", "-m", "pushserver"): "pushserver",
    (sys.executable, "-P", str(Path(__file__).with_name("twistd.py"))): "twistd",
}
"""The programs by the beginning of their command lines."""


class Forked:
    """A process, as `subprocess.Popen` has it, for which a `_Nursery` waits."""

    def __init__(self, nursery: _Nursery, pid: int):
        self.pid = pid
        self.returncode: int | None = None
        self._nursery = nursery
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
            self.returncode = self._nursery.status(self.pid)
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
    nursery = _nursery()
    pid = nursery.fork(command, folder, environment, files)
    return Forked(nursery, pid) if pid else None


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


class _Nursery:
    """The process that has imported the modules."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._environment = _own(os.environ)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", __file__, str(theirs.fileno())],
                env=dict(os.environ) | {"PYTHONPATH": CHECKOUT},
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )
        self._socket = ours
        self._socket.settimeout(PATIENCE)
        self._asking = threading.Lock()
        atexit.register(self._end)

    def fork(
        self,
        command: Sequence[str],
        folder: Path,
        environment: Mapping[str, str],
        files: Sequence[int],
    ) -> int:
        """The id of the new process; 0 if it must not be a fork."""
        found = _program(command)
        if not found or _own(environment) != self._environment:
            return 0
        request = {
            "program": found.program,
            "arguments": found.arguments,
            "command": command,
            "folder": str(folder),
            "environment": dict(environment),
        }
        return self._ask(request, *files)

    def status(self, pid: int) -> int:
        """Wait for the end of a process; -N if signal N ended it."""
        return self._ask({"ended": pid})

    def _end(self) -> None:
        self._socket.close()
        self._process.wait()

    def _ask(self, request: Mapping[str, Any], *files: int) -> int:
        with self._asking:
            socket.send_fds(self._socket, [json.dumps(request).encode()], files)
            answer = self._socket.recv(REQUEST_BYTES)
        assert answer, "the process that starts servers has ended"
        return int(answer)


@cache
def _made() -> _Nursery:
    return _Nursery()


def _nursery() -> _Nursery:
    """The only one of this process; any thread may call it."""
    with _making:
        return _made()


_making = threading.Lock()


@dataclass(frozen=True)
class _Program:
    program: str
    arguments: Sequence[str]


def _program(command: Sequence[str]) -> _Program | None:
    for start, program in PROGRAMS.items():
        if tuple(command[: len(start)]) == start:
            return _Program(program, command[len(start) :])
    return None


def _own(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that the forks share with the process that has imported the modules."""
    servers = "PUSHSERVER_", "NOTIFY_", "LISTEN_", "PYTEST_"
    found = {n: value for n, value in environment.items() if not n.startswith(servers)}
    return found | {"PYTHONPATH": found.get("PYTHONPATH", CHECKOUT)}


def _serve(requests: socket.socket) -> Mapping[str, Any]:
    """Answer requests to their end. Returns in each fork, with its request."""
    while True:
        data, files, _, _ = socket.recv_fds(requests, REQUEST_BYTES, 3)
        if not data:
            os._exit(0)
        request: Mapping[str, Any] = json.loads(data)
        if "ended" in request:
            _, status = os.waitpid(request["ended"], 0)
            requests.send(b"%d" % os.waitstatus_to_exitcode(status))
            continue
        pid = os.fork()
        if not pid:
            requests.close()
            for number, file in enumerate(files):
                os.dup2(file, number)
            os.closerange(3, max(files) + 1)
            return request
        requests.send(b"%d" % pid)
        for file in files:
            os.close(file)


def _compile_templates() -> None:
    """Make each page of the server once, so that no fork compiles its templates."""
    # Imported here: a test process needs none of them.
    from pushserver.resources.pages import Pages
    from pushserver.resources.template_failures import TemplateFailures

    pages = Pages(float, TemplateFailures(float, float))
    pages.channel(("a",), ".", 1)
    pages.channels(".")
    pages.error(404, "", "")


def main() -> None:
    """Import the modules, and run programs in forks."""
    with socket.socket(fileno=int(sys.argv[1])) as requests:
        requests.set_inheritable(False)
        for name in MODULES:
            import_module(name)
        _compile_templates()
        assert "twisted.internet.reactor" not in sys.modules
        gc.collect()
        gc.freeze()
        request = _serve(requests)
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    sys.orig_argv = list(request["command"])
    sys.argv = [request["program"], *request["arguments"]]
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if request["program"] == "twistd":
        from twisted.scripts.twistd import run

        run()
    else:
        from pushserver.cli import main as run_command

        sys.exit(run_command())


if __name__ == "__main__":
    main()
