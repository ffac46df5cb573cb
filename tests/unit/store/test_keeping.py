"""Backup, restore, check and compaction of a store on a real file."""

from __future__ import annotations

import os
import signal
import sqlite3
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from pushserver.channels.position import Position
from pushserver.cli import main
from pushserver.errors import StartFailed
from pushserver.store import copying, files, locks
from pushserver.store.checking import check
from pushserver.store.copying import backup, compact, restore
from pushserver.store.opening import StoreError
from pushserver.store.schema import FORMAT
from tests.unit.store.runs import THREAD, Run
from tests.unit.store.test_sqlite import FIRST, as_nobody
from tests.unit.store.test_wal import kill

pytestmark = pytest.mark.usefixtures("_expects_store_problems")
BOTH = pytest.mark.parametrize("durability", ["batched", "sync"])
Capture = pytest.CaptureFixture[str]


def published(path: Path, durability: str = "sync", first: int = 1, last: int = 3) -> Run:
    """A run with committed publications."""
    run = Run(path, durability)
    for number in range(first, last + 1):
        run.publish(number)
    run.tick()
    THREAD.finish()
    return run


def killed(run: Run, path: Path) -> None:
    """End the run like a killed process, and leave its log as it was."""
    THREAD.jobs.clear()
    kill(run.committer._file, path)


def numbers(path: Path, durability: str = "sync") -> tuple[str, list[int]]:
    """The epoch and the offsets of a new run."""
    run = Run(path, durability)
    channel = run.history.channels["a"]
    offsets = [row.offset for row in channel.after(0)]
    epoch = run.history.epoch
    run.stop()
    return epoch, offsets


def sql(path: Path, statement: str) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute("PRAGMA journal_mode=DELETE")
        database.execute(statement)


@pytest.fixture
def copy(path: Path) -> Path:
    return path.with_name("copy.db")


@BOTH
def test_backup_of_a_running_server_has_all_commits(
    path: Path, copy: Path, durability: str
) -> None:
    run = published(path, durability)
    assert backup(str(path), str(copy)) == copy.stat().st_size
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    assert sorted(file.name for file in path.parent.iterdir() if "copy" in file.name) == ["copy.db"]
    assert check(str(copy)).publications == check(str(path)).publications == 3
    run.publish(4)
    run.tick()
    THREAD.finish()
    run.stop()
    assert check(str(path)).publications == 4


def test_backup_is_one_state_while_the_server_commits(
    path: Path, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copying, "STEP_PAGES", 1)
    run = published(path)

    def commit(done: int, pages: int) -> None:
        run.publish(done)
        run.tick()
        THREAD.finish()

    backup(str(path), str(copy), progress=commit)
    run.stop()
    found = check(str(copy))
    assert (found.publications, found.problems) == (3, [])
    assert check(str(path)).publications > 5


@BOTH
def test_restored_store_refuses_the_positions_of_the_replaced_one(
    path: Path, copy: Path, durability: str
) -> None:
    run = published(path, durability)
    backup(str(path), str(copy))
    run.publish(4)
    run.tick()
    THREAD.finish()
    epoch = run.history.epoch
    run.stop()
    kept = restore(str(copy), str(path))
    assert kept == f"{path}.before-restore"
    assert check(kept).publications == 4
    again = Run(path, durability)
    try:
        again.publish(5)
        again.tick()
        THREAD.finish()
        assert again.history.epoch != epoch
        for offset in (1, 3, 4, 5):
            assert again.history.resume("a", Position(epoch, offset)).reason == "epoch"
        assert [row.offset for row in again.history.channels["a"].after(0)] == [1, 2, 3, 4]
    finally:
        again.stop()


def test_restore_is_refused_while_a_server_has_the_store_open(path: Path, copy: Path) -> None:
    run = published(path)
    backup(str(path), str(copy))
    with pytest.raises(StoreError, match="in use: stop the server first"):
        restore(str(copy), str(path))
    with pytest.raises(StoreError, match="in use: stop the server first"):
        compact(str(path))
    run.stop()
    assert check(str(path)).publications == 3


def test_log_of_a_killed_server_is_not_replayed_over_the_restored_copy(
    path: Path, copy: Path
) -> None:
    run = published(path)
    backup(str(path), str(copy))
    run.publish(4)
    run.tick()
    THREAD.finish()
    killed(run, path)
    assert Path(f"{path}-wal").exists()
    kept = restore(str(copy), str(path))
    assert not Path(f"{path}-wal").exists()
    assert check(kept).publications == 4
    assert numbers(path)[1] == [1, 2, 3]


@pytest.mark.parametrize("keep", [False, True])
def test_log_that_an_interrupted_restoration_has_left_is_not_replayed(
    path: Path, copy: Path, monkeypatch: pytest.MonkeyPatch, keep: bool
) -> None:
    published(path.with_name("other.db")).stop()
    backup(str(path.with_name("other.db")), str(copy))
    killed(published(path, last=5), path)
    replace = os.replace

    def end(old: str, new: str) -> None:
        if old.endswith("-wal"):
            raise KeyboardInterrupt
        replace(old, new)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", end)
        with pytest.raises(KeyboardInterrupt):
            restore(str(copy), str(path), keep)
    with pytest.raises(StartFailed, match=r"was replaced, and .*-wal belongs to the replaced file"):
        Run(path)
    with pytest.raises(StoreError, match="belongs to another file: move it away"):
        check(str(path))
    Path(f"{path}-wal").rename(f"{path}.before-restore-wal")
    assert check(f"{path}.before-restore").publications == 5
    assert numbers(path)[1] == [1, 2, 3]


def test_restore_of_a_missing_copy_says_what_is_expected(path: Path) -> None:
    with pytest.raises(StoreError, match="expected a copy made by `pushserver store backup`"):
        restore(f"{path}.nope", str(path))


def test_restore_makes_a_store_where_there_is_none(path: Path, copy: Path) -> None:
    published(path).stop()
    backup(str(path), str(copy))
    other = path.with_name("other.db")
    assert restore(str(copy), str(other)) == ""
    assert numbers(other)[1] == [1, 2, 3]


def test_journal_of_a_killed_start_is_not_rolled_back_over_the_restored_copy(
    path: Path, copy: Path
) -> None:
    published(path).stop()
    backup(str(path), str(copy))
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        # Left to the kill: pages are in the journal, and changed in the file.
        database.executescript("PRAGMA journal_mode=DELETE; PRAGMA cache_size=1; BEGIN")
        database.execute("UPDATE publications SET data = zeroblob(100000)")
        journal = Path(f"{path}-journal").read_bytes()
        content = path.read_bytes()
    path.write_bytes(content)
    Path(f"{path}-journal").write_bytes(journal)
    kept = restore(str(copy), str(path))
    assert Path(f"{kept}-journal").read_bytes() == journal
    assert numbers(path)[1] == [1, 2, 3]


def test_restored_store_has_the_owner_and_the_mode_of_the_replaced_one(
    path: Path, copy: Path
) -> None:
    published(path).stop()
    backup(str(path), str(copy))
    path.chmod(0o640)
    if os.geteuid() == 0:
        os.chown(path, 65534, 65534)
    before = path.stat()
    restore(str(copy), str(path))
    after = path.stat()
    assert (after.st_uid, after.st_gid, after.st_mode) == (
        before.st_uid,
        before.st_gid,
        before.st_mode,
    )


def test_restored_store_is_put_where_the_link_leads(path: Path, copy: Path) -> None:
    published(path).stop()
    backup(str(path), str(copy))
    link = path.with_name("link.db")
    link.symlink_to(path)
    restore(str(copy), str(link))
    assert link.is_symlink()
    assert check(str(path)).publications == 3


@pytest.mark.parametrize("name", ["s.db", "link.db", "hard.db"])
def test_store_is_not_restored_from_itself(path: Path, name: str) -> None:
    published(path).stop()
    path.with_name("link.db").symlink_to(path)
    path.with_name("hard.db").hardlink_to(path)
    with pytest.raises(StoreError, match="is the store itself"):
        restore(str(path.with_name(name)), str(path))


def test_start_that_waits_for_a_restoration_opens_the_restored_store(
    path: Path, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    published(path).stop()
    backup(str(path), str(copy))
    monkeypatch.setattr(locks, "LOCK_SECONDS", 60.0)
    held = locks.lock(str(path))

    def wait(seconds: float) -> None:
        if held is not None:
            os.replace(copy, path)
            locks.unlock(held)

    monkeypatch.setattr("pushserver.store.locks.time.sleep", wait)
    run = Run(path)
    run.publish(4)
    THREAD.finish()
    run.stop()
    assert check(str(path)).publications == 4


def test_commands_without_permission_say_so(path: Path) -> None:
    published(path).stop()
    path.parent.chmod(0o755)
    with as_nobody():
        for command in (check, compact):
            with pytest.raises(StoreError, match=r"cannot read .*: Permission denied: run the"):
                command(str(path))
        path_of_copy = str(path.with_name("copy.db"))
        with pytest.raises(StoreError, match="cannot read"):
            backup(str(path), path_of_copy)
    backup(str(path), path_of_copy)
    os.chmod(path_of_copy, 0o644)
    path.chmod(0o644)
    with as_nobody():
        with pytest.raises(StoreError, match=r"cannot write .*: Permission denied"):
            backup(str(path), f"{path}.2")
        with pytest.raises(StoreError, match=r"cannot write .*: Permission denied"):
            restore(path_of_copy, str(path))
        with pytest.raises(StoreError, match=r"cannot write .*: Permission denied"):
            compact(str(path))
    assert check(str(path)).publications == 3


def nothing(path: Path) -> None:
    path.unlink()


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def text(path: Path) -> None:
    path.write_text("no database\n" * 1000)


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def foreign(path: Path) -> None:
    path.unlink()
    sql(path, "CREATE TABLE t (x)")


def empty(path: Path) -> None:
    os.truncate(path, 0)


def fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def newer(path: Path) -> None:
    sql(path, f"UPDATE meta SET value = {FORMAT + 1} WHERE name = 'format'")


BAD: dict[Callable[[Path], None], str] = {
    nothing: "no store here",
    folder: "a folder",
    text: "not a database",
    cut: "malformed|damaged",
    empty: "is empty",
    fifo: "no store here",
    foreign: "another program",
    newer: f"has format {FORMAT + 1}; this version of pushserver reads {FORMAT}",
}


@pytest.mark.parametrize("damage", BAD)
def test_restore_of_a_bad_copy_changes_nothing(
    path: Path, copy: Path, damage: Callable[[Path], None]
) -> None:
    published(path).stop()
    backup(str(path), str(copy))
    damage(copy)
    before = path.read_bytes()
    with pytest.raises(StoreError, match=BAD[damage]):
        restore(str(copy), str(path))
    assert path.read_bytes() == before
    assert {file.name for file in path.parent.iterdir()} <= {"s.db", "copy.db"}


@pytest.mark.parametrize("name", ["s.db", "s.db-wal", "link.db", "sub/../s.db"])
def test_backup_onto_the_store_is_refused_also_by_force(path: Path, name: str) -> None:
    run = published(path)
    (path.parent / "sub").mkdir()
    (path.parent / "link.db").symlink_to(path)
    with pytest.raises(StoreError, match="file of the store itself"):
        backup(str(path), str(path.parent / name), force=True)
    run.stop()
    assert check(str(path)).publications == 3


def test_backup_replaces_a_copy_only_by_force(path: Path, copy: Path) -> None:
    run = published(path, last=1)
    backup(str(path), str(copy))
    run.publish(2)
    run.stop()
    with pytest.raises(StoreError, match="exists: name another file, or replace it with --force"):
        backup(str(path), str(copy))
    assert check(str(copy)).publications == 1
    backup(str(path), str(copy), force=True)
    assert check(str(copy)).publications == 2
    copy.write_bytes(b"")
    backup(str(path), str(copy), force=True)
    assert check(str(copy)).publications == 2


@pytest.mark.parametrize("closed", ["store", "folder"])
def test_command_of_a_user_without_rights_names_the_right_user(closed: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        path = Path(folder, "s.db")
        published(path).stop()
        (path if closed == "store" else path.parent).chmod(0)
        try:
            with (
                as_nobody(),
                pytest.raises(StoreError, match="Permission denied: run the command as the user"),
            ):
                check(str(path))
        finally:
            Path(folder).chmod(0o755)


def test_no_force_replaces_another_file(path: Path, copy: Path, capsys: Capture) -> None:
    published(path).stop()
    backup(str(path), str(copy))
    precious = path.with_name("pushserver.toml")
    precious.write_text('[auth]\napi_keys = ["precious"]\n')
    before = precious.read_bytes(), copy.read_bytes()
    for command, target, kind in [
        ("backup", precious, "a copy of a store"),
        ("export", precious, "an export of a store"),
        ("export", copy, "an export of a store"),
    ]:
        assert main(["store", command, str(target), "--store", str(path), "--force"]) == 1
        error = capsys.readouterr().err
        assert error == f"pushserver: {target} is not {kind}, and stays: name another file\n"
    assert before == (precious.read_bytes(), copy.read_bytes())


def test_backup_needs_the_path_of_a_file(path: Path) -> None:
    published(path).stop()
    with pytest.raises(StoreError, match="is a folder: expected the path of a file"):
        backup(str(path), str(path.parent))
    with pytest.raises(StoreError, match="there is no folder"):
        backup(str(path), str(path.parent / "no" / "copy.db"))
    fifo = path.with_name("fifo")
    os.mkfifo(fifo)
    with pytest.raises(StoreError, match="not a regular file"):
        backup(str(path), str(fifo), force=True)


@pytest.mark.parametrize(
    "error", [KeyboardInterrupt(), sqlite3.OperationalError("database or disk is full")]
)
def test_interrupted_backup_leaves_no_file(path: Path, copy: Path, error: BaseException) -> None:
    published(path).stop()
    before = {file.name for file in path.parent.iterdir()}

    def fail(done: int, pages: int) -> None:
        raise error

    with pytest.raises((KeyboardInterrupt, StoreError)):
        backup(str(path), str(copy), progress=fail)
    assert {file.name for file in path.parent.iterdir()} == before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT])
def test_signal_ends_a_command_after_its_unfinished_file_is_removed(
    path: Path, copy: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    published(path).stop()
    ended: list[int] = []
    monkeypatch.setattr("pushserver.command_line.console.end_by", ended.append)

    def stop() -> Callable[[int, int], None]:
        return lambda done, pages: os.kill(os.getpid(), number)

    monkeypatch.setattr("pushserver.command_line.store_command._progress", stop)
    before = signal.getsignal(number)
    main(["store", "backup", str(copy), "--store", str(path)])
    assert ended == [number]
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    assert signal.getsignal(number) is before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT])
def test_signal_does_not_divide_a_restoration(
    path: Path, copy: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    published(path.with_name("other.db")).stop()
    backup(str(path.with_name("other.db")), str(copy))
    killed(published(path, last=5), path)
    replace = os.replace

    def stop(old: str, new: str) -> None:
        os.kill(os.getpid(), number)
        replace(old, new)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", stop)
        kept = restore(str(copy), str(path))
    assert check(kept).publications == 5
    assert numbers(path)[1] == [1, 2, 3]


def test_full_disk_at_the_sync_leaves_no_file(
    path: Path, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    published(path).stop()

    def full(path: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "sync", full)
    with pytest.raises(StoreError, match=r"cannot write .*copy\.db: No space left on device"):
        backup(str(path), str(copy))
    assert [file.name for file in path.parent.iterdir()] == ["s.db"]


DAMAGE = {
    "UPDATE publications SET seq = 9 WHERE offset = 2": "seqs 1 to 9; expected 1 to 3",
    "UPDATE publications SET seq = 2 WHERE offset = 3": "offset 3: seq 2 after 2",
    "DELETE FROM publications WHERE offset = 2": "2 publications with offsets 1 to 3; expected 3",
    "DELETE FROM channels": "3 publications, and no row of the channel",
    "UPDATE channels SET top = 7": "expected 7 with offsets 1 to 7",
    "UPDATE channels SET top = 'text'": "channel a: top, floor, floor_seq, first and last",
    "UPDATE channels SET floor = x'00'": ", 0, None, None; expected whole",
    "UPDATE channels SET floor_seq = 'text'": "are 3, 0, 'text', 1, 3; expected whole",
    "UPDATE publications SET seq = 'text' WHERE offset = 3": "are 3, 0, 0, 1, 'text'; expected",
    "UPDATE meta SET value = 'text' WHERE name = 'seq'": "the last seq is 'text'; expected a whole",
    "UPDATE publications SET data = x'7b' WHERE offset = 1": "offset 1:",
    "UPDATE publications SET data = 'text' WHERE offset = 1": "offset 1:",
    "INSERT INTO memory VALUES ('feed', x'00')": "feed:",
}


@pytest.mark.parametrize("statement", DAMAGE)
def test_check_names_the_damage_and_fails(path: Path, capsys: Capture, statement: str) -> None:
    published(path).stop()
    assert main(["store", "check", "--store", str(path)]) == 0
    assert "good; publications: 3, channels: 1, size: " in capsys.readouterr().out
    sql(path, statement)
    assert main(["store", "check", "--store", str(path)]) == 1
    error = capsys.readouterr().err
    assert DAMAGE[statement] in error
    assert "is damaged" in error


def test_compacted_store_is_smaller_and_keeps_its_epoch(path: Path) -> None:
    run = published(path, last=300)
    epoch = run.history.epoch
    run.history.clear("a")
    run.stop()
    sql(path, "CREATE TABLE waste (x)")
    sql(path, "INSERT INTO waste VALUES (zeroblob(1000000))")
    sql(path, "DROP TABLE waste")
    before, after = compact(str(path))
    assert before > 1_000_000 > after == path.stat().st_size
    again = Run(path, "sync")
    assert again.history.epoch == epoch
    again.stop()


def test_compacted_copy_of_a_running_server_begins_a_new_epoch(path: Path, copy: Path) -> None:
    run = published(path)
    backup(str(path), str(copy))
    run.stop()
    restore(str(copy), str(path))
    compact(str(path))
    with pytest.raises(StoreError, match="its epoch cannot be kept"):
        restore(str(path), str(copy), keep_epoch=True)
    assert numbers(path) != (run.history.epoch, [1, 2, 3])


def test_compaction_takes_over_a_log_and_removes_it(path: Path) -> None:
    """A full disk at the stop leaves one."""
    published(path).stop()
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute("UPDATE meta SET value = '' WHERE name = 'wal'")
        database.execute("PRAGMA wal_checkpoint")
        database.execute("DELETE FROM publications WHERE offset < 3")
        database.execute("UPDATE channels SET floor = 2, floor_seq = 2")
        contents = {Path(f"{path}{end}"): Path(f"{path}{end}").read_bytes() for end in ("", "-wal")}
    for file, content in contents.items():
        file.write_bytes(content)
    compact(str(path))
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    assert check(str(path)).publications == 1


KILLED = """
import os, sqlite3, sys
from functools import partial

class Killed(sqlite3.Connection):
    def execute(self, statement, *values):
        result = super().execute(statement, *values)
        if statement.startswith("VACUUM"):
            os._exit(9)
        return result

sqlite3.connect = partial(sqlite3.connect, factory=Killed)
from pushserver.store.copying import compact
from pushserver.store.opening import open_database

compact(sys.argv[1]) if sys.argv[2] == "compact" else open_database(sys.argv[1], 0o600)
"""


@pytest.mark.parametrize("work", ["compact", "upgrade"])
def test_work_that_is_killed_leaves_a_store_that_starts(path: Path, work: str) -> None:
    run = published(path)
    epoch = run.history.epoch
    run.stop()
    if work == "upgrade":
        sql(path, f"UPDATE meta SET value = {FORMAT - 1} WHERE name = 'format'")
    arguments = [sys.executable, "-c", KILLED, str(path), work]
    assert subprocess.run(arguments, timeout=60).returncode == 9
    if work == "compact":
        assert check(str(path)).publications == 3
    assert numbers(path) == (epoch, [1, 2, 3])


def test_store_of_a_killed_server_is_not_compacted(path: Path) -> None:
    killed(published(path), path)
    with pytest.raises(StoreError, match="start the server, stop it, and try again"):
        compact(str(path))
    assert Path(f"{path}-wal").exists()


@BOTH
def test_backup_and_check_of_a_killed_store_leave_its_log(
    path: Path, copy: Path, durability: str
) -> None:
    run = published(path, durability)
    epoch = run.history.epoch
    killed(run, path)
    backup(str(path), str(copy))
    assert check(str(copy)).publications == check(str(path)).publications == 3
    assert (numbers(path, durability)[0] == epoch) == (durability == "sync")


def test_server_restarts_while_a_backup_reads(
    path: Path, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pushserver.store.locks.LOCK_SECONDS", 0.01)
    runs = [published(path)]
    epoch = runs[0].history.epoch

    def restart(done: int, pages: int) -> None:
        if len(runs) == 1:
            runs[0].stop()
            runs.append(published(path, first=4, last=5))

    backup(str(path), str(copy), progress=restart)
    killed(runs[1], path)
    assert check(str(copy)).publications == 3
    assert numbers(path) == (epoch, [1, 2, 3, 4, 5])


def test_older_format_is_copied_before_it_is_upgraded(path: Path) -> None:
    with closing(sqlite3.connect(path)) as database:
        database.executescript(FIRST)
    with pytest.raises(StoreError, match=f"has format 1, and this version writes {FORMAT}"):
        check(str(path))
    Run(path, "sync").stop()
    copy = Path(f"{path}.before-upgrade-1")
    with closing(sqlite3.connect(copy)) as database:
        assert database.execute("SELECT value FROM meta WHERE name = 'format'").fetchone() == (1,)
        assert database.execute("SELECT count(*) FROM publications").fetchone() == (2,)
    assert (check(str(path)).problems, check(str(path)).publications) == ([], 2)


def test_store_without_room_for_the_copy_is_not_upgraded(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(sqlite3.connect(path)) as database:
        database.executescript(FIRST)

    def full(path: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "sync", full)
    with pytest.raises(Exception, match="before-upgrade-1: No space left on device"):
        Run(path, "sync")
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("SELECT value FROM meta WHERE name = 'format'").fetchone() == (1,)


def test_commands_for_a_running_server_ask_to_stop_one_that_has_the_file_for_itself(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a file system without locks, and with an earlier version of the server."""
    monkeypatch.setattr(locks, "LOCK_SECONDS", 0.0)
    script = """
import sys
from pushserver.store import opening
opening.lock_patiently = lambda path: None
from pushserver.store.sqlite import SqliteFile
file = SqliteFile(sys.argv[1], "sync")
print("open", flush=True)
sys.stdin.read()
"""
    command = [sys.executable, "-c", script, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        assert server.stdout.readline() == b"open\n"
        for use in (check, lambda store: backup(store, f"{store}.copy")):
            with pytest.raises(StoreError, match=r"locked .a server has it for itself: stop it"):
                use(str(path))
        server.communicate(b"")


def test_commands_take_the_path_of_the_configuration(
    path: Path, copy: Path, capsys: Capture
) -> None:
    published(path).stop()
    config = path.with_name("push.toml")
    config.write_text(f'[store]\npath = "{path}"\n')
    assert main(["store", "backup", str(copy), "--config", str(config)]) == 0
    assert main(["store", "restore", str(copy), "--config", str(config)]) == 0
    assert "the next start begins a new epoch" in capsys.readouterr().out
    config.write_text("")
    assert main(["store", "check", "--config", str(config)]) == 1
    assert "has no store: expected [store] with a path" in capsys.readouterr().err
