"""The floods that `attacks` measures: what one peer sends, in bytes."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import cache

KEY = "benchmark"
"""The API key of the server."""


def frame(opcode: int, payload: bytes = b"", final: bool = True) -> bytes:
    """A frame of a client, with a mask of zeros; the payload is short."""
    size = len(payload)
    head = bytes([opcode | (0x80 if final else 0)])
    head += bytes([0x80 | size]) if size < 126 else b"\xfe" + struct.pack("!H", size)
    return head + bytes(4) + payload


def upgrade(path: str) -> bytes:
    """A WebSocket handshake."""
    return (
        f"GET {path} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n"
        "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    ).encode()


def request(line: str, *headers: str, body: bytes = b"") -> bytes:
    """A request; `line` is its method and its path."""
    length = (f"Content-Length: {len(body)}",) if body else ()
    lines = [f"{line} HTTP/1.1", "Host: localhost", *headers, *length, "", ""]
    return "\r\n".join(lines).encode() + body


RAW = upgrade("/events?channel=a")
CENTRIFUGE = upgrade("/connection/websocket")
CONNECT = frame(1, b'{"id":1,"connect":{}}')
TINY = b'{"id":2,"ping":{}}'
HISTORY = b'{"id":2,"history":{"channel":"big","limit":-1}}'
LONG_BODY = b"[%b]" % b",".join([b'"xxxxxxx"'] * 100_000)
MEMORY_MIB = 64.0
HISTORY_BYTES = 67_108_864
"""The server's `history_total_bytes`."""
LINES = request(
    "POST /channels/a",
    f"X-API-Key: {KEY}",
    "Content-Type: application/x-ndjson",
    body=b"1\n" * 500_000,
)
CHUNKS = (
    request("POST /channels/a", f"X-API-Key: {KEY}", "Transfer-Encoding: chunked")
    + b"1\r\n1\r\n" * 300
    + b"0\r\n\r\n"
)
HALF_CHUNKS = (
    request("POST /channels/a", f"X-API-Key: {KEY}", "Transfer-Encoding: chunked")
    + b"1\r\n1\r\n" * 30_000
)
POST = request("POST /channels/a", f"X-API-Key: {KEY}", body=b"1")
OUTSIDE = "127.0.0.2"
STREAM = request("GET /channels/a", "Accept: text/event-stream")
LONG_POLL = request("GET /channels/a?wait=60&since=now")


@dataclass(frozen=True, slots=True)
class Attack:
    """What one peer does: it sends `hello`, waits for the answer to a handshake, then sends
    `first` once and `flood` without pause; `once`: it sends all of it once and closes.

    `channels`: the flood is a publication of 60 KB to each of so many channels. `memory`: the goal
    in MiB."""

    name: str
    hello: bytes = b""
    first: bytes = b""
    flood: bytes = b""
    reads: bool = True
    once: bool = False
    channels: int = 0
    memory: float = MEMORY_MIB
    source: str = ""
    """The address of the peers; the server does not exempt it. Else that of all local programs,
    which are exempt."""

    @property
    def bytes(self) -> bytes:
        """The flood."""
        return publications(self.channels) if self.channels else self.flood

    @property
    def waits(self) -> bool:
        """Whether a peer waits for the answer to its handshake."""
        return b"Upgrade: websocket" in self.hello and bool(self.first or self.bytes)


@cache
def publications(channels: int) -> bytes:
    """Commands of a Centrifuge client that publish 60 KB to each of so many channels."""
    text = b'{"id":2,"publish":{"channel":"open-%d","data":"%b"}}'
    return b"".join(frame(1, text % (n, b"x" * 60_000)) for n in range(channels))


ATTACKS = (
    Attack("nobody (for comparison)"),
    Attack("empty pings", RAW, flood=frame(9)),
    Attack("empty pings, nothing read", RAW, flood=frame(9), reads=False),
    Attack("pings of 125 bytes", RAW, flood=frame(9, b"x" * 125)),
    Attack("pongs", RAW, flood=frame(10)),
    Attack("empty continuations", RAW, frame(1, final=False), frame(0, final=False)),
    Attack("continuations of a byte", RAW, frame(1, final=False), frame(0, b"x", final=False)),
    Attack("texts of a byte on a stream", RAW, flood=frame(1, b"x")),
    Attack("unsolicited pongs of Centrifuge", CENTRIFUGE, CONNECT, frame(1, b"{}")),
    Attack("tiny commands", CENTRIFUGE, CONNECT, frame(1, TINY)),
    Attack("200 commands in a frame", CENTRIFUGE, CONNECT, frame(1, b"\n".join([TINY] * 200))),
    Attack("3,000 commands in a frame", CENTRIFUGE, CONNECT, frame(1, b"\n".join([TINY] * 3_000))),
    Attack("pings of Centrifuge peers", CENTRIFUGE, CONNECT, frame(9)),
    Attack("GET /nowhere", flood=request("GET /nowhere")),
    Attack("HEAD", flood=request("HEAD /channels/a")),
    Attack("OPTIONS", flood=request("OPTIONS /channels/a")),
    Attack("GET of a history", flood=request("GET /channels/a")),
    Attack("GET of 1 MB", flood=request("GET /channels/big")),
    Attack("history of 1 MB", CENTRIFUGE, CONNECT, frame(1, HISTORY)),
    Attack("POST of 1 MB", flood=request("POST /channels/a", f"X-API-Key: {KEY}", body=LONG_BODY)),
    Attack("POST of 500,000 lines", flood=LINES),
    Attack("POST in chunks of a byte", flood=CHUNKS),
    Attack(
        "60 KB to each of 700 channels",
        CENTRIFUGE,
        CONNECT,
        channels=700,
        memory=1.25 * HISTORY_BYTES / 1_048_576,
    ),
    Attack("GET of the page", flood=request("GET /", "Accept: text/html")),
    Attack("methods in lower case", flood=request("get /channels/a")),
    Attack("wrong keys", flood=request("POST /channels/a", "X-API-Key: x", body=b"1")),
    Attack("foreign origins", flood=request("GET /channels/a", "Origin: https://a.example")),
    Attack("GET of 1 MB, nothing read", flood=request("GET /channels/big"), reads=False),
    Attack("page of 30 MB, nothing read", flood=request("GET /big.bin"), reads=False),
    Attack("half handshakes", RAW[:-2], once=True),
    Attack("one bad frame", RAW, b"\xff\xff\xff\xff", once=True),
    Attack("connect and close", once=True),
    Attack("stream, 40 KB, hang up", STREAM + b"x" * 40_000, once=True),
    Attack("long-poll, 40 KB, hang up", LONG_POLL + b"x" * 40_000, once=True),
    Attack("long-poll, 40 KB, kept", LONG_POLL + b"x" * 40_000, flood=b"x"),
    Attack("chunks, 180 KB, hang up", HALF_CHUNKS, once=True, source=OUTSIDE),
    Attack("connect and close, not exempt", once=True, source=OUTSIDE),
    Attack("POST of a byte, not exempt", flood=POST, source=OUTSIDE),
    Attack("handshakes, not exempt", RAW, b"\x88\x80    ", once=True, source=OUTSIDE),
)
