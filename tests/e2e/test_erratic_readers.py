"""Readers that come, stall, read a little, and go at random, while the server drops the slow ones.

Whatever happens to a connection, its reader gets whole frames in order, then at most a part of the
next one.
"""

from __future__ import annotations

import json
import random
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from tests.e2e.conditions import wait_until
from tests.e2e.exchange import ask, publish
from tests.e2e.patience import PATIENCE
from tests.e2e.test_fanout import CHANNEL, Subscriber, ended, serving, tcp

STEPS = 120
SEEDS = [1]
SIZES = [0, 0, 90, 300, 2_000, 20_000]
KINDS = ["raw", "centrifuge"]
"""Those with one frame for each publication."""


class Erratic:
    """A reader that does not always read; `whole` are the frames of a quick one of its kind."""

    def __init__(self, chance: random.Random, whole: list[bytes], reader: Subscriber):
        self._chance = chance
        self._whole = whole
        self._reads = True
        self.reader = reader

    def step(self) -> None:
        if self._chance.random() < 0.06:
            self._reads = not self._reads
        self.reader.socket.settimeout(0)
        with suppress(BlockingIOError, ConnectionError):
            while self._reads and self._chance.random() < 0.8:
                if not self.reader.read(self._chance.choice([1, 3, 1_000, 1 << 18])):
                    break
        self.reader.socket.settimeout(PATIENCE)

    def read_up(self, number: int) -> bool:
        """Read to the end, or to the publication of this number; whether that came."""
        last = b'"n":%d,' % number
        with suppress(ConnectionError):
            while not self.reader.frames or last not in self.reader.frames[-1]:
                if not self.reader.read():
                    return False
            return True
        return False

    def check(self) -> None:
        """Check all that was read."""
        # The reply to a subscription may have publications too.
        frames = [frame for frame in self.reader.frames if b'"subscribe"' not in frame]
        rest = bytes(self.reader._rest)
        begin = self._whole.index(frames[0]) if frames else 0
        end = begin + len(frames)
        assert frames == self._whole[begin:end], "cut, repeated or out of order"
        opening = 2 if self.reader.kind == "centrifuge" else 1
        assert self.reader._parts == opening + len(frames), "frames that nobody has sent"
        following = self._whole[end : end + 1] if frames else self._whole
        assert not rest or any(frame.startswith(rest) for frame in following), rest[:200]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    ("limits", "logged"),
    [
        ("queue_bytes = 100_000\nqueue_seconds = 1_000.0", "(queue_bytes)"),
        ("queue_bytes = 20_000\nqueue_seconds = 0.02", "(queue_bytes)"),
        ("queue_bytes = 1_000_000\nunsent_bytes = 1_500_000", "(unsent_bytes)"),
    ],
    ids=["queue_bytes", "queue_seconds", "unsent_bytes"],
)
def test_readers_get_whole_frames_in_order_until_they_are_dropped(
    tmp_path: Path, limits: str, logged: str, seed: int
) -> None:
    chance, count = random.Random(seed), 0
    with serving(tmp_path, f"ping_seconds = 1_000.0\n{limits}") as server, ExitStack() as stack:

        def subscriber(kind: str, buffer: int = 0) -> Subscriber:
            return Subscriber(kind, stack.enter_context(tcp(server.port, buffer)))

        def new() -> Erratic:
            kind, buffer = chance.choice(KINDS), chance.choice([0, 1, 4_096, 65_536])
            return Erratic(chance, quick[kind].frames, subscriber(kind, buffer))

        quick = {kind: subscriber(kind) for kind in KINDS}
        readers, gone = [new() for _ in range(30)], []
        for _ in range(STEPS):
            begin, count = count, count + chance.randint(1, 60)
            rows = ({"n": n, "p": "x" * chance.choice(SIZES)} for n in range(begin, count))
            body = "\n".join(map(json.dumps, rows)).encode()
            path = f"channels/{CHANNEL}"
            answer = ask(server, "POST", path, body, Content_Type="application/x-ndjson")
            assert answer.status == 201, answer
            for reader in quick.values():
                reader.read_until(count)
            for one in readers:
                one.step()
            if chance.random() < 0.3:
                gone.append(readers.pop(chance.randrange(len(readers))))
                gone[-1].reader.socket.close()
                readers.append(new())
        # Before a reader waits for the rest of what is no frame.
        for one in readers:
            one.check()
        # The last one, also for those that came last.
        publish(server, CHANNEL, {"n": count, "p": ""})
        for reader in quick.values():
            reader.read_until(count + 1)
        dropped = len([one for one in readers if not one.read_up(count)])
        for one in readers + gone:
            one.check()
        assert dropped
        assert logged in server.log
        wait_until(lambda: sum(ended(server).values()) >= dropped)
