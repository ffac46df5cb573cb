"""What waits at the entrance ends, and what a door sees of a handshake is what it is."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st
from OpenSSL import SSL
from twisted.internet.address import IPv4Address
from twisted.internet.interfaces import (
    IOpenSSLClientConnectionCreator,
    IOpenSSLServerConnectionCreator,
)
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.testing import StringTransport
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.web.resource import Resource
from zope.interface import implementer

from pushserver.config.limits import Limits
from pushserver.transports.outlet import Bounds
from pushserver.transports.websocket.shell import WebSocketShell
from pushserver.transports.websocket.upgrade import WebSocketFactory
from pushserver.web.first_bytes import LEAST_SECONDS, Entrance
from pushserver.web.pipeline import DeadlineChannel
from tests.unit.fakes.heads import FIELDS, TRANSPORTS, connect, head
from tests.unit.fakes.web import Frame, Line, Server, frames, masked, parse, request

# -- the head as the doors see it -----------------------------------------------------------------


class Witness(Resource):
    """A door that notes how a request looks, and refuses it."""

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
    """All of a request that a door may ask for."""
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
    }


def witnessed(data: bytes, kind: str = "tcp") -> list[dict[str, Any]]:
    """How the same handshake looks on the short way, and then on the long one."""
    server = Server()
    witness, tree = Witness(), Resource()
    tree.putChild(b"a", witness)
    factory = WebSocketFactory(server.clock, Bounds(1_000, 1.0, float), Limits(), server.site._log)
    server.site._shortcut = factory.shortcut(tree)
    server.site.resource = tree
    line = connect(server, kind)
    line.send(data)
    line.vanish()
    return witness.seen


@pytest.mark.parametrize("kind", TRANSPORTS)
def test_a_head_is_to_a_door_what_the_request_is(kind: str) -> None:
    more = (b"X-Mine:  a b ", b"Last-Event-Id: x:1", b"cookie:", b"origin: \thttp://a")
    first, second = witnessed(head(*FIELDS, *more, target=b"/a/b//c?x=1&y=%41+b&x=2;z=&w"), kind)
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
def test_whatever_the_target_and_a_field_say_a_door_sees_the_same(
    path: str, query: str | None, value: str
) -> None:
    target = f"/a/{path}" + ("" if query is None else f"?{query}")
    first, second = witnessed(head(*FIELDS, b"X-Mine:" + value.encode(), target=target.encode()))
    assert first == second


# -- who waits at the entrance --------------------------------------------------------------------


def waits(server: Server) -> Entrance:
    """The one that waits."""
    (entrance,) = server.site.channels
    assert isinstance(entrance, Entrance)
    return entrance


def test_who_says_nothing_is_let_go_without_a_word() -> None:
    server = Server(Limits(request_seconds=15))
    line = server.connect()
    server.clock.advance(14.9)
    assert not line.disconnecting
    server.clock.advance(0.1)
    assert line.disconnecting
    server.clock.advance(0)
    assert (line.lost, line.aborted, line.value()) == (True, False, b"")
    assert server.is_empty()
    assert server.clock.getDelayedCalls() == []


def test_what_comes_after_the_end_was_begun_is_not_heard() -> None:
    server = Server()
    line = server.connect()
    entrance = waits(server)
    line.reading, line.unread = False, 1
    server.site.drain()
    for data in (head(), request("/nothing")):
        entrance.dataReceived(data)
    assert line.value() == b""
    assert server.site.channels == {entrance}
    assert len(server.node.peers) == 0
    server.site.abort()
    server.clock.advance(0)
    assert server.is_empty()
    assert server.clock.getDelayedCalls() == []


@pytest.mark.parametrize("seconds", [0, 5, 14])
def test_a_late_first_byte_leaves_the_rest_of_the_time_for_the_request(seconds: int) -> None:
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
    assert server.is_empty()
    assert server.clock.getDelayedCalls() == []


def test_after_a_late_first_request_the_next_has_all_its_time() -> None:
    server = Server(Limits(request_seconds=15))
    line = server.connect()
    server.clock.advance(10)
    line.send(request("/channels/a"))
    assert line.response().status == 200
    for _ in range(2):
        server.clock.advance(14)
        assert not line.disconnecting
        line.send(request("/channels/a"))
        assert line.response().status == 200
    server.clock.advance(14)
    assert not line.disconnecting
    server.clock.advance(1)
    server.clock.advance(0)
    assert line.lost


def test_what_was_there_in_time_is_read_when_the_reactor_comes_late() -> None:
    for late in (15, 15.5, 100):
        for data, status in ((head(), b"101"), (request("/channels/a"), b"200"), (b"G", b"")):
            server = Server(Limits(request_seconds=15))
            line = server.connect()
            server.clock.rightNow += late
            line.protocol.dataReceived(data)
            assert line.value()[9:12] == status
            server.clock.advance(2 * LEAST_SECONDS)
            server.clock.advance(0)
            assert line.lost == (status == b"")
            line.vanish()


def test_a_request_on_the_long_way_is_given_no_less_than_a_moment() -> None:
    given: list[float] = []
    server = Server(Limits(request_seconds=15))

    def web(address: Any, seconds: float) -> Protocol:
        given.append(seconds)
        return Protocol()

    for late in (0, 5, 15, 100):
        entrance = Entrance(
            None, server.clock, server.clock.seconds, 15, lambda *_: False, web, lambda _: None
        )
        server.clock.rightNow += late
        entrance.makeConnection(StringTransport())
        entrance.dataReceived(b"x")
    assert given == [15, 10, LEAST_SECONDS, LEAST_SECONDS]


@pytest.mark.parametrize("kind", TRANSPORTS)
@pytest.mark.parametrize(
    "data", [b"", b"G", head(), request("/channels/a"), request("/", accept="x")]
)
def test_who_goes_at_any_time_leaves_nothing(kind: str, data: bytes) -> None:
    server = Server()
    line = connect(server, kind)
    if data:
        line.send(data)
    line.vanish()
    assert server.is_empty()
    server.clock.advance(0)
    assert server.clock.getDelayedCalls() == []


def test_who_is_through_waits_no_longer() -> None:
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
    other.vanish()


def test_a_wrapper_goes_on_with_what_comes_after() -> None:
    server = Server()
    for data, kind in ((head(), WebSocketShell), (request("/channels/a"), None)):
        line = connect(server, "wrapped")
        wrapper = line.protocol
        line.send(data)
        assert line.protocol is wrapper
        assert not isinstance(wrapper.wrappedProtocol, Entrance)
        assert kind is None or isinstance(wrapper.wrappedProtocol, kind)
        line.vanish()
    assert server.is_empty()


@pytest.mark.parametrize("how", ["drain", "abort"])
def test_a_site_that_ends_does_not_wait_for_who_says_nothing(how: str) -> None:
    server = Server()
    lines = [server.connect() for _ in range(3)]
    fired: list[None] = []
    if how == "drain":
        server.site.drain().addCallback(fired.append)
    else:
        server.site.abort()
    server.clock.advance(0)
    assert all(line.lost for line in lines)
    assert [line.aborted for line in lines] == [how == "abort"] * 3
    assert len(fired) == (how == "drain")
    assert server.is_empty()
    assert server.clock.getDelayedCalls() == []


# -- with TLS, which closes only by consent -------------------------------------------------------


@implementer(IOpenSSLServerConnectionCreator, IOpenSSLClientConnectionCreator)
class Creator:
    """Makes TLS connections of either side, with a certificate that is signed by itself."""

    def __init__(self) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
        now, day = datetime.now(UTC), timedelta(days=1)
        builder = x509.CertificateBuilder(name, name, key.public_key(), 1, now - day, now + day)
        self._context = SSL.Context(SSL.TLS_METHOD)
        self._context.use_privatekey(key)
        self._context.use_certificate(builder.sign(key, hashes.SHA256()))

    def serverConnectionForTLS(self, protocol: object) -> SSL.Connection:
        return SSL.Connection(self._context)

    clientConnectionForTLS = serverConnectionForTLS


class Client(Protocol):
    """Keeps what it gets."""

    got = b""

    def dataReceived(self, data: bytes) -> None:
        self.got += data

    def say(self, data: bytes) -> None:
        transport: Any = self.transport
        transport.write(data)


class Tls:
    """A client behind TLS and the server's line, each with its bytes carried to the other."""

    def __init__(self, server: Server):
        address = IPv4Address("TCP", "127.0.0.1", 50000)
        creator = Creator()
        self.client = Client()
        self.line = Line(server.clock, address)
        listening = TLSMemoryBIOFactory(creator, False, server.site, server.clock)
        self.line.protocol = listening.buildProtocol(address)
        self.line.protocol.makeConnection(self.line)
        self.wire = StringTransport()
        factory: Any = Factory.forProtocol(lambda: self.client)
        self.tls: Any = TLSMemoryBIOFactory(creator, True, factory, server.clock).buildProtocol(
            None
        )
        self.tls.makeConnection(self.wire)

    def carry(self) -> None:
        """Both sides' bytes, until there are none."""
        while True:
            # TLS gathers what is written until the next turn.
            self.line.settle()
            up, down = self.wire.value(), self.line.take()
            self.wire.clear()
            if not up and not down:
                return
            if up:
                self.line.send(up)
            if down:
                self.tls.dataReceived(down)


@pytest.mark.parametrize("short", [True, False])
def test_through_tls_a_handshake_is_answered_on_either_way(short: bool) -> None:
    server = Server()
    if not short:
        server.site._shortcut = lambda *_: False
    tls = Tls(server)
    tls.carry()
    tls.client.say(head(*FIELDS, b"Origin: https://localhost:8080"))
    tls.carry()
    answer = parse(tls.client.got)
    assert answer.status == 101
    assert [frame.opcode for frame in frames(answer.rest)] == [1]
    tls.client.got = b""
    tls.client.say(masked(b"x", opcode=9))
    tls.carry()
    assert frames(tls.client.got) == [Frame(10, b"x")]
    tls.line.vanish()
    assert server.is_empty()


@pytest.mark.parametrize("shaken", [False, True])
def test_who_says_nothing_through_tls_and_never_consents_to_the_end_is_dropped(
    shaken: bool,
) -> None:
    server = Server(Limits(request_seconds=15))
    tls = Tls(server)
    if shaken:
        tls.carry()
    server.clock.advance(15)
    server.clock.advance(0)
    assert tls.line.aborted != shaken
    # Meanwhile what it says is too late.
    if shaken:
        tls.wire.clear()
        tls.client.say(head())
        tls.line.settle()
        tls.line.protocol.dataReceived(tls.wire.value())
        assert len(server.node.peers) == 0
        server.clock.advance(15)
        server.clock.advance(0)
    assert tls.line.aborted
    assert tls.line.lost
    assert server.is_empty()
