"""The time of a lone publication from its POST to a subscriber, through workers and without.

One process and one with two workers run at the same time, and get a publication in turn: both are
idle before each. The client spins on its sockets, so nothing has to wake it. With a priority below
0 all have a real-time one: other work on the machine delays an idle process by milliseconds.
"""

from __future__ import annotations

import base64
import os
import socket
import struct
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, suppress
from pathlib import Path

from benchmarks.contestants import Contestant, Place, with_workers
from benchmarks.measure import FEED_BYTES, Failed
from benchmarks.processes import Cores, free_port, on_core, pinned, running
from benchmarks.results import Run

SAMPLES = 600
WARMUP = 50
"""Publications before the samples."""
PAUSE_SECONDS = 0.003
LONGEST_SECONDS = 5.0
MOST_CONNECTIONS = 100
"""The most connections until there is one at each worker."""
CHANNEL = "/channels/lone"
READER = (
    "GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
POST = (
    "POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
    "Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
)


def lone(cores: Cores, samples: int = SAMPLES) -> Run:
    """Measure; raises DidNotStart and Failed. Times are in microseconds, by the subscriber."""
    with ExitStack() as stack:
        sides = [_start(with_workers(count), cores, stack) for count in (1, 2)]
        times: dict[str, list[float]] = {}
        with on_core(cores.tool):
            _hurry(cores, 0)
            for number in range(WARMUP + samples):
                for side in sides:
                    time.sleep(PAUSE_SECONDS)
                    for name, taken in side.publish(number):
                        if number >= WARMUP:
                            times.setdefault(name, []).append(taken)
            _hurry(cores, 0, os.SCHED_OTHER)
    told = {"groups": [], "times_us": times}
    return Run("pushserver", "websocket", "lone", 1, 1 / PAUSE_SECONDS, told)


class Side:
    """A server with its subscribers by name, and the connection of the publisher."""

    def __init__(self, port: int, publisher: socket.socket, readers: Mapping[str, socket.socket]):
        self._port = port
        self._publisher = publisher
        self._readers = readers

    def publish(self, number: int) -> list[tuple[str, float]]:
        """Publish, and return the microseconds until each subscriber had it."""
        body = f'{{"n":{number}}}'
        post = POST.format(path=CHANNEL, port=self._port, length=len(body), body=body)
        found = []
        waiting = {self._publisher: "the answer", **{s: n for n, s in self._readers.items()}}
        begin = time.perf_counter_ns()
        self._publisher.sendall(post.encode())
        while waiting:
            for connection in tuple(waiting):
                try:
                    data = connection.recv(65536)
                except BlockingIOError:
                    continue
                at = time.perf_counter_ns()
                name = waiting.pop(connection)
                expected = b"HTTP/1.1 201" if name == "the answer" else b'"n":%d}' % number
                if expected not in data:
                    raise Failed(f"a lone publication: {name} got {data[:200]!r}")
                if name != "the answer":
                    found.append((name, (at - begin) / 1000))
            if time.perf_counter_ns() - begin > LONGEST_SECONDS * 1e9:
                raise Failed(f"a lone publication did not come: {', '.join(waiting.values())}")
        return found


def _start(server: Contestant, cores: Cores, stack: ExitStack) -> Side:
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pushserver-bench-")))
    feed = folder / "feed"
    feed.write_bytes(bytes(FEED_BYTES))
    place = Place(free_port(), feed, folder, channels=0)
    command = pinned(cores.server, cores.nice, server.command(place))
    log = folder / "server.log"
    several = server.workers > 1
    pids = stack.enter_context(
        running(command, place.port, log, server.environment, has_workers=several)
    )
    for pid in pids:
        _hurry(cores, pid)
    publisher = stack.enter_context(closing(_connected(place.port)))
    if not several:
        return Side(place.port, publisher, {"one process": _reader(place.port, stack)})
    here = _holder(publisher, pids)
    readers: dict[str, socket.socket] = {}
    for _ in range(MOST_CONNECTIONS):
        reader = _reader(place.port, stack)
        same = _holder(reader, pids) == here
        readers.setdefault("the same worker" if same else "the other worker", reader)
        if len(readers) == 2:
            return Side(place.port, publisher, readers)
        # The next connection is likely to get another worker; this one may stay.
    raise Failed(f"{MOST_CONNECTIONS} connections are all at one worker")


def _hurry(cores: Cores, pid: int, policy: int = os.SCHED_FIFO) -> None:
    """Give a process a real-time priority, or its usual one again."""
    if cores.nice < 0:
        priority = 1 if policy == os.SCHED_FIFO else 0
        os.sched_setscheduler(pid, policy, os.sched_param(priority))


def _connected(port: int) -> socket.socket:
    found = socket.create_connection(("127.0.0.1", port), LONGEST_SECONDS)
    found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    found.setblocking(False)
    return found


def _reader(port: int, stack: ExitStack) -> socket.socket:
    """A subscriber that has its position."""
    found = stack.enter_context(closing(_connected(port)))
    found.settimeout(LONGEST_SECONDS)
    key = base64.b64encode(bytes(16)).decode()
    found.sendall(READER.format(path=CHANNEL, port=port, key=key).encode())
    data = b""
    while b"\r\n\r\n" not in data or not data.partition(b"\r\n\r\n")[2]:
        got = found.recv(65536)
        if not got:
            raise Failed(f"a subscriber was refused: {data[:200]!r}")
        data += got
    found.setblocking(False)
    return found


def _holder(client: socket.socket, pids: Sequence[int]) -> int:
    """The process that has the other end of a connection; raises Failed."""
    end = time.monotonic() + LONGEST_SECONDS
    while time.monotonic() < end:
        names = _inodes(client.getsockname(), client.getpeername())
        wanted = {f"socket:[{inode}]" for inode in names}
        for pid in pids:
            for descriptor in Path(f"/proc/{pid}/fd").iterdir():
                with suppress(FileNotFoundError):
                    if str(descriptor.readlink()) in wanted:
                        return pid
        time.sleep(0.01)
    raise Failed("no process has accepted the connection")


def _inodes(client: tuple[str, int], server: tuple[str, int]) -> Iterator[str]:
    """The inodes of the server's sockets of this connection."""
    for line in Path("/proc/net/tcp").read_text("ascii").splitlines()[1:]:
        fields = line.split()
        if (fields[1], fields[2]) == (_hexadecimal(server), _hexadecimal(client)):
            yield fields[9]


def _hexadecimal(address: tuple[str, int]) -> str:
    host, port = address
    (number,) = struct.unpack("=I", socket.inet_aton(host))
    return f"{number:08X}:{port:04X}"
