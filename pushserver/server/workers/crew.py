"""Adds workers to a server: what the main process needs before, and for each of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import msgspec

from pushserver import __version__
from pushserver.config.limits import of_worker
from pushserver.config.settings import Config, Store
from pushserver.server.place import MAIN, Place
from pushserver.server.service import PushService
from pushserver.server.workers.control import Start, encode_config
from pushserver.server.workers.folder import SocketFolder
from pushserver.server.workers.holding import Holding
from pushserver.server.workers.left import Left, dismiss, find_left
from pushserver.server.workers.process import WorkerProcess, spawn
from pushserver.server.workers.supervisor import Supervisor


class Crew:
    """The workers of one server, before and after that is put together.

    `folder` is for the Unix sockets; workers that wait there are kept.
    """

    def __init__(self, folder: SocketFolder, count: int, reactor: Any):
        self._folder = folder
        self.place = Place(folder.path, MAIN)
        self._count = count
        self._reactor = reactor
        left = find_left(folder.path)
        problems = {number: problem_of(one, count) for number, one in left.items()}
        self._left = {number: one for number, one in left.items() if not problems[number]}
        self.holding = Holding(reactor, count, {n: one.sockets for n, one in left.items()})
        for number in left.keys() - self._left.keys():
            dismiss(left[number], problems[number])

    def attach(
        self, service: PushService, environment: Mapping[str, str], debug: bool, shortcuts: bool
    ) -> None:
        """Start the workers with the service, and stop them with it."""

        def config() -> Config:
            return worker_config(service.live.config, self._count)

        def launch(worker: int, control: int, ended: Callable[[str], None]) -> WorkerProcess:
            sockets = service.ports.passed_to(worker)
            start = Start(
                __version__,
                config(),
                self.place.folder,
                worker,
                self._count,
                control,
                sockets,
                debug,
                shortcuts,
                service.live.templates_beside,
            )
            descriptors = [control, *(one for _, several in sockets for one in several)]
            return spawn(
                msgspec.json.encode(start), worker, descriptors, self._reactor, ended, environment
            )

        supervisor = Supervisor(
            self._count,
            launch,
            lambda: encode_config(config()),
            self._reactor,
            service.node.monotonic,
            self._left,
            self.holding.fits,
            self.holding.close_left,
            service.ports.suspend,
            service.ports.resume,
        )
        service.folder = self._folder
        supervisor.setServiceParent(service)
        service.workers = supervisor
        service.live.installed = supervisor.configure


def worker_config(config: Config, count: int) -> Config:
    """The settings of one of `count` workers."""
    server = replace(config.server, pages="", wsgi="", metrics_listen="")
    limits = of_worker(config.limits, count)
    return replace(config, server=server, sources={}, store=Store(), limits=limits)


def problem_of(left: Left, count: int) -> str:
    """The reason why a worker of an earlier main process is not kept; empty if it is."""
    if left.version != __version__:
        return f"its version is {left.version}, and that of the main process {__version__}"
    return f"there are {count} workers now" if left.worker > count else ""
