"""A secret in the token or the data of a connect command is in no line of a log.

The log of another site, in which the server is mounted, has URLs.
"""

from __future__ import annotations

import json
import traceback
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, quote_plus

import pytest
from twisted.logger import formatEvent
from twisted.web.http import combinedLogFormatter
from twisted.web.resource import Resource
from twisted.web.server import Request, Site

from pushserver import PushServer, Refused
from pushserver.config.limits import Limits
from pushserver.resources import centrifuge
from tests.unit.fakes.web import Line, Log, Server, Trouble, handshake, masked, parse, patched

SECRET = "correct-horse-battery"
FIELDS = {"data": {"password": SECRET}, "name": SECRET, "headers": {"a": SECRET}}
CONNECT = {"id": 1, "connect": FIELDS}
HOWS = ["websocket", "http_stream", "sse_post", "sse"]


class Guarded(Server):
    """A server with an application, also inside another site; `lines` are those of its log."""

    def __init__(self, connect: Any, mounted: bool, **options: Any):
        app = PushServer()
        app.on("connect", thread=False)(connect)
        super().__init__(Limits(**options), app=app)
        self.prefix = "/push" if mounted else ""
        self.lines: list[str] = []
        if mounted:
            root = Resource()
            root.putChild(b"push", self.service.resource)
            self.site: Any = Site(root, reactor=self.clock)
            patched(self.site, "log", self._log)
        self.service.startService()
        self.clock.advance(0)

    def _log(self, request: Request) -> None:
        self.lines += [combinedLogFormatter("now", request), repr(request)]

    def knock(self, how: str, text: str, **headers: str) -> Line:
        """Send a connect command, in one of HOWS."""
        if how == "sse":
            path = f"{self.prefix}/connection/sse?cf_connect={quote(text)}"
            return self.open(path, **headers)
        if how == "websocket":
            line = self.open(f"{self.prefix}/connection/websocket", **handshake(**headers))
            if parse(line.take()).status == 101:
                line.send(masked(text.encode()))
            return line
        path = f"{self.prefix}/connection/{how.removesuffix('_post')}"
        return self.open(path, "POST", text.encode(), **headers)


@pytest.fixture(params=[False, True], ids=["own site", "in another site"])
def mounted(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture(params=HOWS)
def how(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def log(trouble: Trouble) -> Iterator[Trouble]:
    """All lines of the server's log, which are its trouble too."""
    with Log() as events:
        yield events
    trouble.clear()


def admit(client: Any, data: Any) -> None:
    assert data["password"] == SECRET


def refuse(client: Any, data: Any) -> None:
    raise Refused("wrong password")


def fail(client: Any, data: Any) -> None:
    raise ValueError("a bug")


def whole(log: Trouble) -> str:
    """The text of all lines, with the values that are not in it, and with tracebacks."""
    texts = []
    for event in log:
        failure = event.get("log_failure")
        texts.append(f"{formatEvent(event)} {event!r}")
        if failure is not None:
            texts.append(failure.getTraceback())
            texts += traceback.format_exception(failure.value)
    return "\n".join(texts)


def check(server: Guarded, log: Trouble) -> None:
    text = "\n".join([whole(log), *server.lines])
    assert SECRET not in text
    assert quote_plus(SECRET) not in text


class TestASecret:
    @pytest.mark.parametrize("connect", [admit, refuse, fail])
    def test_of_a_client_is_in_no_line(
        self, how: str, mounted: bool, connect: Any, log: Trouble
    ) -> None:
        server = Guarded(connect, mounted)
        line = server.knock(how, json.dumps(CONNECT))
        answer = line.take()
        expected = {admit: b'"client"', refuse: b"wrong password", fail: b"failed"}[connect]
        assert expected in answer
        for peer in server.node.peers:
            peer.shut_down()
        line.settle()
        line.vanish()
        check(server, log)
        if mounted and how == "sse":
            assert '"GET /push/connection/sse HTTP/1.1" 200' in server.lines[0]

    @pytest.mark.parametrize(
        "headers",
        [
            {"origin": "https://elsewhere.example"},
            {"host": "rebound.example:8080"},
            {"sec_fetch_site": "cross-site"},
            {"sec_fetch_mode": "navigate", "sec_purpose": "prefetch"},
            {"content_type": "application/x-protobuf"},
        ],
        ids=lambda headers: next(iter(headers)),
    )
    def test_of_a_refused_request_is_in_no_line(
        self, how: str, mounted: bool, headers: dict[str, str], log: Trouble
    ) -> None:
        server = Guarded(admit, mounted)
        for _ in range(5):
            line = server.knock(how, json.dumps(CONNECT), **headers)
            line.vanish()
        check(server, log)

    @pytest.mark.parametrize(
        "text",
        [
            json.dumps({"id": 1, "connect": SECRET}),
            json.dumps({"id": SECRET, "connect": FIELDS}),
            json.dumps({"id": 1, SECRET: FIELDS}),
            json.dumps({"id": 1, "connect": {**FIELDS, "token": [SECRET]}}),
            json.dumps(CONNECT)[:-1],
            json.dumps(CONNECT) * 2,
            json.dumps(CONNECT) + "\n" + json.dumps({"id": 2, "rpc": FIELDS}),
            json.dumps(CONNECT) + " " * 2_000,
            SECRET,
        ],
        ids=[
            *("not an object", "id", "method", "token", "cut", "twice in a line", "more", "long"),
            "no JSON",
        ],
    )
    def test_of_an_invalid_command_is_in_no_line(
        self, how: str, mounted: bool, text: str, log: Trouble
    ) -> None:
        server = Guarded(admit, mounted, frame_bytes=1_000)
        line = server.knock(how, text)
        line.vanish()
        check(server, log)

    def test_is_in_no_line_if_the_session_cannot_be_made(
        self, how: str, mounted: bool, log: Trouble, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def broken(*_: object) -> None:
            raise RuntimeError("a bug of the server")

        monkeypatch.setattr(centrifuge, "answer", broken)
        server = Guarded(admit, mounted)
        line = server.knock(how, json.dumps(CONNECT))
        line.vanish()
        assert "a bug of the server" in whole(log)
        check(server, log)

    @pytest.mark.parametrize("method", ["HEAD", "OPTIONS", "POST", "DELETE", "get"])
    def test_in_the_url_of_another_method_is_in_no_line(
        self, mounted: bool, method: str, log: Trouble
    ) -> None:
        server = Guarded(admit, mounted)
        path = f"{server.prefix}/connection/sse?cf_connect={quote(json.dumps(CONNECT))}"
        server.open(path, method).vanish()
        check(server, log)
