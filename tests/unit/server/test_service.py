from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from twisted.application.service import Service
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.error import CannotListenError
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import LogLevel

from pushserver import PushServer
from pushserver.channels.channel import ChannelOptions
from pushserver.config.limits import Limits
from pushserver.config.settings import Config, Source, Store
from pushserver.config.settings import Server as ServerSection
from pushserver.errors import StartFailed
from pushserver.server import service as module
from pushserver.server import systemd
from pushserver.server.build import build
from pushserver.server.service import SWEEP_SECONDS, PushService
from pushserver.sessions.peers import WAKES
from pushserver.sources.engine.environment import Environment, Plan
from pushserver.sources.engine.runner import Runner
from pushserver.sources.interface import Feed
from pushserver.store.source_memory import SourceMemory
from tests.unit.fakes.source_tools import Script
from tests.unit.fakes.tools import Client
from tests.unit.fakes.web import Log, Server, Trouble, memory_reactor

QUIET = Config(server=ServerSection(listen=[]), sources={})
SSE = "text/event-stream"


@pytest.fixture
def states(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The states that systemd receives."""
    received: list[str] = []

    def notify(state: str, environment: object) -> bool:
        received.append(state)
        return True

    monkeypatch.setattr(module, "notify", notify)
    monkeypatch.setattr(systemd, "notify", notify)
    return received


def started(server: Server) -> Server:
    server.service.privilegedStartService()
    server.service.startService()
    return server


def stop(server: Server) -> list[Any]:
    """Stop the service; the list has an element when that is over."""
    over: list[Any] = []
    done = server.service.stopService()
    done.addBoth(over.append)
    return over


class TestTheStart:
    def test_listens_on_each_endpoint_and_logs_the_urls(self, states: list[str]) -> None:
        reactor = memory_reactor()
        endpoints = ["tcp:8080:interface=127.0.0.1", "tcp:9000"]
        service = build(Config(server=ServerSection(listen=endpoints), sources={}), reactor)
        assert not reactor.tcpServers
        service.privilegedStartService()
        with Log(LogLevel.info) as log:
            service.startService()
            assert states == []
            reactor.run()
        assert [(port, interface) for port, _, _, interface in reactor.tcpServers] == [
            (8080, "127.0.0.1"),
            (9000, ""),
        ]
        assert states == ["READY=1"]
        [line] = log.take()
        assert "open http://" in line
        assert " or http://" in line

    def test_readiness_is_notified_again_while_the_socket_is_full(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        answers = [False, False, True]
        monkeypatch.setattr(systemd, "notify", lambda state, environment: answers.pop(0))
        reactor = memory_reactor()
        service = build(QUIET, reactor)
        service.startService()
        reactor.run()
        assert answers == [False, True]
        reactor.advance(systemd.NOTIFY_AGAIN_SECONDS)
        assert answers == [True]
        for _ in range(3):
            reactor.advance(systemd.NOTIFY_AGAIN_SECONDS)
        assert answers == []

    def test_readiness_is_not_notified_after_a_stop(self, monkeypatch: pytest.MonkeyPatch) -> None:
        states: list[str] = []

        def full(state: str, environment: object) -> bool:
            states.append(state)
            return False

        monkeypatch.setattr(module, "notify", full)
        monkeypatch.setattr(systemd, "notify", full)
        reactor = memory_reactor()
        service = build(QUIET, reactor)
        service.startService()
        reactor.run()
        service.stopService()
        reactor.advance(10 * systemd.NOTIFY_AGAIN_SECONDS)
        assert states == ["READY=1", "STOPPING=1"]

    @pytest.mark.parametrize("text", ["nonsense:1", "tcp:", "tcp:http-alt", "", "tcp:1:bogus=2"])
    def test_with_an_invalid_endpoint_fails_and_names_it(self, text: str) -> None:
        with pytest.raises(StartFailed, match=r"expected a port .*, HOST:PORT") as caught:
            build(Config(server=ServerSection(listen=[text])), memory_reactor())
        assert f"--listen {text}: " in str(caught.value)

    def test_on_a_busy_port_fails(self) -> None:
        class Busy(MemoryReactorClock):
            def listenTCP(self, *arguments: Any, **options: Any) -> Any:
                raise CannotListenError("127.0.0.1", 8080, OSError("in use"))

        service = build(Config(sources={}), cast(Any, Busy()))
        with pytest.raises(StartFailed, match=r"cannot listen on tcp:8080.*in use"):
            service.privilegedStartService()

    def test_runs_each_source(self) -> None:
        reactor = memory_reactor()
        sources = {name: Source("random", name, "tick", options={"every": 2.0}) for name in "ab"}
        service = build(Config(server=ServerSection(listen=[]), sources=sources), reactor)
        history = service.node.hub.history
        assert history.seq == 0
        service.startService()
        # The loop of asyncio does not run before the reactor.
        assert (history.seq, {one.state for one in service.sources.statuses}) == (0, {"stopped"})
        for _ in range(5):
            reactor.advance(1)
        assert [history.top(name) for name in "ab"] == [3, 3]
        assert [(one.name, one.state, one.published) for one in service.sources.statuses] == [
            ("a", "running", 3),
            ("b", "running", 3),
        ]
        assert history.peek("a").after(0)[0].event == "tick"

    def test_opens_the_store_before_a_source_publishes(self) -> None:
        order: list[str] = []

        class Storage(Service):
            def startService(self) -> None:
                order.append("open")

        server = Server(config=QUIET)
        service = PushService(server.node, server.site, server.clock, cast(Any, Storage()))

        class Ticker(Service):
            def startService(self) -> None:
                order.append("tick")

        service.sources.replace([Ticker()])
        service.startService()
        assert order == ["open"]
        server.clock.advance(0)
        assert order == ["open", "tick"]

    def test_runs_no_source_if_it_stops_at_once(self) -> None:
        server = Server(config=QUIET)
        ticked: list[int] = []

        class Ticker(Service):
            def startService(self) -> None:
                ticked.append(1)

        server.service.sources.replace([Ticker()])
        server.service.startService()
        assert stop(server) == [None]
        server.clock.advance(0)
        assert ticked == []


class TestTheClocks:
    def test_wake_peers_each_second(self) -> None:
        server = started(Server(Limits(connect_seconds=3.0)))
        client = Client(server.node, connect=False)
        for _ in range(5):
            assert client.closed is None or client.closed[0] == 3502
            server.clock.advance(1)
        assert client.closed is not None

    def test_wake_many_peers_in_several_turns(self, monkeypatch: pytest.MonkeyPatch) -> None:
        server = started(Server(Limits(connect_seconds=3.0)))
        clients = [Client(server.node, connect=False) for _ in range(2 * WAKES + 1)]
        turns: list[float] = []
        call_later = server.clock.callLater

        def noted(seconds: float, *rest: Any) -> object:
            if not seconds:
                turns.append(server.clock.seconds())
            return call_later(seconds, *rest)

        monkeypatch.setattr(server.clock, "callLater", noted)
        for _ in range(5):
            server.clock.advance(1)
        assert all(client.closed is not None for client in clients)
        assert len(turns) == 2
        assert turns[0] == turns[1]

    def test_sweep_old_publications(self, monkeypatch: pytest.MonkeyPatch) -> None:
        server = started(Server(options=ChannelOptions(history_ttl=1e-9)))
        server.publish("a")
        assert server.hub.history.channels
        for _ in range(int(SWEEP_SECONDS)):
            server.clock.advance(1)
        assert not server.hub.history.channels
        assert server.hub.metrics.evictions == 1


class TestTheEnd:
    def test_notifies_systemd_first_and_waits_for_connections(self, states: list[str]) -> None:
        server = started(Server())
        over = stop(server)
        assert states == ["STOPPING=1"]
        assert over == [None]
        assert not server.clock.getDelayedCalls()

    def test_sends_every_peer_its_farewell(self) -> None:
        server = started(Server())
        session = server.session()
        raw = server.websocket("/channels/a")
        stream = server.open("/channels/a", accept=SSE)
        waiting = server.open("/channels/a?wait=5")
        idle = server.connect()
        stop(server)
        assert session.close() == (3001, "the server is shutting down")
        assert raw.close() == (1001, "the server is shutting down")
        assert stream.response().whole
        assert waiting.response().json["publications"] == []
        server.clock.advance(0)
        assert stream.lost
        assert waiting.lost
        assert idle.lost

    def test_refuses_publications_and_answers_503(self) -> None:
        server = started(Server())
        server.session()
        stop(server)
        assert server.get("/channels/a", "POST", b"1").status == 503
        line = server.open("/channels/a", accept=SSE)
        assert b" 503 " not in line.take()

    def test_waits_for_slow_peers_for_drain_seconds(self) -> None:
        server = started(Server(Limits(drain_seconds=3.0)))
        line = server.connect()
        line.reading = False
        line.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        over = stop(server)
        server.clock.advance(2.9)
        assert over == []
        server.clock.advance(0.2)
        server.clock.advance(0)
        assert line.aborted
        assert over == [None]

    def test_commits_when_all_peers_are_gone(self) -> None:
        server = Server(config=QUIET)
        order: list[str] = []
        closed: Deferred[None] = Deferred()

        class Storage(Service):
            def stopService(self) -> Deferred[None]:
                order.append(f"close with {len(server.node.peers)} peers")
                return closed

        service = PushService(server.node, server.site, server.clock, cast(Any, Storage()))
        service.live = server.service.live
        service.startService()
        server.service = service
        socket = server.session()
        over = stop(server)
        assert order == []
        socket.line.vanish()
        server.clock.advance(0)
        assert order == ["close with 0 peers"]
        assert over == []
        closed.callback(None)
        assert over == [None]

    def test_stops_the_sources_before_the_peers(self) -> None:
        server = started(Server())
        stopped: Deferred[None] = Deferred()

        class Slow(Service):
            def stopService(self) -> Deferred[None]:
                return stopped

        server.service.sources.replace([Slow()])
        socket = server.session()
        over = stop(server)
        assert socket.take() == []
        # Its last publication is delivered.
        server.publish("a")
        stopped.callback(None)
        assert socket.close()[0] == 3001
        assert server.hub.history.top("a") == 1
        socket.line.vanish()
        server.clock.advance(0)
        assert over == [None]

    def test_waits_for_hanging_sources_together_within_drain_seconds(
        self, trouble: Trouble
    ) -> None:
        server = Server(Limits(drain_seconds=4.0))
        environment = Environment(
            server.clock,
            server.node.publish,
            server.hub,
            SourceMemory(),
            lambda: 0.0,
            server.clock.seconds,
            2.0,
        )

        async def deaf(feed: Feed) -> None:
            while True:
                with suppress(Exception):
                    await Deferred()

        server.service.sources.replace(
            [Runner(Script(deaf), Plan("x", "c", name=name), environment) for name in "abc"]
        )
        started(server)
        line = server.connect()
        line.reading = False
        line.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        over = stop(server)
        server.clock.advance(1.9)
        server.publish("a")
        server.clock.advance(0.2)
        assert server.get("/channels/a", "POST", b"1").status == 503
        assert (over, len(trouble.take())) == ([], 3)
        server.clock.advance(1.8)
        assert not line.aborted
        server.clock.advance(0.2)
        server.clock.advance(0)
        assert (line.aborted, over) == (True, [None])

    def test_continues_after_a_source_fails_to_stop(self, trouble: Trouble) -> None:
        class Broken(Service):
            def stopService(self) -> None:
                raise LookupError("x")

        server = Server()
        server.service.sources.replace([Broken()])
        assert stop(started(server)) == [None]
        assert trouble.take() == ["a source did not stop: LookupError('x')"]

    def test_may_come_before_the_start(self) -> None:
        assert stop(Server()) == [None]


def test_pages_are_served_after_the_start() -> None:
    server = started(Server())
    server.publish("numbers", 7)
    assert json.loads(server.get("/channels/numbers").body)["offset"] == 1


def test_websocket_that_does_not_answer_is_dropped_in_time(states: list[str]) -> None:
    server = started(Server(Limits(drain_seconds=1)))
    socket = server.session()
    over = stop(server)
    assert socket.close() == (3001, "the server is shutting down")
    server.clock.advance(0.9)
    assert (socket.line.aborted, over) == (False, [])
    server.clock.advance(0.2)
    server.clock.advance(0)
    assert (socket.line.aborted, over) == (True, [None])


class AtOnce:
    """A thread whose calls are over at once."""

    busy = False

    def call(self, reactor: object, function: Callable[[], object]) -> Deferred[Any]:
        return maybeDeferred(function)

    def close(self) -> None:
        pass


class TestStopsAtOnce:
    """Each caller waits for the one stop."""

    @pytest.fixture(params=["batched", "sync", ""])
    def server(self, request: pytest.FixtureRequest, tmp_path: Path) -> Server:
        path = str(tmp_path / "s.db") if request.param else ""
        store = Store(path=path, durability=request.param or "batched")
        config = replace(QUIET, store=store, limits=Limits(drain_seconds=1))
        server = Server(config=config, app=PushServer())
        if path:
            # Calls of the store's thread are made at once.
            server.service._storage._committer._thread = AtOnce()  # type: ignore[union-attr]
        return server

    def test_two_stops_are_one(self, server: Server, states: list[str]) -> None:
        started(server)
        server.session()
        first, second = stop(server), stop(server)
        assert (first, second) == ([], [])
        server.clock.advance(1.1)
        server.clock.advance(0)
        assert (first, second) == ([None], [None])
        assert states.count("STOPPING=1") == 1

    def test_a_stop_after_the_stop_is_over(self, server: Server) -> None:
        started(server)
        assert [stop(server) for _ in range(3)] == [[None]] * 3

    def test_a_stop_without_a_start(self, server: Server) -> None:
        assert [stop(server) for _ in range(2)] == [[None]] * 2
        with pytest.raises(RuntimeError, match="does not start again"):
            server.service.startService()

    def test_a_stop_within_the_stop(self, server: Server) -> None:
        inner: list[Any] = []

        class Asking(Service):
            def stopService(self) -> None:
                inner.append(stop(server))

        server.service.sources.replace([Asking()])
        assert stop(started(server)) == [None]
        assert inner == [[None]]

    def test_a_cancelled_caller_does_not_cancel_the_stop(self, server: Server) -> None:
        started(server)
        server.session()
        first = server.service.stopService()
        first.addErrback(lambda failure: None)
        second = stop(server)
        first.cancel()
        server.clock.advance(1.1)
        server.clock.advance(0)
        assert second == [None]


def test_a_stop_after_a_start_that_failed(tmp_path: Path) -> None:
    server = Server(config=replace(QUIET, store=Store(path=str(tmp_path / "missing" / "s.db"))))
    with pytest.raises(StartFailed):
        server.service.startService()
    assert stop(server) == [None]


def test_two_stops_after_a_start_on_a_busy_port_close_the_store(tmp_path: Path) -> None:
    class Busy(MemoryReactorClock):
        def listenTCP(self, *arguments: Any, **options: Any) -> Any:
            raise CannotListenError("127.0.0.1", 8080, OSError("in use"))

    store = Store(path=str(tmp_path / "s.db"))
    for _ in range(2):
        service = build(Config(sources={}, store=store), cast(Any, Busy()), app=PushServer())
        service._storage._committer._thread = AtOnce()  # type: ignore[union-attr]
        with pytest.raises(StartFailed, match="in use"):
            service.startService()
        over: list[Any] = []
        for _ in range(2):
            service.stopService().addBoth(over.append)
        assert over == [None, None]
