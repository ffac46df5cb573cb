"""The handlers of an application: arguments, threads, answers, failures and the log."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.python.failure import Failure

from pushserver import Client as AppClient
from pushserver import PushServer, Refused
from pushserver.app.dispatch import Dispatcher
from pushserver.app.handlers import HandlerRegistry, make_handler
from pushserver.app.service import STOP_SECONDS
from pushserver.config.limits import Limits
from pushserver.config.settings import Config
from pushserver.errors import Unavailable
from pushserver.testing import Disconnected, ServerError, TestServer
from pushserver.usercode.rate import LOGGED_AT_ONCE, WINDOW_SECONDS
from tests.unit.fakes.reactors import FullPool
from tests.unit.fakes.tools import Client
from tests.unit.fakes.web import Trouble

SECONDS = Limits().handler_seconds


class Guests:
    """A server with an application, and clients that may wait for an answer."""

    def __init__(self, app: PushServer):
        self.app = app
        # The clients do not answer pings.
        limits = Limits(ping_seconds=10_000.0)
        self.server = TestServer(app, Config(sources={}, limits=limits))
        self.node = self.server.service.node
        self.handlers: Dispatcher = self.node.handlers  # type: ignore[assignment]

    def come(self, data: object = None) -> tuple[Client, list[Any]]:
        """A client that has sent connect, and the frames that it got."""
        client = Client(self.node, connect=False)
        return client, client.say({"id": 1, "connect": {} if data is None else {"data": data}})

    def connected(self) -> Client:
        client, [reply, *_] = self.come()
        assert "connect" in reply, reply
        client.id = 1
        return client

    def ask(self, client: Client, method: str, data: object = None) -> Any:
        """The reply to an rpc; None before it."""
        client.id += 1
        replies = client.say({"id": client.id, "rpc": {"method": method, "data": data}})
        return replies[0] if replies else None

    @property
    def empty(self) -> bool:
        """Whether no state of any client is left."""
        left = (self.node.hub.channels(), len(self.node.peers), self.handlers.clients)
        return left == ({}, 0, {})


@pytest.fixture
def app() -> PushServer:
    return PushServer()


@pytest.fixture
def guests(app: PushServer) -> Iterator[Guests]:
    """Handlers may still be added to `app`."""
    guests = Guests(app)
    yield guests
    guests.server.close()


def call(server: TestServer, method: str, data: object = None) -> Any:
    return server.connect().rpc(method, data)


def yielding(client: AppClient) -> Iterator[bool]:
    yield False


async def yielding_async(client: AppClient) -> AsyncIterator[bool]:
    yield False


class TestAHandler:
    def test_gets_as_many_arguments_as_it_has_parameters(self, app: PushServer) -> None:
        seen: list[tuple[Any, ...]] = []

        def keep(*arguments: Any) -> None:
            seen.append(arguments)

        def one(client: Any) -> None:
            keep(client)

        def more(client: Any, data: Any, more: int = 7, *, flag: bool = True) -> None:
            keep(client, data, more, flag)

        def none() -> None:
            keep()

        app.on("all")(keep)
        app.on("one")(one)
        app.on("more")(more)
        app.on("none")(none)
        app.on("subscribe")(keep)
        app.on("part", namespace="x")(functools.partial(more, more=8))
        with TestServer(app) as server:
            guest = server.connect()
            for event in ("all", "one", "more", "none", "x:part"):
                guest.rpc(event, 5)
            guest.subscribe("c", {"last": 0})
        [client] = {arguments[0] for arguments in seen if arguments}
        assert seen == [
            (client, 5),
            (client,),
            (client, 5, 7, True),
            (),
            (client, 5, 8, True),
            (client, "c", {"last": 0}),
        ]
        assert isinstance(client, AppClient)

    @pytest.mark.parametrize(
        ("event", "function", "words"),
        [
            (
                "connect",
                lambda a, b, c: 0,
                r"of connect is called with \(client, data\): missing .* 'c'",
            ),
            (
                "disconnect",
                lambda a, b, c: 0,
                r"of disconnect is called with \(client, reason\): missing",
            ),
            (
                "subscribe",
                lambda a, b, c, d: 0,
                r"subscribe is called with \(client, channel, data\): missing",
            ),
            (
                "publish",
                lambda a, b, c, d: 0,
                r"publish is called with \(client, channel, data\): missing",
            ),
            ("say", lambda a, b, c: 0, r"of say is called with \(client, data\): missing"),
            ("start", lambda a: 0, "start is called without arguments: missing"),
            ("say", lambda a, *, b: 0, "missing .* 'b'"),
            ("say", 7, "expected a function"),
            ("subscribe", yielding, "yielding of subscribe contains yield, .* returns its result"),
            ("start", functools.partial(yielding), "of start contains yield"),
            ("publish", yielding_async, "yielding_async of publish contains yield"),
        ],
    )
    def test_that_cannot_be_called_is_refused(self, event: str, function: Any, words: str) -> None:
        with pytest.raises(ValueError, match=words):
            make_handler(event, function, None)

    @pytest.mark.parametrize("event", [print, 5])
    def test_needs_an_event(self, app: PushServer, event: Any) -> None:
        with pytest.raises(ValueError, match=r'^@app.on needs the event: @app.on\("message"\)$'):
            app.on(event)
        assert list(app.handlers) == []

    def test_that_is_async_cannot_have_a_thread(self) -> None:
        async def answer() -> None: ...

        with pytest.raises(ValueError, match="answer is async"):
            make_handler("say", answer, True)
        assert [make_handler("say", answer, t).thread for t in (None, False)] == [False, False]
        assert [make_handler("say", print, t).thread for t in (None, True, False)] == [
            True,
            True,
            False,
        ]

    def test_of_an_event_is_unique(self, app: PushServer) -> None:
        app.on("say")(call)
        with pytest.raises(ValueError, match="say has a handler already: call"):
            app.on("say")(call)
        app.on("say", namespace="chat")(call)
        with pytest.raises(ValueError, match="say in chat has a handler already: call"):
            app.on("say", namespace="chat")(call)
        assert list(app.handlers) == ["say", "chat:say"]

    @pytest.mark.parametrize("namespace", ["chat:", "/chat", "chat:room", " chat", "x" * 128, "é"])
    def test_needs_a_valid_namespace(self, app: PushServer, namespace: str) -> None:
        with pytest.raises(ValueError, match=r"invalid namespace .*: expected the part before"):
            app.on("subscribe", namespace=namespace)(call)
        app.on("subscribe", namespace="x" * 127)(call)

    def test_with_the_name_of_a_guard_is_refused(self, app: PushServer) -> None:
        with pytest.raises(ValueError, match="expected on\\('subscribe', namespace='chat'\\)"):
            app.on("chat:subscribe")(call)
        with pytest.raises(ValueError, match="expected on\\('start'\\)"):
            app.on("chat:start")(call)

    def test_is_returned_unchanged_by_the_decorator(self, app: PushServer) -> None:
        assert app.on("say")(call) is call


def test_a_client_cannot_call_events_of_connections() -> None:
    registry = HandlerRegistry()
    for namespace, event in [("", "say"), ("chat", "say"), ("", "a:b"), ("", "connect")]:
        registry.add(namespace, event, make_handler(event, lambda: 0, None))
    names = ["say", "chat:say", "other:say", "a:b", "connect", "chat:connect", "a:connect", ""]
    keys = {
        name: handler.key for name in names if (handler := registry.find_method(name)) is not None
    }
    assert keys == {"say": ("", "say"), "chat:say": ("chat", "say"), "a:b": ("", "a:b")}
    assert registry.find("say", "other") is registry.find("say")
    assert registry.find("say", "chat") is not registry.find("say")


class TestAnAnswer:
    @pytest.mark.parametrize(
        "function",
        [
            lambda client, data: data + 1,
            lambda client, data: succeed(data + 1),
        ],
    )
    @pytest.mark.parametrize("thread", [None, False])
    def test_is_the_result_of_the_function(
        self, app: PushServer, function: Any, thread: bool | None
    ) -> None:
        app.on("add", thread=thread)(function)
        with TestServer(app) as server:
            assert call(server, "add", 1) == 2

    def test_is_the_result_of_a_coroutine(self, app: PushServer, guests: Guests) -> None:
        waits: list[Deferred[int]] = [Deferred(), Deferred()]

        @app.on("add")
        async def add(client: AppClient, data: int) -> int:
            return data + await waits[0] + await waits[1]

        client = guests.connected()
        assert guests.ask(client, "add", 1) is None
        waits[0].callback(2)
        assert client.transport.take() == []
        waits[1].callback(3)
        assert client.transport.take() == [{"id": 2, "rpc": {"data": 6}}]

    @pytest.mark.parametrize("value", [None, 0, False, "", [], {"a": [1.5, None]}])
    def test_may_be_any_json_value(self, app: PushServer, value: object) -> None:
        app.on("echo")(lambda client, data: data)
        with TestServer(app) as server:
            assert call(server, "echo", value) == value

    @pytest.mark.parametrize(
        "value", [object(), float("nan"), {"f": print}, iter([1]), "\ud800", {1: 1, "1": 2}]
    )
    def test_that_json_cannot_hold_is_an_error_for_both(
        self, app: PushServer, trouble: Trouble, value: object
    ) -> None:
        def odd() -> object:
            return value

        app.on("odd")(odd)
        app.on("connect")(lambda client, data: value if data else None)
        with TestServer(app) as server:
            guest = server.connect()
            with pytest.raises(ServerError, match="100: the application's answer does not fit"):
                guest.rpc("odd")
            assert "odd returned an invalid answer: " in trouble.take()[0]
            with pytest.raises(ServerError, match="100: the application's answer does not fit"):
                server.connect(data=1)
            assert "lambda> returned an invalid answer: " in trouble.take()[0]
            assert server.app is not None
            assert len(server.app.clients) == 1

    def test_to_an_event_without_a_handler_is_an_error(
        self, app: PushServer, trouble: Trouble
    ) -> None:
        none = "108: the application has no handler for 'x'"
        with TestServer(app) as server, pytest.raises(ServerError, match=none):
            call(server, "x")
        assert trouble.take() == [
            "a client called 'x', which has no handler; no handler is for clients to call"
        ]
        with TestServer() as server, pytest.raises(ServerError, match="108"):
            call(server, "x")

    def test_to_a_misspelt_event_is_logged_once_a_minute_with_the_nearest_ones(
        self, app: PushServer, guests: Guests, trouble: Trouble
    ) -> None:
        for event in ("connect", "vote", "order:buy", "chat:say"):
            app.on(event)(lambda client: None)
        client = guests.connected()
        for _ in range(3):
            assert guests.ask(client, "votes")["error"]["code"] == 108
        assert trouble.take() == ["a client called 'votes', which has no handler; there is vote"]
        guests.server.advance(WINDOW_SECONDS)
        client = guests.connected()
        guests.ask(client, "x" * 5_000)
        [logged] = trouble.take()
        assert "there is chat:say, order:buy, vote (and 2 that were not logged)" in logged
        assert len(logged) < 250

    def test_of_a_misspelt_event_of_the_server_is_warned_of_at_the_start(
        self, app: PushServer, trouble: Trouble
    ) -> None:
        def vote(client: object) -> None: ...

        app.on("conect")(vote)
        app.on("subscrib", namespace="chat")(vote)
        for event in ("reconnect", "published", "state", "message", "connect", "x"):
            app.on(event)(vote)
        with TestServer(app):
            lines = trouble.take()
        assert [line.partition(" is called when ")[2] for line in lines] == [
            "a client sends 'conect'; did you mean connect?",
            "a client sends 'subscrib'; did you mean subscribe?",
        ]

    def test_to_invalid_json_is_an_error(self, app: PushServer, guests: Guests) -> None:
        called: list[str] = []
        for event in ("connect", "subscribe", "publish", "message", "x"):
            app.on(event)(functools.partial(called.append, event))
        twice = b'{"k":1,"k":2}'
        client = Client(guests.node, connect=False)
        [reply] = client.say(b'{"id":1,"connect":{"data":%b}}' % twice)
        assert (reply["error"]["code"], client.closed, called) == (107, None, [])
        client = guests.connected()
        for command in (
            b'"subscribe":{"channel":"a","data":%b}',
            b'"publish":{"channel":"a","data":%b}',
            b'"rpc":{"method":"x","data":%b}',
            b'"send":{"data":%b}',
        ):
            [reply] = client.say(b'{"id":9,%b}' % (command % twice))
            assert reply["error"]["code"] == 107
            assert "the key 'k' appears twice" in reply["error"]["message"]
        assert called == ["connect"]


class Oops(Exception):
    """An exception of an application."""


class TestAHandlerThat:
    @pytest.mark.parametrize(
        "error", [Oops("x"), SystemExit(3), CancelledError(), asyncio.CancelledError()]
    )
    @pytest.mark.parametrize("how", ["thread", "reactor", "coroutine", "Deferred"])
    def test_raises_is_logged(
        self, app: PushServer, trouble: Trouble, error: BaseException, how: str
    ) -> None:
        def fails() -> Any:
            if how == "Deferred":
                return fail(Failure(error))
            raise error

        async def fails_later() -> None:
            await succeed(None)
            raise error

        if how == "coroutine":
            app.on("fail")(fails_later)
        else:
            app.on("fail", thread=how == "thread")(fails)
        app.on("echo")(lambda client, data: data)
        with TestServer(app) as server:
            one, other = server.connect(), server.connect()
            other.subscribe("c")
            with pytest.raises(ServerError, match="100: the application failed"):
                one.rpc("fail")
            assert "log_failure" in trouble[0]
            [logged] = trouble.take()
            assert logged.startswith("the handler ")
            assert type(error).__name__ in logged
            server.publish("c", 1)
            assert ([p.data for p in other.publications], one.rpc("echo", 1)) == ([1], 1)

    @pytest.mark.parametrize("event", ["connect", "subscribe", "publish", "message", "disconnect"])
    def test_raises_fails_only_its_own_call(
        self, app: PushServer, trouble: Trouble, event: str
    ) -> None:
        fails = [True]

        @app.on(event)
        def sometimes() -> None:
            if fails:
                fails.clear()
                raise Oops

        with TestServer(app) as server:
            if event == "connect":
                with pytest.raises(ServerError, match="100: the application failed"):
                    server.connect()
                assert app.clients == []
            guest = server.connect()
            if event in ("subscribe", "publish"):
                do: Callable[[], None] = functools.partial(guest.subscribe, "a")
                if event == "publish":
                    do = functools.partial(guest.publish, "a", 1)
                with pytest.raises(ServerError, match="100: the application failed"):
                    do()
                do()
            if event == "message":
                guest.send("x")
                guest.send("y")
            guest.leave()
            assert guest.closed == (1000, "")
        assert len(trouble.take()) == 1

    def test_takes_too_long_is_cancelled(
        self, app: PushServer, guests: Guests, trouble: Trouble
    ) -> None:
        waits: Deferred[int] = Deferred()
        app.on("slow", thread=False)(lambda: waits)
        app.on("quick")(lambda: 1)
        client, other = guests.connected(), guests.connected()
        assert guests.ask(client, "slow") is None
        assert guests.ask(other, "quick")["rpc"] == {"data": 1}
        guests.server.advance(SECONDS - 1)
        assert trouble.take() == []
        guests.server.advance(1)
        [reply] = client.transport.take()
        assert reply["error"] == {
            "code": 100,
            "message": "the application did not answer in time",
            "temporary": True,
        }
        [logged] = trouble.take()
        assert logged.endswith("has not answered in 30 s (handler_seconds)")
        # Twisted cancels it; its result is ignored.
        assert waits.called

    def test_ignores_its_cancellation_blocks_nothing(
        self, app: PushServer, guests: Guests, trouble: Trouble
    ) -> None:
        waits: list[Deferred[None]] = [Deferred() for _ in range(9)]
        left = iter(waits)

        @app.on("stubborn")
        async def stubborn() -> None:
            try:
                await next(left)
            except CancelledError:
                await next(left)
            raise Oops("at last")

        client = guests.connected()
        guests.ask(client, "stubborn")
        guests.server.advance(SECONDS)
        [reply] = client.transport.take()
        assert reply["error"]["message"] == "the application did not answer in time"
        assert len(trouble.take()) == 1
        assert guests.ask(client, "nothing")["error"]["code"] == 108
        trouble.clear()
        waits[1].callback(None)
        assert trouble.take() == ["a handler that was late has failed: Oops('at last')"]
        assert client.transport.take() == []

    @pytest.mark.parametrize("thread", [True, False])
    def test_raises_is_logged_without_our_frames(
        self, app: PushServer, trouble: Trouble, thread: bool
    ) -> None:
        def outer() -> None:
            inner()

        def inner() -> None:
            # Our own frames below it are shown.
            app.publish("a b", 1)

        app.on("fail", thread=thread)(outer)
        with TestServer(app) as server, pytest.raises(ServerError):
            call(server, "fail")
        frames = [frame[0] for frame in trouble[0]["log_failure"].frames]
        assert frames == ["outer", "inner", "publish", "check_name"]
        trouble.clear()

    def test_answers_in_time_leaves_no_timer(self, app: PushServer, guests: Guests) -> None:
        waits: Deferred[int] = Deferred()
        app.on("slow", thread=False)(lambda: waits)
        before = len(guests.server.reactor.getDelayedCalls())
        client = guests.connected()
        guests.ask(client, "slow")
        assert len(guests.server.reactor.getDelayedCalls()) == before + 1
        waits.callback(1)
        assert len(guests.server.reactor.getDelayedCalls()) == before

    def test_awaits_asyncio_gets_a_hint(self, app: PushServer, trouble: Trouble) -> None:
        @app.on("nap")
        async def nap() -> None:
            await asyncio.sleep(1)

        with TestServer(app) as server, pytest.raises(ServerError, match="application failed"):
            call(server, "nap")
        assert "twistd --reactor asyncio" in trouble.take()[0]


class TestARefusal:
    @pytest.mark.parametrize(
        ("answer", "close"),
        [
            (False, (4500, "refused by the application")),
            (Refused("who are you?"), (4500, "who are you?")),
            (Refused("later", 4001), (4001, "later")),
        ],
    )
    def test_of_connect_ends_the_connection(
        self, app: PushServer, answer: Any, close: tuple[int, str]
    ) -> None:
        gone: list[str] = []
        app.on("disconnect")(lambda client, reason: gone.append(reason))

        @app.on("connect")
        def no(client: AppClient, data: Any) -> Any:
            if isinstance(answer, Refused):
                raise answer
            return answer

        with TestServer(app) as server:
            with pytest.raises(Disconnected) as refused:
                server.connect()
            assert (refused.value.code, refused.value.reason) == close
            assert (app.clients, server.service.node.hub.channels()) == ([], {})
        assert gone == []

    @pytest.mark.parametrize("event", ["subscribe", "publish"])
    def test_is_that_of_the_namespace_or_of_all(self, app: PushServer, event: str) -> None:
        @app.on(event, namespace="secret")
        def no(client: AppClient, channel: str, data: Any) -> bool:
            return channel == "secret:open"

        @app.on(event)
        async def never(client: AppClient, channel: str) -> None:
            if channel == "never":
                raise Refused("never", 999)

        with TestServer(app) as server:
            guest = server.connect()

            def attempt(channel: str) -> None:
                if event == "subscribe":
                    guest.subscribe(channel)
                else:
                    guest.publish(channel, 1)

            for channel in ("secret:open", "secret", "other:secret"):
                attempt(channel)
            doing = {"subscribe": "subscribing", "publish": "publishing"}[event]
            with pytest.raises(ServerError) as refused:
                attempt("secret:a")
            assert refused.value.code == 103
            assert f"{doing} to secret:a was refused" in str(refused.value)
            with pytest.raises(ServerError, match="999: never"):
                attempt("never")

    @pytest.mark.parametrize("event", ["connect", "subscribe", "publish"])
    def test_is_seen_behind_a_forgotten_await(self, app: PushServer, event: str) -> None:
        async def allowed() -> bool:
            return False

        async def decide(client: AppClient) -> Any:
            return allowed()

        app.on(event)(decide)
        with TestServer(app) as server:
            if event == "connect":
                with pytest.raises(Disconnected):
                    server.connect()
            else:
                guest = server.connect()
                with pytest.raises(ServerError, match=r"103: .* refused by the application"):
                    guest.subscribe("a") if event == "subscribe" else guest.publish("a", 1)

    @pytest.mark.parametrize("event", ["subscribe", "publish"])
    @pytest.mark.parametrize("function", [yielding, yielding_async])
    def test_is_no_generator(
        self, app: PushServer, trouble: Trouble, event: str, function: Any
    ) -> None:
        app.on(event)(lambda client: function(client))
        with TestServer(app) as server:
            guest = server.connect()
            with pytest.raises(ServerError, match="100: the application failed"):
                guest.subscribe("a") if event == "subscribe" else guest.publish("a", 1)
        assert "the handler returned a generator, expected a value" in str(trouble.take())

    def test_by_an_exception_is_an_error(self, app: PushServer) -> None:
        @app.on("buy")
        def buy(client: AppClient, data: Any) -> None:
            raise Refused("sold out", 1404)

        with TestServer(app) as server, pytest.raises(ServerError, match="1404: sold out"):
            call(server, "buy")

    def test_by_False_is_an_answer_of_an_event(self, app: PushServer) -> None:
        app.on("may")(lambda: False)
        with TestServer(app) as server:
            assert call(server, "may") is False


class TestAMessage:
    def test_goes_to_the_handler_of_its_event_or_type(self, app: PushServer) -> None:
        seen: list[tuple[str, Any]] = []
        for event in ("message", "json", "say"):
            app.on(event)(lambda client, data, event=event: seen.append((event, data)))
        app.on("say", namespace="chat")(lambda client, data: seen.append(("chat:say", data)))
        with TestServer(app) as server:
            guest = server.connect()
            guest.send("text")
            guest.send({"a": 1})
            guest.send([1])
            guest.send(None)
            guest.send(1, "say")
            guest.send(2, "chat:say")
            guest.send(3, "unknown")
            guest.send(4, "connect")
            guest.send({"event": "say"})
            guest.send({"event": "unknown"})
            guest.send({"event": 5, "data": 6})
            guest.send({"event": "say", "data": 7, "more": 8})
        assert seen == [
            ("message", "text"),
            ("json", {"a": 1}),
            ("json", [1]),
            ("json", None),
            ("say", 1),
            ("chat:say", 2),
            ("json", {"event": "unknown", "data": 3}),
            ("json", {"event": "connect", "data": 4}),
            ("say", None),
            ("json", {"event": "unknown"}),
            ("json", {"event": 5, "data": 6}),
            ("json", {"event": "say", "data": 7, "more": 8}),
        ]

    def test_goes_to_message_if_json_has_no_handler(self, app: PushServer) -> None:
        seen: list[Any] = []
        app.on("message")(lambda client, data: seen.append(data))
        with TestServer(app) as server:
            server.connect().send({"a": 1})
        assert seen == [{"a": 1}]

    def test_without_any_handler_is_refused_unread(
        self, app: PushServer, guests: Guests, trouble: Trouble
    ) -> None:
        app.on("connect")(lambda client: None)
        client = guests.connected()
        [reply] = client.say(b'{"id":5,"send":{"data":{"k":1,"k":2}}}')
        assert reply["error"]["code"] == 108
        [logged] = trouble.take()
        assert "a client sent a text of the length 13, which has no handler" in logged

    def test_without_a_handler_is_logged_at_a_bounded_rate(
        self, app: PushServer, guests: Guests, trouble: Trouble
    ) -> None:
        app.on("clap")(lambda client: None)
        client = guests.connected()
        assert client.say({"send": {"data": {"event": "klap"}}}) == []
        [logged] = trouble.take()
        assert "a client sent the event 'klap', which has no handler; events" in logged
        assert logged.endswith(": clap")
        [reply] = client.say({"id": 5, "send": {"data": 1}})
        assert reply["error"]["code"] == 108
        assert client.closed is None
        assert trouble.take() == []
        guests.server.advance(WINDOW_SECONDS)
        client = guests.connected()
        client.say({"send": {"data": "x" * 500}})
        [logged] = trouble.take()
        assert len(logged) < 250


class TestTheLog:
    """Clients cannot fill the log."""

    @pytest.mark.parametrize("how", ["raises", "answers what JSON cannot hold"])
    def test_has_some_failures_of_each_handler_and_their_number(
        self, app: PushServer, guests: Guests, trouble: Trouble, how: str
    ) -> None:
        @app.on("vote")
        def vote(client: AppClient, drink: str) -> Any:
            return {"tea": 1}[drink] if how == "raises" else {1j}

        app.on("other")(lambda: 1 / 0)
        client = guests.connected()
        for _ in range(1_000):
            reply = guests.ask(client, "vote", "beer")
            assert reply["error"]["code"] == 100
        assert len(trouble.take()) == LOGGED_AT_ONCE
        guests.ask(client, "other")
        assert len(trouble.take()) == 1
        guests.server.advance(WINDOW_SECONDS / LOGGED_AT_ONCE)
        client = guests.connected()
        for _ in range(10):
            guests.ask(client, "vote", "beer")
        [logged] = trouble.take()
        assert f"(and {1_000 - LOGGED_AT_ONCE} that were not logged)" in logged

    def test_has_one_late_call_a_minute(
        self, app: PushServer, guests: Guests, trouble: Trouble
    ) -> None:
        app.on("hang", thread=False)(lambda: Deferred())
        for _ in range(3):
            for _ in range(50):
                guests.ask(guests.connected(), "hang")
            guests.server.advance(SECONDS)
        first, last = trouble.take()
        assert first.endswith("has not answered in 30 s (handler_seconds)")
        assert last == first + " (and 99 that were not logged)"


class TestADisconnect:
    def test_cannot_be_refused(self, app: PushServer, guests: Guests, trouble: Trouble) -> None:
        @app.on("disconnect")
        def gone(client: AppClient) -> None:
            raise Refused("stay")

        guests.connected().session.closed()
        assert trouble.take()[0].endswith("gone failed: Refused('stay')")
        assert [failed.event for failed in guests.handlers.failures("c")] == ["disconnect"]

    def test_is_notified_once_with_the_reason(self, app: PushServer) -> None:
        gone: list[tuple[str, str]] = []
        app.on("disconnect")(lambda client, reason: gone.append((client.state["name"], reason)))

        @app.on("connect")
        def come(client: AppClient, data: Any) -> None:
            client.state["name"] = data

        with TestServer(app) as server:
            one, two, three = (server.connect(data=name) for name in ("one", "two", "three"))
            one.leave()
            one.leave()
            assert gone == [("one", "")]
            [client] = [c for c in app.clients if c.id == two.id]
            client.disconnect("enough", 4001)
            server.advance(0)
            assert two.closed == (4001, "enough")
            assert gone[1:] == [("two", "enough")]
        assert gone[2:] == [("three", "the server is shutting down")]
        assert three.closed is not None
        assert three.closed[0] == 3001

    def test_is_notified_even_if_the_pool_is_full(
        self, app: PushServer, guests: Guests, trouble: Trouble
    ) -> None:
        gone: list[object] = []
        app.on("disconnect")(gone.append)
        app.on("ask")(lambda: 1)
        client = guests.connected()

        guests.handlers._threads = FullPool()
        for _ in range(3):
            reply = guests.ask(client, "ask")
            assert reply["error"]["message"] == "too many calls wait for the application"
        [logged] = trouble.take()
        assert "too many calls wait for a thread (handler_threads)" in logged
        [failed] = guests.handlers.failures("")
        assert failed.error in logged
        guests.server.advance(WINDOW_SECONDS)
        guests.ask(client, "ask")
        client.session.closed()
        assert (len(gone), len(trouble.take())) == (1, 1)
        assert guests.empty

    def test_is_waited_for_when_the_server_stops(self, app: PushServer, guests: Guests) -> None:
        waits: Deferred[None] = Deferred()
        seen: list[str] = []

        @app.on("disconnect")
        async def leave(client: AppClient) -> None:
            await waits
            seen.append("gone")

        client = guests.connected()
        client.session.closed()
        over: list[object] = []
        guests.server.service.stopService().addBoth(over.append)
        guests.server.advance(STOP_SECONDS / 2)
        assert over == []
        waits.callback(None)
        assert (over, seen) == ([None], ["gone"])

    def test_is_waited_for_only_a_bounded_time(
        self, app: PushServer, guests: Guests, trouble: Trouble
    ) -> None:
        app.on("disconnect", thread=False)(lambda: Deferred())
        for _ in range(2):
            guests.connected().session.closed()
        over: list[object] = []
        guests.server.service.stopService().addBoth(over.append)
        guests.server.advance(STOP_SECONDS)
        assert over == [None]
        assert trouble.take() == ["2 handlers of disconnect still run, and are abandoned"]
        guests.server.advance(SECONDS)
        assert trouble.take() == []

    def test_that_publishes_during_the_stop_does_not_fill_the_log(self, app: PushServer) -> None:
        raised: list[BaseException] = []

        @app.on("disconnect")
        def leave() -> None:
            try:
                app.publish("people", 0)
            except Unavailable as error:
                raised.append(error)
                raise

        with TestServer(app) as server:
            for _ in range(3):
                server.connect()
        assert [str(error) for error in raised] == ["the server is shutting down"] * 3


def test_clients_are_those_that_connect_let_in(app: PushServer) -> None:
    seen: list[int] = []

    @app.on("connect")
    def come(client: AppClient) -> None:
        seen.append(len(app.clients))
        assert not client.connected

    @app.on("disconnect")
    def go(client: AppClient) -> None:
        seen.append(len(app.clients))
        assert not client.connected

    assert app.clients == []
    with TestServer(app, Config(sources={})) as server:
        guests = [server.connect() for _ in range(3)]
        assert {client.id for client in app.clients} == {guest.id for guest in guests}
        assert all(client.connected for client in app.clients)
        guests[1].leave()
        assert len(app.clients) == 2
    assert (seen, app.clients) == ([1, 2, 3, 2, 1, 0], [])


@pytest.mark.parametrize("has_connect", [False, True])
def test_headers_and_the_url_are_forgotten_after_the_connect(has_connect: bool) -> None:
    app = PushServer()
    seen: list[tuple[Any, str]] = []
    if has_connect:
        app.on("connect")(lambda client: None)
    app.on("look")(lambda client: seen.append((client.headers, client.url)))
    with TestServer(app) as server:
        server.connect(headers={"cookie": "session=secret"}).rpc("look", None)
    assert seen == [({}, "")]
