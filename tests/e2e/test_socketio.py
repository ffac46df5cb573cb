"""The official JavaScript client of Socket.IO and the Python ones, over each transport.

All clients play their stories at the same time, on one server that is restarted once.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from typing import Any, NamedTuple

import pytest
from playwright.sync_api import Browser, Page

from tests.e2e.blocks import block_with
from tests.e2e.exchange import publish
from tests.e2e.follower import NO_ICON
from tests.e2e.lines import Lines
from tests.e2e.server import CHECKOUT, Server, running
from tests.e2e.visits import Visits

APP = """
from pushserver import PushServer, Refused

app = PushServer(pages="pages")


@app.on("connect")
def connect(client, auth):
    client.send({"hello": (auth or {}).get("name")}, event="welcome")


@app.on("same")
def same(client, data):
    return data


@app.on("send_blob")
def send_blob(client):
    client.send(bytes([1, 2, 0, 255]), event="blob")


@app.on("refuse")
def refuse(client):
    raise Refused("no")


@app.on("ask")
def ask(client, data):
    return client.call("question", data, timeout=60)


@app.on("ask_async")
async def ask_async(client, data):
    return await client.call("question", data, timeout=60)


@app.on("ask_bytes")
def ask_bytes(client):
    part, word, whole = client.call("bytes_question", b"abc", timeout=60)
    return [part.decode(), word, whole.decode()]


@app.on("ask_silence")
def ask_silence(client):
    try:
        client.call("silence", timeout=0.1)
    except TimeoutError as error:
        return str(error)


@app.on("count_many")
def count_many(client, data):
    for number in range(data[1]):
        client.send(number, event="count")


@app.on("publish_many")
def publish_many(client, data):
    channel, numbers = data
    for number in range(numbers):
        app.publish(channel, number, event="publish")
"""

CONFIG = """
[store]
path = "history.db"

[socketio]
recovery = true
"""

PAGE = """<!doctype html>
<link rel="icon" href="data:,">
<script src="/socket.io/socket.io.js"></script>
<script type="module" src="page.js"></script>
"""

SCRIPT = """
import { play } from './socketio_story.mjs';
const said = (window.said = []);
window.start = (namespace, transports) => {
  play(io, '/', namespace, transports, (...line) => said.push(line));
};
"""

SCRIPT_OF_THE_PAGE = block_with("docs/socketio.md", "/socket.io/socket.io.js")
ACKNOWLEDGEMENT = block_with("docs/socketio.md", 'socket.on("choose"')

TRANSPORTS = [("polling",), ("websocket",), ("polling", "websocket")]
NODE, CHROMIUM, PYTHON, PYTHON_ASYNC = "node", "chromium", "Client", "AsyncClient"
CLIENTS = [
    (kind, transports)
    for kind in (NODE, CHROMIUM, PYTHON, PYTHON_ASYNC)
    for transports in TRANSPORTS
]

Line = tuple[str, Any]


def namespace(kind: str, transports: tuple[str, ...]) -> str:
    return "-".join((kind, *transports))


class Program:
    """A client in a process, which prints a line for each event."""

    def __init__(self, *command: str):
        folder = CHECKOUT / "tests" / "node" if command[0] == "node" else CHECKOUT
        self._lines = Lines(command, folder=folder)

    def next(self) -> list[Line]:
        return [tuple(json.loads(self._lines.next()))]

    def close(self) -> None:
        self._lines.close()


class Tab:
    """A client in a page."""

    def __init__(self, page: Page, *arguments: object):
        self._page = page
        page.wait_for_function("() => window.start")
        page.evaluate("([namespace, transports]) => start(namespace, transports)", arguments)

    def next(self) -> list[Line]:
        self._page.wait_for_function("() => said.length > 0")
        return [(name, value) for name, value in self._page.evaluate("() => said.splice(0)")]

    def close(self) -> None:
        """Its page is closed with the others."""


def until(client: Program | Tab, *last: str | Line) -> list[Line]:
    """The next lines, up to all of these: names, or names with their values."""
    lines: list[Line] = []
    missing = set(last)
    while missing:
        try:
            more = client.next()
        except Exception as error:
            error.add_note(f"after {lines}, without {missing}")
            raise
        lines += more
        missing -= {name for name, _ in more}
        missing -= {line for line in more if isinstance(line[1], (str, bool))}
    return lines


class Heard(NamedTuple):
    """The lines of a client: its story, and those during and after the restart."""

    story: dict[str, Any]
    after: list[Line]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("socketio")
    (folder / "application.py").write_text(APP)
    (folder / "server.toml").write_text(CONFIG)
    (folder / "pages").mkdir()
    (folder / "pages" / "index.html").write_text(PAGE)
    (folder / "pages" / "script.html").write_text(SCRIPT_OF_THE_PAGE.text)
    (folder / "pages" / "page.js").write_text(SCRIPT)
    story = (CHECKOUT / "tests" / "node" / "socketio_story.mjs").read_text()
    (folder / "pages" / "socketio_story.mjs").write_text(story)
    arguments = ("--app", "application:app", "--config", "server.toml")
    with running(Server(folder, *arguments)) as server:
        yield server


@pytest.fixture(scope="module")
def heard(server: Server, browser: Browser) -> Iterator[dict[str, Heard]]:
    with ExitStack() as stack:
        visits = stack.enter_context(closing(Visits(browser, server.url)))
        yield play_all(server, visits, stack)


def play_all(server: Server, visits: Visits, stack: ExitStack) -> dict[str, Heard]:
    clients: dict[str, Program | Tab] = {}
    for kind, transports in CLIENTS:
        name = namespace(kind, transports)
        command: tuple[str, ...] = (server.url, name, *transports)
        if kind == CHROMIUM:
            clients[name] = Tab(visits.open(), name, list(transports))
        elif kind == NODE:
            clients[name] = stack.enter_context(closing(Program("node", "socketio.mjs", *command)))
        else:
            module = (sys.executable, "-m", "tests.e2e.socketio_client", kind)
            clients[name] = stack.enter_context(closing(Program(*module, *command)))
    stories = {name: until(client, "ready") for name, client in clients.items()}
    assert visits.problems == []
    for name in clients:
        publish(server, f"{name}?event=published", "first")
    first = {name: until(client, ("published", "first")) for name, client in clients.items()}
    server.stop()
    after = {name: until(client, "disconnect") for name, client in clients.items()}
    server.start()
    for word in ("missed", "last"):
        for name in clients:
            publish(server, f"{name}?event=published", word)
            publish(server, f"{name}-quiet?event=published", word)
        if word == "missed":
            for name, client in clients.items():
                after[name] += until(client, "connect", "quiet connect")
    for name, client in clients.items():
        after[name] += until(client, ("published", "last"), ("quiet", "last"))
    return {name: Heard(dict(stories[name] + first[name]), after[name]) for name in clients}


def test_scripts_of_the_document_have_events_and_acknowledge(
    server: Server, browser: Browser
) -> None:
    with closing(Visits(browser, server.url)) as visits:
        visits.allow(NO_ICON)
        page = visits.open("script.html")
        with page.expect_console_message() as logged:
            publish(server, "numbers?event=newnumber", {"number": 3})
        assert logged.value.text == "{number: 3}"
        assert (
            page.evaluate(
                """(text) => {
                let answer;
                const socket = {on: (event, f) => f(["black", "white"], (given) => answer = given)};
                new Function("socket", text)(socket);
                return answer;
            }""",
                ACKNOWLEDGEMENT.text,
            )
            == "black"
        )
    assert visits.problems == []


@pytest.fixture
def lines(request: pytest.FixtureRequest, heard: dict[str, Heard]) -> Heard:
    return heard[namespace(*request.param)]


def each(*kinds: str) -> Callable[..., Any]:
    """Run a test with each client of these kinds."""
    chosen = [client for client in CLIENTS if client[0] in kinds]
    return pytest.mark.parametrize(
        "lines", chosen, ids=[namespace(*client) for client in chosen], indirect=True
    )


@each(NODE, CHROMIUM, PYTHON, PYTHON_ASYNC)
def test_client_has_events_acknowledgements_bytes_and_namespaces(
    lines: Heard, request: pytest.FixtureRequest
) -> None:
    story = lines.story
    assert story["transport"] == request.node.callspec.params["lines"][1][-1]
    assert story["welcome"] == {"hello": "ada"}
    assert story["same"] == {"bytes": [0, 30, 255], "text": "gr\u00fcn", "list": [1, [None]]}
    assert story["blob"] == [1, 2, 0, 255]
    assert story["asked"] == [{"n": 2}, {"n": 3}, ["bc", "and", "abc"]]
    assert story["refused"] == "operation has timed out"
    assert story["count"] is True
    assert story["publish"] is True
    assert story["other"] == ["x", "y"]
    assert story["published"] == "first"


@each(NODE, CHROMIUM)
def test_client_has_many_acknowledgements_and_time_outs(lines: Heard) -> None:
    story = lines.story
    assert story["acknowledged"] is True
    assert story["late"] == "the client did not acknowledge 'silence' in 0.1 seconds"
    assert story["reconnected"] is True


@each(NODE, CHROMIUM)
def test_client_is_recovered_after_a_restart_with_exactly_what_it_missed(lines: Heard) -> None:
    for event, connect in (("published", "connect"), ("quiet", "quiet connect")):
        own = [line for line in lines.after if line[0] in (event, connect)]
        assert own == [(connect, True), (event, "missed"), (event, "last")]
    reasons = [value for name, value in lines.after if name == "disconnect"]
    assert len(reasons) == 1
    assert reasons[0] in ("transport close", "transport error")


@each(PYTHON, PYTHON_ASYNC)
def test_python_client_reconnects_after_a_restart(lines: Heard) -> None:
    for event, connect in (("published", "connect"), ("quiet", "quiet connect")):
        # Client handles each event in a thread of its own, so it does not keep their order.
        assert "last" in {value for name, value in lines.after if name == event}
        assert (connect, False) in lines.after
