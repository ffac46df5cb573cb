"""Signals to a server with a store."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import termios
from pathlib import Path

import pytest

from tests.e2e.conditions import wait_until
from tests.e2e.exchange import configured, data, history, publish
from tests.e2e.patience import PATIENCE
from tests.e2e.server import CHECKOUT, TWISTD, Server, environment, free_port, get, running
from tests.e2e.supervisor import Supervisor, wait_for_end

STORE = """
    [sources]
    [store]
    path = "s.db"
    durability = "batched"
    """
ANSWERED = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
TIMES = {signal.SIGHUP: 1, signal.SIGUSR1: 10, signal.SIGUSR2: 10}
"""Reloads are at least a second apart."""
APP = """
import signal

from pushserver import PushServer

app = PushServer()
for number in (signal.SIGHUP, signal.SIGALRM):
    signal.signal(number, lambda number, frame: app.publish("c", number))
"""


SLOW = """
import time
from pathlib import Path
from pushserver import PushServer

app = PushServer()

@app.on("stop")
def stop():
    while not Path("told").exists():
        time.sleep(0.01)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_three_signals_stop_in_order(tmp_path: Path, number: signal.Signals) -> None:
    (tmp_path / "slow.py").write_text(SLOW)
    server = Server(tmp_path, "--app", "slow:app")
    try:
        server.start()
        again = f"received {number.name} again"
        server.send(number)
        wait_until(lambda: f"received {number.name}, shutting down" in server.log)
        for times in (1, 2):
            server.send(number)
            wait_until(lambda times=times: server.log.count(again) == times)  # type: ignore[misc]
        (tmp_path / "told").touch()
        assert server.wait() == -number
        assert server.log.count("kill -KILL") == 2
        assert server.problems == []
    finally:
        server.kill()


def logged(server: Server, number: signal.Signals) -> int:
    if number == signal.SIGHUP:
        return server.log.count("the configuration was read again")
    return server.log.count(f"received {number.name}, which changes nothing")


@pytest.mark.parametrize("last", [signal.SIGQUIT, signal.SIGALRM, signal.SIGRTMIN])
def test_no_signal_loses_a_publication(tmp_path: Path, last: signal.Signals) -> None:
    server = configured(tmp_path, STORE)
    try:
        server.start()
        position = publish(server, "c", 0)
        for number in ANSWERED:
            for n in range(TIMES[number]):
                server.send(number)
                wait_until(lambda number=number, n=n: logged(server, number) > n)  # type: ignore[misc]
            publish(server, "c", number.name)
        assert server.stop(last) == -last
        server.start()
        after = history(server, "c")
        assert after["epoch"] == position["epoch"]
        assert data(after) == [0, "SIGHUP", "SIGUSR1", "SIGUSR2"]
        assert publish(server, "c", 5)["offset"] == 5
        assert server.stop() == -signal.SIGTERM
        assert server.problems == []
    finally:
        server.kill()


def test_a_flood_of_signals_does_not_end_the_server_or_fill_the_log(tmp_path: Path) -> None:
    with running(configured(tmp_path, STORE)) as server:
        for n in range(300):
            server.send(ANSWERED[n % 3])
        publish(server, "c", 1)
        assert server.log.count("which changes nothing") <= sum(TIMES.values())


def test_the_signal_handler_of_an_application_is_kept(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(APP)
    with running(Server(tmp_path, "--app", "own:app")) as server:
        for number in (signal.SIGHUP, signal.SIGALRM):
            server.send(number)
        wait_until(lambda: sorted(data(history(server, "c"))) == [signal.SIGHUP, signal.SIGALRM])


def test_a_hangup_that_nohup_ignores_is_ignored(tmp_path: Path) -> None:
    with running(Server(tmp_path, twistd=("nohup", *TWISTD))) as server:
        server.send(signal.SIGHUP)
        server.send(signal.SIGUSR2)
        wait_until(lambda: logged(server, signal.SIGUSR2))
        assert "was read again" not in server.log


def test_a_daemon_survives_a_hangup_rotates_its_log_and_ends_in_order(
    tmp_path: Path,
) -> None:
    port = free_port()
    (tmp_path / "c.toml").write_text(STORE)
    listen = f"tcp:{port}:interface=127.0.0.1"
    arguments = ["--pidfile=x.pid", "--logfile=y.log", "pushserver", "--config", "c.toml"]
    started = subprocess.run(
        [*TWISTD, *arguments, "--listen", listen], cwd=tmp_path, env=environment(), timeout=PATIENCE
    )
    assert started.returncode == 0
    pid = int((tmp_path / "x.pid").read_text())
    log, old = tmp_path / "y.log", tmp_path / "y.log.1"
    try:
        os.kill(pid, signal.SIGHUP)
        wait_until(lambda: "the configuration was read again" in log.read_text())
        os.kill(pid, signal.SIGUSR1)
        wait_until(old.exists)
        assert "the configuration was read again" in old.read_text()
        assert get(port, "channels/c").status == 200
        os.kill(pid, signal.SIGUSR2)
        wait_until(lambda: "received SIGUSR2" in log.read_text())
        rotate(tmp_path, log, tmp_path / "x.pid")
        assert old.read_text().count("received SIGUSR2") == 1
        wait_until(log.exists)
        os.kill(pid, signal.SIGUSR2)
        wait_until(lambda: "received SIGUSR2" in log.read_text())
        assert old.read_text().count("received SIGUSR2") == 1
        os.kill(pid, signal.SIGQUIT)
        wait_for_end(pid)
        wait_until(lambda: "received SIGQUIT, shutting down" in log.read_text())
        assert not (tmp_path / "x.pid").exists()
    finally:
        if (tmp_path / "x.pid").exists():
            os.kill(pid, signal.SIGKILL)


def rotate(folder: Path, log: Path, pidfile: Path) -> None:
    """Run the real logrotate with our rule, for these files."""
    rule = (CHECKOUT / "systemd" / "pushserver.logrotate").read_text("utf-8")
    for usual, path in (("log", log), ("pid", pidfile)):
        assert f"/var/lib/pushserver/pushserver.{usual}" in rule
        rule = rule.replace(f"/var/lib/pushserver/pushserver.{usual}", str(path))
    rule = rule.replace("su pushserver pushserver", "")
    (folder / "rule").write_text(rule)
    command = ["/usr/sbin/logrotate", "--force", "--state", "state", "rule"]
    ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_a_server_ends_in_order_when_its_terminal_closes(tmp_path: Path) -> None:
    server = configured(tmp_path, STORE)
    ours, terminal = os.openpty()
    supervisor = Supervisor()
    process = subprocess.Popen(
        server._command,
        cwd=tmp_path,
        env=environment(NOTIFY_SOCKET=supervisor.address),
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(terminal, termios.TIOCSCTTY, 0),
    )
    try:
        os.close(terminal)
        supervisor.wait_for("READY=1", process.pid)
        position = publish(server, "c", 1)
        process.send_signal(signal.SIGHUP)
        said = b""
        while b"the configuration was read again" not in said:
            said += os.read(ours, 65_536)
        os.close(ours)
        assert process.wait(PATIENCE) == -signal.SIGHUP
        with running(server):
            assert publish(server, "c", 2) == {
                **position,
                "offset": 2,
                "id": f"{position['epoch']}:{int(position['id'].split(':')[1]) + 1}",
            }
    finally:
        process.kill()
        process.wait()
        supervisor.close()
