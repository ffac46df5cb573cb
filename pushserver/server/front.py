"""Makes the part of the server that a reload replaces as a whole: resources, keys and sources."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from twisted.web.resource import Resource

from pushserver.app.app import App
from pushserver.app.dispatch import Dispatcher
from pushserver.auth.access import LocalRules
from pushserver.auth.allowed_origins import Origins
from pushserver.auth.keys import Keys
from pushserver.auth.proxies import Proxies, Trust
from pushserver.auth.tokens import Verifier
from pushserver.cluster.measures import Measures
from pushserver.config.keys import make_keys
from pushserver.config.secret_files import MAX_SECRET_BYTES, read_file
from pushserver.config.settings import Config, Server, Source, Types
from pushserver.config.tokens import make_issuer, make_verifier
from pushserver.errors import StartFailed
from pushserver.resources.centrifuge import ConnectionContext
from pushserver.resources.channels import ChannelContext
from pushserver.resources.fragments import Fragments
from pushserver.resources.health import health
from pushserver.resources.live_pages import LivePages
from pushserver.resources.metrics import MetricsResource
from pushserver.resources.own_pages import OwnPages, PageContext
from pushserver.resources.pages import Pages
from pushserver.resources.protobuf import JsonOnly
from pushserver.resources.status import StatusResource
from pushserver.resources.streams import Streams
from pushserver.resources.top import Load
from pushserver.server.bounds import PeerBounds
from pushserver.server.collector import ServerCollector
from pushserver.server.facts import ServerFacts
from pushserver.server.inside import Relays
from pushserver.server.jwks import PublishedKeys, published_keys
from pushserver.server.logging import connection_log
from pushserver.server.readiness import Readiness
from pushserver.server.tokens import VerifiedTokens
from pushserver.server.urls import metrics_tree, tree, user_pages, worker_tree
from pushserver.sessions.identification import NoTokens, Tokens
from pushserver.sessions.node import Node
from pushserver.sources.engine.environment import Environment
from pushserver.sources.engine.runner import Runner
from pushserver.sources.registry import make
from pushserver.transports.polling import Pollings
from pushserver.transports.response import Responses
from pushserver.transports.websocket.upgrade import WebSocketFactory
from pushserver.usercode.reactor import Reactor
from pushserver.usercode.turns import Turns
from pushserver.web.first_bytes import Shortcut
from pushserver.web.gate import Gate, IsOwn
from pushserver.wsgi.gateway import Gateway


@dataclass(frozen=True, slots=True)
class Base:
    """The parts of a server that last from its start to its end."""

    reactor: Reactor
    node: Node
    peers: PeerBounds
    environment: Environment
    types: Types
    app: App | None
    handlers: Dispatcher | None
    is_own: IsOwn
    debug: bool
    readiness: Readiness
    measures: Measures
    collector: ServerCollector
    facts: ServerFacts
    turns: Turns
    pollings: Pollings
    pages: Pages
    fragments: Fragments
    shortcuts: bool
    beside: str
    templates_beside: str
    gateway: Gateway | None = None
    runs_sources: bool = True
    relays: Relays | None = None
    """Those of a worker, which has not all URLs itself."""


@dataclass(frozen=True, slots=True)
class Running:
    """A source, and the settings and the secret with which it was made."""

    runner: Runner
    settings: Source | None
    secret: bytes


@dataclass(frozen=True, slots=True)
class Front:
    """The parts of a server that belong to one configuration; nothing in it has an effect yet."""

    config: Config
    keys: Keys
    verifier: Verifier | None
    published: PublishedKeys | None
    proxies: Proxies
    trust: Trust
    root: Resource
    metrics_root: Resource
    shortcut: Shortcut | None
    sources: Sequence[Running]

    def tokens(self, clock: Callable[[], float]) -> Tokens:
        """The tokens that it accepts; `clock` returns Unix seconds."""
        if self.verifier is None:
            return NoTokens()
        return VerifiedTokens(self.verifier, clock, self.published)


def make_front(config: Config, base: Base, before: Front | None = None) -> Front:
    """Make the front of a configuration; raises StartFailed and InvalidConfig.

    `before`: the present one, of which the sources and the sets of keys that did not change are
    kept.
    """
    node, peers, server, auth = base.node, base.peers, config.server, config.auth
    proxies = Proxies.of(server.trusted_proxies)
    origins = Origins.of(server.allowed_origins)
    trust = Trust(origins, proxies)
    keys = make_keys(auth)
    log = connection_log(base.debug or config.log.level_of("connections") == "debug")
    verifier, published = make_tokens(config, base, before)
    rules = LocalRules(len(keys) > 0, origins, auth.local_without_key)
    gate = Gate(node.permissions, node.identification, rules, base.is_own, trust, auth.token_cookie)
    websockets = WebSocketFactory(
        base.reactor,
        peers.unread,
        config.limits,
        log,
        base.turns,
        server.compress,
        base.shortcuts,
        proxies,
        peers.admission,
    )
    upgrade = websockets.upgrade
    respond = Responses(peers.unread, log, proxies, peers.admission).open
    pages = base.pages
    main = None if base.relays is None else base.relays.main
    channels = ChannelContext(
        node,
        gate,
        Streams(node, gate, base.fragments, upgrade, respond),
        LivePages(node, gate, pages),
        base.fragments,
        elsewhere=main,
    )
    json_only = JsonOnly(node.monotonic)
    connections = ConnectionContext(node, upgrade, respond, trust, gate, json_only)
    sources = make_sources(config, base, () if before is None else before.sources)
    runners = [source.runner for source in sources]
    status = StatusResource(
        gate,
        lambda: [runner.status() for runner in runners],
        (lambda channel: []) if base.handlers is None else base.handlers.failures,
        lambda channel: base.fragments.failures(channel, base.measures.failures()),
        node.clock,
        lambda request: base.facts.of(request, config, trust, runners),
    )
    lists = lists_at_front(server, runners)
    server = replace(server, front_channel=front_channel(server, runners))
    monitoring = {
        b"health": health(base.readiness.checks, base.readiness.parts),
        b"metrics": MetricsResource(base.collector, gate),
    }
    # With an application at `/`, the page beside it is a template or not meant for it.
    pages_of_user = user_pages(server, base.beside if base.gateway is None else "")
    page_context = PageContext(node, gate, pages.own, make_issuer(auth))
    root: Resource
    if base.relays is not None:
        root = worker_tree(
            channels, connections, base.pollings, server, config.socketio, config.page, base.relays
        )
    else:
        root = tree(
            channels,
            connections,
            base.pollings,
            runners,
            status,
            Load(node, peers.unread.unsent, base.measures),
            server,
            pages_of_user,
            monitoring,
            config.socketio,
            base.gateway,
            config.page,
            OwnPages(server.templates, page_context) if server.templates else None,
            lists,
        )
    shortcut = websockets.shortcut(root) if base.shortcuts else None
    # The port for metrics asks for no key.
    without_key = {**monitoring, b"metrics": MetricsResource(base.collector, None)}
    metrics_root = metrics_tree(without_key, server)
    return Front(
        config, keys, verifier, published, proxies, trust, root, metrics_root, shortcut, sources
    )


def make_tokens(
    config: Config, base: Base, before: Front | None
) -> tuple[Verifier | None, PublishedKeys | None]:
    """The verifier of tokens, and the service that keeps the keys of another service, if any."""
    auth, limits = config.auth, config.limits
    if before is not None and (before.config.auth, before.config.limits) == (auth, limits):
        return before.verifier, before.published
    verifier = make_verifier(auth, limits)
    if verifier is None:
        return None, None
    published = published_keys(auth, verifier, base.reactor, base.node.monotonic)
    present = None if before is None else before.published
    if before is not None and present is not None and published is not None:
        old = before.config.auth
        if (old.jwks_url, old.jwks_file) == (auth.jwks_url, auth.jwks_file):
            published.take_over(present)
    return verifier, published


def make_sources(config: Config, base: Base, before: Sequence[Running]) -> list[Running]:
    """The sources of the application and of the configuration; raises StartFailed.

    One that did not change is the one of `before`. A worker has none.
    """
    if not base.runs_sources:
        return []
    known = {source.runner.plan.name: source for source in before}
    sources = []
    for own in () if base.app is None else base.app.sources:
        name = own.plan.name
        if name in config.sources:
            problem = "the application has a source of this name too"
            raise StartFailed(f"sources.{name}: {problem}")
        same = known.get(name)
        if same is None or same.settings is not None:
            same = Running(Runner(own.source, own.plan, base.environment), None, b"")
        sources.append(same)
    for name, table in config.sources.items():
        secret = _secret(table)
        same = known.get(name)
        if same is None or (same.settings, same.secret) != (table, secret):
            try:
                source, plan = make(name, table, base.types)
            except ValueError as error:
                raise StartFailed(f"sources.{name}: {error}") from None
            same = Running(Runner(source, plan, base.environment), table, secret)
        sources.append(same)
    return sources


def _secret(source: Source) -> bytes:
    """The content of the secret file of a source; empty if it has none, or none that is read."""
    path = source.options.get("secret_file", "")
    try:
        return read_file(path, MAX_SECRET_BYTES) if path else b""
    except ValueError:
        # The source itself reports it.
        return b""


def front_channel(server: Server, runners: Sequence[Runner]) -> str:
    """The channel whose page is at `/`.

    The configured one; else `numbers`, if a source publishes there or there is no source; else
    that of the first source.
    """
    channels = [runner.plan.channel for runner in runners]
    usual = "numbers" if "numbers" in channels or not channels else channels[0]
    return server.front_channel or usual


def lists_at_front(server: Server, runners: Sequence[Runner]) -> bool:
    """Whether the list of channels is at `/`: for several channels, of which none was chosen."""
    return not server.front_channel and len({runner.plan.channel for runner in runners}) > 1
