"""Memory and processes of sources, in a server that is stopped and killed."""

from __future__ import annotations

import signal
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conditions import wait_until
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
    """Return all publications up to `last`."""
    lines: list[Any] = []
    with closing(Reading(server, f"channels/{channel}?since=oldest", LINES)) as stream:
        while lines[-1:] != [last]:
            value = stream.object()
            lines += [value["data"]] if "data" in value else []
    return lines


@pytest.mark.parametrize("durability", MODES)
def test_each_line_is_published_once_after_a_stop(tmp_path: Path, durability: str) -> None:
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


def test_nothing_is_remembered_without_a_store(tmp_path: Path) -> None:
    text = CONFIG.format(durability="sync").replace('path = "s.db"', "")
    append(tmp_path, "1")
    with serving(tmp_path, text) as server:
        assert published(server, "log", "1") == ["1"]
        server.stop()
        append(tmp_path, "2")
        server.start()
        assert published(server, "log", "2") == ["1", "2"]


class Writer:
    """Writes numbered lines until `end`."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._end = threading.Event()
        self._lock = threading.Lock()
        self.count = 0
        self._thread = threading.Thread(target=self._write)
        self._thread.start()

    def rotate(self) -> None:
        """Rename the file, and continue in a new one."""
        with self._lock:
            (self._folder / "app.log").rename(self._folder / f"app.log-{20_000_000 + self.count}")
            self._append()

    def end(self) -> int:
        """Stop writing; return the number of lines."""
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
def test_no_line_is_missing_or_out_of_order_after_a_kill(tmp_path: Path, durability: str) -> None:
    """The last lines may be repeated: the remembered position is never ahead."""
    server = configured(tmp_path, CONFIG.format(durability=durability))
    append(tmp_path, "begin")
    try:
        server.start()
        published(server, "log", "begin")
        # The stop commits the first position. Without one, a killed server would not know the
        # file, and look for its name only.
        server.stop()
        server.start()
        writer = Writer(tmp_path)
        try:
            for turn in range(KILLS):
                # The lines written now are in the current file.
                wait_until_published(server, writer.count + 10 * turn)
                if turn % 2:
                    writer.rotate()
                    wait_until_published(server, writer.count)
                server.kill()
                if not turn % 2:
                    writer.rotate()
                server.start()
        finally:
            count = writer.end()
        append(tmp_path, "end")
        lines = published(server, "log", "end")
        numbers = [int(line) for line in lines if line.isdecimal()]
        repeated = 0
        expected = 0
        for number in numbers:
            assert number <= expected, f"{expected} is missing"
            repeated += number < expected
            expected = number + 1
        assert expected == count
        # A line is committed with the position before it, so each kill repeats one at most.
        assert repeated <= KILLS
    finally:
        server.kill()


def wait_until_published(server: Server, number: int) -> None:
    """Return when line `number` or a later one has been published."""
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


def test_no_process_outlives_a_stop(tmp_path: Path) -> None:
    """Also one that ignores SIGTERM, and has more stop_seconds than other sources."""
    server = configured(tmp_path, DEAF)
    try:
        server.start()
        with closing(Reading(server, "channels/deaf?since=oldest", LINES)) as stream:
            lines = [stream.object() for _ in range(3)]
        pids = [int(line["data"]) for line in lines if "data" in line]
        assert len(pids) == 2
        started_at = time.monotonic()
        assert server.stop() == -signal.SIGTERM
        assert time.monotonic() - started_at >= 3
        # They were killed, and end as soon as the system runs them once more.
        wait_until(lambda: not any(map(lives, pids)))
        assert server.problems == []
    finally:
        server.kill()


def test_failing_program_is_restarted(tmp_path: Path) -> None:
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
