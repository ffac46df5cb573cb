"""The `start` and `stop` handlers of an application: when they are called, and time limits."""

from __future__ import annotations

from typing import Any, cast

import pytest
from twisted.internet.defer import Deferred

from pushserver import PushServer, Refused
from pushserver.app.dispatch import Dispatcher
from pushserver.app.service import STOP_SECONDS
from pushserver.config.limits import Limits
from pushserver.config.settings import Config
from pushserver.server.build import build
from pushserver.testing import ServerError, TestServer
from pushserver.testing.reactor import InlinePool, TestReactor
from tests.unit.fakes.reactors import FullPool
from tests.unit.fakes.tools import Client
from tests.unit.fakes.web import Server, Trouble, masked

SECONDS = Limits().handler_seconds
QUIET = Config(sources={}, limits=Limits(ping_seconds=10_000.0))


class Oops(Exception):
    """An exception of an application."""


@pytest.fixture
def app() -> PushServer:
    return PushServer()


@pytest.fixture
def order(app: PushServer) -> list[str]:
    """The order of events, with a source and a handler for each event."""
    order: list[str] = []

    @app.source("ticks", every=1.0)
    async def tick() -> int:
        order.append("tick")
        return 1

    app.on("connect", thread=False)(lambda: order.append("connect"))
    app.on("disconnect", thread=False)(lambda: order.append("disconnect"))
    return order


def stopping(server: TestServer) -> list[object]:
    """Start to stop the server; the list gets an item at the end."""
    over: list[object] = []
    server.service.stopService().addBoth(over.append)
    return over


def test_start_publishes_first_and_stop_last(app: PushServer, order: list[str]) -> None:
    @app.on("start")
    def start() -> None:
        order.append("start")
        app.publish("life", "start")

    @app.on("stop")
    def stop() -> None:
        order.append("stop")
        app.send("good bye")
        app.publish("life", "stop")

    with TestServer(app) as server:
        guest = server.connect()
        guest.subscribe("life")
    assert order == ["start", "tick", "connect", "stop", "disconnect"]
    assert [row.data for row in guest.publications] == ["start", "stop"]
    assert (guest.messages, guest.closed) == (["good bye"], (3001, "the server is shutting down"))
    # Once for each server.
    with TestServer(app):
        assert order.count("start") == 2
    assert order.count("stop") == 2


@pytest.mark.parametrize("error", [Oops, Refused, SystemExit])
@pytest.mark.parametrize("thread", [None, False])
def test_exceptions_are_logged_and_stop_nothing(
    app: PushServer,
    order: list[str],
    trouble: Trouble,
    error: type[BaseException],
    thread: bool | None,
) -> None:
    def fail() -> None:
        raise error

    app.on("start", thread=thread)(fail)
    app.on("stop", thread=thread)(fail)
    with TestServer(app) as server:
        server.connect()
        [failed] = server.service.node.handlers.failures("ticks")  # type: ignore[attr-defined]
        assert (failed.event, failed.name.endswith("fail")) == ("start", True)
        assert order == ["tick", "connect"]
    for event in trouble:
        assert [frame[0] for frame in event["log_failure"].frames] == ["fail"]
    assert len(trouble.take()) == 2
    assert order[-1] == "disconnect"


def test_connections_and_sources_wait_for_the_start(
    app: PushServer, order: list[str], trouble: Trouble
) -> None:
    waits: Deferred[None] = Deferred()

    @app.on("start")
    async def start() -> None:
        await waits
        order.append("start")

    with TestServer(app, QUIET) as server:
        clients = [Client(server.service.node, connect=False) for _ in range(3)]
        for client in clients:
            assert client.say({"id": 1, "connect": {}}, {"id": 2, "rpc": {"method": "x"}}) == []
        clients[1].session.closed()
        server.publish("by-http", 1)
        server.advance(SECONDS - 1)
        assert (order, app.clients) == ([], [])
        waits.callback(None)
        assert order[0] == "start"
        for client in (clients[0], clients[2]):
            answers = [reply["id"] for reply in client.transport.take()]
            assert answers == [1, 2]
        # A client that left meanwhile was connected.
        assert sorted(order[1:]) == ["connect", "connect", "connect", "disconnect", "tick"]
        assert clients[1].transport.take() == []
        assert len(app.clients) == 2
    trouble.clear()


def test_a_start_handler_has_a_time_limit(
    app: PushServer, order: list[str], trouble: Trouble
) -> None:
    app.on("start", thread=False)(lambda: Deferred())
    with TestServer(app, QUIET) as server:
        client = Client(server.service.node, connect=False)
        client.say({"id": 1, "connect": {}})
        server.advance(SECONDS - 1)
        assert order == []
        server.advance(1)
        assert sorted(order) == ["connect", "tick"]
        [logged] = trouble.take()
        assert logged.endswith("has not answered in 30 s (handler_seconds)")


class TestTheStop:
    def test_is_waited_for(self, app: PushServer, order: list[str]) -> None:
        waits: Deferred[None] = Deferred()

        @app.on("stop")
        async def stop() -> None:
            await waits
            order.append("stop")
            app.publish("life", "stop")

        server = TestServer(app, QUIET)
        guest = server.connect()
        guest.subscribe("life")
        over = stopping(server)
        server.advance(STOP_SECONDS / 2)
        # Sources have ended, but clients are still connected.
        assert (over, order, guest.closed) == ([], ["tick", "connect"], None)
        waits.callback(None)
        server.advance(0)
        assert (over, order[2:]) == ([None], ["stop", "disconnect"])
        assert [row.data for row in guest.publications] == ["stop"]
        server.close()

    def test_has_a_limit_and_does_not_shorten_the_drain(
        self, app: PushServer, order: list[str], trouble: Trouble
    ) -> None:
        app.on("stop", thread=False)(lambda: Deferred())
        # The drain has less time than the stop handler takes.
        limits = Limits(ping_seconds=10_000.0, drain_seconds=STOP_SECONDS / 2)
        server = TestServer(app, Config(sources={}, limits=limits))
        guest = server.connect()
        over = stopping(server)
        server.advance(STOP_SECONDS - 0.1)
        assert over == []
        server.advance(0.1)
        assert (over, guest.closed) == ([None], (3001, "the server is shutting down"))
        assert [logged.partition(" has ")[2] for logged in trouble.take()] == [
            "not answered in 2 s"
        ]
        server.close()

    def test_leaves_the_drain_its_time(self, app: PushServer, trouble: Trouble) -> None:
        app.on("stop", thread=False)(lambda: Deferred())
        server = Server(Limits(drain_seconds=STOP_SECONDS), app=app)
        server.service.startService()
        server.clock.advance(0)
        socket = server.websocket("/channels/c")
        over: list[object] = []
        server.service.stopService().addBoth(over.append)
        for _ in range(2):
            server.clock.advance(STOP_SECONDS / 2)
        assert len(trouble.take()) == 1
        code, reason = socket.close()
        assert (code, reason) == (1001, "the server is shutting down")
        server.clock.advance(STOP_SECONDS / 2)
        assert (over, socket.line.aborted) == ([], False)
        socket.line.send(masked(code.to_bytes(2, "big"), opcode=8))
        assert over == [None]

    @pytest.mark.parametrize("late", [False, True])
    def test_comes_after_the_start(
        self, app: PushServer, order: list[str], trouble: Trouble, late: bool
    ) -> None:
        waits: Deferred[None] = Deferred()

        @app.on("start")
        async def start() -> None:
            await waits
            order.append("start")

        app.on("stop", thread=False)(lambda: order.append("stop"))
        server = TestServer(app, QUIET)
        over = stopping(server)
        server.advance(STOP_SECONDS / 2)
        assert (order, over) == ([], [])
        if late:
            server.advance(STOP_SECONDS)
            assert over == [None]
            assert trouble.take() == ["the server stops before the handler of start has returned"]
        waits.callback(None)
        server.advance(0)
        assert (order, over) == (["start"] if late else ["start", "stop"], [None])
        server.close()


def test_a_server_that_stops_at_once_calls_neither(app: PushServer) -> None:
    called: list[str] = []
    for event in ("start", "stop"):
        app.on(event, thread=False)(lambda event=event: called.append(event))
    stage = TestReactor()
    config = Config(sources={})
    config.server.listen.clear()
    service = build(config, cast(Any, stage), app=app, threads=InlinePool(), clock=stage.seconds)
    service.startService()
    service.stopService()
    stage.advance(10)
    assert called == []


def test_a_stopped_server_cannot_be_started_again(app: PushServer) -> None:
    with TestServer(app) as server:
        service = server.service
    with pytest.raises(RuntimeError, match="does not start again"):
        service.startService()


def test_both_are_called_even_if_the_pool_is_full(app: PushServer) -> None:
    called: list[str] = []
    for event in ("start", "stop"):
        app.on(event)(lambda event=event: called.append(event))
    reactor = TestServer().reactor
    handlers = Dispatcher(app.handlers, FullPool(), reactor, reactor.seconds, SECONDS)
    for telling in (handlers.start(), handlers.stop(STOP_SECONDS)):
        assert Deferred.fromCoroutine(telling).called
    assert called == ["start", "stop"]


class TestAClient:
    @pytest.mark.parametrize("event", ["start", "stop"])
    def test_cannot_call_them(self, app: PushServer, trouble: Trouble, event: str) -> None:
        called: list[str] = []
        app.on(event, thread=False)(lambda: called.append(event))
        with TestServer(app) as server:
            before = list(called)
            guest = server.connect()
            for name in (event, f":{event}", f"chat:{event}"):
                with pytest.raises(ServerError, match="108: the application has no handler"):
                    guest.rpc(name)
                guest.send(1, name)
            assert called == before
            assert guest.closed is None
        called_event, sent_value = trouble.take()
        assert called_event.startswith(f"a client called '{event}', which has no handler")
        assert "which has no handler" in sent_value


@pytest.mark.parametrize("event", ["start", "stop", "authenticate"])
def test_events_without_a_namespace_are_refused_with_one(app: PushServer, event: str) -> None:
    with pytest.raises(ValueError, match=f"{event} has no namespace, but .* is for chat"):
        app.on(event, namespace="chat")(lambda: None)
    assert list(app.handlers) == []


def test_clients_without_a_namespace_are_not_those_of_one(app: PushServer) -> None:
    called: list[str] = []
    for event in ("connect", "disconnect"):
        app.on(event, namespace="chat", thread=False)(lambda: called.append("chat"))
    with TestServer(app) as server:
        server.connect().leave()
        app.on("connect", thread=False)(lambda: called.append("all"))
        server.connect()
    assert called == ["all"]


@pytest.mark.parametrize("event", ["start", "stop"])
def test_handlers_get_no_arguments(app: PushServer, event: str) -> None:
    with pytest.raises(ValueError, match=f"of {event} is called without arguments"):
        app.on(event)(lambda client: None)
    app.on(event)(lambda *arguments: None)
