"""The store of a server that is stopped, killed, or without disk space."""

from __future__ import annotations

import http.client
import json
import resource
import shutil
import sqlite3
import subprocess
import threading
from contextlib import closing
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed

import pushserver
from pushserver.store.schema import FORMAT
from tests.e2e.exchange import SSE, Reading, ask, configured, data, history, publish, serving
from tests.e2e.patience import PATIENCE
from tests.e2e.server import TWISTD, Server, environment, run_twistd
from tests.e2e.sockets import dial, frame

MODES = ["sync", "batched"]
PUBLISHERS = 4
ROUNDS = 4


def config(durability: str, more: str = "") -> str:
    return f"""
        [store]
        path = "s.db"
        durability = "{durability}"
        [sources]
        [defaults]
        history_size = 9000
        history_bytes = 100000000
        recovery_limit = 9000
        {more}
        """


@pytest.mark.parametrize("durability", MODES)
def test_history_and_keys_survive_a_restart(tmp_path: Path, durability: str) -> None:
    with serving(tmp_path, config(durability)) as server:
        for n in range(5):
            publish(server, "a", {"n": n, "text": "grün"})
        publish(server, "b", None)
        call = {"channel": "a", "data": 5, "tags": {"event": "e", "colour": "red"}}
        ask(server, "POST", "api/publish", json.dumps(call).encode())
        ask(server, "POST", "api/history_remove", b'{"channel":"b"}')
        keyed = [ask(server, "POST", "channels/a", b"6", idempotency_key="k") for _ in range(2)]
        before = [history(server, name) for name in "ab"]
        server.stop()
        server.start()
        assert [history(server, name) for name in "ab"] == before
        keyed.append(ask(server, "POST", "channels/a", b"6", idempotency_key="k"))
        assert {answer.body for answer in keyed} == {keyed[0].body}
        assert publish(server, "b", 1)["offset"] == 2
    assert before[0]["publications"][5]["tags"] == {"colour": "red"}
    assert before[0]["publications"][5]["event"] == "e"
    assert len(before[0]["publications"]) == 7


class Load:
    """Publishers that publish until the server ends, and the positions that they got."""

    def __init__(self, server: Server, first: int):
        self.acknowledged: dict[tuple[str, int], int] = {}
        self._next = first
        self._lock = threading.Condition()
        self._threads = [
            threading.Thread(target=self._publish, args=(server.port,)) for _ in range(PUBLISHERS)
        ]
        for thread in self._threads:
            thread.start()

    def wait_for(self, count: int) -> None:
        """Wait until `count` publications are acknowledged."""
        with self._lock:
            assert self._lock.wait_for(lambda: len(self.acknowledged) >= count, timeout=PATIENCE)

    def end(self) -> int:
        """Wait until all publishers have lost the server; return the next number to publish."""
        for thread in self._threads:
            thread.join()
        return self._next

    def _publish(self, port: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
        try:
            while True:
                with self._lock:
                    number, self._next = self._next, self._next + 1
                connection.request("POST", "/channels/k", str(number))
                response = connection.getresponse()
                position = json.loads(response.read())
                with self._lock:
                    self.acknowledged[position["epoch"], position["offset"]] = number
                    self._lock.notify()
        except (OSError, http.client.HTTPException):
            connection.close()


class Witness:
    """A reader of the live stream, and the publications that it got."""

    def __init__(self, server: Server):
        self.rows: dict[tuple[str, int], int] = {}
        self._client = dial(server, "channels/k")
        self._socket = self._client.__enter__()
        self.subscribed = frame(self._socket)["subscribed"]
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def end(self) -> None:
        """Wait until the server is gone."""
        self._thread.join()
        self._client.__exit__(None, None, None)

    def _read(self) -> None:
        try:
            for text in self._socket:
                row = json.loads(text)
                self.rows[row["id"].partition(":")[0], row["offset"]] = row["data"]
        except ConnectionClosed:
            return


@pytest.mark.parametrize("durability", MODES)
def test_kill_under_load_loses_no_promised_publication(tmp_path: Path, durability: str) -> None:
    server = configured(tmp_path, config(durability))
    delivered: dict[tuple[str, int], int] = {}
    acknowledged: dict[tuple[str, int], int] = {}
    epochs: list[str] = []
    cursor, number = "", 0
    try:
        for turn in range(ROUNDS + 1):
            server.start()
            log = history(server, "k")
            epochs.append(log["epoch"])
            rows = {p["offset"]: p["data"] for p in log["publications"]}
            assert list(rows) == list(range(1, log["offset"] + 1)), "a hole"
            for (epoch, offset), value in (delivered | acknowledged).items():
                if epoch == log["epoch"]:
                    assert rows.get(offset) == value, "a number was used twice, or a row is lost"
            if durability == "sync":
                assert len(set(epochs)) == 1
                assert set(acknowledged.values()) <= set(rows.values()), "lost"
            elif cursor:
                assert log["epoch"] not in epochs[:-1]
                assert history(server, "k", f"since={cursor}")["reason"] == "epoch"
                with closing(Reading(server, "channels/k", SSE, last_event_id=cursor)) as stream:
                    block = stream.block()
                assert block["event"] == "pushserver-reset"
                assert json.loads(block["data"])["reason"] == "epoch"
            if turn == ROUNDS:
                break
            witness, load = Witness(server), Load(server, number)
            # Each time at another moment: a commit takes some milliseconds, with 50 between two.
            load.wait_for(20 + 37 * turn)
            server.kill()
            number = load.end()
            witness.end()
            delivered |= witness.rows
            acknowledged |= load.acknowledged
            cursor = witness.subscribed["id"]
    finally:
        server.kill()
    assert len(acknowledged) >= 20 * ROUNDS
    assert delivered
    assert not [line for line in server.log.splitlines() if "Traceback" in line]


def limit_files(server: Server, size: int) -> None:
    """Limit each file of the server to `size` bytes."""
    hard = resource.prlimit(server.pid, resource.RLIMIT_FSIZE)[1]
    resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (size, hard))


@pytest.mark.parametrize("durability", MODES)
def test_full_disk_refuses_publications_with_the_reason_and_readers_continue(
    tmp_path: Path, durability: str
) -> None:
    server = configured(tmp_path, config(durability))
    text = "x" * 20_000
    accepted: list[tuple[int, str]] = []
    try:
        server.start()
        publish(server, "a", "first")
        with closing(Reading(server, "channels/a?since=oldest", SSE)) as stream:
            assert stream.block()["event"] == "pushserver-subscribed"
            assert json.loads(stream.block()["data"])["data"] == "first"
            limit_files(server, 200_000)
            for n in range(2_000):
                answer = ask(server, "POST", "channels/a", json.dumps(f"{n}{text}").encode())
                if answer.status != 201:
                    break
                accepted.append((json.loads(answer.body)["offset"], f"{n}{text}"))
            assert answer.status == 503
            message = json.loads(answer.body)["error"]["message"]
            assert message.startswith("the store failed: cannot write s.db: ")
            assert answer.headers["Retry-After"]
            assert data(history(server, "a")) == ["first", *(value for _, value in accepted)]
            for _, value in accepted:
                assert json.loads(stream.block()["data"])["data"] == value
            assert ask(server, "GET", "channels/a", accept="text/html").status == 200

            limit_files(server, resource.RLIM_INFINITY)
            # `publish` retries; in `batched` mode the store writes again within a second.
            last = pushserver.publish(server.url, "a", "last", retry_seconds=60.0)
            assert last["offset"] == len(accepted) + 2
            assert json.loads(stream.block()["data"])["data"] == "last"
        epoch = history(server, "a")["epoch"]
        server.stop()
        server.start()
        after = history(server, "a")
        assert data(after) == ["first", *(value for _, value in accepted), "last"]
        assert after["epoch"] == epoch
    finally:
        server.kill()
    lines = [line for line in server.log.splitlines() if "cannot write s.db" in line]
    assert 1 <= len(lines) <= 5, "once, not for each attempt"
    assert "Traceback" not in server.log
    assert "Unhandled" not in server.log


@pytest.fixture
def _store(tmp_path: Path) -> None:
    with serving(tmp_path, config("sync")) as server:
        publish(server, "a", 1)


def change(folder: Path, statement: str) -> None:
    with closing(sqlite3.connect(folder / "s.db")) as database, database:
        database.execute(statement)


class TestFailedStart:
    """Ends with a status and one line in the log; the file stays unchanged."""

    def check_start(self, folder: Path, *words: str) -> None:
        path = folder / "s.db"
        before = path.read_bytes() if path.is_file() else b""
        arguments = ["--nodaemon", "--pidfile=", "pushserver", "--config", "pushserver.toml"]
        ended = run_twistd(folder, *arguments, "--listen", "tcp:0:interface=127.0.0.1")
        self.check(ended, *words)
        assert (path.read_bytes() if path.is_file() else b"") == before

    @staticmethod
    def check(ended: subprocess.CompletedProcess[str], *words: str) -> None:
        assert ended.returncode == 1, ended.stdout
        [problem] = [line for line in ended.stdout.splitlines() if "] pushserver: " in line]
        for word in words:
            assert word in problem, ended.stdout
        assert "Traceback" not in ended.stdout
        assert "Unhandled" not in ended.stdout

    @pytest.mark.usefixtures("_store")
    def test_file_is_used_by_another_server(self, tmp_path: Path) -> None:
        with serving(tmp_path, config("sync")) as server:
            self.check_start(tmp_path, "s.db", "locked")
            assert publish(server, "a", 2)["offset"] == 2

    def test_file_is_no_database(self, tmp_path: Path) -> None:
        configured(tmp_path, config("sync"))
        (tmp_path / "s.db").write_bytes(b"Dear aunt, " * 1_000)
        self.check_start(tmp_path, "s.db", "not a database")

    @pytest.mark.usefixtures("_store")
    def test_file_is_damaged(self, tmp_path: Path) -> None:
        path = tmp_path / "s.db"
        content = path.read_bytes()
        path.write_bytes(content[:4096] + b"\xa5" * (len(content) - 4096))
        self.check_start(tmp_path, "s.db")

    @pytest.mark.usefixtures("_store")
    def test_file_has_a_newer_format(self, tmp_path: Path) -> None:
        change(tmp_path, f"UPDATE meta SET value = {FORMAT + 1} WHERE name = 'format'")
        self.check_start(tmp_path, "s.db", f"format {FORMAT + 1}", f"reads {FORMAT}")

    def test_file_belongs_to_another_program(self, tmp_path: Path) -> None:
        configured(tmp_path, config("sync"))
        change(tmp_path, "CREATE TABLE cats (name)")
        self.check_start(tmp_path, "s.db", "a database of another program")

    @pytest.mark.parametrize("path", ["missing/s.db", "/proc/s.db", "."])
    def test_file_cannot_be_created(self, tmp_path: Path, path: str) -> None:
        configured(tmp_path, f'[store]\npath = "{path}"')
        self.check_start(tmp_path, f"cannot open {path}")

    def test_disk_is_full(self, tmp_path: Path) -> None:
        configured(tmp_path, config("sync"))
        arguments = ["--nodaemon", "--pidfile=", "pushserver", "--config", "pushserver.toml"]
        arguments += ["--listen", "tcp:0:interface=127.0.0.1"]
        ended = subprocess.run(
            # The output goes to a pipe, whose size is not limited.
            [str(shutil.which("prlimit")), "--fsize=8192", *TWISTD, *arguments],
            cwd=tmp_path,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        self.check(ended, "s.db")


def test_readers_resume_after_a_restart_with_an_empty_channel(tmp_path: Path) -> None:
    """The numbers of a channel outlive its rows."""
    with serving(tmp_path, config("sync", "history_ttl = 0.001")) as server:
        cursor = publish(server, "a", 1)["id"]
        server.stop()
        server.start()
        assert publish(server, "a", 2)["offset"] == 2
        assert data(history(server, "a", f"since={cursor}")) == [2]
