"""Sources that remember, and processes of theirs, in a server that is stopped and killed."""

from __future__ import annotations

import signal
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.exchange import LINES, Reading, configured, data, history, serving
from tests.e2e.server import Server
from tests.processes import lives

MODES = ["sync", "batched"]
KILLS = 4

CONFIG = """
[store]
path = "s.db"
durability = "{durability}"
[defaults]
history_size = 20000
history_bytes = 100000000
[sources.log]
type = "tail"
channel = "log"
path = "app.log"
from_start = true
poll_milliseconds = 20
max_rate = 1000
"""


def append(folder: Path, *lines: str) -> None:
    with (folder / "app.log").open("a") as file:
        file.writelines(f"{line}\n" for line in lines)


def published(server: Server, channel: str, last: str) -> list[Any]:
    """All that was published, once this was."""
    found: list[Any] = []
    with closing(Reading(server, f"channels/{channel}?since=oldest", LINES)) as stream:
        while found[-1:] != [last]:
            value = stream.object()
            found += [value["data"]] if "data" in value else []
    return found


@pytest.mark.parametrize("durability", MODES)
def test_after_an_orderly_stop_each_line_is_published_once(tmp_path: Path, durability: str) -> None:
    append(tmp_path, "1", "2")
    with serving(tmp_path, CONFIG.format(durability=durability)) as server:
        assert published(server, "log", "2") == ["1", "2"]
        server.stop()
        append(tmp_path, "3")
        (tmp_path / "app.log").rename(tmp_path / "app.log.1")
        append(tmp_path, "4")
        server.start()
        assert published(server, "log", "4") == ["1", "2", "3", "4"]
        server.stop()
        server.start()
        append(tmp_path, "5")
        assert published(server, "log", "5") == ["1", "2", "3", "4", "5"]


def test_without_a_store_nothing_is_remembered(tmp_path: Path) -> None:
    text = CONFIG.format(durability="sync").replace('path = "s.db"', "")
    append(tmp_path, "1")
    with serving(tmp_path, text) as server:
        assert published(server, "log", "1") == ["1"]
        server.stop()
        append(tmp_path, "2")
        server.start()
        assert published(server, "log", "2") == ["1", "2"]


class Writer:
    """Writes numbered lines until it is told to end."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._end = threading.Event()
        self._lock = threading.Lock()
        self.count = 0
        self._thread = threading.Thread(target=self._write)
        self._thread.start()

    def rotate(self) -> None:
        """Go over to a new file."""
        with self._lock:
            (self._folder / "app.log").rename(self._folder / f"app.log-{20_000_000 + self.count}")
            self._append()

    def end(self) -> int:
        """Wait for it; how many lines there are."""
        self._end.set()
        self._thread.join()
        return self.count

    def _write(self) -> None:
        while not self._end.wait(0.04):
            with self._lock:
                self._append()

    def _append(self) -> None:
        append(self._folder, *(str(self.count + n) for n in range(5)))
        self.count += 5


@pytest.mark.parametrize("durability", MODES)
def test_after_a_kill_no_line_is_missing_and_none_is_out_of_order(
    tmp_path: Path, durability: str
) -> None:
    """What was published last may come again: what is remembered is never too new."""
    server = configured(tmp_path, CONFIG.format(durability=durability))
    append(tmp_path, "begin")
    try:
        server.start()
        published(server, "log", "begin")
        # From here on it knows the file: one that is killed before it has ever committed
        # does not, and looks for the name.
        server.stop()
        server.start()
        writer = Writer(tmp_path)
        try:
            for turn in range(KILLS):
                # What is written now is in the file that has the name now.
                published_past(server, writer.count + 10 * turn)
                if turn % 2:
                    writer.rotate()
                    published_past(server, writer.count)
                server.kill()
                if not turn % 2:
                    writer.rotate()
                server.start()
        finally:
            count = writer.end()
        append(tmp_path, "end")
        found = published(server, "log", "end")
        numbers = [int(line) for line in found if line.isdecimal()]
        repeated = 0
        expected = 0
        for number in numbers:
            assert number <= expected, f"{expected} is missing"
            repeated += number < expected
            expected = number + 1
        assert expected == count
        # With the line goes the place before it: of each life the last line at most.
        assert repeated <= KILLS
    finally:
        server.kill()


def published_past(server: Server, number: int) -> None:
    """Return when this line has been published, or a later one."""
    with closing(Reading(server, "channels/log?since=oldest", LINES)) as stream:
        while True:
            line = stream.object().get("data", "")
            if line.isdecimal() and int(line) >= number:
                return


DEAF = """
[sources.deaf]
type = "command"
channel = "deaf"
command = ["sh", "-c", "trap '' TERM; echo $$; sh -c 'echo $$; sleep 1000; :'; :"]
stop_seconds = 3
"""


def test_no_process_outlives_an_orderly_stop(tmp_path: Path) -> None:
    """Also one that does not care for SIGTERM, and takes longer than sources are waited for."""
    server = configured(tmp_path, DEAF)
    try:
        server.start()
        with closing(Reading(server, "channels/deaf?since=oldest", LINES)) as stream:
            lines = [stream.object() for _ in range(3)]
        pids = [int(line["data"]) for line in lines if "data" in line]
        assert len(pids) == 2
        began = time.monotonic()
        assert server.stop() == -signal.SIGTERM
        assert time.monotonic() - began >= 3
        assert not any(map(lives, pids))
        assert server.problems == []
    finally:
        server.kill()


def test_a_program_that_fails_is_started_again(tmp_path: Path) -> None:
    text = """
[sources.fails]
type = "command"
channel = "fails"
command = ["sh", "-c", "echo started; echo no route >&2; exit 3"]
retry_seconds = 0.1
"""
    with serving(tmp_path, text) as server:
        with closing(Reading(server, "channels/fails?since=oldest", LINES)) as stream:
            lines = [stream.object() for _ in range(4)]
        assert [line["data"] for line in lines if "data" in line] == ["started"] * 3
        assert "sh ended with exit code 3: no route" in server.log
        assert "source fails: stderr: no route" in server.log
        assert len(data(history(server, "fails"))) >= 3
