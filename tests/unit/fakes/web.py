"""A server in memory, connections to it in raw bytes, and the log."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, cast

import pytest
import txaio
from twisted.internet import _producer_helpers
from twisted.internet.address import IPv4Address, UNIXAddress
from twisted.internet.error import ConnectionAborted, ConnectionDone
from twisted.internet.interfaces import IAddress, IHalfCloseableProtocol, ISSLTransport
from twisted.internet.task import Cooperator
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.logger import ILogObserver, LogEvent, LogLevel, formatEvent, globalLogPublisher
from twisted.python.failure import Failure
from zope.interface import directlyProvidedBy, directlyProvides, implementer

from pushserver.channels.channel import ChannelOptions
from pushserver.channels.publication import Draft
from pushserver.config.limits import Limits
from pushserver.config.settings import Config
from pushserver.server.build import build
from pushserver.server.embedding import PushServer
from pushserver.server.place import Place
from pushserver.server.service import PushService
from pushserver.testing.reactor import InlinePool
from tests.unit.fakes.tools import drive

KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"


class Trouble(list[LogEvent]):
    """Events of the log at level warn and above."""

    def take(self) -> list[str]:
        """Remove all events, and return their texts with their exceptions."""
        texts = []
        for event in self:
            failure = event.get("log_failure")
            text = formatEvent(event)
            texts.append(text if failure is None else f"{text}: {failure.value!r}")
        self.clear()
        return texts


@implementer(ILogObserver)
class Log:
    """A context that records events of the log from this level on."""

    def __init__(self, level: Any = LogLevel.debug):
        self.events = Trouble()
        self._level = level

    def __call__(self, event: LogEvent) -> None:
        if event["log_level"] >= self._level:
            self.events.append(event)

    def __enter__(self) -> Trouble:
        globalLogPublisher.addObserver(self)
        return self.events

    def __exit__(self, *_: object) -> None:
        globalLogPublisher.removeObserver(self)


@dataclass(frozen=True)
class Frame:
    """One frame of a WebSocket (RFC 6455, 5.2)."""

    opcode: int
    payload: bytes
    final: bool = True

    @property
    def close(self) -> tuple[int, str]:
        """The code and the reason of a close frame."""
        assert self.opcode == 8
        return int.from_bytes(self.payload[:2], "big"), self.payload[2:].decode()


def frames(data: bytes) -> list[Frame]:
    """The frames of a server, which must be unmasked and whole."""
    parsed = []
    while data:
        assert not data[0] & 0x70, "a reserved bit"
        assert not data[1] & 0x80, "a server's frame carries no mask"
        length, begin = data[1], 2
        if length > 125:
            begin += 2 if length == 126 else 8
            length = int.from_bytes(data[2:begin], "big")
        assert len(data) >= begin + length, "half a frame"
        payload = data[begin : begin + length]
        parsed.append(Frame(data[0] & 15, payload, bool(data[0] & 0x80)))
        data = data[begin + length :]
    return parsed


def masked(payload: bytes, opcode: int = 1, final: bool = True, mask: bytes = b"\1\2\3\4") -> bytes:
    """A frame of a client."""
    size = len(payload)
    head = bytes([opcode | (0x80 if final else 0)])
    if size < 126:
        head += bytes([0x80 | size])
    elif size < 65536:
        head += b"\xfe" + size.to_bytes(2, "big")
    else:
        head += b"\xff" + size.to_bytes(8, "big")
    body = bytes(byte ^ mask[n % 4] for n, byte in enumerate(payload))
    return head + mask + body


@dataclass
class Response:
    """One HTTP answer; `body` has the bytes that came so far."""

    status: int
    headers: dict[str, list[str]]
    body: bytes = b""
    rest: bytes = b""
    whole: bool = True

    def __getitem__(self, name: str) -> str:
        """All values of a header in one string; KeyError without the header."""
        return ", ".join(self.headers[name])

    def __contains__(self, name: str) -> bool:
        return name in self.headers

    @property
    def json(self) -> Any:
        assert self["content-type"] == "application/json"
        return json.loads(self.body)

    @property
    def error(self) -> tuple[int, str]:
        """Status and message of an error in JSON."""
        assert self.json["error"]["code"] == self.status
        return self.status, self.json["error"]["message"]


def parse(data: bytes, method: str = "GET") -> Response:
    """The first answer in these bytes."""
    head, _, rest = data.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    version, status, _ = first.split(" ", 2)
    assert version == "HTTP/1.1"
    headers: dict[str, list[str]] = {}
    for line in lines:
        name, _, value = line.partition(": ")
        headers.setdefault(name.lower(), []).append(value)
    response = Response(int(status), headers, rest=rest)
    if method == "HEAD" or response.status in (101, 204, 304):
        return response
    if "transfer-encoding" in response:
        _unchunk(response)
    else:
        length = int(response["content-length"])
        response.body, response.rest = rest[:length], rest[length:]
        response.whole = len(response.body) == length
    return response


def _unchunk(response: Response) -> None:
    response.whole = False
    while response.rest and not response.whole:
        size, _, after = response.rest.partition(b"\r\n")
        length = int(size, 16)
        response.body += after[:length]
        assert after[length : length + 2] == b"\r\n", "half a chunk"
        response.rest = after[length + 2 :]
        response.whole = length == 0


class Line(StringTransport):
    """A TCP connection in memory.

    As with a real one, its loss is reported in a later turn, and while the peer does not
    read, a full buffer pauses the producer and nothing but an abort ends the connection.
    """

    protocol: Any

    def __init__(self, clock: MemoryReactorClock, peer: IAddress):
        super().__init__(IPv4Address("TCP", "127.0.0.1", 8080), peer, lenient=True)
        self.clock = clock
        self.reading = True
        self.unread = 0
        self.no_delay = False
        self.aborted = False
        self.lost = False

    @property
    def dataBuffer(self) -> bytes:
        """As in Twisted's: the bytes that wait."""
        return bytes(self.unread)

    def setTcpNoDelay(self, enabled: bool) -> None:
        self.no_delay = enabled

    def setTcpKeepAlive(self, enabled: bool) -> None:
        """No-op."""

    def write(self, data: bytes) -> None:
        if self.lost or self.aborted:
            return
        super().write(data)
        self.unread += len(data)
        if self.unread > 65536 and self.producer is not None:
            self.producer.pauseProducing()
        if self.reading:
            self.read()

    def writeSequence(self, data: Any) -> None:
        self.write(b"".join(data))

    def read(self) -> None:
        """Let the peer read everything."""
        self.reading = True
        full, self.unread = self.unread > 65536, 0
        if full and self.producer is not None:
            # The producer resumes when the socket is writable, in a later turn. That makes a
            # pending close forgotten (abstract.FileDescriptor.doWrite).
            self.clock.callLater(0, self._resume)
        elif self.disconnecting:
            self.loseConnection()

    def unregisterProducer(self) -> None:
        self.producer = None

    def _resume(self) -> None:
        if self.producer is not None and self.unread <= 65536:
            self.producer.resumeProducing()

    def loseConnection(self) -> None:
        self.disconnecting = True
        if not self.unread or self.reading:
            self.clock.callLater(0, self._lose, ConnectionDone())

    def abortConnection(self) -> None:
        self.disconnecting = self.aborted = True
        self.clock.callLater(0, self._lose, ConnectionAborted())

    def _lose(self, why: Exception) -> None:
        if not self.lost:
            self.lost = True
            producer, self.producer = self.producer, None
            if producer is not None:
                producer.stopProducing()
            self.protocol.connectionLost(Failure(why))

    def connectionLost(self, reason: Failure) -> None:
        why: Any = reason.value
        self._lose(why)

    def vanish(self) -> None:
        """Let the peer close."""
        self._lose(ConnectionDone())

    def half_close(self) -> None:
        """Let the peer close its side."""
        half = IHalfCloseableProtocol(self.protocol, None)
        if half is None:
            self.vanish()
        else:
            half.readConnectionLost()

    def send(self, data: bytes) -> None:
        """Send bytes from the peer, and run the turns that they cause."""
        if not self.lost:
            self.protocol.dataReceived(data)
        self.settle()

    def settle(self) -> None:
        """Run all due turns."""
        while any(call.getTime() <= self.clock.seconds() for call in self.clock.getDelayedCalls()):
            self.clock.advance(0)

    def take(self) -> bytes:
        """The bytes since the last call."""
        self.settle()
        data: bytes = self.value()
        self.clear()
        return data

    def response(self, method: str = "GET") -> Response:
        """The first answer since the last call."""
        return parse(self.take(), method)


class InnerLine(Line):
    """A connection between two processes, on Unix sockets: either side can be closed alone."""

    def __init__(self, clock: MemoryReactorClock):
        super().__init__(clock, UNIXAddress(""))
        self.half_closed = False

    def loseWriteConnection(self) -> None:
        self.half_closed = True


@dataclass
class Socket:
    """An open WebSocket."""

    line: Line
    handshake: Response
    seen: list[Frame] = field(default_factory=list)

    def say(self, *values: Any, opcode: int = 1) -> list[Frame]:
        """Send each value as a frame (bytes as they are, else JSON); returns the frames back."""
        for value in values:
            text = value if isinstance(value, bytes) else json.dumps(value).encode()
            self.line.send(masked(text, opcode))
        return self.take()

    def take(self) -> list[Frame]:
        """The frames since the last call."""
        return frames(self.line.take())

    def texts(self) -> list[Any]:
        """The JSON values since the last call; there must be no other frames."""
        frames = self.take()
        assert all(frame.opcode == 1 for frame in frames), frames
        return [json.loads(line) for frame in frames for line in frame.payload.split(b"\n")]

    def close(self) -> tuple[int, str]:
        """Code and reason of the close frame, which must come last."""
        return self.take()[-1].close


def upgraded(line: Line) -> Socket:
    """The WebSocket of a connection whose handshake was answered."""
    answer = parse(line.take())
    assert answer.status == 101, answer
    return Socket(line, answer, frames(answer.rest))


def memory_reactor() -> Any:
    """MemoryReactorClock as Any: it is not a whole `Reactor`, without processes and threads."""
    return MemoryReactorClock()


class Server:
    """The whole server on a memory_reactor."""

    def __init__(
        self,
        limits: Limits = Limits(),
        options: ChannelOptions = ChannelOptions(),
        config: Config | None = None,
        debug: bool = False,
        app: PushServer | None = None,
        clock: Any = None,
        wall: Callable[[], float] | None = None,
        shortcuts: bool = True,
        beside: str = "",
        place: Place | None = None,
    ):
        self.clock = clock or memory_reactor()
        self.own: bool | None = True
        """Whether requests come from a program of the user of the server; see `owner.is_own`."""
        self.owner: Callable[[Any], bool | None] = lambda request: self.own
        set_autobahns_clock(self.clock)
        config = config or Config(limits=limits, defaults=options)
        config = replace(config, sources={})
        more: dict[str, Any] = {} if wall is None else {"clock": wall}
        self.service: PushService = build(
            config,
            self.clock,
            debug,
            app=app,
            threads=InlinePool(),
            is_own=lambda request: self.owner(request),
            shortcuts=shortcuts,
            beside=beside,
            place=place,
            **more,
        )
        self.node = self.service.node
        self.site = self.service._site
        self.hub = self.node.hub

    def send_files(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Send files on the clock of this server, not on that of the global reactor."""
        cooperator = Cooperator(scheduler=lambda call: self.clock.callLater(0, call))
        monkeypatch.setattr(_producer_helpers, "cooperate", cooperator.cooperate)

    def publish(self, channel: str = "numbers", data: object = 1, event: str = "message") -> None:
        drive(self.node.publish(Draft(channel, json.dumps(data).encode(), event)))
        self.clock.advance(0)

    def connect(self, peer: str = "127.0.0.1", secure: bool = False) -> Line:
        """A new connection."""
        address = IPv4Address("TCP", peer, 50000)
        line = Line(self.clock, address)
        if secure:
            directlyProvides(line, directlyProvidedBy(line), ISSLTransport)
        line.protocol = self.site.buildProtocol(address)
        assert line.protocol is not None
        line.protocol.makeConnection(line)
        return line

    def get(self, path: str, method: str = "GET", body: bytes = b"", /, **headers: str) -> Response:
        """The answer to a request on a new connection; `_` in a header name stands for `-`."""
        line = self.open(path, method, body, **headers)
        response = line.response(method)
        line.vanish()
        return response

    def open(self, path: str, method: str = "GET", body: bytes = b"", /, **headers: str) -> Line:
        """A new connection, after a request was sent on it."""
        line = self.connect()
        line.send(request(path, method, body, **headers))
        return line

    def websocket(self, path: str, **headers: str) -> Socket:
        """An open WebSocket."""
        return upgraded(self.open(path, **handshake(**headers)))

    def session(self, **headers: str) -> Socket:
        """A WebSocket with a connected session of the Centrifuge protocol."""
        socket = self.websocket("/connection/websocket", **headers)
        (reply,) = socket.say({"id": 1, "connect": {}})
        assert b'"client"' in reply.payload
        return socket

    def advance(self, seconds: int) -> None:
        """Advance the time in steps of a second, without the timers of the service."""
        for _ in range(seconds):
            self.clock.advance(1)
            while self.node.peers.tick(self.node.monotonic()):
                pass
        self.clock.advance(0)

    def is_empty(self) -> bool:
        """Whether no channel, peer or connection is left."""
        nobody = not self.hub.channels() and not len(self.node.peers)
        return nobody and not self.site.channels


def request(path: str, method: str = "GET", body: bytes = b"", /, **headers: str) -> bytes:
    """The bytes of a request; a header with an empty value or None is left out."""
    fields = {"host": "localhost:8080", **headers}
    if body or method == "POST":
        fields.setdefault("content-length", str(len(body)))
    lines = [f"{method} {path} HTTP/1.1"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in fields.items() if value]
    return "\r\n".join([*lines, "", ""]).encode() + body


def handshake(**headers: str) -> dict[str, str]:
    """The headers of a handshake."""
    return {
        "upgrade": "websocket",
        "connection": "Upgrade",
        "sec_websocket_key": KEY.decode(),
        "sec_websocket_version": "13",
        **headers,
    }


def set_autobahns_clock(clock: object) -> None:
    """Set the clock for the timers of Autobahn; None for the global reactor."""
    cast(Any, txaio).config.loop = clock


def patched(target: object, name: str, value: Callable[..., Any]) -> None:
    """Replace a method of one object, past the checks of mypy."""
    cast(Any, target).__dict__[name] = value
