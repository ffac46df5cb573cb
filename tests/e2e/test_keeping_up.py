"""A worker that cannot keep up: publishers are told, and the others are served."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from http.client import HTTPConnection
from pathlib import Path

import pytest
from websockets.sync.client import ClientConnection

from pushserver.cluster.link import UNSENT_BYTES
from tests.e2e.conditions import wait_until
from tests.e2e.crew import Crew, stop_process
from tests.e2e.patience import PATIENCE
from tests.e2e.sockets import dial, frame

# The test may read slowly too.
TEXT = "[sources]\n[limits]\nqueue_bytes = 100_000_000\n"
SLOW, OTHER = 1, 2
"""The workers."""
PADDING = "x" * 1_000_000
ROUNDS = 2
MOST = 2 * UNSENT_BYTES // len(PADDING)
"""The most publications of a round: more than may wait for a worker."""
READERS = 2
END = "end"
MOST_BYTES = 2 * UNSENT_BYTES


@pytest.fixture
def crew(tmp_path: Path) -> Iterator[Crew]:
    crew = Crew(tmp_path, TEXT, times="slot.MOST_MISSED=1000")
    try:
        yield crew
        assert crew.server.stop() == -signal.SIGTERM
        crew.check_end()
        assert crew.server.problems == []
    finally:
        crew.clean()


def dial_worker(crew: Crew, stack: ExitStack, worker: int, channel: str) -> ClientConnection:
    """Subscribe at this worker."""
    while True:
        with ExitStack() as attempt:
            client = attempt.enter_context(dial(crew.server, f"channels/{channel}"))
            assert "subscribed" in frame(client)
            if holder(crew, client.socket) == worker:
                stack.push(attempt.pop_all())
                return client


class Publisher:
    """Publishes at a worker, by one connection."""

    def __init__(self, crew: Crew, stack: ExitStack, worker: int):
        while True:
            self._connection = HTTPConnection("127.0.0.1", crew.server.port, timeout=PATIENCE)
            stack.callback(self._connection.close)
            self.publish("idle", 0)
            if holder(crew, self._connection.sock) == worker:
                return

    def publish(self, channel: str, data: object) -> bool:
        """Publish, unless the server is overloaded; return whether it has."""
        self._connection.request("POST", f"/channels/{channel}", json.dumps(data).encode())
        answer = self._connection.getresponse()
        text = json.loads(answer.read())
        if answer.status == 201:
            return True
        assert answer.status == 503
        assert text["error"]["message"].startswith(f"the backlog of {channel} is full")
        return False


def holder(crew: Crew, client: socket.socket) -> int:
    """The worker with the other end of a connection."""
    ours, theirs = (name[1] for name in (client.getsockname(), client.getpeername()))
    ends = rf":{theirs:04X} [0-9A-F]+:{ours:04X} (?:\S+ +){{6}}([0-9]+)"
    found = re.search(ends, Path("/proc/net/tcp").read_text())
    assert found is not None
    name = f"socket:[{found[1]}]"
    for number, pid in crew.workers().items():
        if any(os.readlink(file) == name for file in Path(f"/proc/{pid}/fd").iterdir()):
            return number
    raise AssertionError("no worker has the connection")


def resident(pid: int) -> int:
    """The memory of a process, in bytes."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) * 1024


def read(client: ClientConnection, found: list[int]) -> None:
    """Add the numbers that a reader gets, before the end."""
    while (data := frame(client)["data"]) != END:
        found.append(data[0])


def test_worker_that_cannot_keep_up_delays_its_own_readers_alone(crew: Crew) -> None:
    crew.server.start()
    before = crew.workers()
    with ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(READERS))
        slow = [dial_worker(crew, stack, SLOW, "large") for _ in range(READERS)]
        other = dial_worker(crew, stack, OTHER, "small")
        publisher = Publisher(crew, stack, OTHER)
        memory = resident(crew.main)
        found: list[list[int]] = [[] for _ in slow]
        reads = [pool.submit(read, *each) for each in zip(slow, found, strict=True)]
        wanted: list[int] = []
        for n in range(ROUNDS):
            stop_process(before[SLOW])
            most = len(wanted) + MOST
            while publisher.publish("large", [len(wanted), PADDING]):
                wanted.append(len(wanted))
                assert len(wanted) < most, "no publication was refused"
            assert publisher.publish("small", n)
            assert frame(other)["data"] == n
            assert resident(crew.main) - memory < MOST_BYTES
            os.kill(before[SLOW], signal.SIGCONT)
            wait_until(lambda: found == [wanted] * READERS)
        assert publisher.publish("large", END)
        for each in reads:
            each.result()
        assert found == [wanted] * READERS
    assert crew.workers() == before
