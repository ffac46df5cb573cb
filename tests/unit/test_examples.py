"""Examples of the documents that need no process of a server."""

from __future__ import annotations

import configparser
import hmac
import json
import re
import shlex
import subprocess
import sys
from itertools import groupby
from types import ModuleType
from typing import Any

import pytest

import pushserver
from pushserver import cli
from pushserver.config.loader import load
from pushserver.config.settings import Config
from pushserver.errors import InvalidConfig
from pushserver.server.options import Options
from pushserver.sources.registry import SourceTypes
from pushserver.testing import ServerError, TestServer
from tests.e2e.blocks import PAGES, Block, block_with, blocks_of
from tests.unit.fakes.socketio import IoClient, event
from tests.unit.fakes.web import Server

TYPES = SourceTypes()
PARSER = cli._parser()
PROMPT = re.compile(r"[12]?\$ ")
ENDS = {"|", "&&", "<", ">", "<<<"}


def module_of(block: Block) -> Any:
    """A module with the code of a block."""
    module = ModuleType("example")
    exec(compile(block.text, f"line {block.number}", "exec"), vars(module))
    return module


def typed(block: Block) -> list[str]:
    """The commands of a block; a line that ends with a backslash is joined with the next."""
    if block.language not in ("console", "sh", None):
        return []
    lines = block.text.replace("\\\n", "").splitlines()
    after_prompts = [line[match.end() :] for line in lines if (match := PROMPT.match(line))]
    return lines if block.language != "console" and not after_prompts else after_prompts


def commands(page: str) -> list[list[str]]:
    """The words of each command of a page that runs `pushserver` or `twistd`."""
    found = []
    for line in (line for block in blocks_of(page) for line in typed(block)):
        if re.search(r"\b(pushserver|twistd) [a-z-]", line):
            words = shlex.split(re.sub(r"\$\(.*?\)", "-", line.partition(" # ")[0]))
            for is_end, command in groupby(words, ENDS.__contains__):
                found += [] if is_end else [program(list(command))]
    return [words for words in found if words]


def program(words: list[str]) -> list[str]:
    """The words from `pushserver` or `twistd` on, which another command may run; else none."""
    while words and re.match(r"[A-Za-z_]+=[^/]", words[0]):
        words = words[1:]
    names = [word.rpartition("/")[2] for word in words]
    if "twistd" in names:
        return words[names.index("twistd") :]
    return words if names and names[0] == "pushserver" else []


@pytest.mark.parametrize("page", PAGES)
def test_options_of_each_command_exist(page: str) -> None:
    for name, *words in commands(page):
        if name.endswith("twistd"):
            Options().parseOptions(words[words.index("pushserver") + 1 :])
        elif words != ["--version"]:
            assert PARSER.parse_args(words).run, words


def test_commands_are_found() -> None:
    assert ["pushserver", "token", "read", "-"] in commands("docs/auth.md")
    found = [words for words in commands("docs/systemd.md") if words[0].endswith("twistd")]
    assert ["--listen", "tcp:8080:interface=127.0.0.1"] in [words[-2:] for words in found]


class TestAccess:
    def test_rules_refuse_as_the_page_says(self) -> None:
        config = load(block_with("docs/auth.md", "# rules.toml").text, "", {}, TYPES)
        server = Server(config=config)
        refusal = block_with("docs/auth.md", '{"error":').text
        answer = server.get("/channels/chat:lobby", "POST", b"1")
        assert (answer.status, answer.body.decode()) == (401, refusal)
        assert server.get("/channels/news:today").status == 200
        assert server.get("/channels/team:7").status == 401

    def test_application_knows_its_users(self) -> None:
        module = module_of(block_with("docs/auth.md", "# users.py"))
        config = Config(namespaces={"chat": {"subscribe": "token"}})
        with TestServer(module.app, config) as server:
            server.connect(headers={"cookie": "session=4f1d"}).subscribe("chat:lobby")
            [session] = server.service.node.sessions.of_user("ann")
            assert session.info.conn_info == b'{"since":2024}'
            with pytest.raises(ServerError, match="needs a token"):
                server.connect().subscribe("chat:lobby")
            with pytest.raises(ServerError, match="log in again"):
                server.connect(headers={"cookie": "session=5f1d"}).subscribe("chat:lobby")

    def test_token_is_made_for_the_user(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(
            "PUSHSERVER_AUTH_TOKEN_SECRET", "a secret of more than 32 bytes, for tests"
        )
        module = module_of(block_with("docs/auth.md", "import pushserver"))
        again = pushserver.token("ann", channels=["chat:*"], seconds=3600, info={"name": "Ann"})
        assert len(module.token) == len(again)

    def test_application_decides_who_reads(self) -> None:
        app = pushserver.PushServer()
        app.on("subscribe", thread=False)(lambda client, channel: True)
        config = Config()
        server = Server(config=config, app=app)
        answer = server.get("/channels/room:1")
        assert answer.body.decode() == block_with("docs/protocols.md", "to room:1;").text


def test_handlers_of_socket_io_answer() -> None:
    module = module_of(block_with("docs/socketio.md", 'namespace="chess"'))
    exec(block_with("docs/socketio.md", "client.call(").text, vars(module))
    with TestServer(module.app) as server:
        client = IoClient(server.service.node)
        assert client.say("40/chess,") == ['44/chess,{"message":"players only"}']
        client.say('40/chess,{"name":"ann"}')
        server.settle()
        moved, answer = client.say('42/chess,7["move","e4"]')
        assert event(moved, "/chess") == ["moved", "e4"]
        assert answer == '43/chess,7["ok"]'

    class Client:
        def call(self, event: str, data: list[str], timeout: float) -> str:
            assert (event, timeout) == ("choose", 20)
            return data[0]

    assert module.start_game(Client(), None) == {"colour": "black"}


def test_library_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cronsim", None)
    for name in [name for name in sys.modules if name.startswith("pushserver.sources.types.cron")]:
        monkeypatch.delitem(sys.modules, name)
    clock = block_with("docs/sources.md", "# clock.toml").text
    with pytest.raises(InvalidConfig) as caught:
        load(clock, "clock.toml", {}, SourceTypes())
    shown = block_with("docs/sources.md", "needs the library").text
    assert f"pushserver: {caught.value}\n" == shown


def test_signature_of_the_hook_by_hand_is_right() -> None:
    *lines, request = block_with(
        "docs/sources.md", "X-Hub-Signature-256: sha256="
    ).text.splitlines()
    words = shlex.split(request)
    assert (words[0], words[-1]) == ("curl", "http://localhost:8080/hooks/pushes")
    shown = 'printf "%s\\n" "$signature" "$body"'
    ended = subprocess.run(
        ["bash", "-c", "\n".join([*lines, shown])], capture_output=True, text=True, check=True
    )
    signature, body = ended.stdout.splitlines()
    secret = b"correct-horse-battery-staple"
    assert signature == hmac.new(secret, body.encode(), "sha256").hexdigest()
    assert json.loads(body) == {"ref": "refs/heads/main"}


def test_jail_of_fail2ban_is_a_configuration() -> None:
    parser = configparser.ConfigParser()
    parser.read_string(block_with("docs/security.md", "# /etc/fail2ban/jail.d").text)
    assert parser["pushserver"].getboolean("enabled")
    assert {"logpath", "maxretry", "findtime", "port"} <= set(parser["pushserver"])
