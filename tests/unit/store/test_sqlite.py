from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pushserver.channels.channel import ChannelOptions
from pushserver.channels.history import History
from pushserver.channels.idempotency import REMEMBERED_SECONDS, KeyEntry, Keys
from pushserver.channels.position import Cursor, Position, Start
from pushserver.channels.publication import ClientInfo, Publication, Receipt
from pushserver.store import locks, opening
from pushserver.store.batch import Batch, ChannelState, state
from pushserver.store.opening import StoreError
from pushserver.store.schema import FORMAT
from pushserver.store.source_memory import SourceMemory
from pushserver.store.sqlite import SqliteFile
from tests.unit.fakes.tools import EPOCH
from tests.unit.store.runs import folder_in_memory

NOW = 1_795_000_000.0
STEADY = 7_000.0


def options(name: str) -> ChannelOptions:
    return ChannelOptions()


def load(file: SqliteFile, wall: float = NOW) -> tuple[History, Keys, bool]:
    """The content of the file, and whether its numbering continues."""
    history, keys = History(options), Keys(100)
    continued = file.load(history, keys, SourceMemory(), wall, STEADY)
    return history, keys, continued


def remembered(path: Path, *names: str) -> list[object]:
    """The values of these sources in a closed file."""
    memory = SourceMemory()
    file = SqliteFile(str(path), "batched")
    file.load(History(options), Keys(1), memory, NOW, STEADY)
    file.close()
    return [memory.get(name) for name in names]


@contextmanager
def opened(path: Path, durability: str = "batched") -> Iterator[tuple[SqliteFile, History]]:
    """A run that ends in order."""
    file = SqliteFile(str(path), durability)
    try:
        yield file, load(file)[0]
        file.close()
    finally:
        file.abandon()


def killed(path: Path, durability: str, *batches: Batch) -> str:
    """Make a run that is killed; return its epoch."""
    file = SqliteFile(str(path), durability)
    history = load(file)[0]
    for batch in batches:
        file.commit(batch)
    file.abandon()
    return history.epoch


def row(offset: int, channel: str = "a", seq: int = 0, data: bytes = b"1") -> Publication:
    return Publication(channel, EPOCH, seq or offset, offset, NOW, "message", data)


def rows(count: int, floor: int = 0, size: int = 1) -> Batch:
    """A batch of `count` publications in the channel `a`."""
    published = [row(n, data=b"7" * size) for n in range(floor + 1, floor + count + 1)]
    top = floor + count
    return Batch(seq=top, rows=published, states=[ChannelState("a", top, 0, 0)])


def offsets(history: History, channel: str = "a") -> list[int]:
    return [r.offset for r in history.channels[channel].after(0)]


class TestLoad:
    def test_restores_every_field(self, path: Path) -> None:
        info = ClientInfo("c1", "u1", b'{"a":1}', b"[2]")
        tags = {"colour": "grün", "": "x"}
        full = Publication(
            "a", EPOCH, 7, 1, NOW + 0.345678, "newnumber", b'{"n":"\xc3\xbc"}', tags, info
        )
        with opened(path) as (file, _):
            file.commit(Batch(seq=7, rows=[full], states=[ChannelState("a", 1, 0, 0)]))
        with opened(path) as (_, history):
            [loaded] = history.channels["a"].after(0)
            assert loaded == Publication(
                "a", history.epoch, 7, 1, NOW + 0.345678, "newnumber", full.data, tags, info
            )
            assert history.seq == 7

    def test_restores_the_numbers_of_an_empty_channel(self, path: Path) -> None:
        with opened(path) as (file, _):
            file.commit(Batch(seq=9, states=[ChannelState("a", 5, 5, 8)]))
        with opened(path) as (_, history):
            channel = history.channels["a"]
            assert (channel.top, channel.floor, channel.floor_seq, len(channel)) == (5, 5, 8, 0)
            assert history.seq == 9

    def test_restores_the_numbers_of_forgotten_channels(self, path: Path) -> None:
        with opened(path) as (file, _):
            file.commit(rows(3))
            file.commit(Batch(seq=4, forgotten={"a": 3}))
        with opened(path) as (_, history):
            assert not history.channels
            assert history.seq == 4
            assert (history.forgotten.seq("a"), history.forgotten.seq("b")) == (3, 0)
            assert history.peek("a").epoch == f"{history.epoch}-3"

    def test_restores_a_channel_that_came_back(self, path: Path) -> None:
        with opened(path) as (file, _):
            file.commit(rows(5))
            states = [ChannelState("a", 2, 0, 5, 5)]
            file.commit(Batch(7, [row(1, seq=6), row(2, seq=7)], [], states, {"a": 5}))
        with opened(path) as (_, history):
            assert offsets(history) == [1, 2]
            assert [r.id for r in history.channels["a"].after(0)] == [
                f"{history.epoch}:{seq}" for seq in (6, 7)
            ]
            assert {r.epoch for r in history.channels["a"].after(0)} == {f"{history.epoch}-5"}

    def test_restores_keys_younger_than_five_minutes(self, path: Path) -> None:
        young = KeyEntry("a", "young", Receipt("e0", 2, 2), NOW - REMEMBERED_SECONDS + 1)
        old = KeyEntry("a", "old", Receipt("e0", 1, 1), NOW - REMEMBERED_SECONDS)
        with opened(path) as (file, _):
            file.commit(Batch(keys=[old, young]))
        file = SqliteFile(str(path), "batched")
        _, keys, _ = load(file)
        file.close()
        assert list(keys) == [young]

    def test_restores_keys_in_the_order_of_expiry(self, path: Path) -> None:
        known = [KeyEntry("a", str(n), Receipt(EPOCH, n, n), NOW + n) for n in (3, 1, 4, 5, 2)]
        with opened(path) as (file, _):
            file.commit(Batch(keys=known))
        file = SqliteFile(str(path), "batched")
        _, keys, _ = load(file)
        file.close()
        assert [k.key for k in keys] == ["1", "2", "3", "4", "5"]

    def test_key_is_at_least_as_old_as_the_keys_after_it(self, path: Path) -> None:
        before = KeyEntry("a", "before", Receipt(EPOCH, 1, 1), NOW - 10)
        after = KeyEntry("a", "after", Receipt(EPOCH, 2, 2), NOW - 200)
        with opened(path) as (file, _):
            file.commit(Batch(keys=[before, after]))
        file = SqliteFile(str(path), "batched")
        _, keys, _ = load(file)
        file.close()
        assert [known.key for known in keys] == ["before", "after"]
        keys.expire(STEADY + 100)
        assert list(keys) == []

    @pytest.mark.parametrize("durability", ["batched", "sync"])
    def test_leaves_out_expired_rows_and_deletes_them(self, path: Path, durability: str) -> None:
        ttl = ChannelOptions().history_ttl
        batch = rows(4)
        batch.rows[2:] = [msgspec.structs.replace(row, time=NOW + 60) for row in batch.rows[2:]]
        with opened(path, durability) as (file, _):
            file.commit(batch)
        file = SqliteFile(str(path), durability)
        history, _, _ = load(file, NOW + ttl)
        file.close()
        assert offsets(history) == [3, 4]
        assert state(history.channels["a"]) == ChannelState("a", 4, 2, 2)
        # They stay out after the clock was set back.
        with opened(path, durability) as (_, history):
            assert offsets(history) == [3, 4]

    @pytest.mark.parametrize("wall", [NOW - 3_600, NOW, NOW - 3e8])
    def test_rows_of_the_future_count_as_new(self, path: Path, wall: float) -> None:
        with opened(path) as (file, _):
            file.commit(rows(2))
        file = SqliteFile(str(path), "batched")
        history, _, _ = load(file, wall)
        file.close()
        channel, ttl = history.channels["a"], ChannelOptions().history_ttl
        assert channel.expire(STEADY + ttl - 1) == 0
        assert channel.expire(STEADY + ttl) == 2

    def test_restores_the_age_of_rows(self, path: Path) -> None:
        with opened(path) as (file, _):
            file.commit(rows(2))
        file = SqliteFile(str(path), "batched")
        history, _, _ = load(file, NOW + 1_000)
        file.close()
        channel, ttl = history.channels["a"], ChannelOptions().history_ttl
        assert channel.expire(STEADY + ttl - 1_001) == 0
        assert channel.expire(STEADY + ttl - 1_000) == 2

    def test_old_keys_are_deleted(self, path: Path) -> None:
        """The seq decides which key is old, as the wall clock may have been set."""
        with opened(path) as (file, _):
            file.commit(Batch(keys=[KeyEntry("a", "old", Receipt(EPOCH, 1, 1), NOW)]))
            new = KeyEntry("a", "new", Receipt(EPOCH, 2, 2), NOW - 3_600)
            file.commit(Batch(keys=[new], forgotten_keys=1))
        with closing(sqlite3.connect(path)) as database:
            assert database.execute("SELECT key FROM keys").fetchall() == [("new",)]

    def test_restores_the_memory_of_sources(self, path: Path) -> None:
        with opened(path) as (file, _):
            file.commit(Batch(memory={"a": b'{"n":1}', "b": '"grün"'.encode()}))
            file.commit(Batch(memory={"a": b'{"n":2}'}))
        assert remembered(path, "a", "b", "c") == [{"n": 2}, "grün", None]

    def test_leaves_out_evicted_rows(self, path: Path) -> None:
        with opened(path) as (file, _):
            file.commit(rows(5))
            file.commit(Batch(seq=5, states=[ChannelState("a", 5, 3, 3)]))
        with opened(path) as (_, history):
            assert offsets(history) == [4, 5]
            assert history.channels["a"].floor_seq == 3
        with closing(sqlite3.connect(path)) as database:
            assert database.execute("SELECT count(*) FROM publications").fetchone() == (2,)

    def test_rows_of_a_forgotten_channel_are_deleted(self, path: Path) -> None:
        with opened(path) as (file, _):
            file.commit(rows(5))
            file.commit(Batch(seq=5, forgotten={"a": 5}))
        with closing(sqlite3.connect(path)) as database:
            assert database.execute("SELECT count(*) FROM publications").fetchone() == (0,)

    def test_keeps_no_more_rows_than_the_current_options(self, path: Path) -> None:
        with opened(path) as (file, _):
            file.commit(rows(5))
        file = SqliteFile(str(path), "batched")
        history = History(lambda name: ChannelOptions(history_size=2))
        file.load(history, Keys(1), SourceMemory(), NOW, STEADY)
        file.close()
        channel = history.channels["a"]
        assert (offsets(history), channel.floor, channel.floor_seq) == ([4, 5], 3, 3)


@settings(max_examples=25)
@given(
    st.lists(st.tuples(st.sampled_from("ab"), st.binary(max_size=9)), max_size=20),
    st.integers(0, 20),
)
def test_any_publications_are_restored_in_order(drafts: list[tuple[str, bytes]], kept: int) -> None:
    with folder_in_memory() as folder:
        path = Path(folder, "s.db")
        with opened(path) as (file, history):
            for channel, data in drafts:
                published = Publication(
                    channel,
                    history.epoch,
                    history.seq + 1,
                    history.top(channel) + 1,
                    NOW,
                    "m",
                    data,
                )
                history.append(published, STEADY)
                known = state(history.channels[channel])
                file.commit(Batch(seq=history.seq, rows=[published], states=[known]))
            for log in history.channels.values():
                log._evict_over(kept, 1_000)
                file.commit(Batch(seq=history.seq, states=[state(log)]))
            written = {n: (state(c), c.after(0)) for n, c in history.channels.items()}
        with opened(path) as (_, history):
            assert {n: (state(c), c.after(0)) for n, c in history.channels.items()} == written
            assert history.seq == len(drafts)


class TestEpoch:
    """Names one numbering; numbers of another epoch may mean other publications."""

    def test_is_new_with_a_new_file(self, path: Path, tmp_path: Path) -> None:
        with opened(path) as (_, one), opened(tmp_path / "other.db") as (_, other):
            assert one.epoch
            assert one.epoch != other.epoch

    @pytest.mark.parametrize("durability", ["batched", "sync"])
    def test_stays_after_an_orderly_end(self, path: Path, durability: str) -> None:
        with opened(path, durability) as (file, history):
            file.commit(rows(2))
            epoch = history.epoch
        file = SqliteFile(str(path), durability)
        history, _, continued = load(file)
        file.close()
        assert (continued, history.epoch, offsets(history)) == (True, epoch, [1, 2])

    def test_stays_after_a_kill_in_sync_mode(self, path: Path) -> None:
        epoch = killed(path, "sync", rows(2))
        file = SqliteFile(str(path), "sync")
        history, _, continued = load(file)
        file.close()
        assert (continued, history.epoch, offsets(history)) == (True, epoch, [1, 2])

    def test_is_new_after_a_kill_in_batched_mode(self, path: Path) -> None:
        epoch = killed(path, "batched", rows(2))
        file = SqliteFile(str(path), "batched")
        history, _, continued = load(file)
        file.close()
        assert not continued
        assert history.epoch != epoch
        assert offsets(history) == [1, 2]
        assert {r.epoch for r in history.channels["a"].after(0)} == {history.epoch}

    @pytest.mark.parametrize(
        ("first", "second", "same"), [("batched", "sync", False), ("sync", "batched", True)]
    )
    def test_depends_on_the_mode_of_the_killed_run(
        self, path: Path, first: str, second: str, same: bool
    ) -> None:
        epoch = killed(path, first)
        with opened(path, second) as (_, history):
            assert (history.epoch == epoch) is same

    @pytest.mark.parametrize("durability", ["batched", "sync"])
    def test_is_new_in_a_copy(self, path: Path, durability: str) -> None:
        """A copy may be older than the numbers that were sent."""
        with opened(path, durability) as (file, history):
            file.commit(rows(2))
            epoch = history.epoch
        copy = path.with_suffix(".copy")
        shutil.copy(path, copy)
        copy.replace(path)
        file = SqliteFile(str(path), durability)
        history, _, continued = load(file)
        file.close()
        assert (continued, offsets(history)) == (False, [1, 2])
        assert history.epoch != epoch

    def test_is_new_after_each_kill(self, path: Path) -> None:
        assert len({killed(path, "batched") for _ in range(4)}) == 4

    def test_is_new_once_after_a_kill(self, path: Path) -> None:
        killed(path, "batched")
        with opened(path) as (_, history):
            epoch = history.epoch
        with opened(path) as (_, history):
            assert history.epoch == epoch


def fill(file: SqliteFile, pages: int = 0) -> None:
    """Limit the file to `pages`, or to its current size."""
    file._db.execute(f"PRAGMA max_page_count={pages or 1}")


class TestFullDisk:
    def test_fails_the_commit_with_the_file_and_the_reason(self, path: Path) -> None:
        with opened(path) as (file, _):
            fill(file)
            with pytest.raises(StoreError, match=r"cannot write .*s\.db: database or disk is full"):
                file.commit(rows(50, size=1_000))

    def test_undoes_the_whole_batch(self, path: Path) -> None:
        with opened(path) as (file, _):
            file.commit(rows(3))
            fill(file)
            batch = rows(50, floor=3, size=1_000)
            batch.keys = [KeyEntry("a", "k", Receipt(EPOCH, 4, 4), NOW)]
            batch.memory = {"a": b"4"}
            with pytest.raises(StoreError):
                file.commit(batch)
        file = SqliteFile(str(path), "batched")
        history, keys, _ = load(file)
        file.close()
        assert (offsets(history), history.seq, len(keys)) == ([1, 2, 3], 3, 0)
        assert remembered(path, "a") == [None]

    def test_other_failures_undo_the_whole_batch(self, path: Path) -> None:
        """Any failure undoes the whole batch."""
        with opened(path) as (file, _):
            file.commit(rows(3))
            batch = rows(2, floor=3)
            batch.rows.append(batch.rows[0])
            with pytest.raises(StoreError, match="UNIQUE"):
                file.commit(batch)
            file.commit(rows(1, floor=3))
        with opened(path) as (_, history):
            assert offsets(history) == [1, 2, 3, 4]

    def test_with_room_again_accepts_the_same_batch(self, path: Path) -> None:
        with opened(path) as (file, _):
            fill(file)
            with pytest.raises(StoreError):
                file.commit(rows(50, size=1_000))
            fill(file, 10_000)
            file.commit(rows(50, size=1_000))
        with opened(path) as (_, history):
            assert offsets(history) == list(range(1, 51))


OPEN = """
import sys
from pushserver.store.sqlite import SqliteFile
SqliteFile(sys.argv[1], "sync")
"""


@pytest.fixture
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not wait two seconds for a locked file."""
    monkeypatch.setattr(locks, "LOCK_SECONDS", 0.0)


@pytest.mark.usefixtures("_impatient")
class TestUnusableFile:
    """Raises StoreError with the file and the problem; the file stays unchanged."""

    def test_opened_by_another_process(self, path: Path) -> None:
        with opened(path), pytest.raises(StoreError, match=r"s\.db: database is locked"):
            SqliteFile(str(path), "batched")

    def test_opened_by_another_server_whose_application_has_copied_it(self, path: Path) -> None:
        with opened(path):
            # It ends the locks that SQLite has in this process.
            path.read_bytes()
            other = subprocess.run(
                [sys.executable, "-c", OPEN, path], capture_output=True, text=True, check=False
            )
        assert "database is locked (another server or command has it open)" in other.stderr

    def test_closed_while_a_fork_has_its_descriptors_is_opened_again(self, path: Path) -> None:
        with opened(path) as (file, *_):
            assert file._lock is not None
            copied = os.dup(file._lock.fileno())
        try:
            with opened(path):
                pass
        finally:
            os.close(copied)

    def test_locked_by_another_program(self, path: Path) -> None:
        with opened(path):
            pass
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(StoreError, match=r"s\.db: database is locked"):
                SqliteFile(str(path), "batched")

    def test_no_database(self, path: Path) -> None:
        path.write_bytes(b"This is a letter to my aunt. " * 100)
        self.is_refused(
            path,
            r"^cannot use [^\n]*s\.db: file is not a database: set another path in \[store\], or"
            r" move the file away to start with an empty history$",
        )

    def test_folder(self, path: Path) -> None:
        path.mkdir()
        with pytest.raises(StoreError, match=r"^cannot [^\n]*s\.db: [^\n]*\(a folder; expected a"):
            SqliteFile(str(path), "batched")

    @pytest.mark.parametrize("part", [0.2, 0.5, 0.9])
    def test_damaged(self, path: Path, part: float) -> None:
        with opened(path) as (file, _):
            file.commit(rows(200, size=200))
        content = bytearray(path.read_bytes())
        start = int(len(content) * part) // 4096 * 4096
        content[start : start + 4096] = b"\xa5" * 4096
        path.write_bytes(content)
        self.is_refused(
            path, r"^[^\n]*s\.db[^\n]*: restore a copy [^\n]* start with an empty history$"
        )

    def test_truncated(self, path: Path) -> None:
        with opened(path) as (file, _):
            file.commit(rows(200, size=200))
        path.write_bytes(path.read_bytes()[:20_000])
        self.is_refused(path, r"s\.db.*(malformed|damaged).*: restore a copy")

    def test_of_a_newer_version(self, path: Path) -> None:
        with opened(path):
            pass
        with closing(sqlite3.connect(path)) as database, database:
            database.execute("UPDATE meta SET value = ? WHERE name = 'format'", (FORMAT + 1,))
        message = rf"s\.db has format {FORMAT + 1}; this version of pushserver reads {FORMAT}"
        self.is_refused(path, message)

    @pytest.mark.parametrize("format_", ["0", "-1", "'1'", "NULL", "1.5"])
    def test_with_an_invalid_format(self, path: Path, format_: str) -> None:
        with opened(path):
            pass
        self.change(path, f"UPDATE meta SET value = {format_} WHERE name = 'format'")
        self.is_refused(path, r"s\.db has format ")

    @pytest.mark.parametrize(
        "schema",
        [
            "CREATE TABLE cats (name)",
            "CREATE TABLE meta (a, b)",
            "CREATE TABLE meta (name, value)",
        ],
    )
    def test_database_of_another_program(self, path: Path, schema: str) -> None:
        with closing(sqlite3.connect(path)) as database, database:
            database.execute(schema)
        self.is_refused(path, r"s\.db")

    def test_with_a_hole_in_its_rows(self, path: Path) -> None:
        with opened(path) as (file, _):
            file.commit(rows(5))
        self.change(path, "DELETE FROM publications WHERE offset = 3")
        self.is_not_loaded(path, r"cannot read .*s\.db: a: offset 4 after 2: restore a copy")

    def test_without_its_last_rows(self, path: Path) -> None:
        with opened(path) as (file, _):
            file.commit(rows(5))
        self.change(path, "DELETE FROM publications WHERE offset = 5")
        self.is_not_loaded(path, r"cannot read .*s\.db: channel a ends at 4, expected 5")

    @pytest.mark.parametrize(
        "statement",
        [
            "UPDATE publications SET data = 'text' WHERE offset = 2",
            "UPDATE publications SET tags = 7 WHERE offset = 2",
            "UPDATE publications SET tags = x'7b' WHERE offset = 2",
            "UPDATE publications SET info = x'7b7d' WHERE offset = 2",
            "UPDATE publications SET event = NULL WHERE offset = 2",
            "UPDATE publications SET time = 'noon' WHERE offset = 2",
            "DROP TABLE keys",
            "INSERT INTO keys VALUES ('a', 'k', 'e1', 2, 2, 'noon')",
            "INSERT INTO keys VALUES ('a', 'k', 'e1', 'two', 2, 1.5)",
            "INSERT INTO keys VALUES ('a', 'k', 'e1', NULL, 2, 1.5)",
            "DROP TABLE memory",
            "INSERT INTO memory VALUES ('a', x'7b')",
            "INSERT INTO memory VALUES ('a', 'text')",
            "INSERT INTO forgotten VALUES (99999, 1)",
            "INSERT INTO forgotten VALUES (1, 'two')",
            "INSERT INTO meta VALUES ('forgotten_seq', 'two')",
            "UPDATE channels SET generation = 'two'",
        ],
    )
    def test_with_an_invalid_value(self, path: Path, statement: str) -> None:
        with opened(path) as (file, _):
            file.commit(rows(5))
        self.change(path, statement)
        self.is_not_loaded(path, r"cannot read .*s\.db")

    def test_in_a_missing_folder(self, tmp_path: Path) -> None:
        missing = tmp_path / "missing" / "s.db"
        with pytest.raises(StoreError, match=r"cannot open .*missing/s\.db"):
            SqliteFile(str(missing), "batched")
        assert not missing.parent.exists()

    def test_that_is_a_folder(self, path: Path) -> None:
        path.mkdir()
        with pytest.raises(StoreError, match=r"cannot open .*s\.db"):
            SqliteFile(str(path), "batched")

    def test_with_an_impossible_name(self) -> None:
        with pytest.raises(StoreError):
            SqliteFile("a\0b", "batched")

    def test_read_only_file(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "s.db")
            with opened(path):
                pass
            path.chmod(0o444)
            Path(folder).chmod(0o555)
            try:
                with (
                    as_nobody(),
                    pytest.raises(StoreError, match=r"s\.db.*(read-?only|permission)"),
                ):
                    SqliteFile(str(path), "batched")
            finally:
                Path(folder).chmod(0o755)

    @pytest.mark.parametrize(
        ("free", "hint"), [(8_192, r" \(the disk has 8,192 bytes free\)"), (1 << 30, "$")]
    )
    def test_on_a_full_disk(
        self, path: Path, monkeypatch: pytest.MonkeyPatch, free: int, hint: str
    ) -> None:
        def fail(*_: object) -> None:
            raise sqlite3.OperationalError("disk I/O error")

        monkeypatch.setattr(opening, "_prepare", fail)
        monkeypatch.setattr(opening, "_free_bytes", lambda _: free)
        self.is_refused(path, rf"cannot use .*s\.db: disk I/O error{hint}")

    def test_in_a_read_only_folder(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            Path(folder).chmod(0o555)
            try:
                with as_nobody(), pytest.raises(StoreError, match=r"cannot open .*s\.db"):
                    SqliteFile(str(Path(folder, "s.db")), "batched")
            finally:
                Path(folder).chmod(0o755)

    @staticmethod
    def change(path: Path, statement: str) -> None:
        with closing(sqlite3.connect(path)) as database, database:
            database.execute(statement)

    @staticmethod
    def is_refused(path: Path, message: str) -> None:
        with pytest.raises(StoreError, match=message):
            SqliteFile(str(path), "batched")

    @staticmethod
    def is_not_loaded(path: Path, message: str) -> None:
        file = SqliteFile(str(path), "batched")
        try:
            with pytest.raises(StoreError, match=message):
                load(file)
        finally:
            file.abandon()


def test_database_of_another_program_is_not_changed(path: Path) -> None:
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("CREATE TABLE cats (name)")
    before = path.read_bytes()
    with pytest.raises(StoreError, match="a database of another program"):
        SqliteFile(str(path), "batched")
    assert path.read_bytes() == before


@pytest.mark.usefixtures("_impatient")
def test_refused_open_does_not_harm_the_file(path: Path) -> None:
    with opened(path) as (file, _):
        file.commit(rows(2))
        with pytest.raises(StoreError):
            SqliteFile(str(path), "batched")
    with opened(path) as (_, history):
        assert offsets(history) == [1, 2]


def test_close_that_cannot_write_is_not_orderly(path: Path) -> None:
    with opened(path) as (_, history):
        epoch = history.epoch
    file = SqliteFile(str(path), "batched")
    load(file)
    # Any reason why the mark cannot be written.
    file._db.execute("PRAGMA query_only=1")
    with pytest.raises(StoreError, match=r"cannot write .*s\.db"):
        file.close()
    file.abandon()
    with opened(path) as (_, history):
        assert history.epoch != epoch


def test_close_that_could_not_write_may_be_tried_again(path: Path) -> None:
    with opened(path) as (_, history):
        epoch = history.epoch
    file = SqliteFile(str(path), "batched")
    load(file)
    file._db.execute("PRAGMA query_only=1")
    with pytest.raises(StoreError, match=r"cannot write .*s\.db"):
        file.close()
    file._db.execute("PRAGMA query_only=0")
    file.close()
    with opened(path) as (_, history):
        assert history.epoch == epoch


@contextmanager
def as_nobody() -> Iterator[None]:
    """Run without the rights of root."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


FIRST = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE channels (
    name TEXT PRIMARY KEY, top INTEGER, floor INTEGER, floor_seq INTEGER
) WITHOUT ROWID;
CREATE TABLE publications (
    channel TEXT, offset INTEGER, seq INTEGER, time REAL, event TEXT,
    data BLOB, tags BLOB, info BLOB,
    PRIMARY KEY (channel, offset)
) WITHOUT ROWID;
CREATE TABLE keys (
    channel TEXT, key TEXT, epoch TEXT, seq INTEGER, offset INTEGER, time REAL,
    PRIMARY KEY (channel, key)
) WITHOUT ROWID;
INSERT INTO meta VALUES ('format', 1), ('epoch', 'e1'), ('running', ''), ('seq', 2);
INSERT INTO meta VALUES ('forgotten_top', 0), ('forgotten_seq', 0);
INSERT INTO channels VALUES ('a', 2, 0, 0);
INSERT INTO publications VALUES ('a', 1, 1, 1795000001.5, 'message', x'31', NULL, NULL);
INSERT INTO publications VALUES ('a', 2, 2, 1795000002.5, 'message', x'32', NULL, NULL);
INSERT INTO keys VALUES ('a', 'k', 'e1', 2, 2, 1795000000.0);
"""
"""A file of a server from before the memory of sources."""


class TestMode:
    """The permissions of the file and its log."""

    @pytest.fixture(autouse=True)
    def _umask(self) -> Iterator[None]:
        before = os.umask(0)
        yield
        os.umask(before)

    @staticmethod
    def modes(path: Path) -> set[int]:
        return {os.stat(name).st_mode & 0o777 for name in (path, f"{path}-wal")}

    @pytest.mark.parametrize("mode", [0o600, 0o640, 0o666])
    @pytest.mark.parametrize("umask", [0, 0o77])
    def test_is_the_configured_one(self, path: Path, mode: int, umask: int) -> None:
        os.umask(umask)
        file = SqliteFile(str(path), "batched", mode)
        load(file)
        assert self.modes(path) == {mode}
        file.close()

    def test_of_a_new_file_is_600(self, path: Path) -> None:
        with opened(path) as (file, _):
            file.commit(rows(5))
            assert self.modes(path) == {0o600}

    def test_of_an_existing_file_is_changed(self, path: Path) -> None:
        with opened(path):
            pass
        path.chmod(0o644)
        with opened(path):
            assert self.modes(path) == {0o600}

    def test_of_a_database_of_another_program_stays(self, path: Path) -> None:
        with closing(sqlite3.connect(path)) as database, database:
            database.execute("CREATE TABLE cats (name)")
        path.chmod(0o644)
        with pytest.raises(StoreError, match="another program"):
            SqliteFile(str(path), "batched")
        assert path.stat().st_mode & 0o777 == 0o644


class TestFileOfTheFirstFormat:
    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        path = tmp_path / "s.db"
        with closing(sqlite3.connect(path)) as database:
            database.execute("PRAGMA journal_mode=WAL")
            database.executescript(FIRST)
            inode = path.stat().st_ino
            database.execute("INSERT INTO meta VALUES ('inode', ?)", (inode,))
            database.commit()
        return path

    def test_is_loaded_completely(self, path: Path) -> None:
        file = SqliteFile(str(path), "batched")
        history, keys, continued = load(file)
        file.close()
        assert (continued, history.epoch, history.seq) == (True, "e1", 2)
        assert [(r.offset, r.data) for r in history.channels["a"].after(0)] == [
            (1, b"1"),
            (2, b"2"),
        ]
        assert [k.key for k in keys] == ["k"]

    def test_can_store_the_memory_of_sources(self, path: Path) -> None:
        assert remembered(path, "a") == [None]
        with opened(path) as (file, _):
            file.commit(Batch(seq=2, memory={"a": b"7"}))
        assert remembered(path, "a") == [7]

    def test_keeps_the_positions_of_its_channels_and_forgets_its_one_top(self, path: Path) -> None:
        with closing(sqlite3.connect(path)) as database, database:
            database.execute("UPDATE meta SET value = 9 WHERE name = 'seq'")
            database.execute("UPDATE meta SET value = 7 WHERE name LIKE 'forgotten%'")
        for _ in range(2):
            with opened(path) as (_, history):
                assert history.resume("a", Position("e1", 1)).recovered
                assert len(history.resume("a", Position("", 0)).publications) == 2
                assert (history.peek("new").epoch, history.top("new")) == ("e1-7", 0)
                # Each name may be that of the channel that was forgotten.
                for seq, reason in ((6, "evicted"), (7, "")):
                    assert history.read(["new"], Start(since=Cursor("e1", seq))).reason == reason
                    assert history.resume("new", Position(f"e1-{seq}", 0)).reason == reason
                assert history.resume("new", Position("e1", 7)).reason == "epoch"

    def test_is_migrated_to_the_current_format(self, path: Path, tmp_path: Path) -> None:
        new = tmp_path / "new.db"
        with opened(path), opened(new):
            pass
        assert tables(path) == tables(new)
        with closing(sqlite3.connect(path)) as database:
            rows = database.execute("SELECT value FROM meta WHERE name = 'format'")
            assert rows.fetchone() == (FORMAT,)

    def test_is_unchanged_after_a_failed_migration(self, path: Path) -> None:
        """After a failed migration an older version can still read the file."""
        with closing(sqlite3.connect(path)) as database:
            database.execute("CREATE TABLE memory (mine)")
        before = tables(path)
        with pytest.raises(StoreError, match=r"cannot use .*s\.db: table memory already exists"):
            SqliteFile(str(path), "batched")
        assert tables(path) == before
        with closing(sqlite3.connect(path)) as database:
            rows = database.execute("SELECT value FROM meta WHERE name = 'format'")
            assert rows.fetchone() == (1,)


def tables(path: Path) -> dict[str, str]:
    """The CREATE statements of the tables, by name."""
    with closing(sqlite3.connect(path)) as database:
        return dict(database.execute("SELECT name, sql FROM sqlite_master WHERE type = 'table'"))
