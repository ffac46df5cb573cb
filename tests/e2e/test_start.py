"""Starts and stops of twistd."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from contextlib import closing
from pathlib import Path

import pytest

import pushserver
from tests.e2e.exchange import serving
from tests.e2e.lines import Lines
from tests.e2e.patience import PATIENCE
from tests.e2e.server import PROBLEM, Server, free_port, get, run_twistd
from tests.e2e.sockets import closed_with, dial_centrifuge, dial_channel
from tests.e2e.supervisor import wait_for_end

NO_DRAIN = "[limits]\ndrain_seconds = 600\n"
"""The stop of such a server never ends by its time limit within that of a test."""
CURL = ("curl", "-sSN", "-H", "Accept: text/event-stream")


def own_lines(log: str) -> list[str]:
    return [line for line in log.splitlines() if f"pushserver {pushserver.__version__}" in line]


def test_the_log_has_the_url_once(fresh_server: Server) -> None:
    urls = [line for line in fresh_server.log.splitlines() if fresh_server.url in line]
    assert len(urls) == 1
    assert urls == own_lines(fresh_server.log)


def test_publications_and_visitors_are_not_logged(fresh_server: Server) -> None:
    before = fresh_server.log
    with dial_channel(fresh_server) as (client, _):
        client.recv(timeout=PATIENCE)
        client.recv(timeout=PATIENCE)
    assert fresh_server.get("channels/numbers").status == 200
    assert fresh_server.log == before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_ends_every_connection_properly(tmp_path: Path, number: signal.Signals) -> None:
    with (
        serving(tmp_path, NO_DRAIN) as server,
        closing(Lines([*CURL, f"{server.url}channels/numbers"])) as stream,
        dial_channel(server) as (raw, _),
        dial_centrifuge(server) as centrifuge,
    ):
        stream.next()
        assert server.stop(number) == -number
        assert closed_with(raw).code == 1001
        close = closed_with(centrifuge)
        assert close.code == 3001
        assert close.reason
        stream.to_the_end()
        assert stream.wait() == 0, "the stream did not end, it was cut"


def test_a_stop_does_not_wait_for_a_peer_that_does_not_answer(tmp_path: Path) -> None:
    with (
        serving(tmp_path, "[limits]\ndrain_seconds = 0.5\n") as server,
        socket.create_connection(("127.0.0.1", server.port)) as mute,
    ):
        mute.sendall(
            b"GET /channels/numbers HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\n"
            b"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        assert mute.recv(12) == b"HTTP/1.1 101"
        server.stop()


def test_a_stopped_server_starts_again_on_the_same_port(fresh_server: Server) -> None:
    with dial_channel(fresh_server) as _:
        fresh_server.stop()
    fresh_server.start()
    assert fresh_server.get("").status == 200


class TestAFailedStart:
    """The start ends with a status and one line."""

    def test_on_a_busy_port(self, tmp_path: Path) -> None:
        port = free_port()
        with socket.create_server(("127.0.0.1", port)):
            self.ends_saying(tmp_path, "in use", "--listen", f"tcp:{port}:interface=127.0.0.1")

    def test_with_an_unknown_option(self, tmp_path: Path) -> None:
        self.ends_saying(tmp_path, "bogus", "--bogus")

    def test_with_an_unknown_kind_of_endpoint(self, tmp_path: Path) -> None:
        self.ends_saying(tmp_path, "nonsense", "--listen", "nonsense:1")

    def test_with_an_incomplete_endpoint(self, tmp_path: Path) -> None:
        self.ends_saying(tmp_path, "tcp:", "--listen", "tcp:")

    def test_with_a_port_that_is_not_a_number(self, tmp_path: Path) -> None:
        self.ends_saying(tmp_path, "http-alt", "--listen", "tcp:http-alt")

    def test_without_the_socket_of_systemd(self, tmp_path: Path) -> None:
        endpoint = "systemd:domain=INET:name=http"
        self.ends_saying(tmp_path, endpoint, "--listen", endpoint)

    @staticmethod
    def ends_saying(folder: Path, word: str, *arguments: str) -> None:
        ended = run_twistd(folder, "--nodaemon", "--pidfile=", "pushserver", *arguments)
        assert ended.returncode > 0
        saying = [line for line in ended.stdout.splitlines() if word in line]
        assert len(saying) == 1, ended.stdout
        assert "Traceback" not in ended.stdout
        assert "Unhandled" not in ended.stdout


def test_a_daemon_of_twistd_is_stopped_through_its_pidfile(tmp_path: Path) -> None:
    port = free_port()
    listen = f"tcp:{port}:interface=127.0.0.1"
    arguments = ["--pidfile=x.pid", "--logfile=y.log", "pushserver", "--listen", listen]
    assert run_twistd(tmp_path, *arguments).returncode == 0
    pid = int((tmp_path / "x.pid").read_text())
    try:
        assert get(port, "").status == 200
    finally:
        os.kill(pid, signal.SIGTERM)
        wait_for_end(pid)
    log = (tmp_path / "y.log").read_text()
    assert len(own_lines(log)) == 1
    assert not PROBLEM.search(log)
    assert not (tmp_path / "x.pid").exists()


def test_a_peer_that_vanishes_during_a_write_is_not_logged(
    fresh_server: Server,
) -> None:
    """`curl | head -1`: the peer closes while the server writes to it."""
    command = f"curl -sSN {fresh_server.url}channels/numbers -H 'Accept: text/event-stream'"
    subprocess.run(
        ["bash", "-c", f"{command} 2>/dev/null | head -n 1"], check=True, timeout=PATIENCE
    )
    assert fresh_server.get("channels/numbers").status == 200
