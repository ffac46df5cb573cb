"""Named keys from the configuration to a program that publishes, with a real server."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e import warm
from tests.e2e.exchange import ask
from tests.e2e.programs import PUSHSERVER
from tests.e2e.server import Server, environment, running

pytestmark = pytest.mark.slow

IN_FILE, CREDENTIAL, WEAK = "s3cret-of-a-file-1234", "s3cret-of-a-credential", "s3cret-weak"


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return warm.run([*PUSHSERVER, *arguments], Path.cwd(), environment())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("keys")


@pytest.fixture(scope="module")
def new_key(folder: Path) -> str:
    """A new key, with its lines in the configuration."""
    made = command("key", "new", "--name", "shop", "--channels", "orders:*", "--may", "publish")
    key, _, lines = made.stdout.partition("\n")
    (folder / "readable").write_text(IN_FILE)
    (folder / "readable").chmod(0o644)
    (folder / "hidden").write_text(CREDENTIAL)
    (folder / "push.toml").write_text(
        f'{lines}\n[auth.keys.file]\nfile = "{folder}/readable"\n'
        f'[auth.keys.credential]\ncredential = "hidden"\nmay = ["read", "admin"]\n'
        f'[auth.keys.weak]\nkey = "{WEAK}"\n[sources]\n[defaults]\nsubscribe = "key"\n'
    )
    return key


@pytest.fixture(scope="module")
def server(folder: Path, new_key: str) -> Iterator[Server]:
    env = environment(CREDENTIALS_DIRECTORY=str(folder))
    with running(Server(folder, "--config", str(folder / "push.toml"), env=env)) as server:
        yield server
        for secret in (new_key, IN_FILE, CREDENTIAL, WEAK):
            assert secret not in server.log


def test_weak_keys_and_readable_files_are_named_once_in_the_log(server: Server) -> None:
    weak = "auth.keys.weak: the key has fewer than 16 characters"
    assert server.log.count(weak) == 1
    assert server.log.count("auth.keys.file.file: all users of this machine can read") == 1


def test_a_program_publishes_with_the_key_of_its_file(
    server: Server, folder: Path, new_key: str
) -> None:
    file = folder / "shop-key"
    file.write_text(f"{new_key}\n")
    arguments = ["--url", server.url, "--api-key-file", str(file)]
    assert command("publish", "orders:1", '{"sum": 3}', *arguments).returncode == 0
    refused = command("publish", "news", "1", *arguments)
    assert refused.returncode == 1
    rights = "it may publish on the channels orders:* (auth.keys.shop)"
    assert '403: publishing to news needs an API key (publish = "key"); the key shop may not' in (
        refused.stderr
    )
    assert rights in refused.stderr
    assert "refused 403 to 127.0.0.1: POST /channels/news: publishing to news" in server.log
    answer = ask(server, "GET", "channels/orders:1", x_api_key=CREDENTIAL)
    assert b'"sum":3' in answer.body
    assert ask(server, "GET", "channels/orders:1", x_api_key=new_key).status == 403


def test_keys_of_files_and_credentials_count(server: Server) -> None:
    assert ask(server, "POST", "channels/a", b"1", x_api_key=IN_FILE).status == 201
    assert ask(server, "POST", "channels/a", b"1", x_api_key=CREDENTIAL).status == 403
    assert ask(server, "POST", "api/info", b"{}", x_api_key=CREDENTIAL).status == 200
    assert ask(server, "POST", "api/info", b"{}", x_api_key=IN_FILE).status == 403


def test_two_names_of_one_key_end_the_start(folder: Path) -> None:
    file = folder / "twice.toml"
    file.write_text(f'[auth.keys.a]\nkey = "{WEAK}"\n[auth.keys.b]\nkey = "{WEAK}"\n')
    ended = command("check-config", str(file))
    assert ended.returncode == 1
    assert ended.stderr == (
        f"pushserver: {file}: auth.keys.b: it is the same key as in auth.keys.a, expected another"
        " one\n"
    )
