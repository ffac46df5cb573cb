"""The threads of an application are bounded, and so is all that waits for them."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterable, Iterator
from typing import Any

import pytest

from pushserver.config.limits import Limits
from pushserver.wsgi.answer import AHEAD_BYTES, PIECE
from pushserver.wsgi.gateway import SWITCH_SECONDS, WAIT_SECONDS
from pushserver.wsgi.interface import Environ
from tests.unit.fakes.web import Line, Trouble, parse, request
from tests.unit.fakes.wsgi import WsgiServer

OK = "200 OK"
SECONDS = 30.0


class Desk:
    """An application whose requests to /slow wait until the test lets them go."""

    def __init__(self) -> None:
        self.may_end = threading.Semaphore(0)
        self.begun = threading.Semaphore(0)
        self.closed = threading.Semaphore(0)
        self.paths: list[str] = []

    def __call__(self, environ: Environ, start_response: Any) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        self.paths.append(path)
        self.begun.release()
        if path == "/slow":
            assert self.may_end.acquire(timeout=SECONDS)
        start_response(OK, [("Content-Type", "text/plain")])
        return [path.encode()]


class Office:
    """A server with a Desk, two threads, and room for two more requests."""

    def __init__(self, threads: int = 2, waiting: int = 2):
        self.desk = Desk()
        limits = Limits(wsgi_threads=threads, wsgi_waiting=waiting)
        self.server = WsgiServer(self.desk, limits=limits)

    def open(self, path: str = "/slow") -> Line:
        """A connection with this request, before its answer."""
        return self.server.open(path)

    def occupy(self, count: int) -> list[Line]:
        """As many requests in the application."""
        lines = [self.open() for _ in range(count)]
        for _ in range(count):
            assert self.desk.begun.acquire(timeout=SECONDS)
        return lines

    def end(self, count: int = 1) -> None:
        for _ in range(count):
            self.desk.may_end.release()


def test_further_requests_wait_and_are_answered_in_their_order() -> None:
    office = Office()
    first = office.occupy(2)
    second = [office.open("/a"), office.open("/b")]
    assert office.desk.paths == ["/slow", "/slow"]
    office.end(2)
    office.server.until(lambda: office.server.idle)
    assert [line.response().body for line in first] == [b"/slow"] * 2
    assert [line.response().body for line in second] == [b"/a", b"/b"]
    assert sorted(office.desk.paths) == ["/a", "/b", "/slow", "/slow"]


class TestWhenAllThreadsAreBusy:
    @pytest.fixture
    def office(self, trouble: Trouble) -> Iterator[Office]:
        office = Office()
        office.occupy(2)
        office.open("/a")
        office.open("/b")
        yield office
        office.end(2)
        office.server.until(lambda: office.server.idle)
        trouble.take()

    def test_requests_are_refused_with_503_and_a_time(
        self, office: Office, trouble: Trouble
    ) -> None:
        office.server.clock.advance(3)
        answer = office.open("/c").response()
        assert answer.error == (
            503,
            "all 2 threads of the application are busy (wsgi_threads)",
        )
        assert answer["retry-after"] == "1"
        assert "content-security-policy" in answer
        assert office.server.node.metrics.refusals["wsgi_threads"] == 1
        assert trouble.take()[0] == (
            "all 2 threads of the WSGI application are busy, and 2 requests wait;"
            " GET /slow has run for 3.0 s"
        )

    def test_a_flood_of_them_is_a_few_lines_of_the_log(
        self, office: Office, trouble: Trouble
    ) -> None:
        for _ in range(100):
            assert office.open("/c").response().status == 503
        assert len(trouble.take()) <= 3
        assert office.server.gateway.counts.waiting == 2

    def test_the_servers_own_urls_are_answered(
        self, office: Office, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        server = office.server
        server.send_files(monkeypatch)
        server.service.startService()
        for path in ("/health/live", "/channels/numbers?last=1", "/static/app.css", "/metrics"):
            line = server.open(path)
            assert line.response().status == 200, path
        posted = server.open("/channels/numbers", "POST", b"1", content_type="application/json")
        assert posted.response().status in (200, 201)
        server.session()


def test_a_request_that_waits_too_long_is_refused(trouble: Trouble) -> None:
    office = Office(threads=1)
    [first] = office.occupy(1)
    late = office.open("/late")
    office.server.clock.advance(WAIT_SECONDS)
    assert parse(late.take()).status == 503
    [line] = trouble.take()
    assert line.endswith("GET /slow has run for 30.0 s")
    office.end()
    office.server.until(lambda: office.server.idle)
    assert first.response().body == b"/slow"
    assert office.desk.paths == ["/slow"]


def test_a_request_is_not_made_if_its_client_leaves_before() -> None:
    office = Office(threads=1)
    [first] = office.occupy(1)
    left, stays = office.open("/left"), office.open("/stays")
    left.vanish()
    assert office.server.gateway.counts.waiting == 1
    office.end()
    office.server.until(lambda: office.server.idle)
    assert first.response().body == b"/slow"
    assert stays.response().body == b"/stays"
    assert office.desk.paths == ["/slow", "/stays"]


def test_a_request_whose_client_left_in_it_ends_without_an_error(trouble: Trouble) -> None:
    office = Office(threads=1)
    [line] = office.occupy(1)
    line.vanish()
    assert office.server.gateway.counts.running == 1
    office.end()
    office.server.until(lambda: office.server.idle)
    assert office.server.get("/next").body == b"/next"
    assert trouble == []


def test_a_body_can_be_read_after_its_client_has_left(trouble: Trouble) -> None:
    begun, gone = threading.Event(), threading.Event()
    bodies: list[bytes] = []

    def application(environ: Environ, start_response: Any) -> Iterable[bytes]:
        begun.set()
        assert gone.wait(SECONDS)
        bodies.append(environ["wsgi.input"].read())
        start_response(OK, [])
        return []

    server = WsgiServer(application)
    line = server.open("/", "POST", b"abc")
    assert begun.wait(SECONDS)
    line.vanish()
    gone.set()
    server.until(lambda: server.idle)
    assert bodies == [b"abc"]
    assert trouble == []


def test_an_answer_may_take_longer_than_a_request() -> None:
    office = Office()
    [line] = office.occupy(1)
    office.server.clock.pump([10] * 12)
    assert not line.lost
    office.end()
    office.server.until(lambda: office.server.idle)
    assert line.response().body == b"/slow"


def test_a_body_that_comes_slowly_has_no_thread() -> None:
    office = Office(threads=1)
    line = office.server.connect()
    line.send(b"POST /a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n\r\n")
    for byte in (b"a", b"b", b"c"):
        line.send(byte)
        assert office.server.idle
    assert office.desk.paths == []
    assert office.server.get("/b").body == b"/b"
    assert office.server.ask(b"d", line).endswith(b"/a\r\n0\r\n\r\n")


class Generator:
    """An application that yields pieces as fast as they are taken."""

    def __init__(self, pieces: int):
        self._pieces = pieces
        self.yielded = 0
        self.closed = threading.Event()

    def __call__(self, environ: Environ, start_response: Any) -> Iterable[bytes]:
        start_response(OK, [("Content-Length", str(self._pieces * PIECE))])
        return self._generate()

    def _generate(self) -> Iterator[bytes]:
        try:
            for _ in range(self._pieces):
                self.yielded += 1
                yield b"x" * PIECE
        finally:
            self.closed.set()


class TestAReaderThatIsSlow:
    def slow(self, server: WsgiServer) -> Line:
        line = server.connect()
        line.reading = False
        line.send(request("/"))
        return line

    def test_does_not_keep_the_thread_of_an_answer_of_a_megabyte(self) -> None:
        server = WsgiServer(Generator(AHEAD_BYTES // PIECE))
        line = self.slow(server)
        server.until(lambda: server.idle)
        assert line.unread < 3 * PIECE
        line.read()
        assert len(line.response().body) == AHEAD_BYTES
        assert server.gateway._memory.bytes == 0

    def test_stops_a_longer_answer_until_it_reads(self) -> None:
        application = Generator(100)
        server = WsgiServer(application)
        line = self.slow(server)
        memory = server.gateway._memory
        server.until(lambda: memory.bytes >= AHEAD_BYTES)
        assert application.yielded * PIECE <= AHEAD_BYTES + 5 * PIECE
        line.read()
        while not server.idle:
            line.settle()
            server.clock.take()
        assert len(line.response().body) == 100 * PIECE
        assert memory.bytes == 0

    def test_that_leaves_ends_the_application(self) -> None:
        application = Generator(1_000)
        server = WsgiServer(application)
        line = self.slow(server)
        memory = server.gateway._memory
        server.until(lambda: memory.bytes >= AHEAD_BYTES)
        line.vanish()
        server.until(lambda: server.idle)
        assert application.closed.is_set()
        assert application.yielded < 100
        assert memory.bytes == 0

    def test_is_dropped_if_it_reads_nothing(self) -> None:
        server = WsgiServer(Generator(1_000))
        line = self.slow(server)
        server.until(lambda: server.gateway._memory.bytes >= AHEAD_BYTES)
        server.clock.pump([15] * 4)
        assert line.aborted
        server.until(lambda: server.idle)


class TestTheStop:
    def test_waits_for_requests_and_these_can_publish(self) -> None:
        receipts: list[int] = []
        ready, go = threading.Event(), threading.Event()

        def application(environ: Environ, start_response: Any) -> Iterable[bytes]:
            ready.set()
            assert go.wait(SECONDS)
            receipts.append(server.push.publish("a", 1).offset)
            start_response(OK, [])
            return [b"done"]

        server = WsgiServer(application)
        server.service.startService()
        line = server.open("/")
        assert ready.wait(SECONDS)
        stopped = server.service.stopService()
        server.clock.advance(0)
        go.set()
        server.until(lambda: server.idle)
        server.clock.pump([0.1] * 10)
        assert receipts == [1]
        assert line.response().body == b"done"
        server.clock.pump([1] * 10)
        assert stopped.called

    def test_does_not_wait_longer_than_drain_seconds(self) -> None:
        office = Office()
        server = office.server
        server.service.startService()
        [line] = office.occupy(1)
        stopped = server.service.stopService()
        server.clock.pump([0.1] * 30)
        assert not stopped.called
        server.clock.pump([0.1] * 40)
        assert stopped.called
        assert line.lost
        office.end()
        server.until(lambda: server.idle)


def test_python_switches_threads_more_often_while_the_server_runs() -> None:
    before = sys.getswitchinterval()
    server = WsgiServer(Desk())
    server.service.startService()
    assert sys.getswitchinterval() == pytest.approx(SWITCH_SECONDS)
    stopped = server.service.stopService()
    server.clock.pump([1] * 10)
    assert stopped.called
    assert sys.getswitchinterval() == pytest.approx(before)
