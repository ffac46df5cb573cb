"""Several servers on one Redis: what a publication costs Redis and each server, beside Socket.IO.

Each figure is CPU time, of the process that it names, by its own clock; so other work on the
machine makes it a little larger, and not several times. Times are of the wall.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks import build, machine
from benchmarks.build import CHECKOUT, HERE
from benchmarks.contestants import PRODUCT, toml
from benchmarks.floods import frame, upgrade
from benchmarks.measure import Failed
from benchmarks.processes import Cores, free_port, pinned, running
from pushserver.channels.channel import ChannelOptions
from pushserver.channels.publication import Draft
from pushserver.redis import scripts
from pushserver.redis.connection import SCRIPTS
from pushserver.redis.keys import Keys
from pushserver.redis.scripts import Bounds

CHANNELS = 100
BODY = b'{"seq":100000,"stamp":1796000000000000,"pad":"' + 50 * b"x" + b'"}'
WINDOWS, SHORT_WINDOWS = 3, 10
"""The number of windows; of many short ones, some are undisturbed by other work."""
SECONDS = 3.0
RATE = 500.0
"""Publications a second that each server can take."""
LONE_RATE = 20.0
LONE = 200
AT_ONCE = 500
"""Commands in one write."""
FLOOD = 10_000
"""Publications of a short window."""
CATCH_UP = 10_000
SIMULATED, STRETCH, RATES = 50, 20, (1_000.0, 10_000.0)
ENGINE = "/socket.io/?EIO=4&transport=websocket"
VERSIONS = (*build.REDIS_NODE_PEERS, build.REDIS_PYTHON_PEERS[0])
STAMP = re.compile(rb'"stamp":(\d+)')


@dataclass
class Figures:
    """What was measured: by name, each value of a window."""

    values: dict[str, list[float]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    machine: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    when: str = ""

    def add(self, name: str, value: float) -> None:
        """Keep a value."""
        self.values.setdefault(name, []).append(value)

    def middle(self, name: str) -> float | None:
        """The median."""
        found = self.values.get(name)
        return statistics.median(found) if found else None

    def least(self, name: str) -> float | None:
        """The least value, which other work on the machine has changed least."""
        return min(self.values.get(name, ()), default=None)

    def to_json(self) -> str:
        """All of it."""
        return json.dumps(asdict(self), indent=1)


def cpu_of(pid: int) -> float:
    """The seconds of CPU that a process has used."""
    return time.clock_gettime((~pid << 3) | 2)


def with_children(pids: Sequence[int]) -> float:
    """The seconds of CPU of some processes."""
    return sum(map(cpu_of, pids))


def _packed(*command: Any) -> bytes:
    """A command as it is sent."""
    from hiredis import pack_command

    packed: bytes = pack_command(command)
    return packed


class Redis:
    """A server of Redis, and a connection to it."""

    def __init__(self, port: int, pid: int):
        from hiredis import Reader

        self.port, self.pid = port, pid
        self.url = f"redis://127.0.0.1:{port}"
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._reader = Reader()

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()

    def __call__(self, *command: bytes | str | int) -> Any:
        """The answer to a command."""
        [answer] = self.pipeline([_packed(*command)])
        return answer

    def pipeline(self, commands: Sequence[bytes]) -> list[Any]:
        """The answers to packed commands, which are sent in one write."""
        self._socket.sendall(b"".join(commands))
        answers: list[Any] = []
        while len(answers) < len(commands):
            self._reader.feed(self._socket.recv(1 << 18))
            while (answer := self._reader.gets()) is not False:
                if isinstance(answer, Exception):
                    raise Failed(str(answer))
                answers.append(answer)
        return answers


@contextmanager
def redis_server(cores: Cores, folder: Path) -> Iterator[Redis]:
    """Redis, which keeps nothing, on the core of the servers."""
    if find_spec("hiredis") is None:
        raise build.Missing("pip install 'pushserver[redis]'")
    program = shutil.which("redis-server") or shutil.which("redis-check-rdb")
    if program is None:
        raise build.Missing("Redis is not installed: apt-get install redis-server")
    port = free_port()
    options = ["--port", str(port), "--save", "", "--appendonly", "no", "--bind", "127.0.0.1"]
    script = 'exec -a redis-server "$0" "$@"'
    command = pinned(cores.server, cores.nice, ["bash", "-c", script, program, *options])
    with (
        running(command, port, folder / "redis.log", {}) as pids,
        closing(Redis(port, pids[0])) as redis,
    ):
        yield redis


class Publisher:
    """A node that only publishes: the same commands as the product's, made before they are sent."""

    def __init__(self, redis: Redis):
        self.redis = redis
        self.keys, self._counter = Keys(), 0
        for script in SCRIPTS:
            redis("SCRIPT", "LOAD", script.text)
        run = re.search(rb"run_id:(\w+)", redis("INFO", "server"))
        assert run is not None, "no run"
        self._run = run[1].decode()
        attach = scripts.attach(self.keys, self._run, "epoch", False, "publisher")
        redis(*attach.evalsha)

    def commands(self, count: int) -> list[bytes]:
        """The next publications, in turn in all channels."""
        packed = []
        for _ in range(count):
            self._counter += 1
            draft = Draft(f"bench:{self._counter % CHANNELS}", BODY)
            call = scripts.publish(
                self.keys,
                self._run,
                "publisher",
                self._counter,
                draft,
                ChannelOptions(),
                Bounds(),
            )
            packed.append(_packed(*call.evalsha))
        return packed

    def publish(self, count: int) -> None:
        """Publish as fast as possible."""
        commands = self.commands(count)
        for start in range(0, count, AT_ONCE):
            self.redis.pipeline(commands[start : start + AT_ONCE])


class Nodes:
    """A process with nodes that follow the log."""

    def __init__(self, url: str, count: int, followed: int, cores: Cores, stretch: int = 1):
        module = [sys.executable, "-m", "benchmarks.servers.redis_nodes"]
        numbers = map(str, (count, followed, stretch))
        self._process = subprocess.Popen(
            pinned(cores.server, cores.nice, [*module, url, *numbers]),
            cwd=CHECKOUT,
            env=os.environ | {"PYTHONPATH": str(CHECKOUT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.pid = self._process.pid

    def ask(self) -> dict[str, float]:
        """Its state."""
        assert self._process.stdin is not None, "no standard input"
        assert self._process.stdout is not None, "no standard output"
        self._process.stdin.write("?\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise Failed("the nodes have ended")
        found: dict[str, float] = json.loads(line)
        return found

    def until(self, least: float) -> dict[str, float]:
        """Wait until each node has read so much."""
        end = time.monotonic() + 60
        while time.monotonic() < end:
            found = self.ask()
            if found["least"] >= least:
                return found
            time.sleep(0.005)
        raise Failed(f"the nodes have read {found['least']:.0f} of {least:.0f}")

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.communicate()


# --- the parts ---------------------------------------


def floors(redis: Redis, found: Figures) -> None:
    """The costs of bare commands: XADD in a pipeline, and XREAD by a client in C."""
    add = _packed("XADD", "floor", "MAXLEN", "~", "10000", "*", "d", BODY)
    for _ in range(SHORT_WINDOWS):
        begun, cpu = time.monotonic(), cpu_of(redis.pid)
        for _ in range(FLOOD // AT_ONCE):
            redis.pipeline([add] * AT_ONCE)
        found.add("floor XADD, us of Redis", (cpu_of(redis.pid) - cpu) / FLOOD * 1e6)
        found.add("floor XADD, a second", FLOOD / (time.monotonic() - begun))
    read = _packed("XREAD", "COUNT", "512", "STREAMS", "floor", "0")
    for _ in range(SHORT_WINDOWS):
        cpu, own = cpu_of(redis.pid), time.process_time()
        for _ in range(20):
            redis.pipeline([read])
        found.add("floor XREAD, us of Redis", (cpu_of(redis.pid) - cpu) / 10_240 * 1e6)
        found.add("floor XREAD, us of the reader", (time.process_time() - own) / 10_240 * 1e6)
    redis("DEL", "floor")


def throughput(redis: Redis, found: Figures) -> None:
    """Publications through one Redis, as fast as it can."""
    publisher = Publisher(redis)
    publisher.publish(40_000)
    for _ in range(SHORT_WINDOWS):
        commands = publisher.commands(FLOOD)
        begun, cpu = time.monotonic(), cpu_of(redis.pid)
        for start in range(0, len(commands), AT_ONCE):
            publisher.redis.pipeline(commands[start : start + AT_ONCE])
        taken = time.monotonic() - begun
        found.add("publish, a second", len(commands) / taken)
        found.add("publish, us of Redis", (cpu_of(redis.pid) - cpu) / len(commands) * 1e6)


def following(redis: Redis, cores: Cores, found: Figures) -> None:
    """What a publication costs a node that nobody asks for it; and a node that comes back."""
    publisher = Publisher(redis)
    publisher.publish(1_000)
    with closing(Nodes(redis.url, 1, 0, cores)) as nodes:
        for _ in range(SHORT_WINDOWS):
            before = nodes.ask()
            publisher.publish(FLOOD)
            after = nodes.until(before["least"] + FLOOD)
            found.add("unwatched, us of the node", (after["cpu"] - before["cpu"]) / FLOOD * 1e6)
    with closing(Nodes(redis.url, 1, CHANNELS // 10, cores)) as nodes:
        for _ in range(WINDOWS):
            before = nodes.ask()
            os.kill(nodes.pid, signal.SIGSTOP)
            try:
                publisher.publish(CATCH_UP - CATCH_UP // 100)
                redis("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            finally:
                os.kill(nodes.pid, signal.SIGCONT)
            begun = time.monotonic()
            after = nodes.until(before["least"] + CATCH_UP - CATCH_UP // 100)
            if after["losses"] == before["losses"]:
                raise Failed("the node did not lose its connection")
            found.add("catching up, ms", (time.monotonic() - begun) * 1e3)
            found.add("catching up, ms of CPU", (after["cpu"] - before["cpu"]) * 1e3)


def simulation(redis: Redis, cores: Cores, found: Figures, rate: float) -> None:
    """Fifty nodes in two processes, each with ten channels of a hundred.

    They share a core with Redis, so the time is stretched: all intervals between publications, and
    between the reads of a node, are STRETCH times as long. What the nodes and Redis do without
    publications is measured first, and subtracted.
    """
    publisher, name = Publisher(redis), f"{SIMULATED} nodes, {rate:,.0f}/s"
    publisher.publish(1_000)
    with ExitStack() as stack:
        halves = [
            stack.enter_context(
                closing(Nodes(redis.url, SIMULATED // 2, CHANNELS // 10, cores, STRETCH))
            )
            for _ in range(2)
        ]
        # The first answers have the histories of their channels.
        first = [half.ask() for half in halves]
        pids = [half.pid for half in halves]
        begun = cpu_of(redis.pid), with_children(pids)
        time.sleep(2 * SECONDS)
        idle = cpu_of(redis.pid) - begun[0], with_children(pids) - begun[1]
        if rate == RATES[0]:
            found.add("an idle node, % of a core", idle[1] / SIMULATED / SECONDS / 2 * 100)
            found.add("an idle node, % of Redis", idle[0] / SIMULATED / SECONDS / 2 * 100)
        published = 0
        for _ in range(WINDOWS):
            begun = cpu_of(redis.pid), with_children(pids)
            count = round(rate / STRETCH * 2 * SECONDS)
            _evenly(publisher, count, rate / STRETCH)
            published += count
            used = cpu_of(redis.pid) - begun[0], with_children(pids) - begun[1]
            found.add(f"{name}, us of Redis", (used[0] - idle[0]) / count * 1e6)
            found.add(f"{name}, us of each node", (used[1] - idle[1]) / SIMULATED / count * 1e6)
        states = [
            half.until(state["least"] + published)
            for half, state in zip(halves, first, strict=True)
        ]
        if sum(state["losses"] for state in states):
            raise Failed("a node has lost its connection")
        memory = re.search(rb"used_memory:(\d+)", redis("INFO", "memory"))
        assert memory is not None, "no memory"
        found.add(f"{name}, MB of Redis", int(memory[1]) / 1e6)


def _evenly(publisher: Publisher, count: int, rate: float) -> None:
    """Publish one by one, at this rate a second."""
    commands, begun = publisher.commands(count), time.monotonic()
    for number, command in enumerate(commands):
        time.sleep(max(0.0, begun + number / rate - time.monotonic()))
        publisher.redis.pipeline([command])
    time.sleep(max(0.0, begun + count / rate - time.monotonic()))


# --- pairs of servers ---------------------------------------


@dataclass(frozen=True)
class Pair:
    """Two servers on one Redis; `command` makes that of one, with its feed, port and Redis."""

    name: str
    command: Callable[[Path, int, str], list[str]]
    path: str
    hello: bytes = b""
    environment: Mapping[str, str] = field(default_factory=dict)
    tells_readiness: bool = False


def _product(feed: Path, port: int, url: str) -> list[str]:
    sections: dict[str, dict[str, object]] = {
        "server": {"listen": [f"tcp:{port}:interface=127.0.0.1"]},
        "sources.feed": {"type": "random", "channel": "bench"},
        "broker": {"url": url},
    }
    config = feed.with_suffix(".toml")
    config.write_text(toml(sections), "utf-8")
    program = [sys.executable, "-m", "benchmarks.servers.product"]
    return [*program, str(feed), "1", "--config", str(config)]


def _python(feed: Path, port: int, url: str) -> list[str]:
    python = str(build.python_peers(build.REDIS_PYTHON_PEERS))
    return [python, "-m", "benchmarks.servers.socketio_peer", str(feed), str(port), url]


def _node(kind: str, feed: Path, port: int, url: str) -> list[str]:
    modules = str(build.node_peers(build.REDIS_NODE_PEERS))
    script = str(HERE / "servers" / "socketio_peer.js")
    return ["node", script, modules, str(feed), str(port), url, kind]


CONNECT = frame(1, b"40")
PAIRS = (
    Pair(
        "pushserver",
        _product,
        "/channels/bench",
        environment=PRODUCT.environment,
        tells_readiness=True,
    ),
    Pair("Socket.IO, redis-adapter", partial(_node, "pubsub"), ENGINE, CONNECT),
    Pair("Socket.IO, redis-streams-adapter", partial(_node, "streams"), ENGINE, CONNECT),
    Pair("python-socketio, AsyncRedisManager", _python, ENGINE, CONNECT),
)


def pair(kind: Pair, cores: Cores, found: Figures) -> None:
    """What a publication costs its server, Redis and another server; and its way to a client."""
    with tempfile.TemporaryDirectory(prefix="pushserver-bench-") as name, ExitStack() as stack:
        folder = Path(name)
        redis = stack.enter_context(redis_server(cores, folder))
        ports, pids, feeds = [], [], []
        for number in range(2):
            feed, port = folder / f"feed{number}", free_port()
            feed.write_bytes(struct.pack("=dQQ", 0.0, 0, 98))
            command = pinned(cores.server, cores.nice, kind.command(feed, port, redis.url))
            log = folder / f"{number}.log"
            started = running(command, port, log, kind.environment, kind.tells_readiness)
            pids.append(stack.enter_context(started))
            ports.append(port)
            feeds.append(feed)
        # python-socketio listens to Redis from its first client on.
        for port in ports:
            _client(kind, port).close()
        time.sleep(1.0)
        for _ in range(WINDOWS):
            _cost(kind.name, feeds[0], [[redis.pid], *pids], found)
        with closing(_client(kind, ports[1])) as client:
            _lone(kind.name, feeds[0], client, found)


def _cost(name: str, feed: Path, pids: Sequence[Sequence[int]], found: Figures) -> None:
    _set_rate(feed, RATE)
    time.sleep(0.5)
    before, first = [with_children(each) for each in pids], _published(feed)
    time.sleep(SECONDS)
    after, last = [with_children(each) for each in pids], _published(feed)
    _set_rate(feed, 0.0)
    time.sleep(0.5)
    if last - first < RATE * SECONDS / 4:
        raise Failed(f"{last - first} publications in {SECONDS:.0f} s")
    for role, begun, ended in zip(("Redis", "the server", "another"), before, after, strict=True):
        found.add(f"{name}, us of {role}", (ended - begun) / (last - first) * 1e6)


def _lone(name: str, feed: Path, client: socket.socket, found: Figures) -> None:
    _set_rate(feed, LONE_RATE)
    data, count = b"", 0
    end = time.monotonic() + 3 * LONE / LONE_RATE
    while count < LONE and time.monotonic() < end:
        try:
            # Spins: a reader that sleeps would add the time of its wake-up.
            data += client.recv(65536)
        except BlockingIOError:
            continue
        now = time.monotonic_ns()
        for stamp in STAMP.findall(data):
            found.add(f"{name}, ms to a client", (now - int(stamp)) / 1e6)
            count += 1
        if count:
            data = b""
    _set_rate(feed, 0.0)
    if count < LONE:
        raise Failed(f"{count} of {LONE} publications have arrived")


def _client(kind: Pair, port: int) -> socket.socket:
    """A client that is subscribed."""
    found = socket.create_connection(("127.0.0.1", port), 10.0)
    found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    found.sendall(upgrade(kind.path))
    if kind.hello:
        _receive(found, b"pingTimeout")
        found.sendall(kind.hello)
    _receive(found, b'40{"sid"' if kind.hello else b"subscribed")
    found.setblocking(False)
    return found


def _receive(client: socket.socket, mark: bytes) -> None:
    data = b""
    while mark not in data:
        got = client.recv(65536)
        if not got:
            raise Failed(f"the client was refused: {data[:200]!r}")
        data += got


def _set_rate(feed: Path, rate: float) -> None:
    with feed.open("r+b") as file:
        file.write(struct.pack("=d", rate))


def _published(feed: Path) -> int:
    count: int = struct.unpack_from("=Q", feed.read_bytes(), 8)[0]
    return count


# --- all of it ---------------------------------------


def measure(cores: Cores, say: Callable[[str], None], only: str = "") -> Figures:
    """Measure everything that is possible here."""
    found = Figures(
        machine=machine.describe(),
        versions=dict(map(machine.split, VERSIONS)) | {"pushserver": machine.revision()},
        when=datetime.now(UTC).strftime("%Y-%m-%d"),
    )
    parts: dict[str, Callable[[], None]] = {
        "floors": lambda: _alone(cores, lambda redis: floors(redis, found)),
        "throughput": lambda: _alone(cores, lambda redis: throughput(redis, found)),
        "following": lambda: _alone(cores, lambda redis: following(redis, cores, found)),
    }
    for rate in RATES:
        parts[f"{SIMULATED} nodes at {rate:,.0f}/s"] = partial(_simulate, cores, found, rate)
    for each in PAIRS:
        parts[each.name] = partial(pair, each, cores, found)
    for name, part in parts.items():
        if only not in name:
            continue
        before = set(found.values)
        try:
            part()
        except (build.Missing, Failed, OSError) as error:
            found.missing[name] = str(error).splitlines()[-1][:200]
            say(f"{name}: MISSING: {found.missing[name]}")
        for key in found.values.keys() - before:
            values = found.values[key]
            middle = statistics.median(values)
            say(f"{key:60} {middle:12,.2f} ({min(values):,.2f}-{max(values):,.2f})")
    return found


def _simulate(cores: Cores, found: Figures, rate: float) -> None:
    _alone(cores, lambda redis: simulation(redis, cores, found, rate))


def _alone(cores: Cores, part: Callable[[Redis], None]) -> None:
    with (
        tempfile.TemporaryDirectory(prefix="pushserver-bench-") as name,
        redis_server(cores, Path(name)) as redis,
    ):
        part(redis)
