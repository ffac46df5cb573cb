"""Ways to publish: the command line and a script; clients of other projects are in tests/peers."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

import pushserver
from tests.e2e import warm
from tests.e2e.exchange import LINES, Reading, ask, data, history, publish, serving
from tests.e2e.patience import PATIENCE
from tests.e2e.programs import PUSHSERVER, PYTHON
from tests.e2e.server import Server, environment

KEY = "s3cret"
CONFIG = f"""
    [auth]
    api_keys = ["{KEY}"]
    local_without_key = true
    [sources]
    [namespaces.chat]
    client_publish = true
    """


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with a key, and a namespace that clients may publish in."""
    with serving(tmp_path_factory.mktemp("publishing"), CONFIG) as server:
        yield server


class TestTheCommandLine:
    def run(self, *arguments: str, text: str = "") -> subprocess.CompletedProcess[str]:
        return warm.run([*PUSHSERVER, *arguments], Path.cwd(), environment(), text)

    def test_publishes_and_prints_the_position(self, server: Server) -> None:
        ended = self.run("publish", "l1", '{"n": 1}', "--url", server.url, "--event", "e")
        assert (ended.returncode, ended.stderr) == (0, "")
        [row] = history(server, "l1")["publications"]
        assert (row["data"], row["event"]) == ({"n": 1}, "e")
        position = json.loads(ended.stdout)
        assert position == {"offset": 1, "epoch": position["epoch"], "id": row["id"]}

    def test_publishes_each_line(self, server: Server) -> None:
        ended = self.run("publish", "l2", "-", "--url", server.url, "--key", KEY, text="1\nx\n")
        assert ended.returncode == 0
        assert data(history(server, "l2")) == [1, "x"]

    def test_reads_what_was_published(self, server: Server) -> None:
        for n in range(3):
            publish(server, "l3", n)
        ended = self.run(
            "subscribe", "l3", "--url", server.url, "--since", "oldest", "--count", "3"
        )
        assert ended.returncode == 0
        lines = [json.loads(line) for line in ended.stdout.splitlines()]
        assert lines == history(server, "l3")["publications"]

    @pytest.mark.parametrize(
        ("arguments", "word"),
        [
            (["publish", "no such name", "1"], "400: invalid channel name 'no such name'"),
            (["publish", "l4", "1", "--key", "wrong"], "401: the API key is not one of"),
            (["subscribe", "no such name"], "1 to 128 characters"),
            (["subscribe", "l4", "--last", "-1"], "expected a whole number"),
            (["subscribe", "l4", "--since", "x"], "invalid cursor"),
        ],
    )
    def test_explains_an_error_in_one_line(
        self, server: Server, arguments: list[str], word: str
    ) -> None:
        ended = self.run(*arguments, "--url", server.url)
        assert ended.returncode == 1
        assert ended.stderr.startswith("pushserver: ")
        assert word in ended.stderr
        assert "Traceback" not in ended.stderr
        assert ended.stdout == ""

    def test_checks_a_configuration(self, tmp_path: Path) -> None:
        path = tmp_path / "c.toml"
        path.write_text(CONFIG)
        assert self.run("check-config", str(path)).stdout == f"{path}: good, with a warning\n"
        path.write_text("[limits]\nbody_byte = 1")
        ended = self.run("check-config", str(path))
        assert ended.returncode == 1
        assert f"{path}: limits.body_byte: unknown key; did you mean body_bytes?" in ended.stderr


def test_a_script_publishes_with_the_standard_library_alone(server: Server) -> None:
    program = (
        "import sys, pushserver\n"
        f"print(pushserver.publish({server.url!r}, 's1', {{'n': 1}}, event='e')['offset'])\n"
        "print(*{name.partition('.')[0] for name in sys.modules})\n"
    )
    ended = subprocess.run(
        [*PYTHON, program],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=True,
    )
    offset, modules = ended.stdout.splitlines()
    assert offset == "1"
    assert not {"twisted", "msgspec", "autobahn", "jinja2", "zope"} & set(modules.split())
    assert data(history(server, "s1")) == [{"n": 1}]


@pytest.mark.parametrize("durability", ["sync", "batched"])
def test_a_publisher_whose_server_is_restarted_publishes_once(
    tmp_path: Path, durability: str
) -> None:
    config = f'[store]\npath = "s.db"\ndurability = "{durability}"\n[sources]'
    with serving(tmp_path, config) as server:
        server.stop()
        found: list[Any] = []
        errors: list[Exception] = []

        def publish_ten() -> None:
            try:
                found.extend(
                    pushserver.publish(server.url, "a", n, retry_seconds=60.0) for n in range(10)
                )
            except Exception as error:
                errors.append(error)

        thread = threading.Thread(target=publish_ten)
        thread.start()
        # Starts before the server, and continues while it restarts.
        server.start()
        with closing(Reading(server, "channels/a?since=oldest", LINES)) as reader:
            reader.object()
            for _ in range(3):
                reader.object()
        server.stop()
        server.start()
        thread.join()
        assert errors == []
        assert [position["offset"] for position in found] == list(range(1, 11))
        assert data(history(server, "a")) == list(range(10))


def test_the_rules_for_posting_hold(server: Server) -> None:
    rules: list[tuple[dict[str, str], int]] = [
        ({}, 201),
        ({"x_api_key": KEY}, 201),
        ({"x_api_key": "wrong"}, 401),
        ({"origin": server.url.rstrip("/")}, 201),
        ({"origin": "http://evil.example"}, 403),
        ({"host": "evil.example"}, 403),
        ({"x_forwarded_for": "10.0.0.1"}, 401),
        ({"x_forwarded_for": "10.0.0.1", "x_api_key": KEY}, 201),
    ]
    found = [ask(server, "POST", "channels/r", b"1", **headers).status for headers, _ in rules]
    assert found == [status for _, status in rules]
