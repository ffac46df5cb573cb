"""A server of several processes on one memory reactor: the main process and its workers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet.address import UNIXAddress
from twisted.internet.error import ConnectionRefusedError
from twisted.python.failure import Failure

from pushserver.config.settings import Config
from pushserver.server.embedding import PushServer
from pushserver.server.links import AuthorPort, UplinkService
from pushserver.server.meter import Reports
from pushserver.server.place import MAIN, Place
from tests.unit.fakes.cluster import Wire
from tests.unit.fakes.web import InnerLine, Response, Server, Socket, handshake, upgraded


class Processes:
    """The main process has the log and the application; clients connect to any of them."""

    def __init__(
        self,
        folder: Path,
        app: PushServer | None = None,
        workers: int = 1,
        config: Config | None = None,
        make_main: Callable[..., Server] = Server,
        **more: Any,
    ):
        """`more` is for the main process, which `make_main` makes."""
        self._folder = str(folder)
        if app is not None:
            more["app"] = app
        self.main = make_main(config=config, place=Place(self._folder), **more)
        self.clock = self.main.clock
        run_by = self.main.service._app
        if run_by is not None:
            run_by.startService()
        (port,) = [s for s in self.main.service if isinstance(s, AuthorPort)]
        port.startService()
        self.workers: list[Server] = []
        self.wires: list[Wire] = []
        self.away: set[int] = set()
        """The processes that accept no connection of another."""
        self._http: list[tuple[InnerLine, InnerLine]] = []
        self._half_closed: set[InnerLine] = set()
        self._dialled = 0
        for number in range(1, workers + 1):
            place = Place(self._folder, number)
            worker = Server(clock=self.clock, config=config, place=place)
            Path(place.http(number)).touch()
            (uplink,) = [s for s in worker.service if isinstance(s, UplinkService)]
            uplink.startService()
            (reports,) = [s for s in worker.service if isinstance(s, Reports)]
            reports.startService()
            wire = Wire(self.clock)
            self._dialled = len(self.clock.unixClients)
            wire.connect(place.link)
            self.workers.append(worker)
            self.wires.append(wire)

    def settle(self) -> None:
        """Let all that is under way arrive."""
        for _ in range(6):
            self.clock.advance(0)
            for wire in self.wires:
                wire.pump()
            self._pump()

    def ask(
        self, server: Server, path: str, method: str = "GET", body: bytes = b"", /, **headers: str
    ) -> Response:
        """The answer of one of the processes to a request on a new connection."""
        line = server.open(path, method, body, **headers)
        self.settle()
        answer = line.response(method)
        line.vanish()
        self.settle()
        return answer

    def websocket(self, server: Server, path: str) -> Socket:
        """An open WebSocket at one of the processes, with a channel that may have to be loaded."""
        line = server.open(path, **handshake())
        self.settle()
        return upgraded(line)

    @property
    def relayed(self) -> list[tuple[InnerLine, InnerLine]]:
        """The open connections of relayed requests, with both ends."""
        return self._http

    def _pump(self) -> None:
        """Carry the bytes of relayed requests, until there are none."""
        moved = True
        while moved:
            moved = self._dial()
            for here, there in self._http:
                while here.producer is not None and not here.streaming:
                    here.producer.resumeProducing()
                for source, target in ((here, there), (there, here)):
                    if data := source.take():
                        target.send(data)
                        moved = True
                    elif source.half_closed and source not in self._half_closed:
                        self._half_closed.add(source)
                        target.half_close()
                        moved = True
                if here.lost or there.lost:
                    here.vanish()
                    there.vanish()
            self._http = [ends for ends in self._http if not ends[0].lost]

    def _dial(self) -> bool:
        """Accept the connections to the ports of processes; return whether there were any."""
        dialled, self._dialled = self._dialled, len(self.clock.unixClients)
        numbers = {Place(self._folder).http(n): n for n in range(len(self.workers) + 1)}
        for path, factory, *_ in self.clock.unixClients[dialled:]:
            if numbers.get(path, -1) in self.away or path not in numbers:
                factory.clientConnectionFailed(None, Failure(ConnectionRefusedError()))
                continue
            server = self.main if numbers[path] == MAIN else self.workers[numbers[path] - 1]
            inner: Any = server.service.inner
            here, there = (InnerLine(self.clock) for _ in range(2))
            here.protocol = factory.buildProtocol(None)
            there.protocol = inner._factory.buildProtocol(UNIXAddress(""))
            for line in (there, here):
                line.protocol.makeConnection(line)
            self._http.append((here, there))
        return dialled != self._dialled
