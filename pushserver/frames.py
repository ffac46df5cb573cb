"""WebSocket frames: of text, as a server sends them to all alike; and two that clients send."""

from __future__ import annotations

import zlib

WORTH_BYTES = 128
"""A shorter text does not get shorter by much, and is sent as it is."""

_TEXT = b"\x81"
_DEFLATED_TEXT = b"\xc1"
_TAIL = b"\x00\x00\xff\xff"


def websocket_frame(text: bytes) -> bytes:
    """One final, unmasked text frame (RFC 6455, 5.2)."""
    return _frame(_TEXT, text)


def deflated_frame(text: bytes) -> bytes:
    """The same compressed (RFC 7692, 7.2.1), if that makes it shorter.

    It refers to nothing that was sent before (`server_no_context_takeover`), so one frame serves
    all who agreed to permessage-deflate on those terms.
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
    """Whether these bytes are one pong of a client's without a payload (RFC 6455, 5.5.3)."""
    return len(data) == 6 and data[:2] == b"\x8a\x80"


def is_empty_object(data: bytes) -> bool:
    """Whether these bytes are one text of a client's that is `{}`: the Centrifuge pong."""
    return (
        len(data) == 8
        and data[:2] == b"\x81\x82"
        and data[2] ^ data[6] == 0x7B
        and data[3] ^ data[7] == 0x7D
    )
