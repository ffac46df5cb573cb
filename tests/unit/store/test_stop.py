"""The stop of a store whose file cannot be written, or whose commit does not end."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pushserver.channels.channel import ChannelOptions
from pushserver.store.batcher import COMMIT_SECONDS, RETRY_SECONDS
from tests.unit.fakes.web import Trouble
from tests.unit.store.runs import THREAD, Answer, Run, in_file

FULL = "the disk is full"
KILLED = "was not closed in order"


def full(path: Path, durability: str = "batched", rows: int = 3) -> Run:
    """A run with `rows` publications, the first of which is committed; then the disk is full."""
    run = Run(path, durability, ChannelOptions(history_size=5))
    run.publish(0)
    run.tick()
    THREAD.work()
    for n in range(1, rows):
        run.publish(n)
    run.memory.set("source", rows)
    run.tick()
    THREAD.fail()
    return run


def stop(run: Run, seconds: float) -> Answer:
    run.storage.finish_seconds = seconds
    return Answer(run.storage.stopService())


def test_stop_on_a_full_disk_tries_for_its_time_and_counts_what_is_lost(
    path: Path, trouble: Trouble
) -> None:
    run = full(path)
    epoch = run.history.epoch
    assert trouble.take() == [FULL]
    done = stop(run, 2.5 * RETRY_SECONDS)
    # At once, after 1, 2 and 2.5 seconds.
    for pause in (RETRY_SECONDS, RETRY_SECONDS, RETRY_SECONDS / 2):
        THREAD.fail()
        assert (done.waits, THREAD.jobs) == (True, [])
        run.tick(pause)
    THREAD.fail()
    THREAD.finish()
    assert done.result is None
    assert trouble.take() == [
        "the store was not closed in order, and 2 accepted publications are lost: the disk is full"
    ]
    assert run.storage.failed
    assert not run.reactor.getDelayedCalls()
    again = Run(path, "batched")
    assert again.history.epoch != epoch
    assert again.data == {"a": [0]}
    assert [KILLED in line for line in trouble.take()] == [True]


@pytest.mark.parametrize("attempts", [0, 1, 2])
def test_disk_that_is_freed_in_time_loses_nothing(
    path: Path, trouble: Trouble, attempts: int
) -> None:
    run = full(path)
    epoch = run.history.epoch
    trouble.take()
    done = stop(run, 2.0)
    for _ in range(attempts):
        THREAD.fail()
        run.tick(RETRY_SECONDS)
    THREAD.finish()
    assert (done.result, run.storage.failed, trouble.take()) == (None, False, [])
    again = Run(path, "batched")
    assert (again.history.epoch, again.data, again.memory.get("source")) == (
        epoch,
        {"a": [0, 1, 2]},
        3,
    )


def test_publications_that_were_evicted_are_not_counted(path: Path, trouble: Trouble) -> None:
    run = full(path, rows=20)
    done = stop(run, 0)
    THREAD.fail()
    THREAD.finish()
    assert done.result is None
    assert "and 5 accepted publications are lost" in trouble.take()[-1]


@pytest.mark.parametrize("durability", ["batched", "sync"])
def test_mark_that_cannot_be_written_is_tried_again(
    path: Path, trouble: Trouble, durability: str
) -> None:
    for freed in (False, True):
        run = Run(path, durability)
        trouble.take()
        epoch = run.history.epoch
        database = run.committer._file._db
        database.execute("PRAGMA query_only=1")
        done = stop(run, RETRY_SECONDS)
        THREAD.work()
        assert (done.waits, THREAD.jobs) == (True, [])
        database.execute(f"PRAGMA query_only={int(not freed)}")
        run.tick(RETRY_SECONDS)
        THREAD.finish()
        assert (done.result, run.storage.failed) == (None, not freed)
        lost = "and 0 accepted publications are lost: cannot write "
        assert [lost in line for line in trouble.take()] == [True] * (not freed)
        again = Run(path, durability)
        assert (again.history.epoch == epoch) == (freed or durability == "sync")
        again.stop()
        trouble.take()


def test_sync_store_on_a_full_disk_has_lost_no_publication(path: Path, trouble: Trouble) -> None:
    run = full(path, "sync", rows=1)
    refused = run.publish(1)
    assert trouble.take() == [FULL]
    THREAD.fail()
    assert refused.refused
    done = stop(run, 0)
    THREAD.fail()
    THREAD.finish()
    assert (done.result, run.storage.failed) == (None, True)
    assert "and 0 accepted publications are lost: the disk is full" in trouble.take()[0]
    assert in_file(path) == {"a": [0]}


@pytest.mark.parametrize("durability", ["batched", "sync"])
def test_commit_that_does_not_end_is_given_up(
    path: Path, trouble: Trouble, durability: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(THREAD, "close", lambda: None)
    run = Run(path, durability)
    run.publish(1)
    run.tick()
    run.publish(2)
    done = stop(run, 2.0)
    run.tick(2.0 + COMMIT_SECONDS * 0.99)
    assert done.waits
    run.tick(COMMIT_SECONDS * 0.01)
    assert (done.result, run.storage.failed) == (None, True)
    lost = 2 if durability == "batched" else 0
    [line] = trouble.take()
    assert line.endswith(
        f" and {lost} accepted publications are lost: its last commit does not end"
    )
    # It ends after all: the file is closed, and no further commit follows.
    THREAD.finish()
    run.tick(100)
    assert not THREAD.jobs
    assert not run.reactor.getDelayedCalls()
    assert in_file(path) == {"a": [1]}
    trouble.take()


def test_slow_commit_is_waited_for(path: Path) -> None:
    run = Run(path, "batched")
    run.publish(1)
    run.tick()
    done = stop(run, 0)
    run.tick(COMMIT_SECONDS * 0.9)
    assert done.waits
    THREAD.finish()
    assert (done.result, run.storage.failed, in_file(path)) == (None, False, {"a": [1]})


LATE: dict[str, Callable[[Run], object]] = {
    "remember": lambda run: run.memory.set("source", 2),
    "expire": lambda run: run.broker.expire(run.time.now + 1e9, lambda name: False),
}


@pytest.mark.parametrize("durability", ["batched", "sync"])
@pytest.mark.parametrize("late", LATE)
def test_change_after_the_last_commit_starts_no_other(
    path: Path, durability: str, late: str
) -> None:
    """A source that was abandoned may still run."""
    run = Run(path, durability)
    run.publish(1)
    run.memory.set("source", 1)
    run.tick()
    THREAD.finish()
    done = stop(run, 0)
    [_] = THREAD.jobs
    LATE[late](run)
    THREAD.work()
    assert done.result is None
    LATE[late](run)
    run.tick(100)
    assert not THREAD.jobs
    assert not run.reactor.getDelayedCalls()
    again = Run(path, durability)
    assert (again.data, again.memory.get("source")) == ({"a": [1]}, 1)
