"""Engine.IO v4, the transport of Socket.IO: decodes and encodes packets and payloads.

A packet is a digit and a text. A WebSocket has one in each text frame, and a binary message without
a digit in each binary frame. Polling joins packets with U+001E, a binary message as `b` and base64.
"""

from __future__ import annotations

from binascii import Error, a2b_base64, b2a_base64
from collections.abc import Sequence
from typing import NamedTuple

import msgspec
from msgspec import Struct

from pushserver.channels import jsontext
from pushserver.errors import InvalidData, PushServerError

VERSION = b"4"
SEPARATOR = b"\x1e"
MAX_PACKETS = 4_096
"""The most packets of one payload."""

OPEN, CLOSE, PING, PONG, MESSAGE, UPGRADE, NOOP = range(7)
PROBE = b"probe"
"""The text of the ping and the pong that try a WebSocket before an upgrade."""


class PacketError(PushServerError):
    """A packet breaks the protocol; it ends the connection."""


class Packet(NamedTuple):
    """`data` is the text of the packet or, of a binary message, its bytes."""

    kind: int
    data: bytes
    is_binary: bool = False


class _Open(Struct, rename="camel"):
    """The first packet of the server; times in milliseconds, `max_payload` in bytes."""

    sid: str
    upgrades: Sequence[str]
    ping_interval: int
    ping_timeout: int
    max_payload: int


def decode(text: bytes) -> Packet:
    """The packet of a text frame; raises PacketError."""
    kind = text[:1]
    if len(kind) != 1 or kind not in b"0123456":
        raise PacketError(f"a packet begins with {_shown(text)}, expected a digit from 0 to 6")
    return Packet(int(kind), text[1:])


def decode_payload(body: bytes) -> list[Packet]:
    """The packets of a request's body; raises PacketError."""
    count = body.count(SEPARATOR) + 1
    if count > MAX_PACKETS:
        raise PacketError(f"{count} packets in one payload, expected {MAX_PACKETS} at most")
    try:
        jsontext.utf8(body)
    except InvalidData as error:
        raise PacketError(f"the payload has {error}") from None
    return [decode_part(packet) for packet in body.split(SEPARATOR)]


def decode_part(packet: bytes) -> Packet:
    """One packet of a payload; raises PacketError."""
    if packet[:1] != b"b":
        return decode(packet)
    try:
        return Packet(MESSAGE, a2b_base64(packet[1:], strict_mode=True), True)
    except Error as error:
        raise PacketError(f"a binary packet is not base64: {error}") from None


def encode(kind: int, text: bytes = b"") -> bytes:
    """A packet of a text."""
    return b"%d%b" % (kind, text)


def in_payload(packet: bytes) -> bytes:
    """A packet of a text as a part of a payload, whose last separator is cut off in the end."""
    return packet + SEPARATOR


def binary_in_payload(data: bytes) -> bytes:
    """A binary message as a part of a payload."""
    return b"b" + b2a_base64(data, newline=False) + SEPARATOR


def encode_open(
    sid: str, upgrades: Sequence[str], interval: float, timeout: float, max_payload: int
) -> bytes:
    """The packet that opens a connection; `interval` and `timeout` of pings in seconds."""
    milliseconds = round(interval * 1000), round(timeout * 1000)
    return encode(OPEN, msgspec.json.encode(_Open(sid, upgrades, *milliseconds, max_payload)))


def _shown(text: bytes) -> str:
    return repr(text[:20].decode("utf-8", "replace"))
