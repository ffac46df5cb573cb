"""The private folder of the Unix sockets between the processes of one server."""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
import socket
import stat
import tempfile
from collections.abc import Collection, Mapping
from contextlib import suppress
from typing import BinaryIO

from pushserver.errors import StartFailed
from pushserver.server.place import Place
from pushserver.server.unix_socket import MAX_PATH
from pushserver.server.workers.number import MOST
from pushserver.usercode.fork import close_in_forks

RUNTIME_DIRECTORY = "RUNTIME_DIRECTORY"
"""The variable by which systemd names the folder of a service in /run (systemd.exec(5))."""
LOCK = "lock"


class SocketFolder:
    """The folder of the sockets; only the server's user may enter it.

    It is in the first folder of $RUNTIME_DIRECTORY, where the next main process finds the workers
    of one that has died. Without that variable it is a new one, which `close` removes.
    """

    def __init__(self, environment: Mapping[str, str]):
        """Choose the path; raises StartFailed. Nothing is made."""
        self._lock: BinaryIO | None = None
        self._runtime = environment.get(RUNTIME_DIRECTORY, "").split(":")[0]
        if self._runtime:
            self.path = os.path.join(os.path.abspath(self._runtime), "workers")
        else:
            self.path = os.path.join(_base(environment), f"pushserver-{secrets.token_hex(4)}")
        longest = len(os.fsencode(Place(self.path).http(MOST)))
        if longest > MAX_PATH:
            most = MAX_PATH - longest + len(os.fsencode(self.path))
            raise self._failed(f"the path is too long, expected at most {most} bytes")

    def open(self) -> None:
        """Make the folder, or lock it until `close`; raises StartFailed.

        Call it in the process that serves, as its user: twistd forks and changes the user before
        `startService`.
        """
        try:
            if self._runtime:
                self._open_lasting()
            else:
                os.mkdir(self.path, 0o700)
        except OSError as error:
            raise self._failed(error.strerror or str(error)) from None

    def close(self) -> None:
        """Unlock the folder, or remove it if it was made for this run."""
        if not self._runtime:
            shutil.rmtree(self.path, ignore_errors=True)
        elif self._lock is not None:
            self._lock.close()
            self._lock = None

    def _open_lasting(self) -> None:
        self._check_owner(os.stat(self._runtime), {0, os.geteuid()})
        with suppress(FileExistsError):
            os.mkdir(self.path, 0o700)
        status = os.lstat(self.path)
        if stat.S_ISLNK(status.st_mode):
            raise self._failed("it is a symbolic link, expected a folder")
        if not stat.S_ISDIR(status.st_mode):
            raise self._failed("another file has this name, expected a folder")
        self._check_owner(status, {os.geteuid()})
        os.chmod(self.path, 0o700)
        self._take_lock()
        # A main process that was killed has left its socket.
        with suppress(FileNotFoundError):
            os.unlink(Place(self.path).link)

    def _check_owner(self, status: os.stat_result, owners: Collection[int]) -> None:
        """Raise StartFailed if another user owns a folder, who could put other sockets there."""
        if status.st_uid not in owners:
            raise self._failed(f"the folder belongs to the user {status.st_uid}, not to the server")

    def _take_lock(self) -> None:
        lock = open(os.path.join(self.path, LOCK), "ab")  # noqa: SIM115
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            problem = "another server uses the folder; each needs a RuntimeDirectory= of its own"
            raise self._failed(problem) from None
        # The copy of a fork would keep the lock after the end of this process.
        close_in_forks(lock)
        self._lock = lock

    def _failed(self, problem: str) -> StartFailed:
        named = f" (${RUNTIME_DIRECTORY})" if self._runtime else ""
        return StartFailed(f"the sockets of the workers in {self.path}{named}: {problem}")


def remove_unless_lasting(path: str) -> None:
    """Remove the folder of a main process that was killed, unless another one can find it.

    One that was stopped, as by a debugger, may continue.
    """
    if os.path.exists(os.path.join(path, LOCK)):
        return
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        try:
            probe.connect(Place(path).link)
        except (ConnectionRefusedError, FileNotFoundError):
            shutil.rmtree(path, ignore_errors=True)
        except OSError:
            return


def _base(environment: Mapping[str, str]) -> str:
    """The folder for a new one: that of the user's session, else that of temporary files.

    Root has none: the session may be that of the user before `su`.
    """
    folder = environment.get("XDG_RUNTIME_DIR", "")
    with suppress(OSError, ValueError):
        if os.path.isabs(folder) and os.stat(folder).st_uid == os.geteuid() != 0:
            return folder
    try:
        return tempfile.gettempdir()
    except OSError as error:
        raise StartFailed(f"the sockets of the workers: {error.strerror or error}") from None
