"""What the tests of the doors share: a server in memory, and clients that feed it raw bytes."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, cast

import pytest
import txaio
from twisted.internet import _producer_helpers
from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionAborted, ConnectionDone
from twisted.internet.interfaces import IAddress, ISSLTransport
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
from pushserver.server.service import PushService
from pushserver.testing.reactor import InlinePool
from tests.unit.fakes.tools import drive

KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"


class Trouble(list[LogEvent]):
    """Events of the log at level warn and above."""

    def take(self) -> list[str]:
        """Their texts, with the exceptions in them; afterwards there are none."""
        texts = []
        for event in self:
            failure = event.get("log_failure")
            what = formatEvent(event)
            texts.append(what if failure is None else f"{what}: {failure.value!r}")
        self.clear()
        return texts


@implementer(ILogObserver)
class Log:
    """What is logged while it is entered, at this level and above."""

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
    """The frames that a server sent: unmasked, whole, and nothing after them."""
    found = []
    while data:
        assert not data[0] & 0x70, "a reserved bit"
        assert not data[1] & 0x80, "a server's frame carries no mask"
        length, begin = data[1], 2
        if length > 125:
            begin += 2 if length == 126 else 8
            length = int.from_bytes(data[2:begin], "big")
        assert len(data) >= begin + length, "half a frame"
        payload = data[begin : begin + length]
        found.append(Frame(data[0] & 15, payload, bool(data[0] & 0x80)))
        data = data[begin + length :]
    return found


def masked(payload: bytes, opcode: int = 1, final: bool = True, mask: bytes = b"\1\2\3\4") -> bytes:
    """A client's frame."""
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
    """One HTTP answer; `body` is what of it has come."""

    status: int
    headers: dict[str, list[str]]
    body: bytes = b""
    rest: bytes = b""
    whole: bool = True

    def __getitem__(self, name: str) -> str:
        """All values of a header in one; KeyError without it."""
        return ", ".join(self.headers[name])

    def __contains__(self, name: str) -> bool:
        return name in self.headers

    @property
    def json(self) -> Any:
        assert self["content-type"] == "application/json"
        return json.loads(self.body)

    @property
    def error(self) -> tuple[int, str]:
        """Status and text of a JSON answer that says no."""
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

    As with the real one, its loss is told in a later turn, and while the peer does not
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

    def setTcpNoDelay(self, enabled: bool) -> None:
        self.no_delay = enabled

    def setTcpKeepAlive(self, enabled: bool) -> None:
        """Nothing to keep."""

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
        """The peer reads all there is."""
        self.reading = True
        full, self.unread = self.unread > 65536, 0
        if full and self.producer is not None:
            # The word comes when the socket is next writable: in a later turn. With that a
            # connection that was to be closed is forgotten (abstract.FileDescriptor.doWrite).
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

    def vanish(self) -> None:
        """The peer is gone."""
        self._lose(ConnectionDone())

    def send(self, data: bytes) -> None:
        """Bytes from the peer, and then the turns that they cause."""
        if not self.lost:
            self.protocol.dataReceived(data)
        self.settle()

    def settle(self) -> None:
        """All the turns that are due."""
        while any(call.getTime() <= self.clock.seconds() for call in self.clock.getDelayedCalls()):
            self.clock.advance(0)

    def take(self) -> bytes:
        """What was written since the last time."""
        self.settle()
        data: bytes = self.value()
        self.clear()
        return data

    def response(self, method: str = "GET") -> Response:
        """The answer that came."""
        return parse(self.take(), method)


@dataclass
class Socket:
    """A WebSocket that is open."""

    line: Line
    handshake: Response
    seen: list[Frame] = field(default_factory=list)

    def say(self, *values: Any, opcode: int = 1) -> list[Frame]:
        """Send each value (bytes as they are, else as JSON) as a frame; what comes back."""
        for value in values:
            text = value if isinstance(value, bytes) else json.dumps(value).encode()
            self.line.send(masked(text, opcode))
        return self.take()

    def take(self) -> list[Frame]:
        """The frames that came."""
        return frames(self.line.take())

    def texts(self) -> list[Any]:
        """The JSON values that came, and nothing else."""
        found = self.take()
        assert all(frame.opcode == 1 for frame in found), found
        return [json.loads(line) for frame in found for line in frame.payload.split(b"\n")]

    def close(self) -> tuple[int, str]:
        """The code and reason with which the server closes, last of all that came."""
        return self.take()[-1].close


def memory_reactor() -> Any:
    """MemoryReactorClock, which is not a whole `Reactor`: it starts no processes or threads."""
    return MemoryReactorClock()


class Server:
    """The whole server on a reactor that stands still."""

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
    ):
        self.clock = clock or memory_reactor()
        self.own: bool | None = True
        """Whether requests come from a program of the server's own user; see `owner.is_own`."""
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
            is_own=lambda request: self.own,
            shortcuts=shortcuts,
            **more,
        )
        self.node = self.service.node
        self.site = self.service._site
        self.hub = self.node.hub

    def send_files(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Let it: twisted.web pumps them on the global reactor's clock."""
        cooperator = Cooperator(scheduler=lambda call: self.clock.callLater(0, call))
        monkeypatch.setattr(_producer_helpers, "cooperate", cooperator.cooperate)

    def publish(self, channel: str = "numbers", data: object = 1, event: str = "message") -> None:
        drive(self.node.publish(Draft(channel, json.dumps(data).encode(), event)))
        self.clock.advance(0)

    def connect(self, peer: str = "127.0.0.1", secure: bool = False) -> Line:
        """A connection that was just made."""
        address = IPv4Address("TCP", peer, 50000)
        line = Line(self.clock, address)
        if secure:
            directlyProvides(line, directlyProvidedBy(line), ISSLTransport)
        line.protocol = self.site.buildProtocol(address)
        assert line.protocol is not None
        line.protocol.makeConnection(line)
        return line

    def get(self, path: str, method: str = "GET", body: bytes = b"", /, **headers: str) -> Response:
        """The answer to one request on a connection of its own; `_` in names is `-`."""
        line = self.open(path, method, body, **headers)
        response = line.response(method)
        line.vanish()
        return response

    def open(self, path: str, method: str = "GET", body: bytes = b"", /, **headers: str) -> Line:
        """The connection on which a request was sent."""
        line = self.connect()
        line.send(request(path, method, body, **headers))
        return line

    def websocket(self, path: str, **headers: str) -> Socket:
        """An open WebSocket."""
        line = self.open(path, **handshake(**headers))
        answer = parse(line.take())
        assert answer.status == 101, answer
        socket = Socket(line, answer)
        socket.seen = frames(answer.rest)
        return socket

    def session(self, **headers: str) -> Socket:
        """A WebSocket on which the Centrifuge protocol is connected."""
        socket = self.websocket("/connection/websocket", **headers)
        (reply,) = socket.say({"id": 1, "connect": {}})
        assert b'"client"' in reply.payload
        return socket

    def advance(self, seconds: int) -> None:
        """Let time pass, second by second, without the service's own clocks."""
        for _ in range(seconds):
            self.clock.advance(1)
            while self.node.peers.tick(self.node.monotonic()):
                pass
        self.clock.advance(0)

    def is_empty(self) -> bool:
        """Whether nothing of anybody is left."""
        nobody = not self.hub.channels() and not len(self.node.peers)
        return nobody and not self.site.channels


def request(path: str, method: str = "GET", body: bytes = b"", /, **headers: str) -> bytes:
    """The bytes of a request; None as a header's value leaves it out."""
    fields = {"host": "localhost:8080", **headers}
    if body or method == "POST":
        fields.setdefault("content-length", str(len(body)))
    lines = [f"{method} {path} HTTP/1.1"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in fields.items() if value]
    return "\r\n".join([*lines, "", ""]).encode() + body


def handshake(**headers: str) -> dict[str, str]:
    """The headers that ask for a WebSocket."""
    return {
        "upgrade": "websocket",
        "connection": "Upgrade",
        "sec_websocket_key": KEY.decode(),
        "sec_websocket_version": "13",
        **headers,
    }


def set_autobahns_clock(clock: object) -> None:
    """Autobahn's own timers run on this; None for the global reactor."""
    cast(Any, txaio).config.loop = clock


def patched(target: object, name: str, value: Callable[..., Any]) -> None:
    """Replace a method of one object, whatever its class says about that."""
    cast(Any, target).__dict__[name] = value
