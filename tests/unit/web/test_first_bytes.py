"""A connection waits a limited time for its first bytes; resources read a head as a request."""

from __future__ import annotations

import secrets
from base64 import b64encode
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.protocol import Protocol
from twisted.internet.testing import StringTransport
from twisted.web.resource import Resource

from pushserver.config.limits import Limits
from pushserver.transports.websocket.shell import WebSocketShell
from pushserver.web.deadlines import MIN_SECONDS, Deadlines
from pushserver.web.first_bytes import MAX_KEPT_BYTES, FirstBytes, _parse, once, read_head
from pushserver.web.pipeline import DeadlineChannel
from tests.unit.fakes.heads import FIELDS, TRANSPORTS, connect, head, with_fields
from tests.unit.fakes.web import Server, request

# -- the head as resources see it -----------------------------------------------------------------


class Witness(Resource):
    """A resource that notes how a request looks, and refuses it."""

    isLeaf = True

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[dict[str, Any]] = []

    def websocket(self, request: Any) -> None:
        self.seen.append(look(request))
        raise RuntimeError

    def render(self, request: Any) -> bytes:
        self.seen.append(look(request))
        return b""


NAMES = ("host", "Host", "UPGRADE", "origin", "Last-Event-ID", "x-mine", "cookie", "nothing")


def look(request: Any) -> dict[str, Any]:
    """All properties of a request that a resource may read."""
    return {
        "method": request.method,
        "path": request.path,
        "prepath": list(request.prepath),
        "postpath": list(request.postpath),
        "args": request.args,
        "headers": {name: request.requestHeaders.getRawHeaders(name) for name in NAMES},
        "default": request.requestHeaders.getRawHeaders("nothing", ["x"]),
        "secure": request.isSecure(),
        "client": request.getClientAddress(),
        "host": request.getHost(),
    }


def witnessed(data: bytes, kind: str = "tcp") -> list[dict[str, Any]]:
    """How the same handshake looks on the short path, and then to twisted.web."""
    server, witness = Server(), Witness()
    root: Any = server.site.resource
    root.putChild(b"a", witness)
    line = connect(server, kind)
    line.send(data)
    line.vanish()
    return witness.seen


GOOD_KEYS = st.binary(min_size=16, max_size=16).map(b64encode)
BAD_KEYS = st.sampled_from(
    (b"", b"x", b"A" * 24, b"A" * 22 + b"==x", b"A" * 20 + b"\r\nx:", b"\xff")
)
KEY_FIELDS = (b"Sec-WebSocket-Key: ", b"Sec-WebSocket-Key:  ", b"sec-websocket-key:", b"X-Key: ")
MORE_FIELDS = (
    b"Cookie: a=1",
    b"X-Api-Key: k",
    b"Origin: http://a",
    b"Sec-WebSocket-Key: x",
    b"bad",
)


@given(
    st.lists(st.one_of(GOOD_KEYS, BAD_KEYS), min_size=2, max_size=4),
    st.sampled_from(KEY_FIELDS),
    st.lists(st.sampled_from(MORE_FIELDS), max_size=2),
    st.sampled_from((b"/", b"/a?last=1&last=2")),
)
def test_a_head_with_another_key_is_read_as_if_it_were_the_first(
    keys: list[bytes], name: bytes, more: list[bytes], target: bytes
) -> None:
    for key in keys:
        fields = (FIELDS[0], name + key, *more, *FIELDS[1:3], *FIELDS[4:])
        data = head(*fields, target=target)
        alone, repeated = _parse(data), read_head(data, None)
        if alone is None or repeated is None:
            assert alone is None
            assert repeated is None
        else:
            assert (alone.path, alone.args) == (repeated.path, repeated.args)
            assert alone.fields == repeated.fields


def test_facts_are_those_of_one_head() -> None:
    def found(*more: bytes, key: bytes = FIELDS[3]) -> list[int]:
        request = read_head(head(*FIELDS[:3], key, FIELDS[4], *more), None)
        facts: list[int] = once(request, "facts", list)
        facts.append(1)
        return facts

    mark = b"X-Mark: " + secrets.token_hex(8).encode()
    assert found(mark) == [1]
    assert found(mark, key=b"Sec-WebSocket-Key: " + b64encode(bytes(16))) == [1, 1]
    assert found(mark, b"Authorization: Bearer x") == [1]
    long = b"X-Long: " + b"x" * MAX_KEPT_BYTES
    assert found(long) == found(long) == [1]


def test_what_is_raised_is_no_fact() -> None:
    calls: list[int] = []

    def fails() -> None:
        calls.append(1)
        raise ZeroDivisionError

    request = read_head(head(), None)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            once(request, "nothing", fails)
    assert calls == [1, 1]


@pytest.mark.parametrize("kind", TRANSPORTS)
def test_resource_reads_a_head_as_the_request(kind: str) -> None:
    fields = (b"X-Mine:  a b ", b"Last-Event-Id: x:1", b"cookie:", b"origin: \thttp://a")
    data = with_fields(*fields).replace(b"/channels/numbers", b"/a/b//c?x=1&y=%41+b&x=2;z=&w")
    first, second = witnessed(data, kind)
    assert first == second
    assert first["postpath"] == [b"b", b"", b"c"]
    assert first["args"] == {b"x": [b"1", b"2"], b"y": [b"A b"], b"z": [b""]}
    assert first["headers"]["x-mine"] == ["a b"]
    assert first["headers"]["nothing"] is None
    assert first["secure"] == ("secure" in kind)
    if kind == "proxied":
        assert first["client"].host == "192.0.2.1"


@given(
    st.text("ab0_.:@~-/", max_size=12),
    st.none() | st.text([chr(n) for n in range(33, 127)], max_size=30),
    st.text([chr(n) for n in range(32, 127)] + ["\t"], max_size=30),
)
def test_resource_reads_any_target_and_field_as_in_the_request(
    path: str, query: str | None, value: str
) -> None:
    target = f"/a/{path}" + ("" if query is None else f"?{query}")
    data = with_fields(b"X-Mine:" + value.encode())
    first, second = witnessed(data.replace(b"/channels/numbers", target.encode()))
    assert first == second


# -- waiting for the first bytes ------------------------------------------------------------------


def ended(server: Server) -> bool:
    """Whether no connection and no timer is left."""
    return server.is_empty() and server.clock.getDelayedCalls() == []


def test_silent_connection_is_closed_after_request_seconds() -> None:
    server = Server(Limits(request_seconds=15))
    line = server.connect()
    server.clock.advance(14.9)
    assert not line.disconnecting
    server.clock.advance(0.1)
    server.clock.advance(0)
    assert (line.lost, line.aborted, line.value()) == (True, False, b"")
    assert ended(server)


def test_connection_that_does_not_end_is_aborted_and_not_read() -> None:
    """As under TLS, where the peer has to agree to the end."""
    server = Server(Limits(request_seconds=15))
    line = server.connect()
    line.reading, line.unread = False, 1
    server.clock.advance(15)
    assert line.disconnecting
    for data in (head(), request("/nothing")):
        line.protocol.dataReceived(data)
    assert line.value() == b""
    assert len(server.node.peers) == 0
    server.clock.advance(14.9)
    assert not line.aborted
    server.clock.advance(0.1)
    server.clock.advance(0)
    assert (line.lost, line.aborted) == (True, True)
    assert ended(server)


@pytest.mark.parametrize("seconds", [0, 5, 14])
def test_request_has_the_rest_of_the_time_after_late_first_bytes(seconds: int) -> None:
    server = Server(Limits(request_seconds=15))
    line = server.connect()
    server.clock.advance(seconds)
    for byte in request("/channels/a")[: 15 - seconds]:
        line.send(bytes([byte]))
        server.clock.advance(0.9)
        assert not line.disconnecting
        server.clock.advance(0.1)
    server.clock.advance(0)
    assert line.lost
    assert ended(server)


def test_second_request_has_all_its_time() -> None:
    server = Server(Limits(request_seconds=15))
    line = server.connect()
    server.clock.advance(10)
    for _ in range(3):
        line.send(request("/channels/a"))
        assert line.response().status == 200
        server.clock.advance(14)
        assert not line.disconnecting
    server.clock.advance(1)
    server.clock.advance(0)
    assert line.lost


@pytest.mark.parametrize("late", [15, 15.5, 100])
@pytest.mark.parametrize(
    ("data", "status"), [(head(), b"101"), (request("/channels/a"), b"200"), (b"G", b"")]
)
def test_bytes_that_came_in_time_are_read_by_a_late_reactor(
    late: float, data: bytes, status: bytes
) -> None:
    server = Server(Limits(request_seconds=15))
    line = server.connect()
    server.clock.rightNow += late
    line.protocol.dataReceived(data)
    assert line.value()[9:12] == status
    server.clock.advance(2 * MIN_SECONDS)
    server.clock.advance(0)
    assert line.lost == (status == b"")
    line.vanish()


def test_twisted_web_gets_at_least_min_seconds() -> None:
    given: list[float] = []
    clock = Server().clock

    def make_web(address: Any, seconds: float, counted_as: str | None) -> Protocol:
        given.append(seconds)
        return Protocol()

    for late in (0, 5, 15, 100):
        first = FirstBytes(
            None,
            clock,
            clock.seconds,
            Deadlines(clock, clock.seconds, 15),
            lambda *_: False,
            make_web,
            lambda _: None,
            lambda _: None,
            "",
        )
        clock.rightNow += late
        first.makeConnection(StringTransport())
        first.dataReceived(b"x")
    assert given == [15, 10, MIN_SECONDS, MIN_SECONDS]


@pytest.mark.parametrize(
    ("kind", "data"),
    [*((kind, b"") for kind in TRANSPORTS), ("tcp", b"G"), ("tcp", head()), ("wrapped", head())],
)
def test_connection_that_the_peer_ends_leaves_nothing(kind: str, data: bytes) -> None:
    server = Server()
    line = connect(server, kind)
    if data:
        line.send(data)
    line.vanish()
    server.clock.advance(0)
    assert ended(server)


def test_connection_that_was_handed_over_waits_no_longer() -> None:
    server = Server()
    line = server.connect()
    line.send(head())
    assert isinstance(line.protocol, WebSocketShell)
    assert server.site.channels == set()
    server.advance(20)
    assert not line.disconnecting
    other = server.connect()
    other.send(request("/channels/a"))
    (channel,) = server.site.channels
    assert isinstance(channel, DeadlineChannel)


@pytest.mark.parametrize(
    ("data", "kind"), [(head(), WebSocketShell), (request("/channels/a"), DeadlineChannel)]
)
def test_wrapper_of_a_protocol_stays_with_the_next_one(data: bytes, kind: type) -> None:
    server = Server()
    line = connect(server, "wrapped")
    wrapper = line.protocol
    line.send(data)
    assert line.protocol is wrapper
    protocol = wrapper.wrappedProtocol
    assert isinstance(getattr(protocol, "_channel", protocol), kind)
    line.vanish()
    assert server.is_empty()


@pytest.mark.parametrize("how", ["drain", "abort"])
def test_site_that_ends_closes_waiting_connections(how: str) -> None:
    server = Server()
    lines = [server.connect() for _ in range(3)]
    fired: list[None] = []
    if how == "drain":
        server.site.drain().addCallback(fired.append)
    else:
        server.site.abort()
    server.clock.advance(0)
    assert [(line.lost, line.aborted) for line in lines] == [(True, how == "abort")] * 3
    assert len(fired) == (how == "drain")
    assert ended(server)
