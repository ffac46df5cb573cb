"""`python -m benchmarks.attacks`: floods of twenty peers, and the latency of an innocent client.

Each attack has a server of its own, on loopback, and lasts some seconds. A canary publishes to
itself all the time and for two seconds after the attack. A peer that the server closes connects
again at once.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.attackers import PORTION, attack_with, dial, start, watch
from benchmarks.floods import ATTACKS, HISTORY_BYTES, KEY, MEMORY_MIB, Attack, request
from benchmarks.processes import free_port, running

PEERS = 20
SECONDS = 5.0
AFTER_SECONDS = 2.0

LATENCY_MILLISECONDS = 250


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
    memory_goal: float = MEMORY_MIB

    def row(self) -> str:
        """A row of the table."""
        ends = ", ".join(f"{count:,} × {end}" for end, count in self.ends.most_common(2))
        cells = (
            self.name,
            f"{milliseconds(self.latencies, 0.5)} / {milliseconds(self.latencies, 0.99)}",
            f"{milliseconds(self.after, 0.99)}",
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
        if self.memory > self.memory_goal:
            found.append(f"memory +{self.memory:.0f} MiB")
        if self.lost:
            found.append(f"{self.lost} publications lost")
        if self.tracebacks:
            found.append(f"{self.tracebacks} tracebacks")
        if self.lines > 2 * (SECONDS + AFTER_SECONDS):
            found.append(f"{self.lines} lines in the log")
        return found


HEAD = (
    "| 20 peers send | canary p50 / p99 | p99 after | CPU | memory | descriptors"
    " | log lines | sent | closed by the server |\n" + "| --- " * 9 + "|"
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
    result = Result(attack.name, memory_goal=attack.memory)
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="pushserver-attack-") as folder:
        pages = Path(folder, "pages")
        pages.mkdir()
        with Path(pages, "big.bin").open("wb") as big:
            big.truncate(30_000_000)
        environment = {
            "PUSHSERVER_AUTH_API_KEYS": KEY,
            "PUSHSERVER_DEFAULTS_CLIENT_PUBLISH": "true",
            "PUSHSERVER_LIMITS_HISTORY_TOTAL_BYTES": str(HISTORY_BYTES),
            "PUSHSERVER_SERVER_PAGES": str(pages),
            "PYTHONPATH": ".",
        }
        if attack.source:
            environment["PUSHSERVER_LIMITS_EXEMPT_NETWORKS"] = "127.0.0.1"
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
