"""`python -m benchmarks.attacks`: floods of twenty peers, and the latency of an innocent client.

Each attack has a server of its own, on loopback, and lasts some seconds. A canary publishes to
itself all the time and for two seconds after the attack. The attackers are one process with raw
sockets; a peer that the server closes connects again at once.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import re
import selectors
import socket
import struct
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from benchmarks.processes import free_port, running

PEERS = 20
SECONDS = 5.0
AFTER_SECONDS = 2.0
KEY = "benchmark"
PORTION = 65_536
"""The bytes that an attacker sends at once."""

LATENCY_MILLISECONDS = 250
MEMORY_MIB = 64


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
STREAM = request("GET /channels/a", "Accept: text/event-stream")
LONG_POLL = request("GET /channels/a?wait=60&since=now")


@dataclass(frozen=True, slots=True)
class Attack:
    """What one peer does: it sends `hello`, waits for the answer to a handshake, then sends
    `first` once and `flood` without pause; `once`: it sends all of it once and closes."""

    name: str
    hello: bytes = b""
    first: bytes = b""
    flood: bytes = b""
    reads: bool = True
    once: bool = False


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
)


@dataclass(slots=True)
class Result:
    """The measurements of one attack; latencies in seconds."""

    name: str
    latencies: list[float] = field(default_factory=list)
    after: list[float] = field(default_factory=list)
    lost: int = 0
    ends: Counter[str] = field(default_factory=Counter)
    sent: int = 0
    cpu: float = 0.0
    memory: float = 0.0
    lines: int = 0
    tracebacks: int = 0
    descriptors: int = 0

    def row(self) -> str:
        """A row of the table."""
        ends = ", ".join(f"{count:,} × {end}" for end, count in self.ends.most_common(2))
        cells = (
            self.name,
            f"{milliseconds(self.latencies, 0.5)} / {milliseconds(self.latencies, 0.99)}",
            f"{milliseconds(self.after, 0.99)}",
            f"{self.lost}",
            f"{self.cpu:.0%}",
            f"+{self.memory:.0f} MiB",
            f"{self.descriptors:+d}",
            f"{self.lines}",
            f"{self.sent / 1e6:.1f} MB",
            ends or "none",
        )
        return "| " + " | ".join(cells) + " |"

    def complaints(self) -> list[str]:
        """The goals that were missed."""
        slow = percentile(self.latencies, 0.99) * 1_000
        found = []
        if slow > LATENCY_MILLISECONDS:
            found.append(f"p99 {slow:.0f} ms")
        if self.memory > MEMORY_MIB:
            found.append(f"memory +{self.memory:.0f} MiB")
        if self.lost:
            found.append(f"{self.lost} publications lost")
        if self.tracebacks:
            found.append(f"{self.tracebacks} tracebacks")
        if self.lines > 2 * (SECONDS + AFTER_SECONDS):
            found.append(f"{self.lines} lines in the log")
        return found


HEAD = (
    "| 20 peers send | canary p50 / p99 | p99 after | lost | CPU | memory | descriptors"
    " | log lines | sent | closed by the server |\n" + "| --- " * 10 + "|"
)


def percentile(values: list[float], part: float) -> float:
    """The value below which this part of the values is; infinite without values."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))] if ordered else float("inf")


def milliseconds(values: list[float], part: float) -> str:
    """A percentile as text."""
    if not values:
        return "none"
    return f"{percentile(values, part) * 1_000:.0f} ms"


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


def dial(port: int) -> socket.socket:
    """Connect to the server."""
    connection = socket.create_connection(("127.0.0.1", port), 10)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


class Peer:
    """One attacker."""

    def __init__(self, port: int, attack: Attack, selector: selectors.BaseSelector):
        self._port = port
        self._attack = attack
        self._selector = selector
        repeats = max(1, PORTION // len(attack.flood)) if attack.flood else 0
        self._portion = attack.flood * repeats
        self.ends: Counter[str] = Counter()
        self.sent = 0
        self._connect()

    def _connect(self) -> None:
        self._socket = dial(self._port)
        self._socket.setblocking(False)
        self._left = self._attack.hello
        self._greeted = not self._attack.hello.startswith(RAW[:4]) or self._attack.once
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
                self._left = self._attack.first
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
        if self._attack.hello.startswith(b"GET") and close >= 0 and len(data) >= close + 4:
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


def resident(pid: int) -> float:
    """The memory of a process in MiB."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


def cpu_seconds(pid: int) -> float:
    """The CPU time of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def descriptors(pid: int) -> int:
    """The number of open files of a process."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def fill(port: int) -> None:
    """Publish a history of one megabyte to the channel `big`."""
    with closing(dial(port)) as connection:
        for _ in range(100):
            body = b'"%s"' % (b"x" * 9_900)
            connection.sendall(request("POST /channels/big", f"X-API-Key: {KEY}", body=body))
            connection.recv(PORTION)


def carry_out(attack: Attack, seconds: float, peers: int = PEERS) -> Result:
    """Run one attack against a server of its own."""
    result = Result(attack.name)
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="pushserver-attack-") as folder:
        pages = Path(folder, "pages")
        pages.mkdir()
        with Path(pages, "big.bin").open("wb") as big:
            big.truncate(30_000_000)
        environment = {
            "PUSHSERVER_AUTH_API_KEYS": KEY,
            "PUSHSERVER_SERVER_PAGES": str(pages),
            "PYTHONPATH": ".",
        }
        command = [sys.executable, "-m", "twisted.scripts.twistd", "--nodaemon", "--pidfile="]
        command = [str(Path(sys.executable).with_name("twistd")), "--nodaemon", "--pidfile="]
        command += ["pushserver", "--listen", f"tcp:{port}:interface=127.0.0.1"]
        log = Path(folder, "log")
        with running(command, port, log, environment) as (pid, *_):
            fill(port)
            canary = start(watch, port)
            time.sleep(0.5)
            before, files = resident(pid), descriptors(pid)
            said = len(log.read_text("utf-8", "replace").splitlines())
            attackers = start(attack_with, port, attack, peers)
            begin, spent = time.monotonic(), cpu_seconds(pid)
            for memory in sampled(pid, seconds):
                result.memory = max(result.memory, memory - before)
            end = time.monotonic()
            result.cpu = (cpu_seconds(pid) - spent) / (end - begin)
            counts = attackers.stop()
            if counts is not None:
                result.ends, result.sent = counts
            stopped = time.monotonic()
            time.sleep(AFTER_SECONDS)
            result.descriptors = descriptors(pid) - files
            latencies, result.lost = canary.stop() or ([], 1)
            result.latencies = [value for at, value in latencies if begin <= at < end]
            result.after = [value for at, value in latencies if at >= stopped]
            text = log.read_text("utf-8", "replace")
            result.lines = len(text.splitlines()) - said
            result.tracebacks = text.count("Traceback")
    return result


def sampled(pid: int, seconds: float) -> Iterator[float]:
    """The memory of the process, twenty times a second."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        yield resident(pid)
        time.sleep(0.05)


def main() -> int:
    """Run the command line; returns 1 if a goal was missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.attacks", description=__doc__)
    parser.add_argument("--only", default="", help="only attacks with this in their name")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of each attack")
    parser.add_argument("--peers", type=int, default=PEERS, help="of each attack")
    options = parser.parse_args()
    say(HEAD)
    missed = []
    for attack in ATTACKS:
        if options.only in attack.name:
            result = carry_out(attack, options.seconds, options.peers)
            say(result.row())
            missed += [f"{attack.name}: {text}" for text in result.complaints()]
    for text in missed:
        say(f"MISSED: {text}")
    return 1 if missed else 0


def say(text: str) -> None:
    """Print one line at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    raise SystemExit(main())
