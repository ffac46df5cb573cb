"""The official JavaScript client of Socket.IO, over each of its transports."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from tests.e2e.exchange import publish
from tests.e2e.lines import Lines
from tests.e2e.server import CHECKOUT, Server, running

APP = """
from pushserver import PushServer

app = PushServer()


@app.on("connect")
def connect(client, auth):
    client.send({"hello": (auth or {}).get("name")}, event="welcome")


@app.on("same")
def same(client, data):
    return data


@app.on("ask")
def ask(client, data):
    return client.call("question", data, timeout=5)


@app.on("ask_async")
async def ask_async(client, data):
    return await client.call("question", data, timeout=5)


@app.on("count")
def count(client, numbers):
    for number in range(numbers):
        client.send(number, event="number")
"""


CONFIG = """
[store]
path = "history.db"

[socketio]
recovery = true
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("socketio")
    (folder / "application.py").write_text(APP)
    (folder / "server.toml").write_text(CONFIG)
    arguments = ("--app", "application:app", "--config", "server.toml")
    with running(Server(folder, *arguments)) as server:
        yield server


def said(lines: Lines) -> tuple[str, Any]:
    """The next line of the client."""
    [(name, value)] = json.loads(lines.next()).items()
    return name, value


def client(server: Server, *transports: str) -> Lines:
    """A client in a namespace of its own; see tests/node/socketio.mjs."""
    command = ["node", "socketio.mjs", server.url, "-".join(transports), *transports]
    return Lines(command, folder=CHECKOUT / "tests" / "node")


def check(lines: Lines, used: str) -> None:
    """Everything came back, over this transport."""
    assert said(lines) == ("welcome", {"hello": "ada"})
    assert said(lines) == ("transport", used)
    assert said(lines) == ("same", {"text": "gr\u00fcn", "list": [1, [None]]})
    assert said(lines) == ("acknowledged", True)
    assert said(lines) == ("asked", [{"n": 2}, {"n": 3}])
    assert said(lines) == ("numbers", True)
    assert said(lines) == ("other", "x")
    assert said(lines) == ("ready", True)


@pytest.mark.parametrize("transport", ["polling", "websocket"])
def test_client_has_events_acknowledgements_bytes_and_namespaces(
    server: Server, transport: str
) -> None:
    with closing(client(server, transport)) as lines:
        check(lines, transport)
        publish(server, f"{transport}?event=published", 1)
        assert said(lines) == ("published", 1)


def test_client_that_upgrades_is_recovered_after_a_restart(server: Server) -> None:
    channel = "polling-websocket?event=published"
    with closing(client(server, "polling", "websocket")) as lines:
        check(lines, "websocket")
        publish(server, channel, 1)
        assert said(lines) == ("published", 1)
        server.stop()
        name, reason = said(lines)
        assert name == "disconnect"
        assert reason in ("transport close", "transport error")
        server.start()
        publish(server, channel, "missed")
        while (line := said(lines)) != ("connect", True):
            assert line[0] == "connect_error"
        assert said(lines) == ("published", "missed")
        publish(server, channel, 2)
        assert said(lines) == ("published", 2)
