"""The notification socket of systemd, which receives READY=1 and STOPPING=1."""

from __future__ import annotations

import os
import select
import socket
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.e2e.patience import PATIENCE


class NotNotified(AssertionError):
    """The process ended, or the time ran out, before the expected notification."""


class Supervisor:
    """Listens on a notification socket.

    `address` is the value of NOTIFY_SOCKET: a path, or @ and an abstract name.
    """

    def __init__(self, address: str = "") -> None:
        self.address = address or f"@pushserver-test-{uuid.uuid4()}"
        self.heard: list[str] = []
        """All notifications so far, one assignment each."""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._socket.bind("\0" + self.address[1:] if self.address.startswith("@") else self.address)

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def listen(self) -> list[str]:
        """Receive pending notifications without waiting; returns all notifications so far."""
        while select.select([self._socket], [], [], 0)[0]:
            self.heard += self._socket.recv(4096).decode().splitlines()
        return self.heard

    def wait_for(self, word: str, pid: int, seconds: float = PATIENCE) -> None:
        """Wait until the process sends `word`; raises NotNotified if it ends or is too slow."""
        deadline = time.monotonic() + seconds
        with _pidfd(pid) as ended:
            either: list[Any] = [self._socket, ended]
            while word not in self.listen():
                left = deadline - time.monotonic()
                ready = select.select(either, [], [], max(0.0, left))[0]
                if not ready:
                    raise NotNotified(f"no {word} within {seconds} s; heard {self.heard}")
                if ready == [ended]:
                    raise NotNotified(f"ended without {word}; heard {self.heard}")


def wait_for_end(pid: int, seconds: float = PATIENCE) -> None:
    """Wait for the end of a process, which need not be a child of the test."""
    with _pidfd(pid) as ended:
        assert select.select([ended], [], [], seconds)[0], f"still runs after {seconds} s"


@contextmanager
def _pidfd(pid: int) -> Iterator[int]:
    descriptor = os.pidfd_open(pid)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
