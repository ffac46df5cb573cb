"""Requests to a worker whose main process is slow, away, or ends; floods; and its application."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.address import UNIXAddress

from pushserver.config.limits import Limits
from pushserver.config.settings import Config
from pushserver.config.settings import Server as ServerConfig
from pushserver.server.inside import ANSWER_SECONDS
from pushserver.web.exchange import PORTION
from tests.unit.fakes.processes import Processes
from tests.unit.fakes.web import BROWSER, Line, Response, Server, Trouble, parse, request
from tests.unit.fakes.wsgi import WsgiServer

SSE = "text/event-stream"


@pytest.fixture
def processes(tmp_path: Path, trouble: Trouble) -> Processes:
    return Processes(tmp_path)


def answers(line: Line) -> list[Response]:
    """All answers since the last call."""
    data, found = line.take(), []
    while data:
        found.append(parse(data))
        data = found[-1].rest
    return found


class TestWithoutTheMainProcess:
    """A worker refuses what it has not, for a moment, and keeps the rest."""

    @pytest.mark.parametrize("path", ["/", "/channels/", "/status", "/health/live", "/static/no"])
    @pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
    def test_requests_are_503(
        self, processes: Processes, method: str, path: str, trouble: Trouble
    ) -> None:
        processes.away.add(0)
        line = processes.workers[0].open(path, method)
        processes.settle()
        answer = line.response(method)
        assert (answer.status, answer["retry-after"]) == (503, "1")
        # The connection is in order, and so is the next answer.
        processes.away.clear()
        line.send(request("/health/live"))
        processes.settle()
        assert line.response().status == 200
        trouble.clear()

    @pytest.mark.parametrize(
        ("path", "method", "status"),
        [("/channels/a", "PUT", 405), ("/events", "GET", 400), ("/connection/x", "GET", 404)],
    )
    def test_other_requests_are_answered(
        self, processes: Processes, path: str, method: str, status: int
    ) -> None:
        processes.away.add(0)
        assert processes.ask(processes.workers[0], path, method).status == status

    def accepted(self, processes: Processes, path: str) -> tuple[Line, Line]:
        """A client, and the relay's connection for it, which the test answers."""
        line = processes.workers[0].open(path, accept=BROWSER)
        factory: Any = processes.clock.unixClients[-1][1]
        here = Line(processes.clock, UNIXAddress(""))
        here.protocol = factory.buildProtocol(None)
        here.protocol.makeConnection(here)
        return line, here

    def test_one_that_does_not_answer_is_503_in_the_end(
        self, processes: Processes, trouble: Trouble
    ) -> None:
        line, _ = self.accepted(processes, "/status")
        processes.clock.advance(ANSWER_SECONDS - 1)
        assert line.take() == b""
        processes.clock.advance(1)
        assert line.response().status == 503
        trouble.clear()

    def test_one_that_ends_in_an_answer_ends_it(self, processes: Processes) -> None:
        """The client has to see that it is not whole."""
        line, here = self.accepted(processes, "/channels/")
        here.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
        here.vanish()
        line.settle()
        assert line.aborted
        assert not parse(line.take()).whole


def test_many_requests_at_once_are_answered(processes: Processes) -> None:
    lines = [processes.workers[0].open("/health/live") for _ in range(100)]
    processes.settle()
    assert {line.response().status for line in lines} == {200}
    assert not processes.relayed
    assert not processes.main.site.channels


def test_requests_that_came_together_are_answered_in_their_order(processes: Processes) -> None:
    line = processes.workers[0].connect()
    paths = ["/health/live", "/connection/x", "/static/no", "/channels/numbers", "/nothing"]
    line.send(b"".join(map(request, paths)))
    for _ in paths:
        processes.settle()
    assert [answer.status for answer in answers(line)] == [200, 404, 404, 200, 404]
    line.send(request("/health/live"))
    processes.settle()
    assert line.response().status == 200


@pytest.mark.parametrize("path", ["/nothing", "/channels/a/b", "/connection/x", "/api/nothing"])
def test_refused_requests_of_a_connection_have_the_same_bound(
    tmp_path: Path, path: str, trouble: Trouble
) -> None:
    limits = Limits(refused_requests_per_second=1)
    processes = Processes(tmp_path, config=Config(limits=limits))
    received: list[list[Response]] = []
    for server in (processes.main, processes.workers[0]):
        line = server.connect()
        received.append([])
        while not line.lost:
            line.send(request(path, "POST"))
            processes.settle()
            received[-1] += answers(line)
    for answer in received[0] + received[1]:
        answer.headers.pop("date", None)
    assert received[0] == received[1]
    assert [answer.status for answer in received[1]] == [404] * 10 + [429]
    trouble.clear()


def test_clients_do_not_see_the_mark_of_refusals(processes: Processes) -> None:
    answer = processes.ask(processes.workers[0], "/nothing")
    assert not [name for name in answer.headers if name.startswith("pushserver")]


def test_pages_and_the_icon_are_those_of_the_user(
    tmp_path: Path, trouble: Trouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    pages = tmp_path / "pages"
    (pages / "sub").mkdir(parents=True)
    for name in ("index.html", "favicon.ico", "sub/a.txt"):
        (pages / name).write_text(f"own {name}")
    # A worker is told of no pages.
    config = Config(server=replace(ServerConfig(), pages=str(pages)))
    processes = Processes(tmp_path, make_main=lambda **more: Server(**{**more, "config": config}))
    processes.main.send_files(monkeypatch)
    for name in ("index.html", "favicon.ico", "sub/a.txt"):
        path = "/" if name == "index.html" else f"/{name}"
        assert processes.ask(processes.workers[0], path).body == f"own {name}".encode()
    assert processes.ask(processes.workers[0], "/channels/numbers").status == 200


def test_reload_of_a_worker_keeps_its_relays(processes: Processes) -> None:
    worker = processes.workers[0]
    waiting = worker.open("/health/live")
    worker.service.live.load = lambda: Config(sources={}, limits=Limits(body_bytes=10))
    worker.service.live.reload()
    worker.clock.advance(1)
    processes.settle()
    assert waiting.response().status == 200
    assert processes.ask(worker, "/health/live").status == 200
    assert processes.ask(worker, "/api/info", "POST", bytes(11)).status == 413


def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    """Answers as its path says, with the number of bytes of the body."""
    path, body = environ["PATH_INFO"], environ["wsgi.input"].read()
    status, fields = "200 OK", [("X-Client", environ["REMOTE_ADDR"])]
    pieces = [b"%d " % len(body), path.encode(), b" ", environ["HTTP_HOST"].encode()]
    if path == "/length":
        fields.append(("Content-Length", str(sum(map(len, pieces)))))
    elif path in ("/204", "/304"):
        status, pieces = f"{path[1:]} None", []
    elif path == "/cookies":
        fields += [("Set-Cookie", "a=1"), ("Set-Cookie", "b=2"), ("Content-Type", "text/x")]
    elif path == "/404":
        status = "404 Mine"
    start_response(status, fields)
    return pieces


class TestBeforeAnApplication:
    """A WSGI application of the main process has all other URLs, through a worker too."""

    @pytest.fixture
    def processes(self, tmp_path: Path, trouble: Trouble) -> Processes:
        make_main = partial(WsgiServer, application)
        return Processes(tmp_path, make_main=make_main)

    def ask(self, processes: Processes, data: bytes) -> list[bytes]:
        """The bytes that the main process and the worker answer, without the dates."""
        found = []
        main: Any = processes.main
        for server in (processes.main, processes.workers[0]):
            line = server.connect()
            line.send(data)
            received = b""
            for _ in range(4):
                processes.settle()
                main.until(lambda: main.idle)
                processes.settle()
                received += line.take()
            lines = received.split(b"\r\n")
            found.append(b"\r\n".join(one for one in lines if not one.startswith(b"Date")))
            line.vanish()
            processes.settle()
        assert not processes.relayed
        return found

    @pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PURGE", "OPTIONS"])
    @pytest.mark.parametrize(
        "path",
        [
            "/",
            "/length",
            "/chunked",
            "/204",
            "/304",
            "/404",
            "/cookies",
            "//a/..//b?x=%zz",
            "/static/of/the/application",
            "/favicon.ico",
            "/healthy",
            "/socket.io-docs",
            "/channelsx",
        ],
    )
    def test_answers_are_the_same(self, processes: Processes, method: str, path: str) -> None:
        main, worker = self.ask(processes, request(path, method))
        assert main == worker
        assert worker.startswith(b"HTTP/1.1 ")
        assert b"X-Client: 127.0.0.1" in worker

    def test_client_that_closes_its_side_gets_its_answer(self, processes: Processes) -> None:
        main: Any = processes.main
        line = processes.workers[0].open("/length")
        line.half_close()
        for _ in range(4):
            processes.settle()
            main.until(lambda: main.idle)
        assert line.response().status == 200
        assert line.lost

    @pytest.mark.parametrize("host", ["localhost", "evil.example:8080"])
    def test_host_is_checked_as_in_one_process(
        self, processes: Processes, host: str, trouble: Trouble
    ) -> None:
        main, worker = self.ask(processes, request("/length", host=host))
        assert main == worker
        assert (b" 403 " in worker) is (host != "localhost")
        trouble.clear()

    @pytest.mark.parametrize("size", [0, 1, PORTION, PORTION + 1, 1_000_000])
    @pytest.mark.parametrize("form", ["length", "chunked", "expect"])
    def test_body_of_any_size_is_whole(self, processes: Processes, size: int, form: str) -> None:
        if form == "chunked":
            head = b"POST /length HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
            body = b"%x\r\n%b\r\n" % (size, bytes(size)) if size else b""
            data = head + body + b"0\r\n\r\n"
        else:
            more = {"expect": "100-continue"} if form == "expect" else {}
            data = request("/length", "POST", bytes(size), **more)
        main, worker = self.ask(processes, data)
        assert main == worker
        assert b"%d /length" % size in worker

    def test_requests_that_came_together_are_answered_in_their_order(
        self, processes: Processes
    ) -> None:
        paths = ["/length", "/chunked", "/204", "/connection/x", "/404"]
        main, worker = self.ask(processes, b"".join(map(request, paths)))
        assert main == worker
        assert re.findall(rb"HTTP/1.1 (\d+)", worker) == [b"200", b"200", b"204", b"404", b"404"]

    def test_of_a_client_that_leaves_is_not_waited_for(self, processes: Processes) -> None:
        line = processes.workers[0].open("/length")
        processes.settle()
        line.vanish()
        processes.settle()
        assert not processes.relayed
        main: Any = processes.main
        main.until(lambda: main.idle)
        processes.settle()
        assert not processes.main.site.channels
