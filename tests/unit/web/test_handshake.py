"""Both ways in accept the same, and refuse in one voice."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twisted.internet.testing import StringTransport
from twisted.logger import LogLevel
from twisted.web.http import HTTPChannel

from pushserver.config.settings import Config
from pushserver.config.settings import Server as ServerSection
from pushserver.server.build import build
from pushserver.web.first_bytes import MOST_BYTES, MOST_FIELDS, Head, read_head
from tests.unit.fakes.heads import FIELDS, RAW, TRANSPORTS, connect, head, with_fields, without
from tests.unit.fakes.web import KEY, Log, Server, Trouble, masked, request

ALLOWED = "https://app.example"
CONFIG = Config(server=ServerSection(allowed_origins=[ALLOWED], compress=True))


@dataclass
class Visit:
    """What a peer saw, and what was logged of it."""

    wire: bytes
    closing: bool
    aborted: bool
    log: list[str]


_CHANCE = re.compile(rb"\r\nDate: [^\r]*|retry: [0-9]+")


class Way:
    """A server, and what was made of each handshake that came by its entrance."""

    def __init__(self, short: bool = True, config: Config = CONFIG):
        self.server = Server(config=config)
        self.server.hub.history.epoch = "EPOCH"
        for number in range(3):
            self.server.publish("numbers", number)
        self.taken: list[bool] = []
        self._short = short
        self._shortcut = self.server.site._shortcut
        self.server.site._shortcut = self._take

    def _take(self, transport: Any, head: Head, data: bytes) -> bool:
        shortcut: Any = self._shortcut
        self.taken.append(self._short and shortcut(transport, head, data))
        return self.taken[-1]

    def visit(self, *chunks: bytes, kind: str = "tcp") -> Visit:
        """Send these on a connection, then a ping; and what comes of it."""
        line = connect(self.server, kind)
        with Log(LogLevel.info) as log:
            for chunk in (*chunks, masked(b"x", opcode=9)):
                line.send(chunk)
            self.server.publish("numbers", "live")
            wire = line.take()
            found = Visit(
                _CHANCE.sub(b"", wire),
                line.disconnecting,
                line.aborted,
                log.take(),
            )
            line.vanish()
            self.server.clock.advance(20)
        assert self.server.is_empty()
        return found


@pytest.fixture(autouse=True)
def _same_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is published is always published now."""
    monkeypatch.setattr("tests.unit.fakes.web.build", partial(build, clock=lambda: 1_000.0))


def compare(*chunks: bytes, kind: str = "tcp") -> tuple[Visit, bool]:
    """What both ways made of these, which must be the same; and whether it went the short one."""
    short, long = Way(), Way(short=False)
    found = short.visit(*chunks, kind=kind)
    assert found == long.visit(*chunks, kind=kind)
    assert len(short.taken) <= 1
    assert short.server.node.hub.metrics.ended == long.server.node.hub.metrics.ended
    return found, any(short.taken)


# -- two ways, one answer -------------------------------------------------------------------------

TARGETS = [
    RAW,
    f"{RAW}?since=EPOCH:1",
    f"{RAW}?since=EPOCH:99",
    f"{RAW}?since=OTHER:1",
    f"{RAW}?last=2",
    f"{RAW}?last=2&last=0",
    f"{RAW}?unknown=%zz&%00=;;=&a",
    "/events?channel=numbers&channel=a",
    "/events?channel=numbers;channel=a&since=EPOCH:2",
    "/connection/websocket",
    "/connection/websocket?cf_ws_frame_ping_pong=true",
    "/connection/websocket/more",
]
REFUSED = [
    f"{RAW}?since=nonsense",
    f"{RAW}?last=x",
    f"{RAW}?last=99999999",
    f"{RAW}?last=1&since=EPOCH:1",
    "/channels/",
    "/channels/a/b",
    "/channels/~not~",
    "/channels/" + "x" * 300,
    "/events",
    "/events?channel=",
    "/events?channel=" + "&channel=".join(f"c{n}" for n in range(200)),
    "/connection/websocket?format=protobuf",
    "//channels/numbers",
    "/connection/sse",
    "/emulation",
    "/api/publish",
    "/nothing",
    "/static/nothing",
    "/static/../channels/numbers",
    "/static/" + "x" * 5_000,
    "/",
]


@pytest.mark.parametrize("kind", TRANSPORTS)
@pytest.mark.parametrize("target", TARGETS)
def test_what_a_door_lets_in_gets_the_same_frames_the_short_way(target: str, kind: str) -> None:
    found, short = compare(head(target=target.encode()), kind=kind)
    assert short
    assert found.wire.startswith(b"HTTP/1.1 101 ")
    assert b"\x8a\x01x" in found.wire, "the ping was not answered"


@pytest.mark.parametrize("target", REFUSED)
def test_what_a_door_refuses_is_answered_on_the_long_way(target: str) -> None:
    found, short = compare(head(target=target.encode()))
    assert not short
    assert found.wire[9:12] in (b"200", b"400", b"404", b"405", b"426"), found.wire
    assert b'"error"' in found.wire or found.wire[9:10] == b"2"


@pytest.mark.parametrize(
    "fields",
    [
        FIELDS[::-1],
        [field.lower() for field in FIELDS[:3]] + [*FIELDS[3:]],
        [field.replace(b": ", b":") for field in FIELDS],
        [field.replace(b": ", b": \t") + b"\t " for field in FIELDS],
        [*FIELDS[:2], b"Connection: keep-alive, Upgrade", *FIELDS[3:]],
        [*FIELDS, b"X-Empty:"],
        [*FIELDS, b"X-" + b"x" * 254 + b": " + b"y" * 15_000],
        [*FIELDS, b"Cookie: a=b; ;;; =; c", b"Authorization: Basic ###"],
        [*FIELDS, b"Last-Event-ID: EPOCH:2"],
        [*FIELDS, b"Last-Event-ID: nonsense"],
        [*FIELDS, b"Origin: http://localhost:8080"],
        [*FIELDS, b"Origin: " + ALLOWED.encode()],
        [*FIELDS, b"Sec-WebSocket-Protocol: other, centrifuge-json"],
        [*FIELDS, b"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits"],
        [*FIELDS, b"Sec-WebSocket-Extensions: x; y=z, , ;"],
        [b"Host: [::1]:8080", *FIELDS[1:]],
    ],
)
def test_a_handshake_may_be_written_in_several_ways(fields: list[bytes]) -> None:
    found, short = compare(head(*fields))
    assert short
    assert found.wire.startswith(b"HTTP/1.1 101 ")


def test_a_handshake_with_a_long_name_is_refused() -> None:
    found, short = compare(head(*FIELDS, b"X-" + b"x" * 255 + b": y"))
    assert not short
    assert found.wire.startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize(
    ("field", "words"),
    [
        (b"Sec-WebSocket-Protocol: a, a", b"duplicate protocol"),
        (b"Sec-WebSocket-Extensions: permessage-deflate; x=1", b"permessage-deflate"),
    ],
)
def test_what_autobahn_refuses_it_refuses_alike(
    field: bytes, words: bytes, trouble: Trouble
) -> None:
    found, short = compare(head(*FIELDS, field))
    assert short
    assert found.wire.startswith(b"HTTP/1.1 400 ")
    assert words in found.wire
    assert found.closing
    assert len(found.log) == 2
    trouble.clear()


ODD = {
    "a head without end": head()[:-1],
    "bare line feeds": head().replace(b"\r\n", b"\n"),
    "a bare line feed": with_fields(b"X: a\nY: b"),
    "a bare carriage return": with_fields(b"X: a\rY: b"),
    "nul": with_fields(b"X: a\0b"),
    "delete": with_fields(b"X: a\x7fb"),
    "latin": with_fields(b"X: \xe9"),
    "utf-8": with_fields("X: \u2028".encode()),
    "a line break to Python alone": with_fields(b"X: a\x1cOrigin: http://evil"),
    "high bytes in the target": head(target=b"/channels/\xff"),
    "a name that is none": with_fields(b"X y: a"),
    "a space before the colon": without(b"Upgrade", b"Upgrade : websocket"),
    "no colon": with_fields(b"nonsense"),
    "no name": with_fields(b": a"),
    "a folded field": without(b"Upgrade", b"Upgrade:\r\n websocket"),
    "a fold before the first": head().replace(b"\r\nHost", b"\r\n Host"),
    "two of one": with_fields(b"X: a", b"x: a"),
    "two hosts": with_fields(b"Host: localhost:8080"),
    "no host": without(b"Host"),
    "a host that is none": without(b"Host", b"Host: a b"),
    "a port that is none": without(b"Host", b"Host: a:99999"),
    "a user in the host": without(b"Host", b"Host: u@a"),
    "two origins": with_fields(b"Origin: http://localhost:8080", b"Origin: http://evil"),
    "two keys": with_fields(b"Sec-WebSocket-Key: " + KEY),
    "no key": without(b"Sec-WebSocket-Key"),
    "a short key": without(b"Sec-WebSocket-Key", b"Sec-WebSocket-Key: short"),
    "a key that is none": without(b"Sec-WebSocket-Key", b"Sec-WebSocket-Key: " + b"!" * 24),
    "no upgrade": without(b"Upgrade"),
    "two upgrades": with_fields(b"Upgrade: websocket"),
    "an upgrade to one of two": without(b"Upgrade", b"Upgrade: h2c, websocket"),
    "another upgrade": without(b"Upgrade", b"Upgrade: h2c"),
    "no connection": without(b"Connection"),
    "two connections": with_fields(b"Connection: close"),
    "another connection": without(b"Connection", b"Connection: keep-alive"),
    "the version before": without(b"Sec-WebSocket-Version", b"Sec-WebSocket-Version: 8"),
    "no version": without(b"Sec-WebSocket-Version"),
    "a version written otherwise": without(b"Sec-WebSocket-Version", b"Sec-WebSocket-Version:+13"),
    "a body": with_fields(b"Content-Length: 3") + b"abc",
    "an empty body": with_fields(b"Content-Length: 0"),
    "a body in chunks": with_fields(b"Transfer-Encoding: chunked") + b"0\r\n",
    "a body as it is": with_fields(b"Transfer-Encoding: identity"),
    "two encodings": with_fields(b"Transfer-Encoding: chunked", b"Transfer-Encoding: identity"),
    "an encoding and a length": with_fields(b"Transfer-Encoding: chunked", b"Content-Length: 3"),
    "two lengths": with_fields(b"Content-Length: 3", b"Content-Length: 4"),
    "an expectation": with_fields(b"Expect: 100-continue"),
    "http 1.0": head(version=b"HTTP/1.0"),
    "http 1.0 and an encoding": head(*FIELDS, b"Transfer-Encoding: chunked", version=b"HTTP/1.0"),
    "http 2": head(version=b"HTTP/2.0"),
    "another case": head(version=b"http/1.1"),
    "another method": head().replace(b"GET", b"POST"),
    "a method in another case": head().replace(b"GET", b"get"),
    "two blanks": head().replace(b"GET ", b"GET  "),
    "a tab": head().replace(b"GET ", b"GET\t"),
    "no version at all": head().replace(b" HTTP/1.1", b""),
    "an empty line before": b"\r\n" + head(),
    "an absolute target": head(target=b"http://localhost:8080/channels/numbers"),
    "no path": head(target=b"*"),
    "an escape": head(target=b"/channels/%6eumbers"),
    "an escape of nul": head(target=b"/channels/%00"),
    "a fragment": head(target=RAW.encode() + b"#x"),
    "a frame with it": head() + masked(b"x", opcode=9),
    "a request with it": head() + request("/nothing"),
    "an empty line with it": head() + b"\r\n",
    "a byte too many": head(target=b"/channels/numbers?" + b"x" * MOST_BYTES),
    "a field too many": with_fields(*(b"X%d:" % n for n in range(MOST_FIELDS - len(FIELDS) + 1))),
    "far too many fields": with_fields(*(b"%d:" % n for n in range(2_500))),
    "a request": request("/nothing"),
    "nothing but line breaks": b"\r\n\r\n",
}


@pytest.mark.parametrize("name", ODD)
def test_a_head_that_is_not_exactly_so_goes_the_long_way(name: str, trouble: Trouble) -> None:
    way = Way()
    way.visit(ODD[name])
    assert way.taken == [], "it was taken for a handshake"
    compare(ODD[name])
    trouble.clear()


def test_the_bounds_of_a_head_are_those_of_twisted_web() -> None:
    assert (HTTPChannel.totalHeadersSize, HTTPChannel.maxHeaders) == (MOST_BYTES, MOST_FIELDS)
    longest = head(target=RAW.encode() + b"?" + b"x" * (MOST_BYTES - len(head()) - 1))
    most = with_fields(*(b"X%d:" % n for n in range(MOST_FIELDS - len(FIELDS))))
    for data in (longest, most):
        found, short = compare(data)
        assert short
        assert found.wire.startswith(b"HTTP/1.1 101 ")


@pytest.mark.parametrize("kind", TRANSPORTS)
@pytest.mark.parametrize(
    "origin", ["http://evil", "https://localhost:8080.evil", "null", "http://localhost", "file://"]
)
def test_a_page_of_somebody_elses_is_refused_on_both_ways_and_logged_once(
    origin: str, kind: str
) -> None:
    for target in (RAW, "/connection/websocket", "/events?channel=numbers"):
        data = head(*FIELDS, b"Origin: " + origin.encode(), target=target.encode())
        found, short = compare(data, kind=kind)
        assert not short
        assert found.wire.startswith(b"HTTP/1.1 403 ")
        assert len(found.log) == 1
        assert f"refused: a page of {origin!r} may not use" in found.log[0]


@pytest.mark.parametrize(
    ("kind", "scheme"), [("tcp", "http"), ("secure", "https"), ("wrapped secure", "https")]
)
def test_a_page_is_of_the_same_origin_only_with_the_scheme_of_the_transport(
    kind: str, scheme: str
) -> None:
    for asked in ("http", "https"):
        found, short = compare(
            with_fields(b"Origin: %b://localhost:8080" % asked.encode()), kind=kind
        )
        assert short == (asked == scheme)
        assert found.wire.startswith(b"HTTP/1.1 101 " if short else b"HTTP/1.1 403 ")


@pytest.mark.parametrize("target", [RAW, "/connection/websocket", f"{RAW}?last=x"])
def test_a_head_in_two_pieces_is_answered_as_the_same_in_one(target: str) -> None:
    data = head(target=target.encode())
    whole, _ = compare(data)
    for cut in range(1, len(data)):
        way = Way()
        assert way.visit(data[:cut], data[cut:]) == whole, cut
        assert way.taken == []


def test_a_door_that_fails_is_asked_again_and_logged_once(
    trouble: Trouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(request: Any, most: int) -> None:
        raise RuntimeError("secret")

    monkeypatch.setattr("pushserver.resources.channels.stream_start", fail)
    found, short = compare(head())
    assert not short
    assert found.wire.startswith(b"HTTP/1.1 500 ")
    assert trouble.take() == [f"b'{RAW}' failed: RuntimeError('secret')"] * 2


# -- whatever comes -------------------------------------------------------------------------------

VALUES = {
    b"Host": [b"a", b"[::1]", b"a:99999", b"", b"a b", b"a, b", b"LOCALHOST:8080"],
    b"Upgrade": [b"WebSocket", b"h2c, websocket", b"websocket2", b"", b"websocket,"],
    b"Connection": [b"keep-alive, Upgrade", b"close", b"upgrade, close", b"Upgrade x", b""],
    b"Sec-WebSocket-Key": [b"A" * 22 + b"==", b"A" * 24, b"short", b"", b"-" * 22 + b"=="],
    b"Sec-WebSocket-Version": [b"13", b"8", b"7", b"013", b"13, 8", b"", b"1e1"],
    b"Origin": [
        b"http://localhost:8080",
        b"HTTP://LOCALHOST:8080",
        b"https://localhost:8080",
        b"http://a",
        b"null",
        b"file://",
        b"nonsense",
        ALLOWED.encode(),
        ALLOWED.upper().encode(),
        ALLOWED.encode() + b".evil",
    ],
    b"Sec-WebSocket-Protocol": [
        b"centrifuge-json",
        b"centrifuge-protobuf",
        b"a, centrifuge-json, b",
        b"a, a",
        b"",
    ],
    b"Sec-WebSocket-Extensions": [b"permessage-deflate", b"permessage-deflate; x=1", b";,", b""],
    b"Last-Event-ID": [b"EPOCH:1", b"x", b""],
    b"Content-Length": [b"0", b"3", b"-1"],
    b"Transfer-Encoding": [b"chunked", b"identity", b"gzip"],
    b"Expect": [b"100-continue", b""],
    b"Cookie": [b"a=b; c", b";"],
    b"Accept": [b"text/html", b"*/*", b"text/event-stream"],
}
Change = Callable[[list[bytes]], list[bytes]]


def _put(name: bytes, value: bytes, instead: bool) -> Change:
    def change(fields: list[bytes]) -> list[bytes]:
        rest = [f for f in fields if not instead or not f.lower().startswith(name.lower() + b":")]
        return [*rest, name + b": " + value]

    return change


def _at(where: int, how: Callable[[bytes], list[bytes]]) -> Change:
    def change(fields: list[bytes]) -> list[bytes]:
        if not fields:
            return fields
        spot = where % len(fields)
        return [*fields[:spot], *how(fields[spot]), *fields[spot + 1 :]]

    return change


def _insert(byte: bytes, place: int) -> Callable[[bytes], list[bytes]]:
    def how(field: bytes) -> list[bytes]:
        spot = place % (len(field) + 1)
        return [field[:spot] + byte + field[spot:]]

    return how


values = st.one_of(
    *(st.builds(_put, st.just(n), st.sampled_from(v), st.booleans()) for n, v in VALUES.items())
)
bytes_in = st.builds(
    _insert,
    st.sampled_from([b"\0", b"\n", b"\r", b"\x0b", b"\x1c", b"\x7f", b"\x85", b"\xff", b" ", b":"]),
    st.integers(0, 60),
)
spoilt = st.builds(
    _at,
    st.integers(0, 9),
    st.one_of(
        st.sampled_from(
            [
                lambda field: [field, field],
                lambda field: [],
                lambda field: [field.replace(b": ", b":\r\n ", 1)],
                lambda field: [field.replace(b": ", b" : ", 1)],
            ]
        ),
        bytes_in,
    ),
)
harmless = st.builds(
    _at,
    st.integers(0, 9),
    st.sampled_from(
        [
            lambda field: [field.partition(b":")[0].upper() + b":" + field.partition(b":")[2]],
            lambda field: [field.partition(b":")[0].lower() + b":" + field.partition(b":")[2]],
            lambda field: [field.replace(b": ", b":", 1)],
            lambda field: [field + b" \t"],
            lambda field: [field, b"X-Mine: 1"],
        ]
    ),
)
targets = st.one_of(
    st.sampled_from(TARGETS + REFUSED).map(str.encode),
    st.text("abc%/.:~?&=;+#0123456789", max_size=20).map(lambda text: f"/channels/{text}".encode()),
    st.text("sincelat=&;%+0EPOCH:?", max_size=20).map(lambda text: f"{RAW}?{text}".encode()),
)


@st.composite
def heads(draw: st.DrawFn) -> bytes:
    """A handshake to which a few things happened."""
    fields = list(draw(st.permutations(FIELDS)))
    for change in draw(st.lists(st.one_of(values, harmless, harmless, spoilt), max_size=3)):
        fields = change(fields)
    version = draw(st.sampled_from([b"HTTP/1.1"] * 9 + [b"HTTP/1.0"]))
    tail = draw(st.sampled_from([b""] * 9 + [b"\r\n", masked(b"x", opcode=9), request("/nothing")]))
    return head(*fields, target=draw(targets), version=version) + tail


@pytest.mark.parametrize("kind", ["tcp", "wrapped secure"])
def test_whatever_happened_to_a_handshake_both_ways_answer_the_same(
    kind: str, trouble: Trouble
) -> None:
    taken: list[bool] = []

    @settings(max_examples=4 * settings().max_examples)
    @given(heads(), st.integers(1, 3_000))
    def check(data: bytes, cut: int) -> None:
        taken.append(compare(data, kind=kind)[1])
        compare(data[:cut], data[cut:], kind=kind)
        trouble.clear()

    check()
    assert taken.count(True) > len(taken) / 10
    assert taken.count(False) > len(taken) / 10


@given(st.binary(max_size=80) | st.binary(max_size=40).map(lambda data: head() + data))
def test_whatever_bytes_come_nothing_is_raised_and_only_a_handshake_is_one(data: bytes) -> None:
    way = Way()
    way.visit(data)
    assert (way.taken == [True]) == (data == head())
    taken = read_head(data, StringTransport())
    assert (taken is not None) == (data == head())


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(spot=st.integers(0, len(head()) - 1), other=st.binary(max_size=3))
def test_a_handshake_with_other_bytes_in_it_is_answered_alike(
    trouble: Trouble, spot: int, other: bytes
) -> None:
    for end in (spot, spot + len(other)):
        compare(head()[:spot] + other + head()[end:])
    trouble.clear()
