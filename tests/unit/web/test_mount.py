"""The server inside another site: a plain one of twisted.web, at any depth."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

import pytest
from twisted.web.resource import Resource
from twisted.web.server import Site

from pushserver.config.settings import Auth, Config
from pushserver.config.settings import Server as ServerSection
from pushserver.web.site import HEADERS
from tests.unit.fakes.web import BROWSER, Line, Log, Server, handshake, masked, parse

PATHS = ["", "/push", "/a/b/push"]
KEY = "s3cret"
APP = "https://app.example"
FOREIGN = "http://evil.example"
FORM = "application/x-www-form-urlencoded"


class Guest(Server):
    """A server at a path of another site."""

    def __init__(self, path: str, pages: str = "", templates: str = ""):
        section = ServerSection(allowed_origins=[APP], pages=pages, templates=templates)
        super().__init__(config=Config(auth=Auth([KEY], local_without_key=True), server=section))
        self.path = path
        *above, name = path.encode().split(b"/")[1:] or [b""]
        root = here = Resource()
        for part in above:
            below = Resource()
            here.putChild(part, below)
            here = below
        if name:
            here.putChild(name, self.service.resource)
        else:
            root = self.service.resource
        self.site: Any = Site(root, reactor=self.clock)

    def is_empty(self) -> bool:
        """Whether no connection and no peer is left."""
        return not self.hub.channels() and not len(self.node.peers)


@pytest.fixture(params=PATHS, ids=lambda path: path or "at the root")
def guest(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Guest]:
    guest = Guest(request.param)
    guest.send_files(monkeypatch)
    yield guest
    assert guest.is_empty()


def links(page: bytes, url: str) -> set[str]:
    """The paths to which a page at this URL refers."""
    links = re.findall(r' (?:href|src|action)="([^"#][^"]*)"', page.decode())
    assert len(links) > 6
    return {urlsplit(urljoin(f"http://localhost{url}", link)).path for link in links}


class TestPage:
    @pytest.mark.parametrize("path", ["/", "/channels/numbers"])
    def test_has_links_that_work(self, guest: Guest, path: str) -> None:
        url = guest.path + path
        page = guest.get(url, accept=BROWSER)
        assert (page.status, page["content-type"]) == (200, "text/html; charset=utf-8")
        for link in links(page.body, url):
            assert link.startswith(f"{guest.path}/")
            assert guest.get(link, accept=BROWSER).status == 200, link

    @pytest.mark.parametrize(
        "path", ["/nothing", "/channels/a/b/c", "/static/nothing", "/channels/a/", "/static/js/"]
    )
    def test_of_an_error_links_to_the_root(self, guest: Guest, path: str) -> None:
        url = guest.path + path
        page = guest.get(url, accept=BROWSER)
        assert page.status == 404
        assert f"{guest.path}/" in links(page.body, url)
        assert guest.get(f"{guest.path}/", accept=BROWSER).status == 200
        for link in links(page.body, url):
            assert guest.get(link, accept=BROWSER).status == 200, link

    def test_has_the_security_headers(self, guest: Guest) -> None:
        for path in ("/", "/nothing", "/static/favicon.svg", "/channels/a"):
            answer = guest.get(guest.path + path)
            for name, value in HEADERS.items():
                if name != b"server":
                    assert answer[name.decode()] == value.decode()

    def test_redirects_to_the_path_with_a_slash(self, guest: Guest) -> None:
        if guest.path:
            for query in ("", "?last=3"):
                answer = guest.get(f"{guest.path}{query}", accept=BROWSER)
                assert answer.status == 302
                # Below the path of a proxy in front too.
                for proxied in ("", "/elsewhere"):
                    url = f"http://localhost{proxied}{guest.path}"
                    assert urljoin(url, answer["location"]) == f"{url}/{query}"


class TestPageOfTheUser:
    @pytest.fixture
    @staticmethod
    def guest(
        request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> Guest:
        (tmp_path / "help").mkdir()
        (tmp_path / "index.html").write_text("<h1>home</h1>")
        (tmp_path / "help" / "index.html").write_text("<h1>help</h1>")
        guest = Guest(request.param, str(tmp_path))
        guest.send_files(monkeypatch)
        return guest

    @pytest.mark.parametrize("guest", PATHS, indirect=True, ids=lambda path: path or "at the root")
    def test_is_below_the_path(self, guest: Guest) -> None:
        page = guest.get(f"{guest.path}/", accept=BROWSER)
        assert (page.status, page.body) == (200, b"<h1>home</h1>")
        assert page["content-security-policy"] == "frame-ancestors 'self'"
        url = f"{guest.path}/help"
        answer = guest.get(url, accept=BROWSER)
        assert answer.status == 302
        where = urlsplit(urljoin(f"http://localhost{url}", answer["location"])).path
        assert where == f"{url}/"
        assert guest.get(where).body == b"<h1>help</h1>"
        assert guest.get(f"{guest.path}/static/centrifuge.js").status == 200
        missing = guest.get(f"{guest.path}/help/nothing", accept=BROWSER)
        assert missing.status == 404
        for link in links(missing.body, f"{guest.path}/help/nothing"):
            assert guest.get(link).status == 200, link

    @pytest.mark.parametrize("path", PATHS, ids=lambda path: path or "at the root")
    def test_by_a_template_knows_the_way_to_the_root(self, path: str, tmp_path: Path) -> None:
        for name in ("about", "help/index", "help/more"):
            file = tmp_path / "pages" / f"{name}.html"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("{{ root }}")
        guest = Guest(path, templates=str(tmp_path))
        for name, root in (("about", b"."), ("help/", b".."), ("help/more", b"..")):
            answer = guest.get(f"{path}/{name}")
            assert answer.body == root
            assert "default-src 'none'" in answer["content-security-policy"]


class TestAfterTheStop:
    """The other site still runs."""

    @pytest.fixture
    @staticmethod
    def stopped(guest: Guest) -> Guest:
        guest.service.startService()
        guest.publish("a", 1)
        stopped: list[Any] = []
        guest.service.stopService().addBoth(stopped.append)
        guest.clock.advance(0)
        assert stopped == [None]
        return guest

    @pytest.mark.parametrize(
        ("path", "method", "headers"),
        [
            ("/channels/a", "GET", {}),
            ("/channels/a", "HEAD", {}),
            ("/channels/a", "POST", {}),
            ("/channels/a", "GET", {"accept": "text/event-stream"}),
            ("/channels/a?wait=9", "GET", {}),
            ("/channels/a", "GET", handshake()),
            ("/connection/websocket", "GET", handshake()),
            ("/connection/http_stream", "POST", {}),
            ("/api/info", "POST", {"x_api_key": KEY}),
            ("/status", "GET", {}),
            ("/nothing", "GET", {}),
            ("/", "GET", {}),
        ],
    )
    def test_every_url_answers_503(
        self, stopped: Guest, path: str, method: str, headers: dict[str, str]
    ) -> None:
        body = b"{}" if method == "POST" else b""
        with Log() as events:
            answer = stopped.get(stopped.path + path, method, body, **headers)
        assert (answer.status, answer["retry-after"]) == (503, "1")
        if method != "HEAD":
            assert answer.error == (503, "the server has stopped")
        assert events.take() == []
        assert stopped.is_empty()

    def test_a_browser_gets_a_page(self, stopped: Guest) -> None:
        page = stopped.get(f"{stopped.path}/channels/a", accept=BROWSER)
        assert (page.status, page["content-type"]) == (503, "text/html; charset=utf-8")
        assert b"the server has stopped" in page.body

    def test_nobody_is_let_in_during_the_stop(self, guest: Guest) -> None:
        guest.service.startService()
        line = guest.open(f"{guest.path}/connection/websocket", **handshake())
        assert parse(line.take()).status == 101
        stopped: list[Any] = []
        guest.service.stopService().addBoth(stopped.append)
        assert guest.get(f"{guest.path}/connection/websocket", **handshake()).status == 503
        assert stopped == []
        line.vanish()
        guest.clock.advance(0)
        assert stopped == [None]


class TestPublishing:
    @pytest.mark.parametrize("content_type", ["application/json", FORM, "text/plain"])
    def test_accepts_the_same_bodies(self, guest: Guest, content_type: str) -> None:
        answer = guest.get(
            f"{guest.path}/channels/a?event=e",
            "POST",
            b'{"event": "f"}',
            content_type=content_type,
        )
        assert (answer.status, answer.json["offset"]) == (201, 1)
        [row] = guest.hub.history.peek("a").last(9)
        assert (row.data, row.event) == (b'{"event":"f"}', "e")

    def test_of_a_form_does_not_change_the_query(self, guest: Guest) -> None:
        # A plain site adds the fields of a form to the arguments of the URL.
        answer = guest.get(f"{guest.path}/channels/a", "POST", b"event=mine&x=1", content_type=FORM)
        assert answer.status == 201
        [row] = guest.hub.history.peek("a").last(9)
        assert (row.data, row.event) == (b'"event=mine&x=1"', "message")

    def test_by_the_api_needs_its_key(self, guest: Guest) -> None:
        body = b'{"channel": "a", "data": 1}'
        path = f"{guest.path}/api/publish"
        with Log() as events:
            assert guest.get(path, "POST", body, x_forwarded_for="1.2.3.4").error[0] == 401
        assert len(events.take()) == 1
        assert guest.get(path, "POST", body, x_api_key=KEY).json == {
            "result": {"offset": 1, "epoch": guest.hub.history.epoch}
        }

    def test_by_a_foreign_page_is_refused_and_logged(self, guest: Guest) -> None:
        path = f"{guest.path}/channels/a"
        with Log() as events:
            assert guest.get(path, "POST", b"1", origin=FOREIGN).error[0] == 403
        [line] = events.take()
        assert line.startswith("refused 403 to ")
        assert FOREIGN in line
        answer = guest.get(path, "POST", b"1", origin=APP)
        assert (answer.status, answer["access-control-allow-origin"]) == (201, APP)
        asked = guest.get(path, "OPTIONS", origin=APP)
        assert (asked.status, "POST" in asked["access-control-allow-methods"]) == (204, True)
        assert "access-control-allow-origin" not in guest.get(path, "OPTIONS", origin=FOREIGN)

    @pytest.mark.parametrize("name", ["Origin", "Accept", "Content-Type", "X-API-Key", "Host"])
    def test_with_an_undecodable_header_is_no_internal_error(self, guest: Guest, name: str) -> None:
        fields = {"Host": b"localhost", "Content-Length": b"1", name: b"\xff\xfe"}
        lines = [b"%b: %b" % (key.encode(), value) for key, value in fields.items()]
        for method in ("POST", "GET"):
            for path in ("/channels/a", "/api/info", "/connection/websocket"):
                line = guest.connect()
                head = f"{method} {guest.path}{path} HTTP/1.1".encode()
                line.send(b"\r\n".join([head, *lines, b"", b"1"]))
                assert line.response(method).status < 500
                line.vanish()


class TestReading:
    def test_stream_may_last_longer_than_a_request(self, guest: Guest) -> None:
        line = guest.open(f"{guest.path}/channels/a", accept="text/event-stream")
        guest.publish("a", 1)
        answer = line.response()
        assert answer["content-type"] == "text/event-stream"
        assert b'"data":1' in answer.body
        for _ in range(300):
            guest.clock.advance(1)
            guest.node.peers.tick(guest.node.monotonic())
        guest.publish("a", 2)
        assert b'"data":2' in line.take()
        line.vanish()

    def test_stream_ends_with_the_server(self, guest: Guest) -> None:
        line = guest.open(f"{guest.path}/channels/a", accept="text/event-stream")
        line.take()
        guest.service.stopService()
        guest.clock.advance(0)
        assert line.take().endswith(b"0\r\n\r\n")
        assert line.lost

    def test_history_is_json(self, guest: Guest) -> None:
        guest.publish("a", 1)
        answer = guest.get(f"{guest.path}/channels/a")
        assert [row["data"] for row in answer.json["publications"]] == [1]

    def test_long_poll_waits_for_a_publication(self, guest: Guest) -> None:
        line = guest.open(f"{guest.path}/channels/a?wait=10&since=now")
        assert line.take() == b""
        guest.publish("a", 1)
        assert line.response().json["publications"][0]["data"] == 1
        line.vanish()

    def test_several_channels_are_one_stream(self, guest: Guest) -> None:
        line = guest.open(f"{guest.path}/events?channel=a&channel=b", accept="text/event-stream")
        guest.publish("b", 1)
        assert b'"channel":"b"' in line.take()
        line.vanish()


class TestWebSocket:
    def test_speaks_the_centrifuge_protocol(self, guest: Guest) -> None:
        socket = guest.websocket(f"{guest.path}/connection/websocket")
        socket.say({"id": 1, "connect": {}}, {"id": 2, "subscribe": {"channel": "a"}})
        guest.publish("a", 1)
        [message] = socket.texts()
        assert message["push"]["pub"]["data"] == 1
        socket.line.vanish()

    def test_of_a_channel_is_a_stream(self, guest: Guest) -> None:
        socket = guest.websocket(f"{guest.path}/channels/a")
        guest.publish("a", 1)
        [message] = socket.texts()
        assert message["data"] == 1
        socket.line.vanish()

    def test_is_closed_with_a_code_when_the_server_stops(self, guest: Guest) -> None:
        socket = guest.websocket(f"{guest.path}/connection/websocket")
        socket.say({"id": 1, "connect": {}})
        over: list[object] = []
        guest.service.stopService().addBoth(over.append)
        code, reason = socket.close()
        assert (code, reason) == (3001, "the server is shutting down")
        assert over == []
        socket.line.send(masked(code.to_bytes(2, "big"), opcode=8))
        assert over == [None]
        assert socket.line.lost

    def test_may_last(self, guest: Guest) -> None:
        socket = guest.websocket(f"{guest.path}/channels/a")
        for _ in range(10):
            guest.clock.advance(60)
        guest.publish("a", 1)
        assert socket.texts()[-1]["data"] == 1
        socket.line.vanish()

    @pytest.mark.parametrize("path", ["/connection/websocket", "/channels/a"])
    def test_of_a_foreign_page_is_refused(self, guest: Guest, path: str) -> None:
        with Log():
            line = guest.open(guest.path + path, **handshake(origin=FOREIGN))
            assert line.response().status == 403
            line.vanish()
        socket = guest.websocket(guest.path + path, origin=APP)
        socket.line.vanish()

    def test_with_an_invalid_handshake_is_answered(self, guest: Guest) -> None:
        answer = guest.get(f"{guest.path}/connection/websocket")
        assert answer.status == 426
        line = guest.open(
            f"{guest.path}/connection/websocket", **handshake(sec_websocket_version="7")
        )
        assert line.response().error == (400, "Sec-WebSocket-Version: '7', expected 13")
        line.vanish()


class TestFallback:
    def test_uses_two_requests(self, guest: Guest) -> None:
        path = f"{guest.path}/connection/http_stream"
        line = guest.open(path, "POST", b'{"id":1,"connect":{}}')
        [reply] = lines(line)
        body = {
            "session": reply["connect"]["session"],
            "node": reply["connect"]["node"],
            "data": '{"id":2,"subscribe":{"channel":"a"}}',
        }
        answer = guest.get(f"{guest.path}/emulation", "POST", encoded(body))
        assert answer.status == 204
        guest.publish("a", 1)
        data = line.take()
        assert b'"subscribe"' in data
        assert b'"data":1' in data
        line.vanish()


def lines(line: Line) -> list[Any]:
    """The JSON objects of a stream."""
    return [json.loads(one) for one in parse(line.take()).body.splitlines()]


def encoded(value: object) -> bytes:
    return json.dumps(value).encode()
