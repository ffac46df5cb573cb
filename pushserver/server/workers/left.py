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

from pushserver.cluster.messages import BadMessage, Frames, frame
from pushserver.server.workers.control import FromWorker, Here, Stop
from pushserver.server.workers.slot import Left

ANSWER_SECONDS = 2.0
"""A worker that does not answer within this time is killed: it would keep its ports."""
DISMISS_SECONDS = 4.0
"""The time in which a worker that is not kept closes its connections."""
MOST_READS = 100
_CONTROL = re.compile(r"control-([0-9]{1,3})", re.ASCII)
_DESCRIPTORS = 253
"""The most descriptors of one message (unix(7): SCM_MAX_FD)."""


def find_left(folder: str) -> dict[int, Left]:
    """The workers that wait in this folder, by number."""
    found: dict[int, Left] = {}
    try:
        names = sorted(os.listdir(folder))
    except FileNotFoundError:
        return found
    for name in names:
        match = _CONTROL.fullmatch(name)
        if match is not None and (one := _ask(os.path.join(folder, name))) is not None:
            found[one.worker] = one
    return found


def dismiss(left: Left) -> None:
    """Let a worker of an earlier main process end; its clients connect again."""
    with suppress(OSError), left.connection:
        left.connection.sendall(frame(Stop(DISMISS_SECONDS)))


def _ask(path: str) -> Left | None:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(ANSWER_SECONDS)
    try:
        connection.connect(path)
    except OSError:
        connection.close()
        with suppress(OSError):
            os.unlink(path)
        return None
    sockets: list[socket.socket] = []
    try:
        here = _read(connection, sockets)
    except (OSError, BadMessage):
        for one in sockets:
            one.close()
        _kill(connection)
        connection.close()
        return None
    return Left(here.worker, here.pid, here.version, connection, sockets)


def _read(connection: socket.socket, sockets: list[socket.socket]) -> Here:
    """The first message of a worker, and its sockets; raises OSError and BadMessage."""
    frames = Frames(FromWorker, 65_536)
    for _ in range(MOST_READS):
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
    size = struct.calcsize("3i")
    pid, _, _ = struct.unpack(
        "3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
    )
    if pid > 0:
        with suppress(OSError):
            os.kill(pid, signal.SIGKILL)
            _wait(pid)


def _wait(pid: int) -> None:
    """Wait for the end of a process, and so for its ports."""
    with suppress(OSError), open(os.pidfd_open(pid), "rb", buffering=0) as process:
        select.select([process], [], [], ANSWER_SECONDS)
