"""What `pushserver.testing` promises to those who test their own applications with it."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from pushserver import Client, PushServer, Refused, testing
from pushserver.config import Config, Source
from pushserver.limits import Limits
from pushserver.sources.functions import InThread
from pushserver.sources.interface import Feed
from pushserver.testing import (
    Disconnected,
    Publication,
    ServerError,
    TestClient,
    TestServer,
)
from tests.unit.web import Trouble


def test_the_example_of_its_documentation_holds() -> None:
    app = PushServer()
    app.on("greet")(lambda client, name: f"hello {name}")
    with TestServer(app) as server:
        guest = server.connect()
        assert guest.rpc("greet", "Ada") == "hello Ada"


class TestTime:
    def test_begins_at_a_thousand_and_passes_by_advance(self) -> None:
        app = PushServer()
        seen: list[float] = []

        @app.source("numbers", every=2.0, event="tick")
        def tick() -> int:
            seen.append(server.reactor.seconds() if seen else 1_000.0)
            return len(seen)

        with TestServer(app) as server:
            assert server.history("numbers") == [Publication("numbers", "tick", 1, 1)]
            server.advance(10)
            # Each at its own time, however far it goes.
            assert seen == [1_000.0, 1_002.0, 1_004.0, 1_006.0, 1_008.0, 1_010.0]
            assert server.reactor.seconds() == 1_010.0
            server.advance(0.5)
            server.advance(1.5)
            assert len(seen) == 7

    def test_that_does_not_pass_is_an_error_and_no_hang(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(testing, "_MOST_CALLS", 100)
        app = PushServer()

        @app.source("c")
        async def never() -> AsyncIterator[None]:
            while True:
                yield None

        with pytest.raises(AssertionError, match="no time passes"):
            TestServer(app)

    def test_may_be_long_for_a_flood(self, trouble: Trouble) -> None:
        app = PushServer()

        @app.source("c", max_rate=50.0)
        def flood() -> Iterator[int]:
            number = 0
            while True:
                yield number
                number += 1

        with TestServer(app) as server:
            server.advance(9.99)
            assert len(server.history("c")) == 300
            assert 540 <= server.history("c")[-1].offset <= 550
        assert "more than its max_rate (50 a second)" in trouble.take()[0]


class TestThreads:
    def test_are_none(self) -> None:
        app = PushServer()
        seen: list[threading.Thread] = []

        def note() -> int:
            seen.append(threading.current_thread())
            return 1

        app.source("a", every=1.0, name="timer")(note)
        app.on("note")(note)

        @app.source("b")
        def generator() -> Iterator[int]:
            yield note()

        with TestServer(app) as server:
            server.connect().rpc("note")
        assert seen == [threading.current_thread()] * 3

    def test_are_there_again_for_a_real_server(self) -> None:
        app = PushServer()
        app.source("a", every=1.0, name="timer")(lambda: 1)
        [own] = app.sources
        assert isinstance(own.source.place, InThread)
        for _ in range(2):
            with TestServer(app) as server:
                assert not isinstance(own.source.place, InThread)
                assert len(server.history("a")) == 1
            assert isinstance(own.source.place, InThread)
        server.close()

    def test_of_the_tests_own_may_publish(self) -> None:
        app = PushServer()
        offsets: list[int] = []

        def work() -> None:
            offsets.append(app.publish("c", 1).offset)

        with TestServer(app) as server:
            guest = server.connect()
            guest.subscribe("c")
            thread = threading.Thread(target=work)
            thread.start()
            thread.join()
            server.advance(0)
            assert (offsets, [row.data for row in guest.publications]) == ([1], [1])


class TestAServer:
    def test_listens_to_nothing_and_makes_no_random_numbers(self) -> None:
        with TestServer() as server:
            server.advance(60)
            assert (server.reactor.tcpServers, server.history("numbers")) == ([], [])

    def test_has_the_configuration_that_it_is_given(self) -> None:
        sources = {"n": Source("random", "r", options={"every": 1.0})}
        config = Config(sources=sources, limits=Limits(channels_per_client=1))
        with TestServer(None, config) as server:
            server.advance(1)
            assert len(server.history("r")) == 2
            guest = server.connect()
            guest.subscribe("a")
            with pytest.raises(ServerError, match="channels_per_client"):
                guest.subscribe("b")

    def test_takes_publications_as_by_http(self) -> None:
        with TestServer() as server:
            server.publish("c", {"a": 1}, event="e")
            assert server.history("c") == [Publication("c", "e", {"a": 1}, 1)]
            guest = server.connect()
            guest.subscribe("c", {"last": 1})
            server.publish("c", 2)
            assert guest.publications == [
                Publication("c", "e", {"a": 1}, 1),
                Publication("c", "message", 2, 2),
            ]
            assert guest.events("e") == [{"a": 1}]

    def test_stops_in_order_and_once(self) -> None:
        server = TestServer()
        guest = server.connect()
        server.close()
        server.close()
        assert guest.closed == (3001, "the server is shutting down")
        assert not server.service.running


class TestAClient:
    @pytest.fixture
    @staticmethod
    def app() -> PushServer:
        app = PushServer()

        @app.on("connect")
        def come(client: Client, data: Any) -> Any:
            client.join("all")
            client.send("welcome", event="note")
            return {"you": data}

        @app.on("rooms")
        def rooms(client: Client, data: Any) -> list[str]:
            client.join("room")
            return sorted(client.channels)

        @app.on("leave")
        def leave(client: Client, data: Any) -> None:
            client.leave("room")

        @app.on("message")
        def message(client: Client, data: Any) -> None:
            client.send(f"{data}!")
            app.send([data])

        @app.on("out")
        def out(client: Client, data: Any) -> None:
            client.disconnect("enough")

        @app.on("subscribe", namespace="no")
        def no() -> None:
            raise Refused("never", 1234)

        return app

    def test_keeps_what_it_was_told(self, app: PushServer) -> None:
        with TestServer(app) as server:
            server.publish("all", 0)
            one, other = server.connect("Ada"), server.connect()
            assert (one.answer, other.answer) == ({"you": "Ada"}, {"you": None})
            assert one.messages == [{"event": "note", "data": "welcome"}]
            assert (one.joined, one.publications) == (
                ["all"],
                [Publication("all", "message", 0, 1)],
            )
            assert one.rpc("rooms") == ["all", "room"]
            assert one.joined == ["all", "room"]
            server.publish("room", 1)
            server.publish("all", 2)
            assert [row.data for row in one.publications] == [0, 1, 2]
            assert [row.data for row in other.publications] == [0, 2]
            one.rpc("leave")
            assert one.joined == ["all"]
            one.send("x")
            assert one.messages[1:] == ["x!", ["x"]]
            assert other.messages[1:] == [["x"]]
            assert {client.id for client in app.clients} == {one.id, other.id}

    def test_of_its_own_subscribes_and_publishes(self, app: PushServer) -> None:
        app.on("publish")(lambda: True)
        with TestServer(app) as server:
            guest = server.connect()
            guest.subscribe("c")
            guest.publish("c", 1)
            guest.unsubscribe("c")
            guest.publish("c", 2)
            assert [row.data for row in guest.publications] == [1]
            with pytest.raises(ServerError, match="1234: never") as refused:
                guest.subscribe("no:c")
            assert refused.value.code == 1234

    def test_that_was_disconnected_says_so(self, app: PushServer) -> None:
        with TestServer(app) as server:
            guest = server.connect()
            with pytest.raises(Disconnected, match="4500: enough"):
                guest.rpc("out")
            for call in (lambda: guest.rpc("rooms"), lambda: guest.send(1)):
                with pytest.raises(Disconnected, match="4500: enough"):
                    call()
            guest.leave()
            assert app.clients == []

    def test_stays_as_long_as_it_likes(self, app: PushServer) -> None:
        with TestServer(app) as server:
            guest = server.connect()
            server.advance(3_600)
            assert guest.closed is None
            assert guest.rpc("rooms")

    def test_whose_handler_waits_is_told_so(self, app: PushServer, trouble: Trouble) -> None:
        @app.on("slow")
        async def slow(client: Client) -> None:
            await feeds[0].sleep(5)

        feeds: list[Feed] = []

        @app.source("c")
        async def source(feed: Feed) -> None:
            feeds.append(feed)
            await feed.sleep(1_000)

        with TestServer(app) as server:
            guest: TestClient = server.connect()
            with pytest.raises(AssertionError, match="rpc is not answered yet"):
                guest.rpc("slow")
            server.advance(5)
            assert guest.rpc("rooms")
        assert trouble == []
