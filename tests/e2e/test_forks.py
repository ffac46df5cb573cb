"""Applications that fork: calls of the child are refused, and the server continues."""

from __future__ import annotations

import json
import signal
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.client import ClientConnection

from tests.e2e.conditions import wait_until
from tests.e2e.exchange import data, history, publish
from tests.e2e.server import Server
from tests.e2e.sockets import dial, objects

MODES = ["sync", "batched"]
APP = '''
import json
import multiprocessing
import os
import sys
from pathlib import Path

from pushserver import PushServer

app = PushServer()


def attempt(call):
    try:
        call()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "nothing was raised"


def child(path, client=None, feed=None):
    """Try every call, and write down the errors."""
    errors = [attempt(lambda: app.publish("c", "forged")), attempt(lambda: app.send("forged"))]
    if client is not None:
        errors.append(attempt(lambda: client.send("forged")))
        errors.append(attempt(lambda: client.join("forged")))
        errors.append(attempt(lambda: client.leave("c")))
        errors.append(attempt(lambda: client.disconnect("forged")))
    if feed is not None:
        errors.append(attempt(lambda: feed.publish("forged")))
        errors.append(attempt(lambda: feed.remember("forged")))
    # Renamed, so that a reader finds a whole file.
    Path(f"{path}.{os.getpid()}").write_text(json.dumps([os.getpid(), errors]))
    os.replace(f"{path}.{os.getpid()}", path)


def start(method, name, **what):
    """Start a child and wait for its end; return its status."""
    path = f"{method}-{name}.json"
    if method == "os.fork":
        pid = os.fork()
        if not pid:
            try:
                child(path, **what)
            finally:
                os._exit(0)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if method == "spawn":
        what = {}
    process = multiprocessing.get_context(method).Process(target=child, args=(path,), kwargs=what)
    process.start()
    process.join()
    return process.exitcode


@app.on("inline", thread=False)
def inline(client, method):
    return start(method, "inline", client=client)


@app.on("plain")
def plain(client, method):
    return start(method, "plain", client=client)


@app.on("async")
async def asynchronous(client, method):
    return start(method, "async", client=client)


# How sources start a child; None: not at all.
method_of_sources = None


@app.on("sources", thread=False)
def sources(client, method):
    global method_of_sources
    method_of_sources = method


@app.source("status", every=0.05, name="source in a thread")
def in_thread():
    return None if method_of_sources is None else start(method_of_sources, "thread")


@app.source("status", every=0.05, thread=False, name="source on the reactor")
def on_reactor():
    return None if method_of_sources is None else start(method_of_sources, "reactor")


@app.source("status")
async def with_feed(feed):
    while method_of_sources is None:
        await feed.sleep(0.05)
    await feed.publish(start(method_of_sources, "feed", feed=feed))


@app.on("c")
def publish(client, value):
    return app.publish("c", value).offset


@app.on("returns", thread=False)
def returns(client, value):
    return fall_through(value)


@app.on("returns in a thread")
def returns_in_thread(client, value):
    return fall_through(value)


@app.on("returns async")
async def returns_async(client, value):
    return fall_through(value)


def fall_through(value):
    """Like `start`, but the child returns from this function."""
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if value is not None:
        sys.exit(value)
    return "forged"
'''
HANDLERS = ("inline", "plain", "async")
SOURCES = ("thread", "reactor", "feed")


class Caller:
    """A client that calls handlers."""

    def __init__(self, client: ClientConnection):
        self._client = client
        self._id = 0
        self.pushed: list[Any] = []
        self._ask("connect", {})

    def call(self, event: str, value: object = None) -> Any:
        """Call a handler; return its answer."""
        return self._ask("rpc", {"method": event, "data": value})["data"]

    def _ask(self, method: str, what: object) -> Any:
        self._id += 1
        self._client.send(json.dumps({"id": self._id, method: what}))
        while True:
            for reply in objects(self._client):
                if reply.get("id") == self._id:
                    return reply[method]
                if "push" in reply:
                    self.pushed.append(reply)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "forks.py").write_text(APP)
    return tmp_path


def server_of(folder: Path, durability: str) -> Server:
    config = folder / "pushserver.toml"
    config.write_text(f'[store]\npath = "s.db"\ndurability = "{durability}"\n')
    return Server(folder, "--app", "forks:app", "--config", str(config))


@pytest.mark.parametrize(
    ("method", "durability"),
    # A process that is spawned has no copy of the store.
    [*product(("fork", "os.fork"), MODES), ("spawn", "sync")],
)
def test_calls_of_a_child_are_refused_and_the_parent_continues(
    folder: Path, method: str, durability: str
) -> None:
    server = server_of(folder, durability)
    try:
        server.start()
        epoch = publish(server, "c", 1)["epoch"]
        with dial(server, "connection/websocket") as client:
            caller = Caller(client)
            for n, name in enumerate(HANDLERS):
                assert caller.call(name, method) == 0
                check(folder, server, method, name, 6)
                # The offsets have no gap.
                assert caller.call("c", n + 2) == n + 2
            caller.call("sources", method)
            wait_until(lambda: all((folder / f"{method}-{name}.json").exists() for name in SOURCES))
            caller.call("sources")
            wait_until(lambda: len(data(history(server, "status"))) >= len(SOURCES))
            for name in SOURCES:
                check(folder, server, method, name, 4 if name == "feed" else 2)
            assert publish(server, "c", 5)["offset"] == 5
            assert caller.pushed == []
        before = history(server, "c")
        assert data(before) == [1, 2, 3, 4, 5]
        assert [row["offset"] for row in before["publications"]] == [1, 2, 3, 4, 5]
        assert before["epoch"] == epoch
        assert set(data(history(server, "status"))) == {0}
        assert server.stop() == -signal.SIGTERM
        server.start()
        assert history(server, "c") == before
        assert publish(server, "c", 6)["offset"] == 6
        assert server.stop() == -signal.SIGTERM
        assert server.problems == []
    finally:
        server.kill()


def check(folder: Path, server: Server, method: str, name: str, tries: int) -> None:
    """Check that each call of the child was refused."""
    pid, errors = json.loads((folder / f"{method}-{name}.json").read_text())
    assert pid != server.pid
    if method == "spawn":
        assert len(errors) == 2
        assert all(
            text.startswith("NotRunning: no server runs this application") for text in errors
        )
    else:
        assert len(errors) == tries
        assert all("NotRunning: this is a forked process of the server" in text for text in errors)
        assert all("pushserver.publish(" in text for text in errors)


@pytest.mark.parametrize("durability", MODES)
def test_child_that_returns_to_the_server_is_ended(folder: Path, durability: str) -> None:
    server = server_of(folder, durability)
    try:
        server.start()
        with dial(server, "connection/websocket") as client:
            caller = Caller(client)
            for n, name in enumerate(("returns", "returns in a thread", "returns async")):
                assert caller.call(name) == 1
                assert caller.call(name, 0) == 0
                assert caller.call(name, 3) == 3
                assert caller.call("c", n) == n + 1
        assert data(history(server, "c")) == [0, 1, 2]
        assert server.log.count("returned from the function that forked it") == 3
        assert server.stop() == -signal.SIGTERM
        assert server.problems == []
    finally:
        server.kill()
