"""Named keys at every resource: each needs the scope, on the channel."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from twisted.logger import LogLevel

import pushserver
from pushserver import Client, PushServer
from pushserver.auth.keys import SCOPES, Scope
from pushserver.channels.channel import ChannelOptions
from pushserver.config.settings import Auth, Config, KeySettings
from pushserver.resources.api_methods import METHODS
from tests.unit.fakes.web import Log, Response, Server

DOCUMENT = Path(__file__).parents[3] / "docs" / "protocols.md"

WHOLE = ""
"""In place of a channel: the whole server."""


@dataclass(frozen=True)
class Row:
    """A method, the scope that it needs, and a call of it on a channel."""

    scope: Scope
    fields: dict[str, Any] = field(default_factory=dict)
    channel: str = "channel"
    """The field with the channel, or the channels."""

    def body(self, channel: str) -> dict[str, Any]:
        if self.channel == WHOLE:
            return self.fields
        value = [channel] if self.channel == "channels" else channel
        return {**self.fields, self.channel: value}


USER = {"user": ""}
ROWS = {
    "publish": Row("publish", {"data": 1}),
    "broadcast": Row("publish", {"data": 1}, "channels"),
    "history": Row("read"),
    "presence": Row("read"),
    "presence_stats": Row("read"),
    "history_remove": Row("admin"),
    "subscribe": Row("admin", USER),
    "unsubscribe": Row("admin", USER),
    "disconnect": Row("admin", USER, WHOLE),
    "refresh": Row("admin", USER, WHOLE),
    "reload": Row("admin", {}, WHOLE),
    "info": Row("admin", {}, WHOLE),
    "top": Row("admin", {}, WHOLE),
    "nodes": Row("admin", {}, WHOLE),
}
"""All methods but `batch`, which needs what its commands need, and `channels`, which filters."""


def test_each_method_has_a_row() -> None:
    assert {*ROWS, "batch", "channels"} == METHODS.keys()
    assert METHODS["batch"].scope is None
    assert METHODS["channels"].filters
    for name, row in ROWS.items():
        assert METHODS[name].scope == row.scope
        assert not METHODS[name].filters


def test_the_document_has_each_method_with_its_scope() -> None:
    lines = DOCUMENT.read_text().splitlines()
    start = lines.index("| method | scope of the key | on |")
    shown = {}
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        methods, scope, where = (cell.strip() for cell in line.strip("|").split("|"))
        for method in methods.split(", "):
            shown[method.strip("`")] = (scope, where)
    expected = {
        name: (f"`{row.scope}`", "the whole server" if row.channel == WHOLE else "the channel")
        for name, row in ROWS.items()
    }
    expected["broadcast"] = ("`publish`", "each of the channels")
    expected["channels"] = ("`read`", "the channels of the key, others are left out")
    expected["batch"] = ("that of each command", "its channels")
    assert shown == expected


def secret(name: str) -> str:
    return f"the s3cret of {name}"


def make_server(app: PushServer | None = None, **options: Any) -> Server:
    """A server with a key for each scope, on channels and on the whole server."""
    keys = {
        f"{name}-{scope}": KeySettings(
            key=secret(f"{name}-{scope}"), channels=channels, may=[scope]
        )
        for name, channels in {"chat": ["chat:*", "news"], "all": ["*"]}.items()
        for scope in SCOPES
    }
    config = Config(auth=Auth(keys=keys), defaults=ChannelOptions(**options), sources={})
    server = Server(config=config, app=app)
    server.service.live.allow(lambda: config)
    return server


def call(server: Server, key: str, method: str, body: object) -> Response:
    return server.get(f"/api/{method}", "POST", json.dumps(body).encode(), x_api_key=secret(key))


def others(scope: Scope) -> list[Scope]:
    return [each for each in SCOPES if each != scope]


@pytest.mark.parametrize("method", ROWS)
class TestMethod:
    """A method of the API."""

    def test_is_for_keys_with_its_scope(self, method: str) -> None:
        server, row = make_server(), ROWS[method]
        names = ["all"] if row.channel == WHOLE else ["all", "chat"]
        for name in names:
            answer = call(server, f"{name}-{row.scope}", method, row.body("chat:1"))
            assert (answer.status, [*answer.json]) == (200, ["result"])

    def test_is_not_for_keys_with_other_scopes(self, method: str) -> None:
        server, row = make_server(), ROWS[method]
        for name in ("all", "chat"):
            for scope in others(row.scope):
                answer = call(server, f"{name}-{scope}", method, row.body("chat:1"))
                assert answer.status == 403
                message = answer.json["error"]["message"]
                assert f"the key {name}-{scope} may not " in message
                assert f"it may {scope} on the channels " in message
                assert f"(auth.keys.{name}-{scope})" in message
        assert server.hub.history.channels == {}

    def test_is_not_for_keys_of_other_channels(self, method: str) -> None:
        server, row = make_server(), ROWS[method]
        for channel in ("chat", "other", "newsletter", "xchat:1"):
            answer = call(server, f"chat-{row.scope}", method, row.body(channel))
            assert answer.status == 403
            where = "the whole server" if row.channel == WHOLE else channel
            assert f" {where}: it may" in answer.json["error"]["message"]
        assert server.hub.history.channels == {}

    def test_needs_the_same_in_a_batch(self, method: str) -> None:
        server, row = make_server(), ROWS[method]
        for scope in SCOPES:
            answer = call(
                server, f"all-{scope}", "batch", {"commands": [{method: row.body("chat:1")}]}
            )
            [reply] = answer.json["replies"]
            if scope == row.scope:
                assert list(reply) == [method]
            else:
                assert reply["error"]["code"] == 103
                assert f"the key all-{scope} may not" in reply["error"]["message"]


@pytest.mark.parametrize("method", [name for name in ROWS if ROWS[name].channel == "channel"])
def test_an_invalid_name_is_an_error_of_the_call(method: str) -> None:
    row = ROWS[method]
    for key in ("all", "chat"):
        answer = call(make_server(), f"{key}-{row.scope}", method, row.body("chat:1\n"))
        assert (answer.status, answer.json["error"]["code"]) == (200, 107)


def test_a_broadcast_to_one_foreign_channel_publishes_nothing() -> None:
    server = make_server()
    body = {"data": 1, "channels": ["chat:1", "news", "other"]}
    answer = call(server, "chat-publish", "broadcast", body)
    assert answer.status == 403
    assert "may not publish to other:" in answer.json["error"]["message"]
    assert server.hub.history.channels == {}
    answer = call(server, "chat-publish", "broadcast", {**body, "channels": ["chat:1", "news"]})
    assert len(answer.json["result"]["responses"]) == 2


@pytest.mark.parametrize("channels", [[], ["chat:1"]])
def test_a_broadcast_to_no_channel_needs_the_scope_too(channels: list[str]) -> None:
    answer = call(make_server(), "chat-read", "broadcast", {"data": 1, "channels": channels})
    assert answer.status == 403


def test_a_batch_makes_the_calls_that_the_key_permits() -> None:
    server = make_server()
    commands = [
        {"publish": {"channel": "other", "data": 1}},
        {"publish": {"channel": "news", "data": 1}},
        {"broadcast": {"channels": ["news", "other"], "data": 1}},
        {"channels": {}},
        {"disconnect": USER},
    ]
    with Log(LogLevel.info) as log:
        answer = call(server, "chat-publish", "batch", {"commands": commands})
    assert answer.status == 200
    [line] = log.take()
    assert "refused 403 to 127.0.0.1: POST /api/batch: the key chat-publish may not" in line
    codes = [reply.get("error", {}).get("code") for reply in answer.json["replies"]]
    assert codes == [103, None, 103, 103, 103]
    assert list(server.hub.history.channels) == ["news"]


class TestListOfChannels:
    """Both lists: that of the API, and `/channels/`."""

    @pytest.fixture
    @staticmethod
    def server() -> Server:
        server = make_server()
        for name in ("chat:1", "chat:2", "news", "other", "newsletter"):
            server.publish(name)
        return server

    def names(self, server: Server, key: str, pattern: str = "*") -> list[str]:
        answer = call(server, key, "channels", {"pattern": pattern})
        assert answer.status == 200
        return [*answer.json["result"]["channels"]]

    def test_has_the_channels_that_the_key_may_read(self, server: Server) -> None:
        assert self.names(server, "chat-read") == ["chat:1", "chat:2", "news"]
        assert self.names(server, "chat-read", "n*") == ["news"]
        assert len(self.names(server, "all-read")) == 5
        answer = server.get("/channels/", x_api_key=secret("chat-read")).json
        assert {row["channel"] for row in answer["channels"]} == {"chat:1", "chat:2", "news"}
        assert answer["total"] == 3
        answer = server.get("/channels/?q=news", x_api_key=secret("chat-read")).json
        assert answer["total"] == 1
        assert server.get("/channels/", x_api_key=secret("all-read")).json["total"] == 5

    @pytest.mark.parametrize("scope", others("read"))
    def test_is_not_for_a_key_that_may_not_read(self, server: Server, scope: Scope) -> None:
        assert call(server, f"all-{scope}", "channels", {}).status == 403
        answer = server.get("/channels/", x_api_key=secret(f"all-{scope}"))
        assert answer.status == 403
        assert (
            f"the key all-{scope} may not read anything: it may" in answer.json["error"]["message"]
        )


@pytest.mark.parametrize(
    ("body", "headers"),
    [(b"1", {}), (b"1\n2", {"content_type": "application/x-ndjson"})],
    ids=["one", "lines"],
)
class TestPublishing:
    """`POST /channels/NAME`."""

    def test_is_for_keys_with_the_scope_on_the_channel(
        self, body: bytes, headers: dict[str, str]
    ) -> None:
        server = make_server()
        for name, channel in [("all", "x"), ("chat", "chat:1"), ("chat", "news")]:
            key = secret(f"{name}-publish")
            answer = server.get(f"/channels/{channel}", "POST", body, x_api_key=key, **headers)
            assert answer.status == 201

    def test_is_not_for_other_keys(self, body: bytes, headers: dict[str, str]) -> None:
        server = make_server()
        for name, channel in [("all-read", "x"), ("all-admin", "x"), ("chat-publish", "x")]:
            key = secret(name)
            answer = server.get(f"/channels/{channel}", "POST", body, x_api_key=key, **headers)
            assert answer.status == 403
            message = answer.json["error"]["message"]
            assert name in message
            assert "it may " in message
            assert f"(auth.keys.{name})" in message
        assert server.hub.history.channels == {}


READERS = {
    "history": ("/channels/{}", {"accept": "application/json"}),
    "long-poll": ("/channels/{}?since=now&wait=1", {"accept": "application/json"}),
    "lines": ("/channels/{}", {"accept": "application/x-ndjson"}),
    "events": ("/channels/{}", {"accept": "text/event-stream"}),
    "several": ("/events?channel=news&channel={}", {"accept": "text/event-stream"}),
}


@pytest.mark.parametrize("reader", READERS)
class TestReading:
    """Channels for which readers need a key, by HTTP."""

    def status(self, server: Server, reader: str, channel: str, key: str) -> tuple[int, str]:
        path, headers = READERS[reader]
        line = server.open(path.format(channel), x_api_key=secret(key), **headers)
        # It answers the long-poll.
        server.publish(channel)
        response = line.response()
        line.vanish()
        return response.status, response.body.decode()

    def test_is_for_keys_with_the_scope_on_the_channel(self, reader: str) -> None:
        server = make_server(subscribe="key")
        assert self.status(server, reader, "chat:1", "chat-read")[0] == 200
        assert self.status(server, reader, "other", "all-read")[0] == 200

    def test_is_not_for_other_keys(self, reader: str) -> None:
        server = make_server(subscribe="key")
        for channel, key in [("other", "chat-read"), ("chat:1", "all-publish")]:
            status, body = self.status(server, reader, channel, key)
            assert status == 403
            assert f"the key {key} may not read " in body
            assert f"(auth.keys.{key})" in body

    def test_of_a_channel_with_a_handler_needs_the_scope(self, reader: str) -> None:
        app = PushServer()

        @app.on("subscribe")
        def allow(client: Client, channel: str) -> None: ...

        server = make_server(app)
        assert self.status(server, reader, "chat:1", "chat-read")[0] == 200
        status, body = self.status(server, reader, "other", "chat-read")
        assert status == 403
        assert "the key chat-read may not read other: it" in body

    def test_of_a_channel_for_everyone_needs_no_scope(self, reader: str) -> None:
        assert self.status(make_server(), reader, "other", "chat-publish")[0] == 200


@pytest.mark.parametrize("text", ["a.b.c", "with.two.dots"])
def test_a_key_with_two_dots_is_no_token(text: str) -> None:
    keys = {"dots": KeySettings(key=text)}
    config = Config(auth=Auth(keys=keys), defaults=ChannelOptions(subscribe="key"))
    server = Server(config=config)
    for value in (f"Bearer {text}", f"ApiKey {text}"):
        assert server.get("/channels/a", authorization=value).status == 200
        assert server.get("/channels/a", "POST", b"1", authorization=value).status == 201
    assert server.get("/channels/a", authorization="Bearer a.b.d").status == 401


@pytest.mark.parametrize("text", ["undefined", "null", '{"token": "x"}'])
def test_of_a_bearer_it_says_that_this_is_neither_a_key_nor_a_token(text: str) -> None:
    auth = Auth(api_keys=["a key of the server"])
    server = Server(config=Config(auth=auth, defaults=ChannelOptions(subscribe="token")))
    body = server.get("/channels/a", authorization=f"Bearer {text}").body.decode()
    expected = "the API key is not one of auth.api_keys and auth.keys; nor is it a token"
    assert expected in body
    assert "token" not in server.get("/channels/a", x_api_key=text).body.decode()


def test_a_token_in_the_place_of_a_key_is_no_guess() -> None:
    token = pushserver.token("ann", secret="s" * 32)
    for keys in ([], ["a key of the server"]):
        server = Server(config=Config(auth=Auth(api_keys=keys, token_secret="s" * 32)))
        for path, method in [
            ("/api/info", "POST"),
            ("/channels/", "GET"),
            ("/status?channel=a", "GET"),
        ]:
            answer = server.get(path, method, authorization=f"Bearer {token}")
            assert answer.status in (401, 403)
        answer = server.get("/api/info", "POST", authorization=f"Bearer {token}")
        assert "expected an API key (auth.api_keys, auth.keys), got a token" in answer.body.decode()
        assert server.node.metrics.refusals["wrong_key"] == 0


def test_publishing_where_a_handler_decides_needs_the_scope() -> None:
    app = PushServer()

    @app.on("publish")
    def allow(client: Client, channel: str) -> None: ...

    server = make_server(app)
    for key, status in [("chat-publish", 201), ("all-read", 403)]:
        answer = server.get("/channels/news", "POST", b"1", x_api_key=secret(key))
        assert answer.status == status
    assert "the key all-read may not publish to news: it" in answer.json["error"]["message"]


def test_the_status_of_a_channel_is_for_keys_that_may_publish_to_it() -> None:
    server = make_server()

    def status(key: str, channel: str) -> int:
        return server.get(f"/status?channel={channel}", x_api_key=secret(key)).status

    assert [status("chat-publish", "chat:1"), status("all-publish", "x")] == [200, 200]
    assert [status("chat-publish", "x"), status("all-read", "x")] == [403, 403]
