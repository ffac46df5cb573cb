"""Tokens on a real server: its doors, their ends, and the keys of another service."""

from __future__ import annotations

import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from websockets.sync.client import connect

from tests.e2e.conditions import wait_until
from tests.e2e.exchange import LINES, SSE, Reading, ask, configured
from tests.e2e.patience import PATIENCE
from tests.e2e.server import Server, running
from tests.e2e.sockets import closed_with
from tests.http_server import HttpServer, Quiet
from tests.unit.fakes.tokens import jwk, jwks, token

CONFIG = """
[sources]

[auth]
jwks_url = "{url}/jwks.json"
jwks_retry_seconds = 1
jwks_timeout_seconds = {seconds}
token_cookie = "push"

[namespaces.members]
subscribe = "users"
"""
REASON = "the token or login has expired"


class Issuer(HttpServer):
    """Another service: `body` is its set of keys, None for an error."""

    def __init__(self, *keys: dict[str, Any]) -> None:
        self.body: bytes | None = jwks(*keys)
        self.asked = Event()
        self.go_on = Event()
        self.go_on.set()
        issuer = self

        class Handler(Quiet, BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                issuer.asked.set()
                issuer.go_on.wait(PATIENCE)
                body = issuer.body
                self.send_response(200 if body is not None else 404)
                self.send_header("Content-Length", str(len(body or b"")))
                self.end_headers()
                self.wfile.write(body or b"")

        super().__init__(Handler)


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    """A service with one key, `a`."""
    issuer = Issuer(jwk("RS256", "a"))
    yield issuer
    issuer.go_on.set()
    issuer.close()


def signed(kid: str = "a", number: int = 0, seconds: float = 3_600, **claims: Any) -> str:
    content = {"sub": "42", "exp": time.time() + seconds, **claims}
    return token(content, "RS256", number, kid=kid)


def serving(folder: Path, issuer: Issuer, seconds: float = 5) -> Server:
    return configured(folder, CONFIG.format(url=issuer.url, seconds=seconds))


def status(server: Server, text: str) -> int:
    """The status of a history that only users may read."""
    return ask(server, "GET", "channels/members:a", authorization=f"Bearer {text}").status


class TestKeys:
    def test_they_are_replaced_while_the_server_runs(self, tmp_path: Path, issuer: Issuer) -> None:
        with running(serving(tmp_path, issuer)) as server:
            assert status(server, signed()) == 200
            assert status(server, signed(number=1)) == 401
            assert status(server, "a.b.c") == 401
            issuer.body = jwks(jwk("RS256", "b", 1))
            wait_until(lambda: status(server, signed("b", 1)) == 200)
            assert status(server, signed()) == 401
            assert "tokens are verified by 1 keys: b (RS256); no longer by a (RS256)" in server.log

    def test_they_stay_valid_while_the_other_service_is_down(
        self, tmp_path: Path, issuer: Issuer
    ) -> None:
        with running(serving(tmp_path, issuer)) as server:
            assert status(server, signed()) == 200
            for body in (None, b"<html>", jwks()):
                issuer.body = body
                wait_until(lambda: status(server, signed("b", 1)) == 503)
                assert status(server, signed()) == 200
            issuer.body = jwks(jwk("RS256", "a"), jwk("RS256", "b", 1))
            wait_until(lambda: status(server, signed("b", 1)) == 200)
            assert "answered 404 Not Found; its last keys are valid for 86" in server.log

    def test_the_other_service_may_start_later(self, tmp_path: Path, issuer: Issuer) -> None:
        body, issuer.body = issuer.body, None
        with running(serving(tmp_path, issuer)) as server:
            assert status(server, signed()) == 503
            issuer.body = body
            wait_until(lambda: status(server, signed()) == 200)
            assert "answered 404 Not Found; no key is known yet" in server.log

    def test_a_slow_one_delays_nobody_else(self, tmp_path: Path, issuer: Issuer) -> None:
        issuer.go_on.clear()
        with running(serving(tmp_path, issuer, 0.5)) as server:
            assert issuer.asked.wait(PATIENCE)
            assert ask(server, "GET", "channels/open").status == 200
            assert status(server, signed()) == 503
            wait_until(lambda: "no answer within 0.5 s (auth.jwks_timeout_seconds)" in server.log)
            issuer.go_on.set()
            wait_until(lambda: status(server, signed()) == 200)

    def test_a_huge_set_is_refused(self, tmp_path: Path, issuer: Issuer) -> None:
        body, issuer.body = issuer.body, b" " * 10_000_000
        with running(serving(tmp_path, issuer)) as server:
            assert status(server, signed()) == 503
            assert "more than 262144 bytes" in server.log
            issuer.body = body
            wait_until(lambda: status(server, signed()) == 200)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    issuer = Issuer(jwk("RS256", "a"))
    try:
        with running(serving(tmp_path_factory.mktemp("ends"), issuer)) as server:
            yield server
    finally:
        issuer.close()


class TestEnds:
    """Each connection ends with its token, and its next one is refused."""

    def test_an_event_stream_says_why(self, server: Server) -> None:
        text = signed(seconds=1.5)
        cookie = f"push={text}"
        stream = Reading(server, "channels/members:a", SSE, cookie=cookie)
        assert stream.block()["event"] == "pushserver-subscribed"
        expected = {"event": "pushserver-end", "data": f'{{"code":3005,"reason":"{REASON}"}}'}
        assert stream.block() == expected
        with pytest.raises(EOFError):
            stream.block()
        stream.close()
        # Within the leeway of five seconds it is still accepted.
        expired = signed(seconds=-10)
        again = ask(server, "GET", "channels/members:a", accept=SSE, cookie=f"push={expired}")
        assert again.status == 401
        assert "the token has expired: exp is" in again.text
        assert not any(part in server.log for part in text.split("."))

    def test_lines_say_why(self, server: Server) -> None:
        path = f"channels/members:a?token={signed(seconds=1.5)}"
        stream = Reading(server, path, LINES)
        assert "subscribed" in stream.object()
        assert stream.object() == {"end": {"code": 3005, "reason": REASON}}
        with pytest.raises(EOFError):
            stream.line()
        stream.close()

    def test_a_raw_websocket_is_closed_with_a_code(self, server: Server) -> None:
        for by_query in (True, False):
            text = signed(seconds=1.5)
            path = f"channels/members:a?token={text}" if by_query else "channels/members:a"
            protocols = None if by_query else [f"pushserver.token.{text}", "pushserver"]
            with connect(server.websocket(path), proxy=None, subprotocols=protocols) as client:  # type: ignore[arg-type]
                close = closed_with(client)
                assert (close.code, close.reason) == (3005, REASON)
            assert not any(part in server.log for part in text.split("."))

    def test_a_long_poll_is_answered(self, server: Server) -> None:
        path = f"channels/members:a?wait=30&token={signed(seconds=1.5)}"
        answer = ask(server, "GET", path)
        assert (answer.status, b'"publications":[]' in answer.body) == (200, True)
