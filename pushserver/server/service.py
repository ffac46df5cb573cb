"""The service of the server: starts and stops its parts in their order."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from typing import Any, Protocol

from twisted.application.service import MultiService, Service
from twisted.internet.defer import (
    CancelledError,
    Deferred,
    DeferredList,
    TimeoutError,
    maybeDeferred,
    succeed,
)
from twisted.internet.interfaces import IDelayedCall, IProtocolFactory
from twisted.internet.task import deferLater
from twisted.logger import ILogObserver, Logger
from twisted.python.components import Componentized
from twisted.python.failure import Failure
from twisted.web.resource import Resource

from pushserver import __version__
from pushserver.app.service import AppService
from pushserver.cluster.measures import Measures
from pushserver.cluster.uplink import Uplink
from pushserver.config.settings import Log
from pushserver.diagnosis.facts import WorkerState
from pushserver.server.epoll_limit import bound
from pushserver.server.gc_policy import Collector
from pushserver.server.inside import Relays
from pushserver.server.listener import Listener
from pushserver.server.live import Live
from pushserver.server.log_output import Levels
from pushserver.server.ports import Ports
from pushserver.server.pulse import INTERVAL, Pulse
from pushserver.server.readiness import Readiness
from pushserver.server.room_log import RoomLog
from pushserver.server.running_sources import RunningSources
from pushserver.server.systemd import notify, notify_until_sent
from pushserver.server.workers.holding import Holding
from pushserver.sessions.node import Node
from pushserver.sessions.peers import Peer
from pushserver.store.service import Storage
from pushserver.usercode.once import Once
from pushserver.usercode.reactor import Reactor
from pushserver.usercode.repeating import Repeating
from pushserver.web import owner
from pushserver.web.mount import Mounted
from pushserver.web.resource import RETRY, Refusal, Refusing
from pushserver.web.site import PushSite
from pushserver.wsgi.gateway import Gateway

SWEEP_SECONDS = 60.0
ABORT_SECONDS = 1.0
"""The time that aborted connections have to end."""


class Workers(Protocol):
    """The workers of a server, as its service uses them."""

    def states(self) -> Sequence[WorkerState]:
        """The state of each."""

    def problem(self) -> str:
        """The problem of the workers, without details; empty if all are ready."""

    def when_ready(self, call: Callable[[], None]) -> None:
        """Call when all accept connections."""

    def drain(self) -> None:
        """Let them accept no more connections."""

    def end(self, seconds: float) -> Deferred[None]:
        """Let them close their connections within these seconds; fires when all are gone."""


class Folder(Protocol):
    """The folder of the sockets between the processes of a server."""

    def open(self) -> None:
        """Make it; raises StartFailed."""

    def close(self) -> None:
        """Remove it, or leave it to another process."""


class PushService(MultiService):
    """Starts and stops everything; the store starts first and stops last."""

    _log = Logger()

    live: Live
    """The configuration, which a reload replaces; `server.build` sets it, and the next one."""
    measures: Measures
    """The numbers of all processes of the server."""

    def __init__(
        self,
        node: Node,
        site: PushSite,
        reactor: Reactor,
        storage: Storage | None = None,
        app: AppService | None = None,
        shortcuts: bool = True,
        wrap: Callable[[IProtocolFactory], IProtocolFactory] | None = None,
        readiness: Readiness | None = None,
        pulse: Pulse | None = None,
        gateway: Gateway | None = None,
        holding: Holding | None = None,
        uplink: Uplink | None = None,
        inner: Listener | None = None,
        relays: Relays | None = None,
    ):
        """`wrap`: see `Listener`. `holding`: see `Ports`. `uplink`: the link of a worker.

        `inner` and `relays`: see `inside`.
        """
        super().__init__()
        self.uplink = uplink
        self.workers: Workers | None = None
        """The processes that hold the connections, if it is not this one."""
        self.folder: Folder | None = None
        """That of the sockets between the processes, with the port for links of the workers."""
        self.gateway = gateway
        self._readiness = readiness or Readiness(storage)
        self._pulse = pulse or Pulse(node.monotonic)
        self.ports = Ports(reactor, site, wrap, holding)
        self._readiness.closed_ports = self.ports.count_closed
        self._readiness.workers = lambda: "" if self.workers is None else self.workers.problem()
        self.node = node
        self._site = site
        self._reactor = reactor
        self._stop = Once()
        self._deadline = 0.0
        self.sources = RunningSources()
        self._keys: Service | None = None
        self._storage = storage
        if storage is not None:
            storage.setServiceParent(self)
        self._starting: IDelayedCall | None = None
        self._preparing: Deferred[None] | None = None
        self._app = app
        self._shortcuts = shortcuts
        if app is not None:
            app.setServiceParent(self)
        self.ports.setServiceParent(self)
        self.inner = inner
        self._relays = relays
        if inner is not None:
            inner.setServiceParent(self)
        self.announce: Callable[[list[str]], None] = self._log_urls
        """Is called with the URLs when the server is ready; logs them."""
        self.prepared: Callable[[], Coroutine[Any, Any, None]] = _at_once
        """Waits until the `start` handler of the application may publish."""
        self.log = Log()
        """The settings of the log, for the program that writes it."""
        self.levels = Levels(self.log)
        """The levels of the log, which a reload changes."""
        self.observer: ILogObserver | None = None
        """The log of twistd, if it is another than twistd's own."""
        self._collector = Collector(node.peers.__len__)
        self._room_log = RoomLog(node)
        self._links: list[Service] = []
        self._clocks = [
            (Repeating(self._wake_peers, reactor), 1.0),
            (Repeating(self._pulse.tick, reactor), INTERVAL),
            (Repeating(self._expire, reactor), SWEEP_SECONDS),
        ]

    def setServiceParent(self, parent: Any) -> None:
        super().setServiceParent(parent)
        if self.observer is not None and isinstance(parent, Componentized):
            # twistd begins to log when it has the application.
            parent.setComponent(ILogObserver, self.observer)

    def worker_states(self) -> Sequence[WorkerState]:
        """The state of each worker, if there are some."""
        return () if self.workers is None else self.workers.states()

    def add_link(self, service: Service) -> None:
        """Run a service of the links between processes until all connections have ended."""
        service.setServiceParent(self)
        self._links.append(service)

    def keep_updated(self, keys: Service | None) -> None:
        """Run the service with the keys of tokens in place of the present one, if any."""
        before, self._keys = self._keys, keys
        if before is keys:
            return
        if before is not None:
            before.disownServiceParent()
        if keys is not None:
            keys.setServiceParent(self)

    def set_log(self, log: Log) -> None:
        """Use these levels of the log."""
        self.log = log
        self.levels.use(log)

    @property
    def resource(self) -> Resource:
        """The server's URLs, to put into another site."""
        closed = Refusing(Refusal(503, "the server has stopped", RETRY))
        return Mounted(self._site.resource, self._site, closed, lambda: self._stop.begun)

    @property
    def failed(self) -> bool:
        """Whether it has stopped, and the store could not be closed in order."""
        return self._storage is not None and self._storage.failed

    def startService(self) -> None:
        if self.node.stopping:
            raise RuntimeError("a server that was stopped does not start again: make another")
        if self.folder is not None:
            self.folder.open()
        super().startService()
        _allow_all_descriptors()
        owner.prepare()
        if self._shortcuts:
            self._pulse.turns = bound(self._reactor)
        else:
            self._log.info(
                "the shortcuts are off (PUSHSERVER_SHORTCUTS)", event_name="shortcuts_off"
            )
        for clock, interval in self._clocks:
            clock.start(interval)
        self._pulse.start()
        if self.gateway is not None:
            self.gateway.start()
        self._reactor.callWhenRunning(self._started)
        # The loop of asyncio's reactor does not run before its first turn.
        self._starting = self._reactor.callLater(0, self._start)

    def stopService(self) -> Deferred[None]:
        """Close every connection with its close message; fires when all are closed.

        A second call starts nothing: its Deferred fires with the first.
        """
        self.running = False
        self._readiness.stopping = True
        return self._stop.run(self._stop_all)

    async def _stop_all(self) -> None:
        notify("STOPPING=1", os.environ)
        self.live.stop()
        self._deadline = self.node.monotonic() + self.node.limits.drain_seconds
        for step in (
            self._stop_listening,
            self._stop_sources,
            self._stop_app,
            self._finish_requests,
            self._stop_publishing,
            self._close_connections,
            self._stop_links,
            self._stop_clocks,
            self._end_app,
            self._close_store,
            self._close_folder,
        ):
            try:
                await step()
            except Exception:
                # The next steps matter all the more: without the last one, publications are lost.
                self._log.failure(
                    "the stop continues after a failure", event_name="stop_step_failed"
                )
        if self._app is not None:
            self._app.detach()

    @property
    def _left(self) -> float:
        """The seconds that are left for the stop."""
        return max(0.0, self._deadline - self.node.monotonic())

    async def _stop_listening(self) -> None:
        if self.workers is not None:
            self.workers.drain()
        await self.ports.stopService()

    async def _stop_sources(self) -> None:
        await self.sources.stop()

    async def _finish_requests(self) -> None:
        """Let requests of the WSGI application end that have begun, as they may publish."""
        if self.gateway is not None:
            with suppress(TimeoutError):
                await self.gateway.settle().addTimeout(self._left / 2, self._reactor)

    async def _stop_publishing(self) -> None:
        self.node.stop_publishing()
        await self._settled(self._left / 2)

    async def _close_connections(self) -> None:
        ended = succeed(None) if self.workers is None else self.workers.end(self._left)
        self._for_each_peer(lambda peer: peer.shut_down())
        await ended
        if self.inner is not None:
            await self.inner.stopService()
        await self._drained()

    async def _stop_links(self) -> None:
        """End the links between processes; the application learns of clients that are left."""
        for service in reversed(self._links):
            await maybeDeferred(service.stopService)

    async def _stop_clocks(self) -> None:
        for clock, _ in self._clocks:
            clock.stop()
        self._collector.stop()
        if self._keys is not None and self._keys.running:
            await maybeDeferred(self._keys.stopService)

    async def _end_app(self) -> None:
        if self._app is not None:
            await maybeDeferred(self._app.stopService)
        if self.gateway is not None:
            self.gateway.close()

    async def _close_store(self) -> None:
        if self._storage is not None:
            self._storage.finish_seconds = self._left
            await maybeDeferred(self._storage.stopService)

    async def _close_folder(self) -> None:
        if self.folder is not None:
            self.folder.close()

    def _start(self) -> None:
        started = Deferred.fromCoroutine(self._start_sources())
        started.addErrback(self._not_started)

    def _not_started(self, failure: Failure) -> None:
        if failure.check(CancelledError) is None:
            self._log.failure(
                "the sources did not start", failure, event_name="sources_not_started"
            )

    async def _start_sources(self) -> None:
        if self._app is not None:
            self._preparing = Deferred.fromCoroutine(self.prepared())
            await self._preparing
            self._preparing = None
            await self._app.call_start_handler()
        self._readiness.started = True
        if self.running:
            self.sources.start()

    async def _stop_app(self) -> None:
        """Call the `stop` handlers if those of `start` were called; their time is extra."""
        start = self.node.monotonic()
        if self._starting is None:
            return
        if self._starting.active():
            self._starting.cancel()
        elif self._preparing is not None:
            self._preparing.cancel()
        elif self._app is not None:
            await self._app.call_stop_handler()
        self._deadline += self.node.monotonic() - start

    async def _settled(self, seconds: float) -> None:
        """Let publishers whose commit is running have their answers, for at most `seconds`."""
        settled = Deferred.fromCoroutine(self.node.settle())
        with suppress(TimeoutError):
            await settled.addTimeout(seconds, self._reactor)

    async def _drained(self) -> None:
        """Wait for the ends of all connections, and abort those that take too long."""
        gone: Deferred[None] = Deferred()
        self.node.peers.when_empty(lambda: gone.callback(None))
        ends = [gone, *(site.drain() for site in self.ports.sites)]
        if self._relays is not None:
            ends.append(self._relays.drain())
        both = DeferredList(ends, consumeErrors=True)
        late = self._reactor.callLater(self._left, self._abort)
        try:
            await both.addTimeout(self._left + ABORT_SECONDS, self._reactor)
        except TimeoutError:
            self._log.warn(
                "{n} connections do not end",
                n=len(self.node.peers),
                event_name="connections_not_ended",
            )
        if late.active():
            late.cancel()

    def _abort(self) -> None:
        self._for_each_peer(lambda peer: peer.abort())
        for site in self.ports.sites:
            site.abort()
        if self._relays is not None:
            self._relays.stop()

    def _for_each_peer(self, call: Callable[[Peer], None]) -> None:
        for peer in self.node.peers:
            try:
                call(peer)
            except Exception:
                self._log.failure(
                    "a connection could not be closed; the others are not affected",
                    event_name="connection_not_closed",
                )

    def _started(self) -> None:
        if self.workers is None:
            self._announce()
        else:
            self.workers.when_ready(self._announce)
        self._collector.start()

    def _announce(self) -> None:
        self.announce(self.ports.urls())
        # systemd would end a service that is not ready in time.
        notify_until_sent("READY=1", self._reactor, os.environ, lambda: bool(self.running))

    def _log_urls(self, urls: list[str]) -> None:
        state = f"open {' or '.join(urls)}" if urls else "running"
        self._log.info(
            "pushserver {version}: {state}",
            version=__version__,
            state=state,
            event_name="server_state",
        )

    async def _expire(self) -> None:
        while self.node.expire():
            await deferLater(self._reactor, 0)
        self._room_log.write()

    async def _wake_peers(self) -> None:
        while self.node.peers.tick(self.node.monotonic()):
            await deferLater(self._reactor, 0)


async def _at_once() -> None:
    """No-op: the log is here."""


def _allow_all_descriptors() -> None:
    """Raise the soft limit of open files to the hard one: each connection is a file."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
