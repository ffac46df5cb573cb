"""Applications, mostly through `pushserver.testing`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from zope.interface import implementer

import pushserver
from pushserver import Client, PushServer, Refused
from pushserver.config.settings import Auth, Config, Source
from pushserver.config.settings import Server as ServerSection
from pushserver.errors import InvalidName, NotRunning, StartFailed, Unavailable
from pushserver.server.build import build, with_app
from pushserver.server.options import Options, load_app, make, makeService
from pushserver.server.service import PushService
from pushserver.sources.interface import Feed, ISource
from pushserver.testing import Disconnected, Publication, ServerError, TestServer
from tests.unit.fakes.web import Server, Trouble, memory_reactor

TICKER = """
from pushserver import PushServer

app = PushServer()


@app.source("ticks", every=2.0)
def tick():
    return 1
"""


@pytest.fixture
def app() -> PushServer:
    return PushServer()


def data(server: TestServer, channel: str) -> list[Any]:
    return [row.data for row in server.history(channel)]


class TestASource:
    def test_calls_a_function_every_interval(self, app: PushServer) -> None:
        ticks = iter(range(100))

        @app.source("numbers", every=2.0, event="newnumber")
        def number() -> dict[str, int]:
            return {"number": next(ticks)}

        with TestServer(app) as server:
            guest = server.connect()
            guest.subscribe("numbers")
            server.advance(4)
            assert guest.publications == [
                Publication("numbers", "newnumber", {"number": n}, n + 1) for n in range(3)
            ]

    def test_may_be_a_generator_a_coroutine_or_a_class(self, app: PushServer) -> None:
        @app.source("generator")
        def generator() -> Iterator[int]:
            yield from range(3)

        @app.source("async-generator")
        async def async_generator(feed: Feed) -> AsyncIterator[int]:
            for number in range(3):
                yield number
                await feed.sleep(1)

        @app.source("coroutine")
        async def coroutine(feed: Feed) -> None:
            for number in range(3):
                await feed.publish(number)

        @app.source("class")
        @implementer(ISource)
        class Own:
            async def run(self, feed: Feed) -> None:
                for number in range(3):
                    await feed.publish(number, event=feed.name)

        with TestServer(app) as server:
            server.advance(3)
            for own in app.sources:
                assert data(server, own.plan.channel) == [0, 1, 2]
            assert {row.event for row in server.history("class")} == {"Own"}
            assert [status.state for status in server.service.sources.statuses] == ["ended"] * 4

    def test_needs_a_unique_name(self, app: PushServer) -> None:
        def tick() -> int:
            return 1

        app.source("a", every=1.0)(tick)
        with pytest.raises(ValueError, match="a source 'tick' already: give this one a name="):
            app.source("b", every=1.0)(tick)
        assert app.source("b", every=1.0, name="other")(tick) is tick
        assert [own.plan.name for own in app.sources] == ["tick", "other"]
        with TestServer(app) as server:
            server.advance(1)
            assert [status.name for status in server.service.sources.statuses] == ["tick", "other"]

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"channel": "a b"}, "invalid channel name 'a b'"),
            ({"event": "a\nb"}, "invalid event name"),
            ({"every": 0}, "tick is 0, expected a number of seconds, more than 0"),
            ({"every": "2"}, "tick is '2', expected a number of seconds, more than 0"),
            ({"channel": print}, r"@app.source needs the channel: @app.source\(\"numbers\"\)"),
            ({"channel": 5}, "@app.source needs the channel"),
            ({"every": None}, "tick needs every=SECONDS"),
            ({"max_rate": 0}, r"sources.tick.max_rate: expected a number > 0.0, value 0"),
            ({"max_rate": 2e6}, r"tick.max_rate: expected a number <= 1000000.0, value 2000000.0"),
            ({"max_rate": float("nan")}, r"tick.max_rate: expected a number > 0.0, value nan"),
            (
                {"on_demand": 1},
                r"tick.on_demand: expected true or false, got a whole number, value 1",
            ),
            (
                {"linger_seconds": "1"},
                r"tick.linger_seconds: expected a number, got a text, value '1'",
            ),
            ({"retry_seconds": 0}, r"tick.retry_seconds: expected a number >= 0.01, value 0"),
            ({"retry_seconds": 90}, r"retry_max_seconds: expected retry_seconds \(90\) or more"),
        ],
    )
    def test_that_is_invalid_is_refused_by_the_decorator(
        self, app: PushServer, options: dict[str, Any], words: str
    ) -> None:
        def tick() -> int:
            return 1

        with pytest.raises((ValueError, InvalidName), match=words):
            app.source(**{"channel": "a", "every": 1.0, **options})(tick)
        assert app.sources == []

    @pytest.mark.parametrize("rate", [Fraction(1, 2), type("float64", (float,), {})(0.5)])
    def test_takes_any_real_number_as_a_setting(self, app: PushServer, rate: Any) -> None:
        def tick() -> int:
            return 1

        app.source("a", every=1.0, max_rate=rate, linger_seconds=rate, retry_seconds=rate)(tick)
        plan = app.sources[0].plan
        assert (plan.max_rate, plan.linger_seconds, plan.retry_seconds) == (0.5, 0.5, 0.5)

    def test_errors_about_arguments_name_the_class_that_users_know(self, app: PushServer) -> None:
        with pytest.raises(TypeError, match=r"^PushServer\.source\(\) got an unexpected keyword"):
            app.source("a", evry=1.0)  # type: ignore[call-arg]
        with pytest.raises(TypeError, match=r"^PushServer\.__init__\(\) got an unexpected keyword"):
            PushServer(page="a")  # type: ignore[call-arg]

    def test_on_demand_runs_while_there_are_subscribers(self, app: PushServer) -> None:
        @app.source("c", every=1.0, on_demand=True, linger_seconds=5.0)
        def tick() -> int:
            return 1

        with TestServer(app) as server:
            server.advance(10)
            assert data(server, "c") == []
            guest = server.connect()
            guest.subscribe("c")
            server.advance(2)
            guest.leave()
            server.advance(60)
            assert 7 <= len(data(server, "c")) <= 9

    @pytest.mark.parametrize("value", [object(), float("nan"), {"f": print}, "\ud800"])
    def test_with_a_value_that_json_cannot_hold_continues(
        self, app: PushServer, trouble: Trouble, value: object
    ) -> None:
        values = iter([1, value, 3])
        app.source("odd", every=1.0, name="odd")(lambda: next(values, None))
        app.source("even", every=1.0, name="even")(lambda: 2)
        with TestServer(app) as server:
            server.advance(2)
            assert (data(server, "odd"), data(server, "even")) == ([1, 3], [2, 2, 2])
        assert len(trouble.take()) == 1

    def test_that_fails_is_started_again(self, app: PushServer, trouble: Trouble) -> None:
        @app.source("odd", retry_seconds=1.0, retry_max_seconds=1.0)
        def odd() -> Iterator[int]:
            yield 1
            raise SystemExit("no more")

        app.source("even", every=1.0, name="even")(lambda: 2)
        with TestServer(app) as server:
            server.advance(3)
            assert len(data(server, "odd")) >= 3
            assert data(server, "even") == [2] * 4
        assert "no more" in trouble.take()[0]

    def test_over_its_rate_is_slowed(self, app: PushServer, trouble: Trouble) -> None:
        @app.source("flood")
        def flood() -> Iterator[str]:
            while True:
                yield "x" * 100

        app.source("even", every=1.0, name="even")(lambda: 2)
        with TestServer(app) as server:
            guest = server.connect()
            guest.subscribe("even")
            server.advance(10)
            assert [row.data for row in guest.publications] == [2] * 11
            assert server.history("flood")[-1].offset <= 1_100
        assert "max_rate (100 a second)" in trouble.take()[0]

    def test_that_never_returns_does_not_block_others(
        self, app: PushServer, trouble: Trouble
    ) -> None:
        @app.source("stuck", every=1.0)
        async def stuck() -> None:
            await Deferred()

        app.source("even", every=1.0, name="even")(lambda: 2)
        with TestServer(app) as server:
            server.advance(40)
            assert len(data(server, "even")) == 41
        assert "not returned after 30 s" in trouble.take()[0]


class TestPublishing:
    def test_has_delivered_on_return(self, app: PushServer) -> None:
        with TestServer(app) as server:
            guest = server.connect()
            guest.subscribe("c")
            published = app.publish("c", {"a": 1}, event="e", tags={"t": "u"})
            server.advance(0)
            assert (published.done, published.offset) == (True, 1)
            assert guest.publications == [Publication("c", "e", {"a": 1}, 1)]

    def test_keeps_the_order_of_the_calls(self, app: PushServer) -> None:
        @app.on("count")
        async def count() -> list[int]:
            return [(await app.publish("c", n)).offset for n in range(3)]

        @app.on("subscribe")
        def subscribe(client: Client, channel: str) -> None:
            app.publish(channel, "joined")

        with TestServer(app) as server:
            guest = server.connect()
            guest.subscribe("c")
            assert guest.rpc("count") == [2, 3, 4]
            assert [row.data for row in guest.publications] == ["joined", 0, 1, 2]

    def test_twice_with_one_key_publishes_once(self, app: PushServer) -> None:
        with TestServer(app) as server:
            first, again = (app.publish("c", n, key="k") for n in range(2))
            assert first.receipt == again.receipt
            assert data(server, "c") == [0]

    def test_raises_for_invalid_arguments(self, app: PushServer, trouble: Trouble) -> None:
        with pytest.raises(NotRunning):
            app.publish("c", 1)
        server = TestServer(app)
        for wrong in (lambda: app.publish("a b", 1), lambda: app.publish("c", object())):
            with pytest.raises(ValueError, match=r"invalid channel|does not fit into JSON"):
                wrong()
        server.service.node.stop_publishing()
        with pytest.raises(Unavailable, match="the server is shutting down"):
            app.publish("c", 1)
        server.close()
        with pytest.raises(NotRunning):
            app.publish("c", 1)

    def test_failing_in_a_source_or_a_handler_fails_them(
        self, app: PushServer, trouble: Trouble
    ) -> None:
        @app.source("c", every=1.0)
        def tick() -> None:
            app.publish("c d", 1)

        @app.on("ask")
        def ask() -> None:
            app.publish("c", object())

        with TestServer(app) as server, pytest.raises(ServerError, match="application failed"):
            server.connect().rpc("ask")
        logged = trouble.take()
        assert "invalid channel name 'c d'" in logged[0]
        assert "object does not fit into JSON" in logged[1]


class TestRooms:
    """Channels that the server puts clients into."""

    @pytest.fixture
    @staticmethod
    def chat(app: PushServer) -> PushServer:
        @app.on("connect")
        def connect(client: Client, name: Any) -> dict[str, Any]:
            if not isinstance(name, str):
                return {"error": "no name"}
            client.state["name"] = name
            client.join("chat:lobby")
            return {"welcome": name}

        @app.on("enter", namespace="chat")
        def enter(client: Client, room: str) -> list[str]:
            client.join(f"chat:{room}")
            return sorted(client.channels)

        @app.on("exit", namespace="chat")
        def exit(client: Client, room: str) -> None:
            client.leave(f"chat:{room}")

        @app.on("say", namespace="chat")
        def say(client: Client, text: str) -> int:
            return app.publish("chat:lobby", f"{client.state['name']}: {text}", "said").offset

        @app.on("disconnect")
        def disconnect(client: Client) -> None:
            if "name" in client.state:
                app.publish("chat:lobby", f"{client.state['name']} left", "left")

        return app

    def test_can_be_joined_at_connect_and_later(self, chat: PushServer) -> None:
        with TestServer(chat) as server:
            ada, bob = server.connect("Ada"), server.connect("Bob")
            assert (ada.answer, ada.joined) == ({"welcome": "Ada"}, ["chat:lobby"])
            assert ada.rpc("chat:say", "hi") == 1
            assert bob.events("said") == ["Ada: hi"]
            assert ada.rpc("chat:enter", "den") == ["chat:den", "chat:lobby"]
            server.publish("chat:den", "secret")
            assert [row.data for row in ada.publications] == ["Ada: hi", "secret"]
            assert bob.events("message") == []
            ada.rpc("chat:exit", "den")
            ada.rpc("chat:exit", "den")
            server.publish("chat:den", "more")
            assert ada.events("message") == ["secret"]
            assert ada.joined == ["chat:lobby"]
            ada.leave()
            assert bob.events("left") == ["Ada left"]

    def test_send_the_history_to_new_members(self, chat: PushServer) -> None:
        with TestServer(chat) as server:
            server.connect("Ada").rpc("chat:say", "hi")
            assert server.connect("Bob").events("said") == ["Ada: hi"]
            stranger = server.connect()
            assert (stranger.answer, stranger.joined) == ({"error": "no name"}, [])

    def test_have_valid_channel_names(self, chat: PushServer, trouble: Trouble) -> None:
        with TestServer(chat) as server:
            ada = server.connect("Ada")
            with pytest.raises(ServerError, match="application failed"):
                ada.rpc("chat:enter", "no room")
            assert "invalid channel name 'chat:no room'" in trouble.take()[0]

    def test_are_left_by_a_call_of_the_server(self, chat: PushServer) -> None:
        with TestServer(chat) as server:
            ada, bob = server.connect("Ada"), server.connect("Bob")
            [client] = [client for client in chat.clients if client.id == ada.id]
            assert repr(client) == f"<Client {ada.id}>"
            assert (client.user, client.connected) == ("", True)
            for code in (1000, 3999, 5000):
                with pytest.raises(ValueError, match="expected 4000 to 4999"):
                    client.disconnect("no", code)
            client.disconnect()
            assert ada.closed == (4500, "disconnected by the application")
            with pytest.raises(Disconnected):
                ada.rpc("chat:say", "hi")
            server.advance(0)
            assert bob.events("left") == ["Ada left"]
            assert not client.connected
            client.send("gone")
            client.join("chat:den")
            assert client.channels == frozenset()


def test_send_reaches_every_client(app: PushServer) -> None:
    seen: list[int] = []

    @app.on("connect")
    def connect() -> None:
        # A client that is not connected yet does not get it.
        seen.append(1)
        app.send(len(seen))

    with TestServer(app) as server:
        one, other = server.connect(), server.connect()
        app.send("news", event="note")
        note = {"event": "note", "data": "news"}
        assert (one.messages, other.messages) == ([2, note], [note])
        for wrong in (lambda: app.send(object()), lambda: app.send(1, event="a\nb")):
            with pytest.raises(ValueError, match=r"JSON|invalid event name"):
                wrong()


class TestTheServerOfAnApplication:
    def test_has_its_sources_instead_of_the_default_one(self, app: PushServer) -> None:
        app.source("mine", every=1.0, name="tick")(lambda: 1)
        config = with_app(Config(), app)
        assert config.sources == {}
        own = {"r": Source("random", "r", options={"every": 1.0})}
        assert with_app(Config(sources=own), app).sources == own

    @pytest.mark.parametrize(
        ("chosen", "of_app", "of_file", "front"),
        [
            ("", "", "", "numbers"),
            ("", "mine", "", "mine"),
            ("", "mine other", "numbers", "numbers"),
            ("", "mine numbers", "", "numbers"),
            ("", "mine", "one two", "mine"),
            ("", "", "two one", "two"),
            ("", "", "two numbers", "numbers"),
            ("one", "mine", "two", "one"),
            ("numbers", "mine", "two", "numbers"),
        ],
    )
    def test_has_the_channel_of_its_first_source_as_the_front_page(
        self, app: PushServer, chosen: str, of_app: str, of_file: str, front: str
    ) -> None:
        for channel in of_app.split():
            app.source(channel, every=1.0, name=f"app {channel}")(lambda: 1)
        own = {c: Source("random", c, options={"every": 1.0}) for c in of_file.split()}
        config = Config(sources=own, server=ServerSection(front_channel=chosen))
        for tried in [app] if of_app else [app, None]:
            server = Server()
            server.site = build(config, server.clock, app=tried)._site
            page = server.get("/", accept="text/html")
            assert f'data-channels="{front}"'.encode() in page.body

    def test_has_its_pages_unless_the_configuration_has_others(self) -> None:
        app = PushServer(pages=Path("here"))
        assert with_app(Config(), app).server.pages == "here"
        own = Config(server=ServerSection(pages="there"))
        assert with_app(own, app).server.pages == "there"
        assert with_app(own, PushServer()).server.pages == "there"
        with pytest.raises(TypeError):
            PushServer(pages=5)  # type: ignore[arg-type]

    def test_refuses_two_sources_with_one_name(self, app: PushServer) -> None:
        app.source("a", every=1.0, name="tick")(lambda: 1)
        config = Config(sources={"tick": Source("random", "r")})
        with pytest.raises(StartFailed, match=r"sources\.tick: the application has a source of"):
            build(config, memory_reactor(), app=app)

    def test_is_made_by_the_command_line(
        self, app: PushServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        monkeypatch.syspath_prepend(str(tmp_path))
        (tmp_path / "pushtest_ticker.py").write_text(TICKER)
        options = Options()
        options.parseOptions(["--app", "pushtest_ticker:app", "--listen", "tcp:0"])
        service = make(options, {}, memory_reactor(), load_app(options))
        assert [status.name for status in service.sources.statuses] == ["tick"]
        options.parseOptions(["--app", "pushtest_ticker:ap"])
        with pytest.raises(StartFailed, match="has no ap, expected a PushServer; there is"):
            makeService(options)

    def test_is_a_service_for_other_programs(
        self, app: PushServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("PUSHSERVER_SERVER_LISTEN", raising=False)
        app.source("mine", every=1.0, name="tick")(lambda: 1)
        file = tmp_path / "push.toml"
        file.write_text(
            '[auth]\napi_keys = ["a-key-of-25-characters-xx"]\n[server]\nlisten = ["tcp:9"]\n'
        )
        reactor = memory_reactor()
        service = app.service("tcp:8080", config=str(file), reactor=reactor)
        assert isinstance(service, PushService)
        assert app.service() is service
        with pytest.raises(RuntimeError, match="was made already"):
            app.service("tcp:8081")
        service.privilegedStartService()
        service.startService()
        assert [port for port, *_ in reactor.tcpServers] == [8080]
        assert app.publish("c", 1).done
        assert app.resource().render is not None
        service.stopService()

    def test_in_another_program_listens_only_to_given_endpoints(
        self, app: PushServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PUSHSERVER_SERVER_LISTEN", "tcp:9")
        reactor = memory_reactor()
        service = app.service(reactor=reactor)
        service.privilegedStartService()
        assert reactor.tcpServers == []
        with pytest.raises(StartFailed, match=r"nothing\.toml"):
            PushServer().service(config="nothing.toml", reactor=reactor)


def test_the_package_exports_these_names() -> None:
    assert pushserver.Client is Client
    assert pushserver.PushServer is PushServer
    assert pushserver.NotRunning is NotRunning
    assert pushserver.Unavailable is Unavailable
    assert {name for name in pushserver.__all__ if not hasattr(pushserver, name)} == set()
    with pytest.raises(AttributeError, match="has no attribute 'PushSever'"):
        pushserver.PushSever  # noqa: B018
    _: Callable[..., Any] = pushserver.publish
    assert Auth([]).api_keys == []


def test_a_source_after_the_start_is_refused() -> None:
    app = PushServer()
    with TestServer(app), pytest.raises(RuntimeError, match="the server is made already"):
        app.source("late", every=1.0)(lambda: 1)
    app.source("late", every=1.0)(lambda: 1)


def test_a_message_to_all_is_encoded_once_for_each_format(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    app, made = PushServer(), []
    with TestServer(app) as server:
        guests = [server.connect() for _ in range(3)]
        shape = guests[0]._session.format

        def frame(text: bytes) -> bytes:
            made.append(text)
            return shape.frame(text)

        counting = replace(shape, frame=frame)
        for guest in guests:
            guest._session._transport.format = counting  # type: ignore[misc]
        app.send("hello")
        assert [guest.messages for guest in guests] == [["hello"]] * 3
    assert len(made) == 1


def test_a_refusal_may_contain_a_surrogate() -> None:
    app = PushServer()

    @app.on("read")
    def read(client: Client) -> None:
        raise Refused("no such file caf\udce9.txt")

    @app.on("out")
    def out(client: Client) -> None:
        client.disconnect("caf\udce9")

    with TestServer(app) as server:
        guest = server.connect()
        with pytest.raises(ServerError, match=r"103: no such file caf\?.txt"):
            guest.rpc("read")
        with pytest.raises(Disconnected):
            guest.rpc("out")
        assert guest.closed == (4500, "caf?")
