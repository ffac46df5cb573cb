from __future__ import annotations

import json
from typing import Any

import pytest

from pushserver import PushServer
from pushserver.channels.channel import ChannelOptions
from pushserver.config.limits import Limits
from pushserver.config.settings import Auth, Config
from pushserver.config.settings import Server as ServerConfig
from tests.unit.fakes.web import BROWSER, Server, handshake, parse, request

SSE = "text/event-stream"
LINES = "application/x-ndjson"
FOREIGN = "http://evil.example"
APP = "https://app.example"


def begun(server: Server, path: str, **headers: str) -> tuple[int, str, list[Any]]:
    """Status, media type and the first objects of a stream."""
    line = server.open(path, **headers)
    answer = parse(line.take())
    media = answer["content-type"]
    if media == SSE:
        texts = [b[6:] for b in answer.body.split(b"\n") if b.startswith(b"data: ")]
    else:
        texts = answer.body.splitlines()
    return answer.status, media, [json.loads(text) for text in texts if text]


def test_a_program_gets_the_history_as_json() -> None:
    server = Server()
    server.publish(data={"number": 1}, event="newnumber")
    server.publish(data={"number": 2})
    server.publish("other")
    answer = server.get("/channels/numbers")
    epoch = server.hub.history.epoch
    first, second = answer.json.pop("publications")
    assert {k: v for k, v in answer.json.items() if k != "publications"} == {
        "channel": "numbers",
        "epoch": epoch,
        "offset": 2,
        "id": f"{epoch}:3",
    }
    assert (first["data"], first["event"], first["offset"]) == ({"number": 1}, "newnumber", 1)
    assert (second["id"], second["channel"]) == (f"{epoch}:2", "numbers")
    assert answer["cache-control"] == "no-store"
    assert "Accept" in answer["vary"]
    assert answer.body.endswith(b"\n")


def test_reading_an_unknown_channel_does_not_create_it() -> None:
    server = Server()
    answer = server.get("/channels/never")
    assert (answer.json["offset"], answer.json["publications"]) == (0, [])
    assert server.hub.history.channels == {}


def test_a_browser_gets_the_live_page_of_any_channel() -> None:
    server = Server(options=ChannelOptions(history_size=123))
    page = server.get("/channels/chat:lobby", accept=BROWSER)
    assert (page.status, page["content-type"]) == (200, "text/html; charset=utf-8")
    assert page["cache-control"] == "no-cache"
    assert "Accept" in page["vary"]
    assert b'data-channels="chat:lobby"' in page.body
    assert b'data-history-size="123"' in page.body
    assert b'src="../static/' in page.body


def test_the_front_page_is_that_of_the_front_channel() -> None:
    server = Server(config=Config(server=ServerConfig(front_channel="front")))
    for accept in (BROWSER, "application/json", ""):
        page = server.get("/", accept=accept)
        assert page["content-type"].startswith("text/html")
        assert b'data-channels="front"' in page.body
        assert b'src="./static/' in page.body
    head = server.get("/", "HEAD")
    assert (head.status, head.rest) == (200, b"")
    assert int(head["content-length"]) == len(server.get("/").body)


def test_the_front_page_is_the_list_of_several_channels_for_those_who_may_see_it() -> None:
    app = PushServer()
    for name in ("one", "two"):
        app.source(name, every=60.0, name=name)(lambda: 1)
    server = Server(app=app)
    assert b'id="channels"' in server.get("/", accept=BROWSER).body
    guarded = Server(config=Config(auth=Auth(api_keys=["key of 16 letters"])), app=app)
    assert b'data-channels="one"' in guarded.get("/", accept=BROWSER).body
    listed = guarded.get("/", accept=BROWSER, x_api_key="key of 16 letters")
    assert b'id="channels"' in listed.body
    chosen = Config(server=ServerConfig(front_channel="two"))
    other = Server(config=chosen, app=app)
    assert b'data-channels="two"' in other.get("/", accept=BROWSER).body


@pytest.mark.parametrize(
    "path",
    [
        "/channels/a%20b",
        "/channels/-a",
        "/channels/%C3%A4",
        "/channels/%FF",
        "/channels/" + "x" * 129,
    ],
)
@pytest.mark.parametrize("accept", ["application/json", SSE, LINES, BROWSER])
def test_an_invalid_name_is_400_with_the_rule(path: str, accept: str) -> None:
    answer = Server().get(path, accept=accept)
    assert answer.status == 400
    assert b"1 to 128 characters of A-Z a-z 0-9" in answer.body


@pytest.mark.parametrize("path", ["/channels/a/b", "/channels//", "/channels/a/"])
def test_a_path_below_a_channel_is_404(path: str) -> None:
    status, message = Server().get(path).error
    assert (status, message) == (404, f"there is nothing at {path}, expected /channels/NAME")


def test_an_unknown_accept_is_406() -> None:
    for path in ("/channels/a", "/events?channel=a"):
        status, message = Server().get(path, accept="image/png").error
        assert (status, message.startswith("expected Accept to allow")) == (406, True)


def test_a_websocket_is_opened_with_any_accept_header() -> None:
    server = Server()
    server.publish()
    socket = server.websocket("/channels/numbers?last=1", accept=BROWSER)
    note, publication = [json.loads(frame.payload) for frame in socket.seen]
    assert note["subscribed"]["offset"] == 0
    assert publication["offset"] == 1
    server.publish()
    assert [text["offset"] for text in socket.texts()] == [2]


def test_lines_are_a_stream_of_objects() -> None:
    server = Server()
    line = server.open("/channels/numbers", accept=LINES)
    answer = parse(line.take())
    assert (answer["content-type"], answer["cache-control"]) == (LINES, "no-store")
    assert list(json.loads(answer.body)) == ["subscribed"]
    server.publish(data="x")
    text = line.take().split(b"\r\n")[1]
    assert json.loads(text)["data"] == "x"


@pytest.mark.parametrize("accept", [SSE, LINES])
def test_a_stream_resumes_from_its_cursor_or_sends_a_reset(accept: str) -> None:
    server = Server(options=ChannelOptions(history_size=2))
    for _ in range(4):
        server.publish()
    epoch = server.hub.history.epoch
    _, _, objects = begun(server, f"/channels/numbers?since={epoch}:2", accept=accept)
    assert [o["offset"] for o in objects if "offset" in o] == [3, 4]
    for since, reason in ((f"{epoch}:1", "evicted"), (f"{epoch}:9", "ahead"), ("x:1", "epoch")):
        _, _, objects = begun(server, f"/channels/numbers?since={since}", accept=accept)
        (reset,) = [o.get("reset", o) for o in objects if "reason" in o.get("reset", o)]
        assert (reset["reason"], reset["id"]) == (reason, f"{epoch}:4")


def test_a_browser_resumes_by_last_event_id() -> None:
    server = Server()
    for _ in range(3):
        server.publish()
    epoch = server.hub.history.epoch
    path = "/channels/numbers?since=oldest"
    for headers in ({"last_event_id": f"{epoch}:2"}, {}):
        _, _, objects = begun(server, path, accept=SSE, **headers)
        assert [o["offset"] for o in objects[1:]] == ([3] if headers else [1, 2, 3])
    _, _, objects = begun(server, f"/channels/numbers?lastEventId={epoch}:1", accept=SSE)
    assert [o["offset"] for o in objects[1:]] == [2, 3]


@pytest.mark.parametrize("bad", ["nonsense", "é", "e:x", "x" * 1000])
def test_an_invalid_id_causes_a_reset_and_not_the_end(bad: str) -> None:
    server = Server()
    status, _, objects = begun(server, "/channels/numbers", accept=SSE, last_event_id=bad)
    assert status == 200
    assert objects[0]["reason"] == "epoch"


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("since=nonsense", "since: invalid cursor 'nonsense'"),
        ("since=", "since: invalid cursor ''"),
        ("last=-1", "last=-1: expected a whole number from 0 to 10000"),
        ("last=", "last=: expected"),
        ("last=1.5", "last=1.5: expected"),
        ("last=x", "last=x: expected"),
        ("last=%D9%A1", "expected a whole number"),
        ("last=99999999999999999999", "expected a whole number"),
        ("last=10001", "expected a whole number from 0 to 10000"),
        ("since=now&last=1", "since and last exclude each other"),
    ],
)
@pytest.mark.parametrize("accept", ["application/json", SSE, LINES])
def test_an_invalid_query_is_400_and_names_the_parameter(
    query: str, words: str, accept: str
) -> None:
    server = Server()
    status, message = server.get(f"/channels/numbers?{query}", accept=accept).error
    assert (status, words in message) == (400, True), message
    assert len(message) < 300
    assert server.is_empty()


def test_several_channels_are_one_stream_with_one_cursor() -> None:
    server = Server()
    for name in "abcab":
        server.publish(name)
    epoch = server.hub.history.epoch
    path = f"/events?channel=a&channel=b&channel=a&since={epoch}:1"
    for accept in (SSE, LINES):
        _, media, objects = begun(server, path, accept=accept)
        assert media == accept
        ids = [o["id"] for o in objects if "offset" in o]
        assert ids == [f"{epoch}:{seq}" for seq in (2, 4, 5)]
    socket = server.websocket("/events?channel=a&channel=b")
    assert [json.loads(frame.payload)["subscribed"]["channel"] for frame in socket.seen] == [
        "a",
        "b",
    ]
    server.publish("b")
    assert [text["channel"] for text in socket.texts()] == ["b"]
    assert server.get("/events?channel=a", "HEAD", accept=SSE).rest == b""


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("", "0 channels, expected 1 to 3 channel=NAME"),
        ("channel=a&channel=b&channel=c&channel=d", "4 channels, expected 1 to 3"),
        ("channel=a+b", "invalid channel name"),
        ("channel=", "invalid channel name"),
        ("channel=%FF", "invalid channel name"),
    ],
)
def test_invalid_lists_of_channels_are_400(query: str, words: str) -> None:
    answer = Server(Limits(channels_per_client=3)).get(f"/events?{query}", accept=SSE)
    assert answer.status == 400
    assert words in answer.error[1]


@pytest.mark.parametrize("path", ["/channels/a", "/events?channel=a"])
@pytest.mark.parametrize("accept", [SSE, LINES])
def test_a_foreign_page_cannot_read(path: str, accept: str) -> None:
    server = Server()
    answer = server.get(path, accept=accept, origin=FOREIGN)
    assert answer.status == 403
    assert b"allowed_origins" in answer.body
    assert "access-control-allow-origin" not in answer
    assert server.is_empty()
    assert server.get("/channels/a", origin=FOREIGN, accept="application/json").status == 403


@pytest.mark.parametrize("path", ["/channels/a", "/events?channel=a"])
def test_a_foreign_page_cannot_open_a_websocket(path: str) -> None:
    server = Server()
    for origin in (FOREIGN, "null", "http://localhost", "https://localhost:8080"):
        answer = server.get(path, **handshake(origin=origin))
        assert answer.status == 403
    assert server.is_empty()
    server.websocket(path, origin="http://localhost:8080")


def test_an_allowed_page_can_read_and_gets_cors_headers() -> None:
    server = Server(config=Config(server=ServerConfig(allowed_origins=[APP])))
    line = server.open("/channels/a", accept=SSE, origin=APP)
    answer = parse(line.take())
    assert (answer.status, answer["access-control-allow-origin"]) == (200, APP)
    assert "Origin" in answer["vary"]
    assert server.get("/channels/a", accept=SSE, origin=FOREIGN).status == 403
    server.websocket("/channels/a", origin=APP)
    asked = server.get("/channels/a", "OPTIONS", origin=APP)
    assert asked.status == 204
    assert "POST" in asked["access-control-allow-methods"]
    assert server.get("/channels/a", "OPTIONS", origin=FOREIGN).status == 405


@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
@pytest.mark.parametrize("path", ["/channels/a", "/channels/%20", "/api/info", "/nothing"])
def test_an_allowed_page_may_send_its_credentials(path: str, method: str) -> None:
    server = Server(config=Config(server=ServerConfig(allowed_origins=[APP])))
    answer = server.get(path, method, b"1" if method == "POST" else b"", origin=APP)
    assert answer["access-control-allow-origin"] == APP
    assert answer["access-control-allow-credentials"] == "true"
    for origin in (FOREIGN, "null"):
        answer = server.get(path, method, b"1" if method == "POST" else b"", origin=origin)
        assert "access-control-allow-origin" not in answer
        assert "access-control-allow-credentials" not in answer


@pytest.mark.parametrize("method", ["GET", "OPTIONS"])
def test_a_page_that_a_pattern_allows_gets_cors_headers_without_credentials(method: str) -> None:
    section = ServerConfig(allowed_origins=["https://*.example.com", "https://a.example.com:443"])
    server = Server(config=Config(server=section))
    for name, credentials in (("a", True), ("b", False)):
        origin = f"https://{name}.example.com"
        answer = server.get("/channels/a", method, origin=origin)
        assert answer["access-control-allow-origin"] == origin
        assert ("access-control-allow-credentials" in answer) == credentials
        server.websocket("/channels/a", origin=origin)
    answer = server.get("/channels/a", method, origin="https://a.b.example.com")
    assert "access-control-allow-origin" not in answer


@pytest.mark.parametrize("path", ["/channels/a", "/events", "/connection/sse", "/api/publish"])
def test_a_preflight_allows_the_documented_headers(path: str) -> None:
    server = Server(config=Config(server=ServerConfig(allowed_origins=[APP])))
    answer = server.get(path, "OPTIONS", origin=APP, access_control_request_method="POST")
    assert answer.status == 204
    allowed = answer["access-control-allow-headers"]
    assert allowed.split(", ") == [
        "accept",
        "authorization",
        "cache-control",
        "content-type",
        "idempotency-key",
        "last-event-id",
        "x-api-key",
        "x-idempotency-key",
        "x-requested-with",
    ]


def test_over_tls_the_origin_must_be_https() -> None:
    server = Server()
    for origin, status in (("https://localhost:8080", 200), ("http://localhost:8080", 403)):
        line = server.connect(secure=True)
        line.send(request("/channels/a", accept=SSE, origin=origin))
        assert parse(line.take()).status == status


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("/chanels", "there is nothing at /chanels"),
        ("/chanels/a?token=secret", "there is nothing at /chanels/a"),
        ("/channel/a", "there is nothing at /channel/a, expected /channels"),
        ("/event?channel=a", "there is nothing at /event, expected /events"),
        (f"/{'x' * 200}", f"there is nothing at /{'x' * 99}"),
        ('/a%1b"', 'there is nothing at /a%1b"'),
    ],
)
def test_404_names_the_path_and_the_plural_that_was_perhaps_meant(path: str, problem: str) -> None:
    assert Server().get(path).error == (404, problem)
