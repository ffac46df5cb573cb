from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from pushserver.server.port_owner import free_port, left_worker, owner
from pushserver.server.workers.process import MODULE


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    """A /proc in which process 7 listens on port 8080, and 8 is connected from 8081."""
    (tmp_path / "net").mkdir()
    head = "sl local_address rem_address st queues tm->when retrnsmt uid timeout inode\n"
    row = "   0: 0100007F:{:04X} 00000000:0000 {} 0:0 00:00000000 00000000 0 0 {}\n"
    table = head + row.format(8080, "0A", 111) + row.format(8081, "01", 222)
    (tmp_path / "net" / "tcp").write_text(table)
    for number, inode in ((7, 111), (8, 222)):
        (tmp_path / f"{number}" / "fd").mkdir(parents=True)
        (tmp_path / f"{number}" / "fd" / "3").symlink_to(f"socket:[{inode}]")
        (tmp_path / f"{number}" / "comm").write_text("server\n")
        (tmp_path / f"{number}" / "cmdline").write_bytes(b"")
    return tmp_path


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["/usr/bin/nginx"], "nginx"),
        (["python3", "/srv/app.py", "--token=secret"], "python3 app.py"),
        (["python3", "-m", "http.server", "8080"], "python3 -m http.server"),
        (["node", "--inspect"], "node"),
        (["\x1b[31mred"], "\\x1b[31mred"),
        ([""], "server"),
    ],
)
def test_owner_is_the_program_without_its_arguments(
    proc: Path, words: list[str], name: str
) -> None:
    (proc / "7" / "cmdline").write_bytes("\0".join([*words, ""]).encode())
    assert owner(8080, proc) == f"{name} (process 7)"


def test_worker_is_left_if_no_main_process_has_its_port(proc: Path) -> None:
    assert left_worker(8080, proc) is None
    words = ["python3", "-P", "-m", MODULE, "1", ""]
    (proc / "7" / "cmdline").write_bytes("\0".join(words).encode())
    assert left_worker(8080, proc) == 7
    (proc / "8" / "fd" / "4").symlink_to("socket:[111]")
    assert left_worker(8080, proc) is None
    assert left_worker(8081, proc) is None


def test_owner_of_a_port_without_listener_is_unknown(proc: Path) -> None:
    assert owner(8081, proc) == ""
    assert owner(8082, proc) == ""


def test_owner_is_unknown_without_proc_and_for_foreign_processes(proc: Path) -> None:
    (proc / "7" / "fd" / "3").unlink()
    assert owner(8080, proc) == ""
    (proc / "7" / "fd").rmdir()
    assert owner(8080, proc) == ""
    assert owner(8080, proc / "nothing") == ""


@pytest.mark.parametrize(
    ("family", "host"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")]
)
def test_owner_of_a_real_port_is_this_process(family: int, host: str) -> None:
    with socket.create_server((host, 0), family=family) as listening:
        port = listening.getsockname()[1]
        assert owner(port).endswith(f"(process {os.getpid()})")
        free = free_port(port - 1, host)
        assert free != port


def test_no_port_is_free_above_the_last_one() -> None:
    assert free_port(65_535, "127.0.0.1") is None
