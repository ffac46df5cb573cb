"""A WSGI application gets the requests that are not for the server's own URLs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from pushserver import PushServer
from pushserver.config.limits import Limits
from pushserver.config.settings import Auth, Config
from pushserver.config.settings import Server as ServerSection
from pushserver.resources.pages import asset_folder
from pushserver.testing import TestServer
from pushserver.web.site import HEADERS
from pushserver.wsgi.interface import Environ
from tests.unit.fakes.web import Trouble
from tests.unit.fakes.wsgi import WsgiServer

OK = "200 OK"
TEXT = [("Content-Type", "text/plain")]


def echo(environ: Environ, start_response: Any) -> Iterable[bytes]:
    """Answers with the method, the path and the body."""
    start_response(OK, TEXT)
    head = f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']} ".encode("latin-1")
    return [head + environ["wsgi.input"].read()]


@pytest.fixture
def server() -> WsgiServer:
    return WsgiServer(echo)


class TestTheUrls:
    @pytest.mark.parametrize(
        "path",
        ["/", "/a", "/a/b/", "//a", "/index.html", "/favicon.ico", "/channel", "/socket.io2"],
    )
    def test_others_than_the_servers_are_the_applications(
        self, server: WsgiServer, path: str
    ) -> None:
        assert server.get(path).body == f"GET {path} ".encode()

    @pytest.mark.parametrize(
        "path", ["/channels/numbers", "/channels/", "/status", "/metrics", "/health/live", "/api/x"]
    )
    def test_the_servers_are_its_own(self, server: WsgiServer, path: str) -> None:
        assert not server.get(path).body.startswith(b"GET ")

    def test_files_of_the_server_have_precedence_over_static_files_of_the_application(
        self, server: WsgiServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        server.send_files(monkeypatch)
        own = server.get("/static/pushserver.js")
        assert own.body == (asset_folder("static") / "pushserver.js").read_bytes()
        for path in ("/static/style.css", "/static/js/", "/static/", "/static", "/static/js/x.js"):
            assert server.get(path).body == f"GET {path} ".encode()

    def test_body_of_a_post_is_the_input(self, server: WsgiServer) -> None:
        assert server.get("/form", "POST", b"a=b").body == b"POST /form a=b"

    def test_answer_has_none_of_the_policies_of_the_servers_pages(self, server: WsgiServer) -> None:
        answer = server.get("/")
        assert {name.decode() for name in HEADERS} & answer.headers.keys() == {"server"}
        assert "content-security-policy" in server.get("/channels/numbers")


def test_application_publishes_in_its_thread_and_gets_a_receipt() -> None:
    def publish(environ: Environ, start_response: Any) -> Iterator[bytes]:
        published = running.push.publish("a", 1)
        start_response(OK, TEXT)
        yield f"{published.offset}".encode()

    running = WsgiServer(publish)
    running.service.startService()
    assert running.get("/").body == b"1"
    assert running.get("/").body == b"2"


def answering(*pieces: bytes, status: str = OK, headers: Any = TEXT) -> WsgiServer:
    """A server whose application answers in these pieces."""

    def application(environ: Environ, start_response: Any) -> Iterable[bytes]:
        start_response(status, headers)
        return pieces

    return WsgiServer(application)


def test_view_publishes_in_a_test_server() -> None:
    web = Flask("shop", static_folder=None)
    push = PushServer(wsgi=web)

    @web.post("/orders")
    def order() -> dict[str, int]:
        return {"offset": push.publish("orders", "tea").offset}

    with TestServer(push) as server:
        client = server.connect()
        client.subscribe("orders")
        assert web.test_client().post("/orders").json == {"offset": 1}
        assert [publication.data for publication in client.publications] == ["tea"]


class TestAnswers:
    def test_without_a_length_are_in_chunks_and_the_connection_stays(self) -> None:
        server = answering(b"a", b"bc")
        line = server.connect()
        for _ in range(2):
            answer = server.ask(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", line)
            assert answer.endswith(b"\r\n\r\n1\r\na\r\n2\r\nbc\r\n0\r\n\r\n")
        assert not line.lost

    def test_of_requests_that_come_together_are_in_their_order(self, server: WsgiServer) -> None:
        line = server.connect()
        line.send(b"".join(b"GET /%d HTTP/1.1\r\nHost: localhost\r\n\r\n" % n for n in range(3)))
        answers = b""
        while answers.count(b"GET /") < 3:
            answers += line.take()
            if server.idle:
                continue
            server.until(lambda: server.idle)
        places = [answers.index(b"GET /%d" % n) for n in range(3)]
        assert places == sorted(places)

    def test_of_http_1_0_end_with_the_connection(self) -> None:
        server = answering(b"a", b"bc")
        line = server.connect()
        answer = server.ask(b"GET / HTTP/1.0\r\n\r\n", line)
        assert answer.endswith(b"\r\n\r\nabc")
        assert b"chunked" not in answer
        assert line.lost

    def test_to_head_have_the_same_headers_and_no_body(self) -> None:
        server = answering(b"abc", headers=[*TEXT, ("Content-Length", "3")])
        whole, head = server.get("/"), server.get("/", "HEAD")
        assert head.headers.keys() == whole.headers.keys()
        assert (whole.body, head.body, head.rest) == (b"abc", b"", b"")

    @pytest.mark.parametrize("status", ["204 No Content", "304 Not Modified"])
    def test_of_some_statuses_have_no_body(self, status: str) -> None:
        server = answering(b"abc", status=status, headers=[])
        line = server.connect()
        answer = server.ask(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", line)
        assert answer.startswith(f"HTTP/1.1 {status}\r\n".encode())
        assert answer.endswith(b"\r\n\r\n")
        assert b"chunked" not in answer
        assert not line.lost

    def test_to_options_are_the_applications(self, server: WsgiServer) -> None:
        answer = server.get("/a", "OPTIONS", origin="https://a.example")
        assert answer.body == b"OPTIONS /a "
        assert not [name for name in answer.headers if name.startswith("access-control")]

    def test_may_repeat_a_header(self) -> None:
        cookies = [("Set-Cookie", "a=1; Path=/"), ("Set-Cookie", "b=2, c")]
        answer = answering(b"", headers=cookies).get("/")
        assert answer.headers["set-cookie"] == ["a=1; Path=/", "b=2, c"]
        assert "content-type" not in answer

    def test_have_the_names_of_the_server_and_no_other_connection(self) -> None:
        own = [("Server", "x"), ("Connection", "close"), ("Transfer-Encoding", "chunked"), *TEXT]
        answer = answering(b"abc", headers=own).get("/")
        assert answer.headers["server"] == ["pushserver"]
        assert answer.headers["transfer-encoding"] == ["chunked"]
        assert answer.body == b"abc"

    def test_longer_than_their_length_do_not_become_the_next_answer(self, trouble: Trouble) -> None:
        evil = b"abcHTTP/1.1 200 OK\r\n\r\nevil"
        server = answering(evil, headers=[("Content-Length", "3")])
        line = server.connect()
        answer = server.ask(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", line)
        assert answer.endswith(b"\r\n\r\nabc")
        assert line.lost
        assert "more than its Content-Length of 3 bytes" in trouble.take()[0]

    def test_shorter_than_their_length_end_the_connection(self, trouble: Trouble) -> None:
        server = answering(b"abc", headers=[("Content-Length", "4")])
        line = server.connect()
        server.ask(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", line)
        assert line.lost
        assert "has 3 bytes, and its Content-Length is 4" in trouble.take()[0]

    def test_header_with_a_line_break_is_an_error(self, trouble: Trouble) -> None:
        server = answering(b"abc", headers=[("X", "a\r\nSet-Cookie: evil=1")])
        answer = server.get("/a")
        assert answer.error == (500, "the application failed")
        assert "set-cookie" not in answer
        assert "expected no control characters" in trouble.take()[0]


class TestFailures:
    @pytest.mark.parametrize("error", [ValueError("secret"), SystemExit("secret")])
    @pytest.mark.parametrize("method", ["GET", "HEAD"])
    def test_before_the_head_are_a_500_that_says_nothing_of_them(
        self, trouble: Trouble, error: BaseException, method: str
    ) -> None:
        def fail(environ: Environ, start_response: Any) -> Iterable[bytes]:
            start_response(OK, [("Set-Cookie", "a=1")])
            raise error

        server = WsgiServer(fail)
        answer = server.get("/a", method)
        assert answer.status == 500
        assert "set-cookie" not in answer
        assert b"secret" not in answer.body
        assert trouble.take() == [f"the WSGI application failed for {method} /a: {error!r}"]
        assert server.idle

    def test_after_the_head_end_the_connection_without_an_end_of_the_body(
        self, trouble: Trouble
    ) -> None:
        def fail(environ: Environ, start_response: Any) -> Iterator[bytes]:
            start_response(OK, TEXT)
            yield b"abc"
            raise ValueError("wrong")

        server = WsgiServer(fail)
        line = server.connect()
        answer = server.ask(b"GET /a HTTP/1.1\r\nHost: localhost\r\n\r\n", line)
        assert answer.endswith(b"3\r\nabc\r\n")
        assert line.lost
        assert len(trouble.take()) == 1

    def test_of_a_flood_are_a_few_lines_of_the_log(self, trouble: Trouble) -> None:
        def fail(environ: Environ, start_response: Any) -> Iterable[bytes]:
            raise ValueError("wrong")

        server = WsgiServer(fail)
        for _ in range(50):
            assert server.get("/a").status == 500
        assert len(trouble.take()) <= 10

    def test_have_a_traceback_that_begins_in_the_application(self, trouble: Trouble) -> None:
        def fail(environ: Environ, start_response: Any) -> Iterable[bytes]:
            raise ValueError("wrong")

        WsgiServer(fail).get("/a")
        [event] = trouble
        assert [frame[0] for frame in event["log_failure"].frames] == ["fail"]
        trouble.clear()


class TestBodiesOverTheBound:
    @pytest.fixture
    def server(self) -> WsgiServer:
        return WsgiServer(echo, limits=Limits(body_bytes=10))

    def test_are_refused_before_they_are_read(self, server: WsgiServer) -> None:
        head = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 11\r\n"
        for more in (b"", b"Expect: 100-continue\r\n"):
            answer = server.ask(head + more + b"\r\n")
            assert answer.startswith(b"HTTP/1.1 413 ")

    def test_are_refused_at_the_chunk_that_is_too_long(self, server: WsgiServer) -> None:
        head = b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
        assert server.ask(head + b"6\r\nabcdef\r\n5\r\nabcde").startswith(b"HTTP/1.1 413 ")

    def test_others_are_asked_for(self, server: WsgiServer) -> None:
        line = server.connect()
        head = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n"
        line.send(head + b"Expect: 100-continue\r\n\r\n")
        assert line.take() == b"HTTP/1.1 100 Continue\r\n\r\n"
        assert b"POST / abc" in server.ask(b"abc", line)


def test_something_else_than_an_application_is_refused() -> None:
    with pytest.raises(ValueError, match=r"wsgi is 'web:app', expected a WSGI application"):
        PushServer(wsgi="web:app")  # type: ignore[arg-type]


class TestBesidePagesOfTheUser:
    @pytest.fixture
    def pages(self, tmp_path: Path) -> Path:
        (tmp_path / "help").mkdir()
        (tmp_path / "help" / "index.html").write_text("help")
        (tmp_path / "style.css").write_text("style")
        return tmp_path

    @pytest.fixture
    def server(self, pages: Path, monkeypatch: pytest.MonkeyPatch) -> WsgiServer:
        server = WsgiServer(echo, config=Config(server=ServerSection(pages=str(pages))))
        server.send_files(monkeypatch)
        return server

    def test_these_go_first(self, server: WsgiServer, pages: Path) -> None:
        assert server.get("/style.css").body == b"style"
        assert server.get("/help/").body == b"help"
        for path in ("/", "/favicon.ico", "/other.css", "/.hidden", "/%2fetc%2fhostname"):
            assert server.get(path).body.startswith(b"GET /")
        (pages / "index.html").write_text("start")
        (pages / "favicon.ico").write_bytes(b"icon")
        assert server.get("/").body == b"start"
        assert server.get("/favicon.ico").body == b"icon"


def test_index_page_beside_the_application_is_not_served(tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("a template")
    server = WsgiServer(echo, beside=str(tmp_path))
    assert server.get("/").body == b"GET / "
    assert server.get("/index.html").body == b"GET /index.html "


def test_static_files_of_flask_that_the_servers_hide_are_logged(
    trouble: Trouble, tmp_path: Path
) -> None:
    (tmp_path / "js").mkdir()
    for name in ("app.css", "own.css", "js/live.js", "centrifuge.js"):
        (tmp_path / name).write_text("")
    flask: Any = partial(echo)
    flask.static_folder, flask.static_url_path = str(tmp_path), "/static"
    WsgiServer(flask)
    place = f"in {tmp_path} is not served"
    assert [text.partition(":")[0] for text in trouble.take()] == [
        f"app.css {place}",
        f"centrifuge.js {place}",
        f"js/live.js {place}",
    ]
    flask.static_url_path = "/files"
    WsgiServer(flask)
    assert trouble == []


def test_host_that_is_not_the_servers_is_refused_over_loopback(
    server: WsgiServer, trouble: Trouble
) -> None:
    assert server.get("/", host="evil.example:8080").status == 403
    trouble.clear()


def test_page_of_another_origin_is_a_matter_of_the_application(server: WsgiServer) -> None:
    answer = server.get("/form", "POST", b"a=b", origin="https://evil.example")
    assert answer.body == b"POST /form a=b"


def test_closed_server_leaves_the_application_to_itself() -> None:
    server = WsgiServer(echo, config=Config(auth=Auth(closed=True, api_keys=["k" * 20])))
    assert server.get("/").body == b"GET / "
    assert server.get("/channels/numbers").status == 401


def test_reload_keeps_the_application_and_says_what_needs_a_restart(server: WsgiServer) -> None:
    server.service.startService()
    changed = Config(server=ServerSection(wsgi="other:app"), limits=Limits(wsgi_threads=1))
    server.service.live.allow(lambda: changed)
    outcome = server.service.live.reload()
    server.clock.advance(0)
    assert server.get("/").body == b"GET / "
    outcomes: list[Any] = []
    outcome.addCallback(outcomes.append)
    [done] = outcomes
    assert set(done.restart) == {"limits.wsgi_threads", "server.wsgi"}
