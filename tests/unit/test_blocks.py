"""Each block of code in the documents is run by a test, or named here with the reason why not."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import pytest

from pushserver.config.loader import load
from pushserver.config.settings import Config
from pushserver.sources.registry import SourceTypes
from tests.e2e.blocks import PAGES, ROOT, Block, block_with, blocks_in, blocks_of, sections_of

DIAGRAM = "a diagram"
NAMES = "the names of the page, which tests/unit/test_links.py compares with those of the package"
OPTIONS = "tests/unit/test_examples.py checks the options; other tests run it with other ones"
AS_ROOT = f"changes the machine, as root; {OPTIONS}"
NOT_RUN = {
    "README.md": {"python3 -m venv /opt/pushserver": AS_ROOT},
    "docs/api.md": dict.fromkeys(
        (
            "pushserver.publish\n",
            "pushserver.Visitor\n",
            "pushserver.Refused\n",
            "pushserver.testing.TestServer\n",
            "pushserver.flask.SocketIO\n",
            "pushserver.sources.interface.ISource\n",
        ),
        NAMES,
    ),
    "docs/applications.md": {
        "\npushserver serve shop.py\n": OPTIONS,
        'if __name__ == "__main__":': "tests/e2e/test_serve.py runs a file that ends like this",
        "twistd --reactor asyncio": OPTIONS,
    },
    "docs/architecture.md": dict.fromkeys(
        ("source, POST, or publish", "web/first_bytes", "[sources.NAME]", "main process"), DIAGRAM
    ),
    "docs/auth.md": {"pushserver token new ann": OPTIONS},
    "docs/configuration.md": {
        "pushserver serve --config pushserver.toml": OPTIONS,
        "pushserver reload\n": OPTIONS,
    },
    "docs/frameworks.md": {"0 3 * * *": "for cron; tests/e2e/test_frameworks.py runs its command"},
    "docs/from-flask-socketio.md": {
        "pip install 'pushserver[flask]'": "an installation, as tests/test_packaging.py makes them",
        "pushserver serve votes.py": OPTIONS,
        "python votes.py": "tests/e2e/test_flask.py starts such a program",
        "/channels/prices?event=price": "as the examples of publishing in docs/protocols.md",
    },
    "docs/index.md": {"$ pip install .": OPTIONS},
    "docs/operations.md": {"pushserver doctor https://push.example": OPTIONS},
    "docs/protocols.md": {
        "tail -f app.log": f"does not end; {OPTIONS}",
        "new Centrifuge(transports,": "an excerpt; tests/e2e/test_event_source.py has a whole one",
    },
    "docs/proxies.md": {"tunnel: push": "cloudflared needs an account, and is not in Debian"},
    "docs/scaling.md": {
        "pushserver serve --workers 2": OPTIONS,
        "clients ── worker 1": DIAGRAM,
        "apt-get install redis-server": AS_ROOT,
    },
    "docs/sources.md": {
        "source journal: failed": "the output of a journal that cannot be read",
    },
    "docs/store.md": {"store backup --force": OPTIONS},
    "docs/systemd.md": {
        **dict.fromkeys(
            (
                "make deb\n",
                "pushserver key new",
                "apt-get install python3-venv",
                "enable --now pushserver.socket",
                "journalctl --unit pushserver --follow",
                "install-unit --socket --workers auto",
                "install-unit --listen 127.0.0.1:8080",
                "systemctl restart pushserver\n",
                "systemctl reload pushserver\n",
                "journalctl --unit pushserver --lines 3\n",
                "git pull\n",
                "adduser --system",
                "pushserver.pid)",
                "logrotate --debug",
                "interface=0.0.0.0",
            ),
            AS_ROOT,
        ),
        "Status: ": "the output of systemctl; tests/test_systemd.py has the line of the server",
    },
    "docs/tutorial.md": {
        "python3 -m venv ~/live": "an installation, as tests/test_packaging.py makes them",
        ". ~/live/bin/activate": "the environment of the test is another one",
        "pushserver 1.0.0: open": "each start of a server in a test waits for this line",
        "mkdir -p /opt/pushserver/app": AS_ROOT,
        "install-unit --listen 127.0.0.1:8080 --app": AS_ROOT,
    },
    "examples/chat/README.md": {"\nPUSHSERVER_AUTH_API_KEYS": OPTIONS},
    "examples/fragments/README.md": {"pushserver serve": OPTIONS},
    "examples/notifications/README.md": {"pushserver publish notices:#ann": OPTIONS},
}
"""A text of each block that no test can run as it is, and the reason."""


@cache
def calls() -> dict[str, list[list[str]]]:
    """The arguments of all calls in the tests that get blocks, by the name of the function."""
    found: dict[str, list[list[str]]] = {"sections_of": [], "block_with": []}
    for path in sorted((ROOT / "tests").rglob("*.py")):
        text = path.read_text("utf-8")
        if path != Path(__file__) and any(f"{name}(" in text for name in found):
            for node in ast.walk(ast.parse(text)):
                match node:
                    case ast.Call(ast.Name(name), arguments) if name in found:
                        found[name].append([*constants(arguments)])
    return found


def constants(arguments: Iterable[ast.expr]) -> Iterator[str]:
    """The texts of arguments; those behind a star are constants too."""
    for each in arguments:
        if isinstance(each, ast.Starred):
            yield from ast.literal_eval(each.value)
        else:
            yield ast.literal_eval(each)


def run(page: str) -> set[Block]:
    """The blocks of a page that tests run."""
    found = {block_with(*each) for each in calls()["block_with"] if each[0] == page}
    for each in calls()["sections_of"]:
        if each[0] == page:
            found |= {block for blocks in sections_of(*each).values() for block in blocks}
    return found


@pytest.mark.parametrize("page", PAGES)
def test_each_block_is_run_or_has_a_reason(page: str) -> None:
    reasons = {block_with(page, text) for text in NOT_RUN.get(page, {})}
    left = [block for block in blocks_of(page) if block not in run(page) | reasons]
    for block in left:
        if block.language == "toml":
            assert load(block.text, f"line {block.number}", {}, SourceTypes()) != Config()
    others = [block for block in left if block.language != "toml"]
    assert [f"line {block.number}: {block.lines[0].text}" for block in others] == []


def test_no_block_with_a_reason_is_taken_by_its_own_text() -> None:
    named = {block_with(*each) for each in calls()["block_with"]}
    for page, reasons in NOT_RUN.items():
        assert [text for text in reasons if block_with(page, text) in named] == []


def test_blocks_are_found() -> None:
    text = "## A\nb\n\n    c\n\n    d\n\n```py\ne\n```\n- f\n  ```js\n  g\n  ```\n## H\n"
    found = [(block.section, block.language, block.text) for block in blocks_in(text)]
    assert found == [("A", None, "c\n\nd\n"), ("A", "py", "e\n"), ("A", "js", "g\n")]
    with pytest.raises(AssertionError, match="line 2"):
        blocks_in("a\n```\nb\n")
