"""permessage-deflate: all connections share a compressed frame, and incoming ones are bounded."""

from __future__ import annotations

import json
import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pushserver.config import settings
from pushserver.config.limits import Limits
from pushserver.config.settings import Config
from pushserver.protocols.formats import SESSION_WEBSOCKET, STREAM_WEBSOCKET
from pushserver.protocols.websocket_frames import WORTH_BYTES, deflated_frame, websocket_frame
from tests.unit.fakes.web import Server, Socket, Trouble, handshake, masked

OFFER = "permessage-deflate; client_max_window_bits"
TERMS = "permessage-deflate; server_no_context_takeover; client_no_context_takeover"
TAIL = b"\x00\x00\xff\xff"
LIMIT = 4_000


def compressing(**limits: Any) -> Server:
    bounds = Limits(frame_bytes=LIMIT, **limits)
    return Server(config=Config(server=settings.Server(compress=True), limits=bounds))


def inflate(frame: bytes, inflater: Any = None) -> tuple[bool, bytes]:
    """Whether the frame is compressed, and its text."""
    assert frame[0] in (0x81, 0xC1)
    begin = {126: 4, 127: 10}.get(frame[1], 2)
    if frame[0] == 0x81:
        return False, frame[begin:]
    inflater = inflater or zlib.decompressobj(wbits=-15)
    return True, inflater.decompress(frame[begin:] + TAIL)


def deflate(text: bytes) -> bytes:
    deflater = zlib.compressobj(wbits=-15)
    data = deflater.compress(text) + deflater.flush(zlib.Z_SYNC_FLUSH)
    return data.removesuffix(TAIL)


def compressed(text: bytes, first: int = 0xC1) -> bytes:
    """A client's compressed frame."""
    plain = masked(deflate(text))
    return bytes([first]) + plain[1:]


TEXTS = st.binary(max_size=400) | st.builds(
    lambda part, times: part * times, st.binary(max_size=30), st.integers(0, 3_000)
)


@given(TEXTS)
def test_deflated_frame_has_the_text_and_is_not_longer_than_a_plain_one(text: bytes) -> None:
    frame = deflated_frame(text)
    assert inflate(frame)[1] == text
    assert len(frame) <= len(websocket_frame(text))


@given(st.lists(TEXTS, max_size=8))
def test_client_that_keeps_its_window_reads_the_same(texts: list[bytes]) -> None:
    inflater = zlib.decompressobj(wbits=-15)
    assert [inflate(deflated_frame(text), inflater)[1] for text in texts] == texts


def test_short_texts_are_not_compressed() -> None:
    assert deflated_frame(b"x" * (WORTH_BYTES - 1)) == websocket_frame(b"x" * (WORTH_BYTES - 1))
    assert deflated_frame(b"x" * WORTH_BYTES)[0] == 0xC1


@pytest.mark.parametrize(
    ("offer", "answer"),
    [
        (OFFER, TERMS),
        ("permessage-deflate", TERMS),
        ("permessage-deflate; server_no_context_takeover; client_no_context_takeover", TERMS),
        ("permessage-deflate; client_max_window_bits=10", TERMS),
        ("permessage-deflate; server_max_window_bits=15", TERMS),
        ("permessage-deflate; server_max_window_bits=10, permessage-deflate", TERMS),
        ("permessage-deflate; server_max_window_bits=10", None),
        ("x-webkit-deflate-frame", None),
        (None, None),
    ],
)
def test_offer_is_accepted_on_our_terms_unless_it_asks_for_a_smaller_window(
    offer: str | None, answer: str | None
) -> None:
    headers = {} if offer is None else {"sec_websocket_extensions": offer}
    socket = compressing().websocket("/channels/numbers", **headers)
    extensions = socket.handshake.headers.get("sec-websocket-extensions")
    assert extensions == (None if answer is None else [answer])


def test_offer_is_declined_without_the_setting() -> None:
    socket = Server().websocket("/channels/numbers", sec_websocket_extensions=OFFER)
    assert "sec-websocket-extensions" not in socket.handshake


@pytest.mark.parametrize(
    "parameter",
    [
        "server_max_window_bits=99",
        "server_max_window_bits",
        "client_no_context_takeover=1",
        "x=1",
        "client_max_window_bits; client_max_window_bits",
    ],
)
@pytest.mark.parametrize("compress", [True, False])
def test_invalid_offer_is_refused(parameter: str, compress: bool) -> None:
    headers = {"sec_websocket_extensions": f"permessage-deflate; {parameter}"}
    server = compressing() if compress else Server()
    code, message = server.open("/channels/numbers", **handshake(**headers)).response().error
    assert code == 400
    assert message.startswith("Sec-WebSocket-Extensions: 'permessage-deflate; ")
    assert message.endswith(", a parameter of permessage-deflate is not valid")


def subscribers(server: Server) -> tuple[Socket, Socket, Socket]:
    two = [server.session(sec_websocket_extensions=OFFER) for _ in range(2)]
    for socket in (*two, plain := server.session()):
        socket.say({"id": 2, "subscribe": {"channel": "numbers"}})
    return two[0], two[1], plain


def test_compressed_connections_get_the_same_bytes_and_others_plain_ones() -> None:
    server = compressing()
    sockets = subscribers(server)
    server.publish("numbers", {"text": "again and " * 50})
    came = [socket.line.take() for socket in sockets]
    assert came[0] == came[1]
    assert [inflate(data)[0] for data in came] == [True, True, False]
    texts = {inflate(data)[1] for data in came}
    assert len(texts) == 1
    [text] = texts
    assert json.loads(text)["push"]["pub"]["data"] == {"text": "again and " * 50}
    assert len(came[0]) < len(came[2]) / 4


def test_publication_is_compressed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    server = compressing()
    subscribers(server)
    calls: list[Any] = []
    make: Any = zlib.compressobj

    def counted(**options: Any) -> Any:
        calls.append(options)
        return make(**options)

    monkeypatch.setattr(zlib, "compressobj", counted)
    server.publish("numbers", "x" * 300)
    assert len(calls) == 1


def test_history_and_live_publications_of_a_raw_websocket_are_compressed() -> None:
    server = compressing()
    server.publish("numbers", "before " * 40)
    headers = handshake(sec_websocket_extensions=OFFER)
    line = server.open("/channels/numbers?last=1", **headers)
    first = line.take().partition(b"\r\n\r\n")[2]
    server.publish("numbers", "after " * 40)
    live = line.take()
    replayed = first[2 + first[1] :]
    assert json.loads(inflate(first[: 2 + first[1]])[1]).keys() == {"subscribed"}
    for data, text in ((replayed, "before " * 40), (live, "after " * 40)):
        is_compressed, inflated = inflate(data)
        assert is_compressed
        assert json.loads(inflated)["data"] == text


def test_compressed_formats_encode_the_same_texts() -> None:
    for plain in (SESSION_WEBSOCKET, STREAM_WEBSOCKET):
        deflated = plain.coded
        assert deflated is not None
        assert deflated.binary_code == plain.binary_code
        assert type(deflated) is type(plain)


def test_compressed_commands_may_be_fragmented() -> None:
    socket = compressing().session(sec_websocket_extensions=OFFER)
    command = b'{"id":2,"history":{"channel":"numbers"}}' + b" " * 500
    socket.line.send(compressed(command))
    assert socket.texts()[0]["id"] == 2
    data = deflate(command.replace(b"2", b"3", 1))
    for first, part in ((0x41, data[:7]), (0x00, data[7:20]), (0x80, data[20:])):
        socket.line.send(bytes([first]) + masked(part)[1:])
    assert socket.texts()[0]["id"] == 3


def shell(server: Server) -> Any:
    [peer] = server.node.peers
    session: Any = peer
    return session._transport._protocol


def test_connection_keeps_no_decompressor_between_messages() -> None:
    server = compressing()
    socket = server.session(sec_websocket_extensions=OFFER)
    socket.line.send(compressed(b'{"id":2,"ping":{}}'))
    assert socket.texts() == [{"id": 2, "ping": {}}]
    assert shell(server)._perMessageCompress._decompressor is None


@pytest.mark.parametrize("pieces", [1, 3])
def test_compression_bomb_is_refused_while_it_inflates(trouble: Trouble, pieces: int) -> None:
    server = compressing()
    socket = server.session(sec_websocket_extensions=OFFER)
    data = deflate(b"x" * 3_000_000)
    assert len(data) < LIMIT
    size = -(-len(data) // pieces)
    for n in range(pieces):
        first = (0x41 if n == 0 else 0) | (0x80 if n == pieces - 1 else 0)
        socket.line.send(bytes([first]) + masked(data[n * size : (n + 1) * size])[1:])
    code, reason = socket.close()
    assert code == 1009
    assert str(LIMIT) in reason
    assert "1009" in trouble.take()[0]
    server.advance(3)
    trouble.take()
    assert server.is_empty()


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        (b"\xc1" + masked(b"\xff\xff\xff\xff")[1:], 1007),
        (b"\xc9" + masked(b"ping")[1:], 1002),
        (b"\xa1" + masked(b"{}")[1:], 1002),
    ],
    ids=["no deflate", "compressed ping", "another reserved bit"],
)
def test_frame_against_the_terms_ends_the_connection(
    frame: bytes, code: int, trouble: Trouble
) -> None:
    server = compressing()
    socket = server.session(sec_websocket_extensions=OFFER)
    socket.line.send(frame)
    assert socket.close()[0] == code
    server.advance(3)
    trouble.take()


def test_compressed_frame_without_an_agreement_ends_the_connection(trouble: Trouble) -> None:
    server = compressing()
    socket = server.session()
    socket.line.send(compressed(b'{"id":2,"ping":{}}'))
    assert socket.close()[0] == 1002
    server.advance(3)
    trouble.take()
