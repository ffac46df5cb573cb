"""The units of systemd, socket activation and notifications."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

from pushserver.server.units import Installation, service, socket_unit
from tests.e2e.blocks import block_with
from tests.e2e.conditions import wait_until
from tests.e2e.patience import PATIENCE
from tests.e2e.server import CHECKOUT, PROBLEM, TWISTD, Server, environment, free_port, get
from tests.e2e.sockets import closed_with, dial_channel
from tests.e2e.supervisor import Supervisor, wait_for_end

pytestmark = pytest.mark.slow

UNITS = CHECKOUT / "systemd"
SERVICE, SOCKET = "pushserver.service", "pushserver.socket"
SANDBOX = (sys.executable, str(CHECKOUT / "tests" / "e2e" / "sandbox.py"), str(UNITS / SERVICE))
"""Starts a command within the bounds of the unit on system calls."""
EXPOSURE_BY_SOCKET = 2
"""The exposure by `systemd-analyze security`, in tenths: 0 is best, 100 worst."""
EXPOSURE_LISTENING = 11

DROP_INS = [
    (SOCKET, block_with("docs/systemd.md", "ListenStream=0.0.0.0:80")),
    (SOCKET, block_with("docs/systemd.md", "SocketMode=")),
    (SERVICE, block_with("docs/systemd.md", "LoadCredential=key.pem:")),
    (SERVICE, block_with("docs/systemd.md", "LoadCredential=config:")),
    (SERVICE, block_with("docs/systemd.md", "IPAddressDeny=any")),
    (SERVICE, block_with("docs/scaling.md", "PrivateNetwork=no")),
]
"""The changes of the units in the documents."""


@pytest.fixture
def units(tmp_path: Path) -> Path:
    """A folder with the units, which start a program that exists."""
    for name in (SERVICE, SOCKET):
        copy(UNITS / name, tmp_path / name)
    return tmp_path


@pytest.fixture
def listening_units(units: Path) -> Path:
    """The same without the socket unit, as the documents describe it."""
    (units / SOCKET).unlink()
    folder = units / f"{SERVICE}.d"
    folder.mkdir()
    copy(UNITS / "listen.conf", folder / "listen.conf")
    return units


@pytest.fixture
def units_with_workers(units: Path) -> Path:
    folder = units / f"{SERVICE}.d"
    folder.mkdir()
    copy(UNITS / "workers.conf", folder / "workers.conf")
    return units


def copy(unit: Path, to: Path) -> None:
    to.write_text(in_test(unit.read_text("utf-8")), "utf-8")


def in_test(unit: str) -> str:
    return unit.replace("/opt/pushserver/bin/twistd", "/bin/true")


def analyze(units: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["systemd-analyze", *arguments],
        cwd=units,
        # A manager of a user has no other folder for its socket.
        env=environment(XDG_RUNTIME_DIR=str(units)),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


class TestTheUnits:
    def test_are_verified_without_a_message(self, units: Path) -> None:
        ended = analyze(units, "verify", f"./{SERVICE}", f"./{SOCKET}")
        assert (ended.returncode, ended.stdout) == (0, "")

    def test_are_verified_without_the_socket_unit(self, listening_units: Path) -> None:
        ended = analyze(listening_units, "verify", f"./{SERVICE}")
        assert (ended.returncode, ended.stdout) == (0, "")

    def test_are_verified_with_the_changes_of_the_documents(self, units: Path) -> None:
        for unit, block in DROP_INS:
            folder = units / f"{unit}.d"
            folder.mkdir(exist_ok=True)
            (folder / f"{block.number}.conf").write_text(in_test(block.text))
        ended = analyze(units, "verify", f"./{SERVICE}", f"./{SOCKET}")
        assert (ended.returncode, ended.stdout) == (0, "")

    def test_expose_almost_nothing(self, units: Path) -> None:
        self.check_exposure(units, EXPOSURE_BY_SOCKET)

    def test_expose_little_if_the_server_listens_itself(self, listening_units: Path) -> None:
        self.check_exposure(listening_units, EXPOSURE_LISTENING)

    def test_are_verified_and_expose_no_more_with_workers(self, units_with_workers: Path) -> None:
        ended = analyze(units_with_workers, "verify", f"./{SERVICE}", f"./{SOCKET}")
        assert (ended.returncode, ended.stdout) == (0, "")
        self.check_exposure(units_with_workers, EXPOSURE_BY_SOCKET)

    @staticmethod
    def check_exposure(units: Path, threshold: int) -> None:
        arguments = ["security", "--offline=yes", f"--threshold={threshold}", f"./{SERVICE}"]
        ended = analyze(units, *arguments)
        assert ended.returncode == 0, ended.stdout

    def test_have_the_folders_that_the_documents_name(self) -> None:
        text = (CHECKOUT / "docs" / "systemd.md").read_text("utf-8")
        [path] = re.findall(r'path = "(.+)"', text)
        credentials = re.findall(r"^ *LoadCredential=\w+:(\S+)$", text, re.MULTILINE)
        unit = (UNITS / SERVICE).read_text("utf-8")
        [state] = re.findall(r"^StateDirectory=(\w+)$", unit, re.MULTILINE)
        [configuration] = re.findall(r"^ConfigurationDirectory=(\w+)$", unit, re.MULTILINE)
        assert Path(path).parent == Path("/var/lib", state)
        assert {Path(file).parent for file in credentials} == {Path("/etc", configuration)}

    def test_agree_on_the_name_of_the_socket(self) -> None:
        passed = re.search(r"^FileDescriptorName=(\w+)$", (UNITS / SOCKET).read_text(), re.M)
        taken = re.search(r"--listen systemd:name=(\w+)$", exec_start(SERVICE))
        assert passed
        assert taken
        assert passed[1] == taken[1]


class TestWrittenUnits:
    """Those of `pushserver install-unit`, with paths that need quotes."""

    @pytest.fixture
    def write(self, tmp_path: Path) -> Callable[..., Path]:
        odd = tmp_path / "my 100% $app"
        odd.mkdir()
        (odd / "twistd").symlink_to("/bin/true")

        def write(**values: Any) -> Path:
            more: dict[str, Any] = {
                "folder": str(odd),
                "config": f"{odd}/c.toml",
                "app": f"{odd}/a.py",
            }
            more_settings = (UNITS / "workers.conf").read_text() if "workers" in values else ""
            made = Installation(twistd=f"{odd}/twistd", **more, **values)
            (tmp_path / SERVICE).write_text(
                service((UNITS / SERVICE).read_text(), made, more_settings)
            )
            (tmp_path / SOCKET).write_text(socket_unit((UNITS / SOCKET).read_text(), made))
            return tmp_path

        return write

    @pytest.mark.parametrize(
        "values",
        [
            {"socket": True, "listen": ["80", "/run/my push 100%.sock"]},
            {"credential": True, "listen": ["8081"]},
            {"account": "daemon", "in_home": True},
            {"workers": "auto", "socket": True},
        ],
    )
    def test_are_verified_without_a_message(
        self, write: Callable[..., Path], values: dict[str, Any]
    ) -> None:
        names = [f"./{SERVICE}", *([f"./{SOCKET}"] if "socket" in values else [])]
        ended = analyze(write(**values), "verify", *names)
        assert (ended.returncode, ended.stdout) == (0, "")

    @pytest.mark.parametrize("values", [{}, {"workers": "4"}])
    def test_of_a_user_are_verified_without_a_message(
        self, write: Callable[..., Path], values: dict[str, Any]
    ) -> None:
        folder = write(by_user=True, socket=True, **values)
        ended = analyze(folder, "--user", "verify", f"./{SERVICE}", f"./{SOCKET}")
        assert (ended.returncode, ended.stdout) == (0, "")

    @pytest.mark.parametrize(
        ("values", "threshold"),
        [
            ({"socket": True}, EXPOSURE_BY_SOCKET),
            ({"credential": True}, EXPOSURE_LISTENING),
            ({"account": "daemon"}, EXPOSURE_LISTENING),
        ],
    )
    def test_expose_as_little_as_those_of_the_package(
        self, write: Callable[..., Path], values: dict[str, Any], threshold: int
    ) -> None:
        TestTheUnits.check_exposure(write(**values), threshold)


def exec_start(unit: str) -> str:
    """The command line of a unit."""
    [line] = re.findall(r"^ExecStart=.+$", (UNITS / unit).read_text("utf-8"), re.MULTILINE)
    return str(line).removeprefix("ExecStart=")


def arguments_of(unit: str) -> list[str]:
    """The arguments of twistd in a unit."""
    return exec_start(unit).split()[1:]


@contextmanager
def activated(
    folder: Path,
    *addresses: str,
    sandbox: Sequence[str] = (),
    arguments: Sequence[str] = (),
) -> Iterator[Path]:
    """Do as the socket unit: hold the ports, and start the service at the first connection.

    Yields the log of both. All sockets have the name `http`.
    """
    passed = environment()
    command = [
        "systemd-socket-activate",
        *(f"--listen={address}" for address in addresses),
        f"--fdname={':'.join('http' for _ in addresses)}",
        *(f"--setenv={name}" for name in passed if name.startswith("PYTHON")),
        *sandbox,
        *TWISTD,
        *(arguments or arguments_of(SERVICE)),
    ]
    log = folder / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=folder, env=passed, stdout=output, stderr=subprocess.PIPE
        )
    assert process.stderr is not None
    try:
        assert b"Listening on" in process.stderr.readline()
        yield log
        process.send_signal(signal.SIGTERM)
        process.wait(PATIENCE)
        with log.open("ab") as output:
            output.write(process.stderr.read())
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


class TestSocketActivation:
    def test_serves_on_the_passed_socket(self, tmp_path: Path) -> None:
        port = free_port()
        with activated(tmp_path, f"127.0.0.1:{port}") as log:
            assert get(port, "").status == 200
            assert get(port, "channels/numbers").status == 200
        text = log.read_text()
        assert text.count(f"http://127.0.0.1:{port}/") == 1
        assert not PROBLEM.search(text)

    def test_serves_within_the_bounds_of_the_unit_on_system_calls(self, tmp_path: Path) -> None:
        port = free_port()
        with activated(tmp_path, f"127.0.0.1:{port}", sandbox=SANDBOX) as log:
            assert get(port, "").status == 200
        assert not PROBLEM.search(log.read_text())

    def test_workers_serve_within_these_bounds(self, tmp_path: Path) -> None:
        port = free_port()
        arguments = [*arguments_of(SERVICE), "--workers", "2"]
        with activated(tmp_path, f"127.0.0.1:{port}", sandbox=SANDBOX, arguments=arguments) as log:
            assert get(port, "").status == 200
            assert get(port, "channels/numbers").status == 200
        text = log.read_text()
        assert {*re.findall(r"\(worker (\d)\)$", text, re.MULTILINE)} == {"1", "2"}
        assert not PROBLEM.search(text)

    @pytest.mark.parametrize(
        ("code", "error"),
        [
            ("import socket; socket.socket(socket.AF_INET)", "Address family not supported"),
            ("import socket; socket.socket(socket.AF_NETLINK)", "Address family not supported"),
            ("import mmap; mmap.mmap(-1, 4096, prot=7)", "Operation not permitted"),
            ("import os; os.chroot('.')", "Operation not permitted"),
            ("import os; os.nice(1)", "Operation not permitted"),
        ],
    )
    def test_these_bounds_are_real(self, code: str, error: str) -> None:
        command = [*SANDBOX, sys.executable, "-c", code]
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
        assert ended.returncode == 1
        assert error in ended.stderr.splitlines()[-1]

    @pytest.mark.parametrize("hosts", [("127.0.0.1", "127.0.0.2"), ("127.0.0.1", "[::1]")])
    def test_serves_on_every_socket_of_the_name(self, tmp_path: Path, hosts: list[str]) -> None:
        addresses = [f"{host}:{free_port()}" for host in hosts]
        with activated(tmp_path, *addresses, arguments=listening("systemd:name=http")) as log:
            for address in addresses:
                with urlopen(f"http://{address}/", timeout=PATIENCE) as answer:
                    assert answer.status == 200
        text = log.read_text()
        for address in addresses:
            assert text.count(f"http://{address}/") == 1
        assert not PROBLEM.search(text)

    def test_refuses_a_socket_of_another_domain(self, tmp_path: Path) -> None:
        addresses = [f"{host}:{free_port()}" for host in ("127.0.0.1", "[::1]")]
        arguments = listening("systemd:domain=INET:name=http")
        with activated(tmp_path, *addresses, arguments=arguments) as log:
            host, _, port = addresses[0].rpartition(":")
            with suppress(OSError), socket.create_connection((host, int(port)), PATIENCE) as client:
                client.recv(1)
        assert f"the socket {addresses[1]} is of the domain INET6, expected INET" in log.read_text()

    def test_leaves_a_unix_socket_as_systemd_made_it(self, tmp_path: Path) -> None:
        path = tmp_path / "push.sock"
        arguments = listening("systemd:domain=UNIX:name=http")
        with activated(tmp_path, str(path), arguments=arguments) as log:
            # As SocketMode=0640 does. The file has another inode after a removal.
            path.chmod(0o640)
            before = path.stat()
            with socket.socket(socket.AF_UNIX) as client:
                client.settimeout(PATIENCE)
                client.connect(str(path))
                client.sendall(b"GET / HTTP/1.0\r\nHost: localhost\r\n\r\n")
                assert client.recv(12) == b"HTTP/1.0 200"
        after = path.stat()
        assert (after.st_ino, after.st_mode) == (before.st_ino, before.st_mode)
        text = log.read_text()
        assert f"open unix:{path}" in text
        assert not PROBLEM.search(text)


def listening(endpoint: str) -> list[str]:
    """The arguments of twistd for a server on this endpoint."""
    return ["--nodaemon", "--pidfile=", "pushserver", "--listen", endpoint]


class TestNotification:
    """READY=1, STOPPING=1 and WATCHDOG=1, on both kinds of address in NOTIFY_SOCKET."""

    @pytest.fixture(params=["a path", "an abstract name"])
    def supervisor(self, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Supervisor]:
        path = str(tmp_path / "notify")
        with closing(Supervisor(path if request.param == "a path" else "")) as supervisor:
            yield supervisor

    @pytest.fixture
    def notifying(self, tmp_path: Path, supervisor: Supervisor) -> Iterator[Server]:
        server = Server(tmp_path)
        try:
            yield server.start(supervisor)
        finally:
            server.kill()

    def test_ready_is_sent_when_it_listens(self, notifying: Server, supervisor: Supervisor) -> None:
        socket.create_connection(("127.0.0.1", notifying.port)).close()
        assert supervisor.listen() == ["READY=1"]

    def test_stopping_is_sent_before_clients_are_closed(
        self, notifying: Server, supervisor: Supervisor
    ) -> None:
        with dial_channel(notifying) as (client, _):
            notifying.send(signal.SIGTERM)
            assert closed_with(client).code == 1001
            # One process sends both, so the first has arrived by now.
            assert "STOPPING=1" in supervisor.listen()
        wait_for_end(notifying.pid)
        assert supervisor.listen() == ["READY=1", "STOPPING=1"]

    def test_nothing_is_sent_when_the_start_fails(
        self, tmp_path: Path, supervisor: Supervisor
    ) -> None:
        port = free_port()
        with socket.create_server(("127.0.0.1", port)):
            ended = subprocess.run(
                [*TWISTD, "-n", "--pidfile=", "pushserver", "--listen", f"tcp:{port}"],
                cwd=tmp_path,
                env=environment(NOTIFY_SOCKET=supervisor.address),
                capture_output=True,
                timeout=PATIENCE,
                check=False,
            )
        assert ended.returncode > 0
        assert "READY=1" not in supervisor.listen()


STUCK = """
import os, threading, time
from pushserver import PushServer

app = PushServer()

@app.source("c", every=0.05)
async def block():
    if os.path.exists("block"):
        print("blocks now", flush=True)
        while True:
            time.sleep(0.01)
"""


def test_watchdog_has_its_sign_of_life_until_the_reactor_is_blocked(tmp_path: Path) -> None:
    (tmp_path / "stuck.py").write_text(STUCK)
    server = Server(tmp_path, "--app", "stuck:app", env=environment(WATCHDOG_USEC="300000"))
    supervisor = Supervisor()
    try:
        server.start(supervisor)
        supervisor.wait_for("WATCHDOG=1", server.pid)
        supervisor.heard.clear()
        supervisor.wait_for("WATCHDOG=1", server.pid)
        assert any(line.startswith("STATUS=connections: 0") for line in supervisor.heard)
        (tmp_path / "block").touch()
        wait_until(lambda: "blocks now" in server.log)
        # As systemd does after the time of the watchdog.
        assert server.stop(signal.SIGABRT) == -signal.SIGABRT
        assert "Fatal Python error: Aborted" in server.log
        assert re.search(r'stuck.py", line \d+ in block', server.log)
    finally:
        server.kill()
