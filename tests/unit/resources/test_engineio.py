"""The server of the protocols' test suites, in memory: Engine.IO by itself, and quick pings."""

from __future__ import annotations

import json

import pytest

from tests.socketio_server import PING_SECONDS, PONG_SECONDS, add_echo, make_app, make_config
from tests.unit.fakes.web import Server, Socket

POLLING = "/engine.io/?EIO=4&transport=polling"
WEBSOCKET = "/engine.io/?EIO=4&transport=websocket"


@pytest.fixture
def server() -> Server:
    server = Server(config=make_config(), app=make_app())
    add_echo(server.service)
    server.service.startService()
    server.clock.advance(0)
    return server


def begin(server: Server) -> str:
    """The URL of a new client that polls."""
    opening = json.loads(server.get(POLLING).body[1:])
    assert (opening["pingInterval"], opening["pingTimeout"]) == (300, 200)
    assert opening["maxPayload"] == 1_000_000
    return f"{POLLING}&sid={opening['sid']}"


def pass_time(server: Server, seconds: float) -> None:
    for _ in range(round(seconds * 1000)):
        server.clock.advance(0.001)


def said(socket: Socket, *sent: str) -> list[str]:
    return [frame.payload.decode() for frame in socket.say(*(text.encode() for text in sent))]


def test_messages_of_a_payload_come_back(server: Server) -> None:
    url = begin(server)
    body = b"4hello\x1ebAQIDBA==\x1e4\xc3\xbc"
    assert server.get(url, "POST", body).body == b"ok"
    assert server.get(url).body == body


def test_messages_of_a_websocket_come_back(server: Server) -> None:
    socket = server.websocket(WEBSOCKET)
    assert said(socket, "4hello") == ["4hello"]
    [frame] = socket.say(b"\1\2\3", opcode=2)
    assert (frame.opcode, frame.payload) == (2, b"\1\2\3")


def test_messages_come_back_after_an_upgrade(server: Server) -> None:
    url = begin(server)
    socket = server.websocket(url.replace("polling", "websocket"))
    assert said(socket, "2probe", "5", "4hello") == ["3probe", "4hello"]
    assert server.get(url).status == 400


def test_short_intervals_of_pings_are_kept(server: Server) -> None:
    socket = server.websocket(WEBSOCKET)
    pings = 0
    for _ in range(20):
        pass_time(server, 0.1)
        for frame in socket.take():
            assert frame.payload == b"2"
            pings += 1
            socket.say(b"3")
    assert 6 <= pings <= 7
    pass_time(server, PING_SECONDS + PONG_SECONDS)
    assert socket.take()[-1].close == (3012, "no pong")


def test_short_times_for_a_connect_are_kept(server: Server) -> None:
    socket = server.websocket("/socket.io/?EIO=4&transport=websocket")
    for _ in range(9):
        pass_time(server, 0.1)
        for _ in socket.take():
            socket.say(b"3")
    assert not socket.line.disconnecting
    pass_time(server, 0.2)
    assert socket.take()[-1].close == (3502, "no CONNECT came in time")


def test_several_arguments_come_back_as_they_were(server: Server) -> None:
    socket = server.websocket("/socket.io/?EIO=4&transport=websocket")
    assert said(socket, "40/random") == ['44/random,{"message":"Invalid namespace"}']
    assert said(socket, "40/custom")[1:] == ['42/custom,["auth",{}]']
    assert said(socket, '40{"token":"123"}')[1:] == ['42["auth",{"token":"123"}]']
    sent = '1,"2",{"3":[true]}]'
    assert said(socket, f'42["message",{sent}') == [f'42["message-back",{sent}']
    assert said(socket, f'42456["message-with-ack",{sent}') == [f"43456[{sent}"]
    assert said(socket, "41/custom", '42["message",1]') == ['42["message-back",1]']


def test_nothing_is_left_of_quick_timers(server: Server) -> None:
    socket = server.websocket(WEBSOCKET)
    socket.line.vanish()
    before = len(server.clock.getDelayedCalls())
    pass_time(server, 1.0)
    assert len(server.clock.getDelayedCalls()) <= before
    assert server.is_empty()
