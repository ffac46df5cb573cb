"""Finds the workers that an earlier main process has left, when it ended without stopping them.

They wait for the next one for some seconds, with their connections. This runs before the reactor,
since the ports that they listen on are not free.
"""

from __future__ import annotations

import os
import re
import select
import signal
import socket
import struct
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from twisted.logger import Logger

from pushserver.cluster.messages import BadMessage, Frames, frame
from pushserver.server.workers.control import FromWorker, Here, Stop

ANSWER_SECONDS = 10.0
"""Workers that do not answer within this time are killed: they would keep their ports. A busy
machine may make them slow, so it is as long as they keep their connections."""
STOPPED_SECONDS = 2.0
"""The same for one that was stopped, as by a debugger."""
STEP_SECONDS = 0.05
END_SECONDS = 2.0
"""The longest wait for the end of a process that was killed."""
DISMISS_SECONDS = 4.0
"""The time in which a worker that is not kept closes its connections."""
MOST_READS = 100
_log = Logger()
_CONTROL = re.compile(r"control-([0-9]{1,3})", re.ASCII)
_DESCRIPTORS = 253
"""The most descriptors of one message (unix(7): SCM_MAX_FD)."""


@dataclass(frozen=True, slots=True)
class Left:
    """A worker of an earlier main process: its control connection, and its listening sockets."""

    worker: int
    pid: int
    version: str
    connection: socket.socket
    sockets: list[socket.socket]


def find_left(folder: str) -> dict[int, Left]:
    """The workers that wait in this folder, by number."""
    try:
        names = sorted(os.listdir(folder))
    except OSError:
        # There is no such folder, or `SocketFolder.open` refuses it.
        return {}
    paths = [os.path.join(folder, name) for name in names if _CONTROL.fullmatch(name)]
    # They answer at the same time.
    connections = [one for path in paths if (one := _connect(path)) is not None]
    patience = _Patience()
    answers = [_answer(connection, patience) for connection in connections]
    return {one.worker: one for one in answers if one is not None}


def dismiss(left: Left, problem: str) -> None:
    """Let a worker of an earlier main process end; its clients connect again."""
    _log.info(
        "worker {worker} (process {pid}) of an earlier main process is not kept: {problem}",
        worker=left.worker,
        pid=left.pid,
        problem=problem,
        event_name="worker_dismissed",
    )
    with suppress(OSError), left.connection:
        left.connection.sendall(frame(Stop(DISMISS_SECONDS)))


class _Patience:
    """The time that all workers have together."""

    def __init__(self) -> None:
        self._waited = 0.0

    def wait(self, connection: socket.socket) -> None:
        """Wait for the next bytes; raises TimeoutError."""
        while not select.select([connection], [], [], STEP_SECONDS)[0]:
            self._waited += STEP_SECONDS
            limit = STOPPED_SECONDS if _is_stopped(_process(connection)) else ANSWER_SECONDS
            if self._waited >= limit:
                raise TimeoutError("no answer")


def _connect(path: str) -> socket.socket | None:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(STOPPED_SECONDS)
    try:
        connection.connect(path)
    except OSError:
        connection.close()
        with suppress(OSError):
            os.unlink(path)
        return None
    return connection


def _answer(connection: socket.socket, patience: _Patience) -> Left | None:
    """The worker at the other end; it is killed if there is no answer."""
    sockets: list[socket.socket] = []
    try:
        here = _read(connection, sockets, patience)
    except (OSError, BadMessage):
        for one in sockets:
            one.close()
        _kill(connection)
        connection.close()
        return None
    return Left(here.worker, here.pid, here.version, connection, sockets)


def _read(connection: socket.socket, sockets: list[socket.socket], patience: _Patience) -> Here:
    """The first message of a worker, and its sockets; raises OSError and BadMessage."""
    frames = Frames(FromWorker, 65_536)
    for _ in range(MOST_READS):
        patience.wait(connection)
        data, descriptors, _, _ = socket.recv_fds(connection, 65_536, _DESCRIPTORS)
        sockets += [socket.socket(fileno=descriptor) for descriptor in descriptors]
        if not data:
            break
        for message in frames.feed(data):
            if isinstance(message, Here):
                return message
    raise TimeoutError("no answer")


def _kill(connection: socket.socket) -> None:
    """Kill the process that listens on a socket, to which this one is connected."""
    pid = _process(connection)
    if pid > 0:
        with suppress(OSError):
            os.kill(pid, signal.SIGKILL)
            _wait(pid)


def _process(connection: socket.socket) -> int:
    size = struct.calcsize("3i")
    found = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
    pid: int = found[0]
    return pid


def _is_stopped(pid: int) -> bool:
    with suppress(OSError, IndexError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "Tt"
    return False


def _wait(pid: int) -> None:
    """Wait for the end of a process, and so for its ports."""
    with suppress(OSError), open(os.pidfd_open(pid), "rb", buffering=0) as process:
        select.select([process], [], [], END_SECONDS)
