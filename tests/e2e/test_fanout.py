"""Many clients of every kind on every kind of port; some of them read slowly or not at all."""

from __future__ import annotations

import json
import selectors
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.certificate import certificate
from tests.e2e.exchange import ask, publish
from tests.e2e.server import Server, free_port, running

CHANNEL = "numbers"
PATIENCE = 30.0
"""Seconds after which a missing event is a failure."""

WEBSOCKET = (
    b"GET /%b HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
SUBSCRIBE = b'{"id":1,"connect":{}}\n{"id":2,"subscribe":{"channel":"numbers"}}'


def masked(text: bytes) -> bytes:
    """A frame of a client, with a mask that changes no byte."""
    assert len(text) < 126
    return bytes([0x81, 0x80 | len(text), 0, 0, 0, 0]) + text


def frame_end(data: bytearray) -> int:
    """The end of the first WebSocket frame; beyond the data if the frame is incomplete."""
    length, begin = data[1] if len(data) > 1 else 0, 2
    if length > 125:
        begin += 2 if length == 126 else 8
        length = int.from_bytes(data[2:begin], "big")
    return begin + length


def chunk_end(data: bytearray) -> int:
    """The end of the first chunk of HTTP/1.1, likewise."""
    head = data.find(b"\r\n")
    return len(data) + 1 if head < 0 else head + 2 + int(data[:head], 16) + 2


Connect = Callable[[], socket.socket]

KINDS: dict[str, tuple[bytes, Callable[[bytearray], int]]] = {
    "raw": (WEBSOCKET % b"channels/numbers", frame_end),
    "centrifuge": (WEBSOCKET % b"connection/websocket", frame_end),
    "sse": (
        b"GET /channels/numbers HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n",
        chunk_end,
    ),
}
COMMON: dict[bytes, bytes] = {}
"""Each different frame once, so that equal frames of many clients share memory."""


class Subscriber:
    """A subscribed connection, and the frames with publications that it received."""

    def __init__(self, kind: str, connection: socket.socket):
        self.kind = kind
        self.socket = connection
        self.frames: list[bytes] = []
        self._parts = 0
        self._rest = bytearray()
        begin, self._end = KINDS[kind]
        connection.settimeout(PATIENCE)
        connection.sendall(begin)
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += connection.recv(1)
        assert head.startswith(b"HTTP/1.1 101" if kind != "sse" else b"HTTP/1.1 200"), head
        if kind == "centrifuge":
            connection.sendall(masked(SUBSCRIBE))
        while self._parts < (2 if kind == "centrifuge" else 1):
            assert self.read(), "ended while it began"

    def read(self, size: int = 1 << 18) -> bool:
        """Read the available bytes; False at the end."""
        data = self.socket.recv(size)
        self._rest += data
        while self._rest and (end := self._end(self._rest)) <= len(self._rest):
            frame = bytes(self._rest[:end])
            del self._rest[:end]
            self._parts += 1
            if b'"n":' in frame:
                self.frames.append(COMMON.setdefault(frame, frame))
        return bool(data)

    def read_until(self, count: int) -> None:
        """Wait until it has this number of publications."""
        while len(self.frames) < count:
            assert self.read(), "ended"

    def read_up(self) -> None:
        """Read the rest, to the end or to an error."""
        try:
            while self.read():
                pass
        except (ConnectionError, ssl.SSLEOFError):
            pass

    def numbers(self) -> list[int]:
        """The numbers of the received publications."""
        return [self._object(frame)["data"]["n"] for frame in self.frames]

    def _object(self, frame: bytes) -> Any:
        value = json.loads(frame[frame.index(b"{") : frame.rindex(b"}") + 1])
        return value["push"]["pub"] if self.kind == "centrifuge" else value


@contextmanager
def serving(folder: Path, limits: str, *listen: str) -> Iterator[Server]:
    """A server that listens on more endpoints; see `server.running`."""
    config = folder / "pushserver.toml"
    config.write_text(f"[sources]\n[limits]\n{limits}\n")
    more = [word for endpoint in listen for word in ("--listen", endpoint)]
    with running(Server(folder, "--config", str(config), *more)) as server:
        yield server
        COMMON.clear()


def tcp(port: int, buffer: int = 0) -> socket.socket:
    """A connection; `buffer` is the size of its receive buffer, 0 for the default."""
    connection = socket.socket()
    connection.settimeout(PATIENCE)
    if buffer:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    connection.connect(("127.0.0.1", port))
    return connection


def ended(server: Server) -> dict[str, int]:
    """The number of connections that the server closed, by code."""
    answer = ask(server, "POST", "api/info", b"{}")
    assert answer.status == 200, answer
    [node] = json.loads(answer.body)["result"]["nodes"]
    items: dict[str, float] = node["metrics"]["items"]
    return {name.rpartition(".")[2]: int(count) for name, count in items.items() if "ended" in name}


def read_all(subscribers: list[Subscriber], count: int) -> None:
    """Read all side by side until each has this number of publications."""
    deadline = time.monotonic() + PATIENCE
    behind = {s for s in subscribers if len(s.frames) < count}
    with selectors.DefaultSelector() as selector:
        for subscriber in behind:
            selector.register(subscriber.socket, selectors.EVENT_READ, subscriber)
        while behind:
            assert time.monotonic() < deadline, f"{len(behind)} still wait for {count}"
            for key, _ in selector.select(1.0):
                subscriber = key.data
                assert subscriber.read(), "ended"
                if len(subscriber.frames) >= count:
                    behind.discard(subscriber)
                    selector.unregister(subscriber.socket)


def test_readers_get_everything_and_a_stalled_client_is_dropped_and_counted(
    tmp_path: Path,
) -> None:
    kinds = ["raw", "sse", "centrifuge"]
    limits = "queue_bytes = 100_000\nqueue_seconds = 1_000.0"
    with serving(tmp_path, limits) as server, ExitStack() as stack:

        def subscriber(number: int, buffer: int = 0) -> Subscriber:
            connection = stack.enter_context(tcp(server.port, buffer))
            return Subscriber(kinds[number % 3], connection)

        stuck = [subscriber(n, 4096) for n in range(15)]
        slow = [subscriber(n, 4096) for n in range(15)]
        quick = [subscriber(n) for n in range(170)]
        dropped = {"1013": 10, "3008": 5}
        count = 0
        while ended(server) != dropped:
            assert count < 200, ended(server)
            for _ in range(5):
                publish(server, CHANNEL, {"n": count, "p": "x" * 20_000})
                count += 1
                read_all(quick, count)
            # By now the buffers of the kernel are full for them, or nearly.
            if count % 25 == 0:
                read_all(slow, count)
        publish(server, CHANNEL, {"n": count, "p": ""})
        count += 1
        read_all(quick + slow, count)
        assert ended(server) == dropped
        everything = {s.kind: s.frames for s in quick[:3]}
        for one in quick[:3]:
            assert one.numbers() == list(range(count))
        for one in quick + slow:
            assert one.frames == everything[one.kind]
        for one in stuck:
            one.read_up()
            assert len(one.frames) < count
            assert one.frames == everything[one.kind][: len(one.frames)]


@contextmanager
def serving_everywhere(folder: Path, limits: str = "") -> Iterator[tuple[Server, dict[str, Any]]]:
    """A server on three kinds of ports, and a function to connect to each."""
    key, path = certificate(folder)
    port, unix = free_port(), folder / "socket"
    trust = ssl.create_default_context(cafile=str(path))

    def tls(buffer: int = 0) -> socket.socket:
        return trust.wrap_socket(tcp(port, buffer), server_hostname="127.0.0.1")

    def by_file(buffer: int = 0) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(str(unix))
        return connection

    endpoint = f"ssl:{port}:privateKey={key}:certKey={path}:interface=127.0.0.1"
    with serving(folder, limits, endpoint, f"unix:{unix}") as server:

        def plain(buffer: int = 0) -> socket.socket:
            return tcp(server.port, buffer)

        yield server, {"plain": plain, "tls": tls, "unix": by_file}


def test_every_port_sends_the_same_frames_byte_for_byte(tmp_path: Path) -> None:
    with serving_everywhere(tmp_path) as (server, ports), ExitStack() as stack:
        found = {
            (kind, port): Subscriber(kind, stack.enter_context(connect()))
            for port, connect in ports.items()
            for kind in KINDS
        }
        sizes = [0, 10, 125, 126, 65_000, 65_535, 100_000, 1]
        for number, size in enumerate(sizes):
            publish(server, CHANNEL, {"n": number, "p": "x" * size})
        for subscriber in found.values():
            subscriber.read_until(len(sizes))
        for kind in KINDS:
            expected = found[kind, "plain"]
            assert expected.numbers() == list(range(len(sizes)))
            for port in ports:
                assert found[kind, port].frames == expected.frames


@pytest.mark.parametrize("port", ["plain", "tls", "unix"])
def test_a_stalled_client_is_dropped_on_every_port_and_others_read_on(
    tmp_path: Path, port: str
) -> None:
    limits = "queue_bytes = 100_000\nqueue_seconds = 1_000.0"
    with serving_everywhere(tmp_path, limits) as (server, ports), ExitStack() as stack:
        stuck, other = (
            Subscriber("raw", stack.enter_context(ports[port](buffer))) for buffer in (4096, 0)
        )
        count = 0
        while not ended(server):
            # 4 MB may be in the kernel where its share is not bounded.
            assert count < 150, "never dropped"
            publish(server, CHANNEL, {"n": count, "p": "x" * 60_000})
            count += 1
            other.read_until(count)
        assert ended(server) == {"1013": 1}
        stuck.read_up()
        assert stuck.frames == other.frames[: len(stuck.frames)]
        assert other.numbers() == list(range(count))
