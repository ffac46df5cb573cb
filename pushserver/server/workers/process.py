"""The process of a worker: its start, its end, and signals to it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from twisted.internet.interfaces import IReadDescriptor
from twisted.python.failure import Failure
from zope.interface import implementer

MODULE = "pushserver.server.workers"
IGNORED = (signal.SIGHUP, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)
"""Signals that the main process answers, for all. They are blocked until a worker ignores them."""
_OF_SYSTEMD = ("NOTIFY_", "WATCHDOG_", "LISTEN_")
"""Variables of systemd, which only the main process obeys."""


@implementer(IReadDescriptor)
class WorkerProcess:
    """A running process, which need not be a child of this one.

    `ended` is called once, with a text such as `status 1`. It does not rely on SIGCHLD, which a
    program may have taken, or which has no handler in a reactor in a thread.
    """

    def __init__(
        self,
        pid: int,
        reactor: Any,
        ended: Callable[[str], None],
        child: subprocess.Popen[bytes] | None = None,
    ):
        self.pid = pid
        self._reactor = reactor
        self._ended = ended
        self._child = child
        self._descriptor = os.pidfd_open(pid)
        reactor.addReader(self)

    def send(self, number: int) -> None:
        """Send a signal; no-op for a process that has ended."""
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._descriptor, number)

    def fileno(self) -> int:
        return self._descriptor

    def doRead(self) -> None:
        """The process has ended."""
        self._reactor.removeReader(self)
        os.close(self._descriptor)
        self._descriptor = -1
        self._ended(_status(self._child))

    def connectionLost(self, reason: Failure) -> None:
        """No-op: the reactor ends."""

    def logPrefix(self) -> str:
        return "worker"


def spawn(
    start: bytes,
    worker: int,
    descriptors: Sequence[int],
    reactor: Any,
    ended: Callable[[str], None],
    environment: Mapping[str, str],
) -> WorkerProcess:
    """Start a worker, which has these descriptors under the same numbers; raises OSError."""
    with os.fdopen(os.memfd_create("start"), "wb+", buffering=0) as told:
        told.write(start)
        told.seek(0)
        before = signal.pthread_sigmask(signal.SIG_BLOCK, IGNORED)
        try:
            child = subprocess.Popen(
                [sys.executable, "-P", "-m", MODULE, str(worker)],
                stdin=told,
                stdout=subprocess.DEVNULL,
                pass_fds=descriptors,
                env=_environment(environment),
                # The signals of a terminal are for the main process.
                start_new_session=True,
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
    try:
        return WorkerProcess(child.pid, reactor, ended, child)
    except OSError:
        # There may be no file left for its descriptor.
        child.kill()
        child.wait()
        raise


def _environment(environment: Mapping[str, str]) -> dict[str, str]:
    """That of a worker, whose modules are those of this process."""
    kept = {name: text for name, text in environment.items() if not name.startswith(_OF_SYSTEMD)}
    return kept | {"PYTHONPATH": os.pathsep.join(folder or os.getcwd() for folder in sys.path)}


def _status(child: subprocess.Popen[bytes] | None) -> str:
    if child is None:
        return "ended"
    code = child.wait()
    if code >= 0:
        return f"status {code}"
    with suppress(ValueError):
        return signal.Signals(-code).name
    return f"signal {-code}"
