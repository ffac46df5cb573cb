"""Files that somebody removes, moves or replaces while the server runs, and after a kill."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from pushserver.errors import StartFailed
from pushserver.store.batcher import RETRY_SECONDS
from pushserver.usercode.rate import LOGGED_AT_ONCE
from tests.unit.fakes.web import Trouble
from tests.unit.store.runs import THREAD, Answer, Run, in_file
from tests.unit.store.test_sqlite import as_nobody

BOTH = pytest.mark.parametrize("durability", ["batched", "sync"])
GONE = "it was removed or replaced while the server runs; put it back, or restart the server"


def log(path: Path) -> Path:
    return Path(f"{path}-wal")


def away(path: Path) -> Path:
    return Path(f"{path}.away")


def started(path: Path, durability: str) -> Run:
    """A run with one committed publication."""
    run = Run(path, durability)
    run.publish(1)
    commit(run)
    return run


def commit(run: Run) -> None:
    run.tick()
    THREAD.finish()


def copied(path: Path) -> None:
    shutil.copy(path, away(path))
    os.replace(away(path), path)


LOST: dict[str, Callable[[Path], object]] = {
    "removed": lambda path: os.unlink(path),
    "moved": lambda path: os.rename(path, away(path)),
    "replaced": copied,
    "with its folder": lambda path: shutil.rmtree(path.parent),
}


@BOTH
@pytest.mark.parametrize("how", LOST)
def test_nothing_is_accepted_for_a_file_that_is_gone(
    path: Path, trouble: Trouble, durability: str, how: str
) -> None:
    run = started(path, durability)
    LOST[how](path)
    for n in (2, 3):
        answer = run.publish(n)
        commit(run)
        if durability == "batched" and n == 2:
            # Accepted in the moment before.
            assert answer.offset == 2
        else:
            assert answer.refused == f"the store failed: cannot write {path}: {GONE}"
    assert trouble.take() == [f"cannot write {path}: {GONE}"], "once"
    done = Answer(run.storage.stopService())
    THREAD.finish()
    assert (done.result, run.storage.failed) == (None, True)
    [line] = trouble.take()
    lost = 1 if durability == "batched" else 0
    assert f"{lost} accepted publications are lost: cannot write {path}: {GONE}" in line
    path.parent.mkdir(exist_ok=True)


@BOTH
def test_file_that_is_gone_at_the_stop_is_told(
    path: Path, trouble: Trouble, durability: str
) -> None:
    run = started(path, durability)
    os.unlink(path)
    done = Answer(run.storage.stopService())
    THREAD.finish()
    assert (done.result, run.storage.failed) == (None, True)
    assert [GONE in line for line in trouble.take()] == [True]


@BOTH
def test_file_that_is_put_back_is_written_again(
    path: Path, trouble: Trouble, durability: str
) -> None:
    run = started(path, durability)
    epoch = run.history.epoch
    os.rename(path, away(path))
    run.publish(2)
    commit(run)
    assert len(trouble.take()) == 1
    os.rename(away(path), path)
    run.tick(RETRY_SECONDS)
    THREAD.finish()
    third = run.publish(3)
    commit(run)
    assert third.result
    run.kill()
    again = Run(path, durability)
    kept = [1, 2, 3] if durability == "batched" else [1, 3]
    assert again.data == {"a": kept}
    assert (again.history.epoch == epoch) == (durability == "sync")
    trouble.take()


@BOTH
@pytest.mark.parametrize("end", ["stop", "kill"])
def test_log_that_is_removed_loses_nothing(
    path: Path, trouble: Trouble, durability: str, end: str
) -> None:
    run = started(path, durability)
    for n in (2, 3):
        log(path).unlink()
        run.publish(n)
        commit(run)
        assert log(path).exists()
    assert trouble.take() == []
    run.stop() if end == "stop" else run.kill()
    assert in_file(path) == {"a": [1, 2, 3]}
    trouble.take()


@BOTH
def test_log_that_is_removed_before_the_stop_loses_nothing(path: Path, durability: str) -> None:
    run = started(path, durability)
    epoch = run.history.epoch
    log(path).unlink()
    run.stop()
    assert not log(path).exists()
    again = Run(path, durability)
    assert (again.data, again.history.epoch) == ({"a": [1]}, epoch)


def killed(path: Path) -> str:
    """A killed run with sync durability; returns its epoch."""
    run = Run(path)
    epoch = run.history.epoch
    run.publish(1)
    THREAD.finish()
    # What it leaves, since the lock ends with the descriptor.
    copy = path.parent / "copy"
    copy.mkdir()
    os.link(path, copy / "s.db")
    shutil.copy(log(path), copy / "s.db-wal")
    before = path.read_bytes()
    run.kill()
    path.write_bytes(before)
    os.replace(copy / "s.db-wal", log(path))
    return epoch


def test_killed_run_keeps_its_epoch(path: Path) -> None:
    epoch = killed(path)
    again = Run(path)
    assert (again.history.epoch, again.data) == (epoch, {"a": [1]})


def test_killed_run_whose_log_was_removed_gets_a_new_epoch(path: Path, trouble: Trouble) -> None:
    """Its last publications are lost, whose numbers clients have seen."""
    epoch = killed(path)
    log(path).unlink()
    again = Run(path)
    assert again.history.epoch != epoch
    assert ["the last publications may be missing" in line for line in trouble.take()] == [True]


def test_sync_run_that_could_not_be_closed_keeps_its_epoch(path: Path, trouble: Trouble) -> None:
    run = started(path, "sync")
    epoch = run.history.epoch
    run.committer._file._db.execute("PRAGMA query_only=1")
    run.stop()
    assert len(trouble.take()) == 1
    again = Run(path)
    assert (again.history.epoch, again.data) == (epoch, {"a": [1]})


def test_running_store_needs_no_permissions_but_to_reach_its_file(trouble: Trouble) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "s.db")
        Path(folder).chmod(0o777)
        with as_nobody():
            run = started(path, "sync")
            inside = path.parent
        for file in (path, log(path)):
            file.chmod(0)
        for mode, works in ((0o555, True), (0o000, False), (0o555, True)):
            inside.chmod(mode)
            with as_nobody():
                answer = run.publish(mode)
                THREAD.finish()
            if works:
                assert answer.result
            else:
                assert f"cannot write {path}: [Errno 13] Permission denied" in answer.refused
                assert len(trouble.take()) == 1
        run.kill()
        inside.chmod(0o777)
        for file in (path, log(path)):
            file.chmod(0o600)
        assert in_file(path) == {"a": [1, 0o555, 0o555]}


def test_log_that_is_a_folder_ends_the_start_with_the_reason(path: Path) -> None:
    started(path, "sync").stop()
    log(path).mkdir()
    with pytest.raises(StartFailed, match=r"cannot use .*s\.db: .*Is a directory.*s\.db-wal"):
        Run(path)


def test_disk_that_is_almost_full_does_not_fill_the_log(path: Path, trouble: Trouble) -> None:
    run = started(path, "sync")
    for n in range(100):
        run.publish(n)
        THREAD.fail()
        run.publish(n)
        THREAD.finish()
    assert len(trouble.take()) == LOGGED_AT_ONCE
    run.steady.now += 60
    run.publish(1)
    THREAD.fail()
    assert trouble.take() == [f"the disk is full (and {100 - LOGGED_AT_ONCE} that were not logged)"]
