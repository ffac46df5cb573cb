from __future__ import annotations

import gc
import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twisted.logger import LogLevel

from pushserver.channels.channel import ChannelOptions
from pushserver.channels.publication import Draft
from pushserver.config.limits import Limits
from pushserver.sessions.event_stream import Stream
from pushserver.sessions.session import Session
from pushserver.transports.websocket.shell import WebSocketShell, close_reason
from pushserver.web.first_bytes import Head
from tests.unit.fakes.tools import drive
from tests.unit.fakes.web import (
    Log,
    Server,
    Socket,
    Trouble,
    frames,
    handshake,
    masked,
    parse,
    patched,
)

RAW = "/channels/numbers"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("no pong", "no pong"),
        ("", "closed"),
        ("7", "reason: 7"),
        ("true", "reason: true"),
        ("null", "reason: null"),
        ('"x"', 'reason: "x"'),
        ("{}", "reason: {}"),
        (" 7 ", "reason:  7 "),
        ("NaN", "reason: NaN"),
        ("x" * 200, "x" * 120),
        ("é" * 100, "é" * 60),
        ("x" + "é" * 100, "x" + "é" * 59),
    ],
)
def test_close_reason_is_not_json_and_fits(text: str, reason: str) -> None:
    assert close_reason(text).decode() == reason


def check_reason(text: str) -> None:
    reason = close_reason(text)
    assert 0 < len(reason) <= 120
    with pytest.raises(ValueError, match=r"."):
        json.loads(reason.decode())


@given(st.text(max_size=200))
def test_any_text_makes_a_valid_close_reason(text: str) -> None:
    check_reason(text)


@pytest.mark.parametrize(
    "text",
    ["1" * 120 + "x", "7" + " " * 119 + "x", '"' + "a" * 118 + '"x', "1" * 5_000, "[" * 100_000],
    ids=["number", "spaces", "string", "huge number", "nesting"],
)
def test_text_that_is_json_once_it_is_cut_makes_a_valid_close_reason(text: str) -> None:
    check_reason(text)


def test_handshake_is_answered_without_an_extension_and_nagle_is_off() -> None:
    socket = Server().websocket(
        RAW, sec_websocket_extensions="permessage-deflate; client_max_window_bits"
    )
    assert "sec-websocket-extensions" not in socket.handshake
    assert "sec-websocket-protocol" not in socket.handshake
    assert socket.handshake["sec-websocket-accept"] == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
    assert socket.line.no_delay
    assert isinstance(socket.line.protocol, WebSocketShell)


@pytest.mark.parametrize("offer", ["centrifuge-json", "other, centrifuge-json"])
def test_offered_json_subprotocol_is_echoed(offer: str) -> None:
    socket = Server().websocket("/connection/websocket", sec_websocket_protocol=offer)
    assert socket.handshake["sec-websocket-protocol"] == "centrifuge-json"


@pytest.mark.parametrize(
    "headers",
    [
        {"sec_websocket_key": ""},
        {"sec_websocket_key": "short"},
        {"sec_websocket_version": "7"},
        {"sec_websocket_version": ""},
        {"connection": "keep-alive"},
    ],
)
def test_failed_handshake_leaves_nothing(headers: dict[str, str], trouble: Trouble) -> None:
    server = Server()
    line = server.connect()
    line.send(_request(RAW, headers))
    assert line.take().startswith(b"HTTP/1.1 4")
    server.advance(10)
    line.vanish()
    assert server.is_empty()
    trouble.clear()


def _request(path: str, headers: dict[str, str]) -> bytes:
    fields = {"host": "localhost:8080", **handshake(), **headers}
    lines = [f"{name.replace('_', '-')}: {value}" for name, value in fields.items() if value]
    return "\r\n".join([f"GET {path} HTTP/1.1", *lines, "", ""]).encode()


def test_frames_right_after_the_handshake_are_read() -> None:
    server = Server()
    line = server.connect()
    line.send(_request("/connection/websocket", {}))
    answer = parse(line.take())
    line.send(masked(b'{"id":1,"connect":{}}') + masked(b'{"id":2,"ping":{}}'))
    replies = [json.loads(frame.payload) for frame in frames(answer.rest + line.take())]
    assert [reply["id"] for reply in replies] == [1, 2]


def test_message_in_fragments_and_byte_by_byte_is_one_message() -> None:
    socket = Server().session()
    text = b'{"id":2,"subscribe":{"channel":"a"}}'
    data = masked(text[:5], final=False) + masked(text[5:9], 0, final=False) + masked(text[9:], 0)
    for byte in data:
        socket.line.send(bytes([byte]))
    (reply,) = socket.texts()
    assert reply["subscribe"]["recoverable"]


@pytest.mark.parametrize(("path", "code"), [("/connection/websocket", 3501), (RAW, 1003)])
def test_binary_frame_is_refused_with_the_code_of_the_protocol(path: str, code: int) -> None:
    server = Server()
    socket = server.websocket(path)
    closed = socket.say(b"\0\1", opcode=2)[-1].close
    assert closed == (code, "binary frames are not understood; send JSON text")
    server.publish()
    assert socket.take() == []


SHORTCUTS = pytest.mark.parametrize("shortcuts", [True, False])


@pytest.mark.parametrize("path", ["/connection/websocket", RAW])
def test_frame_or_message_over_the_limit_is_refused(path: str, trouble: Trouble) -> None:
    for data in (
        masked(b"x" * 1_001),
        masked(b"x" * 600, final=False) + masked(b"x" * 600, 0),
        masked(b"x" * 1_001)[:8],
    ):
        socket = Server(Limits(frame_bytes=1_000)).websocket(path)
        socket.line.send(data)
        code, reason = socket.close()
        assert code == 1009
        assert reason
        trouble.clear()


@SHORTCUTS
@pytest.mark.parametrize(
    "data", [masked(b"x" * 1_001), masked(b"x" * 600, final=False) + masked(b"x" * 600, 0)]
)
def test_message_over_the_limit_is_logged_once_with_the_address_and_the_setting(
    data: bytes, shortcuts: bool, trouble: Trouble
) -> None:
    server = Server(Limits(frame_bytes=1_000), shortcuts=shortcuts)
    socket = server.websocket("/connection/websocket")
    with Log(LogLevel.info) as events:
        socket.line.send(data)
    line = "refused 1009 to 127.0.0.1: a message of more than 1000 bytes (frame_bytes)"
    assert [text for text in events.take() if "refused" in text] == [line]
    assert server.node.metrics.refusals == {"frame_bytes": 1}
    trouble.clear()


def test_frame_of_exactly_the_limit_is_read() -> None:
    socket = Server(Limits(frame_bytes=1_000)).session()
    text = b'{"id":2,"ping":{}}'.ljust(1_000)
    assert socket.say(text)[0].payload == b'{"id":2,"ping":{}}'


@pytest.mark.parametrize(
    "data",
    [
        b"\x81\x01x",
        masked(b"\xff"),
        masked(b"x", opcode=3),
        masked(b"x", opcode=0),
        masked(b"x" * 126, opcode=9),
        masked(b"x", opcode=9, final=False),
        bytes([0xC1]) + masked(b"x")[1:],
    ],
    ids=["unmasked", "utf-8", "opcode", "continuation", "long ping", "part of a ping", "reserved"],
)
def test_invalid_frame_closes_the_connection_with_a_code(data: bytes, trouble: Trouble) -> None:
    server = Server()
    socket = server.websocket(RAW)
    socket.line.send(data)
    code, reason = socket.close()
    assert code in (1002, 1007)
    assert reason
    server.publish()
    assert socket.take() == []
    server.advance(5)
    assert socket.line.lost
    assert server.is_empty()
    trouble.clear()


@pytest.mark.parametrize(
    ("text", "words"), [(b"nonsense", "not JSON"), (b"[]", "not a command"), (b"{}", "pong")]
)
def test_text_that_is_not_a_command_ends_a_session_for_good(text: bytes, words: str) -> None:
    code, reason = Server().session().say(text)[-1].close
    assert code == 3501
    assert words in reason


def test_text_on_a_raw_stream_is_closed_with_a_hint() -> None:
    server = Server()
    socket = server.websocket(RAW)
    code, reason = socket.say(b"hello")[-1].close
    assert (code, "POST" in reason) == (1008, True)
    assert server.hub.channels() == {}


def test_ping_is_answered_with_its_payload() -> None:
    (pong,) = Server().websocket(RAW).say(b"hello", opcode=9)
    assert (pong.opcode, pong.payload) == (10, b"hello")


def test_raw_stream_lasts_only_while_its_pings_are_answered(
    trouble: Trouble,
) -> None:
    server = Server(Limits(ping_seconds=10, dead_seconds=5))
    alive, dead = server.websocket(RAW), server.websocket(RAW)
    pings = 0
    for _ in range(60):
        server.advance(1)
        for frame in alive.take():
            assert frame.opcode == 9
            pings += 1
            alive.say(frame.payload, opcode=10)
    assert pings > 5
    assert not alive.line.disconnecting
    assert dead.close() == (1008, "no pong")
    assert dead.line.lost
    trouble.clear()


def close_payload(code: int, reason: str = "") -> bytes:
    return code.to_bytes(2, "big") + reason.encode()


@SHORTCUTS
@pytest.mark.parametrize(
    "payload",
    [
        b"",
        close_payload(1000),
        close_payload(1000, "bye"),
        close_payload(1001),
        close_payload(1013),
        close_payload(3000, "é" * 61),
        close_payload(4999),
    ],
)
def test_close_frame_of_a_client_is_answered_with_its_own_code(
    payload: bytes, shortcuts: bool
) -> None:
    server = Server(shortcuts=shortcuts)
    for socket in (server.session(), server.websocket(RAW)):
        (answer,) = socket.say(payload, opcode=8)
        assert (answer.opcode, answer.payload) == (8, payload)
        assert socket.line.lost
        assert not socket.line.aborted
    assert server.is_empty()


@SHORTCUTS
@pytest.mark.parametrize(
    ("cause", "code"),
    [
        (masked(b"nonsense"), 1008),
        (masked(b"x", opcode=2), 1003),
        (masked(b"x", opcode=3), 1002),
        (masked(b"\xff"), 1007),
        (masked(b"x" * 2_000), 1009),
        (masked(b"x", opcode=8), 1002),
    ],
)
def test_connection_ends_without_a_reset_after_the_answer_to_a_close(
    cause: bytes, code: int, shortcuts: bool, trouble: Trouble
) -> None:
    server = Server(Limits(frame_bytes=1_000), shortcuts=shortcuts)
    socket = server.websocket(RAW)
    socket.line.send(cause)
    if cause[0] != 0x88:
        # Autobahn takes an invalid close frame for the answer too.
        assert not socket.line.disconnecting
        assert socket.close()[0] == code
        socket.line.send(masked(b"still in transit") + masked(close_payload(code), opcode=8))
    assert socket.line.lost
    assert not socket.line.aborted
    assert server.is_empty()
    trouble.clear()


@SHORTCUTS
def test_connection_without_an_answer_to_a_close_ends_without_a_reset(
    shortcuts: bool, trouble: Trouble
) -> None:
    server = Server(shortcuts=shortcuts)
    socket = server.websocket(RAW)
    assert socket.say(b"x")[-1].close[0] == 1008
    server.advance(1)
    assert not socket.line.disconnecting
    server.advance(1)
    assert socket.line.lost
    assert not socket.line.aborted
    trouble.clear()


def test_messages_after_a_close_are_not_kept(trouble: Trouble) -> None:
    socket = Server(Limits(frame_bytes=1_000)).websocket(RAW)
    assert socket.say(b"x")[-1].close[0] == 1008
    socket.line.send(masked(b"x", final=False))
    for _ in range(20):
        socket.line.send(masked(b"x" * 900, opcode=0, final=False))
    assert sum(map(len, socket.line.protocol.message_data)) <= 1_000
    assert not socket.line.disconnecting
    socket.say(close_payload(1008), opcode=8)
    assert socket.line.lost
    assert not socket.line.aborted
    trouble.clear()


def test_client_that_does_not_read_its_close_frame_is_reset(trouble: Trouble) -> None:
    server = Server()
    socket = server.websocket(RAW)
    socket.line.reading = False
    socket.line.send(masked(b"x"))
    server.advance(2)
    assert socket.line.aborted
    assert socket.line.lost
    trouble.clear()


@SHORTCUTS
def test_log_has_one_line_a_second_for_each_cause_and_the_number_of_others(
    shortcuts: bool, trouble: Trouble
) -> None:
    server = Server(Limits(frame_bytes=1_000), shortcuts=shortcuts)
    with Log(LogLevel.info) as log:
        for n in range(50):
            for frame in (
                masked(b"x", opcode=3 + n % 4),
                masked(b"x" * (n + 1), opcode=0),
                masked(b"x" * n + b"\xff"),
                masked(b"x" * (1_001 + n)),
            ):
                socket = server.websocket(RAW)
                socket.line.send(frame + frame)
                socket.line.vanish()
        texts = log.take()
        excess = "refused 1009 to 127.0.0.1"
        failing = [f"failing WebSocket connection (code={code})" for code in (1002, 1007, 1009)]
        assert [text.partition(":")[0] for text in texts] == [*failing[:2], excess, failing[2]]
        server.advance(1)
        server.websocket(RAW).line.send(masked(b"\xff"))
        (text,) = log.take()
        assert text.startswith("failing WebSocket connection (code=1007)")
        assert text.endswith("(and 49 that were not logged)")
        for _ in range(20):
            server.websocket(RAW).line.send(masked(b"x"))
        server.advance(3)
        (text,) = log.take()
        assert text.startswith("dropping connection to peer 127.0.0.1:50000 ")
        for _ in range(20):
            socket = server.websocket(RAW)
            socket.line.protocol.ps_slow(1_000)
        (text,) = log.take()
        assert text == "127.0.0.1:50000 is dropped: it left 1000 bytes unread (queue_bytes)"
    server.advance(1)
    assert server.is_empty()
    trouble.clear()


def test_client_that_vanishes_is_forgotten() -> None:
    server = Server()
    for socket in (server.session(), server.websocket(RAW)):
        socket.line.vanish()
    assert server.is_empty()


def test_client_that_does_not_answer_a_close_is_dropped(trouble: Trouble) -> None:
    server = Server()
    socket = server.session()
    socket.say(b"nonsense")
    server.advance(1)
    assert not socket.line.lost
    server.advance(3)
    assert socket.line.lost
    assert server.is_empty()
    trouble.clear()


def test_close_frame_reaches_a_client_that_reads_late() -> None:
    server = Server()
    socket = server.session()
    socket.say({"id": 2, "subscribe": {"channel": "numbers"}})
    socket.line.reading = False
    server.publish(data="x" * 100_000)
    for peer in server.node.peers:
        peer.shut_down()
    socket.line.read()
    assert socket.close()[0] == 3001
    socket.say((3001).to_bytes(2, "big"), opcode=8)
    assert socket.line.lost


def fail(*args: object) -> None:
    raise RuntimeError("secret")


def conversation(socket: Socket) -> Any:
    return socket.line.protocol.ps_conversation


@pytest.mark.parametrize("path", ["/connection/websocket", RAW])
def test_conversation_that_raises_is_closed_with_1011_and_logged(
    path: str, trouble: Trouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = Server()
    socket = server.websocket(path)
    other = server.session()
    monkeypatch.setattr(type(conversation(socket)), "received", fail)
    closed = socket.say(b'{"id":1,"connect":{}}')[-1].close
    assert closed == (1011, "internal server error")
    assert trouble.take() == ["a WebSocket conversation failed: RuntimeError('secret')"]
    server.advance(5)
    assert socket.line.lost
    assert not other.line.lost
    trouble.clear()


def test_conversation_that_cannot_start_is_closed_with_1011_and_logged(
    trouble: Trouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Stream, "__init__", fail)
    server = Server()
    socket = server.websocket(RAW)
    assert [frame.close for frame in socket.seen] == [(1011, "internal server error")]
    assert trouble.take() == ["a WebSocket conversation failed: RuntimeError('secret')"]
    assert socket.say(b"hello") == []
    server.advance(5)
    assert socket.line.lost
    assert server.is_empty()
    trouble.clear()


def test_onclose_without_onopen_does_nothing() -> None:
    server = Server()
    line = server.connect()
    line.send(_request(RAW, {}).replace(b"\r\n\r\n", b"\r\n"))
    line.vanish()
    shell = server.websocket(RAW)
    protocol = shell.line.protocol
    shell.line.vanish()
    protocol.onClose(False, None, None)
    protocol.onMessage(b"late", False)
    protocol.onPing(b"late")
    protocol.onPong(b"late")
    protocol.ps_refuse_binary()
    assert server.is_empty()


def test_publication_is_one_write_of_the_same_bytes_for_each_client() -> None:
    server = Server()
    sockets = [server.session() for _ in range(3)]
    writes: list[bytes] = []
    for socket in sockets:
        socket.say({"id": 2, "subscribe": {"channel": "numbers"}})
        patched(socket.line, "write", writes.append)
    server.publish()
    assert len(writes) == 3
    assert all(write is writes[0] for write in writes)


@pytest.mark.parametrize("path", ["/connection/websocket", RAW])
def test_client_that_does_not_read_is_dropped_at_its_bound_and_others_are_not(
    path: str,
) -> None:
    server = Server(Limits(queue_bytes=200_000))
    slow, quick = server.websocket(path), server.websocket(path)
    if path != RAW:
        for socket in (slow, quick):
            socket.say({"id": 1, "connect": {}}, {"id": 2, "subscribe": {"channel": "numbers"}})
    slow.line.reading = False
    sent = 0
    while not slow.line.aborted:
        server.publish(data="x" * 10_000)
        sent += 10_000
        assert sent < 1_000_000
    assert sent > 4 * 200_000
    assert slow.line.lost
    assert not quick.line.disconnecting
    assert server.hub.channels() == {"numbers": 1}
    assert len(server.node.peers) == 1
    got = [json.loads(frame.payload) for frame in quick.take()]
    assert len(got) >= sent // 10_000


def test_client_that_reads_late_gets_its_whole_bound_again() -> None:
    server = Server(Limits(queue_bytes=200_000))
    socket = server.websocket(RAW)
    for _ in range(5):
        socket.line.reading = False
        for _ in range(15):
            server.publish(data="x" * 10_000)
        socket.line.read()
        server.clock.advance(0)
    assert not socket.line.aborted


def test_pongs_to_a_client_that_never_reads_count_for_its_bound() -> None:
    server = Server(Limits(queue_bytes=50_000))
    socket = server.session()
    socket.line.reading = False
    for _ in range(3_000):
        if socket.line.lost:
            break
        socket.line.send(masked(b"x" * 125, opcode=9))
    assert socket.line.aborted
    assert socket.line.unread < 300_000
    assert server.is_empty()


def test_client_that_sends_commands_and_never_reads_is_dropped(
    trouble: Trouble,
) -> None:
    server = Server(Limits(queue_bytes=100_000))
    socket = server.session()
    socket.line.reading = False
    command = b"\n".join(b'{"id":%d,"history":{"channel":"a b"}}' % n for n in range(1, 50))
    for _ in range(3_000):
        if socket.line.lost:
            break
        socket.line.send(masked(command))
        server.clock.advance(0.1)
    assert socket.line.lost
    assert socket.line.unread < 100_000
    assert server.hub.metrics.ended["3013"] == 1
    assert "closing handshake timeout" in trouble.take()[0]
    assert server.is_empty()


def test_frames_after_an_abort_are_not_read() -> None:
    server = Server(Limits(queue_bytes=1_000))
    socket = server.session()
    socket.say({"id": 2, "subscribe": {"channel": "numbers"}})
    socket.line.reading = False
    socket.line.unread = 100_000
    with Log(LogLevel.info) as log:
        # One in the transport's buffer, one on its way, and more than four times the bound.
        for _ in range(5):
            assert not socket.line.aborted
            drive(server.node.publish(Draft("numbers", b'"%b"' % (b"x" * 2_100))))
        assert socket.line.aborted
        for _ in range(3):
            socket.line.protocol.dataReceived(masked(b"x", opcode=9))
            socket.line.protocol.dataReceived(masked(b'{"id":3,"ping":{}}'))
        server.clock.advance(0)
    assert len(log.take()) == 1
    assert server.is_empty()


def unread(size: int, path: str = RAW) -> tuple[Server, Socket]:
    """A client that does not read, with `size` bytes waiting behind a full transport."""
    server = Server(Limits(queue_bytes=1_000))
    socket = server.websocket(path)
    if path != RAW:
        socket.say({"id": 1, "connect": {}}, {"id": 2, "subscribe": {"channel": "numbers"}})
    socket.line.reading = False
    socket.line.unread = 100_000
    for length in (10, size):
        drive(server.node.publish(Draft("numbers", b'"%b"' % (b"x" * length))))
    return server, socket


ENDS = pytest.mark.parametrize("by_client", [False, True])
PATHS = pytest.mark.parametrize("path", ["/connection/websocket", RAW])


def end(server: Server, socket: Socket, by_client: bool) -> None:
    if by_client:
        socket.line.send(masked(b"\x03\xe8", opcode=8))
    else:
        peer: Any
        for peer in server.node.peers:
            peer.disconnect(3000, "enough")


@ENDS
@PATHS
def test_close_frame_comes_behind_waiting_bytes_within_the_bound(
    path: str, by_client: bool
) -> None:
    server, socket = unread(500, path)
    end(server, socket, by_client)
    assert not socket.line.aborted
    socket.line.read()
    *texts, last = socket.take()
    assert [b"x" * 10 in text.payload for text in texts] == [True, True]
    assert last.close == ((1000, "") if by_client else (3000, "enough"))


@ENDS
@PATHS
def test_client_with_more_than_the_bound_unread_is_dropped_instead_of_closed(
    path: str, by_client: bool
) -> None:
    server, socket = unread(1_100, path)
    end(server, socket, by_client)
    assert socket.line.aborted
    assert [frame.opcode for frame in socket.take()] == [1]
    assert socket.line.lost
    assert server.hub.metrics.ended == ({} if by_client else {"3000": 1})
    assert server.is_empty()


def test_long_recovery_does_not_make_a_reader_slow() -> None:
    server = Server(Limits(queue_bytes=200_000), ChannelOptions(history_bytes=1_000_000))
    server.publish()
    for _ in range(30):
        server.publish(data="x" * 10_000)
    socket = server.websocket(f"{RAW}?since={server.hub.history.epoch}:1")
    server.clock.advance(0)
    assert not socket.line.aborted
    texts = [json.loads(frame.payload) for frame in socket.seen]
    assert len(texts) == 31 or "reset" in texts[1]


def test_long_recovery_of_several_channels_does_not_make_a_client_slow() -> None:
    server = Server()
    for name in ("a", "b"):
        for _ in range(60):
            server.publish(name, "x" * 10_000)
    socket = server.session()
    position = {"recover": True, "epoch": server.hub.history.epoch}
    commands = [
        {"id": n, "subscribe": {"channel": name, **position}} for n, name in enumerate("ab", 2)
    ]
    replies = socket.say("\n".join(map(json.dumps, commands)).encode())
    server.clock.advance(0)
    replies += socket.take()
    assert not socket.line.aborted
    # A part of the rows is in the reply, and the others are pushes behind it.
    rows: dict[str, list[int]] = {"a": [], "b": []}
    for value in (json.loads(reply.payload) for reply in replies):
        if "subscribe" in value:
            channel = "ab"[value["id"] - 2]
            publications = value["subscribe"]["publications"]
        else:
            channel, publications = value["push"]["channel"], [value["push"]["pub"]]
        rows[channel] += [publication["offset"] for publication in publications]
    assert rows == {"a": [*range(1, 61)], "b": [*range(1, 61)]}


def test_connects_and_disconnects_are_logged_with_debug() -> None:
    for debug in (False, True):
        server = Server(debug=debug)
        with Log() as log:
            server.websocket(RAW).line.vanish()
            server.open(RAW, accept="text/event-stream").vanish()
        messages = [text for text in log.take() if "came by" in text or " left" in text]
        assert len(messages) == (4 if debug else 0)


def test_closed_connections_leave_no_objects() -> None:
    server = Server()
    for _ in range(3):
        for socket in (server.session(), server.websocket(RAW)):
            server.publish()
            socket.line.vanish()
    server.advance(30)
    del socket
    gc.collect()
    assert not left_of(server)


@pytest.mark.parametrize("path", [RAW, "/connection/websocket"])
def test_closed_connection_is_freed_without_a_collection(path: str) -> None:
    server = Server()
    gc.collect()
    gc.disable()
    heads = count(Head)
    try:
        socket = server.websocket(path)
        assert left_of(server)
        assert count(Head) == heads
        socket.line.vanish()
        server.advance(30)
        # As a real transport does at its end.
        del socket.line.protocol
        socket.line.producer = None
        del socket
        assert not left_of(server)
    finally:
        gc.enable()


def count(kind: type) -> int:
    return sum(isinstance(thing, kind) for thing in gc.get_objects())


def left_of(server: Server) -> list[object]:
    """The objects of its connections that still exist."""
    objects: list[object] = []
    node = server.node
    for thing in gc.get_objects():
        if isinstance(thing, WebSocketShell):
            ours = getattr(thing.factory, "reactor", None) is server.clock
        else:
            ours = isinstance(thing, Session | Stream) and getattr(thing, "node", 0) is node
        if ours:
            objects.append(thing)
    return objects


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.binary(max_size=30) | st.binary(max_size=30).map(masked), max_size=6))
def test_no_bytes_of_one_client_disturb_another(trouble: Trouble, chunks: list[bytes]) -> None:
    server = Server()
    quiet = server.websocket("/channels/quiet")
    peer = server.session()
    for n, chunk in enumerate(chunks):
        peer.line.send(chunk)
        server.publish("quiet", n)
    assert [text["data"] for text in quiet.texts()] == list(range(len(chunks)))
    peer.line.vanish()
    server.advance(5)
    assert len(server.node.peers) == 1
    quiet.line.vanish()
    assert server.is_empty()
    trouble.clear()
