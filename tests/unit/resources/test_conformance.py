"""The cases of the protocols' own test suites, in memory: 24 of Engine.IO v4, 32 of Socket.IO v5.

16 cases are the same for both, on the URL of each. The documents of the protocols:
github.com/socketio/engine.io-protocol (revision 4) and github.com/socketio/socket.io-protocol
(revision 5).
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.socketio_server import PING_SECONDS, PONG_SECONDS, add_echo, make_app, make_config
from tests.unit.fakes.web import Response, Server, Socket, handshake

PATHS = ["/engine.io/", "/socket.io/"]
ENGINE, SOCKET = (f"{path}?EIO=4&transport=websocket" for path in PATHS)
TOKEN = '{"token":"t"}'
VALUES = '1,"2",{"3":[true]}]'
PLACES = '{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}]'
BYTES = [b"\1\2\3", b"\4\5\6"]
ANSWERS = {
    "/engine.io/": ("4hello", "4hello"),
    "/socket.io/": ("40/random", '44/random,{"message":"Invalid namespace"}'),
}
"""A packet that is answered, and its answer."""


@pytest.fixture
def server() -> Server:
    server = Server(config=make_config(), app=make_app())
    add_echo(server.service)
    server.service.startService()
    server.clock.advance(0)
    return server


def pass_time(server: Server, seconds: float) -> None:
    for _ in range(round(seconds * 1000)):
        server.clock.advance(0.001)


def said(socket: Socket, *sent: str | bytes) -> list[str | bytes]:
    """Send text and binary frames; returns the frames that come back."""
    frames = []
    for part in sent:
        text = part.encode() if isinstance(part, str) else part
        frames += socket.say(text, opcode=1 if isinstance(part, str) else 2)
    return [frame.payload if frame.opcode == 2 else frame.payload.decode() for frame in frames]


def is_closed(socket: Socket) -> bool:
    """Whether the last frame closes the connection."""
    return socket.take()[-1].opcode == 8


def is_answered(socket: Socket, path: str) -> bool:
    packet, answer = ANSWERS[path]
    return said(socket, packet) == [answer]


class Poller:
    def __init__(self, server: Server, path: str):
        self.server = server
        opening = server.get(f"{path}?EIO=4&transport=polling").body
        sid = json.loads(opening.removeprefix(b"0"))["sid"]
        self.url = f"{path}?EIO=4&transport=polling&sid={sid}"

    def get(self) -> Response:
        return self.server.get(self.url)

    def post(self, body: bytes) -> Response:
        return self.server.get(self.url, "POST", body)

    def websocket(self) -> Socket:
        return self.server.websocket(self.url.replace("polling", "websocket"))


def check_opening(text: bytes, upgrades: list[str]) -> None:
    assert text.startswith(b"0")
    opening: dict[str, Any] = json.loads(text[1:])
    assert isinstance(opening.pop("sid"), str)
    assert opening == {
        "upgrades": upgrades,
        "pingInterval": 300,
        "pingTimeout": 200,
        "maxPayload": 1_000_000,
    }


@pytest.mark.parametrize("path", PATHS)
class TestAHandshake:
    def test_by_polling_is_answered_with_the_opening(self, server: Server, path: str) -> None:
        answer = server.get(f"{path}?EIO=4&transport=polling")
        assert answer.status == 200
        check_opening(answer.body, ["websocket"])

    def test_by_websocket_is_answered_with_the_opening(self, server: Server, path: str) -> None:
        [frame] = server.websocket(f"{path}?EIO=4&transport=websocket").seen
        check_opening(frame.payload, [])

    def test_by_polling_needs_the_version(self, server: Server, path: str) -> None:
        for query in ("transport=polling", "EIO=abc&transport=polling"):
            assert server.get(f"{path}?{query}").status == 400

    def test_by_websocket_needs_the_version(self, server: Server, path: str) -> None:
        for query in ("transport=websocket", "EIO=abc&transport=websocket"):
            assert server.get(f"{path}?{query}", **handshake()).status == 400

    def test_by_polling_needs_a_known_transport(self, server: Server, path: str) -> None:
        for query in ("EIO=4", "EIO=4&transport=abc"):
            assert server.get(f"{path}?{query}").status == 400

    def test_by_websocket_needs_a_known_transport(self, server: Server, path: str) -> None:
        for query in ("EIO=4", "EIO=4&transport=abc"):
            assert server.get(f"{path}?{query}", **handshake()).status == 400

    def test_by_polling_is_a_get(self, server: Server, path: str) -> None:
        for method in ("POST", "PUT"):
            assert server.get(f"{path}?EIO=4&transport=polling", method).status == 400


@pytest.mark.parametrize("path", PATHS)
class TestAPing:
    def test_comes_by_polling_and_its_pong_is_posted(self, server: Server, path: str) -> None:
        poller = Poller(server, path)
        for _ in range(3):
            line = server.open(poller.url)
            pass_time(server, PING_SECONDS)
            assert line.response().body == b"2"
            assert poller.post(b"3").status == 200
            line.vanish()

    def test_without_a_pong_ends_the_polling(self, server: Server, path: str) -> None:
        poller = Poller(server, path)
        pass_time(server, PING_SECONDS + PONG_SECONDS)
        assert poller.get().status == 400

    def test_comes_by_websocket(self, server: Server, path: str) -> None:
        socket = server.websocket(f"{path}?EIO=4&transport=websocket")
        for _ in range(3):
            pass_time(server, PING_SECONDS)
            assert [frame.payload for frame in socket.take()] == [b"2"]
            socket.say(b"3")

    def test_without_a_pong_closes_the_websocket(self, server: Server, path: str) -> None:
        socket = server.websocket(f"{path}?EIO=4&transport=websocket")
        pass_time(server, PING_SECONDS + PONG_SECONDS)
        assert is_closed(socket)


@pytest.mark.parametrize("path", PATHS)
class TestTheEnd:
    def test_of_polling_answers_the_get_that_waits(self, server: Server, path: str) -> None:
        poller = Poller(server, path)
        line = server.open(poller.url)
        assert poller.post(b"1").body == b"ok"
        answer = line.response()
        assert (answer.status, answer.body) == (200, b"6")
        assert poller.get().status == 400

    def test_by_a_packet_closes_the_websocket(self, server: Server, path: str) -> None:
        socket = server.websocket(f"{path}?EIO=4&transport=websocket")
        assert socket.say(b"1")[-1].opcode == 8


@pytest.mark.parametrize("path", PATHS)
class TestAnUpgrade:
    def test_answers_a_get_and_continues_on_the_websocket(self, server: Server, path: str) -> None:
        poller = Poller(server, path)
        socket = poller.websocket()
        assert said(socket, "2probe") == ["3probe"]
        answer = poller.get()
        assert (answer.status, answer.body) == (200, b"6")
        assert said(socket, "5") == []
        assert is_answered(socket, path)

    def test_refuses_the_polling_afterwards(self, server: Server, path: str) -> None:
        poller = Poller(server, path)
        socket = poller.websocket()
        assert said(socket, "2probe", "5") == ["3probe"]
        assert poller.get().status == 400
        assert is_answered(socket, path)

    def test_closes_a_second_websocket_afterwards(self, server: Server, path: str) -> None:
        poller = Poller(server, path)
        socket = poller.websocket()
        said(socket, "2probe", "5")
        assert poller.websocket().seen[-1].opcode == 8
        assert is_answered(socket, path)


class TestAMessageOfEngineIO:
    @pytest.mark.parametrize(
        "body",
        [b"4hello", b"4test1\x1e4test2\x1e4test3", b"4hello\x1ebAQIDBA==\x1e4\xc3\xbc"],
        ids=["one", "several", "binary"],
    )
    def test_comes_back_by_polling(self, server: Server, body: bytes) -> None:
        poller = Poller(server, "/engine.io/")
        answer = poller.post(body)
        assert (answer.status, answer.body) == (200, b"ok")
        answer = poller.get()
        assert (answer.status, answer.body) == (200, body)

    def test_of_another_form_ends_the_polling(self, server: Server) -> None:
        poller = Poller(server, "/engine.io/")
        assert poller.post(b"abc").status == 400
        assert poller.get().status == 400

    def test_cannot_wait_for_two_gets_at_a_time(self, server: Server) -> None:
        poller = Poller(server, "/engine.io/")
        line = server.open(poller.url)
        assert poller.get().status == 400
        answer = line.response()
        assert (answer.status, answer.body) == (200, b"1")
        assert poller.get().status == 400

    @pytest.mark.parametrize("sent", ["4hello", b"\1\2\3\4"])
    def test_comes_back_by_websocket(self, server: Server, sent: str | bytes) -> None:
        assert said(server.websocket(ENGINE), sent) == [sent]

    def test_of_another_form_closes_the_websocket(self, server: Server) -> None:
        assert server.websocket(ENGINE).say(b"abc")[-1].opcode == 8


class TestAConnectOfSocketIO:
    @pytest.mark.parametrize(
        ("packet", "head", "auth"),
        [
            ("40", "40", '42["auth",{}]'),
            (f"40{TOKEN}", "40", f'42["auth",{TOKEN}]'),
            ("40/custom,", "40/custom,", '42/custom,["auth",{}]'),
            (f"40/custom,{TOKEN}", "40/custom,", f'42/custom,["auth",{TOKEN}]'),
        ],
    )
    def test_is_answered_with_an_id(
        self, server: Server, packet: str, head: str, auth: str
    ) -> None:
        answer, event = said(server.websocket(SOCKET), packet)
        assert isinstance(answer, str)
        assert answer.startswith(head)
        [(key, sid)] = json.loads(answer.removeprefix(head)).items()
        assert (key, type(sid)) == ("sid", str)
        assert event == auth

    def test_to_an_unknown_namespace_is_refused(self, server: Server) -> None:
        assert is_answered(server.websocket(SOCKET), "/socket.io/")

    def test_of_another_form_closes_the_connection(self, server: Server) -> None:
        assert server.websocket(SOCKET).say(b"4abc")[-1].opcode == 8

    def test_must_come_in_time(self, server: Server) -> None:
        socket = server.websocket(SOCKET)
        for _ in range(9):
            pass_time(server, 0.1)
            for frame in socket.take():
                assert frame.payload == b"2"
                socket.say(b"3")
        pass_time(server, 0.2)
        assert socket.close() == (3502, "no CONNECT came in time")


@pytest.fixture
def socket(server: Server) -> Socket:
    """A WebSocket that is connected to the main namespace."""
    socket = server.websocket(SOCKET)
    assert len(said(socket, "40")) == 2
    return socket


class TestADisconnectOfSocketIO:
    def test_from_the_main_namespace_leaves_the_connection(
        self, server: Server, socket: Socket
    ) -> None:
        assert said(socket, "41") == []
        pass_time(server, PING_SECONDS)
        assert [frame.payload for frame in socket.take()] == [b"2"]

    def test_from_one_namespace_leaves_the_others(self, socket: Socket) -> None:
        assert len(said(socket, "40/custom")) == 2
        assert said(socket, "41/custom", '42["message","m"]') == ['42["message-back","m"]']


class TestAnEventOfSocketIO:
    def test_comes_back(self, socket: Socket) -> None:
        assert said(socket, f'42["message",{VALUES}') == [f'42["message-back",{VALUES}']

    def test_comes_back_with_bytes(self, socket: Socket) -> None:
        answers = said(socket, f'452-["message",{PLACES}', *BYTES)
        assert answers == [f'452-["message-back",{PLACES}', *BYTES]

    def test_is_acknowledged(self, socket: Socket) -> None:
        assert said(socket, f'42456["message-with-ack",{VALUES}') == [f"43456[{VALUES}"]

    def test_is_acknowledged_with_bytes(self, socket: Socket) -> None:
        answers = said(socket, f'452-789["message-with-ack",{PLACES}', *BYTES)
        assert answers == [f"462-789[{PLACES}", *BYTES]

    @pytest.mark.parametrize(
        "packet", [b"4abc", b"42{}", b'42abc["message-with-ack",1]'], ids=["kind", "data", "id"]
    )
    def test_of_another_form_closes_the_connection(self, socket: Socket, packet: bytes) -> None:
        assert socket.say(packet)[-1].opcode == 8


def test_nothing_is_left_of_quick_timers(server: Server) -> None:
    socket = server.websocket(ENGINE)
    socket.line.vanish()
    before = len(server.clock.getDelayedCalls())
    pass_time(server, 1.0)
    assert len(server.clock.getDelayedCalls()) <= before
    assert server.is_empty()
