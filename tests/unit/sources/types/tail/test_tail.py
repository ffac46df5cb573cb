from __future__ import annotations

import itertools
import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from zope.interface.verify import verifyObject

from pushserver.errors import Unavailable
from pushserver.sources.interface import ISource, SourceFailed
from pushserver.sources.types.tail import follower
from pushserver.sources.types.tail.follower import GRACE_POLLS, MAX_FILES, Follower
from pushserver.sources.types.tail.logfile import HEAD_BYTES, READ_BYTES, Mark, Step
from pushserver.sources.types.tail.rotation import rotated_after
from pushserver.sources.types.tail.source import TAIL, Options
from tests.unit.fakes.recorder import Recorder
from tests.unit.fakes.tools import programs


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log"


def append(path: Path, text: str | bytes) -> None:
    with path.open("ab") as file:
        file.write(text.encode() if isinstance(text, str) else text)


def rotate(path: Path, text: str | bytes | None = None) -> Path:
    """Rename the file, and create a new one with the text."""
    old = path.with_name(f"{path.name}.{len(list(path.parent.iterdir()))}")
    path.rename(old)
    if text is not None:
        append(path, text)
    return old


class TailBench:
    """A source and its feed, which keeps the remembered value between runs."""

    def __init__(self, path: Path, **options: Any):
        self.options = Options(str(path), **options)
        self.feed = Recorder()
        self.ended: list[Any] = []
        self._done: Deferred[None] | None = None

    @property
    def clock(self) -> Clock:
        clock: Clock = self.feed.reactor
        return clock

    def start(self) -> None:
        self.ended = []
        self._done = Deferred.fromCoroutine(TAIL.make(self.options).run(self.feed))
        self._done.addBoth(self.ended.append)

    def stop(self) -> None:
        assert self._done is not None
        self._done.cancel()
        [failure] = self.ended
        assert failure.check(CancelledError), failure
        assert self.clock.getDelayedCalls() == []

    def poll(self, times: int = 1) -> None:
        """Let the source poll and publish `times` times."""
        for _ in range(times):
            self.clock.advance(self.options.poll_milliseconds / 1000)
            for _ in range(50):
                self.clock.advance(0)

    def take(self, polls: int = GRACE_POLLS + 2) -> list[Any]:
        """Poll; return the publications since the last call."""
        self.poll(polls)
        published = list(self.feed.published)
        self.feed.published.clear()
        return published

    def trouble(self) -> list[str]:
        """Return the warnings since the last call, without the path."""
        texts = [text.removeprefix(f"{self.options.path}: ") for text in self.feed.troubles]
        self.feed.troubles.clear()
        return texts


BENCHES: list[TailBench] = []


@pytest.fixture(autouse=True)
def _stop_benches() -> Iterator[None]:
    yield
    while BENCHES:
        bench = BENCHES.pop()
        if not bench.ended:
            bench.stop()


def tailing(path: Path, **options: Any) -> TailBench:
    """Return a source after its first poll."""
    bench = TailBench(path, **options)
    BENCHES.append(bench)
    bench.start()
    bench.poll()
    return bench


def test_source_provides_isource(path: Path) -> None:
    assert verifyObject(ISource, TAIL.make(Options(str(path))))


@pytest.mark.parametrize("path", ["", "a\0b"])
def test_invalid_path_raises_value_error(path: str) -> None:
    with pytest.raises(ValueError, match=r"^path: value .*, expected the path of a file$"):
        TAIL.make(Options(path))


class TestFirstStart:
    def test_existing_lines_are_not_published(self, path: Path) -> None:
        append(path, "old\n")
        bench = tailing(path)
        append(path, "new\n")
        assert bench.take() == ["new"]

    def test_option_from_start_publishes_existing_lines(self, path: Path) -> None:
        append(path, "old\n")
        bench = tailing(path, from_start=True)
        append(path, "new\n")
        assert bench.take() == ["old", "new"]

    def test_line_completed_later_is_published_whole(self, path: Path) -> None:
        append(path, "old\nhalf a ")
        bench = tailing(path)
        append(path, "line\n")
        assert bench.take() == ["half a line"]

    def test_file_created_later_is_read_from_its_beginning(self, path: Path) -> None:
        bench = tailing(path)
        assert bench.trouble() == ["No such file or directory"]
        assert bench.feed.oks == 0
        append(path, "first\n")
        assert bench.take() == ["first"]
        assert (bench.feed.oks, bench.trouble()) == (1, [])

    def test_file_created_while_the_server_is_stopped_is_read_from_its_beginning(
        self, path: Path
    ) -> None:
        bench = tailing(path)
        bench.stop()
        append(path, "first\n")
        bench.start()
        assert bench.take() == ["first"]

    def test_restart_before_the_first_line_misses_nothing(self, path: Path) -> None:
        append(path, "old\n")
        bench = tailing(path)
        bench.stop()
        append(path, "new\n")
        bench.start()
        assert bench.take() == ["new"]

    def test_only_the_end_of_a_large_file_is_read(self, path: Path) -> None:
        with path.open("wb") as file:
            file.truncate(1 << 40)
        bench = tailing(path, max_line_bytes=100)
        append(path, "\nnew\n")
        assert bench.take()[-1] == "new"


class TestLines:
    def test_lines_are_published_in_order(self, path: Path) -> None:
        bench = tailing(path, from_start=True)
        for part in ("a\nb", "b\n", "\n", "c", "c", "\nd\n"):
            append(path, part)
            bench.poll()
        assert bench.take() == ["a", "bb", "", "cc", "d"]

    def test_unfinished_line_waits_for_its_newline(self, path: Path) -> None:
        bench = tailing(path, from_start=True)
        append(path, "half")
        assert bench.take(20) == []
        append(path, " whole\n")
        assert bench.take() == ["half whole"]

    def test_long_line_is_cut_at_its_end(self, path: Path) -> None:
        bench = tailing(path, from_start=True, max_line_bytes=10)
        append(path, "x" * 200_000)
        assert bench.take() == []
        append(path, "\nshort\n")
        assert bench.take() == ["x" * 10, "short"]
        assert bench.feed.tags == [{"cut": "true"}, None]
        assert "longer than max_line_bytes (10)" in bench.trouble()[-1]

    def test_lines_of_json_are_values(self, path: Path) -> None:
        bench = tailing(path, from_start=True, format="json")
        bench.trouble()
        append(path, '{"n": 1}\noops\n\n[2]\n')
        assert bench.take() == [{"n": 1}, [2]]
        assert bench.trouble() == ['a line is not JSON (format = "json"): skipped']

    def test_many_lines_are_read_no_faster_than_published(self, path: Path) -> None:
        count = 3 * READ_BYTES // 10
        append(path, b"".join(b"%09d\n" % n for n in range(count)))
        bench = tailing(path, from_start=True)
        bench.feed.published.clear()
        bench.stop()
        bench.feed.memory = None
        bench.feed.hold()
        bench.start()
        bench.poll(10)
        assert bench.feed.published == []
        bench.feed.release()
        # Within one turn of the reactor.
        assert 0 < len(bench.feed.published) <= 200
        assert len(bench.take(10)) == count

    def test_lines_wait_while_publishing_is_unavailable(self, path: Path) -> None:
        bench = tailing(path, from_start=True)
        bench.trouble()
        bench.feed.fails = [Unavailable("the disk is full")]
        append(path, "a\nb\n")
        bench.poll()
        assert (bench.feed.published, bench.trouble()) == ([], ["the disk is full"])
        assert bench.take() == ["a", "b"]


class TestRotation:
    def test_old_file_is_read_to_its_end_first(self, path: Path) -> None:
        bench = tailing(path, from_start=True)
        append(path, "1\n")
        bench.poll()
        append(path, "2\n")
        rotate(path, "3\n")
        assert bench.take() == ["1", "2", "3"]

    def test_writer_may_continue_in_the_old_file_for_a_moment(self, path: Path) -> None:
        append(path, "1\n")
        bench = tailing(path, from_start=True)
        old = rotate(path, "")
        bench.poll(50)
        append(old, "2\n")
        bench.poll(50)
        append(path, "4\n")
        bench.poll(GRACE_POLLS - 1)
        append(old, "3\n")
        assert bench.take() == ["1", "2", "3", "4"]

    def test_unfinished_last_line_of_the_old_file_is_published(self, path: Path) -> None:
        append(path, "1\nhalf")
        bench = tailing(path, from_start=True)
        rotate(path, "2\n")
        assert bench.take() == ["1", "half", "2"]

    @pytest.mark.parametrize("text", ["longer than before\n", "b\n", "bb\n"])
    def test_replacing_file_may_have_any_size(self, path: Path, tmp_path: Path, text: str) -> None:
        append(path, "aa\n")
        bench = tailing(path, from_start=True)
        new = tmp_path / "new"
        append(new, text)
        new.replace(path)
        assert bench.take() == ["aa", text.strip()]

    def test_rotation_faster_than_reading_is_a_problem(self, path: Path) -> None:
        append(path, (b"0" * 1_000 + b"\n") * 2_000)
        follower = Follower(str(path), 100, None, True, 0)
        for n in range(MAX_FILES):
            list(follower.poll()[0])
            assert follower.problem == ""
            rotate(path, f"{n}\n")
        list(follower.poll()[0])
        assert follower.problem == "rotated faster than it is read"
        follower.close()

    def test_deleted_and_recreated_file_is_followed(self, path: Path) -> None:
        append(path, "1\n")
        bench = tailing(path, from_start=True)
        path.unlink()
        bench.poll()
        assert bench.trouble() == ["No such file or directory"]
        oks = bench.feed.oks
        append(path, "2\n")
        assert bench.take() == ["1", "2"]
        assert bench.feed.oks == oks + 1

    def test_name_may_be_a_link_to_changing_files(self, path: Path, tmp_path: Path) -> None:
        for name in "ab":
            append(tmp_path / name, f"{name}\n")
        path.symlink_to("a")
        bench = tailing(path, from_start=True)
        path.unlink()
        path.symlink_to("b")
        append(tmp_path / "a", "last\n")
        assert bench.take() == ["a", "last", "b"]

    def test_finished_files_are_closed(self, path: Path) -> None:
        before = len(os.listdir("/proc/self/fd"))
        append(path, "1\n")
        bench = tailing(path, from_start=True)
        for _ in range(5):
            rotate(path, "x\n")
            bench.poll(GRACE_POLLS + 2)
        assert len(os.listdir("/proc/self/fd")) == before + 1
        bench.stop()
        assert len(os.listdir("/proc/self/fd")) == before


class TestTruncation:
    @pytest.mark.parametrize("text", ["b\n", "bb\n", "more than there was\n"])
    def test_truncated_file_is_followed_at_any_size(self, path: Path, text: str) -> None:
        append(path, "aa\n")
        bench = tailing(path, from_start=True)
        os.truncate(path, 0)
        append(path, text)
        assert bench.take() == ["aa", text.strip()]

    def test_unfinished_line_before_a_truncation_is_published(self, path: Path) -> None:
        append(path, "1\nhalf")
        bench = tailing(path, from_start=True)
        os.truncate(path, 0)
        append(path, "2\n")
        assert bench.take() == ["1", "half", "2"]

    def test_file_truncated_behind_its_first_bytes_is_read_again(self, path: Path) -> None:
        line = "x" * HEAD_BYTES
        append(path, f"{line}\n1\n")
        bench = tailing(path, from_start=True)
        os.truncate(path, HEAD_BYTES + 1)
        bench.poll()
        append(path, "2\n")
        assert bench.take() == [line, "1", line, "2"]

    def test_larger_rewritten_file_with_the_same_beginning_is_not_noticed(self, path: Path) -> None:
        """It is read as if the file had grown."""
        head = "x" * HEAD_BYTES + "\n"
        append(path, head + "1\n")
        bench = tailing(path, from_start=True)
        path.write_bytes(f"{head}2\n3\n".encode())
        assert bench.take() == [head.strip(), "1", "3"]


class TestHoles:
    """A writer without O_APPEND keeps its offset: after a truncation the file begins with NULs."""

    @pytest.mark.parametrize("size", [1, HEAD_BYTES, 5_000, READ_BYTES, 3 * READ_BYTES + 17])
    def test_line_after_a_hole_is_published_whole(self, path: Path, size: int) -> None:
        with path.open("wb", buffering=0) as writer:
            writer.write(b"x" * (size - 1) + b"\n")
            bench = tailing(path)
            for text in (b"first\nsecond\n", b"third\n", b"fourth\n"):
                os.truncate(path, 0)
                writer.write(text)
                assert bench.take() == text.decode().split()
            assert bench.trouble() == []

    def test_lines_of_zeros_that_are_stored_are_left_out_too(self, path: Path) -> None:
        append(path, "old\n")
        bench = tailing(path)
        path.write_bytes(b"\0" * (2 * READ_BYTES) + b"a\n\0\0b\n")
        assert bench.take() == ["a", "b"]

    def test_json_after_a_hole_is_published(self, path: Path) -> None:
        append(path, "1\n" * 50)
        bench = tailing(path, format="json")
        os.truncate(path, 0)
        with path.open("r+b") as writer:
            writer.seek(100)
            writer.write(b'{"n": 2}\n')
        assert bench.take() == [{"n": 2}]
        assert bench.trouble() == []

    def test_truncation_of_a_file_with_a_hole_ends_the_unfinished_line(self, path: Path) -> None:
        append(path, "old\n")
        bench = tailing(path)
        path.write_bytes(b"\0" * 300 + b"a\nunfinished")
        assert bench.take() == ["a"]
        path.write_bytes(b"\0" * 400 + b"b\n")
        assert bench.take() == ["unfinished", "b"]

    @pytest.mark.parametrize("hole", [100, 2_000_000])
    def test_hole_does_not_count_as_lines_to_catch_up(self, path: Path, hole: int) -> None:
        append(path, "old\n")
        bench = tailing(path, max_catch_up_bytes=100)
        bench.stop()
        os.truncate(path, 0)
        with path.open("r+b") as writer:
            writer.seek(hole)
            writer.write(b"first\nsecond\n")
        bench.start()
        assert bench.take() == ["first", "second"]

    def test_position_behind_a_hole_is_remembered(self, path: Path) -> None:
        append(path, "old\n")
        bench = tailing(path)
        path.write_bytes(b"\0" * 400 + b"a\n")
        assert bench.take() == ["a"]
        bench.stop()
        path.write_bytes(b"\0" * 500 + b"b\n")
        bench.start()
        assert bench.take() == ["b"]


class TestUnreadablePath:
    """An unreadable path is one warning, until it is a file."""

    def test_directory_is_a_warning(self, path: Path) -> None:
        self.check_warning(path, path.mkdir, path.rmdir, "is a directory, expected a file")

    def test_fifo_is_a_warning(self, path: Path) -> None:
        """It has no writer, so a blocking open would wait for ever."""
        self.check_warning(path, lambda: os.mkfifo(path), path.unlink, "is a FIFO, expected a file")

    def test_device_is_a_warning(self, path: Path) -> None:
        self.check_warning(
            path, lambda: path.symlink_to("/dev/zero"), path.unlink, "is a device, expected a file"
        )

    def test_socket_is_a_warning(self, path: Path) -> None:
        self.check_warning(
            path,
            lambda: os.mknod(path, stat.S_IFSOCK | 0o600),
            path.unlink,
            "is a socket, expected a file",
        )

    def test_file_in_place_of_a_folder_is_a_warning(self, tmp_path: Path) -> None:
        append(tmp_path / "log", "x")
        bench = tailing(tmp_path / "log" / "log")
        assert bench.trouble() == ["Not a directory"]

    @staticmethod
    def check_warning(
        path: Path, make: Callable[[], object], remove: Callable[[], None], problem: str
    ) -> None:
        make()
        bench = tailing(path)
        bench.poll(10)
        assert bench.trouble() == [problem]
        remove()
        bench.poll()
        assert bench.trouble() == ["No such file or directory"]
        append(path, "1\n")
        assert bench.take() == ["1"]
        rotate(path)
        make()
        bench.poll()
        assert bench.trouble() == [problem]

    def test_unreadable_file_is_a_warning(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "log")
            append(path, "old\n")
            opened = os.open

            def refuse(*arguments: Any) -> int:
                raise PermissionError(13, "Permission denied")

            monkeypatch.setattr(os, "open", refuse)
            bench = tailing(path)
            bench.poll(10)
            assert bench.trouble() == ["Permission denied"]
            monkeypatch.setattr(os, "open", opened)
            bench.poll()
            append(path, "new\n")
            assert bench.take() == ["new"]

    def test_read_error_fails_and_the_restart_continues(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        append(path, "1\n")
        bench = tailing(path, from_start=True)

        def fail(*arguments: Any) -> bytes:
            raise OSError(5, "Input/output error")

        monkeypatch.setattr(os, "pread", fail)
        bench.poll()
        [failure] = bench.ended
        assert isinstance(failure, Failure)
        assert failure.check(SourceFailed)
        assert failure.getErrorMessage() == f"{path}: Input/output error"
        monkeypatch.undo()
        append(path, "2\n")
        bench.start()
        assert bench.take() == ["1", "2"]


class TestRestart:
    """Lines written while the source was stopped are published once."""

    def restarted(self, path: Path, change: Callable[[], object], **options: Any) -> TailBench:
        """Return a source that published 1 and 2, and was stopped during `change`."""
        append(path, "1\n2\n")
        bench = tailing(path, from_start=True, **options)
        assert bench.take() == ["1", "2"]
        bench.stop()
        bench.trouble()
        change()
        bench.start()
        return bench

    def test_restart_continues_from_the_last_position(self, path: Path) -> None:
        bench = self.restarted(path, lambda: append(path, "3\n"))
        assert bench.take() == ["3"]
        assert bench.trouble() == []

    def test_rotated_file_is_read_to_its_end(self, path: Path) -> None:
        def change() -> None:
            append(path, "3\n")
            rotate(path, "4\n")

        bench = self.restarted(path, change)
        assert bench.take() == ["3", "4"]
        assert bench.trouble() == []

    @pytest.mark.parametrize(
        "names", [("log.2", "log.1"), ("log-20261121", "log-20261122"), ("log.9", "log.10")]
    )
    def test_files_rotated_later_are_read_in_order(
        self, path: Path, names: tuple[str, str]
    ) -> None:
        def change() -> None:
            append(path, "3\n")
            for name, text in zip(names, ("4\n", "5\n"), strict=True):
                path.rename(path.with_name(name))
                append(path, text)
            # Files of other names, and files rotated before.
            for name in ("log.err", "log.1.bak", "other.1", "logs.1", "log.11", "log-20261120"):
                append(path.with_name(name), "x\n")
            path.with_name("log-20261231").mkdir()

        bench = self.restarted(path, change)
        # The smaller number is the newer file, so log.10 is not read.
        expected = ["3", "5"] if names == ("log.9", "log.10") else ["3", "4", "5"]
        assert bench.take(3 * GRACE_POLLS) == expected
        assert bench.trouble() == []

    def test_files_of_a_link_are_found_by_the_name_of_its_target(self, path: Path) -> None:
        days = [path.with_name(f"log-2026112{n}") for n in range(3)]

        def put(day: Path) -> None:
            append(day, f"{day.name}\n")
            path.unlink(missing_ok=True)
            path.symlink_to(day)

        put(days[0])
        bench = tailing(path, from_start=True)
        bench.stop()
        for day in days[1:]:
            put(day)
        bench.start()
        assert bench.take(3 * GRACE_POLLS) == [day.name for day in days]
        assert bench.trouble() == []

    def test_file_with_two_names_is_read_once(self, path: Path) -> None:
        def change() -> None:
            path.rename(path.with_name("log.3"))
            append(path, "3\n")
            path.rename(path.with_name("log.2"))
            path.with_name("log.1").hardlink_to(path.with_name("log.2"))
            append(path, "4\n")
            path.with_name("log.0").symlink_to(path)

        bench = self.restarted(path, change)
        assert bench.take(3 * GRACE_POLLS) == ["3", "4"]
        assert bench.trouble() == []

    def test_order_is_that_of_the_names_not_of_the_times(self, path: Path) -> None:
        append(path, "1\n")
        bench = tailing(path, from_start=True)
        first = path.rename(path.with_name("log.2"))
        append(path, "2\n")
        assert bench.take() == ["1", "2"]
        bench.stop()
        append(first, "late\n")
        path.rename(path.with_name("log.1"))
        append(path, "3\n")
        bench.start()
        assert bench.take() == ["3"]

    def test_files_left_out_are_a_warning(self, path: Path) -> None:
        names = [f"log.{n}" for n in range(MAX_FILES + 2, 1, -1)]

        def change() -> None:
            for name in [*names, "log.1.gz"]:
                path.rename(path.with_name(name))
                append(path, f"after {name}\n")

        bench = self.restarted(path, change)
        read = [f"after {name}" for name in names[2:-1]]
        assert bench.take(MAX_FILES * GRACE_POLLS) == [*read, "after log.1.gz"]
        [warning] = bench.trouble()
        assert warning == (
            "lines are missing: rotated meanwhile, and compressed, not readable or more than 14: "
            "log.17, log.16, log.1.gz"
        )

    def test_file_rotated_during_the_search_is_a_warning(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def change() -> None:
            for name in ("log.2", "log.1"):
                path.rename(path.with_name(name))
                append(path, f"after {name}\n")

        def between(name: str, *rest: Any) -> list[str]:
            later = rotated_after(name, *rest)
            path.with_name("log.1").rename(path.with_name("log.2"))
            append(path.with_name("log.1"), "another\n")
            return later

        monkeypatch.setattr(follower, "rotated_after", between)
        bench = self.restarted(path, change)
        assert bench.take(3 * GRACE_POLLS) == ["after log.1"]
        [warning] = bench.trouble()
        assert warning.endswith(": log.1")

    def test_replaced_file_is_read_from_its_beginning_with_a_warning(self, path: Path) -> None:
        def change() -> None:
            rotate(path).unlink()
            append(path, "4\n5\n6\n")

        bench = self.restarted(path, change)
        assert bench.take() == ["4", "5", "6"]
        assert bench.trouble() == ["replaced or truncated meanwhile; lines may be missing"]

    @pytest.mark.parametrize("text", ["", "3\n", "3\n4\n", "3\n4\n5\n"])
    def test_truncated_file_is_read_from_its_beginning(self, path: Path, text: str) -> None:
        bench = self.restarted(path, lambda: path.write_bytes(text.encode()))
        assert bench.take() == text.split()
        assert len(bench.trouble()) == 1

    def test_reused_inode_is_another_file(self, path: Path) -> None:
        append(path, "8\n9\n")
        mark = {"inode": path.stat().st_ino, "position": 2, "head": "of another"}
        bench = TailBench(path)
        BENCHES.append(bench)
        bench.feed.memory = mark
        bench.start()
        assert bench.take() == ["8", "9"]

    def test_lines_above_the_bound_are_skipped_with_a_warning(self, path: Path) -> None:
        text = "".join(f"{n:03}\n" for n in range(100))
        bench = self.restarted(path, lambda: append(path, text), max_catch_up_bytes=10)
        assert bench.take() == ["098", "099"]
        assert bench.trouble() == ["392 bytes were skipped (max_catch_up_bytes)"]

    def test_bound_counts_both_files(self, path: Path) -> None:
        def change() -> None:
            append(path, "old\n" * 10)
            rotate(path, "new\n" * 2)

        bench = self.restarted(path, change, max_catch_up_bytes=12)
        assert bench.take() == ["old", "new", "new"]
        assert bench.trouble() == ["36 bytes were skipped (max_catch_up_bytes)"]

    def test_new_file_alone_may_exceed_the_bound(self, path: Path) -> None:
        def change() -> None:
            append(path, "old\n" * 10)
            rotate(path, "new\n" * 10)

        bench = self.restarted(path, change, max_catch_up_bytes=8)
        assert bench.take() == ["new", "new"]
        assert bench.trouble() == ["72 bytes were skipped (max_catch_up_bytes)"]

    def test_bound_of_0_skips_all(self, path: Path) -> None:
        bench = self.restarted(path, lambda: append(path, "3\n"), max_catch_up_bytes=0)
        bench.poll()
        append(path, "4\n")
        assert bench.take() == ["4"]

    def test_line_being_published_is_not_lost(self, path: Path) -> None:
        append(path, "1\n2\n3\n")
        bench = TailBench(path, from_start=True)
        BENCHES.append(bench)
        bench.feed.hold()
        bench.start()
        bench.poll()
        held, bench.feed.held = bench.feed.held, None
        bench.stop()
        assert held is not None
        bench.start()
        assert bench.take() == ["1", "2", "3"]

    @pytest.mark.parametrize("remembered", ["text", 7, {"inode": "x"}, [1], {"position": -1}])
    def test_invalid_remembered_value_is_ignored(self, path: Path, remembered: object) -> None:
        append(path, "old\n")
        bench = TailBench(path)
        BENCHES.append(bench)
        bench.feed.memory = remembered
        bench.start()
        bench.poll()
        append(path, "new\n")
        assert bench.take()[-1:] == ["new"]


# -- Any sequence of changes of a file, compared with a model --------------------------------

ACTIONS = st.sampled_from(
    [
        *["write"] * 6,
        *["unfinished"] * 2,
        *["poll"] * 5,
        "settle",
        "rename",
        "create",
        "reopen",
        "rotate",
        "rotate",
        "delete",
        "truncate",
        "stop",
        "crash",
        "start",
        "start",
    ]
)


class ModelFile:
    """A file, and its lines that must be published."""

    def __init__(self, path: Path):
        self._file = path.open("ab")
        self.inode = os.fstat(self._file.fileno()).st_ino
        self.lines: list[str] = []
        self.may_be_lost: set[str] = set()
        self.unfinished = ""
        self.deleted = False
        self.changed = False

    def write(self, text: str, ends: bool) -> None:
        self._file.write(f"{text}\n".encode() if ends else text.encode())
        self._file.flush()
        self.unfinished += text
        if ends:
            self.lines.append(self.unfinished)
            self.unfinished = ""

    def truncate(self) -> None:
        self._file.truncate(0)
        self.unfinished = ""

    def close(self) -> None:
        self._file.close()


class TailMachine:
    """A writer and a follower of one name; `may_be_lost` has the lines that no poll can see."""

    def __init__(self, path: Path):
        self._path = path
        self._number = 0
        self._files: list[ModelFile] = []
        self._current: ModelFile | None = None
        self._writer: ModelFile | None = None
        self._mark: Mark | None = None
        self._marked: ModelFile | None = None
        self._follower: Follower | None = None
        self.published: list[str] = []
        self.do_reopen()
        self.do_start()

    def step(self, action: str) -> None:
        getattr(self, f"do_{action}")()

    def do_write(self) -> None:
        self._write(ends=True)

    def do_unfinished(self) -> None:
        self._write(ends=False)

    def _write(self, ends: bool) -> None:
        writer = self._writer
        assert writer is not None
        self._number += 1
        writer.write(f"{self._number}.", ends)
        if self._follower is not None and not self._is_read_by_follower(writer):
            writer.may_be_lost.update(writer.lines[-1:])

    def do_rename(self) -> None:
        if self._current is not None:
            self._path.rename(f"{self._path}-{20_000_000 + len(self._files)}")
            self._vanished()

    def do_delete(self) -> None:
        if self._current is not None:
            self._path.unlink()
            self._current.deleted = True
            self._vanished()

    def _vanished(self) -> None:
        """The file has lost its name; lines that no poll has seen may be lost."""
        gone, self._current = self._current, None
        assert gone is not None
        if self._follower is not None and not self._is_read_by_follower(gone):
            self._allow_loss(gone)

    def do_create(self) -> None:
        if self._current is None:
            self._current = ModelFile(self._path)
            self._files.append(self._current)

    def do_reopen(self) -> None:
        self.do_create()
        if self._writer is not self._current:
            self._writer = self._current

    def do_rotate(self) -> None:
        self.do_rename()
        self.do_reopen()

    def do_truncate(self) -> None:
        if self._current is not None:
            self._allow_loss(self._current)
            self._current.truncate()
            self._current.changed = True

    def do_poll(self) -> None:
        self._poll()

    def do_settle(self) -> None:
        """Poll until everything was read."""
        if self._follower is not None:
            for _ in range(100):
                self._poll()

    def do_crash(self) -> None:
        """Stop after a part of the lines was published."""
        self._poll(1)
        self.do_stop()

    def do_stop(self) -> None:
        if self._follower is not None:
            self._follower.close()
            self._follower = None

    def do_start(self) -> None:
        if self._follower is None:
            # Under another name only an unchanged file is recognised.
            old = self._marked
            if old is not None and (old is self._current or old.deleted or old.changed):
                old = None
            after = False
            for file in self._files:
                if file not in (old, self._current) and (file.deleted or not after):
                    self._allow_loss(file)
                after = after or file is old
            self._follower = Follower(str(self._path), 1_000, self._mark, True, 1_000_000)
            self._poll()

    def _poll(self, most: int = 1_000) -> bool:
        if self._follower is None:
            return False
        steps, more = self._follower.poll()
        for step in itertools.islice(steps, most):
            self._publish(step)
        if self._marked is not None and most > 1:
            self._marked.changed = False
        return more

    def _publish(self, step: Step) -> None:
        if step.line is not None:
            self.published.append(step.line.text.decode())
        if step.mark.inode and step.mark != self._mark:
            # An inode is reused only after the file was closed.
            same = [file for file in self._files if file.inode == step.mark.inode]
            self._marked = same[-1]
        self._mark = step.mark

    def _is_read_by_follower(self, file: ModelFile) -> bool:
        """Whether the follower has the file open, or will find it by its name."""
        assert self._follower is not None
        inodes = [open_file.identity[1] for open_file in self._follower._files]
        return file is self._current or file.inode in inodes

    def _allow_loss(self, file: ModelFile) -> None:
        file.may_be_lost.update(set(file.lines) - set(self.published))

    def check(self) -> None:
        """Check that no line is repeated, out of order or missing."""
        numbers = [int(text.split(".")[0]) for text in self.published]
        assert numbers == sorted(set(numbers)), self.published
        for file in self._files:
            missing = set(file.lines) - file.may_be_lost - set(self.published)
            assert not missing, (missing, self.published)

    def end(self) -> None:
        """Read everything, and check."""
        self.do_start()
        self.do_settle()
        self.check()

    def close(self) -> None:
        self.do_stop()
        for file in self._files:
            file.close()


@settings(max_examples=200)
@given(programs(ACTIONS, most=60))
def test_each_line_is_published_once_and_in_order(
    actions: list[str],
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        machine = TailMachine(Path(folder, "log"))
        try:
            for action in actions:
                machine.step(action)
            machine.end()
        finally:
            machine.close()
