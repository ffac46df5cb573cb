"""The parsers of bytes from outside, each with examples of its input.

A target takes any bytes. It may refuse them by the errors that its parser documents; any other
exception, an error in the log of the server, and an answer that is none are faults.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC
from functools import cache

from twisted.logger import LogLevel

from pushserver.auth.jwks import read_jwks
from pushserver.auth.origin import allowed_origin, loopback_host, valid_host
from pushserver.auth.patterns import check_pattern, matches
from pushserver.auth.proxies import Proxies, forwarded, parse_forwarded
from pushserver.auth.proxy_header import read_proxy_header
from pushserver.auth.token_keys import ALGORITHMS, secret_key
from pushserver.auth.tokens import TokenRules, Verifier
from pushserver.channels import jsontext
from pushserver.channels.channel import ChannelOptions
from pushserver.channels.idempotency import check_key
from pushserver.channels.names import check_event, check_name
from pushserver.channels.position import parse_since
from pushserver.channels.publication import ClientInfo, Draft
from pushserver.config.loader import load
from pushserver.config.settings import Auth, Config
from pushserver.config.settings import Server as ServerConfig
from pushserver.errors import (
    Invalid,
    InvalidConfig,
    InvalidCursor,
    InvalidData,
    InvalidKey,
    InvalidName,
    InvalidToken,
)
from pushserver.protocols import engineio, socketio
from pushserver.redis import rows
from pushserver.redis.rows import NotOurs
from pushserver.sources.registry import SourceTypes
from pushserver.sources.types.cron import Schedule
from pushserver.sources.types.json_pointer import NotThere, Pointer
from pushserver.sources.types.lines import Splitter
from pushserver.sources.types.sse.parser import Parser
from pushserver.store import lines
from pushserver.web.accept import preferred
from pushserver.web.first_bytes import read_head
from tests.unit.fakes.tokens import NOW, SECRET, base64, jwk, jwks, of_user, token
from tests.unit.fakes.web import Line, Log, Server, handshake, masked, request

KEY = "a key of the test"


@dataclass(frozen=True)
class Target:
    """`read` gets the bytes; `refusals` are its documented errors."""

    read: Callable[[bytes], object]
    examples: tuple[bytes, ...]
    refusals: tuple[type[Exception], ...] = ()

    def __call__(self, data: bytes) -> None:
        with suppress(*self.refusals):
            self.read(data)


class LoggedError(AssertionError):
    """The server logged an error, so it met bytes that it does not expect."""


@dataclass
class Wire:
    """A server to whose connections the bytes are sent; `before` comes first on each."""

    before: bytes = b""
    frame: Callable[[bytes], bytes] = lambda data: data
    config: Config = field(default_factory=Config)

    def __post_init__(self) -> None:
        self._server = Server(config=self.config)

    def __call__(self, data: bytes) -> None:
        with Log(LogLevel.error) as errors:
            line = self._server.connect()
            line.send(self.before + self.frame(data))
            # Once more in pieces: the head of a request, a frame and a body may arrive so.
            pieces = self._server.connect()
            for part in (self.before, data[:1], data[1:7], data[7:]):
                if not pieces.lost:
                    pieces.send(self.frame(part) if part != self.before else part)
            self._end(line)
            self._end(pieces)
        if errors:
            raise LoggedError(errors.take()[0])

    def _end(self, line: Line) -> None:
        answer = line.take()
        assert not answer or answer.startswith((b"HTTP/1.", b"\x15")), answer[:40]
        line.vanish()
        line.settle()


OPEN_CHANNELS = Config(
    defaults=ChannelOptions(client_publish=True, presence="anyone", join_leave=True),
    auth=Auth(api_keys=[KEY]),
    server=ServerConfig(compress=True),
)


def _posting(path: str, *examples: bytes, **headers: str) -> Callable[[], Target]:
    def make() -> Target:
        wire = Wire(config=OPEN_CHANNELS, frame=lambda body: request(path, "POST", body, **headers))
        return Target(wire, examples)

    return make


def _websocket(
    path: str, frame: Callable[[bytes], bytes], *examples: bytes, **headers: str
) -> Callable[[], Target]:
    def make() -> Target:
        before = request(path, **handshake(**headers))
        if path == "/connection/websocket" and frame is not _raw:
            before += masked(b'{"id":1,"connect":{}}')
        return Target(Wire(before, frame, OPEN_CHANNELS), examples)

    return make


def _raw(data: bytes) -> bytes:
    return data


def _deflated(data: bytes) -> bytes:
    deflate = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    packed = deflate.compress(data) + deflate.flush(zlib.Z_SYNC_FLUSH)
    return masked(packed.removesuffix(b"\0\0\xff\xff"), 0x41)


def _text(
    read: Callable[[str], object], *examples: str, refusals: tuple[type[Exception], ...] = ()
) -> Callable[[], Target]:
    """A parser of text; bytes that are no UTF-8 arrive as Latin-1, as in a header."""

    def take(data: bytes) -> object:
        try:
            text = data.decode()
        except UnicodeDecodeError:
            text = data.decode("latin-1")
        return read(text)

    return lambda: Target(take, tuple(e.encode() for e in examples), refusals)


def _json(data: bytes) -> None:
    """What is accepted has the value that the standard library reads."""
    compact = jsontext.compact(data)
    ours, theirs = jsontext.decode(data), json.loads(data)
    assert _same(ours, theirs), (ours, theirs)
    assert _same(json.loads(compact), theirs), compact


def _same(one: object, other: object) -> bool:
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=0, abs_tol=0)
    return one == other


def _forwarded(text: str) -> None:
    names = ("x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "forwarded")
    elements = parse_forwarded(text)
    assert all(name == name.lower() for element in elements for name in element)
    proxies = Proxies.of(["127.0.0.0/8", "unix"])
    for name in names:
        values = forwarded(lambda asked, name=name: text if asked == name else None)  # type: ignore[misc]
        values.client("127.0.0.1", proxies)
        values.origin("127.0.0.1", proxies)


def _origin(text: str) -> None:
    valid_host(text)
    loopback_host(text)
    allowed_origin(text, text, False, None, frozenset({"https://a"}))


def _sse(data: bytes) -> None:
    """Events do not depend on the pieces in which they come."""
    whole, dripped = Parser(1_000), Parser(1_000)
    events = [event for n in range(len(data)) for event in dripped.feed(data[n : n + 1])]
    assert list(whole.feed(data)) == events
    assert whole.last_id == dripped.last_id
    assert whole.skipped == dripped.skipped


def _lines(data: bytes) -> None:
    """Neither do lines."""
    whole, dripped = Splitter(100), Splitter(100)
    found = [line for n in range(len(data)) for line in dripped.feed(data[n : n + 1])]
    assert list(whole.feed(data)) == found
    assert whole.rest() == dripped.rest()


def _redis(data: bytes) -> None:
    """An entry of the log: the id, and its fields by line."""
    name, *fields = data.split(b"\n")
    with suppress(NotOurs):
        rows.entry_of("e", [name, fields])
    fields = [b"c", b"a", b"o", b"1", b"g", b"0", b"t", b"1", b"d", data, b"w", b"n:1"]
    rows.entry_of("e", [b"1-0", fields])


def _payload(data: bytes) -> None:
    for packet in engineio.decode_payload(data):
        if packet.kind == engineio.MESSAGE and not packet.is_binary:
            _packet(packet.data)


def _packet(data: bytes) -> None:
    packet = socketio.decode(data)
    attachments = [b"bytes"] * packet.attachments
    if packet.kind in (socketio.EVENT, socketio.BINARY_EVENT):
        event, arguments = socketio.event(packet, attachments)
        again = socketio.encode(
            packet.namespace, socketio.EVENT, socketio.values([event, *arguments]), packet.id
        )
        assert socketio.event(socketio.decode(again), attachments) == (event, arguments)
    elif packet.kind in (socketio.ACK, socketio.BINARY_ACK):
        socketio.arguments(packet, attachments)
    elif packet.kind == socketio.CONNECT:
        socketio.auth(packet)


def _verifier() -> Callable[[bytes], object]:
    verifier = Verifier(TokenRules(frozenset(ALGORITHMS)), [secret_key(SECRET)])

    def read(data: bytes) -> None:
        """The bytes as a token, and as the claims of one with a signature."""
        with suppress(InvalidToken):
            verifier.connection(data.decode("latin-1"), NOW)
        signed = token(data)
        for check in (
            lambda: verifier.connection(signed, NOW),
            lambda: verifier.subscription(signed, "a", "42", NOW),
        ):
            with suppress(InvalidToken):
                check()

    return read


def _pattern(text: str) -> None:
    pattern, _, channel = text.partition("\n")
    check_pattern(pattern)
    assert matches(pattern, pattern.replace("*", "")) or "*" not in pattern
    matches(pattern, channel)


def _pointer(text: str) -> None:
    pointer, _, document = text.partition("\n")
    try:
        value = json.loads(document)
    except (ValueError, RecursionError):
        value = [text]
    Pointer(pointer).get(value)


def _head(data: bytes) -> None:
    read_head(data + b"\r\n\r\n", None)
    read_head(request("/channels/a", **handshake()).removesuffix(b"\r\n") + data + b"\r\n", None)


def _config(text: str) -> None:
    load(text, "pushserver.conf", {}, SourceTypes())


COMMANDS = (
    b'{"id":2,"subscribe":{"channel":"a","recover":true,"offset":1,"epoch":"x"}}',
    b'{"id":2,"publish":{"channel":"a","data":{"a":[1,2.5e3,null,"\\u00fc"]}}}',
    b'{"id":2,"history":{"channel":"a","limit":5,"since":{"offset":1,"epoch":"x"}}}',
    b'{"id":2,"presence":{"channel":"a"}}\n{"id":3,"rpc":{"method":"m","data":1}}\n{}',
    b'{"id":2,"refresh":{"token":"a.b.c"}}\n{"id":3,"unsubscribe":{"channel":"a"}}',
)
TOML = """
[server]
listen = ["8080"]
trusted_proxies = ["127.0.0.1"]
[auth]
api_keys = ["a"]
[namespaces.chat]
history_size = 3
subscribe = "users"
[sources.numbers]
type = "random"
seconds = 1
"""

TARGETS: dict[str, Callable[[], Target]] = {
    "http": lambda: Target(
        Wire(config=OPEN_CHANNELS),
        (
            request("/channels/a?last=1&since=e:1", accept="text/event-stream"),
            request("/channels/a", "POST", b'{"a":1}', content_type="application/json"),
            request("/events?channel=a&channel=b", last_event_id="e:1"),
            request("/static/app.css", range="bytes=0-5", if_none_match='"a"'),
            request("/", cookie="a=b; c=d", x_forwarded_for="1.1.1.1", authorization="Bearer a"),
            request("/connection/websocket", **handshake(sec_websocket_protocol="a,b")),
            request("/api/info", "POST", transfer_encoding="chunked", content_length="")
            + b"2;a=b\r\n{}\r\n0\r\na: b\r\n\r\n",
            b"\x16\x03\x01\x02\x00\x01",
        ),
    ),
    "head of a handshake": lambda: Target(
        _head, (request("/channels/a", **handshake()), b"cookie: a=b\r\nhost: b")
    ),
    "websocket frames": _websocket(
        "/connection/websocket",
        _raw,
        *(masked(command) for command in COMMANDS[:2]),
        masked(b"", 9) + masked(b"\x03\xe8bye", 8),
        masked(b"{", 1, final=False) + masked(b"", 10) + masked(b"}", 0),
    ),
    "compressed websocket frames": _websocket(
        "/connection/websocket",
        _deflated,
        *COMMANDS[:2],
        sec_websocket_extensions="permessage-deflate",
    ),
    "stream websocket frames": _websocket("/channels/a", _raw, masked(b"{}"), masked(b"", 8)),
    "commands": _websocket("/connection/websocket", masked, *COMMANDS),
    "commands over HTTP": _posting(
        "/connection/http_stream", b'{"id":1,"connect":{"subs":{"a":{}},"token":"x"}}'
    ),
    "emulation": _posting(
        "/emulation", b'{"session":"a","node":"b","data":"{\\"id\\":1}"}', x_api_key=KEY
    ),
    "publications": _posting(
        "/channels/a", b'{"a":1}', b"1", content_type="application/json", x_api_key=KEY
    ),
    "bulk publications": _posting(
        "/channels/a",
        b'{"n":1}\n"b"\n\n3',
        content_type="application/x-ndjson",
        x_api_key=KEY,
    ),
    "form publications": _posting(
        "/channels/a",
        b"a=b&c=%20",
        content_type="application/x-www-form-urlencoded",
        x_api_key=KEY,
    ),
    **{
        f"api {name}": _posting(f"/api/{name}", example, x_api_key=KEY)
        for name, example in {
            "batch": b'{"commands":[{"info":{}},{"publish":{"channel":"a","data":1}}]}',
            "broadcast": b'{"channels":["a","b"],"data":1,"tags":{"a":"b"}}',
            "channels": b'{"pattern":"a*"}',
            "disconnect": b'{"user":"a","code":4000,"reason":"x","whitelist":["b"]}',
            "history": b'{"channel":"a","limit":3,"reverse":true,"since":{"offset":1,"epoch":"e"}}',
            "publish": b'{"channel":"a","data":{},"idempotency_key":"k","event":"e"}',
            "refresh": b'{"user":"a","expire_at":1795000000}',
            "subscribe": b'{"user":"a","channel":"b","info":{},"recover_since":{"offset":0}}',
        }.items()
    },
    "json": lambda: Target(
        _json,
        (
            b'{"a":[1,-2.5e-3,true,null,"\\ud83d\\ude00\xc3\xbc"],"b":{}}',
            b"12345678901234567890123",
            b"1e400",
            b'"\\ud83d"',
        ),
        (InvalidData,),
    ),
    "token": lambda: Target(_verifier(), (json.dumps(of_user(channels=["a"])).encode(),)),
    "token head": _text(
        lambda text: Verifier(TokenRules(frozenset(ALGORITHMS)), [secret_key(SECRET)]).connection(
            f"{base64(text.encode('utf-8', 'replace'))}.e30.e30", NOW
        ),
        '{"alg":"HS256","kid":"a"}',
        refusals=(InvalidToken,),
    ),
    "jwks": lambda: Target(
        lambda data: read_jwks(data, frozenset(ALGORITHMS)),
        (jwks(jwk("RS256", "a"), jwk("ES256", "b")), jwks(jwk("EdDSA"))),
        (ValueError,),
    ),
    "proxy header": lambda: Target(
        read_proxy_header,
        (
            b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n",
            b"PROXY TCP6 ::1 ::1 1 2\r\nGET / HTTP/1.1\r\n",
            b"PROXY UNKNOWN\r\n",
            b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c" + bytes(12),
        ),
        (ValueError,),
    ),
    "forwarded": _text(
        _forwarded, 'for="[::1]:80";proto=https, for=1.1.1.1', "1.1.1.1, [::1]:5", "https"
    ),
    "origin": _text(_origin, "https://push.test:8443", "[::1]:8080", "localhost"),
    "accept": _text(
        lambda text: preferred(text, ("text/html", "application/json")), "text/*;q=0.5, */*;q=0"
    ),
    "pattern": _text(_pattern, "chat:*\nchat:1", "$a#b\na", refusals=(Invalid,)),
    "channel": _text(check_name, "chat:1", "$news", "inbox:#42", refusals=(InvalidName,)),
    "event": _text(check_event, "message", "a.b", refusals=(InvalidName,)),
    "position": _text(parse_since, "7c2e94d1:502", refusals=(InvalidCursor,)),
    "idempotency key": _text(check_key, "order-1", refusals=(InvalidKey,)),
    "engine.io payload": lambda: Target(
        _payload,
        (b'42["a",1]\x1e2probe\x1ebAQID', b"40/x,{}\x1e41\x1e3"),
        (engineio.PacketError, InvalidData),
    ),
    "socket.io packet": lambda: Target(
        _packet,
        (
            b'2/x,1["a",{"b":[1]}]',
            b'51-["a",{"_placeholder":true,"num":0}]',
            b'0/x?a=b,{"token":"t"}',
            b"33[1]",
        ),
        (engineio.PacketError, InvalidData),
    ),
    "event stream": lambda: Target(
        _sse, (b"event: a\ndata: b\nid: 1\n\nretry: 10\n:\n", b"\xef\xbb\xbfdata\r\rdata:x\r\n\r\n")
    ),
    "lines": lambda: Target(_lines, (b"a\nb\r\nc", b"\0\0\n")),
    "log in redis": lambda: Target(
        _redis,
        (
            b"1-0\nc\na\no\n1\ng\n0\nt\n1\nd\n\x95\xa1m\xc4\x011\xc0\xc0\x90\nw\nn:1",
            b"1-2\nk\nclear\nc\na",
            rows.encode(Draft("a", b"1", tags={"a": "b"}, info=ClientInfo("c"), skip=("c",))),
        ),
        (NotOurs,),
    ),
    "cron": _text(
        lambda text: Schedule(text, UTC), "*/5 * * * 1-5", "@daily", refusals=(ValueError,)
    ),
    "pointer": _text(_pointer, '/a/0/b~1c\n{"a":[{"b/c":1}]}', refusals=(ValueError, NotThere)),
    "line of an export": lambda: Target(
        lines.decode,
        (
            b'{"kind":"pushserver-store","version":1,"epoch":"e","seq":1,"closed":true}',
            b'{"kind":"publication","channel":"a","offset":1,"seq":1,"time":1.5,"event":"m","data":1}',
            b'{"kind":"channel","name":"a","top":1,"floor":0,"floor_seq":0}',
        ),
        lines.INVALID,
    ),
    "configuration": _text(_config, TOML, refusals=(InvalidConfig,)),
}


@cache
def target(name: str) -> Target:
    """The target of this name, with a server of its own if it needs one."""
    return TARGETS[name]()
