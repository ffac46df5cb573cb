from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from twisted.internet.address import IPv4Address, UNIXAddress
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress

from pushserver import PushServer
from pushserver.config.settings import Auth, Config, KeySettings
from pushserver.config.settings import Server as ServerSection
from pushserver.sources.engine.record import describe
from pushserver.sources.interface import Feed
from pushserver.testing import ServerError, TestServer
from tests.unit.fakes.source_tools import NOW, SourceBench, stopped
from tests.unit.fakes.web import BROWSER, Line, Log, Response, Trouble, request

APP = "https://app.example"
FOREIGN = "http://evil.example"
KEY = "s3cret"
CONFIG = Config(
    sources={},
    auth=Auth([KEY], local_without_key=True),
    server=ServerSection(listen=[], allowed_origins=[APP]),
)
HERE = IPv4Address("TCP", "127.0.0.1", 50000)
PATH = "/status?channel=numbers"


def make_app() -> PushServer:
    """A source that fails at every second tick, one that always fails, and handlers."""
    app = PushServer()
    ticks: list[int] = []

    @app.source("numbers", every=2.0, thread=False)
    def halting() -> int:
        ticks.append(1)
        if len(ticks) % 2:
            raise LookupError(f"tick {len(ticks)}")
        return len(ticks)

    @app.source("elsewhere", retry_seconds=8.0)
    async def broken(feed: Feed) -> None:
        raise OSError("no sensor")

    @app.on("greet")
    def greet(client: Any, data: Any) -> Any:
        if data is None:
            raise KeyError("name")
        return object() if data == "odd" else f"hello {data}"

    @app.on("join", namespace="chat")
    def welcome(client: Any, data: Any) -> None:
        raise RuntimeError("chat\nis \ud800 closed" + "!" * 1_000)

    return app


@pytest.fixture
def server(trouble: Trouble) -> Iterator[TestServer]:
    with TestServer(make_app(), CONFIG) as server:
        yield server
    trouble.clear()


def ask(
    server: TestServer, path: str = PATH, method: str = "GET", peer: IAddress = HERE, **headers: str
) -> Response:
    """The answer to a request over HTTP."""
    line = Line(server.reactor, peer)
    protocol = line.protocol = server.service._site.buildProtocol(peer)
    protocol.makeConnection(line)
    line.send(request(path, method, **headers))
    answer = line.response(method)
    line.vanish()
    return answer


def failed(server: TestServer, channel: str) -> list[tuple[str, str]]:
    """The failed handlers in the status of a channel."""
    handlers = ask(server, f"/status?channel={channel}").json["handlers"]
    return [(handler["name"].rpartition(".")[2], handler["event"]) for handler in handlers]


class TestTheSourcesOfAChannel:
    def test_are_listed_with_their_state(self, server: TestServer) -> None:
        answer = ask(server)
        assert (answer.status, answer["cache-control"]) == (200, "no-store")
        assert answer.json["time"] == 1_000.0
        [source] = answer.json["sources"]
        assert (source["name"], source["channel"], source["state"]) == (
            "halting",
            "numbers",
            "running",
        )
        assert source["last_error"] == source["last_failure"] == "LookupError: tick 1"
        assert (source["error_time"], source["published"]) == (1_000.0, 0)
        server.advance(2)
        [source] = ask(server).json["sources"]
        assert (source["last_error"], source["last_failure"]) == ("", "LookupError: tick 1")
        assert (source["error_time"], source["published"]) == (1_000.0, 1)

    def test_in_back_off_have_the_time_of_the_next_attempt(self, server: TestServer) -> None:
        [source] = ask(server, "/status?channel=elsewhere").json["sources"]
        assert (source["state"], source["last_error"]) == ("backing off", "OSError: no sensor")
        assert 1_004 <= source["next_attempt"] <= 1_008

    def test_are_an_empty_list_without_sources(self, server: TestServer) -> None:
        assert ask(server, "/status?channel=quiet").json == {
            "time": 1_000.0,
            "sources": [],
            "handlers": [],
            "fragments": [],
        }

    def test_are_listed_without_an_application(self) -> None:
        with TestServer() as server:
            assert ask(server).json["handlers"] == []

    @pytest.mark.parametrize(
        ("query", "words"),
        [
            ("?channel=", "invalid channel name"),
            ("?channel=a&channel=b", "2 channels"),
            ("?channel=a+b", "invalid channel name"),
            ("?channel=%FF", "invalid channel name"),
        ],
    )
    def test_belong_to_one_channel(self, server: TestServer, query: str, words: str) -> None:
        status, message = ask(server, f"/status{query}").error
        assert (status, words in message) == (400, True)

    def test_allow_only_reading(self, server: TestServer) -> None:
        assert ask(server, method="POST").status == 405
        assert ask(server, method="HEAD").status == 200


class TestAccess:
    @pytest.mark.parametrize(
        ("headers", "peer"),
        [
            ({}, HERE),
            ({}, UNIXAddress(None)),
            ({"origin": "http://localhost:8080"}, HERE),
            ({"origin": APP}, HERE),
            ({"x_api_key": KEY}, IPv4Address("TCP", "192.0.2.1", 1)),
            ({"authorization": f"Bearer {KEY}", "x_forwarded_for": "192.0.2.1"}, HERE),
        ],
    )
    def test_publishers_see_the_status(
        self, server: TestServer, headers: dict[str, str], peer: IAddress
    ) -> None:
        assert ask(server, peer=peer, **headers).status == 200
        assert b'id="trouble"' in page(server, peer, **headers)

    @pytest.mark.parametrize(
        ("headers", "peer"),
        [
            ({}, IPv4Address("TCP", "192.0.2.1", 1)),
            ({"x_forwarded_for": "192.0.2.1"}, HERE),
            ({"forwarded": "for=192.0.2.1"}, HERE),
            ({"host": "push.example", "via": "1.1 proxy"}, HERE),
            ({"origin": FOREIGN}, HERE),
            ({"origin": "null"}, HERE),
        ],
    )
    @pytest.mark.parametrize("query", ["?channel=numbers", "?channel=a+b"])
    def test_others_are_refused_without_a_log_message(
        self, server: TestServer, headers: dict[str, str], peer: IAddress, query: str
    ) -> None:
        with Log() as said:
            answer = ask(server, f"/status{query}", peer=peer, **headers)
        assert said.take() == []
        words = (
            "the status of a channel is only for those who may publish (auth.api_keys or auth.keys)"
        )
        assert answer.error == (403, words)
        assert b"trouble" not in page(server, peer, **headers)


class TestTheServer:
    """`/status` without a channel."""

    def test_has_facts_and_findings(self, server: TestServer) -> None:
        answer = ask(server, "/status")
        assert (answer.status, answer["cache-control"]) == (200, "no-store")
        facts, findings = answer.json["facts"], answer.json["findings"]
        assert facts["time"] == 1_000.0
        assert [source["name"] for source in facts["sources"]] == ["halting", "broken"]
        assert facts["store"] is None
        assert facts["max_descriptors"] > 0
        broken = next(each for each in findings if each["text"].startswith("broken "))
        assert broken == {
            "level": "error",
            "subject": "sources",
            "text": "broken of channel elsewhere fails: OSError: no sensor",
            "fix": "journalctl -u pushserver | grep -A 20 'source broken'",
        }
        assert all(each["fix"] or each["level"] == "ok" for each in findings)

    def test_lists_recent_refusals_with_their_causes(self, server: TestServer) -> None:
        for _ in range(3):
            ask(server, "/channels/numbers", origin=FOREIGN)
        ask(server, "/channels/numbers", "POST", x_api_key="guess")
        key, page = ask(server, "/status").json["facts"]["refusals"]
        assert (key["status"], key["setting"], key["count"]) == (401, "auth.api_keys", 1)
        assert (page["status"], page["setting"]) == (403, "server.allowed_origins")
        assert (page["address"], page["count"], page["time"]) == ("127.0.0.1", 3, 1_000.0)
        assert "guess" not in json.dumps([key, page])

    @pytest.mark.parametrize(
        ("query", "line"),
        [
            ("?proxy=HAProxy", "http-request set-header X-Forwarded-Proto https if { ssl_fc }"),
            ("?proxy=%FF", "proxy_set_header X-Forwarded-Proto $scheme;"),
            ("", "proxy_set_header X-Forwarded-Proto $scheme;"),
        ],
    )
    def test_has_fixes_for_the_proxy_in_front(
        self, server: TestServer, query: str, line: str
    ) -> None:
        answer = ask(server, f"/status{query}", x_forwarded_for="192.0.2.1", x_api_key=KEY)
        assert any(line in each["fix"] for each in answer.json["findings"])

    def test_shows_the_headers_of_a_request_and_how_they_count(self, server: TestServer) -> None:
        request = ask(
            server, "/status", x_forwarded_for="192.0.2.1", host="push.example", x_api_key=KEY
        ).json["facts"]["request"]
        assert request == {
            "version": "HTTP/1.1",
            "peer": "127.0.0.1",
            "client": "127.0.0.1",
            "origin": "http://push.example",
            "headers": {"Host": "push.example", "X-Forwarded-For": "192.0.2.1"},
            "forwarded_by": "x-forwarded-for",
            "trusted": False,
        }

    @pytest.mark.parametrize("key", ["", "narrow", "publisher"])
    def test_is_only_for_keys_that_administer_all_of_it(self, key: str) -> None:
        keys = {
            "narrow": KeySettings(key="narrow", may=["admin"], channels=["orders"]),
            "publisher": KeySettings(key="publisher", may=["publish", "read"]),
        }
        config = replace(CONFIG, auth=Auth([KEY], keys=keys))
        with TestServer(config=config) as server, Log() as log:
            answer = ask(server, "/status", x_api_key=key) if key else ask(server, "/status")
            assert ask(server, "/status", x_api_key=KEY).status == 200
        assert log.take() == []
        words = "the status of the server is only for keys with the scope admin"
        assert answer.error == (403, f"{words} (auth.api_keys or auth.keys)")

    def test_never_has_a_key_or_a_cookie(self, server: TestServer) -> None:
        answer = ask(server, "/status", x_api_key=KEY, cookie="session=c00kie")
        assert answer.status == 200
        assert KEY.encode() not in answer.body
        assert b"c00kie" not in answer.body


def test_guessed_key_is_refused_as_everywhere(server: TestServer) -> None:
    for path in ("/status?channel=numbers", "/channels/numbers"):
        answer = ask(server, path, accept=BROWSER, x_api_key="guessed")
        assert answer.status == 401
        assert b"the API key is not one of auth.api_keys" in answer.body


def page(server: TestServer, peer: IAddress, **headers: str) -> bytes:
    """The live page for a request with these headers."""
    answer = ask(server, "/channels/numbers", peer=peer, accept=BROWSER, **headers)
    assert answer.status == 200
    return answer.body.replace(b"js/trouble.js", b"")


class TestAHandlerThatFails:
    def test_is_shown_with_its_last_failure_only(self, server: TestServer) -> None:
        guest = server.connect()
        assert guest.rpc("greet", "Ada") == "hello Ada"
        assert failed(server, "numbers") == []
        for _ in range(3):
            server.advance(1)
            with pytest.raises(ServerError):
                guest.rpc("greet")
        [handler] = ask(server).json["handlers"]
        assert handler["name"].endswith("greet")
        assert {**handler, "name": ""} == {
            "name": "",
            "event": "greet",
            "error": "KeyError: 'name'",
            "time": 1_003.0,
        }
        with pytest.raises(ServerError):
            guest.rpc("greet", "odd")
        [handler] = ask(server).json["handlers"]
        assert handler["error"].startswith("invalid answer: ")

    def test_is_shown_on_the_channels_of_its_namespace(self, server: TestServer) -> None:
        guest = server.connect()
        for event in ("greet", "chat:join"):
            with pytest.raises(ServerError):
                guest.rpc(event)
        assert failed(server, "numbers") == [("greet", "greet")]
        assert failed(server, "chatter:a") == [("greet", "greet")]
        assert failed(server, "chat:lobby") == [("greet", "greet"), ("welcome", "chat:join")]

    def test_is_shown_in_one_short_line(self, server: TestServer) -> None:
        with pytest.raises(ServerError):
            server.connect().rpc("chat:join")
        [handler] = ask(server, "/status?channel=chat:lobby").json["handlers"]
        assert handler["error"].startswith("RuntimeError: chat is ? closed!!!")
        assert len(handler["error"]) < 600

    def test_by_its_time_limit_is_shown_too(self, trouble: Trouble) -> None:
        app = PushServer()

        @app.on("message")
        async def hang(client: Any, data: Any) -> None:
            await Deferred()

        with TestServer(app, CONFIG) as server:
            server.connect().send("x")
            server.advance(60)
            [handler] = ask(server).json["handlers"]
        assert handler["error"] == "has not answered in 30 s (handler_seconds)"
        assert trouble.take()[0].endswith(f"hang {handler['error']}")

    def test_by_a_refusal_is_not_shown(self) -> None:
        app = PushServer()

        @app.on("subscribe")
        def no(client: Any, channel: str, data: Any) -> bool:
            return False

        with TestServer(app, CONFIG) as server:
            with pytest.raises(ServerError):
                server.connect().subscribe("numbers")
            assert failed(server, "numbers") == []


def test_an_error_may_contain_any_text(trouble: Trouble) -> None:
    for text in ("\ud800", "a\nb", "x" * 10_000):
        assert len(json.dumps(describe(ValueError(text)), ensure_ascii=False).encode()) < 600
    bench = SourceBench()
    runner = bench.script(lambda feed: report(feed, "\udcff"), retry_seconds=4.0)
    status = runner.status()
    assert status.last_error == status.last_failure == "?"
    assert status.next_attempt is None
    bench.clock.advance(1)
    status = runner.status()
    assert status.next_attempt is not None
    assert NOW + 3 <= status.next_attempt <= NOW + 5
    stopped(runner)
    assert runner.status().next_attempt is None
    trouble.clear()


async def report(feed: Feed, message: str) -> None:
    feed.trouble(message)
    await feed.sleep(1)
    raise RuntimeError
