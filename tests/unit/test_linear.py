"""Each parser of untrusted input takes time in proportion to the input.

A row has a parser and a hostile input for it. The parser reads the input at two sizes, the larger
one FACTOR times the smaller one and near the largest that the limits allow. A linear parser takes
16 times as long (up to 30, as caches get too small), a quadratic one 256 times. No row has a limit
in seconds, so the speed of the machine does not matter.
"""

from __future__ import annotations

import gc
import json
import re
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest

from pushserver.auth import origin
from pushserver.auth.jwks import MAX_JWKS_BYTES, read_jwks
from pushserver.auth.origin import allowed_origin, loopback_host
from pushserver.auth.proxy_header import MAX_BLOCK, SIGNATURE, read_proxy_header
from pushserver.auth.token_keys import ALGORITHMS, secret_key
from pushserver.auth.tokens import TokenRules, Verifier
from pushserver.channels import jsontext
from pushserver.channels.channel import ChannelOptions
from pushserver.channels.idempotency import KeyEntry, Keys, check_key
from pushserver.channels.names import check_event, check_name
from pushserver.channels.position import parse_since
from pushserver.config.limits import Limits
from pushserver.config.settings import Auth, Config
from pushserver.config.settings import Server as ServerConfig
from pushserver.errors import InvalidCursor, InvalidData, InvalidKey, InvalidName, InvalidToken
from pushserver.protocols import centrifuge, engineio, socketio
from pushserver.protocols.websocket_frames import whole_text
from pushserver.redis.rows import NotOurs, entry_of
from pushserver.resources.template_sizes import OF_METHODS, of_conversions
from pushserver.sources.types.sse.parser import Parser
from pushserver.sources.types.webhook.signatures import NotSigned, Stamped
from pushserver.web.accept import coding, preferred
from pushserver.web.first_bytes import read_head
from pushserver.web.short_post import read_post
from tests.unit.fakes.tokens import NOW, SECRET, base64, token
from tests.unit.fakes.tools import Client, make_node
from tests.unit.fakes.web import Server, Trouble, handshake, masked, request
from tests.unit.sources.types.webhook.test_webhook import unsigned

FACTOR = 16
MAX_RATIO = 48
ROUNDS = 6
MIN_NANOSECONDS = 100_000
"""A shorter reading is repeated and averaged."""
LONG_NANOSECONDS = 2_000_000
"""Where the short input takes longer, a parser in proportion to the square may take minutes for
the long one."""
SLOW_NANOSECONDS = 500_000_000

BODY = Limits().body_bytes
FRAME = Limits().frame_bytes
HEAD = 15_000
"""Bytes of a request's head, of which twisted.web takes 16,384."""
READ = 65_536
"""Bytes that Twisted reads from a socket at once."""


@dataclass(frozen=True)
class Row:
    """`make` returns an input of about the given size; `size` is the larger size."""

    name: str
    size: int
    make: Callable[[int], Any]
    read: Callable[[Any], object]

    def __str__(self) -> str:
        return self.name


def nanoseconds(row: Row, data: Any) -> float:
    """The CPU time of this thread for one reading."""
    count = 1
    while True:
        start = time.thread_time_ns()
        for _ in range(count):
            row.read(data)
        spent = time.thread_time_ns() - start
        if spent >= MIN_NANOSECONDS:
            return spent / count
        count *= 4


def ratio(row: Row) -> float:
    """The time for the long input over that for the short one, each the fastest of its rounds.

    There is a second round only where the first looks too slow, so that a disturbed measurement
    fails no test and the others take no longer.
    """
    short, long = row.make(row.size // FACTOR), row.make(row.size)
    # Not gc.collect(): it looks at all objects of the test run, 0.1 s for each row.
    gc.disable()
    try:
        fastest_short = nanoseconds(row, short)
        if fastest_short > LONG_NANOSECONDS:
            quarter = nanoseconds(row, row.make(row.size // 4))
            estimate = (quarter / nanoseconds(row, short)) ** 2
            if quarter > SLOW_NANOSECONDS and estimate > 2 * MAX_RATIO:
                return estimate
        fastest_long = nanoseconds(row, long)
        for _ in range(ROUNDS - 1):
            measured = fastest_long / fastest_short
            if measured < MAX_RATIO or (
                measured > 2 * MAX_RATIO and fastest_long > SLOW_NANOSECONDS
            ):
                break
            fastest_short = min(fastest_short, nanoseconds(row, short))
            fastest_long = min(fastest_long, nanoseconds(row, long))
    finally:
        gc.enable()
    return fastest_long / fastest_short


def refusing(read: Callable[[Any], object], *errors: type[Exception]) -> Callable[[Any], object]:
    """Make the errors of a parser results."""

    def read_or_refuse(data: Any) -> object:
        try:
            return read(data)
        except errors as error:
            return error

    return read_or_refuse


def repeated(piece: str | bytes, before: str | bytes = "", after: str | bytes = "") -> Any:
    """Fill the size with repetitions of a piece."""
    first, middle, last = (
        part.encode() if isinstance(part, str) else part for part in (before, piece, after)
    )

    def make(size: int) -> bytes:
        return first + middle * max(1, (size - len(first) - len(last)) // len(middle)) + last

    return make


def keys(value: str = "0", last: str = "k1") -> Callable[[int], bytes]:
    """An object with many keys, the last of them twice."""

    def make(size: int) -> bytes:
        count = size // (len(value) + 11)
        pairs = ",".join(f'"k{n}":{value}' for n in range(count))
        return f'{{{pairs},"{last}":{value}}}'.encode()

    return make


def text(make: Callable[[int], bytes]) -> Callable[[int], str]:
    return lambda size: make(size).decode()


def padded(make: Callable[[int], bytes], before: bytes, after: bytes) -> Callable[[int], bytes]:
    return lambda size: before + make(size) + after


DATA: dict[str, Callable[[int], bytes]] = {
    "a key twice": keys(),
    "the last key twice": lambda size: keys(last=f"k{size // 12 - 1}")(size),
    "one key repeated": repeated('"a":0,', "{", '"a":0}'),
    "objects with a key twice": repeated('{"a":0,"b":0},', "[", '{"a":0,"a":0}]'),
    "numbers almost too long": repeated("9" * 308 + ",", "[", "0]"),
    "numbers just too long": repeated("0." + "9" * 309 + ",", "[", "0]"),
    "large numbers": repeated("1" + "0" * 308 + ",", "[", "0]"),
    "4,000 digits": repeated("9" * 4_000 + ",", "[", "0]"),
    "one number": repeated("9"),
    "one fraction": repeated("9", "0."),
    "one fraction near a half": repeated("0", "9007199254740993.", "1"),
    "the largest floats": repeated("1e308,", "[", "0]"),
    "the smallest floats": repeated("5e-324,", "[", "0]"),
    "floats out of range": repeated("1e-999999999,", "[", "0]"),
    "floats with digits": repeated("8.98846567431158e307,", "[", "0]"),
    "an exponent": repeated("9", "1e"),
    "escapes": repeated("\\u0041", '"', '"'),
    "pairs of escapes": repeated("\\ud83d\\ude00", '"', '"'),
    "halves of pairs": repeated("\\ud83d", '"', '"'),
    "backslashes": repeated("\\\\", '"', '"'),
    "quotes": repeated('\\"', '"', '"'),
    "long string": repeated("a", '"', '"'),
    "wide characters": repeated("\U0001f600", '"', '"'),
    "an open string": repeated("a", '"'),
    "open escapes": repeated("\\n", '"'),
    "empty strings": repeated('"",', "[", '""]'),
    "open lists": repeated("["),
    "open objects": repeated('{"a":'),
    "deep": repeated("[" * 99 + "]" * 99 + ",", "[", "0]"),
    "too deep": repeated("[" * 150 + "]" * 150 + ",", "[", "0]"),
    "spaces": repeated(" ", "1"),
    "lines without JSON": repeated("\n", "", "x"),
    "an error at the end": repeated("0,\n", "[", "]"),
    "invalid UTF-8 at the end": repeated("a", '"', b"\xff"),
    "constants that JSON lacks": repeated("NaN,", "[", "0]"),
}


def data_rows() -> Iterator[Row]:
    for name, make in DATA.items():
        compact = refusing(jsontext.compact, InvalidData)
        decode = refusing(jsontext.decode, InvalidData)
        yield Row(f"data: {name}", BODY, make, compact)
        yield Row(f"data, decoded: {name}", BODY, make, decode)


@cache
def client(publish: bool = False) -> Client:
    return Client(make_node(ChannelOptions(client_publish=publish)))


def said(publish: bool = False) -> Callable[[bytes], object]:
    """Send it from a connected client; if that closes the connection, the next one is new."""

    def say(data: bytes) -> object:
        answer = client(publish).say(data)
        if client(publish).closed is not None:
            client.cache_clear()
        return answer

    return say


def said_first(data: bytes) -> object:
    """Send it as the first message of a connection."""
    return Client(make_node(), connect=False).say(data)


def command_rows() -> Iterator[Row]:
    say = said()
    yield Row("commands", FRAME, repeated('{"id":1,"ping":{}}\n'), say)
    yield Row("commands, each answered", FRAME // 4, repeated('{"id":1,"ping":{}}\n'), say)
    yield Row("pongs", FRAME, repeated("{}\n"), say)
    yield Row("newlines", FRAME, repeated("\n"), say)
    yield Row("blank lines", FRAME, repeated(" \n"), say)
    yield Row("an invalid command at the end", FRAME, repeated("{}\n", "", "x"), say)
    yield Row("an id twice", FRAME, repeated('"id":1,', "{", '"ping":{}}'), say)
    yield Row("a method twice", FRAME, repeated('"ping":{},', "{", '"id":1}'), say)
    yield Row("unknown fields", FRAME, keys(), say)
    yield Row("an unknown field, deep", FRAME, repeated("[", '{"a":'), say)
    for name, make in DATA.items():
        for method, more in {
            "publish": '"channel":"a",',
            "rpc": '"method":"a",',
            "send": "",
            "subscribe": '"channel":"a",',
        }.items():
            line = padded(make, f'{{"id":1,"{method}":{{{more}"data":'.encode(), b"}}")
            yield Row(f"{method}: {name}", FRAME, line, say)
        line = padded(make, b'{"id":1,"publish":{"channel":"a","data":', b"}}")
        yield Row(f"allowed publish: {name}", FRAME, line, said(publish=True))
    for name in ("headers", "subs"):
        value = '"v"' if name == "headers" else '{"recover":true,"offset":1}'
        line = padded(keys(value), f'{{"id":1,"connect":{{"{name}":'.encode(), b"}}")
        yield Row(f"connect: {name}", FRAME, line, said_first)
    line = padded(keys('{"offset":1e308}'), b'{"id":1,"connect":{"subs":', b"}}")
    yield Row("connect: subs with floats", FRAME, line, said_first)
    since = padded(repeated("9"), b'{"id":1,"history":{"channel":"a","limit":', b"}}")
    yield Row("history: a long limit", FRAME, since, say)
    line = padded(repeated("a"), b'{"id":1,"subscribe":{"channel":"', b'"}}')
    yield Row("subscribe: a long name", FRAME, line, say)
    yield Row("a frame", 4_000, lambda size: masked(b"a" * size), whole_text)
    yield Row("a wide frame", 4_000, lambda size: masked(b"\xc3\xbc" * (size // 2)), whole_text)
    yield Row("a frame of commands", FRAME, repeated(b"{}"), lambda d: list(_commands(d)))


def _commands(data: bytes) -> Iterator[object]:
    try:
        yield from centrifuge.commands(data)
    except centrifuge.FrameError as error:
        yield error


def socketio_rows() -> Iterator[Row]:
    payload = refusing(engineio.decode_payload, engineio.PacketError)
    for piece in (b"3\x1e", b"\x1e", b"b\x1e", b"bAQ==\x1e", b"b", b"4a\x1e", b"\xc3\xbc", b"4"):
        for after in (b"3", b"x", b"\xff"):
            name = f"payload of {piece!r}, then {after!r}"
            yield Row(name, FRAME, repeated(piece, b"", after), payload)
    yield Row("payload, long base64", FRAME, repeated(b"AAAA", b"b"), payload)
    yield Row("payload, base64 with an end", FRAME, repeated(b"=", b"bAQ"), payload)

    def read(data: bytes) -> object:
        packet = socketio.decode(data)
        return socketio.event(packet, [b"x"] * packet.attachments)

    packet = refusing(read, engineio.PacketError)
    for piece in (b"9", b"/", b",", b"-", b"?", b"0", b"/a,"):
        for before in (b"", b"2", b"2/", b"5", b"51-", b"51-/a,", b"2/a,1"):
            yield Row(f"packet {before!r} {piece!r}", FRAME, repeated(piece, before), packet)
    for name, make in DATA.items():
        yield Row(f"event: {name}", FRAME, padded(make, b'2["a",', b"]"), packet)
        yield Row(f"binary event: {name}", FRAME, padded(make, b'51-["a",', b"]"), packet)
    for number in (0, 1):
        mark = f'{{"_placeholder":true,"num":{number}}},'
        for start in ('51-["a",', '564-["a",'):
            name = f"placeholders {number} of {start}"
            yield Row(name, FRAME, repeated(mark, start, "0]"), packet)


def value_rows() -> Iterator[Row]:
    for name, read, error in (
        ("channel", check_name, InvalidName),
        ("event", check_event, InvalidName),
        ("cursor", parse_since, InvalidCursor),
        ("key", check_key, InvalidKey),
    ):
        for piece in ("a", "\u00fc", "a:", "1", ".", "\0"):
            made = text(repeated(piece, "", "!"))
            yield Row(f"{name} of {piece!a}", BODY, made, refusing(read, error))
    yield Row("cursor with a long number", HEAD, text(repeated("1", "a:")), _cursor)
    for piece in "%({:0*.":
        for kind, size in (("conversion", of_conversions), ("field", OF_METHODS["format"])):
            yield Row(f"{kind} in a template {piece!r}", BODY, text(repeated(piece)), size)
    for before, piece in (("%", "0"), ("%(", "a"), ("{:", ":"), ("{:", "0")):
        for kind, size in (("conversion", of_conversions), ("field", OF_METHODS["format"])):
            made = text(repeated(piece, before))
            yield Row(f"{kind} in a template {before!r} {piece!r}", BODY, made, size)
    offers = ("application/json", "text/event-stream", "text/html")

    def accept(header: str) -> object:
        return preferred(header, offers)

    for piece in ("text/html,", ",", ";", "*/*;q=0,", "a/b;q=1;q=1,", "text/*;q=0.5, ", '"', "a="):
        yield Row(f"accept {piece}", HEAD, text(repeated(piece)), accept)
    for before in ("*/*;q=0.", "*/*;q=", "*/*;q=0.5e-", "*/*;q=9007199254740993."):
        for digit in ("0", "9", "1_"):
            yield Row(f"accept {before}{digit}", HEAD, text(repeated(digit, before, "1")), accept)
    many = lambda size: ",".join(f"a/b{n}" for n in range(size // 8))  # noqa: E731

    def accept_encoding(header: str) -> object:
        return coding(header, ("br", "gzip"))

    for piece in ("br;q=0, ", "gzip,", ",", ";", "*;q=0.", "br;q=1;q=1,"):
        yield Row(f"accept-encoding {piece}", HEAD, text(repeated(piece)), accept_encoding)
    yield Row("accept-encoding of many", HEAD, many, accept_encoding)
    yield Row("accept of many", HEAD, many, accept)
    for piece in ("a", "a.", "-", "1", "[", ":", "a:1", "."):
        for after in ("", "!", ":99999", "-"):
            host = text(repeated(piece, "", after))
            # Without the cache.
            yield Row(f"host {piece}{after}", HEAD, host, origin._valid_host.__wrapped__)
            yield Row(f"local host {piece}{after}", HEAD, host, loopback_host)
            yield Row(f"origin {piece}{after}", HEAD, host, _origin)


def token_rows() -> Iterator[Row]:
    """Parts of a token that nobody has signed, and claims of one with a signature."""
    size = Limits().token_bytes
    longer = TokenRules(frozenset(ALGORITHMS), max_bytes=BODY, max_channels=BODY)
    verifier = Verifier(longer, [secret_key(SECRET)])

    def verify(text: str) -> object:
        return refusing(lambda data: verifier.connection(data, NOW), InvalidToken)(text)

    for piece in ("a", ".", "a.", "_", "=", "a\n", "\u00fc"):
        yield Row(f"token of {piece!a}", BODY, text(repeated(piece)), verify)
        yield Row(f"token of {piece!a}, in parts", BODY, text(repeated(piece, "a.b.")), verify)
    for name, make in DATA.items():
        heads = lambda size, make=make: base64(make(size * 3 // 4)) + ".e30.e30"  # noqa: E731
        yield Row(f"head of a token: {name}", size, heads, verify)
        claims = padded(make, b'{"exp":2e9,"info":', b"}")
        signed = lambda size, make=claims: token(make(size * 3 // 4))  # noqa: E731
        yield Row(f"claims: {name}", size, signed, verify)
    channels = padded(repeated('"a*b*",', "[", '"c"]'), b'{"exp":2e9,"channels":', b"}")
    yield Row("channels of a token", size, lambda size: token(channels(size * 3 // 4)), verify)
    subs = padded(keys("{}", "last"), b'{"exp":2e9,"subs":', b"}")
    yield Row("subs of a token", size, lambda size: token(subs(size * 3 // 4)), verify)
    algorithms = frozenset(ALGORITHMS)
    for name, make in DATA.items():
        set_ = padded(make, b'{"keys":[', b"]}")
        yield Row(
            f"JWKS: {name}",
            MAX_JWKS_BYTES,
            set_,
            refusing(lambda data: read_jwks(data, algorithms), ValueError),
        )


def _cursor(value: str) -> object:
    return refusing(parse_since, InvalidCursor)(value)


def _origin(value: str) -> object:
    return allowed_origin(value, value, False, None, frozenset({"https://a"}))


def head(size: int, line: Callable[[int], str], after: str = "") -> bytes:
    """A handshake of `size` bytes, filled with numbered lines."""
    lines, number = "", 0
    while len(lines) + 250 < size:
        lines += line(number)
        number += 1
    first = request("/channels/a", **handshake()).decode().removesuffix("\r\n")
    return (first + lines + after + "\r\n").encode()


def headed(line: Callable[[int], str], after: str = "") -> Callable[[int], bytes]:
    return lambda size: head(size, line, after)


def asked_for(path: Callable[[int], str], **headers: str) -> Callable[[int], bytes]:
    return lambda size: request(path(size), **headers)


def head_rows() -> Iterator[Row]:
    def read(data: bytes) -> object:
        return read_head(data, None)

    for name, line in {
        "many": lambda n: f"x{n}: a\r\n",
        "the same": lambda n: "a:\r\n",
        "empty": lambda n: f"x{n}:\r\n",
        "blank": lambda n: f"x{n}:{' ' * 500}\r\n",
        "long names": lambda n: f"{'x' * 500}{n}: a\r\n",
    }.items():
        yield Row(f"head: {name}", HEAD, headed(line), read)
        for after in ("\0", "x", "a\r\n", ":\r\n"):
            yield Row(f"head: {name}, then {after!r}", HEAD, headed(line, after), read)

    def read_short(data: bytes) -> object:
        return read_post(data.replace(b"GET", b"POST", 1))

    for after in ("", "\0", "a\r\n"):
        yield Row(
            f"post: the same, then {after!r}", HEAD, headed(lambda n: "a:\r\n", after), read_short
        )
        made = headed(lambda n: f"x:{' ' * 500}\r\n", after)
        yield Row(f"post: blank, then {after!r}", HEAD, made, read_short)
    for piece in ("a", "/", "%41", "a=b&", "&", "a&", "=", "+", "?", "%"):
        for kind, before in (("query", "/channels/a?"), ("path", "/")):
            made = asked_for(text(repeated(piece, before)), **handshake())
            yield Row(f"head: {kind} {piece}", HEAD, made, read)


@cache
def server() -> Server:
    return Server(config=Config(auth=Auth(api_keys=["secret"])))


def get(path: str, method: str = "GET", **headers: str) -> Callable[[bytes], object]:
    """Send it as the body of a request, on a new connection."""

    def ask(body: bytes) -> object:
        # With a key, because refusals are logged and the log is not to be measured.
        return server().get(path, method, body, x_api_key="secret", **headers)

    return ask


def with_header(name: str, path: str = "/channels/a", method: str = "GET", **more: str) -> Any:
    def ask(value: str) -> object:
        line = server().connect()
        line.send(request(path, method, b"", **{**more, name: value}))
        answer = line.take()
        line.vanish()
        return answer

    return ask


def on_the_wire(make: Callable[[int], bytes], name: str, most: int, piece: int = READ) -> Row:
    """Send it on a new connection, in pieces of `piece` bytes."""

    def send(data: bytes) -> object:
        line = server().connect()
        for begin in range(0, len(data), piece):
            if not line.disconnecting:
                line.protocol.dataReceived(data[begin : begin + piece])
        answer = line.take()
        line.vanish()
        return answer

    return Row(name, most, make, send)


HEADERS = {
    "accept": ("text/html,", "*/*;q=0.", ";"),
    "authorization": ("a", "Bearer ", " "),
    "connection": ("close ", "upgrade,", ","),
    "content_type": ("a", ";", "multipart/"),
    "cookie": ("a=b;", ";", "a", "=", 'a="b'),
    "host": ("a", "a.", ":", "1"),
    "idempotency_key": ("a", "\u00fc"),
    "if_modified_since": ("a", "Mon, ", "1", ";"),
    "if_none_match": ('"a",', "W/", ",", "*"),
    "last_event_id": ("a", "a:1", "1"),
    "origin": ("a", "http://a", ":"),
    "range": ("0-0,", "bytes=", "0", "-", "bytes=0-0,", ","),
    "sec_websocket_extensions": ("permessage-deflate,", "permessage-deflate; a;", ";", ",", "="),
    "sec_websocket_protocol": ("a,", ",", "centrifuge-json,", "a"),
    "upgrade": ("websocket,", ",", "a"),
    "x_api_key": ("a", "\u00fc"),
    "x_forwarded_for": ("1.1.1.1,", "a"),
}


def fields(line: Callable[[int], str]) -> Callable[[int], bytes]:
    def make(size: int) -> bytes:
        lines = "".join(line(n) for n in range(min(490, size // 10)))
        return request("/channels/a").removesuffix(b"\r\n") + lines.encode() + b"\r\n"

    return make


def http_rows() -> Iterator[Row]:
    for name, pieces in HEADERS.items():
        for piece in pieces:
            value = text(repeated(piece))
            conditional = name in ("if_modified_since", "if_none_match", "range")
            for path in ("/static/app.css",) if conditional else ("/channels/a",):
                yield Row(f"{name}: {piece} of {path}", HEAD, value, with_header(name, path))
            many = handshake()
            asked = with_header(name, "/connection/websocket", **many)
            yield Row(f"handshake, {name}: {piece}", HEAD, value, asked)
    names = lambda size: ",".join(f"p{n}" for n in range(size // 7))  # noqa: E731
    asked = with_header("sec_websocket_protocol", "/connection/websocket", **handshake())
    yield Row("handshake with many protocols", HEAD, names, asked)
    for name, path in {
        "channels": "/events?",
        "since": "/channels/a?since=",
        "commands": "/connection/sse?cf_connect=",
        "parts": "/",
        "files": "/static/",
        "api": "/api/",
        "hooks": "/hooks/",
    }.items():
        for piece in ("a", "/", "%41", "channel=a&", "&", "=", "%", "last=1&", "%0a", "..", "//a"):
            made = asked_for(text(repeated(piece, path)))
            yield on_the_wire(made, f"URL of {name}: {piece}", HEAD)
    different = lambda size: request(  # noqa: E731
        "/events?" + "&".join(f"channel=c{n}" for n in range(size // 14))
    )
    yield on_the_wire(different, "URL of many channels", HEAD)
    for name, line in {
        "fields": lambda n: f"x{n}: a\r\n",
        "fields of one name": lambda n: "accept: a\r\n",
        "cookies": lambda n: "cookie: a=b\r\n",
        "folds": lambda n: "\ta\r\n" if n else "x: a\r\n",
    }.items():
        made = fields(line)
        yield on_the_wire(made, f"head with {name}", 5_000)
        yield on_the_wire(made, f"head with {name} that drips", 5_000, 1)
    long = lambda size: request("/channels/" + "a" * size)  # noqa: E731
    yield on_the_wire(long, "a long line that drips", HEAD, 1)
    yield on_the_wire(lambda size: b"G" * size, "a line without an end", HEAD, 1)
    chunked = b"POST /api/info HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    small = repeated(b"1\r\n \r\n", chunked, b"0\r\n\r\n")
    yield on_the_wire(small, "chunks of a byte", BODY // 2)
    yield on_the_wire(small, "chunks of a byte that drip", READ, 1)
    yield on_the_wire(repeated(b"1;a=b\r\n \r\n", chunked), "chunks with extensions", BODY // 2)
    yield on_the_wire(repeated(b"0", chunked), "a chunk's long size", 4 * HEAD, 1)
    yield on_the_wire(repeated(b"a: b\r\n", chunked + b"0\r\n"), "trailers", 4 * HEAD, 1)
    body = lambda size: request("/api/info", "POST", b" " * size)  # noqa: E731
    yield on_the_wire(body, "a body that drips", READ, 1)
    yield on_the_wire(repeated(b"\r\n", request("/")), "line ends", READ)
    yield on_the_wire(repeated(request("/nothing")), "requests in one piece", READ)
    slow = request("/channels/a?wait=60")
    yield on_the_wire(repeated(b"a", slow), "bytes that drip after a request", HEAD, 1)


def deflated(text: bytes) -> bytes:
    """A compressed frame of a client."""
    deflate = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    data = deflate.compress(text) + deflate.flush(zlib.Z_SYNC_FLUSH)
    return masked(data.removesuffix(b"\0\0\xff\xff"), 0x41)


@cache
def compressing() -> Server:
    return Server(config=Config(server=ServerConfig(compress=True)))


def frames(
    make: Callable[[int], bytes], name: str, most: int = READ, compress: bool = False
) -> Row:
    """Send frames on an open WebSocket, in one piece."""
    more = {"sec_websocket_extensions": "permessage-deflate"} if compress else {}

    def send(data: bytes) -> object:
        there = compressing() if compress else server()
        socket = there.websocket("/connection/websocket", **more)
        socket.line.protocol.dataReceived(data)
        answer = socket.line.take()
        socket.line.vanish()
        return answer

    return Row(name, most, make, send)


def frame_rows() -> Iterator[Row]:
    yield frames(repeated(masked(b"", 9)), "pings")
    yield frames(repeated(masked(b"", 10)), "pongs in one piece")
    yield frames(repeated(masked(b"{}")), "texts")
    yield frames(repeated(masked(b"")), "empty texts")
    yield frames(
        repeated(masked(b"", 0, final=False), masked(b"", 1, final=False)), "continuations"
    )
    one = repeated(masked(b" ", 0, final=False), masked(b" ", 1, final=False), masked(b"x", 0))
    yield frames(one, "continuations of a byte")
    yield frames(lambda size: masked(b" " * size), "one long frame", FRAME)
    yield frames(lambda size: masked(b"\xf0\x9f\x98\x80" * (size // 4)), "one wide frame", FRAME)


def hooked(**headers: str) -> Callable[[bytes], object]:
    """Post it to a webhook."""
    hook = unsigned()
    return lambda body: hook.post(body, {k.replace("_", "-"): v for k, v in headers.items()})


def signed(value: str) -> object:
    """Check it as a signature."""
    return Stamped(10.0, lambda: 0.0).check(b"s", {"stripe-signature": value}, b"")


def deflated_rows() -> Iterator[Row]:
    yield frames(repeated(deflated(b"{}")), "compressed frames", compress=True)
    for most, name in (
        (FRAME, "a compressed frame"),
        (16 * BODY, "a frame that inflates to 16 bodies"),
    ):
        yield frames(lambda size: deflated(b" " * size), name, most, compress=True)


def api_rows() -> Iterator[Row]:
    for name, make in DATA.items():
        yield Row(f"API: {name}", BODY, make, get("/api/info", "POST"))
        line = padded(make, b'{"channel":"a","data":', b"}")
        yield Row(f"API publish: {name}", BODY // 4, line, get("/api/publish", "POST"))
        yield Row(f"POST: {name}", BODY // 4, make, get("/channels/a", "POST"))
        yield Row(f"hook: {name}", BODY // 4, make, hooked())
    tags = padded(keys('"v"'), b'{"channel":"a","data":1,"tags":', b"}")
    yield Row("tags", BODY // 4, tags, get("/api/publish", "POST"))
    yield Row(
        "broadcast",
        8_000,
        lambda size: json.dumps({"channels": ["a"] * (size // 8), "data": 1}).encode(),
        get("/api/broadcast", "POST"),
    )
    yield Row(
        "broadcast of tags",
        16_000,
        # As many tags as channels.
        lambda size: json.dumps(
            {
                "channels": ["a"] * min(900, size // 16),
                "data": 1,
                "tags": {f"k{n}": "v" for n in range(size // 16)},
            }
        ).encode(),
        get("/api/broadcast", "POST"),
    )
    yield Row(
        "batch",
        24_000,
        lambda size: b'{"commands":[%b]}' % b",".join([b'{"info":{}}'] * (size // 24)),
        get("/api/batch", "POST"),
    )
    methods = padded(keys("{}"), b'{"commands":[', b"]}")
    yield Row("batch with many methods", BODY // 4, methods, get("/api/batch", "POST"))
    for piece in ("*a", "?", "[", "*", "[a", "[!", "a-", "[a-", "*?"):
        made = lambda size, piece=piece: json.dumps(  # noqa: E731
            {"pattern": piece * (size // len(piece))}
        ).encode()
        yield Row(f"a long pattern of {piece}", BODY, made, get("/api/channels", "POST"))
        yield Row(f"a pattern of {piece}", 250, made, _new_pattern)
    users = padded(keys(), b'{"user":"a","whitelist":', b"}")
    yield Row("whitelist", BODY, users, get("/api/disconnect", "POST"))
    for name, make in DATA.items():
        escaped = lambda size, make=make: json.dumps(  # noqa: E731
            {"session": "a", "data": make(size // 2).decode("latin-1")}
        ).encode()
        yield Row(f"emulation: {name}", FRAME // 2, escaped, get("/emulation", "POST"))
    first = get("/connection/http_stream", "POST")
    yield Row("first commands", FRAME, repeated('{"id":1,"connect":{}}\n'), first)
    form = {"content_type": "application/x-www-form-urlencoded"}
    for piece in ("a=b&", "&", "%41", "payload=1&", "=", "+", "%"):
        yield Row(f"form of {piece}", BODY, repeated(piece, "x"), hooked(**form))
    for piece in ("v1=a,", ",", "t=1,", "="):
        value = text(repeated(piece, "t=1,"))
        yield Row(f"signature of {piece}", HEAD, value, refusing(signed, NotSigned))


def _new_pattern(body: bytes) -> object:
    re.purge()
    return get("/api/channels", "POST")(body)


def other_rows() -> Iterator[Row]:
    header = refusing(read_proxy_header, ValueError)
    block = SIGNATURE + b"\x21\x00" + MAX_BLOCK.to_bytes(2, "big")
    yield Row("PROXY protocol: one line", READ, repeated("1", "PROXY TCP4 "), header)
    yield Row("PROXY protocol: TLVs", READ, repeated(b"\0", block), header)

    def events(data: bytes) -> object:
        return list(Parser(1_000_000).feed(data))

    def drip(data: bytes) -> object:
        parser = Parser(1_000_000)
        return [list(parser.feed(data[n : n + 1])) for n in range(len(data))]

    for piece in ("data:a\n", "data:a\n\n", "a", "\n", "\r", ":", "id:1\n", "retry:1\n", "\r\n"):
        yield Row(f"event stream of {piece!r}", BODY // 4, repeated(piece), events)
        yield Row(f"event stream that drips {piece!r}", READ, repeated(piece), drip)

    def entry(blob: bytes) -> object:
        fields = [b"c", b"a", b"o", b"1", b"g", b"0", b"t", b"1", b"d", blob, b"w", b"n:1"]
        return entry_of("e", [b"1-0", fields])

    for name, text, before in (
        ("tags", b"\xa1a\xa1b", b"\x95\xa1m\xc4\x011\xdf\0\xff\xff\xff"),
        ("skipped clients", b"\xa1a", b"\x95\xa1m\xc4\x011\xc0\xc0\xdd\0\xff\xff\xff"),
        ("lists", b"\x91", b""),
    ):
        row = repeated(text, before)
        yield Row(f"entry of Redis: {name}", BODY, row, refusing(entry, NotOurs))

    def no_room(known: Keys) -> object:
        return refusing(known.check_room, Exception)(0)

    def full(count: int) -> Keys:
        known = Keys(count)
        for n in range(count):
            known.remember(KeyEntry("a", str(n), None, 1.0), 1.0)  # type: ignore[arg-type]
        return known

    yield Row("a full store of idempotency keys", Limits().idempotency_keys, full, no_room)


ROWS = [
    *data_rows(),
    *command_rows(),
    *socketio_rows(),
    *value_rows(),
    *token_rows(),
    *head_rows(),
    *http_rows(),
    *frame_rows(),
    *deflated_rows(),
    *api_rows(),
    *other_rows(),
]


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_parsing_time_is_in_proportion_to_the_input(row: Row, trouble: Trouble) -> None:
    measured = ratio(row)
    # Autobahn logs a warning for each refused handshake.
    assert [event for event in trouble if "log_failure" in event] == []
    trouble.clear()
    assert measured < MAX_RATIO, (
        f"{row}: {FACTOR} times the input takes {measured:.0f} times as long"
    )


def test_numbers_just_below_the_longest_are_as_fast_as_other_data() -> None:
    """A search that tries each digit as a start is linear here, but 300 times as slow."""

    def search(data: bytes) -> object:
        return jsontext._has_long_number(data)

    almost, others = repeated("9" * 308 + ","), repeated('{"name":"text","x":12.5},')
    rows = [Row("", BODY, make, search) for make in (almost, others)]
    took = [min(nanoseconds(row, row.make(row.size)) for _ in range(ROUNDS)) for row in rows]
    assert took[0] / took[1] < 8


def quadratic(data: bytes) -> object:
    """Count all bytes for each byte."""
    return sum(data.count(byte) for byte in data)


def test_a_quadratic_parser_is_found() -> None:
    row = Row("quadratic", 6_000, repeated("a"), quadratic)
    assert ratio(row) > MAX_RATIO
