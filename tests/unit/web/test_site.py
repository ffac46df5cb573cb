from __future__ import annotations

import pytest
from twisted.web.server import Site

from pushserver.config.limits import Limits
from pushserver.web.site import LONG_BODY
from tests.unit.fakes.web import BROWSER, Server, Trouble, handshake, parse, request

SMALL = Limits(body_bytes=10)


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/channels/numbers",
        "/channels/",
        "/events",
        "/nothing",
        "/static/favicon.svg",
        "/static/nothing.js",
        "/favicon.ico",
    ],
)
def test_every_answer_has_the_security_headers(server: Server, path: str) -> None:
    answer = server.get(path)
    assert answer["x-content-type-options"] == "nosniff"
    assert answer["referrer-policy"] == "same-origin"
    policy = answer["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'self'" in policy
    assert "unsafe" not in policy
    assert answer["server"] == "pushserver"


@pytest.mark.parametrize(
    "data",
    [
        request("/"),
        request("/nothing"),
        request("/", host=""),
        request("/", "POST", b"x" * 2_000_000),
        request("/connection/websocket"),
        request("/connection/websocket", **handshake(sec_websocket_key="")),
        request("/connection/websocket", **handshake(sec_websocket_version="7")),
        request("/connection/websocket", **handshake()),
    ],
)
def test_no_answer_has_versions(data: bytes, trouble: Trouble) -> None:
    line = Server().connect()
    line.send(data)
    head = line.take().partition(b"\r\n\r\n")[0].lower()
    # Autobahn's own refusals have no Server header at all, and a line in the log.
    assert b"server: pushserver" in head or trouble.take()
    for word in (b"twisted", b"autobahn", b"26."):
        assert word not in head


def test_slow_request_is_cut_off_however_it_drips() -> None:
    server = Server(Limits(request_seconds=15))
    line = server.connect()
    for _ in range(14):
        line.send(b"G")
        server.clock.advance(1)
    assert not line.lost
    line.send(b"E")
    server.clock.advance(1)
    assert line.lost
    assert server.is_empty()


def test_slow_body_is_cut_off_however_it_drips() -> None:
    server = Server(Limits(request_seconds=15))
    line = server.connect()
    line.send(b"POST /channels/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n")
    for _ in range(16):
        line.send(b"1")
        server.clock.advance(1)
    assert line.lost
    assert server.hub.history.seq == 0


def test_silent_connection_is_closed_and_then_dropped() -> None:
    server = Server(Limits(request_seconds=15))
    line = server.connect()
    line.reading = False
    line.unread = 1
    server.clock.advance(15)
    assert line.disconnecting
    assert not line.lost
    server.clock.advance(60)
    assert line.aborted
    assert server.is_empty()


def test_each_request_on_a_connection_has_all_its_time() -> None:
    server = Server(Limits(request_seconds=15))
    line = server.connect()
    for _ in range(5):
        server.clock.advance(10)
        line.send(request("/channels/a"))
        assert line.response().status == 200
    server.clock.advance(16)
    assert line.lost


def test_stream_may_last_longer_than_a_request() -> None:
    server = Server(Limits(request_seconds=15))
    line = server.open("/channels/a", accept="text/event-stream")
    server.clock.advance(1_000)
    assert not line.disconnecting


@pytest.mark.parametrize("length", [11, 10**9])
def test_body_with_too_long_a_length_is_refused_before_it_arrives(length: int) -> None:
    server = Server(SMALL)
    line = server.connect()
    line.send(
        b"POST /channels/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % length
    )
    answer = line.response()
    assert answer.error == (413, "the body has more than 10 bytes (body_bytes)")
    assert answer["connection"] == "close"
    assert answer["server"] == "pushserver"
    assert line.lost


def test_bytes_after_the_refusal_are_neither_answered_nor_kept() -> None:
    server = Server(SMALL)
    line = server.connect()
    line.reading = False
    line.send(b"POST /channels/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 20\r\n\r\n")
    first = line.take()
    line.send(b"1" * 15)
    line.send(b"1" * 5)
    assert line.take() == b""
    assert parse(first).status == 413
    assert server.hub.history.seq == 0


def test_chunked_body_is_refused_when_it_gets_too_long() -> None:
    server = Server(SMALL)
    line = server.connect()
    line.send(b"POST /channels/a HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n")
    line.send(b"a\r\n1234567890\r\n")
    assert line.take() == b""
    line.send(b"1\r\n1\r\n")
    assert line.response().error[0] == 413
    assert line.lost
    line.send(b"1\r\n1\r\n0\r\n\r\n")
    assert line.take() == b""
    assert server.hub.history.seq == 0


def test_body_of_the_limit_is_accepted_whole_or_in_chunks() -> None:
    server = Server(SMALL)
    assert server.get("/channels/a", "POST", b"1234567890").status == 201
    line = server.connect()
    line.send(b"POST /channels/a HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n")
    line.send(b"5\r\n12345\r\n5\r\n67890\r\n0\r\n\r\n")
    assert line.response().status == 201
    (first, second) = server.hub.history.peek("a").last(9)
    assert first.data == second.data == b"1234567890"


def test_expectation_with_too_long_a_body_gets_no_100_continue() -> None:
    line = Server(SMALL).connect()
    line.reading = False
    line.send(
        b"POST /channels/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 20\r\n"
        b"Expect: 100-continue\r\n\r\n"
    )
    assert line.take().startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ("GET / HTTP/1.1\r\n", "0 Host headers, expected one"),
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n", "2 Host headers"),
        ("GET / HTTP/1.1\r\nHost: a b\r\n", "invalid Host 'a b'"),
        ("GET / HTTP/1.1\r\nHost:\r\n", "invalid Host ''"),
        ("GET / HTTP/1.1\r\nHost: a/b\r\n", "invalid Host"),
        ("GET / HTTP/1.1\r\nHost: <script>\r\n", "invalid Host"),
        ("GET / HTTP/1.0\r\nHost: a:99999\r\n", "invalid Host"),
        ("GET / HTTP/1.1\r\nHost: u@a\r\n", "invalid Host"),
    ],
)
def test_request_has_one_valid_host(lines: str, words: str) -> None:
    line = Server().connect()
    line.send(lines.encode() + b"\r\n")
    status, message = line.response().error
    assert (status, words in message) == (400, True)
    assert line.lost


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "OPTIONS"])
@pytest.mark.parametrize(
    "name",
    [
        "Accept",
        "Authorization",
        "Content-Type",
        "Cookie",
        "Host",
        "Idempotency-Key",
        "If-Modified-Since",
        "If-None-Match",
        "Last-Event-ID",
        "Origin",
        "Range",
        "Sec-WebSocket-Protocol",
        "Upgrade",
        "User-Agent",
        "X-API-Key",
        "X-Forwarded-For",
        "X-Idempotency-Key",
    ],
)
def test_undecodable_header_is_no_internal_error(
    server: Server, name: str, method: str, trouble: Trouble
) -> None:
    for path in ("/", "/channels/a", "/connection/websocket", "/api/info", "/static/app.css"):
        fields = {"Host": b"localhost", "Content-Length": b"2", name: b"\xff\xfe"}
        lines = [b"%b: %b" % (key.encode(), value) for key, value in fields.items()]
        line = server.connect()
        line.send(b"\r\n".join([f"{method} {path} HTTP/1.1".encode(), *lines, b"", b"{}"]))
        status = line.response(method).status
        assert status < 500
        assert status == 400 or name != "Host"
        line.vanish()
    warnings = trouble.take()
    assert [text for text in warnings if not text.startswith("a proxy on this machine")] == []
    assert len(warnings) == (name == "X-Forwarded-For" and method != "OPTIONS")


@pytest.mark.parametrize(
    ("target", "path"),
    [
        ("http://localhost/channels/a", "/channels/a"),
        ("http://localhost:8080/channels/a?limit=1", "/channels/a?limit=1"),
        ("HTTP://LOCALHOST/channels/a", "/channels/a"),
        ("https://localhost/channels/a", "/channels/a"),
        ("http://localhost", "/"),
        ("http://localhost?x=/", "/?x=/"),
        ("http://localhost/http://localhost/channels/a", "/http://localhost/channels/a"),
        ("http://localhost/nothing", "/nothing"),
        ("http://localhost//", "//"),
    ],
)
def test_a_url_as_the_target_is_its_path(target: str, path: str) -> None:
    server = Server()
    server.publish("a")
    answers = []
    for text in (path, target):
        line = server.connect()
        line.send(request(text, accept="application/json"))
        answer = line.response()
        answers.append((answer.status, answer.body))
    assert answers[0] == answers[1]


def test_the_host_is_that_of_the_target() -> None:
    server = Server()
    for target, host, status in (
        ("http://localhost/channels/a", "rebound.example", 200),
        ("http://rebound.example/channels/a", "localhost", 403),
        ("http://u@localhost/channels/a", "localhost", 400),
        ("http:///channels/a", "localhost", 400),
        ("http://a%20b/channels/a", "localhost", 400),
    ):
        line = server.connect()
        line.send(f"GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        assert line.response().status == status
    line = server.connect()
    line.send(b"GET http://localhost/channels/a HTTP/1.0\r\n\r\n")
    assert line.take().split()[1] == b"200"


@pytest.mark.parametrize("hosts", ["", "Host: localhost\r\nHost: localhost\r\n"])
def test_a_url_as_the_target_does_not_replace_the_one_host_header(hosts: str) -> None:
    line = Server().connect()
    line.send(f"GET http://localhost/ HTTP/1.1\r\n{hosts}\r\n".encode())
    assert line.response().error[0] == 400


def test_a_websocket_and_a_post_may_name_a_url() -> None:
    server = Server()
    line = server.connect()
    line.send(request("http://localhost:8080/channels/a", "POST", b"1"))
    assert line.response().status == 201
    line = server.connect()
    line.send(request("http://localhost:8080/channels/a", **handshake()))
    assert line.take().startswith(b"HTTP/1.1 101 ")


@pytest.mark.parametrize(
    "target", ["channels/a", "xchannels/a", "ftp://localhost/channels/a", "localhost:8080", "?x"]
)
def test_a_target_that_is_no_path_and_no_url_is_refused(target: str) -> None:
    line = Server().connect()
    line.send(request(target))
    status, message = line.response().error
    assert (status, "invalid target" in message) == (400, True)
    assert line.lost


@pytest.mark.parametrize("piece", ["/", "/a", "/..", "/%2f", "/channels/"])
@pytest.mark.parametrize("base", ["", "/channels/a", "/static", "/hooks"])
def test_the_answer_to_a_long_path_is_short(base: str, piece: str) -> None:
    path = base + piece * (16_000 // len(piece))
    answer = Server().get(path, accept=BROWSER)
    assert answer.status == 404
    assert len(answer.body) < 8_000


def test_http_1_0_needs_no_host() -> None:
    line = Server().connect()
    line.send(b"GET /channels/a HTTP/1.0\r\n\r\n")
    assert line.take().split()[1] == b"200"
    assert line.lost


@pytest.mark.parametrize(
    ("version", "fields"),
    [
        ("1.1", ["Transfer-Encoding: chunked", "Transfer-Encoding: chunked"]),
        ("1.1", ["Transfer-Encoding: identity", "Transfer-Encoding: chunked"]),
        ("1.0", ["Transfer-Encoding: chunked"]),
        ("1.1", ["Transfer-Encoding: gzip, chunked"]),
        ("1.1", ["Transfer-Encoding: chunked", "Content-Length: 3"]),
        ("1.1", ["Content-Length: 3", "Content-Length: 4"]),
        ("1.1", ["Content-Length: -3"]),
        ("1.1", ["Content-Length: 3a"]),
    ],
)
def test_body_with_an_ambiguous_end_is_refused(version: str, fields: list[str]) -> None:
    server = Server()
    line = server.connect()
    head = [f"POST /channels/a HTTP/{version}", "Host: localhost", *fields, "", ""]
    line.send("\r\n".join(head).encode() + b"3\r\n123\r\n0\r\n\r\n")
    assert line.take().startswith(b"HTTP/1.1 400 ")
    assert line.lost
    assert server.hub.history.seq == 0


def test_pipelined_requests_are_answered_in_order() -> None:
    line = Server().connect()
    line.send(request("/channels/a?last=1") + request("/nothing") + request("/channels/b"))
    data = line.take()
    for status in (200, 404, 200):
        answer = parse(data)
        assert answer.status == status
        data = answer.rest
    assert data == b""


def test_drain_waits_for_the_last_connection() -> None:
    server = Server()
    fired: list[None] = []
    server.site.drain().addCallback(fired.append)
    assert fired == [None]
    one, two = server.connect(), server.open("/channels/a")
    two.reading, two.unread = False, 1
    server.site.drain().addCallback(fired.append)
    server.clock.advance(0)
    assert (one.lost, two.lost, len(fired)) == (True, False, 1)
    two.read()
    server.clock.advance(0)
    assert (two.lost, len(fired)) == (True, 2)


def test_abort_drops_the_remaining_connections() -> None:
    server = Server()
    line = server.connect()
    line.reading, line.unread = False, 1
    fired: list[None] = []
    server.site.drain().addCallback(fired.append)
    server.site.abort()
    server.clock.advance(0)
    assert (line.aborted, fired) == (True, [None])


def test_websocket_is_not_a_connection_of_the_site() -> None:
    server = Server()
    socket = server.websocket("/channels/a")
    assert server.site.channels == set()
    socket.line.vanish()
    assert server.is_empty()


def test_refusal_for_a_browser_is_a_page() -> None:
    answer = Server().get("/nothing", accept=BROWSER)
    assert answer.status == 404
    assert answer["content-type"] == "text/html; charset=utf-8"
    assert b"there is nothing at /nothing" in answer.body


def test_tls_offers_http_1_1_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also with the package h2, which Twisted prefers."""
    monkeypatch.setattr("twisted.web.http.H2_ENABLED", True)
    site = Server().site
    assert Site.acceptableProtocols(site) == [b"h2", b"http/1.1"]
    assert site.acceptableProtocols() == [b"http/1.1"]


class TestLongBody:
    def test_waits_for_its_turn_and_others_do_not(self) -> None:
        server = Server()
        long = [server.connect() for _ in range(3)]
        for line in long:
            line.protocol.dataReceived(request("/channels/a", "POST", b'"%b"' % (b"x" * LONG_BODY)))
        quick = server.connect()
        quick.protocol.dataReceived(request("/channels/a", "POST", b"1"))
        assert quick.value().startswith(b"HTTP/1.1 201 ")
        assert [line.response().status for line in (quick, *long)] == [201] * 4

    def test_does_not_start_before_the_next_turn(self) -> None:
        server = Server()
        line = server.connect()
        line.protocol.dataReceived(request("/channels/a", "POST", b'"%b"' % (b"x" * LONG_BODY)))
        assert line.value() == b""
        assert line.response().status == 201
        line.send(request("/channels/a", "POST", b"2"))
        assert line.response().status == 201

    def test_of_a_peer_that_left_is_not_handled(self) -> None:
        server = Server()
        line = server.connect()
        line.protocol.dataReceived(request("/channels/a", "POST", b'"%b"' % (b"x" * LONG_BODY)))
        line.vanish()
        line.settle()
        assert server.node.history.top("a") == 0
        assert server.is_empty()
