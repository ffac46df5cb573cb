"""Every service of the package: several stops are one, and all who ask wait for it."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from twisted.application.service import Service
from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.internet.protocol import Factory
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactorClock

import pushserver
from pushserver import PushServer
from pushserver.app.dispatch import Dispatcher
from pushserver.app.service import AppService
from pushserver.channels.history import History
from pushserver.cluster.author import Author
from pushserver.cluster.measures import Measure, Measures
from pushserver.config.settings import Broker, Config
from pushserver.errors import StartFailed
from pushserver.server.broker_parts import BrokerParts
from pushserver.server.inside import InnerPort
from pushserver.server.jwks import PublishedKeys, Schedule
from pushserver.server.links import AuthorPort, UplinkService
from pushserver.server.listener import Listener
from pushserver.server.meter import Reports
from pushserver.server.ports import Ports
from pushserver.server.reloading import Reloader, Retrier, Watched
from pushserver.server.service import PushService
from pushserver.server.watchdog import Watchdog
from pushserver.server.workers.supervisor import Supervisor
from pushserver.sources.engine.runner import Runner
from pushserver.sources.interface import Feed
from pushserver.store.service import Storage
from pushserver.store.source_memory import SourceMemory
from pushserver.testing.reactor import InlinePool
from tests.unit.fakes.reactors import LifeCycle
from tests.unit.fakes.source_tools import Script, SourceBench
from tests.unit.fakes.tools import Time, drive, make_node
from tests.unit.fakes.web import Server, Socket, Trouble
from tests.unit.server.workers.fakes import Launcher
from tests.unit.server.workers.fakes import Reactor as WorkerReactor

End = Callable[[], object]


class Port:
    """A port that stops listening when the test says so."""

    def __init__(self) -> None:
        self.closing: list[Deferred[None]] = []

    def getHost(self) -> None:
        return None

    def listen(self, factory: object) -> Deferred[Port]:
        return succeed(self)

    def stopListening(self) -> Deferred[None]:
        self.closing.append(Deferred())
        return self.closing[-1]

    def end(self) -> None:
        [closing] = self.closing
        closing.callback(None)


def after_start(service: Service, call: Callable[[], object]) -> None:
    """Call after the start."""
    start = service.startService

    def start_and_call() -> None:
        start()
        call()

    service.startService = start_and_call  # type: ignore[method-assign]


def listener() -> tuple[Service, End]:
    port = Port()
    return Listener(cast(Any, port), "tcp:0", Factory()), port.end


def inner_port() -> tuple[Service, End]:
    port = Port()
    return InnerPort(cast(Any, port), "unix:inner", Factory()), port.end


def ports() -> tuple[Service, End]:
    service = Ports(cast(Any, Clock()), cast(Any, None))
    child, end = listener()
    child.setServiceParent(service)
    return service, end


def runner() -> tuple[Service, End]:
    bench = SourceBench()
    last: Deferred[None] = Deferred()

    async def run(feed: Feed) -> None:
        try:
            await feed.sleep(1_000)
        finally:
            await last

    service = bench.runner(Script(run))
    after_start(service, lambda: bench.clock.advance(0))

    def end() -> None:
        if not last.called:
            last.callback(None)

    return service, end


class Committer:
    """Opens and closes nothing; a call ends when the test says so."""

    def __init__(self) -> None:
        self.closing: list[Deferred[None]] = []

    def open(self, memory: object, now: float) -> None:
        assert not self.closing

    def close(self) -> Deferred[None]:
        self.closing.append(Deferred())
        return self.closing[-1]

    def end(self) -> None:
        [closing] = self.closing
        closing.callback(None)


class Batcher:
    memory = None

    async def finish(self, seconds: float) -> bool:
        return True


def storage() -> tuple[Service, End]:
    committer = Committer()
    service = Storage(cast(Any, committer), cast(Any, Batcher()), Time(), Time(), Clock())
    return service, committer.end


def app_service() -> tuple[Service, End]:
    """An application whose handler of `disconnect` is slow."""
    app, clock = PushServer(), Clock()
    dispatcher = Dispatcher(app.handlers, InlinePool(), clock, clock.seconds, 1.0)
    dispatcher._leaving = 1
    service = AppService(app, dispatcher, make_node(), cast(Any, clock))
    return service, lambda: dispatcher._left(None)


def push_service() -> tuple[Service, End]:
    server = Server()
    clients: list[Socket] = []
    after_start(server.service, lambda: clients.append(server.session()))

    def end() -> None:
        for client in clients:
            client.line.vanish()
        server.clock.advance(0)

    return server.service, end


def nothing() -> None:
    """No-op."""


def reloader() -> tuple[Service, End]:
    return Reloader(cast(Any, LifeCycle()), Watched([Path("nowhere")])), nothing


def retrier() -> tuple[Service, End]:
    service, _ = reloader()
    return Retrier(cast(Reloader, service), StartFailed("no")), nothing


def published_keys() -> tuple[Service, End]:
    """A set of keys that is being read when the service stops."""
    clock, verifier = Clock(), cast(Any, object())
    schedule = Schedule(60.0, 1.0, 60.0)
    read = cast(Any, Deferred)
    keys = PublishedKeys(read, "auth.jwks_url", schedule, verifier, cast(Any, clock), clock.seconds)
    return keys, nothing


def watchdog() -> tuple[Service, End]:
    environment = {"NOTIFY_SOCKET": "@nowhere"}
    return Watchdog(
        make_node(), Measures(Measure), lambda: "", cast(Any, Clock()), environment
    ), nothing


def author_port() -> tuple[Service, End]:
    reactor: Any = MemoryReactorClock()
    return AuthorPort(Author(make_node()), "/run/link", reactor, drive), nothing


def uplink_service() -> tuple[Service, End]:
    reactor: Any = MemoryReactorClock()
    uplink = cast(Any, SimpleNamespace())
    return UplinkService(uplink, "/run/link", reactor, lambda channel: True), nothing


def supervisor() -> tuple[Service, End]:
    reactor = WorkerReactor()
    workers = Supervisor(1, Launcher(), bytes, reactor, reactor.seconds)
    return workers, lambda: None


def reports() -> tuple[Service, End]:
    return Reports(nothing, cast(Any, Clock())), nothing


def broker_parts() -> tuple[Service, End]:
    settings = Config(broker=Broker("redis://localhost"))
    history = History(settings.channel_options())
    reactor = MemoryReactorClock()
    return BrokerParts(settings, history, reactor, reactor.seconds, SourceMemory()), nothing


MAKERS: dict[type[Service], Callable[[], tuple[Service, End]]] = {
    InnerPort: inner_port,
    Listener: listener,
    Ports: ports,
    Runner: runner,
    Storage: storage,
    AppService: app_service,
    PushService: push_service,
    Reloader: reloader,
    Retrier: retrier,
    PublishedKeys: published_keys,
    Watchdog: watchdog,
    AuthorPort: author_port,
    UplinkService: uplink_service,
    Supervisor: supervisor,
    Reports: reports,
    BrokerParts: broker_parts,
}
AT_ONCE = (
    Reloader,
    Retrier,
    PublishedKeys,
    Watchdog,
    AuthorPort,
    UplinkService,
    Supervisor,
    Reports,
    BrokerParts,
)
SLOW = [service for service in MAKERS if service not in AT_ONCE]


@pytest.fixture(autouse=True)
def _no_calls_at_the_end_of_the_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("atexit.unregister", lambda call: None)


def services() -> Iterator[type[Service]]:
    """The classes of services in the package."""
    for module in pkgutil.walk_packages(pushserver.__path__, "pushserver."):
        for value in vars(importlib.import_module(module.name)).values():
            is_service = isinstance(value, type) and issubclass(value, Service)
            if is_service and value.__module__.startswith("pushserver."):
                yield value


def test_each_service_has_its_tests_here() -> None:
    assert set(services()) == set(MAKERS)


def asked(service: Service) -> list[Any]:
    """Ask the service to stop; the list gets an item at the end, None unless it failed."""
    over: list[Any] = []
    stopped = maybeDeferred(service.stopService)
    if isinstance(service, Retrier):
        # A MultiService gives the results of its children.
        stopped.addCallback(lambda results: None)
    stopped.addBoth(over.append)
    return over


@pytest.mark.parametrize("kind", SLOW)
def test_all_who_ask_wait_for_the_one_stop(kind: type[Service]) -> None:
    service, end = MAKERS[kind]()
    service.startService()
    waiting = [asked(service) for _ in range(3)]
    assert waiting == [[], [], []]
    end()
    assert waiting == [[None]] * 3
    assert asked(service) == [None]


@pytest.mark.parametrize("kind", [k for k in MAKERS if k is not AppService])
def test_stops_without_a_start_are_over_at_once(kind: type[Service]) -> None:
    service, _ = MAKERS[kind]()
    assert [asked(service) for _ in range(2)] == [[None], [None]]


@pytest.mark.parametrize("kind", MAKERS)
def test_stops_one_after_the_other_are_over(kind: type[Service], trouble: Trouble) -> None:
    service, end = MAKERS[kind]()
    service.startService()
    first = asked(service)
    end()
    assert [first, *(asked(service) for _ in range(2))] == [[None]] * 3
    assert ["waiting for a file to change" in text for text in trouble.take()] == (
        [True] if kind is Retrier else []
    )
