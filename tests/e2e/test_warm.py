"""Commands in forks behave as in new interpreters."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e import warm
from tests.e2e.conditions import wait_until
from tests.e2e.crew import Crew
from tests.e2e.patience import PATIENCE
from tests.e2e.programs import PUSHSERVER
from tests.e2e.server import Server, environment


def test_a_command_has_its_input_output_errors_and_status(tmp_path: Path) -> None:
    config = tmp_path / "push.toml"
    config.write_text("[limits]\nbody_bytes = 0\n")
    commands = [*PUSHSERVER, "check-config", "push.toml"], [*PUSHSERVER, "--version"]
    for command in commands:
        ended = warm.run(command, tmp_path, environment())
        expected = subprocess.run(
            command, cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False
        )
        assert (ended.returncode, ended.stdout, ended.stderr) == (
            expected.returncode,
            expected.stdout,
            expected.stderr,
        )
    joined = warm.run(commands[0], tmp_path, environment(), joined=True)
    assert "push.toml: limits.body_bytes: " in joined.stdout


def test_a_signal_ends_a_fork(tmp_path: Path) -> None:
    server = Server(tmp_path).start()
    assert isinstance(server._process, warm.Forked)
    process = server._process
    assert process.poll() is None
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0)
    process.kill()
    assert process.wait(PATIENCE) == process.poll() == -signal.SIGKILL
    process.terminate()
    server.kill()


def test_workers_are_forks_which_belong_to_the_server(tmp_path: Path) -> None:
    crew = Crew(tmp_path, times="ALONE_SECONDS=0.25")
    try:
        crew.server.start()
        workers = crew.workers()
        fork_server = Path(f"/proc/{crew.main}/cmdline").read_bytes()
        assert b"fork_server" in fork_server
        lines = {Path(f"/proc/{pid}/cmdline").read_bytes() for pid in workers.values()}
        assert lines == {fork_server}
        assert all(os.getsid(pid) == pid for pid in workers.values())
        os.kill(workers[2], signal.SIGKILL)
        crew.wait_for(f"worker 2 (process {workers[2]}) has ended: SIGKILL")
        wait_until(lambda: crew.workers().keys() == workers.keys())
        assert crew.workers()[1] == workers[1]
        # The constants of the test are those of the workers too.
        crew.server.kill()
        crew.wait_for("there has been no main process for 0.25 seconds: the worker ends", 2)
        wait_until(lambda: not crew.all())
    finally:
        crew.clean()


@pytest.mark.parametrize(
    ("command", "more"),
    [
        ([*PUSHSERVER, "--version"], {"LC_ALL": "C"}),
        ([*PUSHSERVER, "--version"], {"PYTHONPATH": "/"}),
        ([sys.executable, "-m", "twisted", "--version"], {}),
        (["bash", "-c", "true"], {}),
    ],
)
def test_another_environment_or_command_needs_a_new_interpreter(
    tmp_path: Path, command: list[str], more: dict[str, str]
) -> None:
    assert warm.start(command, tmp_path, environment(**more), (0, 1, 2)) is None


def test_a_variable_that_the_test_sets_later_needs_a_new_interpreter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert warm.run([*PUSHSERVER, "--version"], tmp_path, environment()).returncode == 0
    monkeypatch.setenv("LC_ALL", "C")
    command = [*PUSHSERVER, "--version"]
    assert warm.start(command, tmp_path, environment(), (0, 1, 2)) is None
