"""Puts the server together: the parts that last.

`server.front` makes those that a reload replaces.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from twisted.web.resource import Resource

from pushserver import __version__
from pushserver.app.app import Adapter, App
from pushserver.app.dispatch import Dispatcher
from pushserver.app.service import AppService
from pushserver.auth.keys import Keys
from pushserver.auth.proxies import Proxies
from pushserver.auth.wrong_keys import WrongKeys
from pushserver.channels.history import History
from pushserver.channels.idempotency import Keys as IdempotencyKeys
from pushserver.channels.room import Room
from pushserver.channels.sharded_history import ShardedHistory
from pushserver.cluster.author import Author
from pushserver.cluster.measures import Measures
from pushserver.config.limits import Limits
from pushserver.config.settings import Config, SocketIO, Types
from pushserver.errors import StartFailed
from pushserver.hub.broker import MemoryBroker
from pushserver.hub.follower import Follower
from pushserver.hub.hub import Hub
from pushserver.hub.metrics import Metrics
from pushserver.hub.presence import Presence
from pushserver.resources.fragment_functions import FunctionsOfChannels
from pushserver.resources.fragments import Fragments
from pushserver.resources.pages import Pages
from pushserver.resources.template_failures import TemplateFailures
from pushserver.server.bounds import make_bounds
from pushserver.server.collector import ServerCollector
from pushserver.server.facts import ServerFacts
from pushserver.server.follower_parts import make_follower_parts
from pushserver.server.front import Base, make_front
from pushserver.server.inside import Relays, inner_port
from pushserver.server.links import AuthorPort, UplinkService
from pushserver.server.live import Live, lasting
from pushserver.server.logging import connection_log, report, run
from pushserver.server.meter import Meter, Reports
from pushserver.server.place import Place
from pushserver.server.pulse import Pulse
from pushserver.server.readiness import Readiness
from pushserver.server.service import PushService
from pushserver.server.workers.holding import Holding
from pushserver.sessions.callbacks import Handlers, NoHandlers
from pushserver.sessions.identification import Identification, NoTokens
from pushserver.sessions.node import Node
from pushserver.sources.engine.environment import Environment
from pushserver.sources.registry import SourceTypes
from pushserver.store.committer import Committer
from pushserver.store.recorder import BatchRecorder
from pushserver.store.service import Storage
from pushserver.store.source_memory import SourceMemory
from pushserver.store.sync_broker import SyncBroker
from pushserver.transports.polling import Pollings
from pushserver.usercode.reactor import Reactor
from pushserver.usercode.steady import steady
from pushserver.usercode.thread_pool import Pool, ThreadPool
from pushserver.usercode.turns import Turns
from pushserver.usercode.worker import ThreadWorker
from pushserver.web.first_bytes import Shortcut
from pushserver.web.gate import IsOwn
from pushserver.web.owner import is_own
from pushserver.web.proxied import ProxiedFactory
from pushserver.web.site import PushSite
from pushserver.wsgi.gateway import Gateway
from pushserver.wsgi.interface import Application


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
    wsgi: Application | None = None,
    place: Place | None = None,
    holding: Holding | None = None,
    templates_beside: str = "",
    development: bool = False,
) -> PushService:
    """Put the server together; nothing listens, ticks or is opened before the start.

    `types`: the types of sources, by default all installed ones. `threads` calls the application's
    plain functions. `clock` returns Unix seconds; other times are the reactor's, whose clock
    becomes steady. `is_own`: see `gate.IsOwn`. `shortcuts`: use the faster paths around Twisted and
    Autobahn (docs/configuration.md). `beside`: the folder of the application's file, whose
    `index.html` is the page at `/` unless there is a folder of pages. `wsgi`: a WSGI application,
    by default that of `app`. `place`: that of this process, if the server has several. A worker
    uses the log and the application of the main process, and not the store and the sources of its
    `config`; it listens when it is told. `holding`: the reactor of the ports of a main process.
    `templates_beside`: the folder of the templates of channels if none is configured.
    `development`: show the errors of pages to their readers.
    """
    monotonic = steady(reactor)
    limits, auth = config.limits, config.auth
    room = Room(limits.history_total_bytes, limits.channels, lasting(config, app))
    history = make_history(config, room)
    following = None
    if place is not None and place.is_worker:
        following = make_follower_parts(history, monotonic, run, place.worker)
    broker: MemoryBroker | Follower
    make_presence: Callable[[Hub, int], Presence] = Presence
    storage: Storage | None = None
    memory, redis = SourceMemory(), None
    if following is not None:
        broker, make_presence = following.follower, following.make_presence
    elif config.broker.urls:
        # Imported here: with its client of Redis it takes long.
        from pushserver.server.broker_parts import BrokerParts

        redis = BrokerParts(config, history, reactor, monotonic, memory)
        broker, make_presence = redis.follower, redis.make_presence
    else:
        broker, storage = make_broker(config, reactor, clock, monotonic, history)
        memory = memory if storage is None else storage.memory
    if app is not None and threads is None:
        threads = ThreadPool(reactor, monotonic, limits.handler_threads)
    wsgi = wsgi or (None if app is None else app.wsgi)
    check_socketio(wsgi, app, config.socketio.path)
    gateway = make_gateway(wsgi, limits, reactor, monotonic)
    handlers = make_handlers(app, limits, reactor, monotonic, threads, broker.metrics)
    asked: Handlers = handlers or NoHandlers()
    if following is not None:
        asked = following.handlers
    proxies = Proxies.of(config.server.trusted_proxies)
    peers = make_bounds(limits, proxies, broker.metrics, reactor, clock, monotonic, shortcuts)
    identification = Identification(
        Keys(),
        NoTokens(),
        WrongKeys(limits.wrong_keys_per_minute),
        asked,
        broker.metrics,
        monotonic,
    )
    node = Node(
        broker,
        reactor,
        limits,
        f"pushserver {__version__}",
        clock,
        monotonic,
        run,
        report,
        asked,
        identification,
        auth.closed,
        peers.excesses.note,
        peers.publications,
        peers.connections,
        peers.refusals.write_command,
        None if following is None else following.roster,
        make_presence,
    )
    pulse = Pulse(monotonic)
    functions = FunctionsOfChannels()
    if app is not None:
        functions = FunctionsOfChannels(app.fragments, app.fragments_of_namespaces)
    counts = broker.metrics.template_failures
    fragments = Fragments(history.options, clock, monotonic, functions, counts)
    of_pages = TemplateFailures(clock, monotonic, counts)
    pages = Pages(monotonic, of_pages, development=development)
    meter = Meter(
        node, peers.unread.unsent, pulse, lambda: [*fragments.all_failures, *of_pages.last]
    )
    measures = Measures(meter.measure)
    if redis is not None:
        redis.attach(node, measures)
    if following is not None:
        following.attach(node, meter.measure)
    environment = Environment(reactor, node.publish, node.hub, memory, clock, monotonic)
    if redis is not None:
        environment.leases = redis.log.leases
    readiness = Readiness(storage)
    collector = ServerCollector(node, measures, storage, threads, gateway)
    if redis is not None:
        readiness.broker = redis.problem
        readiness.shards = redis.problem_of_some
        collector.broker = lambda: redis.log.states
    relays = None
    if place is not None and place.is_worker:
        relays = Relays(place, reactor, monotonic, is_own, limits.connections)
        node.id_prefix = f"{place.worker}."
    base = Base(
        reactor,
        node,
        peers,
        environment,
        SourceTypes() if types is None else types,
        app,
        handlers,
        is_own,
        debug,
        readiness,
        measures,
        collector,
        ServerFacts(
            node, peers, readiness, storage, measures, None if redis is None else redis.facts
        ),
        Turns(reactor, monotonic),
        Pollings(peers.unread, peers.admission, reactor, connection_log(debug)),
        pages,
        fragments,
        shortcuts,
        beside,
        templates_beside,
        gateway,
        following is None,
        relays,
    )
    front = make_front(config, base)

    def make_site(root: Resource, shortcut: Shortcut | None) -> PushSite:
        return PushSite(
            root,
            limits,
            base.pages.error,
            reactor,
            base.turns,
            shortcut,
            front.trust,
            peers.refusals,
            peers.admission,
            accepts_tokens=front.verifier is not None,
        )

    site = make_site(front.root, front.shortcut)
    metrics_listen = config.server.metrics_listen
    metrics_site = make_site(front.metrics_root, None) if metrics_listen else None
    run_by = None if app is None or handlers is None else AppService(app, handlers, node, reactor)
    wrap = None
    if config.server.proxy_protocol:
        wrap = partial(
            ProxiedFactory,
            proxies=lambda: site.trust.proxies,
            reactor=reactor,
            monotonic=monotonic,
            seconds=lambda: site.limits.request_seconds,
            remember=peers.refusals.recent.note,
        )
    inner = None if place is None else inner_port(place, site, reactor, monotonic)
    service = PushService(
        node,
        site,
        reactor,
        storage,
        run_by,
        shortcuts,
        wrap,
        readiness,
        pulse,
        gateway,
        holding,
        None if following is None else following.uplink,
        inner,
        relays,
    )
    if following is not None and place is not None:
        uplink = UplinkService(following.uplink, place.link, reactor, node.hub.has_room, shortcuts)
        service.add_link(uplink)
        service.add_link(Reports(following.uplink.tell_measure, reactor))
    elif place is not None:
        author = Author(node, () if app is None else app.handlers.keys, measures)
        service.add_link(AuthorPort(author, place.link, reactor, run, shortcuts))
        if redis is not None:
            redis.share(author)
    if redis is not None:
        service.add_link(redis)
        service.prepared = redis.attached
    service.measures = measures
    measures.states = service.worker_states
    collector.sources = lambda: service.sources.statuses
    service.live = Live(base, redis or broker, site, run_by, service, front, metrics_site)
    if following is None:
        for text in config.server.listen:
            service.ports.listen(text)
    if metrics_site is not None:
        service.ports.listen_for_metrics(metrics_listen, metrics_site)
    return service


def with_app(config: Config, app: App) -> Config:
    """The configuration with the pages, templates and static files of the application.

    It has no default source. A template in the table of a channel or a namespace precedes what the
    application has for the same; what it has for a channel precedes what a namespace has.
    """
    server = config.server
    server = replace(
        server,
        pages=server.pages or app.pages,
        templates=server.templates or app.templates,
        static=server.static or app.static,
    )
    channels = {**config.channels}
    for name in {**app.templates_of_channels, **app.fragments}:
        # Empty: a worker has no function, and asks the main process for the fragments.
        template = app.templates_of_channels.get(name, "")
        channels[name] = {"template": template, **channels.get(name, {})}
    namespaces = {**config.namespaces}
    for name in app.fragments_of_namespaces:
        namespaces[name] = {"template": "", **namespaces.get(name, {})}
    config = replace(config, server=server, channels=channels, namespaces=namespaces)
    return app.adjust(without_default_source(config))


def without_default_source(config: Config) -> Config:
    """The configuration without the source of random numbers that is there by default."""
    default = config.sources == Config().sources
    return replace(config, sources={}) if default else config


def make_history(config: Config, room: Room) -> History:
    """The channels of this process, in one log or in several."""
    options, placement = config.channel_options(), config.broker.placement
    if placement.count > 1:
        return ShardedHistory(options, placement, placement.count, room)
    return History(options, room=room)


def make_broker(
    config: Config,
    reactor: Reactor,
    clock: Callable[[], float],
    monotonic: Callable[[], float],
    history: History,
) -> tuple[MemoryBroker, Storage | None]:
    """The broker of the configuration, and its store, if any."""
    limits, metrics = config.limits, Metrics()
    keys = IdempotencyKeys(limits.idempotency_keys, limits.idempotency_keys_per_publisher)
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
    metrics: Metrics,
) -> Dispatcher | None:
    """Calls the handlers of the application, if there is one."""
    if app is None or threads is None:
        return None
    return Dispatcher(app.handlers, threads, reactor, monotonic, limits.handler_seconds, metrics)


def check_socketio(wsgi: Application | None, app: App | None, path: str) -> None:
    """Raise StartFailed if clients of Socket.IO would miss the handlers of the Flask application.

    Their requests are for the server, at `path`, and not for the application.
    """
    if app is not None and app.needs_wsgi and wsgi is None:
        raise StartFailed(
            "the SocketIO has no Flask application: call its init_app(app) in the module that you"
            " serve, or serve the module that does"
        )
    extensions = getattr(wsgi, "extensions", None)
    socketio = extensions.get("socketio") if isinstance(extensions, dict) else None
    if isinstance(socketio, Adapter) and socketio.push is not app:
        raise StartFailed(
            f"{wsgi!r:.80} has a SocketIO of pushserver.flask, whose handlers run only where the"
            " SocketIO itself is served: pushserver serve MODULE:socketio, which serves Flask too"
        )
    if path == SocketIO().path and socketio is not None and not isinstance(socketio, Adapter):
        raise StartFailed(
            f"{wsgi!r:.80} has Flask-SocketIO, which gets no requests below /{path}, since those"
            " are for this server: import SocketIO from pushserver.flask, or set socketio.path"
        )


def make_gateway(
    application: Application | None,
    limits: Limits,
    reactor: Reactor,
    monotonic: Callable[[], float],
) -> Gateway | None:
    """Serves the WSGI application, if there is one."""
    if application is None:
        return None
    return Gateway(application, reactor, monotonic, limits.wsgi_threads, limits.wsgi_waiting)
