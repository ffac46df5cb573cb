"""`pushserver.testing`: time, threads, sources, the server and its clients."""

from __future__ import annotations

import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest

from pushserver import Client, PushServer, Refused
from pushserver.channels.channel import ChannelOptions
from pushserver.config.limits import Limits
from pushserver.config.settings import Config, Source, Store
from pushserver.sources.interface import Feed
from pushserver.testing import (
    Disconnected,
    Publication,
    ServerError,
    TestClient,
    TestServer,
    reactor,
)
from pushserver.testing.reactor import InlineWorker, PolledWorker
from pushserver.usercode.worker import ThreadWorker
from tests.unit.fakes.source_tools import WAIT_SECONDS
from tests.unit.fakes.web import Trouble

THREADS = 4
EACH = 50
MANY = Config(sources={}, defaults=ChannelOptions(history_size=9_999))


def publish_many(app: PushServer, name: object) -> None:
    for number in range(EACH):
        app.publish("c", [name, number])


def check_all(guest: TestClient, names: list[Any]) -> None:
    """The client got all publications of each publisher, once and in order."""
    for name in names:
        assert [row.data[1] for row in guest.publications if row.data[0] == name] == [*range(EACH)]
    offsets = [row.offset for row in guest.publications]
    assert offsets == [*range(1, len(names) * EACH + 1)]


def wait_until(server: TestServer, happened: Callable[[], bool]) -> None:
    """Let real time pass, but no test time."""
    end = time.monotonic() + WAIT_SECONDS
    while not happened():
        server.advance(0)
        assert time.monotonic() < end


def test_the_documented_example_works() -> None:
    app = PushServer()
    app.on("greet")(lambda client, name: f"hello {name}")
    with TestServer(app) as server:
        guest = server.connect()
        assert guest.rpc("greet", "Ada") == "hello Ada"


class TestTime:
    def test_starts_at_a_thousand_and_passes_by_advance(self) -> None:
        app = PushServer()
        seen: list[float] = []

        @app.source("numbers", every=2.0, event="tick")
        def tick() -> int:
            seen.append(server.reactor.seconds() if seen else 1_000.0)
            return len(seen)

        with TestServer(app) as server:
            assert server.history("numbers") == [Publication("numbers", "tick", 1, 1)]
            server.advance(10)
            # Each call at its own time, for any step.
            assert seen == [1_000.0, 1_002.0, 1_004.0, 1_006.0, 1_008.0, 1_010.0]
            assert server.reactor.seconds() == 1_010.0
            server.advance(0.5)
            server.advance(1.5)
            assert len(seen) == 7

    def test_that_does_not_pass_is_an_error(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(reactor, "MAX_CALLS", 100)
        app = PushServer()

        @app.source("c")
        async def never() -> AsyncIterator[None]:
            while True:
                yield None

        with pytest.raises(AssertionError, match="no time passes"):
            TestServer(app)

    def test_may_be_long_with_many_calls(
        self, trouble: Trouble, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # The limit is for one point in time.
        monkeypatch.setattr(reactor, "MAX_CALLS", 200)
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
    def test_are_not_used_for_handlers_and_timed_sources(self) -> None:
        app = PushServer()
        seen: list[threading.Thread] = []

        def note() -> int:
            seen.append(threading.current_thread())
            return 1

        def notes() -> Iterator[int]:
            while True:
                yield note()

        app.source("a", every=1.0, name="timer")(note)
        app.source("b", every=1.0)(notes)
        for event in ("start", "stop", "connect", "note"):
            app.on(event)(note)
        with TestServer(app) as server:
            server.connect().rpc("note")
        assert seen == [threading.current_thread()] * 6

    def test_are_restored_for_a_real_server(self) -> None:
        app = PushServer()
        app.source("a", every=1.0, name="timer")(lambda: 1)
        app.source("b")(lambda: (yield 1))
        callers = [own.source.caller for own in app.sources]
        before = [caller.worker for caller in callers]
        assert [type(worker) for worker in before] == [ThreadWorker, ThreadWorker]
        for _ in range(2):
            with TestServer(app) as server:
                assert [type(caller.worker) for caller in callers] == [InlineWorker, PolledWorker]
                assert (len(server.history("a")), len(server.history("b"))) == (1, 1)
            assert [caller.worker for caller in callers] == before
        server.close()

    def test_are_restored_after_a_stop_by_the_test(self) -> None:
        app = PushServer()

        @app.source("a", every=1.0)
        def tick() -> int:
            return 1

        caller = app.sources[0].source.caller
        worker = caller.worker
        stops: list[Any] = []
        with TestServer(app) as server:
            for _ in range(2):
                server.service.stopService().addBoth(stops.append)
            server.advance(10)
        assert (stops, caller.worker) == ([None, None], worker)
        with TestServer(app):
            replaced = caller.worker
            server.close()
            assert replaced is caller.worker is not worker
        assert caller.worker is worker

    def test_of_the_test_may_publish(self) -> None:
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
            assert (offsets, [row.data for row in guest.publications]) == ([1], [1])

    def test_of_a_pool_may_publish_concurrently_with_the_test(self) -> None:
        app = PushServer()
        with TestServer(app, MANY) as server, ThreadPoolExecutor(THREADS) as pool:
            guest = server.connect()
            guest.subscribe("c")
            futures = [pool.submit(publish_many, app, name) for name in range(THREADS)]
            publish_many(app, "test")
            for _ in range(EACH):
                server.connect().leave()
                server.advance(0.01)
            for future in futures:
                future.result(WAIT_SECONDS)
            check_all(guest, [*range(THREADS), "test"])

    @pytest.mark.parametrize("how", ["handler", "timer", "start", "generator"])
    def test_may_be_waited_for_by_their_starter(self, how: str) -> None:
        app = PushServer()

        def work() -> str:
            with ThreadPoolExecutor(THREADS) as pool:
                futures = [pool.submit(publish_many, app, name) for name in range(THREADS)]
                app.send("begun")
                publish_many(app, how)
                for future in futures:
                    future.result(WAIT_SECONDS)
            thread = threading.Thread(target=lambda: app.publish("c", "last"))
            thread.start()
            thread.join()
            return "done"

        def works() -> Iterator[str]:
            yield work()

        if how == "timer":
            app.source("own", every=5.0)(work)
        elif how == "generator":
            app.source("own")(works)
        else:
            app.on(how if how == "start" else "work")(work)
        with TestServer(app, MANY) as server:
            guest = server.connect()
            if how == "handler":
                assert guest.rpc("work") == "done"
                assert guest.messages == ["begun"]
            server.advance(1)
            guest.subscribe("c", {"last": 9_999})
            assert guest.publications.pop().data == "last"
            check_all(guest, [*range(THREADS), how])
            if how in ("timer", "generator"):
                assert [row.data for row in server.history("own")] == ["done"]

    def test_run_one_at_a_time(self) -> None:
        app = PushServer()
        order: list[str] = []
        begun = threading.Event()

        def work() -> None:
            order.append("begins")
            begun.set()
            time.sleep(0.05)
            order.append("ends")

        @app.on("work")
        def publish() -> None:
            thread = threading.Thread(target=server.reactor.callFromThread, args=(work,))
            thread.start()
            assert begun.wait(WAIT_SECONDS)
            app.publish("c", 1)
            order.append("published")
            thread.join()

        with TestServer(app) as server:
            server.connect().rpc("work")
        assert order == ["begins", "ends", "published"]

    def test_awaited_in_async_code_are_an_error(
        self, monkeypatch: pytest.MonkeyPatch, trouble: Trouble
    ) -> None:
        monkeypatch.setattr(reactor, "STUCK_SECONDS", 0.05)
        app = PushServer()

        @app.on("work")
        async def work() -> None:
            with ThreadPoolExecutor(1) as pool:
                pool.submit(app.publish, "c", 1).result()

        with TestServer(app) as server:
            with pytest.raises(ServerError, match="the application failed"):
                server.connect().rpc("work")
            assert "must not block it" in trouble.take()[0]
            assert server.history("c") == []
            assert app.publish("c", 1).offset == 1


class TestAGeneratorThatMayBlock:
    """A generator without an interval, which has a thread."""

    def test_has_published_its_first_values_after_the_start(self) -> None:
        app = PushServer()
        threads: set[str] = set()

        @app.source("c")
        def values() -> Iterator[int]:
            for number in range(90):
                threads.add(threading.current_thread().name)
                yield number

        with TestServer(app) as server:
            assert [row.data for row in server.history("c")] == list(range(90))
            [status] = server.service.sources.statuses
            assert status.state == "ended"
        [name] = threads
        assert name.startswith("source ")

    def test_may_sleep_for_ever(self) -> None:
        app = PushServer()
        # Ends the source: the stop of a test waits in the test's time, which may be over at once.
        over = threading.Event()

        @app.source("c")
        def values() -> Iterator[int]:
            number = 0
            while True:
                number += 1
                yield number
                if over.wait(0.3):
                    return

        began = time.monotonic()
        with TestServer(app) as server:
            assert server.history("c")[0].data == 1
            # It sleeps in real time, whatever time passes in the test.
            server.advance(3_600)
            wait_until(server, lambda: len(server.history("c")) >= 3)
            took = time.monotonic() - began
            assert took >= 0.6
            assert server.history("c")[-1].data <= took / 0.3 + 1
            over.set()
            wait_until(server, lambda: server.service.sources.statuses[0].state == "ended")

    def test_may_wait_for_ever(self) -> None:
        app = PushServer()
        queue: SimpleQueue[Any] = SimpleQueue()

        @app.source("c")
        def values() -> Iterator[int]:
            while (value := queue.get()) is not None:
                yield value

        @app.on("put")
        def put(client: Client, data: Any) -> None:
            queue.put(data)

        with TestServer(app) as server:
            guest = server.connect()
            guest.subscribe("c")
            for number in range(3):
                guest.rpc("put", number)
                queue.put(number)
            wait_until(server, lambda: len(guest.publications) == 6)
            assert [row.data for row in guest.publications] == [0, 0, 1, 1, 2, 2]
        # It also ends with the test.
        assert not server.service.running
        queue.put(None)

    def test_is_polled_for_a_moment_when_time_passes(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(reactor, "LATER_LOOKS", int(WAIT_SECONDS / reactor.LOOK_SECONDS))
        app = PushServer()
        queue: SimpleQueue[Any] = SimpleQueue()

        @app.source("c")
        def values() -> Iterator[int]:
            yield queue.get()

        with TestServer(app) as server:
            assert server.history("c") == []
            threading.Timer(0.1, queue.put, [1]).start()
            server.advance(0)
            assert [row.data for row in server.history("c")] == [1]

    def test_may_publish_by_itself(self) -> None:
        app = PushServer()

        @app.source("c")
        def values() -> Iterator[None]:
            for number in range(3):
                app.publish("c", number)
                yield None

        with TestServer(app) as server:
            assert [row.data for row in server.history("c")] == [0, 1, 2]

    def test_cannot_sleep_by_the_feed(self, trouble: Trouble) -> None:
        app = PushServer()

        @app.source("c")
        def values(feed: Feed) -> Iterator[int]:
            yield 1
            feed.sleep(1)  # type: ignore[unused-coroutine]
            yield 2

        with TestServer(app) as server:
            assert [row.data for row in server.history("c")] == [1]
            assert "is for the reactor's thread" in trouble.take()[0]

    def test_that_is_async_sleeps_in_test_time(self) -> None:
        app = PushServer()

        @app.source("c")
        async def values(feed: Feed) -> AsyncIterator[int]:
            for number in range(100):
                yield number
                await feed.sleep(10)

        with TestServer(app) as server:
            server.advance(25)
            assert [row.data for row in server.history("c")] == [0, 1, 2]

    def test_that_yields_for_ever_is_an_error(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(reactor, "MAX_CALLS", 200)
        app = PushServer()
        stopped = threading.Event()

        @app.source("c")
        def nothing() -> Iterator[None]:
            while not stopped.is_set():
                yield None

        with pytest.raises(AssertionError, match="no time passes"):
            TestServer(app)
        # The application may be run again.
        stopped.set()
        with TestServer(app) as server:
            assert server.history("c") == []


class TestAServer:
    def test_does_not_listen_and_has_no_default_source(self) -> None:
        with TestServer() as server:
            server.advance(60)
            assert (server.reactor.tcpServers, server.history("numbers")) == ([], [])

    def test_uses_the_given_configuration(self) -> None:
        sources = {"n": Source("random", "r", options={"every": 1.0})}
        config = Config(sources=sources, limits=Limits(channels_per_client=1))
        with TestServer(None, config) as server:
            server.advance(1)
            assert len(server.history("r")) == 2
            guest = server.connect()
            guest.subscribe("a")
            with pytest.raises(ServerError, match="channels_per_client"):
                guest.subscribe("b")

    def test_refuses_a_store(self, tmp_path: Path) -> None:
        config = Config(sources={}, store=Store(path=str(tmp_path / "history.db")))
        with pytest.raises(ValueError, match=r"has no store: leave \[store\] out"):
            TestServer(PushServer(), config)
        assert list(tmp_path.iterdir()) == []

    def test_publishes_like_http(self) -> None:
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

    def test_records_what_it_receives(self, app: PushServer) -> None:
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

    def test_subscribes_and_publishes(self, app: PushServer) -> None:
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

    def test_that_was_disconnected_raises(self, app: PushServer) -> None:
        with TestServer(app) as server:
            guest = server.connect()
            with pytest.raises(Disconnected, match="4500: enough"):
                guest.rpc("out")
            for call in (lambda: guest.rpc("rooms"), lambda: guest.send(1)):
                with pytest.raises(Disconnected, match="4500: enough"):
                    call()
            guest.leave()
            assert app.clients == []

    def test_answers_pings(self, app: PushServer) -> None:
        with TestServer(app) as server:
            guest = server.connect()
            server.advance(3_600)
            assert guest.closed is None
            assert guest.rpc("rooms")

    def test_whose_handler_waits_raises(self, app: PushServer, trouble: Trouble) -> None:
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
