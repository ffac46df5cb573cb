"""`twistd pushserver`: its options, and the one place where everything is put together."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, ClassVar

from twisted.application.service import IService, MultiService, Service
from twisted.internet.defer import Deferred, DeferredList, maybeDeferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.task import LoopingCall
from twisted.logger import (
    FilteringLogObserver,
    Logger,
    LogLevel,
    LogLevelFilterPredicate,
    globalLogPublisher,
)
from twisted.python import usage
from twisted.web.resource import Resource

from pushserver import __version__
from pushserver.answers import Folder
from pushserver.broker import MemoryBroker
from pushserver.channel import ChannelOptions
from pushserver.channels import ChannelDoors, Channels, FrontDoor
from pushserver.connection import WebSocketDoor
from pushserver.history import History
from pushserver.hub import Hub
from pushserver.limits import Limits
from pushserver.listening import Listener, StartFailed
from pushserver.node import Node
from pushserver.notify import notify
from pushserver.pages import Pages, StaticFiles, asset_folder
from pushserver.peers import Peers
from pushserver.presence import Presence
from pushserver.site import PushSite
from pushserver.sources import TimerSource, random_number
from pushserver.streaming import Responses
from pushserver.websocket import WebSocketFactory

DEFAULT_ENDPOINT = "tcp:8080:interface=127.0.0.1"
FRONT_CHANNEL = "numbers"
SWEEP_SECONDS = 60.0


class Options(usage.Options):
    """The command line of `twistd pushserver`."""

    synopsis = "[--listen ENDPOINT]..."
    longdesc = (
        "Serves live pages: open the URL that the log names. ENDPOINT is any Twisted "
        "server endpoint, such as tcp:8080, ssl:..., unix:... or systemd:domain=INET:name=http."
    )
    optFlags: ClassVar = [["debug", None, "Log connects and disconnects too."]]

    def __init__(self) -> None:
        super().__init__()
        self["listen"] = []

    def opt_listen(self, endpoint: str) -> None:
        """Where to listen; may be given several times. [default: tcp:8080:interface=127.0.0.1]"""
        self["listen"].append(endpoint)

    def parseOptions(self, options: Sequence[str] | None = None) -> None:
        try:
            super().parseOptions(options)
        except usage.UsageError as error:
            # twistd would print its whole help before the line that matters.
            raise StartFailed(f"{error}; see twistd pushserver --help") from None

    def parseArgs(self, *rest: str) -> None:
        if rest:
            raise usage.UsageError(f"unexpected argument {rest[0]!r}")


def makeService(options: Options) -> IService:
    """The service that `twistd pushserver` runs; raises StartFailed."""
    from twisted.internet import reactor

    return build(options, reactor)


def build(options: Options, reactor: Any) -> PushService:
    """Put everything together; nothing listens or ticks before the service is started."""
    limits = Limits()
    log = connection_log(options["debug"])
    node = make_node(limits, reactor)
    pages = Pages()
    sockets = WebSocketFactory(reactor, limits, log)
    doors = ChannelDoors(
        node, sockets.upgrade, Responses(limits, log).open, pages.channel, frozenset()
    )
    site = PushSite(tree(doors), limits, pages.error, reactor)
    service = PushService(node, site, reactor)
    for text in options["listen"] or [DEFAULT_ENDPOINT]:
        service.listen(text)
    service.add_source(
        TimerSource(reactor, node.hub.publish, random_number, "numbers", "newnumber", every=2.0)
    )
    return service


def make_node(limits: Limits, reactor: Any) -> Node:
    """What the conversations share, on the memory broker."""
    broker = MemoryBroker(History(lambda name: ChannelOptions()), time.time)
    hub = Hub(broker, _report)
    return Node(
        hub=hub,
        presence=Presence(hub, limits.announced_audience),
        peers=Peers(_report),
        limits=limits,
        version=f"pushserver {__version__}",
        clock=time.time,
        monotonic=reactor.seconds,
        run=_run,
        report=_report,
    )


def tree(doors: ChannelDoors) -> Resource:
    """The resources by URL."""
    websocket = WebSocketDoor(doors.node, doors.upgrade, doors.allowed_origins)
    return Folder(
        {
            b"": FrontDoor(doors, FRONT_CHANNEL),
            b"channels": Channels(doors),
            b"connection": Folder({b"websocket": websocket}),
            b"static": StaticFiles(str(asset_folder("static"))),
        }
    )


def connection_log(debug: bool) -> Logger:
    """A logger for connects and disconnects; twistd's own observer would write each debug event."""
    level = LogLevel.debug if debug else LogLevel.info
    predicate = LogLevelFilterPredicate(defaultLogLevel=level)
    observer = FilteringLogObserver(globalLogPublisher, [predicate])
    return Logger("pushserver.connections", observer=observer)


class PushService(MultiService):
    """The running server: its ports, its sources, its clocks, and an orderly end."""

    _log = Logger()

    def __init__(self, node: Node, site: PushSite, reactor: Any):
        super().__init__()
        self._node = node
        self._site = site
        self._reactor = reactor
        self._listeners: list[Listener] = []
        self._sources: list[Service] = []
        self._clocks = [
            self._clock(self._wake_peers, 1.0),
            self._clock(self._sweep, SWEEP_SECONDS),
        ]

    def listen(self, text: str) -> None:
        """Listen on this endpoint when started; raises StartFailed if it is none."""
        try:
            endpoint = serverFromString(self._reactor, text)
        except Exception as error:
            raise StartFailed(
                f"--listen {text}: {error}, expected an endpoint such as tcp:8080"
            ) from None
        listener = Listener(endpoint, text, self._site)
        listener.setServiceParent(self)
        self._listeners.append(listener)

    def add_source(self, source: Service) -> None:
        """Run this source from the start to the end."""
        source.setServiceParent(self)
        self._sources.append(source)

    def startService(self) -> None:
        super().startService()
        for clock, interval in self._clocks:
            clock.start(interval, now=False)
        self._reactor.callWhenRunning(self._started)

    async def _stop(self) -> None:
        notify("STOPPING=1", os.environ)
        for service in (*self._listeners, *self._sources):
            await maybeDeferred(service.stopService)
        for peer in self._node.peers:
            peer.shut_down()
        await self._drained()
        for clock, _ in self._clocks:
            clock.stop()

    def stopService(self) -> Deferred[None]:
        """Close every connection with a word, and wait for them to go; fires when they are."""
        self.running = False
        return Deferred.fromCoroutine(self._stop())

    async def _drained(self) -> None:
        gone: Deferred[None] = Deferred()
        self._node.peers.when_empty(lambda: gone.callback(None))
        both = DeferredList([gone, self._site.drain()])
        late = self._reactor.callLater(self._node.limits.drain_seconds, self._abort)
        await both
        if late.active():
            late.cancel()

    def _abort(self) -> None:
        for peer in self._node.peers:
            peer.abort()
        self._site.abort()

    def _started(self) -> None:
        urls = " or ".join(listener.url() for listener in self._listeners)
        self._log.info("pushserver {version}: open {urls}", version=__version__, urls=urls)
        notify("READY=1", os.environ)

    def _clock(self, call: Callable[[], None], interval: float) -> tuple[LoopingCall, float]:
        loop = LoopingCall(call)
        loop.clock = self._reactor
        return loop, interval

    def _wake_peers(self) -> None:
        self._node.peers.tick(self._node.monotonic())

    def _sweep(self) -> None:
        hub = self._node.hub
        hub.history.expire(self._node.clock(), lambda channel: hub.size(channel) > 0)


_log = Logger()


def _report(what: str) -> None:
    _log.failure("{what}", what=what)


def _run(coroutine: Coroutine[Any, Any, None]) -> None:
    Deferred.fromCoroutine(coroutine).addErrback(
        lambda failure: _log.failure("a conversation failed", failure)
    )
