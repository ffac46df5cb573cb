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
    """Rename the file; the new one begins with the text."""
    old = path.with_name(f"{path.name}.{len(list(path.parent.iterdir()))}")
    path.rename(old)
    if text is not None:
        append(path, text)
    return old


class Desk:
    """A source, and what it published; it remembers from one run to the next."""

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
        """Let it look so often, and read all that it finds."""
        for _ in range(times):
            self.clock.advance(self.options.poll_milliseconds / 1000)
            for _ in range(50):
                self.clock.advance(0)

    def take(self, polls: int = GRACE_POLLS + 2) -> list[Any]:
        """What it published since the last time."""
        self.poll(polls)
        taken = list(self.feed.published)
        self.feed.published.clear()
        return taken

    def trouble(self) -> list[str]:
        """Its troubles, without the path."""
        told = [text.removeprefix(f"{self.options.path}: ") for text in self.feed.troubles]
        self.feed.troubles.clear()
        return told


DESKS: list[Desk] = []


@pytest.fixture(autouse=True)
def _end() -> Iterator[None]:
    yield
    while DESKS:
        desk = DESKS.pop()
        if not desk.ended:
            desk.stop()


def tailing(path: Path, **options: Any) -> Desk:
    """A source that has looked for the first time."""
    desk = Desk(path, **options)
    DESKS.append(desk)
    desk.start()
    desk.poll()
    return desk


def test_it_is_a_source_and_its_type_one_of_sources(path: Path) -> None:
    assert verifyObject(ISource, TAIL.make(Options(str(path))))


@pytest.mark.parametrize("path", ["", "a\0b"])
def test_what_cannot_be_a_path_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match=r"^path: value .*, expected the path of a file$"):
        TAIL.make(Options(path))


class TestAtTheVeryFirstStart:
    def test_what_is_in_the_file_already_is_not_published(self, path: Path) -> None:
        append(path, "old\n")
        desk = tailing(path)
        append(path, "new\n")
        assert desk.take() == ["new"]

    def test_it_is_when_that_is_asked_for(self, path: Path) -> None:
        append(path, "old\n")
        desk = tailing(path, from_start=True)
        append(path, "new\n")
        assert desk.take() == ["old", "new"]

    def test_a_line_that_is_completed_later_is_published_whole(self, path: Path) -> None:
        append(path, "old\nhalf a ")
        desk = tailing(path)
        append(path, "line\n")
        assert desk.take() == ["half a line"]

    def test_a_file_that_comes_later_is_read_from_its_beginning(self, path: Path) -> None:
        desk = tailing(path)
        assert desk.trouble() == ["No such file or directory"]
        assert desk.feed.oks == 0
        append(path, "first\n")
        assert desk.take() == ["first"]
        assert (desk.feed.oks, desk.trouble()) == (1, [])

    def test_so_is_one_that_comes_when_the_server_runs_no_more(self, path: Path) -> None:
        desk = tailing(path)
        desk.stop()
        append(path, "first\n")
        desk.start()
        assert desk.take() == ["first"]

    def test_a_restart_before_the_first_line_misses_nothing(self, path: Path) -> None:
        append(path, "old\n")
        desk = tailing(path)
        desk.stop()
        append(path, "new\n")
        desk.start()
        assert desk.take() == ["new"]

    def test_of_a_large_file_only_the_end_is_read(self, path: Path) -> None:
        with path.open("wb") as file:
            file.truncate(1 << 40)
        desk = tailing(path, max_line_bytes=100)
        append(path, "\nnew\n")
        assert desk.take()[-1] == "new"


class TestLines:
    def test_are_published_in_order_however_they_are_written(self, path: Path) -> None:
        desk = tailing(path, from_start=True)
        for part in ("a\nb", "b\n", "\n", "c", "c", "\nd\n"):
            append(path, part)
            desk.poll()
        assert desk.take() == ["a", "bb", "", "cc", "d"]

    def test_without_a_newline_wait_for_it(self, path: Path) -> None:
        desk = tailing(path, from_start=True)
        append(path, "half")
        assert desk.take(20) == []
        append(path, " whole\n")
        assert desk.take() == ["half whole"]

    def test_may_be_any_bytes(self, path: Path) -> None:
        desk = tailing(path, from_start=True)
        append(path, b"\xff\xfe\n\0\0\n" + "grün\r\n".encode())
        assert desk.take() == ["��", "\0\0", "grün"]

    def test_that_are_too_long_are_cut_once_they_end(self, path: Path) -> None:
        desk = tailing(path, from_start=True, max_line_bytes=10)
        append(path, "x" * 200_000)
        assert desk.take() == []
        append(path, "\nshort\n")
        assert desk.take() == ["x" * 10, "short"]
        assert desk.feed.tags == [{"cut": "true"}, None]
        assert "longer than max_line_bytes (10)" in desk.trouble()[-1]

    def test_are_values_with_the_format_json(self, path: Path) -> None:
        desk = tailing(path, from_start=True, format="json")
        desk.trouble()
        append(path, '{"n": 1}\noops\n\n[2]\n')
        assert desk.take() == [{"n": 1}, [2]]
        assert desk.trouble() == ['a line is not JSON (format = "json"): skipped']

    def test_of_a_flood_are_read_as_fast_as_they_are_published(self, path: Path) -> None:
        count = 3 * READ_BYTES // 10
        append(path, b"".join(b"%09d\n" % n for n in range(count)))
        desk = tailing(path, from_start=True)
        desk.feed.published.clear()
        desk.stop()
        desk.feed.memory = None
        desk.feed.hold()
        desk.start()
        desk.poll(10)
        assert desk.feed.published == []
        desk.feed.release()
        # In one turn of the reactor.
        assert 0 < len(desk.feed.published) <= 200
        assert len(desk.take(10)) == count

    def test_that_cannot_be_published_now_are_published_later(self, path: Path) -> None:
        desk = tailing(path, from_start=True)
        desk.trouble()
        desk.feed.fails = [Unavailable("the disk is full")]
        append(path, "a\nb\n")
        desk.poll()
        assert (desk.feed.published, desk.trouble()) == ([], ["the disk is full"])
        assert desk.take() == ["a", "b"]


class TestRotation:
    def test_the_old_file_is_read_to_its_end_first(self, path: Path) -> None:
        desk = tailing(path, from_start=True)
        append(path, "1\n")
        desk.poll()
        append(path, "2\n")
        rotate(path, "3\n")
        assert desk.take() == ["1", "2", "3"]

    def test_who_writes_to_it_may_need_a_moment_to_go_over(self, path: Path) -> None:
        append(path, "1\n")
        desk = tailing(path, from_start=True)
        old = rotate(path, "")
        desk.poll(50)
        append(old, "2\n")
        desk.poll(50)
        append(path, "4\n")
        desk.poll(GRACE_POLLS - 1)
        append(old, "3\n")
        assert desk.take() == ["1", "2", "3", "4"]

    def test_a_last_line_without_its_newline_is_published_as_it_is(self, path: Path) -> None:
        append(path, "1\nhalf")
        desk = tailing(path, from_start=True)
        rotate(path, "2\n")
        assert desk.take() == ["1", "half", "2"]

    @pytest.mark.parametrize("text", ["longer than before\n", "b\n", "bb\n"])
    def test_a_file_may_take_the_place_of_another_of_any_size(
        self, path: Path, tmp_path: Path, text: str
    ) -> None:
        append(path, "aa\n")
        desk = tailing(path, from_start=True)
        new = tmp_path / "new"
        append(new, text)
        new.replace(path)
        assert desk.take() == ["aa", text.strip()]

    def test_several_of_them_come_in_their_order(self, path: Path) -> None:
        append(path, "1\n")
        desk = tailing(path, from_start=True)
        for n in range(2, 6):
            rotate(path, f"{n}\n")
            desk.poll()
        assert desk.take(10) == ["1", "2", "3", "4", "5"]
        assert len(os.listdir("/proc/self/fd")) < 100

    def test_faster_than_it_is_read_is_told(self, path: Path) -> None:
        append(path, (b"0" * 1_000 + b"\n") * 2_000)
        follower = Follower(str(path), 100, None, True, 0)
        for n in range(MAX_FILES):
            list(follower.poll()[0])
            assert follower.problem == ""
            rotate(path, f"{n}\n")
        list(follower.poll()[0])
        assert follower.problem == "rotated faster than it is read"
        follower.close()

    def test_a_file_that_is_deleted_and_made_anew_is_followed(self, path: Path) -> None:
        append(path, "1\n")
        desk = tailing(path, from_start=True)
        path.unlink()
        desk.poll()
        assert desk.trouble() == ["No such file or directory"]
        oks = desk.feed.oks
        append(path, "2\n")
        assert desk.take() == ["1", "2"]
        assert desk.feed.oks == oks + 1

    def test_a_name_may_be_a_link_to_changing_files(self, path: Path, tmp_path: Path) -> None:
        for name in "ab":
            append(tmp_path / name, f"{name}\n")
        path.symlink_to("a")
        desk = tailing(path, from_start=True)
        path.unlink()
        path.symlink_to("b")
        append(tmp_path / "a", "last\n")
        assert desk.take() == ["a", "last", "b"]

    def test_leaves_no_file_open(self, path: Path) -> None:
        before = len(os.listdir("/proc/self/fd"))
        append(path, "1\n")
        desk = tailing(path, from_start=True)
        for _ in range(5):
            rotate(path, "x\n")
            desk.poll(GRACE_POLLS + 2)
        assert len(os.listdir("/proc/self/fd")) == before + 1
        desk.stop()
        assert len(os.listdir("/proc/self/fd")) == before


class TestTruncation:
    @pytest.mark.parametrize("text", ["b\n", "bb\n", "more than there was\n"])
    def test_is_followed_whatever_size_it_has_when_it_is_looked_at(
        self, path: Path, text: str
    ) -> None:
        append(path, "aa\n")
        desk = tailing(path, from_start=True)
        os.truncate(path, 0)
        append(path, text)
        assert desk.take() == ["aa", text.strip()]

    def test_publishes_the_half_line_before_it(self, path: Path) -> None:
        append(path, "1\nhalf")
        desk = tailing(path, from_start=True)
        os.truncate(path, 0)
        append(path, "2\n")
        assert desk.take() == ["1", "half", "2"]

    def test_to_a_copy_is_followed(self, path: Path, tmp_path: Path) -> None:
        append(path, "1\n")
        desk = tailing(path, from_start=True)
        (tmp_path / "copy").write_bytes(path.read_bytes())
        os.truncate(path, 0)
        desk.poll()
        append(path, "2\n")
        assert desk.take() == ["1", "2"]

    def test_that_leaves_a_larger_file_with_the_same_beginning_cannot_be_told(
        self, path: Path
    ) -> None:
        """What no look sees is not known: it is as if it had grown."""
        head = "x" * HEAD_BYTES + "\n"
        append(path, head + "1\n")
        desk = tailing(path, from_start=True)
        path.write_bytes(f"{head}2\n3\n".encode())
        assert desk.take() == [head.strip(), "1", "3"]


class TestWhatIsNoFile:
    """Is told, waited for, and forgotten once it is one."""

    def test_as_a_directory(self, path: Path) -> None:
        self.is_told(path, path.mkdir, path.rmdir, "is a directory, expected a file")

    def test_as_a_fifo(self, path: Path) -> None:
        """Nobody writes to it: to open it would wait for ever."""
        self.is_told(path, lambda: os.mkfifo(path), path.unlink, "is a FIFO, expected a file")

    def test_as_a_device(self, path: Path) -> None:
        self.is_told(
            path, lambda: path.symlink_to("/dev/zero"), path.unlink, "is a device, expected a file"
        )

    def test_as_a_socket(self, path: Path) -> None:
        self.is_told(
            path,
            lambda: os.mknod(path, stat.S_IFSOCK | 0o600),
            path.unlink,
            "is a socket, expected a file",
        )

    def test_as_a_folder_that_is_a_file(self, tmp_path: Path) -> None:
        append(tmp_path / "log", "x")
        desk = tailing(tmp_path / "log" / "log")
        assert desk.trouble() == ["Not a directory"]

    @staticmethod
    def is_told(
        path: Path, make: Callable[[], object], remove: Callable[[], None], problem: str
    ) -> None:
        make()
        desk = tailing(path)
        desk.poll(10)
        assert desk.trouble() == [problem]
        remove()
        desk.poll()
        assert desk.trouble() == ["No such file or directory"]
        append(path, "1\n")
        assert desk.take() == ["1"]
        rotate(path)
        make()
        desk.poll()
        assert desk.trouble() == [problem]

    def test_nor_one_that_may_not_be_read(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "log")
            append(path, "old\n")
            opened = os.open

            def refuse(*arguments: Any) -> int:
                raise PermissionError(13, "Permission denied")

            monkeypatch.setattr(os, "open", refuse)
            desk = tailing(path)
            desk.poll(10)
            assert desk.trouble() == ["Permission denied"]
            monkeypatch.setattr(os, "open", opened)
            desk.poll()
            append(path, "new\n")
            assert desk.take() == ["new"]

    def test_nor_one_that_cannot_be_read_any_more(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        append(path, "1\n")
        desk = tailing(path, from_start=True)

        def fail(*arguments: Any) -> bytes:
            raise OSError(5, "Input/output error")

        monkeypatch.setattr(os, "pread", fail)
        desk.poll()
        [failure] = desk.ended
        assert isinstance(failure, Failure)
        assert failure.check(SourceFailed)
        assert failure.getErrorMessage() == f"{path}: Input/output error"
        monkeypatch.undo()
        append(path, "2\n")
        desk.start()
        assert desk.take() == ["1", "2"]


class TestAfterARestart:
    """What was written meanwhile is published, once."""

    def restarted(self, path: Path, change: Callable[[], object], **options: Any) -> Desk:
        """A source that published 1 and 2, and what changed while it did not run."""
        append(path, "1\n2\n")
        desk = tailing(path, from_start=True, **options)
        assert desk.take() == ["1", "2"]
        desk.stop()
        desk.trouble()
        change()
        desk.start()
        return desk

    def test_it_goes_on_from_where_it_was(self, path: Path) -> None:
        desk = self.restarted(path, lambda: append(path, "3\n"))
        assert desk.take() == ["3"]
        assert desk.trouble() == []

    def test_a_half_line_is_published_whole(self, path: Path) -> None:
        append(path, "1\nha")
        desk = tailing(path, from_start=True)
        desk.stop()
        append(path, "lf\n")
        desk.start()
        assert desk.take() == ["1", "half"]

    def test_a_file_that_was_rotated_is_read_to_its_end(self, path: Path) -> None:
        def change() -> None:
            append(path, "3\n")
            rotate(path, "4\n")

        desk = self.restarted(path, change)
        assert desk.take() == ["3", "4"]
        assert desk.trouble() == []

    @pytest.mark.parametrize(
        "names", [("log.2", "log.1"), ("log-20261121", "log-20261122"), ("log.9", "log.10")]
    )
    def test_so_are_those_that_were_rotated_after_it(
        self, path: Path, names: tuple[str, str]
    ) -> None:
        def change() -> None:
            append(path, "3\n")
            for name, text in zip(names, ("4\n", "5\n"), strict=True):
                path.rename(path.with_name(name))
                append(path, text)
            # Of another, or no log of this name, or rotated before.
            for name in ("log.err", "log.1.bak", "other.1", "logs.1", "log.11", "log-20261120"):
                append(path.with_name(name), "x\n")
            path.with_name("log-20261231").mkdir()

        desk = self.restarted(path, change)
        # One whose number is smaller is the newer one.
        expected = ["3", "5"] if names == ("log.9", "log.10") else ["3", "4", "5"]
        assert desk.take(3 * GRACE_POLLS) == expected
        assert desk.trouble() == []

    def test_those_of_a_link_are_known_by_its_name(self, path: Path) -> None:
        days = [path.with_name(f"log-2026112{n}") for n in range(3)]

        def put(day: Path) -> None:
            append(day, f"{day.name}\n")
            path.unlink(missing_ok=True)
            path.symlink_to(day)

        put(days[0])
        desk = tailing(path, from_start=True)
        desk.stop()
        for day in days[1:]:
            put(day)
        desk.start()
        assert desk.take(3 * GRACE_POLLS) == [day.name for day in days]
        assert desk.trouble() == []

    def test_one_with_two_names_is_read_once(self, path: Path) -> None:
        def change() -> None:
            path.rename(path.with_name("log.3"))
            append(path, "3\n")
            path.rename(path.with_name("log.2"))
            path.with_name("log.1").hardlink_to(path.with_name("log.2"))
            append(path, "4\n")
            path.with_name("log.0").symlink_to(path)

        desk = self.restarted(path, change)
        assert desk.take(3 * GRACE_POLLS) == ["3", "4"]
        assert desk.trouble() == []

    def test_one_that_is_written_to_later_is_not_after_it(self, path: Path) -> None:
        append(path, "1\n")
        desk = tailing(path, from_start=True)
        first = path.rename(path.with_name("log.2"))
        append(path, "2\n")
        assert desk.take() == ["1", "2"]
        desk.stop()
        append(first, "late\n")
        path.rename(path.with_name("log.1"))
        append(path, "3\n")
        desk.start()
        assert desk.take() == ["3"]

    def test_what_is_left_out_is_told(self, path: Path) -> None:
        names = [f"log.{n}" for n in range(MAX_FILES + 2, 1, -1)]

        def change() -> None:
            for name in [*names, "log.1.gz"]:
                path.rename(path.with_name(name))
                append(path, f"after {name}\n")

        desk = self.restarted(path, change)
        read = [f"after {name}" for name in names[2:-1]]
        assert desk.take(MAX_FILES * GRACE_POLLS) == [*read, "after log.1.gz"]
        [told] = desk.trouble()
        assert told == (
            "lines are missing: rotated meanwhile, and compressed, not readable or more than 14: "
            "log.17, log.16, log.1.gz"
        )

    def test_so_is_what_was_rotated_once_more_at_that_moment(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def change() -> None:
            for name in ("log.2", "log.1"):
                path.rename(path.with_name(name))
                append(path, f"after {name}\n")

        def between(name: str, *rest: Any) -> list[str]:
            found = rotated_after(name, *rest)
            path.with_name("log.1").rename(path.with_name("log.2"))
            append(path.with_name("log.1"), "another\n")
            return found

        monkeypatch.setattr(follower, "rotated_after", between)
        desk = self.restarted(path, change)
        assert desk.take(3 * GRACE_POLLS) == ["after log.1"]
        [told] = desk.trouble()
        assert told.endswith(": log.1")

    def test_also_when_there_is_no_new_one_yet(self, path: Path) -> None:
        def change() -> None:
            append(path, "3\n")
            rotate(path)

        desk = self.restarted(path, change)
        desk.poll()
        append(path, "4\n")
        assert desk.take() == ["3", "4"]

    def test_a_file_that_was_replaced_is_read_from_its_beginning_and_told(self, path: Path) -> None:
        def change() -> None:
            rotate(path).unlink()
            append(path, "4\n5\n6\n")

        desk = self.restarted(path, change)
        assert desk.take() == ["4", "5", "6"]
        assert desk.trouble() == ["replaced or truncated meanwhile; lines may be missing"]

    def test_also_when_the_new_one_comes_later(self, path: Path) -> None:
        desk = self.restarted(path, path.unlink)
        desk.poll()
        append(path, "3\n")
        assert desk.take() == ["3"]

    @pytest.mark.parametrize("text", ["", "3\n", "3\n4\n", "3\n4\n5\n"])
    def test_a_file_that_was_truncated_is_read_from_its_beginning(
        self, path: Path, text: str
    ) -> None:
        desk = self.restarted(path, lambda: path.write_bytes(text.encode()))
        assert desk.take() == text.split()
        assert len(desk.trouble()) == 1

    def test_another_file_with_the_same_inode_is_another_file(self, path: Path) -> None:
        append(path, "8\n9\n")
        found = path.stat()
        mark = {"inode": found.st_ino, "position": 2, "head": "of another"}
        desk = Desk(path)
        DESKS.append(desk)
        desk.feed.memory = mark
        desk.start()
        assert desk.take() == ["8", "9"]

    def test_more_than_the_bound_is_skipped_and_told(self, path: Path) -> None:
        text = "".join(f"{n:03}\n" for n in range(100))
        desk = self.restarted(path, lambda: append(path, text), max_catch_up_bytes=10)
        assert desk.take() == ["098", "099"]
        assert desk.trouble() == ["392 bytes were skipped (max_catch_up_bytes)"]

    def test_also_when_it_is_in_two_files(self, path: Path) -> None:
        def change() -> None:
            append(path, "old\n" * 10)
            rotate(path, "new\n" * 2)

        desk = self.restarted(path, change, max_catch_up_bytes=12)
        assert desk.take() == ["old", "new", "new"]
        assert desk.trouble() == ["36 bytes were skipped (max_catch_up_bytes)"]

    def test_or_more_than_that_in_the_new_one_alone(self, path: Path) -> None:
        def change() -> None:
            append(path, "old\n" * 10)
            rotate(path, "new\n" * 10)

        desk = self.restarted(path, change, max_catch_up_bytes=8)
        assert desk.take() == ["new", "new"]
        assert desk.trouble() == ["72 bytes were skipped (max_catch_up_bytes)"]

    def test_nothing_is_caught_up_with_if_that_is_the_bound(self, path: Path) -> None:
        desk = self.restarted(path, lambda: append(path, "3\n"), max_catch_up_bytes=0)
        desk.poll()
        append(path, "4\n")
        assert desk.take() == ["4"]

    def test_what_was_being_published_is_not_lost(self, path: Path) -> None:
        append(path, "1\n2\n3\n")
        desk = Desk(path, from_start=True)
        DESKS.append(desk)
        desk.feed.hold()
        desk.start()
        desk.poll()
        held, desk.feed.held = desk.feed.held, None
        desk.stop()
        assert held is not None
        desk.start()
        assert desk.take() == ["1", "2", "3"]

    @pytest.mark.parametrize("remembered", ["text", 7, {"inode": "x"}, [1], {"position": -1}])
    def test_what_it_cannot_have_remembered_is_nothing(
        self, path: Path, remembered: object
    ) -> None:
        append(path, "old\n")
        desk = Desk(path)
        DESKS.append(desk)
        desk.feed.memory = remembered
        desk.start()
        desk.poll()
        append(path, "new\n")
        assert desk.take()[-1:] == ["new"]


# -- any history of a file against what was written ------------------------------------------

ACTIONS = st.sampled_from(
    [
        *["write"] * 6,
        *["half"] * 2,
        *["look"] * 5,
        "settle",
        "rename",
        "create",
        "reopen",
        "rotate",
        "rotate",
        "delete",
        "truncate",
        "stop",
        "die",
        "start",
        "start",
    ]
)


class Written:
    """One file, and what of it has to be published."""

    def __init__(self, path: Path):
        self._file = path.open("ab")
        self.inode = os.fstat(self._file.fileno()).st_ino
        self.lines: list[str] = []
        self.excused: set[str] = set()
        self.half = ""
        self.deleted = False
        self.changed = False

    def write(self, text: str, ends: bool) -> None:
        self._file.write(f"{text}\n".encode() if ends else text.encode())
        self._file.flush()
        self.half += text
        if ends:
            self.lines.append(self.half)
            self.half = ""

    def truncate(self) -> None:
        self._file.truncate(0)
        self.half = ""

    def close(self) -> None:
        self._file.close()


class Story:
    """A writer, a follower, and their file; what may be lost is lost without anybody's fault."""

    def __init__(self, path: Path):
        self._path = path
        self._number = 0
        self._files: list[Written] = []
        self._current: Written | None = None
        self._writer: Written | None = None
        self._mark: Mark | None = None
        self._marked: Written | None = None
        self._follower: Follower | None = None
        self.published: list[str] = []
        self.do_reopen()
        self.do_start()

    def step(self, action: str) -> None:
        getattr(self, f"do_{action}")()

    def do_write(self) -> None:
        self._write(ends=True)

    def do_half(self) -> None:
        self._write(ends=False)

    def _write(self, ends: bool) -> None:
        writer = self._writer
        assert writer is not None
        self._number += 1
        writer.write(f"{self._number}.", ends)
        if self._follower is not None and not self._reads(writer):
            writer.excused.update(writer.lines[-1:])

    def do_rename(self) -> None:
        if self._current is not None:
            self._path.rename(f"{self._path}-{20_000_000 + len(self._files)}")
            self._gone()

    def do_delete(self) -> None:
        if self._current is not None:
            self._path.unlink()
            self._current.deleted = True
            self._gone()

    def _gone(self) -> None:
        """Nothing has the name now; what nobody has seen of the file remains unseen."""
        gone, self._current = self._current, None
        assert gone is not None
        if self._follower is not None and not self._reads(gone):
            self._excuse(gone)

    def do_create(self) -> None:
        if self._current is None:
            self._current = Written(self._path)
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
            self._excuse(self._current)
            self._current.truncate()
            self._current.changed = True

    def do_look(self) -> None:
        self._look()

    def do_settle(self) -> None:
        """Long enough for everything that there is."""
        if self._follower is not None:
            for _ in range(100):
                self._look()

    def do_die(self) -> None:
        """Stop, having published a part of what was read."""
        self._look(1)
        self.do_stop()

    def do_stop(self) -> None:
        if self._follower is not None:
            self._follower.close()
            self._follower = None

    def do_start(self) -> None:
        if self._follower is None:
            # Under another name only a file that is as it was can be told.
            old = self._marked
            if old is not None and (old is self._current or old.deleted or old.changed):
                old = None
            after = False
            for file in self._files:
                if file not in (old, self._current) and (file.deleted or not after):
                    self._excuse(file)
                after = after or file is old
            self._follower = Follower(str(self._path), 1_000, self._mark, True, 1_000_000)
            self._look()

    def _look(self, most: int = 1_000) -> bool:
        if self._follower is None:
            return False
        steps, more = self._follower.poll()
        for step in itertools.islice(steps, most):
            self._take(step)
        if self._marked is not None and most > 1:
            self._marked.changed = False
        return more

    def _take(self, step: Step) -> None:
        if step.line is not None:
            self.published.append(step.line.text.decode())
        if step.mark.inode and step.mark != self._mark:
            # An inode is used again only when nobody has the file open.
            found = [file for file in self._files if file.inode == step.mark.inode]
            self._marked = found[-1]
        self._mark = step.mark

    def _reads(self, file: Written) -> bool:
        """Whether the follower has it open, or will find it by its name."""
        assert self._follower is not None
        held = [known.identity[1] for known in self._follower._files]
        return file is self._current or file.inode in held

    def _excuse(self, file: Written) -> None:
        file.excused.update(set(file.lines) - set(self.published))

    def check(self) -> None:
        """Nothing twice, nothing out of order, nothing missing."""
        numbers = [int(text.split(".")[0]) for text in self.published]
        assert numbers == sorted(set(numbers)), self.published
        for file in self._files:
            missing = set(file.lines) - file.excused - set(self.published)
            assert not missing, (missing, self.published)

    def end(self) -> None:
        """All that can be known is known."""
        self.do_start()
        self.do_settle()
        self.check()

    def close(self) -> None:
        self.do_stop()
        for file in self._files:
            file.close()


@settings(max_examples=200)
@given(programs(ACTIONS, most=60))
def test_each_line_is_published_once_and_in_order_whatever_happens_to_the_file(
    actions: list[str],
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        story = Story(Path(folder, "log"))
        try:
            for action in actions:
                story.step(action)
            story.end()
        finally:
            story.close()
