"""A server with the short path accepts and refuses the same handshakes as one without."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twisted.internet.testing import StringTransport
from twisted.web.http import HTTPChannel

from pushserver.web.first_bytes import MAX_FIELDS, MAX_HEAD_BYTES, read_head
from tests.unit.fakes.heads import (
    ALLOWED,
    FIELDS,
    RAW,
    TRANSPORTS,
    Side,
    compare,
    head,
    with_fields,
    without,
)
from tests.unit.fakes.web import KEY, Trouble, masked, parse, request

PING = masked(b"x", opcode=9)
PONG = b"\x8a\x01x"

ACCEPTED = [
    RAW,
    f"{RAW}?since=EPOCH:1",
    f"{RAW}?since=EPOCH:99",
    f"{RAW}?last=2&last=0",
    f"{RAW}?unknown=%zz&%00=;;=&a",
    "/events?channel=numbers;channel=a&since=EPOCH:2",
    "/connection/websocket",
    "/connection/websocket/more",
]
REFUSED = [
    f"{RAW}?since=nonsense",
    f"{RAW}?last=99999999",
    "/channels/",
    "/channels/~not~",
    "/events?channel=",
    "/connection/websocket?format=protobuf",
    "//channels/numbers",
    "/connection/sse",
    "/api/publish",
    "/nothing",
    "/static/../channels/numbers",
    "/static/" + "x" * 5_000,
    "/",
]


@pytest.mark.parametrize(
    ("target", "kind"),
    [*((target, "tcp") for target in ACCEPTED), *((RAW, kind) for kind in TRANSPORTS[1:])],
)
def test_accepted_handshake_takes_the_short_path(target: str, kind: str) -> None:
    visit, short = compare(head(target=target.encode()), PING, kind=kind)
    assert short
    assert visit.wire.startswith(b"HTTP/1.1 101 ")
    assert PONG in visit.wire


@pytest.mark.parametrize("target", REFUSED)
def test_request_that_the_resource_refuses_is_answered_by_twisted_web(target: str) -> None:
    visit, short = compare(head(target=target.encode()))
    assert not short
    assert visit.wire[9:12] in (b"200", b"400", b"404", b"405", b"426"), visit.wire


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
        [*FIELDS, b"Last-Event-ID: EPOCH:2"],
        [*FIELDS, b"Origin: " + ALLOWED.encode()],
        [*FIELDS, b"Sec-WebSocket-Protocol: other, centrifuge-json"],
        [*FIELDS, b"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits"],
        [b"Host: [::1]:8080", *FIELDS[1:]],
    ],
)
def test_fields_of_a_handshake_may_be_written_differently(fields: list[bytes]) -> None:
    visit, short = compare(head(*fields))
    assert short
    assert visit.wire.startswith(b"HTTP/1.1 101 ")


KEY_FIELD, VERSION_FIELD = b"Sec-WebSocket-Key", b"Sec-WebSocket-Version"
NAMES, EXTENSIONS = b"Sec-WebSocket-Protocol: ", b"Sec-WebSocket-Extensions: "
NOT_VALID = {
    "subprotocol twice": (with_fields(NAMES + b"a, a"), "Protocol: 'a, a', expected names"),
    "subprotocol in two fields": (
        with_fields(NAMES + b"a", NAMES + b"b, a"),
        "Protocol: 'a, b, a', expected names",
    ),
    "escape sequence": (
        with_fields(NAMES + b"\x1b]0;x\x07, \x1b]0;x\x07"),
        r"Protocol: '\x1b]0;x\x07, \x1b]0;x\x07', expected names",
    ),
    "text that is written backwards": (
        with_fields(NAMES + "\u202ea".encode()),
        r"Protocol: '\u202ea', expected names",
    ),
    "long subprotocol": (
        with_fields(NAMES + b"a b" + b"x" * 5_000),
        "Protocol: 'a b" + "x" * 76 + ", expected names",
    ),
    "unknown parameter": (
        with_fields(EXTENSIONS + b"permessage-deflate; x=1"),
        "Extensions: 'permessage-deflate; x=1', a parameter",
    ),
    "parameter without a name": (
        with_fields(EXTENSIONS + b"foo; =\x1b"),
        r"Extensions: 'foo; =\x1b', expected NAME",
    ),
    "version that is no number": (without(VERSION_FIELD, VERSION_FIELD + b": x"), "Version: 'x'"),
    "control bytes as version": (
        without(VERSION_FIELD, VERSION_FIELD + b": \x1b[2J"),
        r"Version: '\x1b[2J'",
    ),
    "two versions": (with_fields(VERSION_FIELD + b": 8"), "Version: '13, 8', expected 13"),
    "old version": (without(VERSION_FIELD, VERSION_FIELD + b": 8"), "Version: '8', expected 13"),
    "no version": (without(VERSION_FIELD), "Version: None, expected 13"),
    "no key": (without(KEY_FIELD), "Key: None, expected"),
    "long key": (
        without(KEY_FIELD, KEY_FIELD + b": " + b"\x07" * 4_000),
        "Key: '" + r"\x07" * 19 + r"\x0, expected",
    ),
    "no Connection": (without(b"Connection"), "Connection: '', expected Upgrade"),
    "other Connection": (
        without(b"Connection", b"Connection: close, \x1b"),
        r"Connection: 'close, \x1b', expected Upgrade",
    ),
    "HTTP 1.0": (head(version=b"HTTP/1.0"), "handshake is HTTP/1.1, got 'HTTP/1.0' (nginx: "),
    "HEAD": (head().replace(b"GET", b"HEAD", 1), ""),
    "frame as a body": (
        with_fields(b"Content-Length: 27") + masked(b"x" * 21),
        "a WebSocket handshake has no body",
    ),
    "body": (with_fields(b"Content-Length: 3") + b"abc", "a WebSocket handshake has no body"),
    "chunks": (
        with_fields(b"Transfer-Encoding: chunked") + b"7\r\n" + masked(b"x") + b"\r\n0\r\n\r\n",
        "a WebSocket handshake has no body",
    ),
}


@pytest.mark.parametrize("target", [RAW, "/events?channel=numbers", "/connection/websocket"])
@pytest.mark.parametrize("name", NOT_VALID)
def test_handshake_that_is_not_valid_is_refused_in_json(name: str, target: str) -> None:
    data, words = NOT_VALID[name]
    visit, short = compare(data.replace(RAW.encode(), target.encode()), wait=60)
    assert not short
    # twisted.web answers with the version of the request.
    wire = visit.wire.replace(b"HTTP/1.0 ", b"HTTP/1.1 ", 1)
    answer = parse(wire, "HEAD" if name == "HEAD" else "GET")
    assert answer.status == 400
    assert answer.headers["x-content-type-options"] == ["nosniff"]
    if words:
        assert words in answer.error[1]
        assert answer.error[1].isprintable()
        assert len(answer.body) < 400
    assert ("sec-websocket-version" in answer) == ("Version" in words)
    assert visit.log == []


@pytest.mark.parametrize(
    "fields",
    [
        [EXTENSIONS + b'permessage-deflate; client_max_window_bits=15, x-other; a="b"'],
        [EXTENSIONS + b",  ,permessage-deflate"],
        [NAMES + b"foo"],
        [NAMES + b"foo,, bar"],
        [b"Content-Length: 0"],
        [b"X: a\x1cOrigin: http://evil"],
    ],
)
def test_unusual_fields_of_a_valid_handshake_are_accepted(fields: list[bytes]) -> None:
    visit, _ = compare(with_fields(*fields))
    assert visit.wire.startswith(b"HTTP/1.1 101 ")
    assert b"Protocol:" not in visit.wire
    assert visit.log == []


UNUSUAL = {
    "unfinished head": head()[:-1],
    "bare line feeds": head().replace(b"\r\n", b"\n"),
    "bare line feed in a value": with_fields(b"X: a\nY: b"),
    "bare carriage return": with_fields(b"X: a\rY: b"),
    "nul in a value": with_fields(b"X: a\0b"),
    "delete in a value": with_fields(b"X: a\x7fb"),
    "latin-1 in a value": with_fields(b"X: \xe9"),
    "line separator of str.splitlines": with_fields(b"X: a\x1cOrigin: http://evil"),
    "high byte in the target": head(target=b"/channels/\xff"),
    "blank in a name": with_fields(b"X y: a"),
    "blank before the colon": without(b"Upgrade", b"Upgrade : websocket"),
    "line without a colon": with_fields(b"nonsense"),
    "empty name": with_fields(b": a"),
    "name too long": with_fields(b"X-" + b"x" * 255 + b": y"),
    "folded field": without(b"Upgrade", b"Upgrade:\r\n websocket"),
    "fold before the first field": head().replace(b"\r\nHost", b"\r\n Host"),
    "repeated field": with_fields(b"X: a", b"x: a"),
    "repeated Host": with_fields(b"Host: localhost:8080"),
    "no Host": without(b"Host"),
    "invalid Host": without(b"Host", b"Host: a b"),
    "invalid port": without(b"Host", b"Host: a:99999"),
    "two Origins": with_fields(b"Origin: http://localhost:8080", b"Origin: http://evil"),
    "no key": without(b"Sec-WebSocket-Key"),
    "repeated key": with_fields(b"Sec-WebSocket-Key: " + KEY),
    "short key": without(b"Sec-WebSocket-Key", b"Sec-WebSocket-Key: short"),
    "key not in base64": without(b"Sec-WebSocket-Key", b"Sec-WebSocket-Key: " + b"!" * 24),
    "no Upgrade": without(b"Upgrade"),
    "other Upgrade": without(b"Upgrade", b"Upgrade: h2c"),
    "Upgrade to one of two": without(b"Upgrade", b"Upgrade: h2c, websocket"),
    "no Connection": without(b"Connection"),
    "other Connection": without(b"Connection", b"Connection: keep-alive"),
    "no version": without(b"Sec-WebSocket-Version"),
    "older version": without(b"Sec-WebSocket-Version", b"Sec-WebSocket-Version: 8"),
    "version with a sign": without(b"Sec-WebSocket-Version", b"Sec-WebSocket-Version:+13"),
    "body": with_fields(b"Content-Length: 3") + b"abc",
    "empty body": with_fields(b"Content-Length: 0"),
    "chunked body": with_fields(b"Transfer-Encoding: chunked") + b"0\r\n",
    "identity encoding": with_fields(b"Transfer-Encoding: identity"),
    "encoding and length": with_fields(b"Transfer-Encoding: chunked", b"Content-Length: 3"),
    "Expect": with_fields(b"Expect: 100-continue"),
    "HTTP 1.0": head(version=b"HTTP/1.0"),
    "HTTP 2": head(version=b"HTTP/2.0"),
    "version in lower case": head(version=b"http/1.1"),
    "no HTTP version": head().replace(b" HTTP/1.1", b""),
    "other method": head().replace(b"GET", b"POST"),
    "two blanks": head().replace(b"GET ", b"GET  "),
    "empty line before": b"\r\n" + head(),
    "absolute target": head(target=b"http://localhost:8080/channels/numbers"),
    "asterisk target": head(target=b"*"),
    "percent escape": head(target=b"/channels/%6eumbers"),
    "fragment": head(target=RAW.encode() + b"#x"),
    "frame behind the head": head() + PING,
    "request behind the head": head() + request("/nothing"),
    "too many bytes": head(target=b"/channels/numbers?" + b"x" * MAX_HEAD_BYTES),
    "too many fields": with_fields(*(b"X%d:" % n for n in range(MAX_FIELDS - len(FIELDS) + 1))),
    "plain request": request("/nothing"),
}


@pytest.mark.parametrize("name", UNUSUAL)
def test_unusual_head_goes_to_twisted_web(name: str, trouble: Trouble) -> None:
    side = Side(shortcuts=True)
    side.visit(UNUSUAL[name])
    assert side.taken == []
    compare(UNUSUAL[name], PING)
    trouble.clear()


def test_largest_heads_take_the_short_path() -> None:
    longest = head(target=RAW.encode() + b"?" + b"x" * (MAX_HEAD_BYTES - len(head()) - 1))
    most = with_fields(*(b"X%d:" % n for n in range(MAX_FIELDS - len(FIELDS))))
    for data in (longest, most):
        visit, short = compare(data)
        assert short
        assert visit.wire.startswith(b"HTTP/1.1 101 ")


@pytest.mark.upstream
def test_limits_of_a_head_are_those_of_twisted_web() -> None:
    assert (HTTPChannel.totalHeadersSize, HTTPChannel.maxHeaders) == (MAX_HEAD_BYTES, MAX_FIELDS)


@pytest.mark.parametrize("target", [RAW, "/connection/websocket", "/events?channel=numbers"])
def test_page_of_another_origin_is_refused_and_logged_once(target: str) -> None:
    visit, short = compare(head(*FIELDS, b"Origin: http://evil", target=target.encode()))
    assert not short
    assert visit.wire.startswith(b"HTTP/1.1 403 ")
    assert len(visit.log) == 1
    assert "refused 403 to " in visit.log[0]
    assert ": a page of 'http://evil' may not use" in visit.log[0]


@pytest.mark.parametrize(
    ("kind", "scheme"), [("tcp", "http"), ("secure", "https"), ("wrapped secure", "https")]
)
def test_page_of_the_same_origin_has_the_scheme_of_the_transport(kind: str, scheme: str) -> None:
    for asked in ("http", "https"):
        origin = b"Origin: %b://localhost:8080" % asked.encode()
        visit, short = compare(with_fields(origin), kind=kind)
        assert short == (asked == scheme)
        assert visit.wire.startswith(b"HTTP/1.1 101 " if short else b"HTTP/1.1 403 ")


def test_head_in_two_pieces_gets_the_answer_of_the_whole_head() -> None:
    whole, _ = compare(head())
    for cut in range(1, len(head())):
        side = Side(shortcuts=True)
        assert side.visit(head()[:cut], head()[cut:]) == whole, cut
        assert side.taken == []


def test_answer_goes_past_the_transport_on_the_short_path_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Behind twisted.web the transport may have something in its buffer."""
    sent: list[bytes] = []
    monkeypatch.setattr(
        "pushserver.transports.websocket.lean.send_now", lambda _, data, flags: sent.append(data)
    )
    Side(shortcuts=True).visit(head())
    assert [data[:13] for data in sent] == [b"HTTP/1.1 101 "]
    Side(shortcuts=True).visit(head()[:9], head()[9:])
    assert len(sent) == 1


def test_failure_of_a_resource_is_logged_once_and_answered_with_500(
    trouble: Trouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(request: Any, most: int) -> None:
        raise RuntimeError("secret")

    monkeypatch.setattr("pushserver.resources.streams.stream_start", fail)
    visit, short = compare(head())
    assert not short
    assert visit.wire.startswith(b"HTTP/1.1 500 ")
    # One for each of the two servers.
    assert trouble.take() == [f"b'{RAW}' failed: RuntimeError('secret')"] * 2


# -- generated heads ------------------------------------------------------------------------------

VALUES = {
    b"Host": [b"a", b"[::1]", b"a:99999", b"", b"a, b", b"LOCALHOST:8080"],
    b"Upgrade": [b"WebSocket", b"h2c, websocket", b"websocket2", b"", b"websocket,"],
    b"Connection": [b"keep-alive, Upgrade", b"close", b"upgrade, close", b"Upgrade x", b""],
    b"Sec-WebSocket-Key": [b"A" * 22 + b"==", b"A" * 24, b"short", b"-" * 22 + b"=="],
    b"Sec-WebSocket-Version": [b"13", b"8", b"013", b"13, 8", b"", b"1e1"],
    b"Origin": [b"HTTP://LOCALHOST:8080", b"http://a", b"null", b"nonsense", ALLOWED.encode()],
    b"Sec-WebSocket-Protocol": [b"centrifuge-json", b"a, centrifuge-json, b", b"a, a", b""],
    b"Sec-WebSocket-Extensions": [b"permessage-deflate", b"permessage-deflate; x=1", b";,", b""],
    b"Last-Event-ID": [b"EPOCH:1", b"x", b""],
    b"Content-Length": [b"0", b"3", b"-1"],
    b"Transfer-Encoding": [b"chunked", b"identity", b"gzip"],
    b"Expect": [b"100-continue", b""],
    b"Accept": [b"text/html", b"text/event-stream"],
}
lines = st.sampled_from(
    [name + b": " + value for name, values in VALUES.items() for value in values]
)
targets = st.one_of(
    st.sampled_from(ACCEPTED + REFUSED).map(str.encode),
    st.text("abc%/.:~?&=;+#0123456789", max_size=20).map(lambda text: f"/channels/{text}".encode()),
    st.text("sincelat=&;%+0EPOCH:?", max_size=20).map(lambda text: f"{RAW}?{text}".encode()),
)


@st.composite
def heads(draw: st.DrawFn) -> bytes:
    """A handshake with some fields replaced and some added."""
    fields = {line.partition(b":")[0]: line for line in draw(st.permutations(FIELDS))}
    for line in draw(st.lists(lines, max_size=2)):
        fields[line.partition(b":")[0]] = line
    more = draw(st.lists(lines, max_size=1))
    return head(*fields.values(), *more, target=draw(targets))


@pytest.mark.parametrize("kind", ["tcp", "wrapped secure"])
def test_both_servers_answer_a_generated_head_alike(kind: str, trouble: Trouble) -> None:
    taken: list[bool] = []

    @settings(max_examples=2 * settings().max_examples)
    @given(heads(), st.integers(1, 3_000))
    def check(data: bytes, cut: int) -> None:
        taken.append(compare(data, PING, kind=kind)[1])
        compare(data[:cut], data[cut:], kind=kind)
        trouble.clear()

    check()
    assert len(taken) / 10 < taken.count(True) < len(taken) * 9 / 10


@given(st.binary(max_size=80) | st.binary(max_size=40).map(lambda data: head() + data))
def test_only_a_handshake_is_read_as_one(data: bytes) -> None:
    assert (read_head(data, StringTransport()) is not None) == (data == head())


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(spot=st.integers(0, len(head()) - 1), other=st.binary(max_size=3), instead=st.booleans())
def test_both_servers_answer_a_handshake_with_other_bytes_in_it_alike(
    trouble: Trouble, spot: int, other: bytes, instead: bool
) -> None:
    end = spot + len(other) if instead else spot
    compare(head()[:spot] + other + head()[end:])
    trouble.clear()
