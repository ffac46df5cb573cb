"""Sync durability: a publication is committed, then delivered and acknowledged."""

from __future__ import annotations

from pathlib import Path

import pytest
from twisted.internet.defer import Deferred

from pushserver.channels.channel import ChannelOptions
from pushserver.channels.position import Position
from pushserver.channels.publication import Draft, Receipt
from tests.unit.store.runs import (
    THREAD,
    Answer,
    Run,
    in_file,
    remembered,
)


@pytest.mark.usefixtures("_expects_store_problems")
class TestCommit:
    def test_publication_is_acknowledged_and_delivered_after_the_commit(self, path: Path) -> None:
        run = Run(path)
        answer = run.publish(1)
        assert answer.waits
        assert not run.delivered
        assert run.data == {"a": []}
        THREAD.work()
        assert answer.offset == 1
        assert [p.offset for p in run.delivered] == [1]
        assert run.data == {"a": [1]}

    def test_acknowledged_publication_survives_a_kill(self, path: Path) -> None:
        run = Run(path)
        run.publish(1, key="k")
        THREAD.work()
        epoch = run.history.epoch
        run.kill()
        again = Run(path)
        assert (again.data, again.history.epoch) == ({"a": [1]}, epoch)
        assert again.publish(1, key="k").offset == 1
        assert again.metrics.publications == 0

    def test_publications_during_a_commit_are_committed_together_in_order(self, path: Path) -> None:
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

    def test_failed_commit_fails_its_publishers_only(self, path: Path) -> None:
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

    def test_failed_commit_leaves_no_hole(self, path: Path) -> None:
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

    def test_key_of_a_failed_commit_is_forgotten(self, path: Path) -> None:
        run = Run(path)
        refused = run.publish(1, key="k")
        THREAD.fail()
        assert refused.refused
        again = run.publish(1, key="k")
        THREAD.work()
        assert again.offset == 1
        assert run.metrics.duplicates == 0

    def test_changes_of_a_failed_commit_are_in_the_next(self, path: Path) -> None:
        run = Run(path, options=ChannelOptions(history_ttl=10))
        run.publish(1)
        THREAD.work()
        run.time.now += 20
        run.broker.expire(run.time.now, lambda name: True)
        THREAD.fail()
        run.publish(2, "b")
        THREAD.work()
        run.kill()
        assert in_file(path) == {"a": [], "b": [2]}

    def test_repeated_key_of_a_pending_publication_gets_its_receipt(self, path: Path) -> None:
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

    def test_repeated_key_of_a_pending_publication_gets_its_failure(self, path: Path) -> None:
        run = Run(path)
        answers = [run.publish(1, key="k") for _ in range(2)]
        THREAD.fail()
        assert [answer.refused for answer in answers] == ["the store failed: the disk is full"] * 2
        assert not THREAD.jobs

    def test_publishers_that_publish_again_keep_the_order(self, path: Path) -> None:
        run = Run(path)

        async def chain() -> list[int]:
            return [(await run.broker.publish(Draft("a", b"1"))).offset for _ in range(3)]

        answer = Answer(Deferred.fromCoroutine(chain()))
        other = run.publish(2)
        THREAD.finish()
        assert answer.result == [1, 3, 4]
        assert other.offset == 2

    def test_evicted_rows_are_deleted_by_the_next_commit(self, path: Path) -> None:
        run = Run(path, options=ChannelOptions(history_size=2))
        for n in range(5):
            run.publish(n)
            THREAD.work()
        run.stop()
        assert {n: rows[-2:] for n, rows in in_file(path).items()} == {"a": [3, 4]}
        assert len(in_file(path)["a"]) <= 3

    def test_rows_expired_during_a_commit_are_deleted_by_the_next(self, path: Path) -> None:
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

    def test_forgotten_channel_has_another_epoch_after_a_kill(self, path: Path) -> None:
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
        assert answer.result == Receipt(f"{run.history.epoch}-1", 2, 1)

    def test_channel_that_came_back_has_its_epoch_after_a_kill(self, path: Path) -> None:
        run = Run(path, options=ChannelOptions(history_ttl=10))
        run.publish(1)
        THREAD.work()
        run.time.now += 20
        run.broker.expire(run.time.now, lambda name: False)
        # The commit that deletes the channel and the one with the new row: the same or two.
        answer = run.publish(2)
        THREAD.finish()
        assert answer.result == Receipt(f"{run.history.epoch}-1", 2, 1)
        run.kill()
        again = Run(path)
        assert again.data == {"a": [2]}
        assert again.history.resume("a", Position(answer.result.epoch, 1)).recovered
        assert again.history.resume("a", Position(run.history.epoch, 1)).reason == "epoch"

    def test_position_of_a_channel_whose_end_was_not_committed_is_right_after_a_kill(
        self, path: Path
    ) -> None:
        run = Run(path, options=ChannelOptions(history_ttl=10))
        for n in range(3):
            run.publish(n)
            THREAD.finish()
        run.time.now += 20
        run.broker.expire(run.time.now, lambda name: False)
        # A reader that subscribes now.
        position = Position(run.history.peek("a").epoch, 0)
        run.kill()
        run.time.now -= 20
        again = Run(path, options=ChannelOptions(history_ttl=10), time=run.time)
        assert again.data == {"a": [0, 1, 2]}
        assert list(again.history.resume("a", position).publications) == []
        again.publish(3)
        THREAD.finish()
        resumed = again.history.resume("a", position)
        assert [int(row.data) for row in resumed.publications] == [3]
        again.kill()

    def test_acknowledged_clear_survives_a_kill(self, path: Path) -> None:
        run = Run(path)
        run.publish(1)
        THREAD.work()
        cleared = run.clear()
        while cleared.waits:
            THREAD.work()
        run.kill()
        assert in_file(path) == {"a": []}

    def test_failed_clear_removes_nothing(self, path: Path) -> None:
        run = Run(path)
        run.publish(1)
        THREAD.work()
        cleared, published = run.clear(), run.publish(2)
        assert run.data == {"a": [1]}
        THREAD.fail()
        assert cleared.refused == "the store failed: the disk is full"
        THREAD.work()
        assert published.offset == 2
        assert (run.data, run.metrics.evictions) == ({"a": [1, 2]}, 0)
        run.kill()
        assert in_file(path) == {"a": [1, 2]}

    def test_clear_removes_the_rows_from_before_its_commit(self, path: Path) -> None:
        run = Run(path)
        busy = [run.publish(n) for n in (1, 2)]
        cleared = [run.clear() for _ in range(2)]
        same, other = run.publish(3), run.publish(4, "b")
        THREAD.work()
        assert run.data["a"] == [1]
        THREAD.work()
        assert [answer.result for answer in cleared] == [None, None]
        assert [answer.offset for answer in (*busy, same, other)] == [1, 2, 3, 1]
        assert (run.data, run.metrics.evictions) == ({"a": [2, 3], "b": [4]}, 1)
        run.kill()
        again = Run(path)
        assert again.data == {"a": [2, 3], "b": [4]}
        resumed = again.history.resume("a", Position(again.history.epoch, 0))
        assert resumed.reason == "evicted"

    def test_channel_that_expires_during_its_clear_keeps_its_numbers(self, path: Path) -> None:
        run = Run(path, options=ChannelOptions(history_ttl=10))
        run.publish(1)
        THREAD.work()
        cleared = run.clear()
        run.time.now += 20
        run.broker.expire(run.time.now, lambda name: False)
        THREAD.finish()
        assert (cleared.result, run.data) == (None, {"a": []})
        second = run.publish(2)
        THREAD.finish()
        run.kill()
        assert (second.offset, in_file(path)) == (2, {"a": [2]})

    def test_clear_of_an_unknown_channel_makes_no_commit(self, path: Path) -> None:
        run = Run(path)
        assert run.clear("nowhere").result is None
        assert not THREAD.jobs

    def test_stop_waits_for_all_publications(self, path: Path) -> None:
        run = Run(path)
        answers = [run.publish(n) for n in range(3)]
        run.stop()
        assert [answer.offset for answer in answers] == [1, 2, 3]
        assert in_file(path) == {"a": [0, 1, 2]}

    def test_stop_after_a_failure_does_not_hang(self, path: Path) -> None:
        run = Run(path)
        answer = run.publish(1)
        done = Answer(run.storage.stopService())
        THREAD.fail()
        assert answer.refused
        THREAD.work()
        assert done.result is None
        assert in_file(path) == {}

    def test_duration_of_a_commit_is_measured(self, path: Path) -> None:
        run = Run(path)
        run.publish(1)
        run.time.now += 0.25
        THREAD.work()
        assert run.metrics.store_last_seconds == 0.25
        assert run.metrics.store_errors == 0


@pytest.mark.usefixtures("_expects_store_problems")
class TestSourceMemory:
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

    def test_is_written_without_a_publication(self, path: Path) -> None:
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

    def test_is_never_newer_than_the_publications(self, path: Path) -> None:
        run = Run(path)
        run.publish(1)
        THREAD.work()
        run.memory.set("s", 1)
        run.kill()
        assert (in_file(path), remembered(path)) == ({"a": [1]}, None)

    def test_is_written_by_the_next_commit_after_a_failure(self, path: Path) -> None:
        run = Run(path)
        run.memory.set("s", 1)
        run.tick(0)
        THREAD.fail()
        assert not THREAD.jobs
        run.publish(1)
        THREAD.work()
        run.kill()
        assert remembered(path) == 1
