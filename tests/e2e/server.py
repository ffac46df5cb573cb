"""A real server in a process of its own, for tests."""

from __future__ import annotations

import fcntl
import http.client
import os
import random
import re
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from email.message import Message
from functools import cache
from pathlib import Path
from signal import Signals

from tests.e2e import warm
from tests.e2e.patience import PATIENCE
from tests.e2e.supervisor import NotNotified, Supervisor

CHECKOUT = Path(__file__).parents[2]
TWISTD = (sys.executable, "-P", str(CHECKOUT / "tests" / "e2e" / "twistd.py"))
"""The twistd of this environment."""

SERVE = (sys.executable, "-P", "-m", "pushserver", "serve")
"""`pushserver serve` of this environment."""

SHORTCUTS = "PUSHSERVER_SHORTCUTS"
"""The variable that `without_shortcuts/` sets for its servers; each test may run with it."""

WORKERS = "PUSHSERVER_SERVER_WORKERS"
"""The variable that `with_workers/` sets for its servers."""

PROBLEM = re.compile(r"Traceback|Unhandled|Error\b|Exception\b|Warning\b|#error|#critical")
"""Matches lines that an ordinary log does not have."""


_reserved: set[int] = set()


@cache
def _reservations() -> int:
    """A file of which each process locks the bytes whose numbers are its ports."""
    path = Path(tempfile.gettempdir(), f"pushserver-test-ports-{os.getuid()}")
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)


def free_port() -> int:
    """A free loopback port, which no other call returns while this process lives.

    It stays free while its server is stopped. It is outside the range of client ports: a client of
    a stopped server could get the same port from the kernel there, and connect to itself.
    """
    reservations = _reservations()
    while True:
        port = random.randrange(20_000, 30_000)
        if port in _reserved:
            continue
        with suppress(OSError), socket.socket() as probe:
            fcntl.lockf(reservations, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            _reserved.add(port)
            return port


def environment(**more: str) -> dict[str, str]:
    """The environment of a process under test: ours, without the variables of servers."""
    ours = {
        name: value
        for name, value in os.environ.items()
        if name in (SHORTCUTS, WORKERS)
        or not name.startswith(("PUSHSERVER_", "LISTEN_", "NOTIFY_"))
    }
    return ours | {"PYTHONPATH": str(CHECKOUT)} | more


@dataclass(frozen=True)
class Answer:
    """The answer to one request."""

    status: int
    headers: Message
    body: bytes

    @property
    def text(self) -> str:
        """The body, as UTF-8."""
        return self.body.decode()


def get(port: int, path: str, accept: str = "*/*") -> Answer:
    """One GET from a server on this machine; the path without its first slash."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    try:
        connection.request("GET", f"/{path}", headers={"Accept": accept})
        response = connection.getresponse()
        return Answer(response.status, response.headers, response.read())
    finally:
        connection.close()


def run_twistd(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run twistd in `folder` to its end; `stdout` of the result has its errors too."""
    return warm.run([*TWISTD, *arguments], folder, environment(), joined=True)


class Server:
    """One `twistd -n pushserver` or `pushserver serve` on a loopback port, run in `folder`.

    It may be stopped and started again, with the same port and log.
    """

    def __init__(
        self,
        folder: Path,
        *arguments: str,
        twistd: Sequence[str] = TWISTD,
        env: Mapping[str, str] | None = None,
        held: socket.socket | None = None,
        serve: bool = False,
    ) -> None:
        """`held`: a listening socket that it serves too, passed as systemd does.

        `serve`: whether it is `pushserver serve`.
        """
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}/"
        self._folder = folder
        self._log = folder / "log"
        self._env = environment() if env is None else dict(env)
        start = SERVE if serve else (*twistd, "--nodaemon", "--pidfile=", "pushserver")
        self._command = [
            *start,
            "--listen",
            f"tcp:{self.port}:interface=127.0.0.1",
            *arguments,
        ]
        self._held = () if held is None else (held.fileno(),)
        for descriptor in self._held:
            passed = f'LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=http exec "$@" 3<&{descriptor}'
            listen = ("--listen", "systemd:name=http")
            self._command = ["bash", "-c", passed, "bash", *self._command, *listen]
        self._process: subprocess.Popen[bytes] | warm.Forked | None = None
        self._supervisor: Supervisor | None = None

    @property
    def pid(self) -> int:
        """The process id."""
        return self._running().pid

    @property
    def running(self) -> bool:
        """Whether it was started, and not stopped since."""
        return self._process is not None

    @property
    def log(self) -> str:
        """The log of all its starts."""
        return self._log.read_text(encoding="utf-8")

    @property
    def problems(self) -> list[str]:
        """The lines of the log that match PROBLEM."""
        return [line for line in self.log.splitlines() if PROBLEM.search(line)]

    def start(self, supervisor: Supervisor | None = None) -> Server:
        """Start, and wait until it listens; `supervisor` gets its notifications."""
        assert self._process is None, "runs already"
        self._supervisor = supervisor or Supervisor()
        env = self._env | {"NOTIFY_SOCKET": self._supervisor.address}
        with self._log.open("ab") as log, open(os.devnull) as nothing:
            files = nothing.fileno(), log.fileno(), log.fileno()
            self._process = warm.start(self._command, self._folder, env, files) or subprocess.Popen(
                self._command,
                cwd=self._folder,
                env=env,
                stdin=nothing,
                stdout=log,
                stderr=log,
                pass_fds=self._held,
            )
        try:
            self._supervisor.wait_for("READY=1", self._process.pid)
        except NotNotified as error:
            self.kill()
            raise AssertionError(f"the server did not start: {error}\n{self.log}") from None
        return self

    def send(self, number: Signals) -> None:
        """Send a signal to it."""
        self._running().send_signal(number)

    def wait(self, seconds: float = PATIENCE) -> int:
        """Wait for its end, and return the status: -N if signal N ended it."""
        status = self._running().wait(seconds)
        self._forget()
        return status

    def stop(self, number: Signals = Signals.SIGTERM) -> int:
        """Send a signal, and return the status at its end."""
        self.send(number)
        return self.wait()

    def kill(self) -> None:
        """End it at once, if it runs."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._forget()

    def get(self, path: str, accept: str = "*/*") -> Answer:
        """One GET of a path below the root."""
        return get(self.port, path, accept)

    def websocket(self, path: str) -> str:
        """The URL of a WebSocket below this server's root."""
        return f"ws://127.0.0.1:{self.port}/{path}"

    def _forget(self) -> None:
        self._process = None
        if self._supervisor is not None:
            self._supervisor.close()

    def _running(self) -> subprocess.Popen[bytes] | warm.Forked:
        assert self._process is not None, "does not run"
        return self._process


@contextmanager
def running(server: Server) -> Iterator[Server]:
    """Start the server, and stop it in order; its log must have no problems."""
    try:
        yield server.start()
        if server.running:
            assert server.stop() == -Signals.SIGTERM
        assert server.problems == []
    finally:
        server.kill()
