"""The folder of the sockets between the processes of a server."""

from __future__ import annotations

import errno
import os
import re
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pushserver.errors import StartFailed
from pushserver.server.place import Place
from pushserver.server.workers.crew import Crew
from pushserver.server.workers.folder import SocketFolder
from tests.e2e.server import environment


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder with a short path: those of pytest may be too long for sockets."""
    with tempfile.TemporaryDirectory(prefix="ps-") as path:
        yield Path(path)


def made(**variables: str) -> SocketFolder:
    folder = SocketFolder(variables)
    folder.open()
    return folder


def refusal(**variables: str) -> str:
    """The one line with which a start fails."""
    with pytest.raises(StartFailed) as failed:
        made(**variables)
    text = str(failed.value)
    assert "\n" not in text
    return text


def mode(path: str | Path) -> int:
    return stat.S_IMODE(os.stat(path).st_mode)


class TestNew:
    """Without $RUNTIME_DIRECTORY."""

    @pytest.fixture(autouse=True)
    def _temporary(self, short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(tempfile, "gettempdir", lambda: str(short))

    def test_is_private_and_removed_at_the_end(self, short: Path) -> None:
        folder = SocketFolder({})
        assert [*short.iterdir()] == []
        folder.open()
        assert mode(folder.path) == 0o700
        assert os.path.dirname(folder.path) == str(short)
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(Place(folder.path).link)
            folder.close()
        assert [*short.iterdir()] == []
        folder.close()

    def test_is_another_for_each_server(self) -> None:
        first, second = made(), made()
        assert first.path != second.path

    def test_is_in_the_folder_of_the_session_unless_the_user_is_root(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with tempfile.TemporaryDirectory(prefix="ps-") as session:
            for user, base in ((0, None), (4_242, None), (4_241, session)):
                monkeypatch.setattr(os, "geteuid", lambda user=user: user)
                with monkeypatch.context() as patch:
                    patch.setattr(os, "stat", _owned_by(4_241))
                    path = SocketFolder({"XDG_RUNTIME_DIR": session}).path
                assert os.path.dirname(path) == (base or tempfile.gettempdir())

    @pytest.mark.parametrize("folder", ["", "relative", "/nowhere/at/all", "a\0b"])
    def test_is_not_in_a_session_without_a_folder(self, short: Path, folder: str) -> None:
        assert os.path.dirname(SocketFolder({"XDG_RUNTIME_DIR": folder}).path) == str(short)

    @pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EROFS])
    def test_that_cannot_be_made_ends_the_start(
        self, short: Path, monkeypatch: pytest.MonkeyPatch, number: int
    ) -> None:
        monkeypatch.setattr(os, "mkdir", _failing(number))
        text = refusal()
        assert f"the sockets of the workers in {short}/pushserver-" in text
        assert text.endswith(f": {os.strerror(number)}")

    def test_without_temporary_files_ends_the_start(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(tempfile, "gettempdir", _failing(errno.ENOENT))
        assert refusal().endswith("the sockets of the workers: No such file or directory")

    def test_with_a_path_too_long_for_sockets_ends_the_start(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(tempfile, "gettempdir", lambda: "/" + "é" * 50)
        assert re.search(r"pushserver-\w{8}: the path is too long, expected at most 98", refusal())


def _owned_by(user: int) -> object:
    def fake(path: str) -> os.stat_result:
        return os.stat_result((0o40700, 0, 0, 0, user, user, 0, 0, 0, 0))

    return fake


def _failing(number: int) -> object:
    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    return fail


class TestLasting:
    """In $RUNTIME_DIRECTORY."""

    def test_is_private_and_stays(self, short: Path) -> None:
        folder = made(RUNTIME_DIRECTORY=f"{short}:/another")
        assert folder.path == str(short / "workers")
        assert mode(folder.path) == 0o700
        folder.close()
        assert os.path.isdir(folder.path)

    def test_keeps_the_sockets_of_workers_and_removes_that_of_the_main_process(
        self, short: Path
    ) -> None:
        (short / "workers").mkdir(mode=0o755)
        place = Place(str(short / "workers"))
        for path in (place.link, place.http(2)):
            with socket.socket(socket.AF_UNIX) as killed:
                killed.bind(path)
        folder = made(RUNTIME_DIRECTORY=str(short))
        assert (os.path.exists(place.link), os.path.exists(place.http(2))) == (False, True)
        assert mode(folder.path) == 0o700
        folder.close()

    def test_is_of_one_server_at_a_time(self, short: Path) -> None:
        folder = made(RUNTIME_DIRECTORY=str(short))
        text = refusal(RUNTIME_DIRECTORY=str(short))
        assert f"{short}/workers ($RUNTIME_DIRECTORY): another server uses the folder" in text
        folder.close()
        made(RUNTIME_DIRECTORY=str(short)).close()

    def test_is_free_when_its_server_was_killed_although_a_fork_lives(self, short: Path) -> None:
        program = f"""
import os, signal, time
from pushserver.server.workers.folder import SocketFolder
folder = SocketFolder({{"RUNTIME_DIRECTORY": {str(short)!r}}})
folder.open()
child = os.fork()
if not child:
    print(os.getpid(), flush=True)
    os.read(0, 1)
    os._exit(0)
os.wait()
"""
        server = subprocess.Popen(
            [sys.executable, "-c", program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment(),
        )
        assert server.stdin is not None
        assert server.stdout is not None
        try:
            fork = int(server.stdout.readline())
            assert "another server" in refusal(RUNTIME_DIRECTORY=str(short))
            server.kill()
            server.wait()
            os.kill(fork, 0)
            made(RUNTIME_DIRECTORY=str(short)).close()
        finally:
            server.kill()
            server.stdin.close()
            server.stdout.close()
            server.wait()

    def test_of_another_user_ends_the_start(
        self, short: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        user = os.geteuid()
        monkeypatch.setattr(os, "geteuid", lambda: user + 1)
        text = refusal(RUNTIME_DIRECTORY=str(short))
        assert text.endswith(f"the folder belongs to the user {user}, not to the server")

    def test_that_is_a_link_or_a_file_ends_the_start(self, short: Path) -> None:
        path, elsewhere = short / "workers", short / "elsewhere"
        elsewhere.mkdir()
        path.symlink_to(elsewhere)
        text = refusal(RUNTIME_DIRECTORY=str(short))
        assert text.endswith(
            "workers ($RUNTIME_DIRECTORY): it is a symbolic link, expected a folder"
        )
        assert [*elsewhere.iterdir()] == []
        path.unlink()
        path.touch()
        text = refusal(RUNTIME_DIRECTORY=str(short))
        assert text.endswith(
            "workers ($RUNTIME_DIRECTORY): another file has this name, expected a folder"
        )

    def test_that_is_missing_ends_the_start(self, short: Path) -> None:
        text = refusal(RUNTIME_DIRECTORY=str(short / "nothing"))
        assert text.endswith("nothing/workers ($RUNTIME_DIRECTORY): No such file or directory")

    def test_that_is_no_folder_ends_the_start(self) -> None:
        folder = SocketFolder({"RUNTIME_DIRECTORY": "/dev/null"})
        Crew(folder, 2, None)
        with pytest.raises(StartFailed) as failed:
            folder.open()
        text = "in /dev/null/workers ($RUNTIME_DIRECTORY): Not a directory"
        assert str(failed.value).endswith(text)

    @pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES])
    def test_that_cannot_be_written_ends_the_start(
        self, short: Path, monkeypatch: pytest.MonkeyPatch, number: int
    ) -> None:
        monkeypatch.setattr(os, "mkdir", _failing(number))
        text = refusal(RUNTIME_DIRECTORY=str(short))
        assert text.endswith(f"/workers ($RUNTIME_DIRECTORY): {os.strerror(number)}")

    def test_with_a_path_too_long_for_sockets_ends_the_start(self) -> None:
        assert SocketFolder({"RUNTIME_DIRECTORY": "/" + "a" * 89}).path
        text = refusal(RUNTIME_DIRECTORY="/" + "a" * 90)
        assert text.endswith("the path is too long, expected at most 98 bytes")
