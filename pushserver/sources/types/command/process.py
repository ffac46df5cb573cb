"""Runs a program in its own session, and ends it with all processes of its group."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessExitedAlready
from twisted.internet.protocol import ProcessProtocol
from twisted.logger import Logger
from twisted.python.failure import Failure

from pushserver.usercode.reactor import Reactor

STDOUT, STDERR = 1, 2
POLL_SECONDS = 0.05
GRACE_SECONDS = 1.0
"""The wait for the end after SIGKILL, and for output after the end."""
STDERR_BYTES = 65_536
"""Standard error is paused for POLL_SECONDS after this many bytes."""

# spawnProcess starts a session only with a terminal, and changes the folder only by a fork of
# the whole server. The program gets the default of two signals that Python ignores, and the
# LC_CTYPE of the server, which Python overrides in a C locale.
_LAUNCH = """
import os, signal, sys
locale, folder, program, *command = sys.argv[1:]
os.setsid()
signal.signal(signal.SIGPIPE, signal.SIG_DFL)
signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
os.environ.pop("LC_CTYPE", None)
if locale:
    os.environ["LC_CTYPE"] = locale
try:
    os.chdir(folder)
    os.execv(program, command)
except OSError as error:
    os.write(2, b"cannot start %s: %s\\n" % (os.fsencode(program), error.strerror.encode()))
    os._exit(127)
"""


class CannotStart(Exception):
    """The program or the folder does not exist, or no process can be started."""


def find_program(name: str, folder: str, environment: Mapping[str, str]) -> str:
    """Return the path of a program as a shell in `folder` finds it; raises CannotStart."""
    if not os.path.isdir(folder or "."):
        raise CannotStart(f"there is no folder {folder}")
    if os.sep in name:
        path = shutil.which(os.path.join(folder, name))
        where = f" in {folder}" if folder else ""
    else:
        path = shutil.which(name, path=environment.get("PATH", os.defpath))
        where = " in PATH"
    if path is None:
        raise CannotStart(f"there is no program {name}{where}")
    return os.path.abspath(path)


class Process(ProcessProtocol):
    """Runs one program once. Its output is read no faster than `read` is called.

    With `on_stderr`, standard error goes there instead, at most 1.3 MB a second.

    At the end of the program, or by `stop`, all other processes of its group are ended too. A
    shutdown of the reactor stops the program, and waits for its end.
    """

    transport: Any
    _log = Logger()

    def __init__(
        self,
        reactor: Reactor,
        monotonic: Callable[[], float],
        stop_seconds: float,
        on_stderr: Callable[[bytes], None] | None = None,
        kill: Callable[[int, int], None] = os.killpg,
    ):
        self._reactor = reactor
        self._monotonic = monotonic
        self._stop_seconds = stop_seconds
        self._on_stderr = on_stderr
        self._kill = kill
        self._pid = 0
        self._chunks: deque[tuple[int, bytes]] = deque()
        self._reader: Deferred[None] | None = None
        self._stop_waiters: list[Deferred[None]] = []
        self._timer: Any = None
        self._stderr_bytes = 0
        self._stderr_pause: Any = None
        self._trigger: Any = None
        self._signalled = False
        self._killed = False
        self._deadline = 0.0
        self._idle_since = 0.0
        self.stopped = False
        """Whether `stop` was called."""
        self.ended = False
        """Whether the program, its group and its output have ended."""
        self.result: BaseException | None = None
        """ProcessDone or ProcessTerminated after the end of the program."""

    def start(self, command: Sequence[str], folder: str, environment: Mapping[str, str]) -> None:
        """Start the program; raises CannotStart."""
        program = find_program(command[0], folder, environment)
        locale = environment.get("LC_CTYPE", "")
        arguments = [sys.executable, "-I", "-S", "-c", _LAUNCH, locale, folder or ".", program]
        try:
            self._reactor.spawnProcess(
                self,
                sys.executable,
                [os.fsencode(text) for text in (*arguments, *command)],
                {os.fsencode(name): os.fsencode(text) for name, text in environment.items()},
            )
        except OSError as error:
            raise CannotStart(f"cannot start {program}: {error.strerror}") from None
        self._trigger = self._reactor.addSystemEventTrigger("before", "shutdown", self._shut_down)

    async def read(self) -> tuple[int, bytes] | None:
        """Return the descriptor and the bytes of its next output, or None at its end."""
        while not self._chunks:
            if self.ended:
                return None
            for descriptor, pipe in self._pipes().items():
                if descriptor == STDOUT or self._stderr_pause is None:
                    pipe.resumeProducing()
            self._idle_since = self._monotonic()
            self._reader = Deferred()
            try:
                await self._reader
            finally:
                self._reader = None
        return self._chunks.popleft()

    def take_unread(self) -> list[tuple[int, bytes]]:
        """Return the output that was received and not read, and forget it."""
        chunks = list(self._chunks)
        self._chunks.clear()
        return chunks

    async def stop(self) -> None:
        """Send SIGTERM to the group, and SIGKILL after `stop_seconds`; return when it has ended.

        Output is discarded. The group is ended even if this coroutine is cancelled.
        """
        if self.ended:
            return
        if not self.stopped:
            self.stopped = True
            self._chunks.clear()
            for descriptor, pipe in self._pipes().items():
                # Drain the pipes, so that the program is not blocked in a write.
                if descriptor == STDOUT or self._stderr_pause is None:
                    pipe.resumeProducing()
            self._end_group()
        ended: Deferred[None] = Deferred()
        self._stop_waiters.append(ended)
        await ended

    def connectionMade(self) -> None:
        self._pid = self.transport.pid
        self.transport.closeStdin()

    def childDataReceived(self, childFD: int, data: bytes) -> None:
        if childFD == STDERR and self._on_stderr is not None:
            self._on_stderr(data)
            self._stderr_bytes += len(data)
            if self._stderr_bytes >= STDERR_BYTES and self._stderr_pause is None:
                self._stderr_bytes = 0
                self.transport.pipes[STDERR].pauseProducing()
                self._stderr_pause = self._reactor.callLater(POLL_SECONDS, self._resume_stderr)
        elif not self.stopped:
            self._chunks.append((childFD, data))
            self.transport.pipes[childFD].pauseProducing()
            self._wake()

    def _resume_stderr(self) -> None:
        self._stderr_pause = None
        if STDERR in self.transport.pipes:
            self.transport.pipes[STDERR].resumeProducing()

    def processExited(self, reason: Failure) -> None:
        self.result = reason.value
        self._end_group()

    def processEnded(self, reason: Failure) -> None:
        self.result = reason.value
        if not self._group_lives():
            self._finish()

    def _end_group(self) -> None:
        """Send SIGTERM to the group once, and start to check for its end."""
        if self._signalled:
            return
        self._signalled = True
        self._signal(signal.SIGTERM)
        self._deadline = self._monotonic() + self._stop_seconds
        self._timer = self._reactor.callLater(POLL_SECONDS, self._check_end)

    def _check_end(self) -> None:
        """Finish if the group has ended; send SIGKILL after the deadline; else check again."""
        self._timer = None
        now = self._monotonic()
        if self.result is not None and not self._group_lives():
            if not self.transport.pipes:
                return self._finish()
            # A process outside the group holds the pipes.
            return self._wait(GRACE_SECONDS, self._close)
        if now >= self._deadline:
            if self._killed:
                return self._close()
            self._killed = True
            self._deadline = now + GRACE_SECONDS
            self._signal(signal.SIGKILL)
        return self._wait(POLL_SECONDS, self._check_end)

    def _close(self) -> None:
        """Close the pipes, unless output is still being read."""
        self._timer = None
        idle = self._monotonic() - self._idle_since >= GRACE_SECONDS
        if not self.stopped and not (idle and self._reader is not None and not self._chunks):
            return self._wait(GRACE_SECONDS, self._close)
        self.transport.loseConnection()
        if self.result is None:
            self._log.warn(
                "process {pid} does not end", pid=self._pid, event_name="process_not_ended"
            )
        return self._finish()

    def _wait(self, seconds: float, call: Callable[[], None]) -> None:
        self._timer = self._reactor.callLater(seconds, call)

    def _finish(self) -> None:
        if self.ended:
            return
        self.ended = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._stderr_pause is not None:
            self._stderr_pause.cancel()
            self._stderr_pause = None
        if self._trigger is not None:
            self._reactor.removeSystemEventTrigger(self._trigger)
            self._trigger = None
        self._wake()
        waiters, self._stop_waiters = self._stop_waiters, []
        for ended in waiters:
            # A cancelled Deferred has been called already.
            if not ended.called:
                ended.callback(None)

    def _shut_down(self) -> Deferred[None]:
        self._trigger = None
        return Deferred.fromCoroutine(self.stop())

    def _wake(self) -> None:
        if self._reader is not None and not self._reader.called:
            self._reader.callback(None)

    def _pipes(self) -> dict[int, Any]:
        return {fd: pipe for fd, pipe in self.transport.pipes.items() if fd in (STDOUT, STDERR)}

    def _group_lives(self) -> bool:
        """Whether the group has processes; call it after the end of the program."""
        with contextlib.suppress(ChildProcessError):
            # The first process of a container inherits orphans, and must reap them.
            while os.waitpid(-self._pid, os.WNOHANG)[0]:
                pass
        return self._signal(0)

    def _signal(self, number: int) -> bool:
        """Send a signal to the group; return whether it has a process."""
        try:
            self._kill(self._pid, number)
        except ProcessLookupError:
            return self.result is None and self._signal_alone(number)
        except PermissionError:
            # The processes run as another user.
            return False
        return True

    def _signal_alone(self, number: int) -> bool:
        """Send a signal to the program before it has its own group."""
        try:
            self.transport.signalProcess(number)
        except ProcessExitedAlready:
            return False
        return True
