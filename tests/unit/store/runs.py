"""Runs of a server with a store on a real file, and its thread, which the test controls."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from pushserver.channels.channel import ChannelOptions
from pushserver.channels.history import History
from pushserver.channels.idempotency import Keys
from pushserver.channels.publication import Draft, Publication, Receipt
from pushserver.channels.room import Room
from pushserver.errors import Unavailable
from pushserver.hub.broker import MemoryBroker
from pushserver.hub.metrics import Metrics
from pushserver.store.committer import Committer
from pushserver.store.opening import StoreError
from pushserver.store.recorder import BatchRecorder
from pushserver.store.service import Storage
from pushserver.store.sync_broker import SyncBroker
from tests.unit.fakes.tools import Time

INTERVAL = 0.05


class Thread:
    """In place of the store's thread: runs its next job when the test says so."""

    busy = False

    def __init__(self) -> None:
        self.jobs: list[tuple[Deferred[Any], Callable[[], Any]]] = []

    def call(self, reactor: object, function: Callable[[], object]) -> Deferred[Any]:
        done: Deferred[Any] = Deferred()
        self.jobs.append((done, function))
        return done

    def close(self) -> None:
        assert not self.jobs

    def work(self) -> None:
        """Run the next job and return its result to the reactor."""
        done, job = self.jobs.pop(0)
        try:
            result = job()
        except Exception:
            done.errback(Failure())
        else:
            done.callback(result)

    def fail(self, why: str = "the disk is full") -> None:
        """Let the next job fail without running it."""
        self.jobs.pop(0)[0].errback(Failure(StoreError(why)))

    def work_unnoticed(self) -> None:
        """Run the next job without a result for the reactor, as before a kill."""
        self.jobs.pop(0)[1]()

    def finish(self) -> None:
        """Run all jobs."""
        while self.jobs:
            self.work()


THREAD = Thread()


RUNS: list[Run] = []


def folder_in_memory() -> tempfile.TemporaryDirectory[str]:
    """A folder on a tmpfs if there is one: the tests take a third of the time there."""
    memory = "/dev/shm"
    return tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None)


class Run:
    """One run of a server with a store, from its start to its end."""

    def __init__(
        self,
        path: Path,
        durability: str = "sync",
        options: ChannelOptions | Callable[[str], ChannelOptions] = ChannelOptions(),
        time: Time | None = None,
        keys: int = 100,
        steady: Time | None = None,
        room: Room | None = None,
    ):
        """`options` are for all channels, or by name; `time` is the wall clock.

        `steady` is the same clock and runs with the reactor, unless it is given.
        """
        RUNS.append(self)
        self.reactor = cast(Any, Clock())
        self.time = time or Time()
        self.steady = steady or self.time
        self._runs_alone = steady is not None
        by_name = options if callable(options) else lambda name: options
        self.history = History(by_name, room=room)
        self.keys = Keys(keys)
        self.metrics = Metrics()
        self.delivered: list[Publication] = []
        self.broker: MemoryBroker
        committer = Committer(
            str(path),
            durability,
            THREAD,
            self.reactor,
            self._monotonic,
            self.history,
            self.keys,
            self.metrics,
        )
        if durability == "sync":
            self.broker = sync = SyncBroker(
                self.history,
                self.keys,
                self.metrics,
                self.time,
                self._monotonic,
                committer,
                self.reactor,
            )
            batcher = sync.batcher
        else:
            recorder = BatchRecorder(
                committer, self.history, self._monotonic, self.reactor, INTERVAL
            )
            self.broker = MemoryBroker(
                self.history, self.keys, self.metrics, self.time, self._monotonic, recorder
            )
            batcher = recorder.batcher
        self.committer = committer
        self.batcher = batcher
        self.broker.attach(lambda row, _: self.delivered.append(row))
        self.storage = Storage(committer, batcher, self.time, self._monotonic, self.reactor)
        self.memory = self.storage.memory
        self.storage.startService()

    def _monotonic(self) -> float:
        """The steady clock."""
        return self.steady() + (0.0 if self._runs_alone else cast(float, self.reactor.seconds()))

    def publish(self, data: int, channel: str = "a", key: str = "") -> Answer:
        """Publish a number."""
        draft = Draft(channel, str(data).encode(), key=key)
        return Answer(Deferred.fromCoroutine(self.broker.publish(draft)))

    def clear(self, channel: str = "a") -> Answer:
        """Remove the channel's history."""
        return Answer(Deferred.fromCoroutine(self.broker.clear(channel)))

    def tick(self, seconds: float = INTERVAL) -> None:
        """Let the time of the reactor pass."""
        self.reactor.advance(seconds)

    def stop(self) -> None:
        """End the run in order."""
        done = Answer(self.storage.stopService())
        THREAD.finish()
        assert done.result is None
        assert not self.reactor.getDelayedCalls()

    def close(self) -> None:
        """Close the file of a run in any state."""
        file = getattr(self.committer, "_file", None)
        if file is not None:
            file.abandon()

    def kill(self) -> None:
        """End the run like a killed process: the jobs of the thread are lost."""
        THREAD.jobs.clear()
        self.committer._file.abandon()

    @property
    def data(self) -> dict[str, list[int]]:
        """The data of the publications in the history, by channel."""
        return {n: [int(r.data) for r in c.after(0)] for n, c in self.history.channels.items()}


class Answer:
    """The outcome of a Deferred."""

    def __init__(self, deferred: Deferred[Any]):
        self._outcome: list[Any] = []
        deferred.addBoth(self._outcome.append)

    @property
    def waits(self) -> bool:
        return not self._outcome

    @property
    def result(self) -> Any:
        """The result; raises the exception of a failure."""
        [outcome] = self._outcome
        if isinstance(outcome, Failure):
            outcome.raiseException()
        return outcome

    @property
    def refused(self) -> str:
        """The reason why it was refused."""
        with pytest.raises(Unavailable) as caught:
            assert not self.result
        return str(caught.value)

    @property
    def offset(self) -> int:
        receipt: Receipt = self.result
        return receipt.offset


def remembered(path: Path) -> object:
    """The value of the source `s` in a closed file."""
    run = Run(path)
    value = run.memory.get("s")
    run.stop()
    return value


def in_file(path: Path) -> dict[str, list[int]]:
    """The data of the publications in a closed file, by channel."""
    run = Run(path)
    data = run.data
    run.stop()
    return data
