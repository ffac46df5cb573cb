"""WebSocket frames: encoding texts for clients, and parsing pongs and short texts of clients."""

from __future__ import annotations

import zlib

WORTH_BYTES = 128
"""Texts below this size are not compressed; it would save little."""

SHORT_BYTES = 4_096
"""The longest payload that `whole_text` parses."""

_TEXT = b"\x81"
_BINARY = b"\x82"
_DEFLATED_TEXT = b"\xc1"
_TAIL = b"\x00\x00\xff\xff"


def websocket_frame(text: bytes) -> bytes:
    """One final, unmasked text frame (RFC 6455, 5.2)."""
    return _frame(_TEXT, text)


def binary_frame(data: bytes) -> bytes:
    """One final, unmasked binary frame, never compressed: much binary data is already."""
    return _frame(_BINARY, data)


def deflated_frame(text: bytes) -> bytes:
    """The same frame, compressed (RFC 7692, 7.2.1) if that makes it shorter.

    It does not depend on earlier frames (`server_no_context_takeover`), so all peers that agreed
    to permessage-deflate get the same frame.
    """
    if len(text) < WORTH_BYTES:
        return websocket_frame(text)
    deflate = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    data = deflate.compress(text) + deflate.flush(zlib.Z_SYNC_FLUSH)
    data = data.removesuffix(_TAIL)
    return _frame(_DEFLATED_TEXT, data) if len(data) < len(text) else websocket_frame(text)


def _frame(kind: bytes, payload: bytes) -> bytes:
    length = len(payload)
    if length < 126:
        return kind + length.to_bytes(1, "big") + payload
    if length < 65536:
        return kind + b"\x7e" + length.to_bytes(2, "big") + payload
    return kind + b"\x7f" + length.to_bytes(8, "big") + payload


def is_pong_frame(data: bytes) -> bool:
    """Whether these bytes are one pong of a client, without payload (RFC 6455, 5.5.3)."""
    return len(data) == 6 and data[:2] == b"\x8a\x80"


def whole_text(data: bytes) -> bytes | None:
    """The payload if these bytes are exactly one frame with a whole short text of a client.

    The frame must be final and masked, its length minimally encoded, its text valid UTF-8
    (RFC 6455, 5.2 and 8.1). None for anything else, valid or not.
    """
    if len(data) < 6 or data[0] != 0x81:
        return None
    length, start = data[1] - 0x80, 2
    if length == 126:
        length, start = int.from_bytes(data[2:4], "big"), 4
        if length < 126:
            return None
    elif not 0 <= length < 126:
        return None
    if length > SHORT_BYTES or len(data) != start + 4 + length:
        return None
    mask = (data[start : start + 4] * (length // 4 + 1))[:length]
    number = int.from_bytes(data[start + 4 :], "little") ^ int.from_bytes(mask, "little")
    text = number.to_bytes(length, "little")
    return text if _is_utf8(text) else None


def _is_utf8(text: bytes) -> bool:
    if text.isascii():
        return True
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True
