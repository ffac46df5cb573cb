"""The size of the file and of its log."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from twisted.internet.defer import Deferred

from pushserver.channels.channel import ChannelOptions
from pushserver.channels.publication import Draft
from pushserver.store import opening, schema
from pushserver.store.checking import check
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
