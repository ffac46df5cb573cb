from __future__ import annotations

import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pushserver.protocols.engineio import (
    CLOSE,
    MAX_PACKETS,
    MESSAGE,
    PING,
    PONG,
    SEPARATOR,
    Packet,
    PacketError,
    binary_in_payload,
    decode,
    decode_payload,
    encode,
    encode_open,
    in_payload,
)

TEXTS = st.text(st.characters(exclude_characters="\x1e", codec="utf-8"), max_size=20)
PACKETS = st.builds(
    lambda kind, text: Packet(kind, text.encode()), st.integers(0, 6), TEXTS
) | st.builds(lambda data: Packet(MESSAGE, data, True), st.binary(max_size=20))


def part(packet: Packet) -> bytes:
    if packet.is_binary:
        return binary_in_payload(packet.data)
    return in_payload(encode(packet.kind, packet.data))


@given(st.lists(PACKETS, min_size=1, max_size=30))
def test_payload_is_decoded_as_it_was_encoded(packets: list[Packet]) -> None:
    body = b"".join(map(part, packets)).removesuffix(SEPARATOR)
    assert decode_payload(body) == packets


@given(st.binary(max_size=200))
def test_any_payload_is_decoded_or_refused(body: bytes) -> None:
    with suppress(PacketError):
        assert len(decode_payload(body)) == body.count(SEPARATOR) + 1


@pytest.mark.parametrize(
    ("text", "packet"),
    [
        (b"1", Packet(CLOSE, b"")),
        (b"2probe", Packet(PING, b"probe")),
        (b"3", Packet(PONG, b"")),
        ("4\u00fc".encode(), Packet(MESSAGE, "\u00fc".encode())),
    ],
)
def test_text_frame_is_one_packet(text: bytes, packet: Packet) -> None:
    assert decode(text) == packet


@pytest.mark.parametrize("text", [b"", b"7", b"a", b"-1", b" 4", b"\xff", "\u0664".encode()])
def test_text_without_a_type_is_refused(text: bytes) -> None:
    with pytest.raises(PacketError, match="expected a digit from 0 to 6"):
        decode(text)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        SEPARATOR,
        b"4a" + SEPARATOR,
        SEPARATOR + b"4a",
        b"b====",
        b"bAQ",
        b"bAQ==\n",
        b"b AQ==",
        b"bAQ=A",
        b"4\xff",
        b"4a" + SEPARATOR + b"x",
    ],
)
def test_payload_with_a_wrong_packet_is_refused(body: bytes) -> None:
    with pytest.raises(PacketError):
        decode_payload(body)


def test_payload_has_a_bounded_number_of_packets() -> None:
    most = SEPARATOR.join([b"3"] * MAX_PACKETS)
    assert len(decode_payload(most)) == MAX_PACKETS
    with pytest.raises(PacketError, match=f"{MAX_PACKETS + 1} packets in one payload, expected"):
        decode_payload(most + SEPARATOR + b"3")


def test_opening_has_milliseconds_and_names_in_camel_case() -> None:
    text = encode_open("s1", ["websocket"], 25.0, 0.2, 65_536)
    assert text[:1] == b"0"
    assert json.loads(text[1:]) == {
        "sid": "s1",
        "upgrades": ["websocket"],
        "pingInterval": 25_000,
        "pingTimeout": 200,
        "maxPayload": 65_536,
    }
