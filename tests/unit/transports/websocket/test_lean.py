"""A lean connection does all that Autobahn's does; and what it relies on in Autobahn is there."""

from __future__ import annotations

import inspect
import re
import sys
import zlib
from collections import deque
from collections.abc import Iterable
from types import CodeType
from typing import Any

import pytest
from autobahn.twisted.websocket import WebSocketServerFactory, WebSocketServerProtocol
from autobahn.websocket.compress import PerMessageDeflateOffer, PerMessageDeflateOfferAccept
from autobahn.websocket.protocol import TrafficStats
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twisted.internet.address import IPv4Address, UNIXAddress
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import LogLevel
from twisted.python.failure import Failure

from pushserver.transports.websocket import lean as module
from pushserver.transports.websocket.lean import HANDSHAKE_ATTRIBUTES, LeanProtocol, lean
from tests.unit.fakes.heads import head, with_fields
from tests.unit.fakes.web import Line, Log, Server, Trouble, masked, set_autobahns_clock

ADDRESS = IPv4Address("TCP", "127.0.0.1", 50000)
HEAD = with_fields(
    b"Origin: http://localhost:8080",
    b"Sec-WebSocket-Protocol: spoken",
    b"Sec-WebSocket-Extensions: permessage-deflate",
)


def deflate(offers: list[Any]) -> Any:
    """Agree to the compression that was offered."""
    for offer in offers:
        if isinstance(offer, PerMessageDeflateOffer):
            return PerMessageDeflateOfferAccept(offer)
    return None


class Talk:
    """What a server does that uses all of a connection, and what it is told."""

    told: list[Any]

    def onConnect(self, request: Any) -> str | None:
        return next(iter(request.protocols), None)

    def onOpen(self) -> None:
        self.told = ["open"]

    def onMessage(self: Any, payload: bytes, isBinary: bool) -> None:
        self.told.append((payload, isBinary))
        if self.state != self.STATE_OPEN:
            return
        if payload == b"close":
            self.sendClose(3000, "bye")
        elif payload == b"going":
            self.sendCloseFrame(1001, b"going", False)
        elif payload == b"drop":
            self.dropConnection(abort=True)
        elif payload == b"ping":
            self.sendPing(b"you")
        else:
            self.sendMessage(payload, isBinary, fragmentSize=3 if len(payload) == 7 else None)

    def onPong(self, payload: bytes) -> None:
        self.told.append(("pong", payload))

    def onClose(self, *how: Any) -> None:
        self.told = [*getattr(self, "told", []), ("close", how)]


class Plain(Talk, WebSocketServerProtocol):  # type: ignore[misc]
    """As Autobahn has it."""


class Lean(Talk, LeanProtocol):  # type: ignore[misc]
    """As we have it."""


def make_factory(clock: Any, kind: type[Any], options: dict[str, Any]) -> Any:
    """A factory of connections of either kind, with the same options."""
    set_autobahns_clock(clock)
    factory: Any = WebSocketServerFactory(reactor=clock)
    factory.setProtocolOptions(openHandshakeTimeout=0, allowedOrigins=["*"], **options)
    if issubclass(kind, LeanProtocol):
        found = {name: getattr(factory, name) for name in kind.CONFIG_ATTRS}
        plain = {n: staticmethod(v) if callable(v) else v for n, v in found.items()}
        kind = lean(kind, factory, plain)
    factory.protocol = kind
    return factory


class Peer:
    """A client of such a factory."""

    def __init__(self, kind: type[Any], options: dict[str, Any] | None = None, factory: Any = None):
        self.factory = factory or make_factory(MemoryReactorClock(), kind, options or {})
        self.clock = self.factory.reactor
        self.line = Line(self.clock, ADDRESS)
        self.line.protocol = self.protocol = self.factory.buildProtocol(ADDRESS)
        self.protocol.makeConnection(self.line)
        self.wire: list[bytes] = []

    def say(self, *chunks: bytes) -> None:
        """Send these one after the other, as long as there is a connection."""
        for chunk in chunks:
            if not self.line.lost:
                self.line.protocol.dataReceived(chunk)
            self.wire.append(self.line.take())

    def lose(self, reason: Exception) -> None:
        """The connection is gone."""
        if not self.line.lost:
            self.line.lost = True
            self.protocol.connectionLost(Failure(reason))

    def outcome(self) -> Any:
        """All that can be seen of it from outside, and what the server was told."""
        line = self.line
        return self.wire, line.disconnecting, line.aborted, getattr(self.protocol, "told", None)


@pytest.fixture
def peer() -> Peer:
    """A lean connection, not yet open."""
    return Peer(Lean)


# -- the same conversation ------------------------------------------------------------------------

OPTIONS: list[dict[str, Any]] = [
    {},
    {"failByDrop": False},
    {"failByDrop": False, "maxFramePayloadSize": 20, "maxMessagePayloadSize": 20},
    {"maxMessagePayloadSize": 20, "echoCloseCodeReason": True},
    {"utf8validateIncoming": False, "requireMaskedClientFrames": False},
    {"perMessageCompressionAccept": deflate, "failByDrop": False},
    {"autoFragmentSize": 5, "tcpNoDelay": True, "closeHandshakeTimeout": 0},
]
ENDS = [ConnectionDone(), ConnectionLost(), ConnectionAborted(), OSError("broken")]


def compressed(text: bytes) -> bytes:
    """A client's frame that is compressed (RFC 7692)."""
    deflating = zlib.compressobj(wbits=-15)
    data = deflating.compress(text) + deflating.flush(zlib.Z_SYNC_FLUSH)
    frame = masked(data[:-4])
    return bytes([frame[0] | 0x40]) + frame[1:]


def converse(
    kind: type[Any], options: dict[str, Any], chunks: Iterable[bytes], end: Exception, wait: int
) -> Any:
    """A whole connection: what it was, and what is left of it."""
    peer = Peer(kind, options)
    with Log(LogLevel.info) as log:
        peer.say(HEAD, *chunks)
        peer.clock.advance(wait)
        peer.say()
        peer.lose(end)
        logged = log.take()
    assert peer.factory.countConnections == 0
    left = len(peer.clock.getDelayedCalls())
    # The numbers in these are addresses of objects.
    return peer.outcome(), left, [re.sub("(tcp4:)?127.0.0.1:50000", "peer", s) for s in logged]


FRAMES = {
    "a message": [masked(b"hello")],
    "a binary message": [masked(b"\0\xff", 2)],
    "an empty message": [masked(b"")],
    "a fragmented answer": [masked(b"1234567")],
    "a message in fragments": [masked(b"a", 1, False), masked(b"b", 0, False), masked(b"c", 0)],
    "a ping amid fragments": [masked(b"a", 1, False), masked(b"p", 9), masked(b"c", 0)],
    "a letter in two frames": [masked(b"\xc3", 1, False), masked(b"\xa9", 0)],
    "half a letter": [masked(b"\xc3")],
    "half a letter, then a whole message": [masked(b"\xc3"), masked(b"hello")],
    "no letter": [masked(b"\xff"), masked(b"hello")],
    "a pong": [masked(b"p", 10)],
    "a ping from here": [masked(b"ping"), masked(b"you", 10)],
    "a close from there": [masked(b"\x03\xe8bye", 8), masked(b"more")],
    "a close without a word": [masked(b"", 8)],
    "a close of one byte": [masked(b"\x03", 8)],
    "a close with a code that is none": [masked(b"\x03\xed", 8)],
    "a close with a reason that is none": [masked(b"\x03\xe8\xff", 8)],
    "a close from here": [masked(b"close"), masked(b"\x0b\xb8", 8)],
    "a close from here, and no answer": [masked(b"close"), masked(b"more")],
    "another close from here": [masked(b"going"), masked(b"\x03\xe9", 8)],
    "a drop from here": [masked(b"drop"), masked(b"more")],
    "a frame without a mask": [b"\x81\x01x", masked(b"more")],
    "a frame of a kind that is none": [masked(b"", 3), masked(b"", 11)],
    "a reserved bit": [b"\xc1" + masked(b"x")[1:]],
    "a control frame in fragments": [masked(b"", 9, False)],
    "a control frame that is too long": [masked(b"x" * 126, 9)],
    "a continuation of nothing": [masked(b"x", 0)],
    "a beginning amid a message": [masked(b"a", 1, False), masked(b"b")],
    "a frame that is too long": [masked(b"x" * 21), masked(b"more")],
    "a message that is too long": [masked(b"x" * 15, 1, False), masked(b"x" * 15, 0)],
    "a length written too long": [b"\x81\xfe\x00\x01\0\0\0\0x"],
    "a length beyond all bounds": [b"\x81\xff" + b"\xff" * 8 + b"\0\0\0\0"],
    "a compressed message": [compressed(b"hello " * 9), compressed(b"hello " * 9)],
    "what cannot be inflated": [b"\xc1\x82\0\0\0\0\xff\xff"],
    "half a frame": [masked(b"hello")[:4]],
    "nothing": [],
}
KINDS = sorted(FRAMES)


@pytest.mark.parametrize("options", OPTIONS, ids=lambda found: ",".join(found) or "default")
@pytest.mark.parametrize("name", KINDS)
def test_each_conversation_is_the_same_byte_for_byte(
    name: str, options: dict[str, Any], trouble: Trouble
) -> None:
    for wait in (0, 5):
        for end in ENDS:
            one, other = (
                converse(kind, options, FRAMES[name], end, wait) for kind in (Plain, Lean)
            )
            assert one == other
    trouble.clear()


conversations = st.lists(
    st.sampled_from(KINDS).map(lambda name: b"".join(FRAMES[name]))
    | st.binary(max_size=12)
    | st.builds(masked, st.binary(max_size=30), st.integers(0, 15), st.booleans()),
    max_size=6,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    options=st.sampled_from(OPTIONS),
    said=conversations,
    cuts=st.lists(st.integers(1, 9), min_size=1, max_size=9),
    end=st.sampled_from(ENDS),
    wait=st.sampled_from([0, 1, 5]),
)
def test_whatever_is_said_and_however_it_is_cut_both_do_the_same(
    trouble: Trouble,
    options: dict[str, Any],
    said: list[bytes],
    cuts: list[int],
    end: Exception,
    wait: int,
) -> None:
    data = b"".join(said)
    chunks: list[bytes] = []
    while data:
        size = cuts[len(chunks) % len(cuts)]
        chunks.append(data[:size])
        data = data[size:]
    one, other = (converse(kind, options, chunks, end, wait) for kind in (Plain, Lean))
    assert one == other
    trouble.clear()


@pytest.mark.parametrize(
    "data", [head(target=b"/#x"), head(version=b"HTTP/1.0"), b"nonsense\r\n\r\n", HEAD[:-9], b""]
)
def test_a_handshake_that_fails_is_the_same(data: bytes, trouble: Trouble) -> None:
    outcomes = []
    for kind in (Plain, Lean):
        peer = Peer(kind)
        peer.say(data)
        peer.lose(ConnectionDone())
        assert peer.factory.countConnections == 0
        assert peer.clock.getDelayedCalls() == []
        outcomes.append(peer.outcome())
    assert outcomes[0] == outcomes[1]
    trouble.clear()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    options=st.sampled_from(OPTIONS),
    talks=st.lists(st.sampled_from(KINDS), min_size=2, max_size=4),
    order=st.lists(st.integers(0, 3), max_size=40),
)
def test_connections_that_talk_at_the_same_time_do_not_hear_each_other(
    trouble: Trouble, options: dict[str, Any], talks: list[str], order: list[int]
) -> None:
    left = [[HEAD, *(bytes([byte]) for byte in b"".join(FRAMES[name]))] for name in talks]
    alone = []
    for chunks in left:
        peer = Peer(Lean, options)
        peer.say(*chunks)
        alone.append((b"".join(peer.wire), peer.protocol.told))
    factory = make_factory(MemoryReactorClock(), Lean, options)
    peers = [Peer(Lean, factory=factory) for _ in talks]
    for which in [*order, *(n for n, chunks in enumerate(left) for _ in chunks)]:
        if which < len(peers) and left[which]:
            chunk = left[which].pop(0)
            if not peers[which].line.lost:
                peers[which].protocol.dataReceived(chunk)
    assert [(peer.line.take(), peer.protocol.told) for peer in peers] == alone
    trouble.clear()


# -- what a connection has ------------------------------------------------------------------------


def attributes() -> dict[str, Any]:
    """What Autobahn gives to a new connection, beside what the factory does."""
    peer = Peer(Plain)
    fresh = vars(WebSocketServerProtocol()).keys() | {"factory", "connected", "transport", "peer"}
    return {name: value for name, value in vars(peer.protocol).items() if name not in fresh}


def test_a_new_connection_has_all_that_autobahn_gives_to_one(peer: Peer) -> None:
    found = attributes()
    assert len(found) > 30
    made = set()
    for name, value in found.items():
        ours = getattr(peer.protocol, name)
        if name in peer.protocol.CONFIG_ATTRS:
            continue
        assert type(ours) is type(value), name
        if name in vars(peer.protocol):
            made.add(name)
            assert getattr(peer.protocol, name) is ours, f"{name} is another each time"
        elif not isinstance(value, TrafficStats):
            assert ours == value, name
    assert made == {"send_queue", "utf8validator"}
    assert peer.protocol.send_queue == found["send_queue"] == deque()
    for validator in (peer.protocol.utf8validator, found["utf8validator"]):
        assert validator.validate(b"\xc3\xa9\xc3")[:2] == (True, False)


def test_nothing_that_changes_is_on_the_class_but_the_statistics(peer: Peer) -> None:
    kind = type(peer.protocol)
    shared = {name: getattr(kind, name) for name in attributes()}
    for name, value in shared.items():
        if name in kind.CONFIG_ATTRS or isinstance(value, module._MadeOnRead):
            continue
        assert isinstance(value, (type(None), bool, int, float, str, bytes, TrafficStats)), name
    assert [name for name, value in shared.items() if isinstance(value, TrafficStats)] == [
        "trafficStats"
    ]
    assert all(isinstance(value, (int, type(None))) for value in vars(TrafficStats()).values())


def test_two_connections_share_nothing_that_changes(peer: Peer) -> None:
    other = Peer(Lean, factory=peer.factory)
    text = masked(b"a\xc3", 1, False) + masked(b"\xa9", 0)[:3]
    for each in (peer, other):
        each.say(HEAD, text)
    mine, theirs = peer.protocol, other.protocol
    shared = {
        name
        for name in vars(mine).keys() | attributes().keys()
        if getattr(mine, name) is getattr(theirs, name)
        and not isinstance(getattr(mine, name), (type(None), bool, int, float, str, bytes))
    }
    assert shared - set(mine.CONFIG_ATTRS) == {"factory", "trafficStats"}
    assert mine.message_data == theirs.message_data == [b"a\xc3"]


def test_an_open_connection_keeps_little(peer: Peer) -> None:
    peer.say(HEAD)
    # Autobahn's own way of sending looks at the queue, ours does not.
    own = {"told", "send_queue"}
    assert vars(peer.protocol).keys() - own == {
        "connected",
        "current_frame",
        "data",
        "factory",
        "inside_message",
        "peer",
        "state",
        "transport",
        "websocket_protocol_in_use",
        "websocket_version",
    }
    fresh = {str(number): None for number in range(len(vars(peer.protocol)))}
    assert sys.getsizeof(vars(peer.protocol)) <= sys.getsizeof(fresh)


@pytest.mark.parametrize("path", ["/channels/numbers", "/connection/websocket"])
def test_ours_keeps_as_little_on_either_way(path: str) -> None:
    for short in (True, False):
        server = Server()
        if not short:
            server.site._shortcut = lambda *_: False
        found = vars(server.websocket(path).line.protocol).keys()
        assert len(found) < 20
        assert {name for name in found if not name.startswith("ps_")} <= {
            "connected",
            "current_frame",
            "data",
            "factory",
            "inside_message",
            "peer",
            "state",
            "transport",
            "websocket_protocol_in_use",
            "websocket_version",
        }


def test_a_value_of_a_type_that_is_not_known_is_made_anew_for_each() -> None:
    class Memo:
        """One that changes."""

    class More(Lean):
        def _connectionMade(self) -> None:
            super()._connectionMade()
            self.memo, self.names, self.number = Memo(), set[str](), 7

    factory = make_factory(MemoryReactorClock(), More, {})
    one, other = (Peer(More, factory=factory).protocol for _ in range(2))
    for name in ("memo", "names"):
        assert type(getattr(one, name)) is (Memo if name == "memo" else set)
        assert getattr(one, name) is getattr(one, name)
        assert getattr(one, name) is not getattr(other, name)
    assert "number" in vars(type(one))
    assert factory.countConnections == 2


def test_a_value_that_cannot_be_made_ends_the_start() -> None:
    class Named:
        def __init__(self, name: str):
            self.name = name

    class More(Lean):
        def _connectionMade(self) -> None:
            super()._connectionMade()
            self.named = Named("x")

    with pytest.raises(TypeError, match="name"):
        make_factory(MemoryReactorClock(), More, {})


def test_a_timer_for_the_handshake_is_none_of_ours_and_ends_the_start() -> None:
    clock = MemoryReactorClock()
    set_autobahns_clock(clock)
    factory: Any = WebSocketServerFactory(reactor=clock)
    factory.setProtocolOptions(openHandshakeTimeout=5)
    found = {name: getattr(factory, name) for name in Lean.CONFIG_ATTRS}
    with pytest.raises(TypeError):
        lean(Lean, factory, {n: staticmethod(v) if callable(v) else v for n, v in found.items()})


def test_the_model_is_no_connection(peer: Peer) -> None:
    factory = make_factory(MemoryReactorClock(), Lean, {})
    assert factory.countConnections == 0
    assert factory.reactor.getDelayedCalls() == []
    assert not hasattr(factory.protocol, "transport") or factory.protocol.transport is None


def test_connections_are_counted_until_they_are_gone() -> None:
    server = Server()
    factory = server.websocket("/channels/a").line.protocol.factory
    sockets = [server.websocket(path) for path in ("/channels/a", "/connection/websocket")]
    assert factory.countConnections == 3
    for socket in sockets:
        socket.line.vanish()
    assert factory.countConnections == 1
    for peer in server.node.peers:
        peer.abort()
    server.clock.advance(0)
    assert factory.countConnections == 0


def test_nagle_is_off_on_tcp_and_a_unix_socket_has_none() -> None:
    for address, name in ((ADDRESS, "127.0.0.1:50000"), (UNIXAddress(None), "unix:")):
        peer = Peer(Lean)
        line = Line(peer.clock, address)
        line.protocol = peer.factory.buildProtocol(address)
        line.protocol.makeConnection(line)
        assert line.no_delay == (address is ADDRESS)
        assert line.protocol.peer == name


# -- what this relies on --------------------------------------------------------------------------

AUTOBAHNS = [kind for kind in WebSocketServerProtocol.__mro__ if "autobahn" in kind.__module__]
HANDSHAKE = {"processHandshake", "succeedHandshake"}


def uses(name: str) -> set[str]:
    """The methods of Autobahn's protocol in which `.name` occurs."""
    return {
        method
        for kind in AUTOBAHNS
        for method, function in vars(kind).items()
        if name in names_in(getattr(function, "__code__", None))
    }


def names_in(code: CodeType | None) -> set[str]:
    """What is looked up by name in a function, and in the functions in it."""
    if code is None:
        return set()
    inner = [names_in(const) for const in code.co_consts if isinstance(const, CodeType)]
    return set(code.co_names).union(*inner)


def test_the_papers_are_written_in_the_handshake_and_read_nowhere_else() -> None:
    for name in HANDSHAKE_ATTRIBUTES:
        found = uses(name)
        assert found, name
        assert found <= HANDSHAKE, name


def test_the_papers_are_all_that_the_handshake_leaves() -> None:
    protocol = Peer(Plain).protocol
    before = set(vars(protocol))
    protocol.dataReceived(HEAD)
    left = vars(protocol).keys() - before - {"told"}
    assert set(HANDSHAKE_ATTRIBUTES) <= left
    # And these are read as long as it is open.
    kept = {"current_frame", "inside_message", "websocket_protocol_in_use", "websocket_version"}
    assert left - set(HANDSHAKE_ATTRIBUTES) == kept


def test_nobody_asks_for_them_once_it_is_open(peer: Peer) -> None:
    peer.say(HEAD)
    for name in HANDSHAKE_ATTRIBUTES:
        assert not hasattr(peer.protocol, name), name


def test_what_autobahn_does_at_the_beginning_is_what_is_left_out() -> None:
    plain = WebSocketServerProtocol()
    listeners = {"_listeners", "_parent", "_results", "_valid_events"}
    own = {"_transport_details", "is_closed", "is_open"}
    assert own <= vars(plain).keys() <= own | listeners
    assert isinstance(plain.is_open, Deferred)
    assert isinstance(plain.is_closed, Deferred)
    assert uses("_transport_details") == {"__init__", "_onOpen", "connectionMade"}
    assert uses("is_open") == {"__init__", "succeedHandshake"}
    assert uses("is_closed") == {"__init__", "dropConnection", "_connectionLost"}
    assert uses("fire") == {"fire", "onMessageEnd"}
    observable = next(kind for kind in AUTOBAHNS if "fire" in vars(kind))
    for name in listeners:
        assert uses(name) <= vars(observable).keys()


def test_all_that_a_new_connection_costs_the_factory_is_its_count() -> None:
    clock = MemoryReactorClock()
    factory = make_factory(clock, Plain, {})
    before = dict(vars(factory))
    plain: Any = Peer(Plain, factory=factory).protocol
    assert vars(factory) == {**before, "countConnections": 1}
    assert clock.getDelayedCalls() == []
    assert uses("countConnections") == {"_connectionLost", "_connectionMade", "processHandshake"}
    assert plain.openHandshakeTimeoutCall is None


def test_what_is_replaced_is_autobahns_and_called_by_that_name(peer: Peer) -> None:
    for name in ("__init__", "fire", "connectionMade", "_onOpen", "_connectionMade"):
        assert any(name in vars(kind) for kind in AUTOBAHNS), name
        theirs = inspect.signature(getattr(WebSocketServerProtocol, name))
        ours = inspect.signature(getattr(peer.protocol.__class__, name))
        assert list(ours.parameters) == list(theirs.parameters), name
    assert uses("_onOpen") == {"succeedHandshake"}
    assert uses("_connectionMade") - {"_connectionMade"} == {"connectionMade"}


def test_the_word_to_listeners_does_not_pile_up(peer: Peer) -> None:
    peer.say(HEAD, *[masked(b"hello")] * 100)
    assert len(peer.protocol.told) == 101
    assert LeanProtocol._fired.called
    assert LeanProtocol._fired._callbacks == []
    assert LeanProtocol._fired.result is None
