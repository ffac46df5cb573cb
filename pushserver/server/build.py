"""Puts the server together; no other module does."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from twisted.web.resource import Resource

from pushserver import __version__
from pushserver.app.app import App
from pushserver.app.dispatch import Dispatcher
from pushserver.app.service import AppService
from pushserver.auth.access import LocalRules
from pushserver.auth.allowed_origins import Origins
from pushserver.auth.origin import host_name
from pushserver.auth.proxies import Proxies, Trust
from pushserver.auth.wrong_keys import WrongKeys
from pushserver.channels.history import History
from pushserver.channels.idempotency import Keys
from pushserver.channels.room import Room
from pushserver.config.keys import make_keys
from pushserver.config.limits import Limits
from pushserver.config.settings import Config, Server, Types
from pushserver.config.tokens import make_verifier
from pushserver.errors import StartFailed
from pushserver.hub.broker import MemoryBroker
from pushserver.hub.metrics import Metrics
from pushserver.resources.api import ApiResource
from pushserver.resources.centrifuge import ConnectionContext, EmulationResource
from pushserver.resources.channels import (
    ChannelContext,
    ChannelsResource,
    EventsResource,
    FrontResource,
)
from pushserver.resources.hooks import HooksResource
from pushserver.resources.pages import CLIENT, Pages, asset_folder
from pushserver.resources.protobuf import JsonOnly
from pushserver.resources.root import IndexPage, RootResource, UserPages
from pushserver.resources.static import PublicFiles
from pushserver.resources.status import StatusResource
from pushserver.server.bounds import make_bounds
from pushserver.server.jwks import published_keys
from pushserver.server.logging import connection_log, report, run
from pushserver.server.service import PushService
from pushserver.server.tokens import VerifiedTokens
from pushserver.sessions.callbacks import NoHandlers
from pushserver.sessions.identification import Identification, NoTokens
from pushserver.sessions.node import Node
from pushserver.sources.engine.environment import Environment
from pushserver.sources.engine.runner import Runner
from pushserver.sources.interface import IHook
from pushserver.sources.registry import SourceTypes, make
from pushserver.store.committer import Committer
from pushserver.store.recorder import BatchRecorder
from pushserver.store.service import Storage
from pushserver.store.source_memory import SourceMemory
from pushserver.store.sync_broker import SyncBroker
from pushserver.transports.response import Responses
from pushserver.transports.websocket.upgrade import WebSocketFactory
from pushserver.usercode.reactor import Reactor
from pushserver.usercode.steady import steady
from pushserver.usercode.thread_pool import Pool, ThreadPool
from pushserver.usercode.worker import ThreadWorker
from pushserver.web.gate import Gate, IsOwn
from pushserver.web.hosts import Hosts
from pushserver.web.owner import is_own
from pushserver.web.proxied import ProxiedFactory
from pushserver.web.resource import ContainerResource
from pushserver.web.site import PushSite
from pushserver.web.turns import Turns


def build(
    config: Config,
    reactor: Reactor,
    debug: bool = False,
    types: Types | None = None,
    app: App | None = None,
    threads: Pool | None = None,
    clock: Callable[[], float] = time.time,
    is_own: IsOwn = is_own,
    shortcuts: bool = True,
    beside: str = "",
) -> PushService:
    """Put the server together; nothing listens, ticks or is opened before the start.

    `types`: the types of sources, by default all installed ones. `threads` calls the application's
    plain functions. `clock` returns Unix seconds; other times are the reactor's, whose clock
    becomes steady. `is_own`: see `gate.IsOwn`. `shortcuts`: use the faster paths around Twisted and
    Autobahn (docs/configuration.md). `beside`: the folder of the application's file, whose
    `index.html` is the page at `/` unless there is a folder of pages.
    """
    monotonic = steady(reactor)
    limits = config.limits
    log = connection_log(debug)
    broker, storage = make_broker(config, reactor, clock, monotonic, lasting(config, app))
    handlers = make_handlers(app, limits, reactor, monotonic, threads)
    version = f"pushserver {__version__}"
    proxies = Proxies.of(config.server.trusted_proxies)
    peers = make_bounds(limits, proxies, broker.metrics.refusals, reactor, monotonic, shortcuts)
    auth = config.auth
    keys = make_keys(auth)
    verifier = make_verifier(auth, limits)
    published = None if verifier is None else published_keys(auth, verifier, reactor, monotonic)
    tokens = NoTokens() if verifier is None else VerifiedTokens(verifier, clock, published)
    identification = Identification(
        keys,
        tokens,
        WrongKeys(limits.wrong_keys_per_minute),
        handlers or NoHandlers(),
        broker.metrics,
        monotonic,
    )
    node = Node(
        broker,
        reactor,
        limits,
        version,
        clock,
        monotonic,
        run,
        report,
        handlers,
        identification,
        auth.closed,
        peers.excesses.note,
        peers.publications,
        peers.refusals.write_command,
    )
    pages = Pages()
    origins = Origins.of(config.server.allowed_origins)
    trust = Trust(origins, proxies)
    rules = LocalRules(len(keys) > 0, origins, auth.local_without_key)
    gate = Gate(node.permissions, identification, rules, is_own, trust, auth.token_cookie)
    compress = config.server.compress
    turns = Turns(reactor, monotonic)
    websockets = WebSocketFactory(
        reactor, peers.unread, limits, log, turns, compress, shortcuts, proxies, peers.admission
    )
    upgrade = websockets.upgrade
    respond = Responses(peers.unread, log, proxies, peers.admission).open
    channels = ChannelContext(node, upgrade, respond, pages.channel, gate, pages.channels)
    connections = ConnectionContext(node, upgrade, respond, trust, gate, JsonOnly(monotonic))
    memory = SourceMemory() if storage is None else storage.memory
    stop_seconds = limits.drain_seconds / 2
    environment = Environment(
        reactor, node.publish, node.hub, memory, clock, monotonic, stop_seconds
    )
    runners = make_runners(config, environment, SourceTypes() if types is None else types, app)
    status = StatusResource(
        gate,
        lambda: [runner.status() for runner in runners],
        (lambda channel: []) if handlers is None else handlers.failures,
        clock,
    )
    server = replace(config.server, front_channel=front_channel(config.server, runners))
    pages_of_user = user_pages(server, beside)
    root = tree(channels, connections, runners, status, server, pages_of_user)
    shortcut = websockets.shortcut(root) if shortcuts else None
    site = PushSite(
        root,
        limits,
        pages.error,
        reactor,
        turns,
        shortcut,
        trust,
        peers.refusals,
        peers.admission,
        accepts_tokens=verifier is not None,
    )
    run_by = (
        None
        if app is None or handlers is None
        else AppService(app, handlers, node, reactor, auth.token_secret)
    )
    wrap = None
    if config.server.proxy_protocol:
        wrap = partial(
            ProxiedFactory,
            proxies=proxies,
            reactor=reactor,
            monotonic=monotonic,
            seconds=limits.request_seconds,
        )
    service = PushService(node, site, reactor, storage, run_by, shortcuts, wrap)
    if published is not None:
        service.keep_updated(published)
    for text in config.server.listen:
        service.listen(text)
    for runner in runners:
        service.add_source(runner)
    return service


def with_app(config: Config, app: App) -> Config:
    """The configuration with the pages of the application, and without the default source."""
    if app.pages and not config.server.pages:
        config = replace(config, server=replace(config.server, pages=app.pages))
    if config.sources == Config().sources:
        config = replace(config, sources={})
    return config


def front_channel(server: Server, runners: Sequence[Runner]) -> str:
    """The channel whose page is at `/`.

    The configured one; else `numbers`, if a source publishes there or there is no source; else
    that of the first source.
    """
    channels = [runner.plan.channel for runner in runners]
    usual = "numbers" if "numbers" in channels or not channels else channels[0]
    return server.front_channel or usual


def names(server: Server) -> set[str]:
    """The names of the server beside those of loopback: configured, of origins, of the machine."""
    hosts = [*server.names, socket.gethostname(), "host.docker.internal"]
    hosts += [origin.partition("://")[2] for origin in Origins.of(server.allowed_origins).exact]
    return {name for name in map(host_name, hosts) if name}


def lasting(config: Config, app: App | None) -> frozenset[str]:
    """The channels that make room for others last: those of the configuration and of sources."""
    sources = [source.channel for source in config.sources.values()]
    sources += [own.plan.channel for own in (() if app is None else app.sources)]
    return frozenset([*config.channels, *sources])


def make_broker(
    config: Config,
    reactor: Reactor,
    clock: Callable[[], float],
    monotonic: Callable[[], float],
    lasting: frozenset[str] = frozenset(),
) -> tuple[MemoryBroker, Storage | None]:
    """The broker of the configuration, and its store, if any; `lasting`: see `Room`."""
    limits, metrics = config.limits, Metrics()
    room = Room(limits.history_total_bytes, limits.channels, lasting)
    history = History(config.channel_options(), room=room)
    keys = Keys(limits.idempotency_keys, limits.idempotency_keys_per_publisher)
    store = config.store
    if not store.path:
        return MemoryBroker(history, keys, metrics, clock, monotonic), None
    thread = ThreadWorker("store")
    committer = Committer(
        store.path,
        store.durability,
        thread,
        reactor,
        monotonic,
        history,
        keys,
        metrics,
        int(store.mode, 8),
    )
    if store.durability == "sync":
        broker = SyncBroker(history, keys, metrics, clock, monotonic, committer, reactor)
        return broker, Storage(committer, broker.batcher, clock, monotonic, reactor)
    interval = store.commit_milliseconds / 1000
    recorder = BatchRecorder(committer, history, monotonic, reactor, interval)
    storage = Storage(committer, recorder.batcher, clock, monotonic, reactor)
    return MemoryBroker(history, keys, metrics, clock, monotonic, recorder), storage


def make_handlers(
    app: App | None,
    limits: Limits,
    reactor: Reactor,
    monotonic: Callable[[], float],
    threads: Pool | None,
) -> Dispatcher | None:
    """Calls the handlers of the application, if there is one."""
    if app is None:
        return None
    if threads is None:
        threads = ThreadPool(reactor, monotonic, limits.handler_threads)
    return Dispatcher(app.handlers, threads, reactor, monotonic, limits.handler_seconds)


def make_runners(
    config: Config, environment: Environment, types: Types, app: App | None
) -> list[Runner]:
    """The sources of the configuration and of the application; raises StartFailed."""
    runners = []
    for own in () if app is None else app.sources:
        if own.plan.name in config.sources:
            problem = "the application has a source of this name too"
            raise StartFailed(f"sources.{own.plan.name}: {problem}")
        runners.append(Runner(own.source, own.plan, environment))
    for name, table in config.sources.items():
        try:
            source, plan = make(name, table, types)
        except ValueError as error:
            raise StartFailed(f"sources.{name}: {error}") from None
        runners.append(Runner(source, plan, environment))
    return runners


def tree(
    channels: ChannelContext,
    connections: ConnectionContext,
    runners: Sequence[Runner],
    status: StatusResource,
    server: Server,
    pages: UserPages | None,
) -> Resource:
    """The resources by URL."""
    static = str(asset_folder("static"))
    files = PublicFiles(static)
    # Pages of users use this name, without a version.
    files.putChild(b"centrifuge.js", PublicFiles(os.path.join(static, CLIENT)))
    hooks = {
        runner.plan.name: runner.source.receive
        for runner in runners
        if IHook.providedBy(runner.source)
    }
    return RootResource(
        {
            b"": FrontResource(channels, server.front_channel),
            b"channels": ChannelsResource(channels),
            b"events": EventsResource(channels),
            b"api": ApiResource(
                channels.node, channels.gate, lambda: [runner.status() for runner in runners]
            ),
            b"hooks": HooksResource(hooks),
            b"status": status,
            b"connection": ContainerResource(connections.children()),
            b"emulation": EmulationResource(connections),
            b"static": files,
        },
        PublicFiles(os.path.join(static, "favicon.svg")),
        Hosts(names(server)),
        pages,
    )


def user_pages(server: Server, beside: str) -> UserPages | None:
    """The pages of the user: of the configured folder, or the one beside the application."""
    if server.pages:
        return UserPages(server.pages)
    return IndexPage(beside) if beside else None
