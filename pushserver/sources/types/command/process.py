"""A program that runs in a session of its own, and its orderly end with all it has started."""

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
LAST_SECONDS = 1.0
"""How long after the last signal the end is waited for, and output after the end."""
HEARD_BYTES = 65_536
"""After so many bytes of standard error the program waits for POLL_SECONDS."""

# spawnProcess begins no session without a terminal, and changes the folder only by a fork of
# the whole server. A C locale and two signals are not as Python has them.
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
    """There is no such program or folder, or no process could be made; the text says which."""


def find_program(name: str, folder: str, environment: Mapping[str, str]) -> str:
    """The path of a program, as a shell in this folder finds it; raises CannotStart."""
    if not os.path.isdir(folder or "."):
        raise CannotStart(f"there is no folder {folder}")
    if os.sep in name:
        found = shutil.which(os.path.join(folder, name))
        where = f" in {folder}" if folder else ""
    else:
        found = shutil.which(name, path=environment.get("PATH", os.defpath))
        where = " in PATH"
    if found is None:
        raise CannotStart(f"there is no program {name}{where}")
    return os.path.abspath(found)


class Process(ProcessProtocol):
    """Runs once. What it writes is read as fast as it is taken by `read`.

    With `on_stderr` its standard error goes there, no more than 1.3 MB a second.

    It ends when the program does, or by `stop`; what the program leaves behind in its
    process group is ended too. A shutdown of the reactor ends it, and waits for that.
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
        self._stoppers: list[Deferred[None]] = []
        self._timer: Any = None
        self._heard = 0
        self._rest: Any = None
        self._trigger: Any = None
        self._signalled = False
        self._killed = False
        self._deadline = 0.0
        self._idle_since = 0.0
        self.stopped = False
        """Whether it was told to end."""
        self.over = False
        """Whether it has ended, with all of its group and its output."""
        self.result: BaseException | None = None
        """ProcessDone or ProcessTerminated, once the program has ended."""

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
        """What it has written next: on which descriptor, and what; None at its end."""
        while not self._chunks:
            if self.over:
                return None
            for descriptor, pipe in self._pipes().items():
                if descriptor == STDOUT or self._rest is None:
                    pipe.resumeProducing()
            self._idle_since = self._monotonic()
            self._reader = Deferred()
            try:
                await self._reader
            finally:
                self._reader = None
        return self._chunks.popleft()

    async def stop(self) -> None:
        """End it: SIGTERM to its group, SIGKILL after `stop_seconds`; returns when it is over.

        Nothing more is read. When that is not waited for, it ends all the same.
        """
        if self.over:
            return
        if not self.stopped:
            self.stopped = True
            self._chunks.clear()
            for descriptor, pipe in self._pipes().items():
                # So that it does not wait for somebody to read its last words.
                if descriptor == STDOUT or self._rest is None:
                    pipe.resumeProducing()
            self._end_group()
        over: Deferred[None] = Deferred()
        self._stoppers.append(over)
        await over

    def connectionMade(self) -> None:
        self._pid = self.transport.pid
        self.transport.closeStdin()

    def childDataReceived(self, childFD: int, data: bytes) -> None:
        if childFD == STDERR and self._on_stderr is not None:
            self._on_stderr(data)
            self._heard += len(data)
            if self._heard >= HEARD_BYTES and self._rest is None:
                self._heard = 0
                self.transport.pipes[STDERR].pauseProducing()
                self._rest = self._reactor.callLater(POLL_SECONDS, self._go_on_hearing)
        elif not self.stopped:
            self._chunks.append((childFD, data))
            self.transport.pipes[childFD].pauseProducing()
            self._wake()

    def _go_on_hearing(self) -> None:
        self._rest = None
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
        """Ask all that is left of the group to end, and look whether it does."""
        if self._signalled:
            return
        self._signalled = True
        self._signal(signal.SIGTERM)
        self._deadline = self._monotonic() + self._stop_seconds
        self._timer = self._reactor.callLater(POLL_SECONDS, self._look)

    def _look(self) -> None:
        """Until nothing of the group is left; with SIGKILL when the time is over."""
        self._timer = None
        now = self._monotonic()
        if self.result is not None and not self._group_lives():
            if not self.transport.pipes:
                return self._finish()
            # Somebody outside the group has its output.
            return self._wait(LAST_SECONDS, self._close)
        if now >= self._deadline:
            if self._killed:
                return self._close()
            self._killed = True
            self._deadline = now + LAST_SECONDS
            self._signal(signal.SIGKILL)
        return self._wait(POLL_SECONDS, self._look)

    def _close(self) -> None:
        """Wait no longer, unless what it has written is still being taken."""
        self._timer = None
        idle = self._monotonic() - self._idle_since >= LAST_SECONDS
        if not self.stopped and not (idle and self._reader is not None and not self._chunks):
            return self._wait(LAST_SECONDS, self._close)
        self.transport.loseConnection()
        if self.result is None:
            self._log.warn("process {pid} does not end", pid=self._pid)
        return self._finish()

    def _wait(self, seconds: float, call: Callable[[], None]) -> None:
        self._timer = self._reactor.callLater(seconds, call)

    def _finish(self) -> None:
        if self.over:
            return
        self.over = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._rest is not None:
            self._rest.cancel()
            self._rest = None
        if self._trigger is not None:
            self._reactor.removeSystemEventTrigger(self._trigger)
            self._trigger = None
        self._wake()
        stoppers, self._stoppers = self._stoppers, []
        for over in stoppers:
            # One that was cancelled has been called.
            if not over.called:
                over.callback(None)

    def _shut_down(self) -> Deferred[None]:
        self._trigger = None
        return Deferred.fromCoroutine(self.stop())

    def _wake(self) -> None:
        if self._reader is not None and not self._reader.called:
            self._reader.callback(None)

    def _pipes(self) -> dict[int, Any]:
        return {fd: pipe for fd, pipe in self.transport.pipes.items() if fd in (STDOUT, STDERR)}

    def _group_lives(self) -> bool:
        """Whether there is anybody in it; to be asked when the program itself has ended."""
        with contextlib.suppress(ChildProcessError):
            # Whoever is the first process of a container inherits the orphans.
            while os.waitpid(-self._pid, os.WNOHANG)[0]:
                pass
        return self._signal(0)

    def _signal(self, number: int) -> bool:
        """Send it to the group; whether there was anybody to get it."""
        try:
            self._kill(self._pid, number)
        except ProcessLookupError:
            return self.result is None and self._signal_alone(number)
        except PermissionError:
            # It has become somebody else's.
            return False
        return True

    def _signal_alone(self, number: int) -> bool:
        """The same before it has a group."""
        try:
            self.transport.signalProcess(number)
        except ProcessExitedAlready:
            return False
        return True
