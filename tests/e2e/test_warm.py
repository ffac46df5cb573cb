"""Commands in forks behave as in new interpreters."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e import warm
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


@pytest.mark.parametrize(
    ("command", "more"),
    [
        ([*PUSHSERVER, "--version"], {"LC_ALL": "C"}),
        ([*PUSHSERVER, "--version"], {"PYTHONPATH": "/"}),
        ([sys.executable, "-m", "pushserver", "--version"], {}),
        (["bash", "-c", "true"], {}),
    ],
)
def test_another_environment_or_command_needs_a_new_interpreter(
    tmp_path: Path, command: list[str], more: dict[str, str]
) -> None:
    assert warm.start(command, tmp_path, environment(**more), (0, 1, 2)) is None
