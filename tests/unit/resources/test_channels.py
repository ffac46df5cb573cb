from __future__ import annotations

import pytest

from pushserver.config.limits import Limits
from pushserver.config.settings import Config
from pushserver.config.settings import Server as ServerConfig
from tests.unit.fakes.web import BROWSER, Server, handshake, parse, request

SSE = "text/event-stream"
LINES = "application/x-ndjson"
FOREIGN = "http://evil.example"
APP = "https://app.example"


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
