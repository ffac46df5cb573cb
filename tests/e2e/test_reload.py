"""`--reload`: a changed file restarts the server, and its clients recover."""

from __future__ import annotations

import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.e2e.conditions import wait_until
from tests.e2e.exchange import publish
from tests.e2e.patience import PATIENCE
from tests.e2e.server import TWISTD, Server, environment, free_port
from tests.e2e.supervisor import Supervisor
from tests.e2e.watcher import Commanded

APP = """
import threading
from pushserver import PushServer

app = PushServer()
# Not a daemon: Python waits for it at the end.
threading.Thread(target=threading.Event().wait).start()


@app.on("connect")
def connect(client):
    client.join("lobby")


@app.on("version")
def version():
    return 1
"""


class Developed:
    """A server whose application the test edits; temporary files are in `tmp`."""

    def __init__(self, folder: Path):
        self.file = folder / "chat.py"
        self.file.write_text(APP)
        self.temporary = folder / "tmp"
        self.temporary.mkdir()
        env = environment(TMPDIR=str(self.temporary))
        self.server = Server(folder, "--app", "chat:app", "--reload", env=env)
        self._supervisor = Supervisor()
        self.server.start(self._supervisor)

    def write(self, old: str, new: str) -> None:
        """Change the application."""
        text = APP.replace(old, new)
        assert text != APP
        self.file.write_text(text)

    def wait_for_start(self) -> None:
        """Wait until the same process is ready again."""
        self._supervisor.heard.clear()
        self._supervisor.wait_for("READY=1", self.server.pid)

    def stop(self) -> None:
        assert self.server.stop() == -signal.SIGTERM
        assert list(self.temporary.iterdir()) == []


@pytest.fixture
def developed(tmp_path: Path) -> Iterator[Developed]:
    developed = Developed(tmp_path)
    yield developed
    developed.server.kill()


def test_a_connected_client_recovers_without_a_gap(developed: Developed) -> None:
    server = developed.server
    pid = server.pid
    with closing(Commanded(server)) as client:
        client.next("subscribed")
        client.do("subscribe", "news")
        client.next("own subscribed")
        for channel in ("lobby", "news"):
            publish(server, channel, 1)
        client.next("publication")
        client.next("own publication")
        assert client.ask("rpc", "version", None)["data"] == 1
        developed.write("return 1", "return 2")
        developed.wait_for_start()
        for channel in ("lobby", "news"):
            publish(server, channel, 2)
        for name in ("subscribed", "own subscribed"):
            again = client.next(name)
            assert (again["wasRecovering"], again["recovered"]) == (True, True)
        assert client.ask("rpc", "version", None)["data"] == 2
        publish(server, "lobby", 3)
        assert client.next("publication")["offset"] == 3
        assert server.pid == pid
        developed.stop()
    assert server.problems == []


def test_a_broken_file_may_be_mended(developed: Developed) -> None:
    server = developed.server
    with closing(Commanded(server)) as client:
        client.next("subscribed")
        publish(server, "lobby", 1)
        client.next("publication")
        developed.write("def version", "def version(")
        wait_until(lambda: "waiting for a file to change" in server.log)
        assert 'chat.py", line 16' in server.log
        assert "SyntaxError" in server.log
        with pytest.raises(ConnectionRefusedError):
            server.get("")
        developed.write("return 1", "return 3")
        developed.wait_for_start()
        publish(server, "lobby", 2)
        again = client.next("subscribed")
        assert again["recovered"] is True
        assert client.next("publication")["data"] == 2
        assert client.ask("rpc", "version", None)["data"] == 3
        developed.write("app = ", "ap = ")
        wait_until(lambda: server.log.count("waiting for a file to change") == 2)
        developed.stop()


def test_a_start_that_fails_otherwise_leaves_no_files(tmp_path: Path) -> None:
    (tmp_path / "chat.py").write_text("from pushserver import PushServer\napp = PushServer()\n")
    (tmp_path / "tmp").mkdir()
    port = free_port()
    with socket.create_server(("127.0.0.1", port)):
        ended = subprocess.run(
            [
                *TWISTD,
                *("-n", "--pidfile=", "pushserver", "--app", "chat:app", "--reload"),
                *("--listen", f"tcp:{port}:interface=127.0.0.1"),
            ],
            cwd=tmp_path,
            env=environment(TMPDIR=str(tmp_path / "tmp")),
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
    assert ended.returncode == 1
    assert "in use" in ended.stdout + ended.stderr
    assert list((tmp_path / "tmp").iterdir()) == []
