from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import LogLevel
from twisted.python.failure import Failure

from pushserver.channels.channel import ChannelOptions
from pushserver.channels.history import History
from pushserver.channels.idempotency import Keys
from pushserver.channels.publication import Draft, Publication, Receipt
from pushserver.errors import StartFailed, Unavailable
from pushserver.hub.broker import MemoryBroker
from pushserver.hub.metrics import Metrics
from pushserver.store.batcher import RETRY_SECONDS
from pushserver.store.committer import Committer
from pushserver.store.recorder import MAX_WAITING_BYTES, BatchRecorder
from pushserver.store.service import Storage
from pushserver.store.sqlite import ChannelState, SqliteFile, StoreError, state
from pushserver.store.sync_broker import SyncBroker
from tests.unit.fakes.tools import Time
from tests.unit.fakes.web import Log, Trouble

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
        """Do the next job, and tell the reactor."""
        done, job = self.jobs.pop(0)
        try:
            result = job()
        except Exception:
            done.errback(Failure())
        else:
            done.callback(result)

    def fail(self, why: str = "the disk is full") -> None:
        """The next job fails, having done nothing."""
        self.jobs.pop(0)[0].errback(Failure(StoreError(why)))

    def work_untold(self) -> None:
        """Do the next job; the reactor does not live to hear of it."""
        self.jobs.pop(0)[1]()

    def finish(self) -> None:
        """Do all that there is."""
        while self.jobs:
            self.work()


THREAD = Thread()


RUNS: list[Run] = []


@pytest.fixture(autouse=True)
def thread() -> Iterator[Thread]:
    THREAD.jobs.clear()
    yield THREAD
    THREAD.jobs.clear()
    while RUNS:
        RUNS.pop().close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "s.db"


@pytest.fixture
def _trouble_with_the_disk(trouble: Trouble) -> Iterator[None]:
    """Takes what the log says of that, and of kills; a traceback is for others."""
    yield
    told = ("the disk is full", "was not closed in order")
    assert [text for text in trouble.take() if not any(part in text for part in told)] == []


class Run:
    """One run of a server with a store, from its start to its end."""

    def __init__(
        self,
        path: Path,
        durability: str = "sync",
        options: ChannelOptions = ChannelOptions(),
        time: Time | None = None,
        keys: int = 100,
        steady: Time | None = None,
    ):
        """`time` is the wall clock, and the steady one too where that is not given."""
        RUNS.append(self)
        self.reactor = cast(Any, Clock())
        self.time = time or Time()
        self.steady = steady or self.time
        self.history = History(lambda name: options)
        self.keys = Keys(keys)
        self.metrics = Metrics()
        self.delivered: list[Publication] = []
        self.broker: MemoryBroker
        committer = Committer(
            str(path),
            durability,
            THREAD,
            self.reactor,
            self.steady,
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
                self.steady,
                committer,
                self.reactor,
            )
            batcher = sync.batcher
        else:
            recorder = BatchRecorder(committer, self.history, self.reactor, INTERVAL)
            self.broker = MemoryBroker(
                self.history, self.keys, self.metrics, self.time, self.steady, recorder
            )
            batcher = recorder.batcher
        self.committer = committer
        self.broker.attach(self.delivered.append)
        self.storage = Storage(committer, batcher, self.time)
        self.memory = self.storage.memory
        self.storage.startService()

    def publish(self, data: int, channel: str = "a", key: str = "") -> Answer:
        """Publish a number."""
        draft = Draft(channel, str(data).encode(), key=key)
        return Answer(Deferred.fromCoroutine(self.broker.publish(draft)))

    def clear(self, channel: str = "a") -> Answer:
        """Remove the channel's history."""
        return Answer(Deferred.fromCoroutine(self.broker.clear(channel)))

    def tick(self, seconds: float = INTERVAL) -> None:
        """Time goes on for the reactor."""
        self.reactor.advance(seconds)

    def stop(self) -> None:
        """An orderly end."""
        done = Answer(self.storage.stopService())
        THREAD.finish()
        assert done.result is None
        assert not self.reactor.getDelayedCalls()

    def close(self) -> None:
        """Let go of the file, whatever became of the run."""
        file = getattr(self.committer, "_file", None)
        if file is not None:
            file.abandon()

    def kill(self) -> None:
        """The process ends here; what the thread was to do is not done."""
        THREAD.jobs.clear()
        self.committer._file.abandon()

    @property
    def data(self) -> dict[str, list[int]]:
        """The numbers in the history, by channel."""
        return {n: [int(r.data) for r in c.after(0)] for n, c in self.history.channels.items()}


class Answer:
    """What comes of a Deferred."""

    def __init__(self, deferred: Deferred[Any]):
        self._found: list[Any] = []
        deferred.addBoth(self._found.append)

    @property
    def waits(self) -> bool:
        return not self._found

    @property
    def result(self) -> Any:
        """The result; raises what it failed with."""
        [found] = self._found
        if isinstance(found, Failure):
            found.raiseException()
        return found

    @property
    def refused(self) -> str:
        """Why it was not published."""
        with pytest.raises(Unavailable) as caught:
            assert not self.result
        return str(caught.value)

    @property
    def offset(self) -> int:
        receipt: Receipt = self.result
        return receipt.offset


def remembered(path: Path) -> object:
    """What the source `s` remembers in a file that nobody has open."""
    run = Run(path)
    found = run.memory.get("s")
    run.stop()
    return found


def in_file(path: Path) -> dict[str, list[int]]:
    """The numbers in a file that nobody has open, by channel."""
    run = Run(path)
    found = run.data
    run.stop()
    return found


@pytest.mark.usefixtures("_trouble_with_the_disk")
class TestBehindTheMemory:
    """`batched`: answered at once, written soon."""

    def test_a_publication_is_answered_and_delivered_before_it_is_written(self, path: Path) -> None:
        run = Run(path, "batched")
        assert run.publish(1).offset == 1
        assert [int(p.data) for p in run.delivered] == [1]
        assert not THREAD.jobs

    def test_a_commit_begins_in_time_and_takes_all_that_came(self, path: Path) -> None:
        run = Run(path, "batched")
        run.publish(1)
        run.tick(INTERVAL * 0.9)
        run.publish(2, "b")
        assert not THREAD.jobs
        run.tick(INTERVAL * 0.1)
        assert len(THREAD.jobs) == 1
        THREAD.work()
        assert (run.metrics.store_commits, run.metrics.store_rows) == (1, 2)
        run.kill()
        assert in_file(path) == {"a": [1], "b": [2]}

    def test_nothing_to_write_is_not_written(self, path: Path) -> None:
        run = Run(path, "batched")
        run.publish(1)
        run.tick()
        THREAD.work()
        run.tick(100)
        assert not THREAD.jobs
        assert not run.reactor.getDelayedCalls()

    def test_one_commit_at_a_time(self, path: Path) -> None:
        run = Run(path, "batched")
        run.publish(1)
        run.tick()
        run.publish(2)
        run.tick(10)
        assert len(THREAD.jobs) == 1
        THREAD.work()
        assert not THREAD.jobs
        run.tick()
        THREAD.work()
        assert run.metrics.store_rows == 2

    def test_what_was_evicted_meanwhile_is_not_written(self, path: Path) -> None:
        run = Run(path, "batched", ChannelOptions(history_size=3))
        for n in range(10):
            run.publish(n)
        run.tick()
        THREAD.work()
        assert run.metrics.store_rows == 3
        run.stop()
        assert in_file(path) == {"a": [7, 8, 9]}

    def test_an_end_commits_all_that_waits(self, path: Path) -> None:
        run = Run(path, "batched")
        run.publish(1)
        run.tick()
        run.publish(2)
        epoch = run.history.epoch
        run.stop()
        again = Run(path, "batched")
        assert (again.data, again.history.epoch) == ({"a": [1, 2]}, epoch)

    def test_an_end_before_anything_happened_keeps_the_epoch(self, path: Path) -> None:
        run = Run(path, "batched")
        epoch = run.history.epoch
        run.stop()
        assert Run(path, "batched").history.epoch == epoch

    def test_a_kill_is_told_at_the_next_start(self, path: Path) -> None:
        Run(path, "batched").kill()
        with Log() as events:
            Run(path, "batched")
        assert ["was not closed in order" in e["log_format"] for e in events] == [True]

    def test_an_orderly_end_is_not(self, path: Path) -> None:
        Run(path, "batched").stop()
        with Log() as events:
            Run(path, "batched")
        assert events == []

    def test_cleared_history_stays_cleared(self, path: Path) -> None:
        run = Run(path, "batched")
        for n in range(3):
            run.publish(n)
        run.tick()
        THREAD.work()
        assert run.clear().result is None
        run.publish(3)
        run.stop()
        again = Run(path, "batched")
        assert again.data == {"a": [3]}
        assert state(again.history.channels["a"]) == ChannelState("a", 4, 3, 3)

    def test_a_channel_that_expired_is_forgotten_in_the_file_too(self, path: Path) -> None:
        run = Run(path, "batched", ChannelOptions(history_ttl=10))
        run.publish(1)
        run.tick()
        THREAD.work()
        run.time.now += 20
        run.broker.expire(run.time.now, lambda name: False)
        run.stop()
        again = Run(path, "batched")
        assert again.data == {}
        assert (again.history.forgotten_top, again.history.forgotten_seq) == (1, 1)
        assert again.publish(2).offset == 2

    def test_a_channel_forgotten_and_begun_again_before_the_commit_has_only_new_rows(
        self, path: Path
    ) -> None:
        run = Run(path, "batched", ChannelOptions(history_ttl=10))
        run.publish(1)
        run.tick()
        THREAD.work()
        run.time.now += 20
        run.broker.expire(run.time.now, lambda name: False)
        assert run.publish(2).offset == 2
        run.stop()
        assert in_file(path) == {"a": [2]}

    def test_a_key_is_known_after_a_restart(self, path: Path) -> None:
        run = Run(path, "batched")
        first = run.publish(1, key="k").result
        run.stop()
        again = Run(path, "batched")
        assert again.publish(1, key="k").result == first
        assert again.metrics.duplicates == 1
        assert again.publish(2, key="other").offset == 2

    def test_a_key_answers_its_first_position_after_a_kill(self, path: Path) -> None:
        run = Run(path, "batched")
        first = run.publish(1, key="k").result
        run.tick()
        THREAD.work()
        run.kill()
        assert Run(path, "batched").publish(1, key="k").result == first


@pytest.mark.usefixtures("_trouble_with_the_disk")
class TestWhatSourcesRememberBehindTheMemory:
    def test_is_written_with_the_publications_before_it(self, path: Path) -> None:
        run = Run(path, "batched")
        run.publish(1)
        run.memory.set("s", 1)
        run.publish(2)
        run.memory.set("s", 2)
        run.tick()
        assert len(THREAD.jobs) == 1
        THREAD.work()
        assert run.metrics.store_commits == 1
        run.kill()
        assert (in_file(path), remembered(path)) == ({"a": [1, 2]}, 2)

    def test_is_written_though_nothing_is_published(self, path: Path) -> None:
        run = Run(path, "batched")
        run.memory.set("s", 1)
        run.tick()
        THREAD.work()
        run.tick(100)
        assert not THREAD.jobs
        run.kill()
        assert remembered(path) == 1

    def test_is_lost_with_the_publications_before_it(self, path: Path) -> None:
        run = Run(path, "batched")
        run.publish(1)
        run.memory.set("s", 1)
        run.tick()
        THREAD.work()
        run.publish(2)
        run.memory.set("s", 2)
        run.kill()
        assert (in_file(path), remembered(path)) == ({"a": [1]}, 1)

    def test_waits_with_them_while_the_file_cannot_be_written(self, path: Path) -> None:
        run = Run(path, "batched")
        run.publish(1)
        run.memory.set("s", 1)
        run.tick()
        run.memory.set("s", 2)
        THREAD.fail()
        run.tick(RETRY_SECONDS)
        THREAD.work()
        run.kill()
        assert (in_file(path), remembered(path)) == ({"a": [1]}, 2)

    def test_set_during_a_commit_is_in_the_next(self, path: Path) -> None:
        run = Run(path, "batched")
        run.publish(1)
        run.tick()
        run.memory.set("s", 1)
        THREAD.work()
        run.tick()
        THREAD.work()
        run.kill()
        assert remembered(path) == 1

    @pytest.mark.parametrize("durability", ["batched", "sync"])
    def test_is_written_at_an_end(self, path: Path, durability: str) -> None:
        run = Run(path, durability)
        run.memory.set("s", 1)
        run.stop()
        assert remembered(path) == 1

    @pytest.mark.parametrize("durability", ["batched", "sync"])
    def test_keeps_an_end_that_cannot_write_from_being_orderly(
        self, path: Path, durability: str
    ) -> None:
        run = Run(path, durability)
        run.memory.set("s", 1)
        done = Answer(run.storage.stopService())
        THREAD.fail()
        THREAD.finish()
        assert done.result is None
        assert remembered(path) is None

    def test_stays_though_nobody_asks_for_it(self, path: Path) -> None:
        """A source that is no longer configured may come back."""
        run = Run(path, "batched")
        run.memory.set("s", 1)
        run.stop()
        for _ in range(2):
            run = Run(path, "batched")
            run.memory.set("other", 1)
            run.stop()
        assert remembered(path) == 1


@pytest.mark.usefixtures("_trouble_with_the_disk")
class TestBehindTheMemoryWhileTheFileCannotBeWritten:
    def failing(self, path: Path) -> Run:
        """A run whose first commit failed."""
        run = Run(path, "batched")
        run.publish(1, key="k")
        run.tick()
        run.publish(2)
        THREAD.fail()
        return run

    def test_nothing_more_is_taken_and_the_reason_is_told(self, path: Path) -> None:
        run = self.failing(path)
        assert run.publish(3).refused == "the store failed: the disk is full"
        assert run.clear().refused == "the store failed: the disk is full"
        assert run.data == {"a": [1, 2]}

    def test_a_repetition_of_what_was_taken_is_still_answered(self, path: Path) -> None:
        run = self.failing(path)
        assert run.publish(1, key="k").offset == 1

    def test_it_is_tried_again_each_second(self, path: Path) -> None:
        run = self.failing(path)
        for attempt in range(3):
            run.tick(RETRY_SECONDS * 0.99)
            assert not THREAD.jobs
            run.tick(RETRY_SECONDS * 0.01)
            assert len(THREAD.jobs) == 1, attempt
            THREAD.fail()
        assert run.metrics.store_errors == 4

    def test_the_log_tells_it_once_and_then_that_it_is_over(self, path: Path) -> None:
        with Log() as events:
            run = self.failing(path)
            for _ in range(3):
                run.tick(RETRY_SECONDS)
                THREAD.fail()
            run.tick(RETRY_SECONDS)
            THREAD.work()
        told = [(e["log_level"], e["log_format"], e.get("problem")) for e in events]
        assert told == [
            (LogLevel.error, "{problem}", "the disk is full"),
            (LogLevel.info, "the store can be written again", None),
        ]

    def test_once_it_can_nothing_was_lost_and_more_is_taken(self, path: Path) -> None:
        run = self.failing(path)
        run.tick(RETRY_SECONDS)
        THREAD.work()
        assert run.publish(3).offset == 3
        epoch = run.history.epoch
        run.stop()
        again = Run(path, "batched")
        assert (again.data, again.history.epoch) == ({"a": [1, 2, 3]}, epoch)
        assert again.publish(1, key="k").offset == 1

    def test_an_end_tries_once_more(self, path: Path) -> None:
        run = self.failing(path)
        epoch = run.history.epoch
        run.stop()
        again = Run(path, "batched")
        assert again.data == {"a": [1, 2]}
        assert again.history.epoch == epoch

    def test_an_end_that_cannot_write_leaves_the_run_as_unclean(self, path: Path) -> None:
        run = self.failing(path)
        epoch = run.history.epoch
        done = Answer(run.storage.stopService())
        THREAD.fail()
        assert done.waits
        THREAD.work()
        assert done.result is None
        again = Run(path, "batched")
        assert again.data == {}
        assert again.history.epoch != epoch

    def test_a_store_that_is_too_slow_takes_no_more_than_a_bound(self, path: Path) -> None:
        run = Run(path, "batched")
        size = 1_000_000
        run.publish(1)
        run.tick()
        big = Draft("b", b"7" * size)
        for _ in range(MAX_WAITING_BYTES // size + 1):
            Deferred.fromCoroutine(run.broker.publish(big))
        refused = Answer(Deferred.fromCoroutine(run.broker.publish(big))).refused
        assert "the store is too slow" in refused
        THREAD.work()
        run.tick()
        THREAD.work()
        assert run.publish(2).offset == 2


@pytest.mark.usefixtures("_trouble_with_the_disk")
class TestBeforeAnybodyIsTold:
    """`sync`: committed, then delivered and answered."""

    def test_nothing_is_answered_or_delivered_before_the_commit(self, path: Path) -> None:
        run = Run(path)
        answer = run.publish(1)
        assert answer.waits
        assert not run.delivered
        assert run.data == {"a": []}
        THREAD.work()
        assert answer.offset == 1
        assert [p.offset for p in run.delivered] == [1]
        assert run.data == {"a": [1]}

    def test_what_is_answered_survives_a_kill(self, path: Path) -> None:
        run = Run(path)
        run.publish(1, key="k")
        THREAD.work()
        epoch = run.history.epoch
        run.kill()
        again = Run(path)
        assert (again.data, again.history.epoch) == ({"a": [1]}, epoch)
        assert again.publish(1, key="k").offset == 1
        assert again.metrics.publications == 0

    def test_what_comes_during_a_commit_is_committed_together_in_order(self, path: Path) -> None:
        run = Run(path)
        first = run.publish(1)
        others = [run.publish(n, "ab"[n % 2]) for n in range(2, 6)]
        assert len(THREAD.jobs) == 1
        THREAD.work()
        assert first.offset == 1
        assert all(answer.waits for answer in others)
        assert len(THREAD.jobs) == 1
        THREAD.work()
        assert [answer.offset for answer in others] == [2, 1, 3, 2]
        assert [(p.seq, p.channel, p.offset, int(p.data)) for p in run.delivered] == [
            (1, "a", 1, 1),
            (2, "a", 2, 2),
            (3, "b", 1, 3),
            (4, "a", 3, 4),
            (5, "b", 2, 5),
        ]
        assert run.metrics.store_commits == 2

    def test_a_commit_that_fails_fails_its_publishers_and_no_other(self, path: Path) -> None:
        run = Run(path)
        first = run.publish(1)
        second, third = run.publish(2), run.publish(3, "b")
        THREAD.fail()
        assert first.refused == "the store failed: the disk is full"
        assert second.waits
        THREAD.work()
        assert (second.offset, third.offset) == (1, 1)
        assert run.data == {"a": [2], "b": [3]}
        assert [int(p.data) for p in run.delivered] == [2, 3]

    def test_a_commit_that_fails_leaves_no_hole(self, path: Path) -> None:
        run = Run(path)
        run.publish(1)
        THREAD.work()
        run.publish(2)
        THREAD.fail()
        answer = run.publish(3)
        THREAD.work()
        assert answer.offset == 2
        assert [(p.seq, p.offset) for p in run.delivered] == [(1, 1), (2, 2)]
        run.kill()
        assert in_file(path) == {"a": [1, 3]}

    def test_after_a_failure_the_next_is_tried_at_once(self, path: Path) -> None:
        run = Run(path)
        run.publish(1)
        THREAD.fail()
        assert run.publish(2).waits
        assert len(THREAD.jobs) == 1

    def test_a_key_of_a_failed_commit_is_not_remembered(self, path: Path) -> None:
        run = Run(path)
        refused = run.publish(1, key="k")
        THREAD.fail()
        assert refused.refused
        again = run.publish(1, key="k")
        THREAD.work()
        assert again.offset == 1
        assert run.metrics.duplicates == 0

    def test_a_key_is_free_again_after_five_minutes(self, path: Path) -> None:
        run = Run(path)
        for offset in (1, 2):
            answer = run.publish(1, key="k")
            THREAD.finish()
            assert answer.offset == offset
            run.time.now += 300

    def test_what_a_failed_commit_should_have_changed_is_changed_by_the_next(
        self, path: Path
    ) -> None:
        run = Run(path)
        run.publish(1)
        THREAD.work()
        cleared = run.clear()
        THREAD.fail()
        assert cleared.refused == "the store failed: the disk is full"
        run.publish(2, "b")
        THREAD.work()
        run.kill()
        assert in_file(path) == {"a": [], "b": [2]}

    def test_a_repetition_while_the_first_is_pending_gets_its_answer(self, path: Path) -> None:
        run = Run(path)
        busy = run.publish(0)
        answers = [run.publish(1, key="k") for _ in range(3)]
        other = run.publish(1, "b", key="k")
        assert all(answer.waits for answer in answers)
        THREAD.finish()
        assert busy.offset == 1
        assert [answer.offset for answer in answers] == [2, 2, 2]
        assert other.offset == 1
        assert run.data == {"a": [0, 1], "b": [1]}
        assert run.metrics.duplicates == 2

    def test_a_repetition_while_the_first_is_pending_gets_its_failure(self, path: Path) -> None:
        run = Run(path)
        answers = [run.publish(1, key="k") for _ in range(2)]
        THREAD.fail()
        assert [answer.refused for answer in answers] == ["the store failed: the disk is full"] * 2
        assert not THREAD.jobs

    def test_a_publisher_that_goes_on_when_it_is_answered_is_next(self, path: Path) -> None:
        run = Run(path)

        async def chain() -> list[int]:
            return [(await run.broker.publish(Draft("a", b"1"))).offset for _ in range(3)]

        answer = Answer(Deferred.fromCoroutine(chain()))
        other = run.publish(2)
        THREAD.finish()
        assert answer.result == [1, 3, 4]
        assert other.offset == 2

    def test_keys_without_room_are_refused(self, path: Path) -> None:
        run = Run(path, keys=1)
        run.publish(1, key="k")
        THREAD.work()
        assert "idempotency_keys" in run.publish(2, key="l").refused
        assert run.publish(3).waits

    def test_history_over_its_bound_is_evicted_in_the_file_with_the_next_commit(
        self, path: Path
    ) -> None:
        run = Run(path, options=ChannelOptions(history_size=2))
        for n in range(5):
            run.publish(n)
            THREAD.work()
        run.stop()
        assert {n: rows[-2:] for n, rows in in_file(path).items()} == {"a": [3, 4]}
        assert len(in_file(path)["a"]) <= 3

    def test_a_sweep_during_a_commit_evicts_and_the_next_commit_writes_that(
        self, path: Path
    ) -> None:
        run = Run(path, options=ChannelOptions(history_ttl=10))
        run.publish(1)
        THREAD.work()
        run.time.now += 20
        answer = run.publish(2)
        run.broker.expire(run.time.now, lambda name: False)
        THREAD.work()
        assert answer.offset == 2
        assert run.data == {"a": [2]}
        THREAD.work()
        assert not THREAD.jobs
        run.kill()
        assert in_file(path) == {"a": [2]}

    def test_a_forgotten_channel_begins_above_its_numbers_after_a_kill(self, path: Path) -> None:
        run = Run(path, options=ChannelOptions(history_ttl=10))
        run.publish(1)
        THREAD.work()
        run.time.now += 20
        run.broker.expire(run.time.now, lambda name: False)
        THREAD.work()
        run.kill()
        again = Run(path)
        assert again.data == {}
        answer = again.publish(2)
        THREAD.work()
        assert (answer.offset, answer.result.seq) == (2, 2)

    def test_cleared_history_stays_cleared(self, path: Path) -> None:
        run = Run(path)
        run.publish(1)
        THREAD.work()
        cleared = run.clear()
        THREAD.finish()
        assert cleared.result is None
        run.stop()
        assert in_file(path) == {"a": []}

    def test_history_cleared_during_the_last_commit_stays_cleared(self, path: Path) -> None:
        run = Run(path)
        run.publish(1)
        THREAD.work()
        run.publish(2, "b")
        run.clear()
        run.stop()
        assert in_file(path) == {"a": [], "b": [2]}

    def test_history_cleared_during_a_commit_stays_cleared(self, path: Path) -> None:
        run = Run(path)
        run.publish(1)
        THREAD.work()
        run.publish(2, "b")
        cleared = run.clear()
        THREAD.finish()
        assert cleared.result is None
        run.stop()
        assert in_file(path) == {"a": [], "b": [2]}

    def test_history_is_cleared_when_that_is_answered(self, path: Path) -> None:
        run = Run(path)
        run.publish(1)
        THREAD.work()
        cleared = run.clear()
        while cleared.waits:
            THREAD.work()
        run.kill()
        assert in_file(path) == {"a": []}

    def test_clearing_what_is_not_there_costs_nothing(self, path: Path) -> None:
        run = Run(path)
        assert run.clear("nowhere").result is None
        assert not THREAD.jobs

    def test_an_end_waits_for_all_that_was_taken(self, path: Path) -> None:
        run = Run(path)
        answers = [run.publish(n) for n in range(3)]
        run.stop()
        assert [answer.offset for answer in answers] == [1, 2, 3]
        assert in_file(path) == {"a": [0, 1, 2]}

    def test_an_end_after_a_failure_does_not_hang(self, path: Path) -> None:
        run = Run(path)
        answer = run.publish(1)
        done = Answer(run.storage.stopService())
        THREAD.fail()
        assert answer.refused
        THREAD.work()
        assert done.result is None
        assert in_file(path) == {}

    def test_how_long_a_commit_took_is_counted(self, path: Path) -> None:
        run = Run(path)
        run.publish(1)
        run.time.now += 0.25
        THREAD.work()
        assert run.metrics.store_last_seconds == 0.25
        assert run.metrics.store_errors == 0

    def test_readers_read_on_while_nothing_can_be_written(self, path: Path) -> None:
        run = Run(path)
        run.publish(1)
        THREAD.work()
        for _ in range(3):
            run.publish(2)
            THREAD.fail()
        assert run.data == {"a": [1]}
        assert run.metrics.store_errors == 3


@pytest.mark.usefixtures("_trouble_with_the_disk")
class TestWhatSourcesRememberBeforeAnybodyIsTold:
    def test_is_written_with_the_next_publication_of_the_same_turn(self, path: Path) -> None:
        run = Run(path)

        async def source() -> None:
            for n in (1, 2, 3):
                await run.broker.publish(Draft("a", str(n).encode()))
                run.memory.set("s", n)

        done = Answer(Deferred.fromCoroutine(source()))
        THREAD.finish()
        assert done.result is None
        assert run.metrics.store_commits == 4
        run.kill()
        assert (in_file(path), remembered(path)) == ({"a": [1, 2, 3]}, 3)

    def test_is_written_though_nothing_is_published(self, path: Path) -> None:
        run = Run(path)
        run.memory.set("s", 1)
        assert not THREAD.jobs
        run.tick(0)
        THREAD.work()
        assert not THREAD.jobs
        assert not run.reactor.getDelayedCalls()
        run.kill()
        assert remembered(path) == 1

    def test_set_during_a_commit_is_written_after_it(self, path: Path) -> None:
        run = Run(path)
        run.publish(1)
        run.memory.set("s", 1)
        THREAD.work()
        assert len(THREAD.jobs) == 1
        THREAD.work()
        run.kill()
        assert remembered(path) == 1

    def test_is_lost_rather_than_newer_than_the_publications(self, path: Path) -> None:
        run = Run(path)
        run.publish(1)
        THREAD.work()
        run.memory.set("s", 1)
        run.kill()
        assert (in_file(path), remembered(path)) == ({"a": [1]}, None)

    def test_waits_for_the_next_commit_after_one_that_failed(self, path: Path) -> None:
        run = Run(path)
        run.memory.set("s", 1)
        run.tick(0)
        THREAD.fail()
        assert not THREAD.jobs
        run.publish(1)
        THREAD.work()
        run.kill()
        assert remembered(path) == 1


@pytest.mark.parametrize("durability", ["batched", "sync"])
@pytest.mark.usefixtures("_trouble_with_the_disk")
class TestWhenTheWallClockIsSet:
    """The steady clock runs on beside it."""

    HOUR = 3_600.0

    def start(self, path: Path, durability: str, wall: float = 0.0, **options: Any) -> Run:
        time, steady = Time(Time().now + wall), Time(500.0)
        return Run(path, durability, ChannelOptions(**options), time, steady=steady)

    def commit(self, run: Run) -> None:
        run.tick()
        THREAD.finish()

    def test_forward_and_back_no_key_is_forgotten_in_the_file(
        self, path: Path, durability: str
    ) -> None:
        run = self.start(path, durability)
        first = run.publish(1, key="k")
        self.commit(run)
        run.time.now += self.HOUR
        run.publish(2, key="other")
        self.commit(run)
        run.stop()
        again = self.start(path, durability, 60)
        assert again.publish(1, key="k").result == first.result

    @pytest.mark.parametrize("step", [-HOUR, HOUR, -3e8])
    def test_keys_last_five_minutes(self, path: Path, durability: str, step: float) -> None:
        run = self.start(path, durability)
        first = run.publish(1, key="k")
        self.commit(run)
        run.time.now += step
        run.steady.now += 299
        assert run.publish(1, key="k").offset == first.offset
        run.steady.now += 1
        second = run.publish(1, key="k")
        self.commit(run)
        assert second.offset == 2

    def test_keys_that_are_forgotten_go_from_the_file(self, path: Path, durability: str) -> None:
        run = self.start(path, durability)
        run.publish(1, key="k")
        self.commit(run)
        run.time.now -= self.HOUR
        run.steady.now += 301
        run.broker.expire(run.steady.now, lambda name: False)
        run.publish(2, key="l")
        self.commit(run)
        run.stop()
        with closing(sqlite3.connect(path)) as database:
            assert database.execute("SELECT key FROM keys").fetchall() == [("l",)]

    def test_back_a_key_is_as_old_as_it_is_after_a_restart(
        self, path: Path, durability: str
    ) -> None:
        """Its row has the time of the row before it."""
        run = self.start(path, durability)
        run.publish(1)
        self.commit(run)
        run.time.now -= self.HOUR
        run.publish(2, key="k")
        self.commit(run)
        run.stop()
        again = self.start(path, durability, 301 - self.HOUR)
        third = again.publish(2, key="k")
        self.commit(again)
        assert third.offset == 3

    @pytest.mark.parametrize("step", [-HOUR, HOUR, -3e8, 3e8])
    def test_rows_last_as_long_as_they_are_to(
        self, path: Path, durability: str, step: float
    ) -> None:
        run = self.start(path, durability, history_ttl=100)
        run.publish(1)
        self.commit(run)
        run.time.now += step
        run.steady.now += 99
        run.publish(2)
        self.commit(run)
        run.broker.expire(run.steady.now, lambda name: False)
        assert run.data == {"a": [1, 2]}
        run.steady.now += 1
        run.broker.expire(run.steady.now, lambda name: False)
        assert run.data == {"a": [2]}
        rows = run.history.channels["a"].after(0)
        assert [row.time for row in rows] == [max(Time().now, run.time.now)]

    def test_what_is_too_old_is_not_there_after_a_start(self, path: Path, durability: str) -> None:
        run = self.start(path, durability, history_ttl=2)
        run.publish(1)
        self.commit(run)
        run.stop()
        again = self.start(path, durability, 4, history_ttl=2)
        assert again.data == {"a": []}
        second = again.publish(2)
        self.commit(again)
        assert second.offset == 2


class TestAStartThatCannotBe:
    """Says which file and why; nothing else of it is begun."""

    def test_with_a_file_that_is_none(self, path: Path) -> None:
        path.write_bytes(b"x" * 5_000)
        with pytest.raises(StartFailed, match=r"^pushserver: cannot use .*s\.db: file is not a"):
            Run(path)

    def test_with_a_file_that_cannot_be_read_back(self, path: Path) -> None:
        file = SqliteFile(str(path), "sync")
        file._db.execute("INSERT INTO channels VALUES ('a', 5, 0, 0)")
        file.close()
        with pytest.raises(StartFailed, match=r"cannot read .*s\.db: channel a ends at 0"):
            Run(path)

    def test_and_it_touches_nothing_before_the_start(self, path: Path) -> None:
        history = History(lambda name: ChannelOptions())
        Committer(
            str(path), "sync", THREAD, cast(Any, Clock()), Time(), history, Keys(1), Metrics()
        )
        assert not path.exists()


def test_the_end_closes_the_file_even_if_its_mark_cannot_be_written(
    path: Path, trouble: Trouble
) -> None:
    run = Run(path)
    run.committer._file._db.execute("PRAGMA query_only=1")
    run.stop()
    [told] = trouble.take()
    assert "cannot write" in told
    assert in_file(path) == {}


# -- any history of a server against a naive one ---------------------------------------------

PUBLISH = st.tuples(st.just("publish"), st.sampled_from("ab"), st.sampled_from(["", "k", "l"]))
PLAIN = st.sampled_from(
    [
        ("tick",),
        ("commit",),
        ("commit",),
        ("fail",),
        ("clear", "a"),
        ("expire",),
        ("later",),
        ("remember",),
        ("remember",),
        ("stop",),
        ("kill",),
        ("kill untold",),
    ]
)
STEPS = st.lists(PUBLISH | PLAIN | PUBLISH, min_size=1, max_size=40)
OPTIONS = ChannelOptions(history_size=4, history_ttl=100.0)


class Ledger:
    """What everybody was told; two different things under one number are a lie."""

    def __init__(self) -> None:
        self.told: dict[tuple[str, str, int], tuple[int, int]] = {}
        self.by_seq: dict[tuple[str, int], tuple[str, int]] = {}
        self.acknowledged: dict[tuple[str, int], int] = {}

    def note(self, row: Publication) -> None:
        """Somebody reads this."""
        data = int(row.data)
        assert self.told.setdefault((row.epoch, row.channel, row.offset), (row.seq, data)) == (
            row.seq,
            data,
        )
        place = (row.channel, row.offset)
        assert self.by_seq.setdefault((row.epoch, row.seq), place) == place

    def check(self, run: Run) -> None:
        """All that a reader finds now."""
        for channel in run.history.channels.values():
            rows = channel.after(0)
            assert [r.offset for r in rows] == list(range(channel.floor + 1, channel.top + 1))
            seqs = [r.seq for r in rows]
            assert seqs == sorted(set(seqs))
            assert not rows or channel.floor_seq < seqs[0]
            for row in rows:
                self.note(row)


class Story:
    """The same server through all its runs, and what its publishers and readers were told."""

    def __init__(self, path: Path, durability: str):
        self._path = path
        self._durability = durability
        self._time = Time()
        self._count = 0
        self.ledger = Ledger()
        self._pending: list[tuple[int, str, str, Answer]] = []
        self._attempts: dict[tuple[str, str], set[int]] = {}
        self.run = self._start()

    def _start(self) -> Run:
        return Run(self._path, self._durability, OPTIONS, self._time)

    def step(self, what: str, *arguments: str) -> None:
        getattr(self, f"do_{what.replace(' ', '_')}")(*arguments)
        self._hear()
        self.ledger.check(self.run)
        # Never newer than the publications that are kept.
        remembered = self.run.memory.get("s") or 0
        assert isinstance(remembered, int)
        assert remembered <= self.run.history.seq

    def do_publish(self, channel: str, key: str) -> None:
        self._count += 1
        if key:
            self._attempts.setdefault((channel, key), set()).add(self._count)
        answer = self.run.publish(self._count, channel, key)
        self._pending.append((self._count, channel, key, answer))

    def do_tick(self) -> None:
        self._time.now += 1
        self.run.tick(1.0)

    def do_commit(self) -> None:
        if THREAD.jobs:
            THREAD.work()

    def do_fail(self) -> None:
        if THREAD.jobs:
            THREAD.fail()

    def do_clear(self, channel: str) -> None:
        self.run.clear(channel)

    def do_remember(self) -> None:
        """A source does, when it has been answered."""
        self.run.memory.set("s", self.run.history.seq)

    def do_expire(self) -> None:
        self.run.broker.expire(self._time.now, lambda name: False)

    def do_later(self) -> None:
        self._time.now += 60

    def do_stop(self) -> None:
        self.run.stop()
        self._hear()
        before = self.run
        self.run = self._start()
        assert self.run.history.epoch == before.history.epoch
        assert self.run.history.seq == before.history.seq
        kept = {n: c for n, c in before.history.channels.items() if c.top}
        assert {n: c.top for n, c in self.run.history.channels.items()} == {
            n: c.top for n, c in kept.items()
        }
        # A start leaves out what is too old, and need not wait for a sweep.
        for channel in before.history.channels.values():
            channel.expire(self._time.now)
        assert self._read(self.run) == self._read(before)
        assert self.run.memory.get("s") == before.memory.get("s")

    def do_kill(self) -> None:
        for log in self.run.history.channels.values():
            log.expire(self._time.now)
        before = self._read(self.run)
        epoch, seq = self.run.history.epoch, self.run.history.seq
        self.run.kill()
        self._pending.clear()
        self.run = self._start()
        if self._durability == "batched":
            assert self.run.history.epoch != epoch
        else:
            assert self.run.history.epoch == epoch
            assert self.run.history.seq >= seq
            # Nothing acknowledged is lost; what was evicted may have come back.
            after = self._read(self.run)
            for channel, rows in before.items():
                assert rows == after.get(channel, [])[-len(rows) :] if rows else True

    def do_kill_untold(self) -> None:
        """The commit under way is written, and nobody hears of it."""
        if THREAD.jobs:
            THREAD.work_untold()
            self.run.kill()
            epoch = self.run.history.epoch
            self._pending.clear()
            self.run = self._start()
            assert (self.run.history.epoch == epoch) is (self._durability == "sync")

    @staticmethod
    def _read(run: Run) -> dict[str, list[tuple[int, int, int]]]:
        return {
            name: [(r.offset, r.seq, int(r.data)) for r in channel.after(0)]
            for name, channel in run.history.channels.items()
            if len(channel)
        }

    def _hear(self) -> None:
        for row in self.run.delivered:
            self.ledger.note(row)
        waiting = []
        for entry in self._pending:
            number, channel, key, answer = entry
            if answer.waits:
                waiting.append(entry)
                continue
            try:
                receipt: Receipt = answer.result
            except Unavailable:
                assert all(int(row.data) != number for row in self.run.delivered)
                continue
            self._acknowledged(number, channel, key, receipt)
        self._pending = waiting

    def _acknowledged(self, number: int, channel: str, key: str, receipt: Receipt) -> None:
        seq, found = self.ledger.told[receipt.epoch, channel, receipt.offset]
        assert seq == receipt.seq
        # With a key it may be an earlier try of the same that is there.
        assert found == number or (key and found in self._attempts[channel, key])
        if found != number:
            assert all(int(row.data) != number for row in self.run.delivered)


@pytest.mark.parametrize(
    "durability",
    [
        "sync",
        "batched",
    ],
)
@pytest.mark.usefixtures("_trouble_with_the_disk")
@settings(max_examples=60)
@given(steps=STEPS)
def test_no_number_is_ever_told_for_two_things_and_nothing_acknowledged_is_lost(
    durability: str, steps: list[tuple[str, ...]]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        story = Story(Path(folder, "s.db"), durability)
        for step in steps:
            story.step(*step)
        story.do_commit()
        story.do_stop()
        story.run.stop()
