"""The place of one worker: its process, which is replaced when it ends or does not answer."""

from __future__ import annotations

import signal
import socket
import subprocess
from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IDelayedCall
from twisted.internet.protocol import Factory
from twisted.logger import Logger

from pushserver.cluster.link import Link
from pushserver.cluster.messages import Message, frame
from pushserver.diagnosis.facts import State, WorkerState
from pushserver.server.workers.control import Drain, FromWorker, Ping, Pong, Ready, Stop
from pushserver.server.workers.left import Left, dismiss
from pushserver.server.workers.process import WorkerProcess

MOST_MISSED = 5
"""A worker that leaves this number of pings unanswered, one a second, is killed."""
START_SECONDS = 30
"""A worker that is not ready after this time is killed."""
LASTING_SECONDS = 10.0
"""A worker that ends earlier after its start is replaced after a pause, which grows."""
FIRST_PAUSE, LONGEST_PAUSE = 0.2, 10.0
LONGEST_WAIT = 1.0
"""The longest pause after a worker that was ready, at whose socket connections wait."""

Launch = Callable[[int, int, Callable[[str], None]], WorkerProcess]
"""Starts the worker of a number, with the descriptor of its control connection; raises OSError."""


class Slot:
    """Keeps one worker running, from `start` or `adopt` to `stop`.

    `changed` is called when it has become ready, or has ended for good; `suspend` with its number
    when it could not start and is tried again after a pause, and `resume` when it accepts
    connections.
    """

    _log = Logger()

    def __init__(
        self,
        number: int,
        launch: Launch,
        reactor: Any,
        monotonic: Callable[[], float],
        changed: Callable[[], None],
        suspend: Callable[[int], None],
        resume: Callable[[int], None],
    ):
        self.number = number
        self.state: State = "waiting"
        self.restarts = 0
        self.process: WorkerProcess | None = None
        self.since = monotonic()
        """The time of the start of its process, by the steady clock."""
        self._launch = launch
        self._reactor = reactor
        self._monotonic = monotonic
        self._changed = changed
        self._suspend = suspend
        self._resume = resume
        self._link: Link | None = None
        self._missed = 0
        self._failures = 0
        self._again: IDelayedCall | None = None

    def start(self) -> None:
        """Start a process."""
        self._again = None
        self.since = self._monotonic()
        try:
            ours, theirs = socket.socketpair()
        except OSError as error:
            # There may be no file left.
            self._failed_to_start(error)
            return
        with theirs:
            try:
                process = self._launch(self.number, theirs.fileno(), self._ended)
            except (OSError, subprocess.SubprocessError) as error:
                ours.close()
                self._failed_to_start(error)
                return
        self.state = "starting"
        self._use(process, ours)

    def adopt(self, left: Left) -> None:
        """Keep the worker of an earlier main process; it accepts connections."""
        try:
            process = WorkerProcess(left.pid, self._reactor, self._ended)
        except OSError as error:
            # It has ended meanwhile, or there is no file left for its descriptor.
            dismiss(left, str(error))
            self.start()
            return
        self.since = self._monotonic()
        # Ready when it follows the log of this process.
        self.state = "starting"
        self._use(process, left.connection)

    def facts(self) -> WorkerState:
        """Its present state."""
        pid = 0 if self.process is None else self.process.pid
        return WorkerState(self.number, pid, self.state, self.restarts)

    def send(self, message: Message) -> None:
        """Send a message if there is a worker."""
        if self._link is not None:
            self._link.send(frame(message))

    def tick(self) -> None:
        """Ask the worker for a sign of life; called once a second."""
        process = self.process
        if process is None or self.state == "stopping":
            return
        if self.state == "starting":
            if self._monotonic() - self.since > START_SECONDS:
                self._kill(process, f"is not ready after {START_SECONDS} seconds")
            return
        if self._missed >= MOST_MISSED:
            self._kill(process, f"has not answered for {MOST_MISSED} seconds")
        elif self._missed > 1:
            self.state = "silent"
        self._missed += 1
        self.send(Ping())

    def drain(self) -> None:
        """Let the worker accept no more connections, and start no other one."""
        self.state = "stopping"
        if self._again is not None:
            self._again.cancel()
            self._again = None
        self.send(Drain())

    def stop(self, seconds: float) -> None:
        """End the worker within these seconds; kills one without a control connection."""
        self.drain()
        if self.process is not None and self._link is None:
            self.process.send(signal.SIGKILL)
        self.send(Stop(seconds))

    def kill(self) -> None:
        """End the worker at once."""
        if self.process is not None:
            self.process.send(signal.SIGKILL)

    def _kill(self, process: WorkerProcess, problem: str) -> None:
        self._log.error(
            "worker {worker} (process {pid}) {problem}, and is killed",
            worker=self.number,
            pid=process.pid,
            problem=problem,
            event_name="worker_killed",
        )
        process.send(signal.SIGKILL)

    def _use(self, process: WorkerProcess, connection: socket.socket) -> None:
        self.process = process
        self._missed = 0
        factory: Any = Factory()
        factory.noisy = False
        factory.buildProtocol = lambda address: Link(
            FromWorker, self._made, self._received, self._lost
        )
        try:
            with connection:
                connection.setblocking(False)
                self._reactor.adoptStreamConnection(connection.fileno(), socket.AF_UNIX, factory)
        except OSError as error:
            self._kill(process, f"has no control connection ({error})")

    def _made(self, link: Link) -> None:
        self._link = link
        link.close_in_forks()

    def _received(self, message: Message) -> None:
        if isinstance(message, Pong):
            self._missed = 0
            if self.state == "silent":
                self.state = "ready"
        elif isinstance(message, Ready) and self.state == "starting":
            self.state = "ready"
            self._resume(self.number)
            self._changed()

    def _lost(self) -> None:
        # Its process ends too, or is killed, as it answers no ping.
        self._link = None

    def _ended(self, status: str) -> None:
        process, self.process = self.process, None
        if self._link is not None:
            self._link.abort()
        if self.state == "stopping":
            self._changed()
            return
        assert process is not None, "a process ends once"
        was_ready = self.state != "starting"
        lasted = was_ready and self._monotonic() - self.since >= LASTING_SECONDS
        self._failures = 0 if lasted else self._failures + 1
        self._log.error(
            "worker {worker} (process {pid}) has ended: {status}; another one starts",
            worker=self.number,
            pid=process.pid,
            status=status,
            event_name="worker_ended",
        )
        self._start_later(was_ready)

    def _failed_to_start(self, error: Exception) -> None:
        self._failures += 1
        self._log.error(
            "worker {worker} could not be started: {problem}",
            worker=self.number,
            problem=str(error),
            event_name="worker_not_started",
        )
        self._start_later(was_ready=False)

    def _start_later(self, was_ready: bool) -> None:
        """Start the next process; connections wait meanwhile if this one could take some."""
        self.state = "waiting"
        self.restarts += 1
        pause = 0.0
        if self._failures > 1:
            longest = LONGEST_WAIT if was_ready else LONGEST_PAUSE
            pause = min(longest, FIRST_PAUSE * 2.0 ** min(self._failures - 2, 16))
            if not was_ready:
                self._suspend(self.number)
        self._again = self._reactor.callLater(pause, self.start)
