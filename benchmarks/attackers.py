"""The processes of an attack: the attackers, with raw sockets, and the canary."""

from __future__ import annotations

import multiprocessing
import re
import selectors
import socket
import struct
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from benchmarks.floods import KEY, Attack, request, upgrade

PORTION = 65_536
"""The bytes that are sent at once."""


class Canary:
    """Publishes to itself; one publication at a time."""

    def __init__(self, port: int):
        self._reader = dial(port)
        self._reader.sendall(upgrade("/channels/canary"))
        self._poster = dial(port)
        self._seen = b""
        self._number = 0

    def latency(self) -> float:
        """The seconds from a POST to the publication on the WebSocket; raises OSError."""
        self._number += 1
        body = b'"canary %d"' % self._number
        start = time.monotonic()
        self._poster.sendall(request("POST /channels/canary", f"X-API-Key: {KEY}", body=body))
        while body not in self._seen:
            data = self._reader.recv(PORTION)
            if not data:
                raise OSError("closed")
            self._seen = self._seen[-200:] + data
        seconds = time.monotonic() - start
        self._poster.recv(PORTION)
        return seconds


def watch(port: int, pipe: Connection) -> None:
    """Run a canary until the other side of the pipe says so; sends the latencies then."""
    canary = Canary(port)
    latencies: list[tuple[float, float]] = []
    lost = 0
    pipe.send("ready")
    while not pipe.poll():
        try:
            begun = time.monotonic()
            latencies.append((begun, canary.latency()))
        except OSError:
            lost += 1
            with suppress(OSError):
                canary = Canary(port)
        time.sleep(0.01)
    pipe.send((latencies, lost))


def dial(port: int, source: str = "") -> socket.socket:
    """Connect to the server, from this address."""
    connection = socket.create_connection(("127.0.0.1", port), 10, (source, 0) if source else None)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


class Peer:
    """One attacker."""

    def __init__(self, port: int, attack: Attack, selector: selectors.BaseSelector):
        self._port = port
        self._attack = attack
        self._selector = selector
        flood = attack.bytes
        repeats = max(1, PORTION // len(flood)) if flood else 0
        # A view: cutting off the sent part copies nothing.
        self._portion = memoryview(flood * repeats)
        self.ends: Counter[str] = Counter()
        self.sent = 0
        self._connect()

    def _connect(self) -> None:
        while True:
            try:
                self._socket = dial(self._port, self._attack.source)
                break
            except ConnectionResetError:
                # One too many, and closed before the call has returned.
                self.ends["reset"] += 1
        self._socket.setblocking(False)
        self._left = memoryview(self._attack.hello)
        self._greeted = not self._attack.waits
        self._started = False
        self._received = b""
        self._selector.register(self._socket, 3, self)

    def ready(self, events: int) -> None:
        """Read and write what the socket takes."""
        try:
            if events & selectors.EVENT_READ and not self._read():
                return
            if events & selectors.EVENT_WRITE:
                self._write()
        except BlockingIOError:
            pass
        except OSError as error:
            self._end(self._reason() or type(error).__name__)

    def _read(self) -> bool:
        if not self._attack.reads and self._greeted:
            self._selector.modify(self._socket, selectors.EVENT_WRITE, self)
            return True
        data = self._socket.recv(PORTION)
        if not data:
            self._end(self._reason() or "end")
            return False
        self._received = self._received[-600:] + data
        self._greeted = True
        return True

    def _write(self) -> None:
        if not self._left:
            if not self._greeted:
                return
            if not self._started:
                self._started = True
                self._left = memoryview(self._attack.first)
            elif self._attack.once:
                self._end("")
                return
            if not self._left:
                self._left = self._portion
        if self._left:
            sent = self._socket.send(self._left)
            self.sent += sent
            self._left = self._left[sent:]

    def _reason(self) -> str:
        """The last status or close code that was received."""
        data = self._received
        close = data.rfind(b"\x88")
        if self._attack.waits and close >= 0 and len(data) >= close + 4:
            (code,) = struct.unpack("!H", data[close + 2 : close + 4])
            if 1_000 <= code < 5_000:
                return str(code)
        statuses = re.findall(rb"HTTP/1\.1 (\d{3}) ", data)
        return statuses[-1].decode() if statuses else ""

    def _end(self, reason: str) -> None:
        if reason:
            self.ends[reason] += 1
        self._selector.unregister(self._socket)
        self._socket.close()
        self._connect()


def attack_with(port: int, attack: Attack, peers: int, pipe: Connection) -> None:
    """Run the attackers until the other side of the pipe says so; sends their counts then."""
    selector = selectors.DefaultSelector()
    all_peers: list[Peer] = []
    pipe.send("ready")
    while not pipe.poll():
        with suppress(OSError):
            if len(all_peers) < peers:
                all_peers.append(Peer(port, attack, selector))
        for key, events in selector.select(0.01):
            with suppress(OSError):
                key.data.ready(events)
    ends = sum((peer.ends for peer in all_peers), Counter())
    pipe.send((ends, sum(peer.sent for peer in all_peers)))


@dataclass(slots=True)
class Worker:
    """A process of this module."""

    process: Any
    pipe: Connection

    def stop(self) -> Any:
        """Ask for the results, and wait for the end."""
        self.pipe.send("stop")
        if not self.pipe.poll(30):
            self.process.kill()
            return None
        found = self.pipe.recv()
        self.process.join()
        return found


def start(work: Callable[..., None], *arguments: object) -> Worker:
    """Start a function in its own process, and wait until it is ready."""
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.Process(target=work, args=(*arguments, theirs), daemon=True)
    process.start()
    ours.recv()
    return Worker(process, ours)
