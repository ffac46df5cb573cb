"""Unix sockets to listen on: their mode, their group, and the files that others left."""

from __future__ import annotations

import grp
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from twisted.internet import reactor as installed
from twisted.internet.protocol import Factory

from pushserver.errors import StartFailed
from pushserver.server.listener import Listener
from pushserver.server.unix_socket import UnixEndpoint

OWN = os.getegid()


@contextmanager
def listening(text: str) -> Iterator[Listener]:
    listener = Listener(UnixEndpoint(installed, text), text, Factory())
    listener.startService()
    try:
        yield listener
    finally:
        port: Any = listener._port
        port.stopReading()
        port.connectionLost(None)


def connects(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as peer:
        return peer.connect_ex(str(path)) == 0


@pytest.mark.parametrize(
    ("end", "mode"),
    [
        ("", 0o600),
        (":mode=660", 0o660),
        (":666", 0o666),
        (":mode=0666", 0o666),
        (f":group={OWN}", 0o660),
        (f":group={grp.getgrgid(OWN).gr_name}:mode=620", 0o620),
        (":mode=640:backlog=9:lockfile=0", 0o640),
    ],
)
def test_file_has_the_mode_and_the_group_and_is_removed(
    tmp_path: Path, end: str, mode: int
) -> None:
    path = tmp_path / "s"
    with listening(f"unix:{path}{end}"):
        status = path.stat()
        assert (stat.S_IMODE(status.st_mode), status.st_gid) == (mode, OWN)
        assert connects(path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("form", [r"unix:{}/a\:b\=c", r"unix:address={}/a\:b\=c:mode=600"])
def test_path_may_have_the_signs_of_parameters(tmp_path: Path, form: str) -> None:
    with listening(form.format(tmp_path)):
        assert connects(tmp_path / "a:b=c")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("unix:", "a path of 0 bytes, expected 1 to 107"),
        ("unix:/" + 107 * "a", "a path of 108 bytes"),
        ("unix:/a:mode=999", "mode '999', expected permissions in octal, such as 660"),
        ("unix:/a:mode=7777", "mode '7777'"),
        ("unix:/a:mode=rw", "mode 'rw'"),
        ("unix:/a:group=no-such-group", "group 'no-such-group', expected a group of this machine"),
        ("unix:/a:group=", "group ''"),
        ("unix:/a:mod=660", "'mod=660', expected unix:PATH, and perhaps mode= and group="),
        ("unix:/a:mode=660:mode=600", "'mode=600', expected"),
        ("unix:/a:660:50:1:www:more", "'more', expected"),
    ],
)
def test_other_text_is_refused_with_its_value(text: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        UnixEndpoint(installed, text)


def test_file_of_a_killed_server_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as killed:
        killed.bind(str(path))
        killed.listen()
    # The lock of an earlier version, with a process that lives: this one.
    (tmp_path / "s.lock").symlink_to(str(os.getpid()))
    assert not connects(path)
    with listening(f"unix:{path}"):
        assert connects(path)


@pytest.mark.parametrize("backlog", [0, 5])
def test_socket_in_use_is_refused_and_stays(tmp_path: Path, backlog: int) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as other, socket.socket(socket.AF_UNIX) as waiting:
        other.bind(str(path))
        other.listen(backlog)
        # With backlog 0, no other connection has room.
        waiting.connect(str(path))
        with (
            pytest.raises(StartFailed, match=r"s: another program listens there"),
            listening(f"unix:{path}"),
        ):
            pass
        assert path.is_socket()


def test_other_files_and_missing_folders_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "notes"
    file.write_text("kept")
    for path, problem in (
        (file, "another file has this name, which is no socket"),
        (tmp_path, "another file has this name"),
        (tmp_path / "none" / "s", "none is no folder"),
    ):
        with pytest.raises(StartFailed, match=problem), listening(f"unix:{path}"):
            pass
    assert file.read_text() == "kept"


def test_stop_leaves_the_file_of_a_successor_and_needs_none(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with listening(f"unix:{path}"):
        path.unlink()
    with listening(f"unix:{path}"):
        path.unlink()
        path.write_text("another's")
    assert path.read_text() == "another's"


def test_group_of_others_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "chown", refuse)
    endpoint = UnixEndpoint(installed, f"unix:{tmp_path}/s:group={OWN}")
    failed: list[Any] = []
    endpoint.listen(Factory()).addErrback(failed.append)
    assert "it is no member of it" in failed[0].getErrorMessage()
    assert list(tmp_path.iterdir()) == []
