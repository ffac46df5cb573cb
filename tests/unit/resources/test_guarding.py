"""Channels with a `subscribe` handler, read in every way."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode

import pytest

from pushserver import PushServer, Refused
from pushserver.config.settings import Auth, Config
from pushserver.config.settings import Server as ServerSection
from pushserver.sessions.callbacks import NoHandlers
from tests.unit.fakes.web import BROWSER, Log, Response, Server, handshake

KEY = "s3cret"
APP = "https://app.example"
READERS = {
    "history": ("/channels/{}", {}),
    "long poll": ("/channels/{}?since=now&wait=5", {}),
    "sse": ("/channels/{}", {"accept": "text/event-stream"}),
    "lines": ("/channels/{}", {"accept": "application/x-ndjson"}),
    "websocket": ("/channels/{}", handshake()),
    "several by sse": ("/events?channel=open&channel={}", {}),
    "several by lines": ("/events?channel={}&channel=open", {"accept": "application/x-ndjson"}),
    "several by websocket": ("/events?channel=open&channel={}", handshake()),
}
NO = (
    "the application decides which clients may subscribe to {};"
    " reading it by plain HTTP needs an X-API-Key (auth.api_keys or auth.keys)"
)


@pytest.fixture
def app() -> PushServer:
    app = PushServer()

    @app.on("subscribe", namespace="room")
    def members_only(client: Any, channel: str, data: Any) -> None:
        if data != "member":
            raise Refused("members only")

    return app


@pytest.fixture
def server(app: PushServer) -> Iterator[Server]:
    config = Config(
        auth=Auth([KEY], local_without_key=True), server=ServerSection(allowed_origins=[APP])
    )
    server = Server(config=config, app=app)
    for name in ("room:1", "room", "open", "other:1"):
        server.publish(name, "what was said")
    yield server
    assert server.is_empty()


@pytest.fixture(params=READERS)
def reader(request: pytest.FixtureRequest) -> tuple[str, dict[str, str]]:
    """A path with a placeholder for the name, and headers."""
    path, headers = READERS[request.param]
    return path, dict(headers)


def visit(server: Server, path: str, method: str = "GET", **headers: str) -> Response:
    """The answer, or its beginning; then drop the connection."""
    line = server.open(path, method, **headers)
    for name in ("room:1", "open", "other:1"):
        server.publish(name)
    answer = line.response(method)
    line.vanish()
    return answer


def test_reading_without_a_key_is_refused_even_on_this_machine(
    server: Server, reader: tuple[str, dict[str, str]]
) -> None:
    path, headers = reader
    with Log() as log:
        answer = visit(server, path.format("room:1"), **headers)
    assert answer.error == (403, NO.format("room:1"))
    assert b"said" not in answer.body
    url = path.format("room:1").partition("?")[0]
    assert log.take() == [f"refused 403 to 127.0.0.1: GET {url}: {NO.format('room:1')}"]


def test_reading_with_a_key_is_allowed(server: Server, reader: tuple[str, dict[str, str]]) -> None:
    path, headers = reader
    answer = visit(server, path.format("room:1"), **headers, x_api_key=KEY)
    assert answer.status == (101 if "upgrade" in headers else 200)
    answer = visit(server, path.format("room:1"), **headers, authorization=f"Bearer {KEY}")
    assert answer.status < 300


def test_reading_with_a_wrong_key_is_refused(
    server: Server, reader: tuple[str, dict[str, str]]
) -> None:
    path, headers = reader
    answer = visit(server, path.format("room:1"), **headers, x_api_key="guessed")
    assert answer.error == (401, "the API key is not one of auth.api_keys and auth.keys")
    assert answer["www-authenticate"] == "ApiKey"


def test_other_channels_are_not_affected(
    server: Server, reader: tuple[str, dict[str, str]]
) -> None:
    path, headers = reader
    for name in ("room", "other:1"):
        # A wrong key does not matter where no key is needed.
        for more in ({}, {"x_api_key": "guessed"}):
            line = server.open(path.format(name), **headers, **more)
            server.publish(name, "live")
            answer = line.take()
            assert answer.startswith((b"HTTP/1.1 200", b"HTTP/1.1 101"))
            line.vanish()


def test_a_handler_without_a_namespace_guards_all_channels(
    app: PushServer, server: Server, reader: tuple[str, dict[str, str]]
) -> None:
    path, headers = reader
    app.on("subscribe")(lambda: None)
    for name in ("open", "other:1", "room:1"):
        assert visit(server, path.format(name), **headers).status == 403
        assert visit(server, path.format(name), **headers, x_api_key=KEY).status < 300


@pytest.mark.parametrize("event", ["connect", "publish", "disconnect", "say"])
def test_other_handlers_do_not_guard(event: str) -> None:
    app = PushServer()
    app.on(event)(lambda: None)
    server = Server(app=app)
    assert server.get("/channels/a").status == 200
    assert server.get("/channels/room:1").status == 200
    assert not NoHandlers().guards("a")


@pytest.mark.parametrize("path", ["/channels/room:1", "/channels/open", "/events?channel=room:1"])
@pytest.mark.parametrize("accept", ["*/*", "text/event-stream", "application/x-ndjson"])
def test_head_is_answered_like_get(server: Server, path: str, accept: str) -> None:
    for key in (None, KEY, "guessed"):
        more = {} if key is None else {"x_api_key": key}
        get = visit(server, path, accept=accept, **more)
        head = visit(server, path, "HEAD", accept=accept, **more)
        assert (head.status, head.body) == (get.status, b"")


def test_the_page_of_a_guarded_channel_is_public(server: Server) -> None:
    page = server.get("/channels/room:1", accept=BROWSER)
    assert (page.status, page["content-type"]) == (200, "text/html; charset=utf-8")
    assert b"said" not in page.body
    assert server.get("/channels/room:1", "HEAD", accept=BROWSER).status == 200


def test_publishing_is_not_affected(server: Server) -> None:
    assert server.get("/channels/room:1", "POST", b"1").status == 201
    assert server.get("/status?channel=room:1").status == 200


def test_a_foreign_page_is_refused_for_its_origin_first(server: Server) -> None:
    with Log():
        answer = server.get("/channels/room:1", origin="http://evil.example", x_api_key=KEY)
    assert answer.error[1].startswith("a page of 'http://evil.example' may not use")
    answer = server.get("/channels/room:1", origin=APP)
    assert (answer.status, answer["access-control-allow-origin"]) == (403, APP)


def test_the_server_api_can_read_guarded_channels(server: Server) -> None:
    body = b'{"channel": "room:1", "limit": -1}'
    answer = server.get("/api/history", "POST", body, x_api_key=KEY, x_forwarded_for="1.2.3.4")
    assert [row["data"] for row in answer.json["result"]["publications"]] == ["what was said"]


CONNECT = b'{"id":1,"connect":{}}'
SUBSCRIBE = b'{"id":2,"subscribe":{"channel":"room:1","data":"%b"}}'


@pytest.mark.parametrize("way", ["websocket", "http_stream", "sse"])
def test_subscribing_calls_the_handler_and_needs_no_key(server: Server, way: str) -> None:
    server.service.startService()
    server.clock.advance(0)
    for word, expected in ((b"member", b"what was said"), (b"guest", b"members only")):
        commands = CONNECT + b"\n" + SUBSCRIBE % word
        if way == "websocket":
            socket = server.websocket("/connection/websocket")
            received = b"".join(frame.payload for frame in socket.say(commands))
            line = socket.line
        else:
            query = urlencode({"cf_connect": CONNECT.decode()})
            line = (
                server.open("/connection/http_stream", "POST", CONNECT)
                if way == "http_stream"
                else server.open(f"/connection/sse?{query}")
            )
            [session] = re.findall(rb'"session":"([^"]+)"', line.take())
            body = {"session": session.decode(), "data": (SUBSCRIBE % word).decode()}
            assert server.get("/emulation", "POST", json.dumps(body).encode()).status == 204
            received = line.take()
        assert expected in received
        line.vanish()


def test_of_several_channels_the_first_guarded_one_is_named(server: Server) -> None:
    answer = server.get("/events?channel=open&channel=room:2&channel=room:1")
    assert answer.error == (403, NO.format("room:2"))
