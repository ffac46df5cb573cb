"""Readers and publishers while the processes of a server fail, and an exact account of both."""

from __future__ import annotations

import asyncio
import json
import random
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from itertools import chain, cycle, repeat
from typing import Any

from benchmarks.floods import request
from benchmarks.followers import CUT, KINDS, Follower, Record, Stream
from tests.e2e.conditions import wait_until
from tests.e2e.patience import PATIENCE

CHANNELS = 10
READERS = 100
RATE = 30.0
"""Publications a second in each channel."""
PAUSES = [0.02, 0.05, 0.1, 0.2, 0.4]
"""The pauses of a publisher before another attempt; a connection may have ten refusals a second."""


class Account(Record):
    """The numbers of one reader: after a reset it continues with a later one.

    The last one before may come again: its publisher did not know that it was published.
    """

    __slots__ = ("gaps", "seen")

    def __init__(self) -> None:
        super().__init__()
        self.seen = 0
        self.gaps: list[tuple[int, int]] = []
        """The numbers before and after each reset."""

    def take(self, number: int, now: float) -> None:
        if self.resets != self.seen:
            self.seen = self.resets
            self.gaps.append((self.last, number))
            self.last = number - 1 if number >= self.last else self.last
        super().take(number, now)


class Publisher:
    """Publishes 1, 2, 3 … in a channel; repeats each, with one key, until it is acknowledged."""

    def __init__(self, port: int, channel: str, rate: float):
        self.acknowledged: list[tuple[int, str, int]] = []
        """The number, the epoch and the offset of each publication."""
        self.refusals: dict[str, int] = {}
        self.attempts = 0
        self._port = port
        self.channel = channel
        self._pause = 1 / rate
        self.ending = asyncio.Event()

    @property
    def count(self) -> int:
        return len(self.acknowledged)

    def check(self, found: list[int]) -> list[int]:
        """Check the numbers that the server has; return the acknowledged ones that it has not."""
        assert found == sorted(set(found)), f"doubled, or out of order: {found}"
        return sorted({number for number, _, _ in self.acknowledged} - set(found))

    async def run(self) -> None:
        stream: Stream | None = None
        due = time.monotonic()
        while not self.ending.is_set():
            number = self.count + 1
            for pause in chain(PAUSES, repeat(PAUSES[-1])):
                self.attempts += 1
                try:
                    stream = stream or await self._connect()
                    status, answer = await self._post(stream, number)
                except (*CUT, ValueError):
                    self._refused("no answer")
                    await self._close(stream)
                    stream = None
                else:
                    if status == 201:
                        self.acknowledged.append((number, answer["epoch"], answer["offset"]))
                        break
                    assert status == 503, (status, answer)
                    self._refused(answer["error"].get("reason", answer["error"]["message"]))
                await asyncio.sleep(random.uniform(pause / 2, pause))
            due = max(due + self._pause, time.monotonic() - 1.0)
            with suppress(TimeoutError):
                await asyncio.wait_for(self.ending.wait(), max(0.0, due - time.monotonic()))
        await self._close(stream)

    def _refused(self, reason: str) -> None:
        self.refusals[reason] = self.refusals.get(reason, 0) + 1

    async def _connect(self) -> Stream:
        return Stream(*await asyncio.open_connection("127.0.0.1", self._port))

    async def _post(self, stream: Stream, number: int) -> tuple[int, Any]:
        headers = f"Idempotency-Key: {self.channel}-{number}", "Content-Type: application/json"
        line = f"POST /channels/{self.channel}"
        stream.writer.write(request(line, *headers, body=str(number).encode()))
        head = (await stream.reader.readuntil(b"\r\n\r\n")).decode("ascii").lower().split("\r\n")
        fields = dict(line.split(": ", 1) for line in head[1:] if line)
        text = await stream.reader.readexactly(int(fields["content-length"]))
        if fields.get("connection") == "close":
            stream.writer.close()
        return int(head[0].split()[1]), json.loads(text)

    async def _close(self, stream: Stream | None) -> None:
        if stream is not None:
            stream.writer.close()
            with suppress(*CUT):
                await stream.writer.wait_closed()


class Load:
    """Publishers and readers of some channels, in a thread, from its start to `finish`."""

    def __init__(
        self,
        port: int,
        readers: int = READERS,
        channels: int = CHANNELS,
        rate: float = RATE,
    ):
        names = [f"c{n}" for n in range(channels)]
        self.readers: list[Follower] = []
        self.publishers: list[Publisher] = []
        self._names = names
        self._port = port
        self._count = readers
        self._rate = rate
        self._loop: asyncio.AbstractEventLoop | None = None
        self._subscribed = threading.Event()
        self._finishing: asyncio.Event
        self._problem: BaseException | None = None
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Load:
        self._thread.start()
        assert self._subscribed.wait(PATIENCE), "not all readers have subscribed"
        self._raise()
        return self

    def __exit__(self, *_: object) -> None:
        if self._thread.is_alive():
            self._call(self._cancel)
            self._thread.join(PATIENCE)

    def published(self) -> int:
        """The publications that were acknowledged so far."""
        self._raise()
        return sum(publisher.count for publisher in self.publishers)

    def go_on(self, more: int = 30) -> None:
        """Wait until so many more publications are acknowledged, and readers have them."""
        wanted = [p.count + more // len(self.publishers) for p in self.publishers]
        self._wait(wanted)

    def finish(self) -> None:
        """Stop the publishers, and wait until every reader has the last publication."""
        for publisher in self.publishers:
            self._call(publisher.ending.set)
        wait_until(lambda: self._tasks_done())
        self._wait([publisher.count for publisher in self.publishers])

    def check(self, resets: int = 0) -> None:
        """Check that nothing was lost, doubled or out of order, but where all readers were told."""
        for reader in self.readers:
            record = reader.record
            found = record.lost, record.doubled, record.resets
            assert found == (0, 0, resets), self.describe(reader)
        for publisher in self.publishers:
            if not resets:
                numbers = [(epoch, offset) for _, epoch, offset in publisher.acknowledged]
                epoch = numbers[0][0]
                assert numbers == [(epoch, n + 1) for n in range(len(numbers))]

    def describe(self, reader: Follower) -> str:
        return f"{reader.name} of {reader.channel}: {reader.record}"

    def _wait(self, wanted: list[int]) -> None:
        """Wait until so many of each channel are acknowledged, and its readers have them."""

        def late() -> list[str]:
            self._raise()
            found = [
                f"publisher of {publisher.channel}: {publisher.count} {publisher.refusals}"
                for publisher, most in zip(self.publishers, wanted, strict=True)
                if publisher.count < most
            ]
            for reader, most in zip(self.readers, cycle(wanted)):
                if reader.record.last < most:
                    found.append(self.describe(reader))
            return found

        try:
            wait_until(lambda: not late())
        except AssertionError as error:
            raise AssertionError("\n".join([str(error), *late()])) from None

    def _tasks_done(self) -> bool:
        return all(task.done() for task in self._publishing)

    def _raise(self) -> None:
        if self._problem is not None:
            raise AssertionError("the load has failed") from self._problem

    def _call(self, call: Callable[..., object]) -> None:
        assert self._loop is not None
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(call)

    def _cancel(self) -> None:
        for task in (*self._publishing, *self._reading):
            task.cancel()

    def _run(self) -> None:
        try:
            asyncio.run(self._carry_out())
        except BaseException as error:
            self._problem = error
            self._subscribed.set()

    async def _carry_out(self) -> None:
        self._loop = asyncio.get_running_loop()
        names = self._names
        self.publishers += [Publisher(self._port, name, self._rate) for name in names]
        for n in range(self._count):
            # Each channel has readers of each kind.
            kind = KINDS[(n // len(names)) % len(KINDS)]
            self.readers.append(kind(self._port, Account(), channel=names[n % len(names)]))
        self._reading = [asyncio.create_task(reader.follow()) for reader in self.readers]
        self._publishing: list[asyncio.Task[None]] = []
        tasks = list(self._reading)
        try:
            async with asyncio.timeout(PATIENCE):
                await asyncio.gather(*(reader.subscribed.wait() for reader in self.readers))
            self._publishing = [asyncio.create_task(p.run()) for p in self.publishers]
            tasks += self._publishing
            self._subscribed.set()
            waiting = set(tasks)
            while waiting:
                done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    if not task.cancelled() and task.exception() is not None:
                        raise task.exception() or AssertionError
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
