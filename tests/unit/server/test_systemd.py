from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from pushserver.server.systemd import notify
from tests.unit.fakes.web import Trouble


def receive(address: str, socket_name: str) -> bytes:
    """The datagram that arrives at a socket with this address."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(address)
        receiver.settimeout(5)
        notify("READY=1", {"NOTIFY_SOCKET": socket_name})
        data: bytes = receiver.recv(1_000)
        return data


def test_state_is_one_datagram(tmp_path: Path) -> None:
    address = str(tmp_path / "notify")
    assert receive(address, address) == b"READY=1"


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="abstract sockets are Linux's")
def test_at_sign_means_the_abstract_namespace() -> None:
    name = f"pushserver-test-{os.getpid()}"
    assert receive(f"\0{name}", f"@{name}") == b"READY=1"


@pytest.mark.parametrize("environment", [{}, {"NOTIFY_SOCKET": ""}, {"OTHER": "x"}])
def test_nothing_is_sent_without_a_socket(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "socket", None)
    assert notify("READY=1", environment)


@pytest.mark.parametrize("abstract", [False, True])
def test_full_socket_neither_blocks_nor_raises(tmp_path: Path, abstract: bool) -> None:
    address = f"\0pushserver-full-{os.getpid()}" if abstract else str(tmp_path / "notify")
    environment = {"NOTIFY_SOCKET": address.replace("\0", "@")}
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(address)
        sent = 0
        # A queue has some ten to some thousand datagrams.
        while sent < 100_000 and notify(f"STATUS={sent}", environment):
            sent += 1
        assert 0 < sent < 100_000
        assert not notify("READY=1", environment)
        assert receiver.recv(1_000) == b"STATUS=0"
        assert notify("READY=1", environment)


@pytest.mark.parametrize("name", ["nothing-here", "x" * 200, "a folder"])
def test_error_of_the_socket_is_logged(name: str, tmp_path: Path, trouble: Trouble) -> None:
    (tmp_path / "a folder").mkdir()
    assert notify("READY=1", {"NOTIFY_SOCKET": str(tmp_path / name)})
    (text,) = trouble.take()
    assert text.startswith("NOTIFY_SOCKET ")
    assert name in text
