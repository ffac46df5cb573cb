"""A running server reads its configuration again, and its connections notice nothing."""

from __future__ import annotations

import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from signal import Signals

import pytest

from tests.e2e.certificate import certificate
from tests.e2e.conditions import wait_until
from tests.e2e.patience import PATIENCE
from tests.e2e.server import Server, environment, free_port
from tests.e2e.supervisor import Supervisor

CONFIG = """
[auth.keys.admin]
key = "the key of the administrator"
may = ["admin", "publish"]
[sources]
"""


class Reloading:
    """A server with a file and a certificate, and its supervisor."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.file = folder / "push.toml"
        self.file.write_text(CONFIG)
        self.renew()
        self.tls = free_port()
        listen = (
            f"ssl:{self.tls}:interface=127.0.0.1:privateKey={folder}/key.pem"
            f":certKey={folder}/certificate.pem"
        )
        self.supervisor = Supervisor()
        self.server = Server(folder, "--config", "push.toml", "--listen", listen)
        self.server.start(self.supervisor)

    def renew(self) -> bytes:
        """Write another certificate with its key; returns it in DER."""
        certificate(self.folder)
        return ssl.PEM_cert_to_DER_cert((self.folder / "certificate.pem").read_text())

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run `pushserver` with the key of the administrator."""
        given = environment(
            PUSHSERVER_URL=self.server.url, PUSHSERVER_KEY="the key of the administrator"
        )
        return subprocess.run(
            [sys.executable, "-P", "-m", "pushserver", *arguments],
            env=given,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def hang_up(self) -> None:
        """Send SIGHUP, and wait until the reload has ended."""
        # Also those of earlier reloads that nobody waited for.
        self.supervisor.listen()
        self.supervisor.heard.clear()
        self.server.send(Signals.SIGHUP)
        self.supervisor.wait_for("READY=1", self.server.pid)

    def connect(self) -> ssl.SSLSocket:
        """A connection with TLS."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        plain = socket.create_connection(("127.0.0.1", self.tls), timeout=PATIENCE)
        return context.wrap_socket(plain)

    def shown(self) -> bytes:
        """The certificate of a new connection, in DER."""
        with self.connect() as connection:
            return connection.getpeercert(binary_form=True) or b""


@pytest.fixture(scope="module")
def reloading(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reloading]:
    made = Reloading(tmp_path_factory.mktemp("reload"))
    try:
        yield made
        if made.server.running:
            assert made.server.stop() == -Signals.SIGTERM
    finally:
        made.server.kill()


def test_new_connections_get_a_new_certificate_and_open_ones_stay(reloading: Reloading) -> None:
    with closing(reloading.connect()) as before:
        old = before.getpeercert(binary_form=True)
        new = reloading.renew()
        assert reloading.shown() == old != new
        reloading.hang_up()
        assert reloading.shown() == new
        before.sendall(b"GET /channels/a HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert before.recv(100).startswith(b"HTTP/1.1 200 OK")
    heard = [line for line in reloading.supervisor.heard if not line.startswith("STATUS=")]
    assert heard[0] == "RELOADING=1"
    assert "changed the certificates" in reloading.server.log


def test_a_certificate_without_its_key_is_refused_and_the_old_one_stays(
    reloading: Reloading,
) -> None:
    old, key = reloading.shown(), reloading.folder / "key.pem"
    good = key.read_bytes()
    other = reloading.folder / "other"
    other.mkdir()
    key.write_bytes(certificate(other)[0].read_bytes())
    result = reloading.command("reload")
    assert (result.returncode, result.stdout) == (1, "")
    assert "the new configuration is refused, and the old one stays: cannot read" in result.stderr
    # The message has at most some hundred bytes, and the path may be long.
    assert "Certificate public and private keys" in reloading.server.log
    assert reloading.shown() == old
    key.write_bytes(good)


def test_a_stream_goes_on_over_reloads(reloading: Reloading) -> None:
    with closing(reloading.connect()) as stream:
        stream.sendall(
            b"GET /channels/news HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n"
        )
        received = b""
        reloading.file.write_text(CONFIG + "[limits]\nchannels = 5\nhandler_threads = 2")
        result = reloading.command("reload")
        assert result.stdout.splitlines() == [
            "changed: limits.channels",
            "needs a restart: limits.handler_threads",
        ]
        reloading.file.write_text(CONFIG + "[limits]\nchannel = 5")
        assert "limits.channel: unknown key" in reloading.command("reload").stderr
        reloading.file.write_text(CONFIG)
        reloading.hang_up()
        assert reloading.command("publish", "news", '"the last"').returncode == 0
        while b"the last" not in received:
            more = stream.recv(65_536)
            assert more, received
            received += more
        assert received.startswith(b"HTTP/1.1 200 OK")


def test_a_flood_of_hangups_and_one_before_the_stop_do_no_harm(reloading: Reloading) -> None:
    before = reloading.server.log.count("the configuration was read again")
    for _ in range(100):
        reloading.server.send(Signals.SIGHUP)
    wait_until(lambda: reloading.server.log.count("the configuration was read again") > before)
    assert reloading.server.get("channels/a", "application/json").status == 200
    for number in (Signals.SIGHUP, Signals.SIGTERM, Signals.SIGHUP):
        reloading.server.send(number)
    assert reloading.server.wait() == -Signals.SIGTERM
    assert [line for line in reloading.server.problems if "is refused" not in line] == []
