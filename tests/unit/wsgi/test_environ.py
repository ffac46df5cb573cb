"""The environment of a request (PEP 3333), from its bytes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast
from wsgiref.validate import validator

import pytest
from twisted.internet.address import UNIXAddress
from twisted.web.resource import Resource
from twisted.web.server import Site

from pushserver.config.settings import Config
from pushserver.config.settings import Server as ServerSection
from pushserver.wsgi.interface import Application, Environ
from tests.unit.fakes.web import Line
from tests.unit.fakes.wsgi import WsgiServer


class Recorder:
    """An application that keeps the environment and the body of its last request."""

    environ: Environ
    body: bytes

    def __call__(self, environ: Environ, start_response: Any) -> Iterable[bytes]:
        self.environ = environ
        length = int(environ.get("CONTENT_LENGTH") or 0)
        self.body = environ["wsgi.input"].read(length)
        start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "2")])
        return [b"ok"]


class Case:
    """A server with an application that records, checked by the validator of wsgiref."""

    def __init__(self, *proxies: str):
        self.recorder = Recorder()
        checked = cast(Application, validator(cast(Any, self.recorder)))
        config = Config(server=ServerSection(trusted_proxies=[*proxies], names=["shop.example"]))
        self.server = WsgiServer(checked, config=config)

    def ask(self, *lines: str | bytes, body: bytes = b"", line: Line | None = None) -> Environ:
        """The environment of a request of these lines, without the last empty one."""
        texts = [each if isinstance(each, bytes) else each.encode("latin-1") for each in lines]
        answer = self.server.ask(b"\r\n".join([*texts, b"", b""]) + body, line)
        assert answer.startswith(b"HTTP/1.1 200 OK") or b"HTTP/1.0 200 OK" in answer, answer
        return self.recorder.environ

    def get(self, *headers: str | bytes, target: str = "/", line: Line | None = None) -> Environ:
        return self.ask(f"GET {target} HTTP/1.1", "Host: localhost:8080", *headers, line=line)


@pytest.fixture
def case() -> Case:
    return Case()


def of_http(environ: Environ) -> dict[str, str]:
    """The headers of an environment, without the Host."""
    return {n: v for n, v in environ.items() if n.startswith("HTTP_") and n != "HTTP_HOST"}


class TestTheRequestLine:
    def test_is_in_the_variables_of_cgi(self, case: Case) -> None:
        environ = case.ask("DELETE /a/b?c=d&e HTTP/1.1", "Host: Shop.example:8081")
        assert environ["REQUEST_METHOD"] == "DELETE"
        assert (environ["SCRIPT_NAME"], environ["PATH_INFO"]) == ("", "/a/b")
        assert environ["QUERY_STRING"] == "c=d&e"
        assert environ["REQUEST_URI"] == "/a/b?c=d&e"
        assert environ["HTTP_HOST"] == "Shop.example:8081"
        assert (environ["SERVER_NAME"], environ["SERVER_PORT"]) == ("shop.example", "8081")
        assert environ["SERVER_PROTOCOL"] == "HTTP/1.1"
        assert (environ["REMOTE_ADDR"], environ["REMOTE_PORT"]) == ("127.0.0.1", "50000")
        assert environ["wsgi.url_scheme"] == "http"
        assert "CONTENT_LENGTH" not in environ
        assert "CONTENT_TYPE" not in environ

    @pytest.mark.parametrize(
        ("target", "path"),
        [
            ("/", "/"),
            ("/caf%C3%A9", "/caf\xc3\xa9"),
            ("/a%2Fb", "/a/b"),
            ("/a%00b", "/a\x00b"),
            ("/a%", "/a%"),
            ("/%ff%zz", "/\xff%zz"),
            ("//a//b/", "//a//b/"),
            ("/a/../b", "/a/../b"),
            ("/a;b=c", "/a;b=c"),
            ("http://localhost:8080/x?y", "/x"),
        ],
    )
    def test_path_is_unquoted_and_has_a_character_for_each_byte(
        self, case: Case, target: str, path: str
    ) -> None:
        assert case.get(target=target)["PATH_INFO"] == path

    @pytest.mark.parametrize(
        ("target", "query"),
        [("/?", ""), ("/?a=%C3%A9?", "a=%C3%A9?"), ("/?a=b#c", "a=b#c")],
    )
    def test_query_is_as_it_was_sent(self, case: Case, target: str, query: str) -> None:
        assert case.get(target=target)["QUERY_STRING"] == query

    def test_of_http_1_0_needs_no_host(self, case: Case) -> None:
        environ = case.ask("GET /a HTTP/1.0")
        assert environ["SERVER_PROTOCOL"] == "HTTP/1.0"
        assert (environ["SERVER_NAME"], environ["SERVER_PORT"]) == ("127.0.0.1", "8080")
        assert "HTTP_HOST" not in environ


class TestHeaders:
    def test_have_names_in_capitals_and_their_values(self, case: Case) -> None:
        environ = case.get("X-Own: caf\xe9", "Accept: a", "accept: b")
        assert of_http(environ) == {"HTTP_X_OWN": "caf\xe9", "HTTP_ACCEPT": "a, b"}

    def test_several_lines_of_cookies_are_one(self, case: Case) -> None:
        assert case.get("Cookie: a=1; b=2", "Cookie: c=3")["HTTP_COOKIE"] == "a=1; b=2; c=3"

    @pytest.mark.parametrize(
        "line", ["Proxy: http://evil.example", "X_User: root", "X.User: root", "X$: a", "_: a"]
    )
    def test_names_that_would_be_taken_for_others_are_left_out(self, case: Case, line: str) -> None:
        assert of_http(case.get(line)) == {}

    def test_name_with_an_underscore_does_not_change_the_other(self, case: Case) -> None:
        assert of_http(case.get("X-User: me", "X_User: root")) == {"HTTP_X_USER": "me"}

    def test_line_breaks_of_an_old_form_do_not_end_a_value(self, case: Case) -> None:
        [value] = of_http(case.get("X-Own: a\r\n b")).values()
        assert "\n" not in value


class TestTheBody:
    def test_has_its_length_and_type(self, case: Case) -> None:
        head = "POST / HTTP/1.1", "Host: localhost", "Content-Type: text/plain; charset=utf-8"
        environ = case.ask(*head, "Content-Length: 3", body=b"abc")
        assert (environ["CONTENT_LENGTH"], case.recorder.body) == ("3", b"abc")
        assert environ["CONTENT_TYPE"] == "text/plain; charset=utf-8"
        assert of_http(environ) == {}
        assert environ["wsgi.input_terminated"] is True

    def test_in_chunks_is_as_one_with_a_length(self, case: Case) -> None:
        body = b"3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n"
        environ = case.ask(
            "POST / HTTP/1.1", "Host: localhost", "Transfer-Encoding: chunked", body=body
        )
        assert (environ["CONTENT_LENGTH"], case.recorder.body) == ("5", b"abcde")
        assert of_http(environ) == {}

    def test_empty_one_has_the_length_0(self, case: Case) -> None:
        head = "PUT / HTTP/1.1", "Host: localhost", "Content-Length: 0"
        assert case.ask(*head)["CONTENT_LENGTH"] == "0"

    def test_long_one_is_in_a_file(self, case: Case) -> None:
        body = b"x" * 200_000
        head = "PUT / HTTP/1.1", "Host: localhost", f"Content-Length: {len(body)}"
        assert case.ask(*head, body=body)["CONTENT_LENGTH"] == "200000"
        assert case.recorder.body == body


FORWARDED = (
    "X-Forwarded-For: 203.0.113.7",
    "X-Forwarded-Proto: https",
    "X-Forwarded-Host: shop.example",
)


class TestProxies:
    def test_trusted_one_names_the_client_the_scheme_and_the_host(self) -> None:
        environ = Case("127.0.0.1").get(*FORWARDED)
        assert (environ["REMOTE_ADDR"], environ["wsgi.url_scheme"]) == ("203.0.113.7", "https")
        assert environ["HTTP_HOST"] == "shop.example"
        assert (environ["SERVER_NAME"], environ["SERVER_PORT"]) == ("shop.example", "443")
        assert environ["HTTP_X_FORWARDED_FOR"] == "203.0.113.7"
        assert "REMOTE_PORT" not in environ

    @pytest.mark.parametrize(
        "lines", [FORWARDED, ("Forwarded: for=203.0.113.7;proto=https;host=shop.example",)]
    )
    @pytest.mark.parametrize(("peer", "scheme"), [("10.1.1.1", "http"), ("127.0.0.1", "https")])
    def test_other_peer_names_at_most_the_scheme(
        self, case: Case, lines: tuple[str, ...], peer: str, scheme: str
    ) -> None:
        # Also on this machine: an attacker could choose the host of a link in a mail.
        line = case.server.connect(peer)
        environ = case.get(*lines, "X-Real-IP: 203.0.113.7", "Via: 1.1 a", line=line)
        assert (environ["REMOTE_ADDR"], environ["wsgi.url_scheme"]) == (peer, scheme)
        assert environ["HTTP_HOST"] == "localhost:8080"
        assert of_http(environ) == {}

    def test_address_that_the_client_has_added_does_not_count(self) -> None:
        line = "X-Forwarded-For: 10.0.0.1, 203.0.113.7"
        assert Case("127.0.0.1").get(line)["REMOTE_ADDR"] == "203.0.113.7"

    def test_scheme_is_https_under_tls(self, case: Case) -> None:
        environ = case.get(line=case.server.connect(secure=True))
        assert environ["wsgi.url_scheme"] == "https"

    @pytest.mark.parametrize(
        ("proxies", "address", "scheme"), [([], "", "https"), (["unix"], "203.0.113.7", "https")]
    )
    def test_peer_on_a_unix_socket_has_no_address_of_its_own(
        self, proxies: list[str], address: str, scheme: str
    ) -> None:
        case = Case(*proxies)
        line = case.server.connect()
        line.peerAddr = UNIXAddress("")
        line.hostAddr = cast(Any, UNIXAddress("/run/push.sock"))
        line.protocol = case.server.site.buildProtocol(UNIXAddress(""))
        line.protocol.makeConnection(line)
        environ = case.get(*FORWARDED, line=line)
        assert (environ["REMOTE_ADDR"], environ["wsgi.url_scheme"]) == (address, scheme)
        assert "REMOTE_PORT" not in environ


def test_server_in_another_site_has_its_path_as_the_script_name(case: Case) -> None:
    root, below = Resource(), Resource()
    root.putChild(b"caf\xc3\xa9", below)
    below.putChild(b"push", case.server.service.resource)
    case.server.service.startService()
    site = Site(root, reactor=case.server.clock)
    line = Line(case.server.clock, case.server.connect().getPeer())
    line.protocol = site.buildProtocol(line.getPeer())
    line.protocol.makeConnection(line)
    environ = case.get(target="/caf%C3%A9/push/a/b?c", line=line)
    assert (environ["SCRIPT_NAME"], environ["PATH_INFO"]) == ("/caf\xc3\xa9/push", "/a/b")
