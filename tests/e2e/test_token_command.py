"""`pushserver token` beside a real server."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e import warm
from tests.e2e.exchange import ask
from tests.e2e.programs import PUSHSERVER
from tests.e2e.server import Server, environment, running

pytestmark = pytest.mark.slow

CONFIG = """
[sources]
[auth]
token_secret = "s3cret-of-at-least-thirty-two-bytes"
token_audience = ["push"]
[defaults]
subscribe = "token"
"""


def command(*arguments: str, text: str = "") -> subprocess.CompletedProcess[str]:
    return warm.run([*PUSHSERVER, "token", *arguments], Path.cwd(), environment(), text)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("tokens") / "push.toml"
    file.write_text(CONFIG)
    return file


@pytest.fixture(scope="module")
def server(config: Path) -> Iterator[Server]:
    with running(Server(config.parent, "--config", str(config))) as server:
        yield server
        assert "s3cret" not in server.log


def make(config: Path, *arguments: str) -> str:
    made = command("new", "ann", "--config", str(config), *arguments)
    assert made.returncode == 0, made.stderr
    return made.stdout.strip()


def test_server_accepts_the_token_of_the_command(server: Server, config: Path) -> None:
    token = make(config, "--channels", "a", "b:*")
    checked = command("check", "-", "--url", server.url, text=token)
    assert checked.stderr == ""
    accepted, subscribed = checked.stdout.splitlines()
    assert re.fullmatch(rf"http://127.0.0.1:{server.port} accepts it, for [0-9]+ seconds", accepted)
    assert subscribed == "it subscribes the client to a"
    statuses = [
        ask(server, "GET", f"channels/{name}", authorization=f"Bearer {token}").status
        for name in ("a", "b:1", "c")
    ]
    assert statuses == [200, 200, 403]


def test_configuration_and_server_refuse_the_same_token(server: Server, config: Path) -> None:
    other = config.with_name("other.toml")
    other.write_text(CONFIG.replace("thirty", "forty"))
    token = make(other)
    for where in (["--config", str(config)], ["--url", server.url]):
        checked = command("check", "-", *where, text=token)
        assert checked.returncode == 1
        assert checked.stdout == ""
        assert checked.stderr.startswith("pushserver: refused")
        assert "the signature is not that of a key for HS256" in checked.stderr
