"""A WSGI application gets the requests that are not for the server's own URLs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import pytest

from pushserver import PushServer
from pushserver.resources.pages import asset_folder
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


def test_exception_is_a_500_that_says_nothing_of_it(trouble: Trouble) -> None:
    def fail(environ: Environ, start_response: Any) -> Iterable[bytes]:
        raise ValueError("secret")

    server = WsgiServer(fail)
    assert server.get("/a").error == (500, "the application failed")
    assert trouble.take() == ["the WSGI application failed for /a: ValueError('secret')"]


def test_something_else_than_an_application_is_refused() -> None:
    with pytest.raises(ValueError, match=r"wsgi is 'web:app', expected a WSGI application"):
        PushServer(wsgi="web:app")  # type: ignore[arg-type]
