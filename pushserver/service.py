"""`twistd pushserver`: its options, and the one place where everything is put together."""

from __future__ import annotations

import os
import time
from collections.abc import Coroutine, Generator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from types import coroutine as coroutine_of_generator
from typing import Any, ClassVar

from twisted.application.service import IService
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python import usage
from twisted.web.resource import Resource

from pushserver import __version__
from pushserver.answers import Folder
from pushserver.api import Api
from pushserver.broker import MemoryBroker
from pushserver.channels import ChannelDoors, Channels, Events, FrontDoor
from pushserver.config import Config, InvalidConfig, Types, read
from pushserver.connection import ConnectionDoors, EmulationDoor
from pushserver.history import History
from pushserver.hooks import Hooks
from pushserver.hub import Hub
from pushserver.idempotency import Keys
from pushserver.limits import Limits
from pushserver.memory import Memory
from pushserver.metrics import Metrics
from pushserver.node import Node
from pushserver.pages import Pages, StaticFiles, asset_folder
from pushserver.peers import Peers
from pushserver.presence import Presence
from pushserver.publishing import Gate
from pushserver.quiet import hush
from pushserver.server import PushService
from pushserver.site import PushSite
from pushserver.sources.interface import IHook
from pushserver.sources.kinds import SourceTypes, make
from pushserver.sources.place import Place
from pushserver.sources.runner import Runner
from pushserver.startup import StartFailed
from pushserver.store import Committer, Storage, Writer
from pushserver.streaming import Responses
from pushserver.sync import SyncBroker
from pushserver.websocket import WebSocketFactory


class Options(usage.Options):
    """The command line of `twistd pushserver`."""

    synopsis = "[--listen ENDPOINT]... [--config FILE.toml]"
    longdesc = (
        "Serves live pages: open the URL that the log names. ENDPOINT is any Twisted "
        "server endpoint, such as tcp:8080, ssl:..., unix:... or systemd:domain=INET:name=http."
    )
    optParameters: ClassVar = [["config", "c", "", "The configuration, a TOML file."]]
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

    types = SourceTypes()
    return build(configure(options, os.environ, types), reactor, options["debug"], types)


def configure(
    options: Options, environment: Mapping[str, str], types: Types | None = None
) -> Config:
    """The configuration: file, environment, flags, the later over the earlier."""
    try:
        config = read(options["config"], environment, SourceTypes() if types is None else types)
    except InvalidConfig as error:
        raise StartFailed(str(error)) from None
    if options["listen"]:
        config = replace(config, server=replace(config.server, listen=options["listen"]))
    return config


def build(
    config: Config, reactor: Any, debug: bool = False, types: Types | None = None
) -> PushService:
    """Put everything together; nothing listens, ticks or is opened before the start."""
    limits = config.limits
    log = connection_log(debug)
    hush()
    broker, storage = make_broker(config, reactor)
    node = make_node(broker, limits, reactor)
    pages = Pages()
    origins = frozenset(origin.lower() for origin in config.server.allowed_origins)
    gate = Gate(frozenset(config.auth.api_keys), origins)
    websockets = WebSocketFactory(reactor, limits, log, config.server.compress)
    upgrade = websockets.upgrade
    respond = Responses(limits, log, reactor).open
    channels = ChannelDoors(node, upgrade, respond, pages.channel, gate)
    connections = ConnectionDoors(node, upgrade, respond, origins, {})
    memory = Memory() if storage is None else storage.memory
    place = Place(reactor, node.hub.publish, node.hub, memory, time.time, limits.drain_seconds / 2)
    runners = make_runners(config, place, SourceTypes() if types is None else types)
    root = tree(channels, connections, runners, config.server.front_channel)
    site = PushSite(root, limits, pages.error, reactor, websockets.shortcut(root), origins)
    service = PushService(node, site, reactor, storage)
    for text in config.server.listen:
        service.listen(text)
    for runner in runners:
        service.add_source(runner)
    return service


def make_broker(config: Config, reactor: Any) -> tuple[MemoryBroker, Storage | None]:
    """The broker that the configuration asks for, and the store behind it, if any."""
    history, metrics = History(config.channel_options()), Metrics()
    keys = Keys(config.limits.idempotency_keys)
    store = config.store
    if not store.path:
        return MemoryBroker(history, keys, metrics, time.time), None
    committer = Committer(store.path, store.durability, reactor, history, metrics)
    if store.durability == "sync":
        broker = SyncBroker(history, keys, metrics, time.time, committer)
        return broker, Storage(committer, broker, keys, time.time)
    interval = store.commit_milliseconds / 1000
    writer = Writer(committer, history, time.time, reactor, interval)
    storage = Storage(committer, writer, keys, time.time)
    return MemoryBroker(history, keys, metrics, time.time, writer), storage


def make_node(broker: MemoryBroker, limits: Limits, reactor: Any) -> Node:
    """What the conversations share."""
    hub = Hub(broker, reactor, _report)
    return Node(
        hub=hub,
        presence=Presence(hub, limits.announced_audience),
        peers=Peers(_report),
        limits=limits,
        version=f"pushserver {__version__}",
        clock=time.time,
        monotonic=reactor.seconds,
        run=run,
        report=_report,
    )


def make_runners(config: Config, place: Place, types: Types) -> list[Runner]:
    """The sources of the configuration; raises StartFailed."""
    runners = []
    for name, table in config.sources.items():
        try:
            source, plan = make(name, table, types)
        except ValueError as error:
            raise StartFailed(f"sources.{name}: {error}") from None
        runners.append(Runner(source, plan, place))
    return runners


def tree(
    doors: ChannelDoors,
    connections: ConnectionDoors,
    runners: Sequence[Runner],
    front_channel: str,
) -> Resource:
    """The resources by URL."""
    hooks = {
        runner.plan.name: runner.source.receive
        for runner in runners
        if IHook.providedBy(runner.source)
    }
    return Folder(
        {
            b"": FrontDoor(doors, front_channel),
            b"channels": Channels(doors),
            b"events": Events(doors),
            b"api": Api(doors.node, doors.gate, lambda: [runner.status() for runner in runners]),
            b"hooks": Hooks(hooks),
            b"connection": Folder(connections.children()),
            b"emulation": EmulationDoor(connections),
            b"static": StaticFiles(str(asset_folder("static"))),
        }
    )


class _Terse(Logger):
    """A logger whose debug events are not even made."""

    def debug(self, format: str | None = None, **kwargs: object) -> None:
        """Nothing: twistd's own observer would write each."""


def connection_log(debug: bool) -> Logger:
    """A logger for connects and disconnects, which are debug events."""
    return (Logger if debug else _Terse)("pushserver.connections")


_log = Logger()


def _report(what: str) -> None:
    _log.failure("{what}", what=what)


def run(coroutine: Coroutine[Any, Any, None]) -> None:
    """Drive the coroutine; what it raises is logged.

    Most wait for nothing, and for those a Deferred would be half of what they cost.
    """
    try:
        awaited = coroutine.send(None)
    except StopIteration:
        pass
    except Exception:
        _report("a conversation failed")
    else:
        Deferred.fromCoroutine(_go_on(coroutine, awaited)).addErrback(
            lambda failure: _log.failure("a conversation failed", failure)
        )


@coroutine_of_generator
def _go_on(coroutine: Coroutine[Any, Any, None], awaited: Any) -> Generator[Any, Any, None]:
    """The rest of a coroutine that waits for its first time."""
    while True:
        try:
            result = yield awaited
        except GeneratorExit:
            # What it waits for is gone, and it may have been collected before us.
            coroutine.close()
            raise
        except BaseException as error:
            step = partial(coroutine.throw, error)
        else:
            step = partial(coroutine.send, result)
        try:
            awaited = step()
        except StopIteration:
            return
