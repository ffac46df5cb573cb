"""A WebSocket that sends without pause gets its share of each turn, and a close over the rates."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import closing

import pytest
from twisted.internet.task import Clock
from twisted.logger import LogLevel

from pushserver.channels.channel import ChannelOptions
from pushserver.config.limits import Limits
from pushserver.sessions.working import AT_A_TIME
from pushserver.transports.websocket.shell import STEPS
from pushserver.web.sockets import is_closed, is_reset
from tests.unit.fakes.reactors import one_turn
from tests.unit.fakes.web import Frame, Line, Log, Server, Socket, Trouble, frames, masked

SHORTCUTS = pytest.mark.parametrize("shortcuts", [True, False])
FLOODS = {
    "empty pings": ([], masked(b"", 9)),
    "pings": ([], masked(b"x" * 125, 9)),
    "empty pongs": ([], masked(b"", 10)),
    "pongs": ([], masked(b"x", 10)),
    "empty continuations": ([masked(b"{", 1, False)], masked(b"", 0, False)),
    "continuations of a byte": ([masked(b"{", 1, False)], masked(b" ", 0, False)),
    "empty continuations of a binary message": ([masked(b"", 2, False)], masked(b"", 0, False)),
}
LIMITS = Limits(control_frames_per_second=10)


def raw(server: Server) -> Socket:
    return server.websocket("/events?channel=a")


def count(line: Line, opcode: int) -> int:
    return sum(frame.opcode == opcode for frame in frames(line.value()))


class TestFlood:
    @SHORTCUTS
    @pytest.mark.parametrize("name", FLOODS)
    @pytest.mark.parametrize("centrifuge", [False, True])
    def test_is_closed_with_its_code_and_the_setting(
        self, name: str, centrifuge: bool, shortcuts: bool, trouble: Trouble
    ) -> None:
        server = Server(LIMITS, shortcuts=shortcuts)
        peer = server.session() if centrifuge else raw(server)
        first, flood = FLOODS[name]
        for frame in first:
            peer.line.send(frame)
        with Log(LogLevel.info) as log:
            peer.line.send(flood * 101)
            peer.line.settle()
        code, reason = peer.take()[-1].close
        assert code == (3013 if centrifuge else 1008)
        assert reason == "too many control frames (control_frames_per_second)"
        assert log.take() == [f"refused {code} to 127.0.0.1: {reason}"]
        assert server.node.metrics.refusals == {"control_frames_per_second": 1}
        assert trouble.take() == []

    @SHORTCUTS
    def test_is_handled_no_further(self, shortcuts: bool, trouble: Trouble) -> None:
        server = Server(LIMITS, shortcuts=shortcuts)
        peer = raw(server)
        peer.line.send(masked(b"", 9) * 101)
        assert [frame.opcode for frame in peer.take()] == [10] * 100 + [8]
        assert peer.line.producerState == "paused"
        for data in (masked(b"", 9)[:3], masked(b"x") * 100, b"\xff" * 70_000):
            peer.line.send(data)
        assert peer.take() == []
        server.advance(10)
        assert peer.line.lost
        assert server.is_empty()
        (text,) = trouble.take()
        assert "closing handshake timeout" in text

    def test_is_counted_in_fast_reads_of_few_frames(self) -> None:
        peer = raw(Server(LIMITS))
        for _ in range(60):
            peer.line.send(masked(b"", 9) * 2)
        assert peer.close()[0] == 1008

    def test_is_no_flood_at_the_rate(self) -> None:
        server = Server(LIMITS)
        peer = raw(server)
        peer.line.send(masked(b"", 9) * 90)
        for _ in range(20):
            server.clock.advance(1)
            peer.line.send(masked(b"p", 9) * 10)
        assert {frame.opcode for frame in peer.take()} == {10}

    def test_message_of_64_kb_in_small_fragments_is_none(self) -> None:
        server = Server(options=ChannelOptions(client_publish=True))
        peer = server.session()
        text = json.dumps({"id": 2, "publish": {"channel": "a", "data": "x" * 60_000}}).encode()
        pieces = [text[n : n + 100] for n in range(0, len(text), 100)]
        data = masked(pieces[0], 1, False)
        data += b"".join(masked(piece, 0, False) for piece in pieces[1:-1])
        peer.line.send(data + masked(pieces[-1], 0))
        assert peer.texts() == [{"id": 2, "publish": {}}]


class TestTurn:
    @SHORTCUTS
    def test_handles_few_frames_of_one_peer(self, shortcuts: bool) -> None:
        server = Server(shortcuts=shortcuts)
        peer = raw(server)
        peer.line.protocol.dataReceived(masked(b"", 9) * 500)
        for turns in range(1, 6):
            assert count(peer.line, 10) == turns * STEPS // 2
            assert peer.line.producerState == "paused"
            one_turn(server.clock)
        peer.line.settle()
        assert count(peer.line, 10) == 500
        assert peer.line.producerState == "producing"

    def test_has_time_for_others_meanwhile(self) -> None:
        server = Server()
        flooding, other = raw(server), raw(server)
        flooding.line.protocol.dataReceived(masked(b"", 9) * 500)
        other.line.protocol.dataReceived(masked(b"me", 9))
        assert frames(other.line.value()) == [Frame(10, b"me")]

    @SHORTCUTS
    def test_answers_few_commands_of_one_frame(self, shortcuts: bool) -> None:
        server = Server(shortcuts=shortcuts)
        peer = server.session()
        batch = masked(b"\n".join([b'{"id":2,"ping":{}}'] * 200))
        peer.line.protocol.dataReceived(batch)
        peer.line.protocol.dataReceived(batch * 2)
        assert count(peer.line, 1) == AT_A_TIME
        one_turn(server.clock)
        assert count(peer.line, 1) == 2 * AT_A_TIME
        peer.line.settle()
        assert len(peer.texts()) == 600

    @SHORTCUTS
    @pytest.mark.parametrize("size", [1, 7, 40, 1_000, 65_536])
    def test_honest_publisher_at_full_speed_is_answered_in_order(
        self, shortcuts: bool, size: int
    ) -> None:
        server = Server(options=ChannelOptions(client_publish=True), shortcuts=shortcuts)
        peer = server.session()
        commands = [
            {"id": n, "publish": {"channel": "a", "data": n}}
            for n in range(2, 2_000 if size > 9 else 90)
        ]
        data = b"".join(masked(json.dumps(command).encode()) for command in commands)
        for begin in range(0, len(data), size):
            peer.line.send(data[begin : begin + size])
        assert [reply["id"] for reply in peer.texts()] == [command["id"] for command in commands]
        assert server.node.history.top("a") == len(commands)


class TestPeerThatLeft:
    @SHORTCUTS
    def test_is_handled_no_further(self, shortcuts: bool, trouble: Trouble) -> None:
        server = Server(shortcuts=shortcuts)
        peer = server.session()
        before = len(server.clock.getDelayedCalls())
        peer.line.protocol.dataReceived(masked(b'{"id":2,"ping":{}}') * 500)
        assert server.site.turns._waiting
        peer.line.vanish()
        assert not server.site.turns._waiting
        assert peer.line.protocol.data == b""
        answered = count(peer.line, 1)
        peer.line.settle()
        assert count(peer.line, 1) == answered < 500
        assert len(server.clock.getDelayedCalls()) < before + 2
        assert server.is_empty()
        assert trouble.take() == []

    def test_is_noticed_while_its_bytes_are_not_read(self) -> None:
        with closing(socket.create_server(("127.0.0.1", 0))) as listener:
            client = socket.create_connection(listener.getsockname())
            accepted, _ = listener.accept()
            server = Server()
            peer = raw(server)
            with closing(client), closing(accepted):
                setattr(peer.line, "socket", accepted)  # noqa: B010
                client.sendall(b"unread")
                peer.line.protocol.dataReceived(masked(b"", 9) * 500)
                one_turn(server.clock)
                assert not peer.line.aborted
                client.close()
                wait_for(accepted)
                one_turn(server.clock)
                assert peer.line.aborted


def wait_for(accepted: socket.socket) -> None:
    """Wait until the end of the connection has arrived behind the unread bytes."""
    accepted.settimeout(10)
    while len(accepted.recv(100, socket.MSG_PEEK)) < 6:
        pass
    while not is_closed(type("", (), {"socket": accepted})()):
        pass


@pytest.fixture
def connected() -> Iterator[tuple[socket.socket, socket.socket]]:
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        client = socket.create_connection(listener.getsockname())
        accepted, _ = listener.accept()
        with closing(client), closing(accepted):
            yield client, accepted


def test_end_of_a_connection_is_known_without_reading(
    connected: tuple[socket.socket, socket.socket],
) -> None:
    client, accepted = connected
    transport = type("", (), {"socket": accepted})()
    assert not is_closed(transport)
    client.sendall(b"unread")
    client.shutdown(socket.SHUT_WR)
    while not is_closed(transport):
        pass
    assert not is_reset(transport), "it may still read"
    accepted.sendall(b"unread")
    client.close()
    while not is_reset(transport):
        pass
    assert is_closed(transport)


def test_end_of_a_connection_is_unknown_without_tcp() -> None:
    ours, theirs = socket.socketpair()
    with closing(ours), closing(theirs):
        theirs.close()
        for transport in (type("", (), {"socket": ours})(), Clock()):
            assert not is_closed(transport)
