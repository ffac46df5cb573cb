"""PUSHSERVER_SHORTCUTS=off serves by twisted.web and Autobahn alone."""

from __future__ import annotations

import pytest
from twisted.logger import LogLevel

from pushserver.errors import StartFailed
from pushserver.server.options import shortcuts
from pushserver.transports.websocket.lean import LeanShell
from pushserver.transports.websocket.shell import WebSocketShell
from pushserver.web.first_bytes import FirstBytes
from pushserver.web.pipeline import DeadlineChannel
from tests.unit.fakes.heads import head
from tests.unit.fakes.web import Log, Server


def test_variable_is_on_or_off() -> None:
    assert [shortcuts({}), shortcuts({"PUSHSERVER_SHORTCUTS": "on"})] == [True, True]
    assert not shortcuts({"PUSHSERVER_SHORTCUTS": "off"})
    with pytest.raises(StartFailed, match=r"PUSHSERVER_SHORTCUTS: 'no', expected on or off"):
        shortcuts({"PUSHSERVER_SHORTCUTS": "no"})


@pytest.mark.parametrize("on", [True, False])
def test_connection_is_of_twisted_web_and_then_of_autobahn(on: bool) -> None:
    server = Server(shortcuts=on)
    line = server.connect()
    assert isinstance(line.protocol, FirstBytes if on else DeadlineChannel)
    line.send(head())
    assert isinstance(line.protocol, LeanShell if on else WebSocketShell)
    assert isinstance(line.protocol, LeanShell) == on
    assert line.protocol.factory.ps_bounds.direct == on
    line.vanish()
    assert server.is_empty()


def test_websockets_publish_ping_and_close() -> None:
    server = Server(shortcuts=False)
    raw, session = server.websocket("/channels/numbers"), server.session()
    session.say({"id": 2, "subscribe": {"channel": "numbers"}})
    server.publish(data="hello")
    assert [value["data"] for value in raw.texts()] == ["hello"]
    assert [value["push"]["pub"]["data"] for value in session.texts()] == ["hello"]
    assert [frame.opcode for frame in raw.say(b"x", opcode=9)] == [10]
    assert raw.say(b"\x03\xe8", opcode=8)[0].close[0] == 1000


@pytest.mark.parametrize("on", [True, False])
def test_reactor_is_not_bounded_and_the_log_says_so(
    on: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    bounded: list[object] = []
    monkeypatch.setattr("pushserver.server.service.bound", bounded.append)
    server = Server(shortcuts=on)
    with Log(LogLevel.info) as log:
        server.service.startService()
        line = "the shortcuts are off (PUSHSERVER_SHORTCUTS)"
        assert (line in log.take(), bounded) == ((False, [server.clock]) if on else (True, []))
    server.service.stopService()
