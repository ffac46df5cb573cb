"""What of Autobahn is silenced, and set on the class, is still there to be."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator
from types import FunctionType
from typing import Any

import pytest
from autobahn.twisted.websocket import WebSocketServerFactory
from twisted.internet.address import IPv4Address
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import Logger

from pushserver.config.limits import Limits
from pushserver.transports.outlet import Bounds
from pushserver.transports.websocket import lean
from pushserver.transports.websocket.shell import WebSocketShell
from pushserver.transports.websocket.upgrade import WebSocketFactory
from tests.unit.fakes.web import Server, set_autobahns_clock

PAIRS = [(module, name) for module, names in lean.FORMATTERS.items() for name in names]
BOUNDS = Bounds(1_000, 1.0, lambda: 0.0)
ADDRESS = IPv4Address("TCP", "127.0.0.1", 50000)


@pytest.fixture(autouse=True)
def unhushed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Autobahn as it is installed, whatever other tests made of it; put back afterwards."""
    for module, name in PAIRS:
        source = importlib.import_module("pprint" if name == "pformat" else "autobahn.util")
        monkeypatch.setattr(module, name, getattr(source, name))


def test_what_is_replaced_is_a_function_of_autobahns_and_called_by_that_name() -> None:
    assert PAIRS
    for module, name in PAIRS:
        assert isinstance(getattr(module, name), FunctionType)
        assert f"{name}(" in inspect.getsource(module)


def test_nothing_else_formats_the_arguments_of_debug_lines() -> None:
    for module, names in lean.FORMATTERS.items():
        for name in ("pformat", "hltype", "hlval", "hlid", "hluserid"):
            assert name in names or f"{name}(" not in inspect.getsource(module)


def test_hushed_they_format_nothing() -> None:
    lean.hush()
    for module, name in PAIRS:
        assert getattr(module, name)(object()) == ""


def test_a_name_that_is_gone_is_no_reason_not_to_start(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name in PAIRS:
        monkeypatch.delattr(module, name)
    lean.hush()
    assert not any(hasattr(module, name) for module, name in PAIRS)


def handshake_and_broadcast() -> None:
    server = Server()
    sockets = [server.websocket("/channels/numbers") for _ in range(3)]
    server.publish(data="hello")
    for socket in sockets:
        assert [value["data"] for value in socket.texts()] == ["hello"]
        assert [frame.opcode for frame in socket.say(b"x", opcode=9)] == [10]
        assert socket.say(b"\x03\xe8", opcode=8)[0].close[0] == 1000


@pytest.mark.parametrize("times", [1, 2])
def test_after_it_a_handshake_a_broadcast_and_a_close_work(times: int) -> None:
    for _ in range(times):
        lean.hush()
    handshake_and_broadcast()


# -- options on the class -------------------------------------------------------------------------


@pytest.fixture
def factory() -> Iterator[WebSocketFactory]:
    clock = MemoryReactorClock()
    set_autobahns_clock(clock)
    yield WebSocketFactory(clock, BOUNDS, Limits(frame_bytes=4321), Logger())
    set_autobahns_clock(None)


def test_the_options_on_the_class_are_what_autobahn_would_have_copied(
    factory: WebSocketFactory,
) -> None:
    plain: Any = WebSocketServerFactory(reactor=factory.reactor)
    plain.setProtocolOptions(
        maxFramePayloadSize=4321,
        maxMessagePayloadSize=4321,
        webStatus=False,
        failByDrop=False,
        closeHandshakeTimeout=2,
        allowedOrigins=["*"],
        openHandshakeTimeout=0,
    )
    shell: Any = factory.buildProtocol(ADDRESS)
    assert WebSocketShell.CONFIG_ATTRS
    for name in WebSocketShell.CONFIG_ATTRS:
        assert hasattr(plain, name), name
        assert name in vars(type(shell)), name
        assert name not in vars(shell), name
        ours, theirs = getattr(shell, name), getattr(plain, name)
        if isinstance(theirs, FunctionType) or inspect.ismethod(theirs):
            assert inspect.isfunction(ours), f"{name} became a method"
            assert ours.__code__ is theirs.__code__, name
        elif isinstance(theirs, (str, bytes, int, float, list, tuple, dict, type(None))):
            assert ours == theirs, name
        else:
            assert [repr(pattern) for pattern in ours] == [repr(pattern) for pattern in theirs]


def test_autobahn_copies_none_of_them_to_a_connection() -> None:
    server = Server()
    socket = server.websocket("/channels/numbers")
    copied = set(WebSocketShell.CONFIG_ATTRS) & set(vars(socket.line.protocol))
    assert copied == set()
    functions = [
        n for n in WebSocketShell.CONFIG_ATTRS if callable(getattr(socket.line.protocol, n))
    ]
    assert functions, "the case of options that are functions is tested by one"
    for name in functions:
        assert not inspect.ismethod(getattr(socket.line.protocol, name)), name


def test_two_factories_have_their_own_options(factory: WebSocketFactory) -> None:
    clock = MemoryReactorClock()
    other = WebSocketFactory(clock, BOUNDS, Limits(frame_bytes=9), Logger())
    shells: list[Any] = [made.buildProtocol(ADDRESS) for made in (factory, other)]
    assert [shell.maxFramePayloadSize for shell in shells] == [4321, 9]
