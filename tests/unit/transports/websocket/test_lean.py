"""A lean connection behaves like Autobahn's and keeps less; Autobahn fulfils its assumptions."""

from __future__ import annotations

import importlib
import inspect
import sys
import zlib
from collections import deque
from collections.abc import Iterator
from types import CodeType, FunctionType
from typing import Any

import pytest
from autobahn.twisted.websocket import WebSocketServerFactory, WebSocketServerProtocol
from autobahn.websocket.protocol import TrafficStats, WebSocketProtocol
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import Logger

from pushserver.config.limits import Limits
from pushserver.config.settings import Config
from pushserver.config.settings import Server as ServerSection
from pushserver.protocols.websocket_frames import SHORT_BYTES
from pushserver.transports.backlog import Bounds
from pushserver.transports.websocket import lean as module
from pushserver.transports.websocket.lean import (
    FORMATTERS,
    HANDSHAKE_ATTRIBUTES,
    LeanShell,
    hush,
    lean,
)
from pushserver.transports.websocket.shell import WebSocketShell
from pushserver.transports.websocket.upgrade import WebSocketFactory
from pushserver.usercode.turns import Turns
from tests.unit.fakes.heads import RAW, compare, connect, head, with_fields
from tests.unit.fakes.web import Line, Server, Trouble, masked, set_autobahns_clock

# -- the same conversation ------------------------------------------------------------------------

SESSION = with_fields(b"Sec-WebSocket-Extensions: permessage-deflate").replace(
    RAW.encode(), b"/connection/websocket"
)
CONNECT = masked(b'{"id":1,"connect":{}}')
COMMAND = b'{"id":2,"subscribe":{"channel":"numbers"}}'
LIMITS = Limits(frame_bytes=5_000)
ENDS = [ConnectionDone(), ConnectionLost(), ConnectionAborted(), OSError("broken")]


def compressed(text: bytes) -> bytes:
    """A client's compressed frame (RFC 7692)."""
    deflating = zlib.compressobj(wbits=-15)
    data = deflating.compress(text) + deflating.flush(zlib.Z_SYNC_FLUSH)
    frame = masked(data[:-4])
    return bytes([frame[0] | 0x40]) + frame[1:]


def flags(frame: bytes, first: int) -> bytes:
    """The frame with another first byte."""
    return bytes([first]) + frame[1:]


PIECES = {
    "command": [masked(COMMAND)],
    "two commands at once": [masked(COMMAND) + masked(COMMAND)],
    "command in two pieces": [masked(COMMAND)[:9], masked(COMMAND)[9:]],
    "command, and the first byte of the next": [masked(COMMAND) + b"\x81", masked(COMMAND)[1:]],
    "first byte alone": [b"\x81", masked(COMMAND)[1:]],
    "no command": [masked(b"hello")],
    "empty text": [masked(b"")],
    "binary message": [masked(b"\0\xff", 2)],
    "compressed command": [compressed(COMMAND), compressed(b" " * 300 + COMMAND)],
    "compressed nonsense": [b"\xc1\x82\0\0\0\0\xff\xff"],
    "command in fragments": [masked(COMMAND[:5], 1, False), masked(COMMAND[5:], 0)],
    "ping amid fragments": [masked(COMMAND[:5], 1, False), masked(b"p", 9), masked(COMMAND[5:], 0)],
    "text amid fragments": [masked(b"{", 1, False), masked(COMMAND)],
    "frame within a frame": [masked(b"\x81\x81\0\0\0\0" * 2)[:6], masked(COMMAND)],
    "letter in two fragments": [masked(b"\xc3", 1, False), masked(b"\xa9", 0)],
    "half a letter": [masked(b"\xc3"), masked(COMMAND)],
    "surrogate": [masked(b"\xed\xa0\x80")],
    "invalid utf-8": [masked(b"\xff"), masked(COMMAND)],
    "pong": [masked(b"", 10)],
    "pong with a payload": [masked(b"p", 10)],
    "ping": [masked(b"p", 9)],
    "close": [masked(b"\x03\xe8bye", 8), masked(COMMAND)],
    "close without a code": [masked(b"", 8)],
    "close of one byte": [masked(b"\x03", 8)],
    "close with a reserved code": [masked(b"\x03\xed", 8)],
    "close with an invalid reason": [masked(b"\x03\xe8\xff", 8)],
    "command that the server closes for": [masked(b'{"id":2,"connect":{}}'), masked(COMMAND)],
    "frame without a mask": [b"\x81\x02{}", masked(COMMAND)],
    "unknown opcode": [masked(b"", 3)],
    "reserved bit": [flags(masked(b"{}"), 0x91)],
    "continuation of nothing": [flags(masked(b"{}"), 0x80)],
    "fragmented control frame": [masked(b"", 9, False)],
    "control frame too long": [masked(b"x" * 126, 9)],
    "frame too long": [masked(b"x" * 5_001), masked(COMMAND)],
    "fragments too long": [masked(b"x" * 3_000, 1, False), masked(b"x" * 3_000, 0)],
    "length in too many bytes": [b"\x81\xfe\0\x02\0\0\0\0{}"],
    "length in far too many bytes": [b"\x81\xff" + b"\0" * 7 + b"\x02" + b"\0\0\0\0{}"],
    "excessive length": [b"\x81\xff" + b"\xff" * 8 + b"\0\0\0\0"],
    "unfinished frame": [masked(COMMAND)[:4]],
    "nothing": [],
}


@pytest.mark.parametrize("name", PIECES)
def test_conversation_is_the_same_byte_for_byte(name: str, trouble: Trouble) -> None:
    compare(SESSION, CONNECT, *PIECES[name], limits=LIMITS, wait=5)
    trouble.clear()


@pytest.mark.parametrize("end", ENDS, ids=lambda end: type(end).__name__)
@pytest.mark.parametrize("name", ["command", "close", "invalid utf-8", "unfinished frame"])
def test_end_of_a_connection_is_the_same(name: str, end: Exception, trouble: Trouble) -> None:
    compare(SESSION, CONNECT, *PIECES[name], limits=LIMITS, end=end)
    trouble.clear()


SIZES = st.sampled_from([0, 1, 6, 125, 126, 127, SHORT_BYTES, SHORT_BYTES + 1])
TEXTS = SIZES.map(lambda size: b" " * size) | st.sampled_from(
    [COMMAND, b"{}", b"{", "\u20ac".encode(), b"\xe2\x82", b"\xf4\x90\x80\x80"]
)
FRAMES = (
    st.sampled_from(list(PIECES)).map(lambda name: b"".join(PIECES[name]))
    | st.binary(max_size=8)
    | st.builds(masked, TEXTS, st.integers(0, 15), st.booleans(), st.binary(min_size=4, max_size=4))
    | st.builds(flags, TEXTS.map(masked), st.integers(0, 255))
    | st.builds(
        lambda text, length: b"\x81" + bytes([length]) + masked(text)[2:],
        TEXTS,
        st.sampled_from([0, 2, 0x7E, 0x80, 0x82, 0xFD, 0xFE, 0xFF]),
    )
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    sent=st.lists(FRAMES, max_size=5),
    sizes=st.lists(st.integers(1, 60), max_size=5),
    wait=st.sampled_from([0, 5]),
)
def test_generated_conversation_is_the_same(
    trouble: Trouble, sent: list[bytes], sizes: list[int], wait: int
) -> None:
    if sizes:
        data, sent = b"".join(sent), []
        for size in sizes:
            sent.append(data[:size])
            data = data[size:]
        sent.append(data)
    compare(SESSION, CONNECT, *filter(None, sent), limits=LIMITS, wait=wait)
    trouble.clear()


@pytest.mark.parametrize(
    ("frame", "call"),
    [
        (masked(b"{}"), ("received", b"{}")),
        (masked(b"", opcode=10), ("alive",)),
        (masked(b"x" * 125), ("received", b"x" * 125)),
        (masked(b"x" * 126), ("received", b"x" * 126)),
        (masked(b"x" * SHORT_BYTES), ("received", b"x" * SHORT_BYTES)),
        (masked("\u20ac".encode()), ("received", "\u20ac".encode())),
    ],
)
def test_pong_and_short_text_are_not_read_by_autobahn(
    monkeypatch: pytest.MonkeyPatch, frame: bytes, call: Any
) -> None:
    class Calls:
        """A conversation that notes its calls."""

        is_yielding = False

        def __getattr__(self, name: str) -> Any:
            return lambda *values: calls.append((name, *values))

    calls: list[Any] = []
    line = Server().websocket(RAW).line
    line.protocol.ps_conversation = Calls()
    monkeypatch.setattr(WebSocketProtocol, "processData", None)
    line.send(frame)
    assert calls == [call]


# -- the attributes of a connection ---------------------------------------------------------------

CLOCK = MemoryReactorClock()
BOUNDS = Bounds(1_000, 1.0, CLOCK.seconds)
PLAIN = (type(None), bool, int, float, str, bytes)


def make_factory(shortcuts: bool = True, **limits: Any) -> WebSocketFactory:
    turns = Turns(CLOCK, CLOCK.seconds)
    return WebSocketFactory(CLOCK, BOUNDS, Limits(**limits), Logger(), turns, False, shortcuts)


@pytest.fixture(autouse=True)
def _clock() -> Iterator[None]:
    set_autobahns_clock(CLOCK)
    yield
    set_autobahns_clock(None)


def make_connection(factory: Any) -> Any:
    """A connection whose handshake is still to come."""
    line = Line(CLOCK, connect(Server()).getPeer())
    line.protocol = factory.buildProtocol(line.getPeer())
    line.protocol.makeConnection(line)
    return line.protocol


def attributes() -> dict[str, Any]:
    """The attributes that Autobahn gives to a new connection, without those of the factory."""
    fresh = vars(WebSocketShell()).keys() | {"factory", "connected", "transport", "peer"}
    made = vars(make_connection(make_factory(shortcuts=False)))
    return {name: value for name, value in made.items() if name not in fresh}


def test_new_connection_has_every_attribute_of_autobahns() -> None:
    found, lean_one = attributes(), make_connection(make_factory())
    assert len(found) > 30
    made = set()
    for name, value in found.items():
        ours = getattr(lean_one, name)
        if name in lean_one.CONFIG_ATTRS:
            continue
        assert type(ours) is type(value), name
        if name in vars(lean_one):
            made.add(name)
            assert getattr(lean_one, name) is ours, f"{name} is another at each reading"
        elif not isinstance(value, TrafficStats):
            assert ours == value, name
    assert made == {"send_queue", "utf8validator"}
    assert lean_one.send_queue == deque()
    assert lean_one.utf8validator.validate(b"\xc3\xa9\xc3")[:2] == (True, False)


def test_connections_share_no_value_that_changes() -> None:
    server = Server()
    one, other = (server.websocket(RAW).line for _ in range(2))
    for line in (one, other):
        line.send(masked(b"a\xc3", 1, False) + masked(b"\xa9", 0)[:3])
    mine, theirs = one.protocol, other.protocol
    shared = {
        name
        for name in vars(mine).keys() | attributes().keys()
        if getattr(mine, name) is getattr(theirs, name)
        and not isinstance(getattr(mine, name), PLAIN)
    }
    ours = {"ps_format", "ps_log"}
    assert shared - set(mine.CONFIG_ATTRS) - ours == {"factory", "trafficStats"}
    assert all(isinstance(value, (int, type(None))) for value in vars(TrafficStats()).values())
    assert mine.message_data == theirs.message_data == [b"a\xc3"]


@pytest.mark.parametrize("target", [RAW, "/connection/websocket"])
@pytest.mark.parametrize("pieces", [1, 2])
def test_open_connection_has_few_attributes_on_either_path(target: str, pieces: int) -> None:
    line, data = Server().connect(), head(target=target.encode())
    for piece in (data,) if pieces == 1 else (data[:9], data[9:]):
        line.send(piece)
    found = vars(line.protocol)
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
    assert not any(hasattr(line.protocol, name) for name in HANDSHAKE_ATTRIBUTES)
    fresh = {str(number): None for number in range(len(found))}
    assert sys.getsizeof(found) <= sys.getsizeof(fresh)


def lean_of(kind: type[LeanShell], **options: Any) -> Any:
    """A factory whose connections are lean ones of this kind."""
    factory: Any = WebSocketServerFactory(reactor=CLOCK)
    factory.setProtocolOptions(**{"openHandshakeTimeout": 0, **options})
    found = {name: getattr(factory, name) for name in kind.CONFIG_ATTRS}
    plain = {name: staticmethod(v) if callable(v) else v for name, v in found.items()}
    factory.protocol = lean(kind, factory, plain)
    return factory


def test_value_of_an_unknown_type_is_made_for_each_connection() -> None:
    class Memo:
        """A value that changes."""

    class More(LeanShell):
        def _connectionMade(self) -> None:
            super()._connectionMade()
            self.memo, self.names, self.number = Memo(), set[str](), 7

    factory = lean_of(More)
    one, other = (make_connection(factory) for _ in range(2))
    for name, kind in (("memo", Memo), ("names", set)):
        assert type(getattr(one, name)) is kind
        assert getattr(one, name) is getattr(one, name)
        assert getattr(one, name) is not getattr(other, name)
    assert "number" in vars(type(one))
    assert factory.countConnections == 2


def test_value_whose_type_needs_arguments_ends_the_start() -> None:
    class Named:
        def __init__(self, name: str):
            self.name = name

    class More(LeanShell):
        def _connectionMade(self) -> None:
            super()._connectionMade()
            self.named = Named("x")

    with pytest.raises(TypeError, match="name"):
        lean_of(More)
    # Such as Autobahn's timer of the handshake.
    with pytest.raises(TypeError):
        lean_of(LeanShell, openHandshakeTimeout=5)


def test_connections_are_counted_and_the_model_is_not() -> None:
    server = Server()
    lines = [server.websocket(path).line for path in (RAW, "/connection/websocket")]
    factory = lines[0].protocol.factory
    assert factory.countConnections == 2
    for line in lines:
        line.vanish()
    assert factory.countConnections == 0
    assert factory.reactor.getDelayedCalls() == []


@pytest.mark.parametrize("shortcuts", [True, False])
@pytest.mark.parametrize(("kind", "peer"), [("tcp", "127.0.0.1:50000"), ("unix", "unix:")])
def test_nagle_is_off_on_tcp_and_a_unix_socket_has_none(
    kind: str, peer: str, shortcuts: bool
) -> None:
    line = connect(Server(shortcuts=shortcuts), kind)
    line.no_delay = False
    line.send(head())
    assert line.no_delay == (kind == "tcp")
    assert line.protocol.peer == peer


# -- options on the class -------------------------------------------------------------------------


def test_options_on_the_class_are_those_that_autobahn_would_copy() -> None:
    shell = make_connection(make_factory(frame_bytes=4321))
    plain = make_connection(make_factory(shortcuts=False, frame_bytes=4321))
    functions = 0
    for name in WebSocketShell.CONFIG_ATTRS:
        assert name in vars(type(shell)), name
        assert name not in vars(shell), name
        ours, theirs = getattr(shell, name), getattr(plain, name)
        if isinstance(theirs, FunctionType):
            functions += 1
            assert inspect.isfunction(ours), f"{name} became a method"
            assert ours.__code__ is theirs.__code__, name
        else:
            assert repr(ours) == repr(theirs), name
    assert functions


def test_two_factories_have_their_own_options() -> None:
    factories = [make_factory(frame_bytes=size) for size in (4321, 9)]
    shells: list[Any] = [make_connection(factory) for factory in factories]
    assert [shell.maxFramePayloadSize for shell in shells] == [4321, 9]


# -- debug lines ----------------------------------------------------------------------------------

FUNCTIONS = [(target, name) for target, names in FORMATTERS.items() for name in names]


@pytest.fixture
def _not_hushed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Autobahn as it is installed; put back as it was afterwards."""
    for target, name in FUNCTIONS:
        source = importlib.import_module("pprint" if name == "pformat" else "autobahn.util")
        monkeypatch.setattr(target, name, getattr(source, name))


@pytest.mark.usefixtures("_not_hushed")
def test_hushed_debug_lines_format_nothing_and_a_server_without_shortcuts_is_not_hushed() -> None:
    make_factory(shortcuts=False)
    assert all(getattr(target, name)("x") for target, name in FUNCTIONS)
    make_factory()
    assert not any(getattr(target, name)("x") for target, name in FUNCTIONS)


@pytest.mark.usefixtures("_not_hushed")
def test_function_that_a_release_removed_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    for target, name in FUNCTIONS:
        monkeypatch.delattr(target, name)
    hush()
    assert not any(hasattr(target, name) for target, name in FUNCTIONS)


# -- the assumptions -------------------------------------------------------------------------------

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
    """The names that a function, and the functions in it, look up."""
    if code is None:
        return set()
    inner = [names_in(const) for const in code.co_consts if isinstance(const, CodeType)]
    return set(code.co_names).union(*inner)


@pytest.mark.upstream
@pytest.mark.usefixtures("_not_hushed")
def test_only_the_replaced_functions_format_debug_lines() -> None:
    for target, names in FORMATTERS.items():
        for name in ("pformat", "hltype", "hlval", "hlid", "hluserid"):
            assert (f"{name}(" in inspect.getsource(target)) == (name in names)
            assert name not in names or isinstance(getattr(target, name), FunctionType)


@pytest.mark.upstream
def test_attributes_of_the_handshake_are_used_in_it_alone() -> None:
    for name in HANDSHAKE_ATTRIBUTES:
        assert uses(name), name
        assert uses(name) <= HANDSHAKE, name


@pytest.mark.upstream
def test_handshake_sets_no_further_attributes() -> None:
    line = connect(Server(shortcuts=False))
    before = set(vars(make_connection(make_factory(shortcuts=False))))
    line.send(head())
    left = {name for name in vars(line.protocol).keys() - before if not name.startswith("ps_")}
    kept = {"current_frame", "inside_message", "websocket_protocol_in_use", "websocket_version"}
    assert left == {*HANDSHAKE_ATTRIBUTES} | kept


@pytest.mark.parametrize(
    "data", [head(), SESSION, with_fields(b"Sec-WebSocket-Protocol: centrifuge-json")]
)
def test_open_connection_has_the_state_that_autobahns_handshake_leaves(data: bytes) -> None:
    config = Config(server=ServerSection(compress=True))
    short, long = Server(config=config).connect(), Server(config=config).connect()
    short.send(data)
    long.send(data[:9])
    long.send(data[9:])
    names = {*attributes(), *vars(long.protocol), "websocket_version"} - {"factory", "transport"}
    for name in (name for name in names if not name.startswith("ps_")):
        ours, theirs = getattr(short.protocol, name), getattr(long.protocol, name)
        assert type(ours) is type(theirs), name
        if isinstance(theirs, PLAIN):
            assert ours == theirs, name


@pytest.mark.upstream
def test_futures_and_listeners_of_autobahn_are_not_used_elsewhere() -> None:
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


@pytest.mark.upstream
def test_new_connection_changes_only_the_count_of_its_factory() -> None:
    factory: Any = make_factory(shortcuts=False)
    before = dict(vars(factory))
    plain = make_connection(factory)
    assert vars(factory) == {**before, "countConnections": 1}
    assert uses("countConnections") == {"_connectionLost", "_connectionMade", "processHandshake"}
    assert plain.openHandshakeTimeoutCall is None


@pytest.mark.upstream
def test_replaced_methods_are_autobahns_and_have_its_parameters() -> None:
    kind = type(make_connection(make_factory()))
    for name in ("__init__", "fire", "connectionMade", "_onOpen", "_connectionMade"):
        assert any(name in vars(kind) for kind in AUTOBAHNS), name
        theirs = inspect.signature(getattr(WebSocketServerProtocol, name))
        ours = inspect.signature(getattr(kind, name))
        assert list(ours.parameters) == list(theirs.parameters), name
    assert uses("_onOpen") == {"succeedHandshake"}
    assert uses("_connectionMade") - {"_connectionMade"} == {"connectionMade"}


def test_shared_deferred_of_fire_keeps_no_callbacks() -> None:
    line = Server().websocket(RAW).line
    for _ in range(100):
        line.send(masked(b"{}", 1, False) + masked(b"", 0))
    assert LeanShell._fired.called
    assert LeanShell._fired._callbacks == []
    assert LeanShell._fired.result is None


def test_connections_share_values_of_plain_types_only() -> None:
    assert (*PLAIN, TrafficStats) == module._SAME_FOR_ALL
