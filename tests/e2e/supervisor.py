"""The part of systemd that a service talks to: a socket that hears READY=1 and STOPPING=1."""

from __future__ import annotations

import os
import select
import socket
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class NotNotified(AssertionError):
    """The process ended, or the time was over, before it said what was waited for."""


class Supervisor:
    """Listens on a notification socket.

    `address` is what NOTIFY_SOCKET says: a path, or an abstract name after an @.
    """

    def __init__(self, address: str = "") -> None:
        self.address = address or f"@pushserver-test-{uuid.uuid4()}"
        self.heard: list[str] = []
        """Everything that was said so far, one assignment each."""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._socket.bind("\0" + self.address[1:] if self.address.startswith("@") else self.address)

    def close(self) -> None:
        """Hear no more."""
        self._socket.close()

    def listen(self) -> list[str]:
        """Take in what has been said by now, without waiting; return all that was heard."""
        while select.select([self._socket], [], [], 0)[0]:
            self.heard += self._socket.recv(4096).decode().splitlines()
        return self.heard

    def wait_for(self, word: str, pid: int, seconds: float = 20.0) -> None:
        """Return when the process has said `word`; raise NotNotified when it will not."""
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


def wait_for_end(pid: int, seconds: float = 20.0) -> None:
    """Return when the process, which need not be a child of ours, has ended."""
    with _pidfd(pid) as ended:
        assert select.select([ended], [], [], seconds)[0], f"runs still after {seconds} s"


@contextmanager
def _pidfd(pid: int) -> Iterator[int]:
    descriptor = os.pidfd_open(pid)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
