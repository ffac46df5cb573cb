"""A real server of Redis in a process of its own, and a connection to it."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pushserver.redis.script import Call
from tests.e2e.patience import PATIENCE
from tests.e2e.server import free_port
from tests.e2e.supervisor import NotNotified, Supervisor

PROGRAM = "redis-check-rdb"
"""The program of all of Redis, which is the server if it is started as `redis-server`.

Its package redis-tools has no service, as those with the other names have.
"""

Part = bytes | str | int


class RedisError(Exception):
    """An error reply; its text begins with a word such as `NOSCRIPT`."""


class RedisServer:
    """A server that listens only on the Unix socket `path`, with its files in `folder`.

    `options` are more of its directives, such as `appendonly="yes"`; an underscore stands for a
    hyphen. It saves only if they, or a command, tell it so.
    """

    name = "redis-server"

    def __init__(self, folder: Path, **options: str):
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self.options = {
            "port": "0",
            "save": "",
            "appendonly": "no",
            "maxmemory-policy": "noeviction",
            "dir": str(folder),
            "supervised": "systemd",
        } | {name.replace("_", "-"): value for name, value in options.items()}
        # The path of a socket has 107 bytes at most, and the folders of tests have long names.
        self._place = tempfile.TemporaryDirectory(prefix="redis-")
        self.path = str(Path(self._place.name, "socket"))
        self._log = folder / "redis.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self._place.cleanup()
            raise

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.kill()
        self._place.cleanup()

    @property
    def log(self) -> str:
        """The log of all its starts."""
        return self._log.read_text()

    @property
    def pid(self) -> int:
        """The process id."""
        return self._running().pid

    @property
    def connection(self) -> Connection:
        """A connection to this run of the server, always the same."""
        if self._connection is None:
            self._connection = self.connect()
        return self._connection

    def connect(self) -> Connection:
        """Another connection."""
        return Connection(self.path)

    def start(self) -> Self:
        """Start it, and wait until it has loaded its data and answers."""
        assert self._process is None, "runs already"
        program = shutil.which(PROGRAM)
        assert program is not None, "run tools/system-packages --for-tests"
        supervisor = Supervisor()
        try:
            with self._log.open("ab") as log:
                self._process = subprocess.Popen(
                    [self.name, *self._arguments()],
                    executable=program,
                    env=os.environ | {"NOTIFY_SOCKET": supervisor.address},
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                )
            supervisor.wait_for("READY=1", self._process.pid)
        except NotNotified as error:
            self.kill()
            raise AssertionError(f"Redis did not start: {error}\n{self.log}") from None
        finally:
            supervisor.close()
        return self

    def _arguments(self) -> list[str]:
        directives = [part for name, value in self.options.items() for part in (f"--{name}", value)]
        return ["--unixsocket", self.path, *directives]

    def kill(self) -> None:
        """End it at once, if it runs; what it has not written to its files is lost."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def restart(self) -> None:
        """Kill it, and start it with what is in its files."""
        self.kill()
        self.start()

    def stop(self) -> None:
        """End it in order."""
        process = self._running()
        process.terminate()
        assert process.wait(PATIENCE) == 0, self.log
        self.kill()

    def pause(self) -> None:
        """Let it do nothing until `go_on`: its connections stay, and nobody answers."""
        self._running().send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """End a `pause`."""
        self._running().send_signal(signal.SIGCONT)

    def _running(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "does not run"
        return self._process


class SentinelServer(RedisServer):
    """A Sentinel that watches the server at a port of 127.0.0.1 by the name `main`.

    `options` are more of its directives; what it learns is in its configuration.
    """

    name = "redis-sentinel"

    def __init__(self, folder: Path, watched: int, **options: str):
        super().__init__(folder, port=str(free_port()))
        self.port = int(self.options["port"])
        self._file = folder / "sentinel.conf"
        self._file.write_text(
            f"port {self.port}\nunixsocket {self.path}\ndir {folder}\nsupervised systemd\n"
            f"sentinel monitor main 127.0.0.1 {watched} 1\n"
            "sentinel down-after-milliseconds main 1000\n"
            "sentinel failover-timeout main 1000\n"
            + "".join(f"{name.replace('_', '-')} {value}\n" for name, value in options.items())
        )

    def _arguments(self) -> list[str]:
        return [str(self._file)]


class Connection:
    """A connection that waits for each answer. Texts of answers are bytes."""

    def __init__(self, path: str):
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(PATIENCE)
        self._socket.connect(path)
        self._file = self._socket.makefile("rb")

    def close(self) -> None:
        """Close it."""
        self._file.close()
        self._socket.close()

    def __call__(self, *command: Part) -> Any:
        """The answer to a command; raises RedisError."""
        self.send(command)
        return self.receive()

    def run(self, call: Call) -> Any:
        """The answer of a script; raises RedisError."""
        try:
            return self(*call.evalsha)
        except RedisError as error:
            if not str(error).startswith("NOSCRIPT "):
                raise
            return self(*call.eval)

    def pipeline(self, commands: Sequence[Sequence[Part]]) -> list[Any]:
        """The answers to several commands, which are sent at once; errors are among them."""
        self.send(*commands)
        return [self._answer() for _ in commands]

    def run_id(self) -> str:
        """The name of this run of the server."""
        info: bytes = self("INFO", "server")
        fields = dict(line.split(":", 1) for line in info.decode().splitlines() if ":" in line)
        return fields["run_id"]

    def send(self, *commands: Sequence[Part]) -> None:
        """Send commands, whose answers `receive` has to take."""
        self._socket.sendall(b"".join(map(_encoded, commands)))

    def receive(self) -> Any:
        """The next answer; raises RedisError."""
        answer = self._answer()
        if isinstance(answer, RedisError):
            raise answer
        return answer

    def _answer(self) -> Any:
        line = self._file.readline()
        if not line.endswith(b"\r\n"):
            raise ConnectionError("Redis has closed the connection")
        kind, rest = line[:1], line[1:-2]
        if kind == b"+":
            return rest
        if kind == b"-":
            return RedisError(rest.decode())
        count = int(rest)
        if kind == b":":
            return count
        if count < 0:
            return None
        if kind == b"$":
            return self._file.read(count + 2)[:-2]
        return [self._answer() for _ in range(count)]


def _encoded(command: Sequence[Part]) -> bytes:
    parts = [p if isinstance(p, bytes) else str(p).encode() for p in command]
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%b\r\n" % (len(p), p) for p in parts)
