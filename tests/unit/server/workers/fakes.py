"""Worker processes that do not run, and the connections to them."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

from twisted.internet.testing import MemoryReactorClock, StringTransport

from pushserver.cluster.messages import Frames, Message, frame
from pushserver.server.workers.control import FromMain


class FakeProcess:
    """A process that takes signals; the test ends it."""

    def __init__(self, pid: int, ended: Callable[[str], None]):
        self.pid = pid
        self.signals: list[int] = []
        self.end = ended

    def send(self, number: int) -> None:
        self.signals.append(number)


class Reactor(MemoryReactorClock):
    """Connects adopted sockets to string transports."""

    def __init__(self) -> None:
        super().__init__()
        self.controls: list[Control] = []

    def adoptStreamConnection(self, descriptor: int, family: int, factory: Any) -> None:
        assert family == socket.AF_UNIX
        self.controls.append(Control(factory.buildProtocol(None)))


class Control:
    """The test's end of a connection between the main process and a worker.

    `types` are those of the messages that it hears.
    """

    def __init__(self, protocol: Any, types: Any = FromMain):
        self.protocol = protocol
        self.aborted = False
        transport: Any = StringTransport()
        self.transport = transport
        transport.abortConnection = self._abort
        transport.sendFileDescriptor = lambda descriptor: None
        self._frames = Frames(types, 2**20)
        protocol.makeConnection(self.transport)

    def _abort(self) -> None:
        self.aborted = True

    def say(self, message: Message) -> None:
        self.protocol.dataReceived(frame(message))

    def heard(self) -> list[Message]:
        data = self.transport.value()
        self.transport.clear()
        return list(self._frames.feed(data)) if data else []


class Launcher:
    """Starts fake processes; `problem` is the error of the next starts."""

    def __init__(self) -> None:
        self.processes: list[FakeProcess] = []
        self.problem: Exception | None = None

    def __call__(self, worker: int, control: int, ended: Callable[[str], None]) -> Any:
        if self.problem is not None:
            raise self.problem
        process = FakeProcess(1_000 + len(self.processes), ended)
        self.processes.append(process)
        return process
