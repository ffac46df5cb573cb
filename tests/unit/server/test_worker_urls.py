"""The URLs of a worker: each answer is that of a server of one process."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.address import UNIXAddress

from pushserver.config.colours import page_style
from pushserver.config.limits import Limits
from pushserver.config.settings import Auth, Config, Page
from pushserver.config.settings import Server as ServerConfig
from tests.unit.fakes.processes import Processes
from tests.unit.fakes.web import (
    BROWSER,
    Line,
    Response,
    Server,
    Trouble,
    frames,
    handshake,
    parse,
    request,
)

JSON = "application/json"
KEY = "k" * 32


@pytest.fixture
def both(tmp_path: Path, trouble: Trouble) -> Processes:
    processes = Processes(tmp_path)
    for n in range(3):
        processes.main.publish(data=n)
    processes.settle()
    return processes


def same(processes: Processes, *asked: Any, **headers: str) -> Response:
    """The answer of a worker, which has to be that of the main process."""
    answers = [
        processes.ask(server, *asked, **headers) for server in (processes.main, *processes.workers)
    ]
    for answer in answers:
        answer.headers.pop("date", None)
    assert answers[1] == answers[0]
    return answers[1]


REQUESTS: list[tuple[str, str, int, dict[str, str]]] = [
    ("GET", "/", 200, {"accept": BROWSER}),
    ("HEAD", "/", 200, {"accept": BROWSER}),
    ("GET", "/channels", 302, {}),
    ("GET", "/channels?x=1", 302, {}),
    ("POST", "/channels", 404, {}),
    ("GET", "/channels/", 200, {"accept": BROWSER}),
    ("GET", "/channels/", 200, {"accept": JSON}),
    ("GET", "/channels/", 406, {"accept": "image/png"}),
    ("POST", "/channels/", 405, {}),
    ("GET", "/channels/numbers", 200, {"accept": BROWSER}),
    ("HEAD", "/channels/numbers", 200, {"accept": BROWSER}),
    ("GET", "/channels/numbers", 200, {"accept": JSON}),
    ("HEAD", "/channels/numbers", 200, {"accept": JSON}),
    ("GET", "/channels/numbers", 200, {}),
    ("GET", "/channels/numbers?last=1", 200, {}),
    ("GET", "/channels/numbers?since=oldest&limit=2", 200, {}),
    ("GET", "/channels/numbers?since=oldest&wait=5", 200, {}),
    ("HEAD", "/channels/numbers?since=oldest&wait=5", 200, {}),
    ("GET", "/channels/numbers?since=other:1&wait=5", 200, {}),
    ("GET", "/channels/numbers?wait=soon", 400, {}),
    ("GET", "/channels/numbers?wait=5&last=x", 400, {}),
    ("GET", "/channels/numbers?since=%zz", 400, {}),
    ("GET", "/channels/numbers", 406, {"accept": "image/png"}),
    ("GET", "/channels/numbers", 403, {"origin": "http://evil.example"}),
    ("HEAD", "/channels/numbers", 200, {"accept": "text/event-stream"}),
    (
        "GET",
        "/channels/numbers",
        403,
        {"accept": "text/event-stream", "sec_fetch_mode": "navigate"},
    ),
    ("GET", "/channels/numbers?as=html", 404, {"accept": BROWSER}),
    ("GET", "/channels/numbers?as=html", 404, {"accept": "text/event-stream"}),
    ("GET", "/channels/numbers?as=data", 406, {"accept": JSON}),
    ("GET", "/channels/numbers?as=other", 400, {"accept": BROWSER}),
    ("GET", "/events?channel=numbers&as=html", 404, {"accept": "text/event-stream"}),
    ("DELETE", "/channels/numbers", 405, {}),
    ("PURGE", "/channels/numbers", 405, {}),
    ("OPTIONS", "/channels/numbers", 405, {}),
    ("OPTIONS", "/channels/numbers", 405, {"origin": "http://localhost:8080"}),
    ("GET", "/channels/-", 400, {"accept": JSON}),
    ("GET", "/channels/-", 400, {"accept": BROWSER}),
    ("POST", "/channels/-", 400, {}),
    ("GET", "/channels/%2e%2e", 400, {}),
    ("GET", "/channels/a/b", 404, {}),
    ("GET", "/channels/numbers/", 404, {}),
    ("GET", "/channels/numbers/permissions", 200, {}),
    ("GET", "/channels//permissions", 404, {}),
    ("POST", "/channels/numbers?event=%20", 400, {}),
    ("POST", "/channels/numbers", 401, {"x_api_key": "wrong"}),
    ("POST", "/channels/numbers", 401, {"x_forwarded_for": "203.0.113.7"}),
    ("POST", "/channels/numbers", 401, {"authorization": "Bearer x.y.z"}),
    ("POST", "/channels/numbers", 403, {"origin": "http://evil.example"}),
    ("POST", "/channels/numbers", 415, {"content_encoding": "gzip"}),
    ("GET", "/events", 400, {}),
    ("GET", "/events?channel=numbers", 406, {"accept": JSON}),
    ("POST", "/events?channel=numbers", 405, {}),
    ("GET", "/events?channel=numbers&channel=other", 200, {"accept": BROWSER}),
    ("HEAD", "/events?channel=numbers", 200, {"accept": BROWSER}),
    ("GET", "/events?channel=-", 400, {"accept": BROWSER}),
    ("HEAD", "/static/pushserver-docs/browser.md", 200, {}),
    ("GET", "/connection", 404, {}),
    ("GET", "/connection/websocket", 426, {}),
    ("GET", "/connection/sse", 400, {}),
    ("GET", "/connection/other", 404, {"accept": BROWSER}),
    ("GET", "/emulation", 405, {}),
    ("POST", "/emulation", 400, {}),
    ("GET", "/socket.io/", 400, {}),
    ("GET", "/socket.io/?EIO=4&transport=polling&sid=x", 400, {}),
    ("GET", "/socket.io/?EIO=3&transport=polling", 400, {}),
    ("PUT", "/socket.io/?EIO=4&transport=polling", 400, {}),
    ("GET", "/socket.io/socket.io.js", 200, {}),
    ("GET", "/socket.io/other.js", 404, {}),
    ("GET", "/socket.io-docs", 404, {}),
    ("GET", "/static/pushserver.js", 200, {}),
    ("GET", "/static/pushserver.js", 206, {"range": "bytes=0-9"}),
    ("GET", "/static/pushserver.js?v=1", 200, {"accept_encoding": "gzip"}),
    ("HEAD", "/static/pushserver.js", 200, {}),
    ("POST", "/static/pushserver.js", 405, {}),
    ("GET", "/static/centrifuge.js", 200, {}),
    ("GET", "/static", 404, {}),
    ("GET", "/static/", 404, {}),
    ("GET", "/static/../setup.py", 404, {}),
    ("GET", "/static/other", 404, {"accept": BROWSER}),
    ("GET", "/favicon.ico", 200, {}),
    ("GET", "/api", 404, {}),
    ("POST", "/api", 404, {}),
    ("POST", "/api/channels", 200, {}),
    ("POST", "/api/nothing", 404, {}),
    ("POST", "/api/publish", 401, {"x_api_key": "wrong"}),
    ("GET", "/api/info", 405, {}),
    ("GET", "/health/live", 200, {}),
    ("GET", "/health/ready", 503, {}),
    ("GET", "/health/live", 200, {"host": "evil.example"}),
    ("GET", "/metrics", 401, {"x_forwarded_for": "203.0.113.7"}),
    ("GET", "/hooks/", 404, {}),
    ("POST", "/hooks/nobody", 404, {}),
    ("GET", "/nothing", 404, {"accept": BROWSER}),
    ("GET", "/nothing/at/all", 404, {}),
    ("GET", "//", 404, {}),
    ("GET", "/%00", 404, {}),
    ("GET", "/", 403, {"host": "evil.example:8080"}),
    ("GET", "/channels/numbers", 403, {"host": "evil.example:8080"}),
    ("POST", "/channels/numbers", 403, {"host": "evil.example:8080"}),
    ("GET", "/events?channel=numbers", 403, {"host": "evil.example:8080"}),
    ("GET", "/nothing", 403, {"host": "evil.example:8080"}),
    ("GET", "/static/pushserver.js", 403, {"host": "evil.example:8080"}),
    ("GET", "/", 400, {"host": "a b"}),
]


@pytest.mark.parametrize(("method", "path", "status", "headers"), REQUESTS)
def test_answers_are_those_of_one_process(
    both: Processes,
    method: str,
    path: str,
    status: int,
    headers: dict[str, str],
    trouble: Trouble,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    both.main.send_files(monkeypatch)
    answer = same(both, path, method, **headers)
    assert answer.status == status
    trouble.clear()


def test_too_long_a_body_is_refused_while_it_comes(both: Processes) -> None:
    answers = []
    for server in (both.main, both.workers[0]):
        line = server.connect()
        line.send(
            b"POST /api/publish HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999\r\n\r\n"
        )
        answers.append(line.response())
        assert line.lost
    assert answers[0] == answers[1]
    assert answers[1].status == 413
    assert not both.relayed


def test_publications_continue_the_same_log(both: Processes, trouble: Trouble) -> None:
    asked = [
        ("/channels/numbers", b"5"),
        ("/channels/numbers?event=new", b'{"a":1}'),
        ("/api/publish", b'{"channel":"numbers","data":7}'),
    ]
    answers = [
        both.ask(server, path, "POST", body)
        for path, body in asked
        for server in (both.main, both.workers[0])
    ]
    assert [answer.status for answer in answers] == [201, 201, 201, 201, 200, 200]
    offsets = [(a.json.get("result") or a.json)["offset"] for a in answers]
    assert offsets == [4, 5, 6, 7, 8, 9]
    history = same(both, "/channels/numbers").json
    assert [row["data"] for row in history["publications"][3:]] == [5, 5, {"a": 1}, {"a": 1}, 7, 7]


def test_many_lines_are_published_in_order(both: Processes) -> None:
    body = b"".join(b"%d\n" % n for n in range(100))
    headers = {"content_type": "application/x-ndjson"}
    line = both.workers[0].open("/channels/lines", "POST", body, **headers)
    for _ in range(5):
        both.settle()
    answer = line.response()
    assert answer.status == 201
    rows = both.ask(both.workers[0], "/channels/lines").json["publications"]
    assert [row["data"] for row in rows] == list(range(100))


def test_a_long_poll_waits_at_the_worker(both: Processes) -> None:
    cursor = both.ask(both.workers[0], "/channels/numbers").json["id"]
    line = both.workers[0].open(f"/channels/numbers?since={cursor}&wait=30")
    both.settle()
    assert line.take() == b""
    assert not both.relayed
    assert len(both.workers[0].node.peers) == 1
    both.main.publish(data="news")
    both.settle()
    answer = line.response()
    assert [row["data"] for row in answer.json["publications"]] == ["news"]
    # The next one at another process, which has it already.
    again = f"/channels/numbers?since={cursor}&wait=30"
    assert both.ask(both.main, again).json == answer.json
    assert both.ask(both.workers[0], again).json == answer.json


def test_a_long_poll_with_a_newer_cursor_waits_for_the_log(both: Processes) -> None:
    """The cursor may come from another process, and be ahead of what this one has."""
    (wire,) = both.wires
    ask = "/channels/numbers?since={}&wait=30"
    both.ask(both.workers[0], ask.format("oldest"))
    pump, wire.pump = wire.pump, lambda: None  # type: ignore[method-assign]
    both.main.publish(data="ahead")
    cursor = both.ask(both.main, "/channels/numbers").json["id"]
    line = both.workers[0].open(ask.format(cursor))
    both.settle()
    wire.pump = pump  # type: ignore[method-assign]
    both.settle()
    assert line.take() == b""
    both.main.publish(data="news")
    both.settle()
    assert [row["data"] for row in line.response().json["publications"]] == ["news"]


def test_a_long_poll_whose_client_leaves_leaves_nothing(both: Processes) -> None:
    line = both.workers[0].open("/channels/other?wait=30")
    line.vanish()
    both.settle()
    assert not len(both.workers[0].node.peers)
    assert both.ask(both.main, "/channels/numbers").status == 200


class TestAtTheBoundOfChannels:
    """No channel can be kept besides those that are watched."""

    @pytest.fixture
    def both(self, tmp_path: Path, trouble: Trouble) -> Processes:
        processes = Processes(tmp_path, config=Config(limits=Limits(channels=2)))
        for name in "ab":
            processes.workers[0].open(f"/channels/{name}", accept="text/event-stream")
            processes.settle()
        return processes

    @pytest.mark.parametrize(
        ("path", "headers", "status"),
        [
            ("/channels/new", {"accept": "text/event-stream"}, 503),
            ("/channels/new?last=3", {"accept": "application/x-ndjson"}, 503),
            ("/channels/new?as=data", {"accept": "text/event-stream"}, 503),
            ("/events?channel=a&channel=new", {"accept": "text/event-stream"}, 503),
            ("/channels/new", handshake(), 503),
            ("/channels/new?since=now&wait=2", {}, 503),
            ("/channels/new", {}, 200),
            ("/channels/new?since=oldest", {}, 200),
            ("/channels/a", {}, 200),
        ],
    )
    def test_answers_are_those_of_one_process(
        self, both: Processes, path: str, headers: dict[str, str], status: int, trouble: Trouble
    ) -> None:
        answer = same(both, path, **headers)
        assert answer.status == status
        if status == 503:
            assert answer["retry-after"] == "1"
            assert "2 channels are watched" in answer.error[1]
        assert not both.relayed
        trouble.clear()

    def test_channel_with_readers_gets_more(self, both: Processes) -> None:
        before = len(both.main.hub.history.channels)
        stream = both.workers[0].open("/channels/a", accept="text/event-stream")
        both.settle()
        assert stream.response().status == 200
        assert parse(both.workers[0].open("/channels/b", **handshake()).take()).status == 101
        assert len(both.main.hub.history.channels) == before


def test_handshake_for_a_channel_that_is_not_here_is_answered_when_it_is(both: Processes) -> None:
    line = both.workers[0].open("/channels/numbers?last=1", **handshake())
    assert line.take() == b""
    both.settle()
    answer = parse(line.take())
    assert answer.status == 101
    assert [b"subscribed" in frame.payload for frame in frames(answer.rest)] == [True, False]


@pytest.mark.parametrize("accept", ["text/event-stream", "application/x-ndjson"])
def test_reader_that_leaves_while_its_channel_is_loaded_leaves_nothing(
    both: Processes, accept: str
) -> None:
    line = both.workers[0].open("/channels/other", accept=accept)
    line.vanish()
    both.settle()
    assert not len(both.workers[0].node.peers)
    assert "other" not in both.main.hub.channels()


def test_metrics_have_the_same_families(both: Processes) -> None:
    families = []
    for server in (both.main, both.workers[0]):
        text = both.ask(server, "/metrics").body.decode()
        families.append(
            {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")}
        )
    assert families[0] == families[1]
    assert len(families[0]) > 20


@pytest.mark.parametrize("path", ["/status", "/api/info"])
def test_facts_about_the_server_have_the_same_form(both: Processes, path: str) -> None:
    method = "POST" if path.startswith("/api") else "GET"
    main, worker = (
        both.ask(server, path, method, accept=JSON).json for server in (both.main, both.workers[0])
    )
    assert main.keys() == worker.keys()


class TestWithKeys:
    """Requests of callers with API keys."""

    @pytest.fixture
    def both(self, tmp_path: Path) -> Processes:
        return Processes(tmp_path, config=replace(Config(), auth=Auth(api_keys=[KEY])))

    @pytest.mark.parametrize(
        ("method", "path", "status", "refused"),
        [
            ("POST", "/channels/numbers", 201, (401, 401)),
            ("GET", "/channels/", 200, (403, 401)),
            ("POST", "/api/info", 200, (401, 401)),
            ("GET", "/status", 200, (403, 401)),
            ("GET", "/metrics", 200, (401, 401)),
            ("GET", "/channels/numbers/permissions", 200, (200, 401)),
        ],
    )
    def test_are_identified_at_either_end(
        self,
        both: Processes,
        method: str,
        path: str,
        status: int,
        refused: tuple[int, int],
        trouble: Trouble,
    ) -> None:
        """Without a key and with a wrong one, which is answered after some time."""
        for key, expected in zip((KEY, "", "wrong"), (status, *refused), strict=True):
            answers = []
            for server in (both.main, both.workers[0]):
                body = b"{}" if path.startswith("/api") else b"1"
                line = server.open(path, method, body, accept=JSON, x_api_key=key)
                both.settle()
                both.clock.advance(10)
                both.settle()
                answers.append(line.response())
                answers[-1].headers.pop("date")
                line.vanish()
            assert [answer.status for answer in answers] == [expected, expected]
            if key != KEY:
                assert answers[0] == answers[1]
        trouble.clear()


class TestProgramsOnThisMachine:
    """Their owner is found at each end by the addresses of their connection."""

    @pytest.fixture
    def both(self, tmp_path: Path) -> Processes:
        return Processes(tmp_path)

    @pytest.mark.parametrize("path", ["/channels/numbers", "/api/publish"])
    @pytest.mark.parametrize("own", [True, False, None])
    def test_may_publish_if_they_are_of_the_servers_user(
        self, both: Processes, path: str, own: bool | None, trouble: Trouble
    ) -> None:
        asked: list[Any] = []

        def is_own(seen: Any) -> bool | None:
            asked.append((seen.getClientAddress(), seen.getHost()))
            return own

        for server in (both.main, both.workers[0]):
            server.owner = is_own
        body = b'{"channel":"numbers","data":7}'
        answer = both.ask(both.workers[0], path, "POST", body)
        assert answer.status // 100 == (4 if own is False else 2)
        line = both.workers[0].connect()
        assert set(map(str, asked)) == {str((line.getPeer(), line.getHost()))}
        trouble.clear()

    @pytest.mark.parametrize("path", ["/channels/numbers", "/api/publish"])
    @pytest.mark.parametrize("own", [True, False, None])
    def test_on_a_unix_socket_are_known_by_it(
        self, both: Processes, path: str, own: bool | None, trouble: Trouble
    ) -> None:
        """The main process sees the worker's user at the other end of its own Unix socket."""
        both.workers[0].own = own
        line = Line(both.clock, UNIXAddress(""))
        line.hostAddr = UNIXAddress("/run/push.sock")
        line.protocol = both.workers[0].site.buildProtocol(UNIXAddress(""))
        line.protocol.makeConnection(line)
        line.send(request(path, "POST", b'{"channel":"numbers","data":7}'))
        both.settle()
        allowed = own or (own is None and path.startswith("/channels"))
        assert line.response().status // 100 == (2 if allowed else 4)
        trouble.clear()

    @pytest.mark.parametrize("path", ["/channels/numbers", "/api/publish"])
    @pytest.mark.parametrize(
        "headers", [{"x_forwarded_for": "127.0.0.1"}, {"via": "1.1 a"}, {"host": "a.example"}]
    )
    def test_with_the_signs_of_a_proxy_are_none(
        self, both: Processes, path: str, headers: dict[str, str], trouble: Trouble
    ) -> None:
        answer = same(both, path, "POST", b'{"channel":"numbers","data":7}', **headers)
        assert answer.status in (401, 403)
        trouble.clear()


class TestEmulation:
    """Sessions over responses, whose commands come as requests to any process."""

    @pytest.fixture
    def both(self, tmp_path: Path) -> Processes:
        return Processes(tmp_path, workers=2)

    def connect(self, both: Processes, server: Server) -> tuple[Line, str]:
        """A session at a process, and its secret."""
        body = b'{"id":1,"connect":{}}'
        line = server.open("/connection/http_stream", "POST", body)
        both.settle()
        (reply,) = lines(line)
        return line, reply["connect"]["session"]

    @pytest.mark.parametrize("at", [0, 1])
    @pytest.mark.parametrize("asked", [0, 1])
    def test_commands_reach_their_session(self, both: Processes, at: int, asked: int) -> None:
        line, secret = self.connect(both, both.workers[at])
        command = json.dumps({"id": 2, "subscribe": {"channel": "numbers"}})
        body = json.dumps({"session": secret, "data": command}).encode()
        answer = both.ask(both.workers[asked], "/emulation", "POST", body)
        assert (answer.status, answer.body) == (204, b"")
        assert [reply["id"] for reply in lines(line)] == [2]
        both.main.publish(data=5)
        both.settle()
        assert [push["push"]["pub"]["data"] for push in lines(line)] == [5]

    def test_commands_may_be_faster_than_news_of_their_session(self, both: Processes) -> None:
        """The main process has not heard of it when its client has the reply and sends commands."""
        line, secret = self.connect(both, both.workers[0])
        both.away.add(0)
        body = json.dumps({"session": secret, "data": '{"id":2,"ping":{}}'}).encode()
        assert both.ask(both.workers[1], "/emulation", "POST", body).status == 204
        assert [reply["id"] for reply in lines(line)] == [2]

    @pytest.mark.parametrize("asked", [0, 1, 2])
    def test_unknown_session_is_404(self, both: Processes, asked: int) -> None:
        line, secret = self.connect(both, both.workers[1])
        line.vanish()
        both.settle()
        before = len(both.clock.unixClients)
        for text in (secret, "", "x", "0.x", "2.x", "3.x", "2.\n", "9" * 99, "\ud800"):
            body = json.dumps({"session": text, "data": "{}"}).encode()
            answer = both.ask([both.main, *both.workers][asked], "/emulation", "POST", body)
            assert answer.status == (400 if text == "\ud800" else 404), text
        assert len(both.clock.unixClients) - before == (2 if asked == 1 else 0)

    def test_session_of_a_worker_that_is_away_is_503(
        self, both: Processes, trouble: Trouble
    ) -> None:
        _, secret = self.connect(both, both.workers[1])
        both.away.add(2)
        body = json.dumps({"session": secret, "data": "{}"}).encode()
        assert both.ask(both.workers[0], "/emulation", "POST", body).status == 503
        trouble.clear()

    def test_that_is_not_allowed_is_refused_here(self, both: Processes, trouble: Trouble) -> None:
        body = json.dumps({"session": "x", "data": "{}"}).encode()
        before = len(both.clock.unixClients)
        answer = both.ask(both.workers[0], "/emulation", "POST", body, origin="http://evil.example")
        assert (answer.status, len(both.clock.unixClients)) == (403, before)
        trouble.clear()


def lines(line: Line) -> list[Any]:
    """The replies and pushes on a stream of lines since the last call."""
    data = line.take()
    data = data.partition(b"\r\n\r\n")[2] if data.startswith(b"HTTP") else data
    return [
        json.loads(text)
        for text in data.split(b"\r\n" if b"\r\n" in data else b"\n")
        for text in text.split(b"\n")
        if text.startswith(b"{")
    ]


def test_the_look_of_the_user_is_that_of_all_processes(tmp_path: Path) -> None:
    templates, static = tmp_path / "templates", tmp_path / "static"
    (templates / "pages").mkdir(parents=True)
    static.mkdir()
    (templates / "error.html").write_text("own {{ status }}")
    (templates / "pages" / "about.html").write_text("{{ last('numbers')|length }} {{ root }}")
    (static / "app.css").write_text("/* own */")
    look = ServerConfig(templates=str(templates), static=str(static))
    accent = Page(accent="#b45309")
    processes = Processes(tmp_path, config=Config(server=look, page=accent))
    processes.main.publish()
    processes.settle()
    assert same(processes, "/about").body == b"1 ."
    refused = same(processes, "/events", accept=BROWSER)
    assert (refused.status, refused.body) == (400, b"own 400")
    (worker,) = processes.workers
    colours = len(page_style(accent))
    for path, length in (("app.css", len("/* own */")), ("page-colours.css", colours)):
        assert same(processes, f"/static/{path}", "HEAD")["content-length"] == str(length)
        # Without the main process.
        assert worker.get(f"/static/{path}", "HEAD").status == 200
