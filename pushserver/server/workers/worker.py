"""A worker: the process of a server that holds connections, and follows the main process's log.

The main process runs it as a module, with what it needs on standard input (`control.Start`).
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

from twisted.internet.error import ReactorNotRunning
from twisted.internet.interfaces import IDelayedCall, IListeningPort
from twisted.internet.protocol import Factory
from twisted.logger import Logger

from pushserver import __version__
from pushserver.cluster.link import Link
from pushserver.cluster.messages import Message, frame
from pushserver.errors import PushServerError, StartFailed
from pushserver.server.build import build
from pushserver.server.logging import escape_output
from pushserver.server.place import Place
from pushserver.server.unix_socket import UnixEndpoint, endpoint_of
from pushserver.server.workers import control
from pushserver.server.workers.control import (
    Configure,
    Drain,
    FromMain,
    Here,
    Ping,
    Pong,
    Ready,
    Start,
    Stop,
    decode_config,
    decode_start,
)
from pushserver.server.workers.folder import remove_unless_lasting
from pushserver.server.workers.process import IGNORED
from pushserver.server.workers.worker_log import start_log
from pushserver.usercode.steady import steady

FAILED = 1


class Worker:
    """One worker; `end` stops the reactor."""

    _log = Logger()

    def __init__(self, start: Start, reactor: Any, end: Callable[[], None]):
        """Make its server; raises StartFailed. Nothing listens before there is a log."""
        self._start = start
        self._reactor = reactor
        self._monotonic = steady(reactor)
        self._end = end
        self._config = start.config
        self._place = Place(start.folder, start.worker)
        self._link: Link | None = None
        self._waiting: IListeningPort | None = None
        self._alone: IDelayedCall | None = None
        # The time by the reactor's clock; another main process that fails at its start changes
        # nothing.
        self._alone_until: float | None = None
        self._silent: IDelayedCall | None = None
        self._listens = False
        self._is_ending = False
        self.failed = False
        self.service = build(
            start.config,
            reactor,
            start.debug,
            types={},
            shortcuts=start.shortcuts,
            place=self._place,
            templates_beside=start.templates,
        )
        self.service.announce = lambda urls: None
        self.service.live.load = lambda: self._config
        assert self.service.uplink is not None, "a worker has a link"
        self._uplink = self.service.uplink
        self._uplink.attached = self._attached

    def begin(self) -> None:
        """Connect to the main process, and start."""
        with socket.socket(fileno=self._start.control) as control:
            control.setblocking(False)
            self._reactor.adoptStreamConnection(
                control.fileno(), socket.AF_UNIX, self._factory(self._made)
            )
        self.service.privilegedStartService()
        self.service.startService()

    def stop(self) -> None:
        """End in order."""
        self._is_ending = True
        self._end()

    # --- the log ---------------------------------------

    def _attached(self) -> None:
        """The log can be followed: accept connections, and tell each main process."""
        if not self._listens and not self._listen():
            return
        self._send(Ready())

    def _listen(self) -> bool:
        self._listens = True
        try:
            for text, descriptors in self._start.sockets:
                self.service.ports.adopt(text, descriptors)
        except StartFailed as error:
            self._log.critical("{problem}", problem=str(error), event_name="worker_failed")
            self.failed = True
            self.stop()
        return not self.failed

    # --- the main process ---------------------------------------

    def _factory(self, made: Callable[[Link], None]) -> Any:
        factory: Any = Factory()
        factory.noisy = False
        factory.buildProtocol = lambda address: Link(FromMain, made, self._received, self._lost)
        return factory

    def _made(self, link: Link) -> None:
        self._link = link
        self._silent = self._reactor.callLater(control.SILENT_SECONDS, link.abort)

    def _send(self, message: Message) -> None:
        if self._link is not None:
            self._link.send(frame(message))

    def _received(self, message: Message) -> None:
        if isinstance(message, Ping):
            self._alone_until = None
            if self._silent is not None:
                self._silent.reset(control.SILENT_SECONDS)
            self._send(Pong())
        elif isinstance(message, Configure):
            # The main process is there, perhaps another one than before.
            self._uplink.link_now()
            # Also if nothing in it has changed: certificates may have.
            self._config = decode_config(message.config)
            self.service.live.reload().addErrback(lambda failure: failure.trap(PushServerError))
        elif isinstance(message, Drain):
            self.service.ports.stopService()
        elif isinstance(message, Stop):
            node = self.service.node
            node.limits = replace(node.limits, drain_seconds=message.seconds)
            self.stop()

    def _lost(self) -> None:
        self._link = None
        if self._silent is not None and self._silent.active():
            self._silent.cancel()
        self._silent = None
        if self._is_ending:
            return
        now = self._monotonic()
        if self._alone_until is None:
            self._alone_until = now + control.ALONE_SECONDS
        self._alone = self._reactor.callLater(max(0.0, self._alone_until - now), self._left_alone)
        endpoint = UnixEndpoint(self._reactor, endpoint_of(self._place.control))
        listening = endpoint.listen(self._factory(self._found))
        listening.addCallbacks(self._waits, self._cannot_wait)

    def _waits(self, port: IListeningPort) -> None:
        self._waiting = port

    def _cannot_wait(self, failure: Any) -> None:
        self._log.warn(
            "the worker cannot wait for another main process: {problem}",
            problem=failure.getErrorMessage(),
            event_name="worker_cannot_wait",
        )

    def _found(self, link: Link) -> None:
        """Another main process has connected: tell it what there is here."""
        self._stop_waiting()
        self._made(link)
        for descriptor in self.service.ports.descriptors():
            transport: Any = link.transport
            transport.sendFileDescriptor(descriptor)
        self._send(Here(__version__, self._start.worker, os.getpid()))

    def _left_alone(self) -> None:
        self._alone = None
        self._log.warn(
            "there has been no main process for {seconds} seconds: the worker ends",
            seconds=control.ALONE_SECONDS,
            event_name="worker_alone",
        )
        remove_unless_lasting(self._place.folder)
        self.stop()

    def _stop_waiting(self) -> None:
        if self._alone is not None:
            self._alone.cancel()
            self._alone = None
        if self._waiting is not None:
            self._waiting.stopListening()
            self._waiting = None


def main() -> None:
    """Run a worker until it is stopped."""
    for number in IGNORED:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, IGNORED)
    escape_output()
    try:
        start = decode_start(sys.stdin.buffer.read())
    except ValueError as error:
        sys.exit(f"pushserver: {error}")
    from twisted.internet import reactor as installed

    reactor: Any = installed
    steady(reactor)

    def end() -> None:
        with suppress(ReactorNotRunning):
            reactor.stop()

    log = start_log(start.worker, start.config.log, reactor)
    try:
        worker = Worker(start, reactor, end)
    except StartFailed as error:
        sys.exit(f"pushserver: worker {start.worker}: {error}")
    assert worker.service.uplink is not None, "a worker has a link"
    log.attach(worker.service.uplink, worker.service.levels)
    worker.begin()

    def stop(number: int, interrupted: object) -> None:
        reactor.callFromThread(worker.stop)

    # Twisted's handler, which it installs before, logs a traceback for the second signal.
    reactor.callWhenRunning(signal.signal, signal.SIGTERM, stop)
    reactor.addSystemEventTrigger("before", "shutdown", worker.service.stopService)
    reactor.run()
    if worker.failed:
        sys.exit(FAILED)
