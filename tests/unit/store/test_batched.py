"""Batched durability: a publication is acknowledged at once and committed soon."""

from __future__ import annotations

from pathlib import Path

import pytest
from twisted.internet.defer import Deferred
from twisted.logger import LogLevel

from pushserver.channels.channel import ChannelOptions
from pushserver.channels.publication import Draft, Receipt
from pushserver.store.batch import ChannelState, state
from pushserver.store.batcher import RETRY_SECONDS
from pushserver.store.waiting import MAX_WAITING_BYTES
from tests.unit.fakes.web import Log
from tests.unit.store.runs import (
    INTERVAL,
    THREAD,
    Answer,
    Run,
    in_file,
    remembered,
)


@pytest.mark.usefixtures("_expects_store_problems")
class TestCommit:
    def test_publication_is_acknowledged_and_delivered_before_it_is_written(
        self, path: Path
    ) -> None:
        run = Run(path, "batched")
        assert run.publish(1).offset == 1
        assert [int(p.data) for p in run.delivered] == [1]
        assert not THREAD.jobs

    def test_commit_starts_after_the_interval_with_all_publications(self, path: Path) -> None:
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

    def test_no_commit_starts_without_a_change(self, path: Path) -> None:
        run = Run(path, "batched")
        run.publish(1)
        run.tick()
        THREAD.work()
        run.tick(100)
        assert not THREAD.jobs
        assert not run.reactor.getDelayedCalls()

    def test_one_commit_runs_at_a_time(self, path: Path) -> None:
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

    def test_evicted_publications_are_not_written(self, path: Path) -> None:
        run = Run(path, "batched", ChannelOptions(history_size=3))
        for n in range(10):
            run.publish(n)
        run.tick()
        THREAD.work()
        assert run.metrics.store_rows == 3
        run.stop()
        assert in_file(path) == {"a": [7, 8, 9]}

    def test_stop_commits_all_changes(self, path: Path) -> None:
        run = Run(path, "batched")
        run.publish(1)
        run.tick()
        run.publish(2)
        epoch = run.history.epoch
        run.stop()
        again = Run(path, "batched")
        assert (again.data, again.history.epoch) == ({"a": [1, 2]}, epoch)

    def test_start_after_a_kill_logs_it(self, path: Path) -> None:
        Run(path, "batched").kill()
        with Log() as events:
            Run(path, "batched")
        assert ["was not closed in order" in e["log_format"] for e in events] == [True]

    def test_start_after_a_stop_logs_nothing(self, path: Path) -> None:
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

    def test_expired_channel_is_removed_from_the_file(self, path: Path) -> None:
        run = Run(path, "batched", ChannelOptions(history_ttl=10))
        run.publish(1)
        run.tick()
        THREAD.work()
        run.time.now += 20
        run.broker.expire(run.time.now, lambda name: False)
        run.stop()
        again = Run(path, "batched")
        assert again.data == {}
        assert again.history.forgotten.seq("a") == 1
        receipt = again.publish(2).result
        assert receipt == Receipt(f"{again.history.epoch}-1", 2, 1)

    def test_channel_recreated_before_the_commit_has_only_new_rows(self, path: Path) -> None:
        run = Run(path, "batched", ChannelOptions(history_ttl=10))
        run.publish(1)
        run.tick()
        THREAD.work()
        run.time.now += 20
        run.broker.expire(run.time.now, lambda name: False)
        receipt = run.publish(2).result
        assert receipt == Receipt(f"{run.history.epoch}-1", 2, 1)
        run.stop()
        again = Run(path, "batched")
        assert again.data == {"a": [2]}
        assert [row.epoch for row in again.history.channels["a"].after(0)] == [receipt.epoch]
        assert again.publish(3).result == Receipt(receipt.epoch, 3, 2)

    def test_channel_recreated_before_its_first_commit_has_only_new_rows(self, path: Path) -> None:
        run = Run(path, "batched", ChannelOptions(history_ttl=10))
        for n in range(3):
            run.publish(n)
        run.time.now += 20
        run.broker.expire(run.time.now, lambda name: False)
        assert run.publish(3).offset == 1
        run.tick()
        # Forgotten again, now while the commit of its rows is running.
        run.time.now += 20
        run.broker.expire(run.time.now, lambda name: False)
        assert run.publish(4).offset == 1
        THREAD.work()
        run.stop()
        again = Run(path, "batched")
        assert again.data == {"a": [4]}
        assert again.history.channels["a"].epoch == f"{again.history.epoch}-4"

    def test_rows_of_a_forgotten_channel_do_not_count_as_lost(self, path: Path) -> None:
        run = Run(path, "batched", ChannelOptions(history_ttl=10))
        for n in range(3):
            run.publish(n)
        run.time.now += 20
        run.broker.expire(run.time.now, lambda name: False)
        run.publish(3)
        assert run.batcher.lost == 1
        run.stop()

    def test_channel_that_came_back_and_is_only_watched_is_not_in_the_file(
        self, path: Path
    ) -> None:
        run = Run(path, "batched", ChannelOptions(history_ttl=10))
        run.publish(1)
        run.publish(2)
        run.time.now += 20
        run.broker.expire(run.time.now, lambda name: False)
        run.history.channel("a")
        run.stop()
        again = Run(path, "batched")
        assert again.history.channels == {}
        assert again.history.forgotten.seq("a") == 2

    def test_key_returns_its_first_receipt_after_a_kill(self, path: Path) -> None:
        run = Run(path, "batched")
        first = run.publish(1, key="k").result
        run.tick()
        THREAD.work()
        run.kill()
        assert Run(path, "batched").publish(1, key="k").result == first


@pytest.mark.usefixtures("_expects_store_problems")
class TestSourceMemory:
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

    def test_is_written_without_a_publication(self, path: Path) -> None:
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

    def test_is_written_after_a_failed_commit(self, path: Path) -> None:
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

    def test_set_during_a_commit_is_in_the_next_commit(self, path: Path) -> None:
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
    def test_is_written_at_a_stop(self, path: Path, durability: str) -> None:
        run = Run(path, durability)
        run.memory.set("s", 1)
        run.stop()
        assert remembered(path) == 1

    @pytest.mark.parametrize("durability", ["batched", "sync"])
    def test_is_not_written_by_a_stop_whose_commits_fail(self, path: Path, durability: str) -> None:
        run = Run(path, durability)
        run.memory.set("s", 1)
        done = Answer(run.storage.stopService())
        THREAD.fail()
        THREAD.finish()
        assert done.result is None
        assert remembered(path) is None

    def test_of_an_unused_source_stays_in_the_file(self, path: Path) -> None:
        """A source that is no longer configured may return."""
        run = Run(path, "batched")
        run.memory.set("s", 1)
        run.stop()
        for _ in range(2):
            run = Run(path, "batched")
            run.memory.set("other", 1)
            run.stop()
        assert remembered(path) == 1


@pytest.mark.usefixtures("_expects_store_problems")
class TestWhileTheFileCannotBeWritten:
    def failing(self, path: Path) -> Run:
        """A run whose first commit failed."""
        run = Run(path, "batched")
        run.publish(1, key="k")
        run.tick()
        run.publish(2)
        THREAD.fail()
        return run

    def test_publish_and_clear_are_refused_with_the_reason(self, path: Path) -> None:
        run = self.failing(path)
        assert run.publish(3).refused == "the store failed: the disk is full"
        assert run.clear().refused == "the store failed: the disk is full"
        assert run.data == {"a": [1, 2]}

    def test_repeated_key_is_still_answered(self, path: Path) -> None:
        run = self.failing(path)
        assert run.publish(1, key="k").offset == 1

    def test_commit_is_repeated_each_second(self, path: Path) -> None:
        run = self.failing(path)
        for attempt in range(3):
            run.tick(RETRY_SECONDS * 0.99)
            assert not THREAD.jobs
            run.tick(RETRY_SECONDS * 0.01)
            assert len(THREAD.jobs) == 1, attempt
            THREAD.fail()
        assert run.metrics.store_errors == 4

    def test_problem_is_logged_once_and_so_is_its_end(self, path: Path) -> None:
        with Log() as events:
            run = self.failing(path)
            for _ in range(3):
                run.tick(RETRY_SECONDS)
                THREAD.fail()
            run.tick(RETRY_SECONDS)
            THREAD.work()
        lines = [(e["log_level"], e["log_format"], e.get("problem")) for e in events]
        assert lines == [
            (LogLevel.error, "{problem}{more}", "the disk is full"),
            (LogLevel.info, "the store can be written again", None),
        ]

    def test_after_the_problem_nothing_is_lost_and_publishing_works(self, path: Path) -> None:
        run = self.failing(path)
        run.tick(RETRY_SECONDS)
        THREAD.work()
        assert run.publish(3).offset == 3
        epoch = run.history.epoch
        run.stop()
        again = Run(path, "batched")
        assert (again.data, again.history.epoch) == ({"a": [1, 2, 3]}, epoch)
        assert again.publish(1, key="k").offset == 1

    def test_stop_tries_once_more(self, path: Path) -> None:
        run = self.failing(path)
        epoch = run.history.epoch
        run.stop()
        again = Run(path, "batched")
        assert again.data == {"a": [1, 2]}
        assert again.history.epoch == epoch

    def test_stop_that_cannot_write_is_not_orderly(self, path: Path) -> None:
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

    def test_slow_store_refuses_more_than_its_bound(self, path: Path) -> None:
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
