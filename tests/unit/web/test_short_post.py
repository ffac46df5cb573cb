"""The short path of a POST has the same answers, byte for byte, as the long one."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.internet.tcp import Server as TCPServer

from pushserver.channels.publication import Draft, Receipt
from pushserver.config.limits import Limits
from pushserver.config.settings import Auth, Config, KeySettings
from pushserver.config.settings import Server as ServerSection
from pushserver.errors import TooMany, Unavailable
from pushserver.web.short_post import MAX_BODY_BYTES, Answers, read_post
from pushserver.web.short_posts import PER_TURN
from pushserver.web.site import HEADERS, PushRequest
from pushserver.web.sockets import send_now
from tests.unit.fakes.web import Line, Server, Trouble, parse, request

CONFIG = Config(
    auth=Auth(
        keys={
            "all": KeySettings(key="k-all", may=["publish", "read"]),
            "reader": KeySettings(key="k-reader", may=["read"]),
            "own": KeySettings(key="k-own", channels=["own*"], may=["publish"]),
        },
        local_without_key=True,
    ),
    server=ServerSection(allowed_origins=["http://app.example"]),
)
LIMITS = Limits(body_bytes=1_000)


class Pair:
    """Two equal servers, with and without short paths, and a connection to each.

    `slowly`: their publications are made later, as at a worker.
    """

    def __init__(self, config: Config | None = None, limits: Limits = LIMITS, slowly: bool = False):
        self.servers = [Server(limits, config=config, shortcuts=on) for on in (True, False)]
        self.failure: Exception | None = None
        """The reason why no publication is made."""
        if slowly:
            for server in self.servers:
                self._make_slow(server)
        self.lines = [server.connect() for server in self.servers]

    def _make_slow(self, server: Server) -> None:
        broker: Any = server.node._broker
        publish = broker.publish

        async def publish_later(draft: Draft) -> Receipt:
            await deferLater(server.clock, 0.1)
            if self.failure is not None:
                raise self.failure
            receipt: Receipt = await publish(draft)
            return receipt

        broker.publish, broker.is_immediate = publish_later, False

    def send(self, *pieces: bytes) -> list[bytes]:
        """The answers of both to the same bytes; without their dates and epochs."""
        return [self._send(*pair, pieces) for pair in zip(self.servers, self.lines, strict=True)]

    def _send(self, server: Server, line: Line, pieces: Sequence[bytes]) -> bytes:
        for piece in pieces:
            if not line.disconnecting and not line.lost:
                line.send(piece)
        # A wrong key is answered slowly, and so may be each of several publications.
        for _ in range(8):
            server.clock.advance(0.5)
        answer = re.sub(rb"Date: [^\r]*", b"Date:", line.take())
        return answer.replace(server.hub.history.epoch.encode(), b"EPOCH")

    def state(self) -> list[tuple[Any, ...]]:
        """What each server has published, counted and closed."""
        return [
            (
                [
                    (name, row.data, row.event, row.tags, row.offset)
                    for name, channel in server.hub.history.channels.items()
                    for row in channel.after(0)
                ],
                dict(server.hub.metrics.refusals),
                server.hub.metrics.duplicates,
                line.disconnecting,
            )
            for server, line in zip(self.servers, self.lines, strict=True)
        ]


NAMES = st.sampled_from(["a", "own", "own:1", "", "a/b", "a%20b", "$a", "-", "a" * 129, "a;b"])
PATHS = st.one_of(
    NAMES.map("/channels/{}".format),
    st.sampled_from(["/api/publish", "/api/info", "/api/nothing", "/", "/events", "//channels/a"]),
)
QUERIES = st.sampled_from(
    ["", "?", "?event=e", "?event=", "?event=%FF", "?tag.k=v", "?tag.=v", "?token=x", "?event=a b"]
)
VALUES = {
    "host": ["localhost:8080", "localhost", "127.0.0.1", "evil.example", "a b", ""],
    "content-type": ["application/json", "text/plain", "application/x-ndjson", "multipart/x", ""],
    "x-api-key": ["k-all", "k-reader", "k-own", "guessed", ""],
    "authorization": ["Bearer k-all", "ApiKey k-own", "Bearer a.b.c", "Basic eA==", "Bearer"],
    "connection": ["keep-alive", "close", "Keep-Alive", "upgrade"],
    "origin": ["http://localhost:8080", "http://app.example", "http://evil.example"],
    "sec-fetch-site": ["cross-site", "same-origin"],
    "content-encoding": ["gzip", "identity"],
    "x-forwarded-for": ["9.9.9.9"],
    "idempotency-key": ["k1", "k2", "", "é"],
    "x-idempotency-key": ["k1"],
    "accept": ["*/*", "text/html"],
    "expect": ["100-continue"],
    "transfer-encoding": ["chunked", "identity"],
    "content-length": ["0", "5", "99999999", "1_0", "+1", "-1", "1, 1"],
    "cookie": ["a=b"],
    "user-agent": ["curl/8"],
}
FIELDS = st.lists(
    st.sampled_from([(name, value) for name, values in VALUES.items() for value in values]),
    max_size=4,
)
CALL = b'{"channel":"a","data":[1]}'
BODIES = st.sampled_from(
    [
        *(b"1", b"", b'{"n": 1.0}', b"hello", b'{"a":1,"a":2}', b"NaN", b"\xff", b"\xef\xbb\xbf1"),
        *(CALL, b'{"channel":"own","data":1,"idempotency_key":"k1"}', b'{"channel":"a"}'),
        *(b'{"channel":"-","data":1}', b'{"channel":"a","data":1,"x":2}', b"[" * 99, b"1\n2\n"),
        *(b"x" * 1_000, b"x" * 1_001, b'{"channel":"a","data":1,"event":"connect","tags":{"k":1}}'),
    ]
)


def post(path: str, fields: Sequence[tuple[str, str]], body: bytes) -> bytes:
    """The bytes of a POST; with a Host and a Content-Length unless the fields have them."""
    names = {name for name, _ in fields}
    lines = [f"POST {path} HTTP/1.1"]
    if "host" not in names:
        lines.append("Host: localhost:8080")
    if not names & {"content-length", "transfer-encoding"}:
        lines.append(f"Content-Length: {len(body)}")
    lines += [f"{name}: {value}" for name, value in fields]
    return "\r\n".join([*lines, "", ""]).encode() + body


REQUESTS = st.builds(
    lambda path, query, fields, body: post(path + query, fields, body),
    *(PATHS, QUERIES, FIELDS, BODIES),
)
KEYED = post("/channels/own", [("x-api-key", "k-own"), ("idempotency-key", "k1")], b"1")


@given(
    st.lists(REQUESTS, min_size=1, max_size=3),
    st.integers(0, 400),
    st.booleans(),
    st.booleans(),
    st.booleans(),
)
@example([KEYED, KEYED, post("/channels/a", [("x-api-key", "k-own")], b"1")], 0, True, False, False)
@example([KEYED, KEYED, post("/channels/a", [("x-api-key", "k-own")], b"1")], 0, True, False, True)
@example([post("/api/publish", [], CALL), post("/api/publish", [], b"{}")], 7, False, True, False)
@example([post("/channels/a", [("origin", "http://app.example")], b"1")], 0, False, True, False)
@example([post("/channels/a", [], b"x" * 1_001)], 0, False, False, False)
def check_that_both_are_the_same(
    requests: list[bytes], cut: int, joined: bool, keys: bool, slowly: bool
) -> None:
    pair = Pair(CONFIG if keys else None, slowly=slowly)
    if joined:
        requests = [b"".join(requests)]
    for data in requests:
        short, long = pair.send(*filter(None, (data[:cut], data[cut:])))
        assert short == long
    short_state, long_state = pair.state()
    assert short_state == long_state
    for line in pair.lines:
        if not line.lost:
            line.vanish()


def test_all_answers_and_effects_are_the_same(trouble: Trouble) -> None:
    check_that_both_are_the_same()
    # A proxy in front of a server without keys is logged.
    trouble.clear()


@pytest.fixture
def no_long_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail at each request that twisted.web processes."""

    def process(request: Any) -> None:
        raise AssertionError("on the long path")

    monkeypatch.setattr(PushRequest, "process", process)


@pytest.mark.usefixtures("no_long_path")
class TestTheShortPath:
    @pytest.mark.parametrize(
        "data",
        [
            post("/channels/a", [], b"1"),
            post("/channels/a?event=e&tag.k=v", [("content-type", "text/plain")], b"hello"),
            post("/channels/a", [("User-Agent", "curl/8"), ("Accept", "*/*")], b"1"),
            post("/channels/own", [("X-API-Key", "k-own")], b"1"),
            post("/channels/own", [("Authorization", "Bearer k-own")], b"1"),
            post("/channels/a", [("Idempotency-Key", "k1")], b"1"),
            post("/api/publish", [("Content-Type", "application/json")], CALL),
            post("/api/publish", [("X-API-Key", "k-all"), ("connection", "keep-alive")], CALL),
        ],
    )
    def test_takes_the_requests_of_programs(self, data: bytes) -> None:
        server = Server(config=CONFIG)
        line = server.connect()
        for _ in range(3):
            line.send(data)
            assert parse(line.take()).status in (200, 201)

    @pytest.mark.parametrize("size", [1, 7, 100, 1_000])
    def test_takes_a_request_in_pieces(self, size: int) -> None:
        server = Server()
        line = server.connect()
        data = post("/channels/a", [], b"1" * 300)
        # twisted.web gets a head that has not come whole.
        first = data.index(b"1" * 300)
        line.send(data[:first])
        for start in range(first, len(data), size):
            line.send(data[start : start + size])
        assert parse(line.take()).status == 201


def test_a_request_that_is_refused_is_counted_once() -> None:
    server = Server(config=CONFIG)
    line = server.connect("9.9.9.9")
    left = []
    for body in (b"1", b"1", b""):
        line.send(post("/channels/own", [("x-api-key", "k-own")], body))
        left.append(line.protocol._budget.left)
    assert [before - after for before, after in pairwise(left)] == [1, 1]


def test_the_next_request_has_all_its_time() -> None:
    server = Server(Limits(request_seconds=15))
    line = server.connect()
    for _ in range(5):
        server.clock.advance(10)
        line.send(post("/channels/a", [], b"1"))
        assert line.response().status == 201
    line.send(post("/channels/a", [], b"1")[:-1])
    server.clock.advance(16)
    assert line.lost
    assert server.hub.history.seq == 5
    assert server.is_empty()


def test_a_reload_changes_the_answer_to_the_same_head() -> None:
    server = Server(config=CONFIG)
    line = server.connect()
    data = post("/channels/own", [("x-api-key", "k-own")], b"1")
    line.send(data)
    assert line.response().status == 201
    server.site.resource = Server(config=Config(auth=Auth(api_keys=["other"]))).site.resource
    line.send(data)
    assert line.response().status == 401


def test_an_unexpected_failure_is_answered_once(
    trouble: Trouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = Server()
    line = server.connect()
    calls = []

    def broken(draft: object) -> None:
        calls.append(draft)
        raise RuntimeError("a secret")

    monkeypatch.setattr(server.node, "publish_at_once", broken)
    line.send(post("/channels/a", [], b"1"))
    assert parse(line.take()).error == (500, "internal server error")
    assert line.disconnecting or line.lost
    assert len(calls) == 1
    assert "a secret" in trouble.take()[0]


@pytest.mark.parametrize(
    "data",
    [
        post("/channels/a", [("content-length", str(MAX_BODY_BYTES + 1))], b""),
        post("/channels/a", [("expect", "100-continue")], b"1"),
        post("/channels/a", [("user-agent", "a"), ("user-agent", "b")], b"1"),
        post("/channels/a", [("x-new", "a")], b"1"),
        post("/channels/a", [("user-agent", "é")], b"1"),
        post("/channels/a", [], b"1").replace(b"HTTP/1.1", b"HTTP/1.0"),
        post("/channels/a", [], b"1").replace(b"\r\n\r\n", b"\r\n folded: x\r\n\r\n"),
        request("/channels/a"),
    ],
)
def test_other_heads_are_for_twisted_web(data: bytes) -> None:
    assert read_post(data) is None


def test_the_beginning_of_a_request_behind_the_first_waits_for_its_end() -> None:
    pair = Pair()
    data = post("/channels/a", [], b"1")
    short, long = pair.send(data + data[:9], data[9:])
    assert short == long
    assert short.count(b"HTTP/1.1 201") == 2


PIPELINED = [post("/channels/a", [], b"%d" % number) for number in range(PER_TURN)]


@pytest.mark.usefixtures("no_long_path")
def test_requests_that_came_together_are_answered_with_one_write() -> None:
    line = Server().connect()
    written: list[bytes] = []
    line.write = written.append  # type: ignore[method-assign, assignment]
    line.send(b"".join(PIPELINED))
    line.send(b"".join(PIPELINED[1:])[:-1])
    line.send(PIPELINED[0][-1:])
    counts = [answers.count(b"HTTP/1.1 201") for answers in written]
    assert counts == [PER_TURN, PER_TURN - 2, 1]


@pytest.mark.parametrize(
    "other",
    [
        PIPELINED[0],
        request("/nothing"),
        post("/channels/a", [], b"x" * 1_001),
        post("/channels/a", [], b""),
        post("/channels/a", [("connection", "close")], b"1"),
        b"nonsense\r\n\r\n",
    ],
)
def test_requests_among_others_have_the_same_answers_in_order(other: bytes) -> None:
    for before in (1, PER_TURN - 1, PER_TURN):
        pair = Pair()
        short, long = pair.send(b"".join([*PIPELINED[:before], other, *PIPELINED]))
        assert short == long
        assert pair.state()[0] == pair.state()[1]


def test_requests_behind_a_failed_one_are_not_answered(
    trouble: Trouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = Server()
    line = server.connect()
    publish = server.node.publish_at_once

    def broken(draft: Draft) -> Receipt | None:
        if draft.data == b"1":
            raise RuntimeError("a secret")
        return publish(draft)

    monkeypatch.setattr(server.node, "publish_at_once", broken)
    line.send(b"".join(PIPELINED[:3]))
    wire = line.take()
    assert [wire.count(b"HTTP/1.1 %d" % status) for status in (201, 500)] == [1, 1]
    assert line.disconnecting or line.lost
    assert len(trouble.take()) == 1


class Socket:
    """A socket that takes some bytes at a time, or fails."""

    def __init__(self, takes: int):
        self.takes = takes
        self.sent = b""

    def send(self, data: bytes, flags: int) -> int:
        if self.takes < 0:
            raise BlockingIOError
        self.sent += data[: self.takes]
        return min(self.takes, len(data))


@pytest.mark.parametrize(
    ("waits", "takes", "sent", "written"),
    [
        (b"", 9, b"hello", b""),
        (b"", 2, b"he", b"llo"),
        (b"", -1, b"", b"hello"),
        (b"x", 9, b"", b"hello"),
    ],
)
def test_bytes_are_sent_at_once_unless_others_wait(
    waits: bytes, takes: int, sent: bytes, written: bytes
) -> None:
    transport: Any = TCPServer.__new__(TCPServer)
    transport.dataBuffer, transport._tempDataBuffer = waits, []
    transport.socket = Socket(takes)
    behind: list[bytes] = []
    transport.write = behind.append
    assert send_now(transport, b"hello") is (sent == b"hello")
    assert (transport.socket.sent, b"".join(behind)) == (sent, written)


def test_the_date_changes_with_the_second(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("pushserver.web.short_post.time", lambda: now[0])
    answers = Answers(HEADERS)
    dates = []
    for second in (1.0, 1.9, 2.0):
        now[0] = second
        dates.append(parse(answers.make(201, b"{}"))["date"])
    assert dates == [f"Thu, 01 Jan 1970 00:00:0{n} GMT" for n in (1, 1, 2)]


POST = post("/channels/a", [], b"1")


class TestAPublicationThatWaits:
    def pair(self, failure: Exception | None = None) -> Pair:
        pair = Pair(slowly=True)
        pair.failure = failure
        return pair

    def both(self, pair: Pair) -> list[bytes]:
        answers = []
        for server, line in zip(pair.servers, pair.lines, strict=True):
            answer = re.sub(rb"Date: [^\r]*", b"", line.take())
            answers.append(answer.replace(server.hub.history.epoch.encode(), b"EPOCH"))
        return answers

    @pytest.mark.parametrize("count", [1, 3])
    @pytest.mark.parametrize(
        "failure", [None, Unavailable("the main process is away", "worker"), TooMany("no", "x", 2)]
    )
    def test_has_the_same_answers(self, failure: Exception | None, count: int) -> None:
        pair = self.pair(failure)
        short, long = pair.send(POST * count + post("/channels/a", [], b"]"))
        assert short == long
        assert short.count(b"HTTP/1.1 ") == count + 1
        short, long = pair.send(POST)
        assert short == long

    def test_an_unexpected_failure_is_answered_and_logged(self, trouble: Trouble) -> None:
        pair = self.pair(RuntimeError("broken"))
        short, long = pair.send(POST)
        assert short == long
        assert short.startswith(b"HTTP/1.1 500 ")
        assert len(trouble.take()) == 2

    def test_the_failure_of_one_is_not_that_of_the_next(self) -> None:
        pair = self.pair(Unavailable("away", "worker"))
        pair.send(POST)
        pair.failure = None
        short, long = pair.send(POST)
        assert short == long
        assert short.startswith(b"HTTP/1.1 201 ")

    def test_bytes_behind_it_wait_and_are_bounded(self) -> None:
        pair = self.pair()
        line = pair.lines[0]
        line.send(POST)
        line.send(POST[:30])
        line.send(POST[30:] + post("/channels/a", [], b'"%b"' % (b"2" * 900)) * 30)
        assert line.producerState == "paused"
        for _ in range(40):
            pair.servers[0].clock.advance(0.2)
        assert line.take().count(b"HTTP/1.1 201 ") == 32

    def test_a_client_that_leaves_gets_no_answer(self) -> None:
        pair = self.pair()
        line = pair.lines[0]
        line.send(POST)
        line.vanish()
        pair.servers[0].clock.advance(1)
        assert line.take() == b""

    def test_a_client_that_closes_its_side_gets_its_answer(self) -> None:
        pair = self.pair()
        for server, line in zip(pair.servers, pair.lines, strict=True):
            line.send(POST)
            line.protocol.readConnectionLost()
            server.clock.advance(1)
        short, long = self.both(pair)
        assert short == long
        assert [line.disconnecting for line in pair.lines] == [True, True]

    @pytest.mark.parametrize("failure", [None, Unavailable("away", "worker")])
    def test_a_server_that_stops_answers_first(self, failure: Exception | None) -> None:
        pair = self.pair(failure)
        for server, line in zip(pair.servers, pair.lines, strict=True):
            line.send(POST)
            drained = server.site.drain()
            assert not drained.called
            server.clock.advance(1)
        short, long = self.both(pair)
        assert short.partition(b"\r\n")[0] == long.partition(b"\r\n")[0]
        assert [line.disconnecting for line in pair.lines] == [True, True]

    def test_it_may_take_longer_than_a_request(self) -> None:
        pair = self.pair()
        server, line = pair.servers[0], pair.lines[0]
        broker: Any = server.node._broker
        done: Deferred[Receipt] = Deferred()
        broker.publish = lambda draft: done
        line.send(POST)
        server.clock.advance(server.site.limits.request_seconds * 3)
        assert not line.disconnecting
        done.callback(Receipt("e", 1, 1))
        assert line.take().startswith(b"HTTP/1.1 201 ")
        server.clock.advance(server.site.limits.request_seconds + 1)
        assert line.disconnecting
