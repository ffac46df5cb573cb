from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

import pytest

from pushserver.channels.channel import ChannelOptions
from pushserver.channels.history import History
from pushserver.channels.idempotency import Keys
from pushserver.channels.publication import Publication
from pushserver.store.batch import Batch, ChannelState
from pushserver.store.opening import StoreError
from pushserver.store.source_memory import SourceMemory
from pushserver.store.sqlite import SqliteFile
from pushserver.store.wal import log_of


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "s.db"


def start(path: Path) -> tuple[SqliteFile, History]:
    file, history = SqliteFile(str(path), "batched"), History(lambda name: ChannelOptions())
    file.load(history, Keys(1), SourceMemory(), 1e9, 0.0)
    return file, history


def publish(file: SqliteFile, first: int, last: int, size: int = 10) -> None:
    rows = [
        Publication("a", "e", number, number, 1e9, "message", b"1" * size)
        for number in range(first, last + 1)
    ]
    file.commit(Batch(seq=last, rows=rows, states=[ChannelState("a", last, 0, 0)]))


def top(path: Path) -> int:
    file, history = start(path)
    file.close()
    return history.top("a")


def killed(path: Path, *, first: int = 1, last: int = 5) -> None:
    """A run that is killed: its files stay as they are, and it writes nothing more."""
    file, _ = start(path)
    publish(file, first, last)
    kill(file, path)


def kill(file: SqliteFile, path: Path) -> None:
    kept = [(p, p.read_bytes()) for p in (path, Path(f"{path}-wal"))]
    inodes = [os.open(p, os.O_RDWR) for p, _ in kept]
    # The files keep their inodes, which the store compares.
    os.link(path, f"{path}.1")
    os.link(f"{path}-wal", f"{path}.2")
    file.abandon()
    for (name, content), descriptor, link in zip(kept, inodes, (".1", ".2"), strict=True):
        same = name.exists() and os.path.samefile(f"{path}{link}", name)
        os.unlink(f"{path}{link}") if same else os.replace(f"{path}{link}", name)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, content, 0)
        os.close(descriptor)


def move(copy: Path, path: Path) -> None:
    shutil.copy(copy, f"{path}.new")
    os.replace(f"{path}.new", path)


RESTORE = pytest.mark.parametrize("restore", [shutil.copyfile, move])


def is_refused(path: Path) -> None:
    before = path.read_bytes(), Path(f"{path}-wal").read_bytes()
    with pytest.raises(StoreError, match=r"was replaced, and .*s\.db-wal belongs to .*: to start"):
        SqliteFile(str(path), "batched")
    assert (path.read_bytes(), Path(f"{path}-wal").read_bytes()) == before
    os.rename(f"{path}-wal", f"{path}-wal.old")


class TestALogOfAnotherDatabaseIsRefused:
    @RESTORE
    def test_beside_a_copy_from_before_the_run(
        self, path: Path, restore: Callable[[Path, Path], object]
    ) -> None:
        killed(path)
        assert top(path) == 5
        copy = shutil.copy(path, f"{path}.copy")
        killed(path, first=6, last=9)
        restore(Path(copy), path)
        is_refused(path)
        assert top(path) == 5

    def test_beside_a_copy_of_the_same_run_that_was_moved_here(self, path: Path) -> None:
        file, _ = start(path)
        publish(file, 1, 5)
        copy = Path(shutil.copy(path, f"{path}.copy"))
        publish(file, 6, 9)
        kill(file, path)
        move(copy, path)
        is_refused(path)

    def test_beside_a_copy_of_the_same_run_from_several_checkpoints_before(
        self, path: Path
    ) -> None:
        file, _ = start(path)
        copy = Path(shutil.copy(path, f"{path}.copy"))
        for number in range(1, 6):
            publish(file, number, number, size=5_000_000)
        kill(file, path)
        shutil.copyfile(copy, path)
        is_refused(path)

    def test_from_another_store(self, path: Path, tmp_path: Path) -> None:
        other = tmp_path / "other.db"
        killed(other)
        killed(path)
        shutil.copyfile(f"{other}-wal", f"{path}-wal")
        is_refused(path)


class TestItsOwnLogIsReplayed:
    def test_after_a_kill(self, path: Path) -> None:
        killed(path)
        killed(path, first=6, last=9)
        assert top(path) == 9

    def test_after_a_kill_at_any_size_of_the_commits(self, path: Path) -> None:
        last = 0
        for size in (10, 5_000_000, 10, 100_000):
            for count in range(1, 4):
                file, _ = start(path)
                for _ in range(count):
                    last += 1
                    publish(file, last, last, size)
                kill(file, path)
        assert top(path) == last

    def test_after_an_end_in_the_middle_of_the_start(self, path: Path) -> None:
        """Every statement of a start may be the last one."""
        killed(path)
        assert top(path) == 5
        total = 0
        for limit in range(100):
            seen = interrupted_start(path, limit)
            assert top(path) == 5
            if seen < limit:
                total = limit
                break
        assert total > 5

    def test_after_a_copy_of_the_folder(self, path: Path, tmp_path: Path) -> None:
        killed(path)
        shutil.copytree(tmp_path, tmp_path / "copy")
        assert top(tmp_path / "copy" / "s.db") == 5

    @pytest.mark.parametrize("record", ["", "x", "1:", "None", ":5"])
    def test_without_a_record(self, path: Path, record: str) -> None:
        killed(path)
        assert top(path) == 5
        with closing(sqlite3.connect(path)) as database, database:
            database.execute("UPDATE meta SET value = ? WHERE name = 'wal'", (record,))
        with closing(sqlite3.connect(path, isolation_level=None)) as database:
            database.execute("CREATE TABLE more (x)")
            kept = Path(f"{path}-wal").read_bytes()
            held = path.read_bytes()
        Path(f"{path}-wal").write_bytes(kept)
        path.write_bytes(held)
        assert log_of(str(path)) is not None
        assert top(path) == 5


class Killed(BaseException):
    """Ends a start."""


def interrupted_start(path: Path, limit: int) -> int:
    """A start that is killed after `limit` statements; returns how many it made."""
    made = 0

    def trace(statement: str) -> None:
        nonlocal made
        made += 1

    file = SqliteFile(str(path), "batched")
    database = file._db

    class Counting:
        def __getattr__(self, name: str) -> object:
            return getattr(database, name)

        def execute(self, *arguments: object) -> object:
            if made >= limit:
                raise Killed
            trace("")
            return database.execute(*arguments)  # type: ignore[arg-type]

    file._db = Counting()  # type: ignore[assignment]
    with suppress(Killed):
        file.load(History(lambda name: ChannelOptions()), Keys(1), SourceMemory(), 1e9, 0.0)
    file._db = database
    if Path(f"{path}-wal").exists():
        kill(file, path)
    else:
        file.abandon()
    return made
