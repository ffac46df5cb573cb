"""The size of the file and of its log."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from twisted.internet.defer import Deferred

from pushserver.channels.channel import ChannelOptions
from pushserver.channels.publication import Draft
from pushserver.store import opening, removal, schema
from pushserver.store.batch import Batch
from pushserver.store.checking import check
from pushserver.store.exporting import export
from pushserver.store.opening import StoreError
from tests.unit.fakes.tools import Time
from tests.unit.store.runs import THREAD, Answer, Run

ROWS = 300


def publish(run: Run, size: int, rows: int = ROWS, channel: str = "a") -> None:
    """Publish rows of this many bytes."""
    for _ in range(rows):
        draft = Draft(channel, b'"' + b"x" * (size - 2) + b'"')
        Answer(Deferred.fromCoroutine(run.broker.publish(draft)))
    THREAD.finish()


@pytest.mark.parametrize("size", [300, 1_000, 1_300, 3_000])
def test_file_is_not_twice_as_large_as_its_publications(path: Path, size: int) -> None:
    run = Run(path)
    publish(run, size)
    run.stop()
    assert check(str(path)).publications == ROWS
    assert path.stat().st_size < 1.5 * size * ROWS + 40_000


def test_space_of_a_removed_history_is_used_again(path: Path) -> None:
    run = Run(path)
    for _ in range(4):
        publish(run, 1_000)
        run.clear()
        THREAD.finish()
    run.stop()
    assert path.stat().st_size < 1.5 * 1_000 * ROWS + 40_000


def test_log_is_cut_after_a_large_commit(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "_LOG_BYTES", 100_000)
    run = Run(path, options=ChannelOptions(history_bytes=100_000_000))
    log = Path(f"{path}-wal")
    # SQLite looks at its log when it has 1,000 pages, which are 4 MB.
    publish(run, 20_000)
    before = log.stat().st_size
    publish(run, 10, 2)
    after = log.stat().st_size
    run.stop()
    assert before > 4_000_000 > 200_000 > after


LARGE = ChannelOptions(history_size=100_000, history_bytes=100_000_000)


def fill(path: Path, rows: int, size: int, channels: str) -> None:
    """A closed file whose channels have this many rows each, in turn."""
    run = Run(path, options=LARGE)
    for _ in range(rows):
        for channel in channels:
            publish(run, size, 1, channel)
    run.stop()


@pytest.mark.parametrize(("rows", "size", "channels"), [(900, 20_000, "a"), (300, 20_000, "abc")])
def test_log_stays_small_while_long_histories_are_removed(
    path: Path, rows: int, size: int, channels: str
) -> None:
    fill(path, rows, size, channels)
    assert path.stat().st_size > 18_000_000
    log = Path(f"{path}-wal")
    run = Run(path, options=LARGE)
    for name in channels:
        run.clear(name)
    THREAD.finish()
    assert log.stat().st_size < 1.5 * removal.STEP_BYTES
    assert check(str(path)).publications == 0
    run.stop()


def test_log_stays_small_while_a_start_removes_what_has_expired(path: Path) -> None:
    fill(path, 900, 20_000, "a")
    run = Run(path, options=LARGE, time=Time(Time().now + LARGE.history_ttl + 1))
    assert Path(f"{path}-wal").stat().st_size < 1.5 * removal.STEP_BYTES
    assert check(str(path)).publications == 0
    run.stop()


def test_log_stays_small_while_a_long_channel_is_forgotten_and_comes_back(path: Path) -> None:
    fill(path, 900, 20_000, "a")
    run = Run(path, options=LARGE)
    run.history.room.forget(run.history.channels["a"])
    run.batcher.touch("a")
    publish(run, 10, 1)
    assert Path(f"{path}-wal").stat().st_size < 1.5 * removal.STEP_BYTES
    run.stop()
    assert check(str(path)).publications == 1
    assert check(str(path)).problems == []


def stored(path: Path) -> int:
    """The rows of publications in the file, also of those that are not read."""
    with closing(sqlite3.connect(path)) as database:
        [[rows]] = database.execute("SELECT count(*) FROM publications")
        return int(rows)


@pytest.mark.usefixtures("_expects_store_problems")
def test_rows_that_were_not_deleted_are_not_read_and_go_at_the_next_start(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    fill(path, 20, 1_000, "ab")
    monkeypatch.setattr(removal, "STEP_BYTES", 20_000)
    run = Run(path)
    with monkeypatch.context() as patch:
        patch.setattr("pushserver.store.sqlite.delete_all", fail)
        cleared = run.clear()
        THREAD.finish()
        assert not cleared.waits
        run.kill()
    assert stored(path) == 36
    checked = check(str(path))
    assert (checked.problems, checked.publications) == ([], 36)
    lines = [json.loads(line) for line in export(str(path))]
    assert [line["channel"] for line in lines if line["kind"] == "publication"] == ["b"] * 20
    Run(path).stop()
    assert stored(path) == 20


def test_a_commit_that_fails_after_the_removal_leaves_a_channel_without_rows(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(path, 20, 1_000, "a")
    monkeypatch.setattr(removal, "STEP_BYTES", 20_000)
    run = Run(path)

    def fail(*_: object) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    monkeypatch.setattr(run.committer._file, "_commit", fail)
    with pytest.raises(StoreError):
        run.committer._file.commit(Batch(seq=20, forgotten={"a": 20}))
    run.kill()
    assert check(str(path)).problems == []
    again = Run(path)
    channel = again.history.channels["a"]
    assert (channel.top, channel.floor, channel.floor_seq) == (20, 20, 20)
    again.stop()


def test_upgraded_file_has_its_rows_and_gives_space_back(path: Path) -> None:
    with closing(sqlite3.connect(path)) as database:
        for step in schema._STEPS[:3]:
            database.executescript(step)
        database.execute("INSERT INTO meta VALUES ('format', 3), ('seq', ?)", (ROWS,))
        database.execute("INSERT INTO channels VALUES ('a', ?, 0, 0, 0)", (ROWS,))
        database.executemany(
            "INSERT INTO publications VALUES ('a', ?, ?, 1795000000.0, 'e', ?, NULL, NULL)",
            ((n, n, b'"' + b"x" * 1_300 + b'"') for n in range(1, ROWS + 1)),
        )
        database.commit()
        rows = list(database.execute("SELECT * FROM publications ORDER BY offset"))
    assert path.stat().st_size > 3 * 1_300 * ROWS
    run = Run(path)
    run.stop()
    with closing(sqlite3.connect(path)) as database:
        assert list(database.execute("SELECT * FROM publications ORDER BY offset")) == rows
    assert check(str(path)).problems == []
    assert path.stat().st_size < 1.5 * 1_300 * ROWS
