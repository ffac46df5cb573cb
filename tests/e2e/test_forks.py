"""Applications that fork: what the child asks of the server is refused, and the server goes on."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.client import ClientConnection

from tests.e2e.exchange import data, history, publish
from tests.e2e.following import wait_until
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


def tried(call):
    try:
        call()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "nothing was raised"


def child(path, client=None, feed=None):
    """What comes of all that a child may try."""
    told = [tried(lambda: app.publish("c", "forged")), tried(lambda: app.send("forged"))]
    if client is not None:
        told.append(tried(lambda: client.send("forged")))
        told.append(tried(lambda: client.join("forged")))
        told.append(tried(lambda: client.leave("c")))
        told.append(tried(lambda: client.disconnect("forged")))
    if feed is not None:
        told.append(tried(lambda: feed.publish("forged")))
        told.append(tried(lambda: feed.remember("forged")))
    Path(path).write_text(json.dumps([os.getpid(), told]))


def begin(way, name, **what):
    """Begin a child, and wait for its end; its status."""
    path = f"{way}-{name}.json"
    if way == "os.fork":
        pid = os.fork()
        if not pid:
            try:
                child(path, **what)
            finally:
                os._exit(0)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if way == "spawn":
        what = {}
    process = multiprocessing.get_context(way).Process(target=child, args=(path,), kwargs=what)
    process.start()
    process.join(30)
    return process.exitcode


@app.on("inline", thread=False)
def inline(client, way):
    return begin(way, "inline", client=client)


@app.on("plain")
def plain(client, way):
    return begin(way, "plain", client=client)


@app.on("async")
async def asynchronous(client, way):
    return begin(way, "async", client=client)


# What is begun in a source; None for nothing.
way_of_sources = None


@app.on("sources", thread=False)
def sources(client, way):
    global way_of_sources
    way_of_sources = way


@app.source("status", every=0.05, name="source in a thread")
def in_thread():
    return None if way_of_sources is None else begin(way_of_sources, "thread")


@app.source("status", every=0.05, thread=False, name="source on the reactor")
def on_reactor():
    return None if way_of_sources is None else begin(way_of_sources, "reactor")


@app.source("status")
async def with_feed(feed):
    while way_of_sources is None:
        await feed.sleep(0.05)
    await feed.publish(begin(way_of_sources, "feed", feed=feed))


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
    """As `begin`, but the child goes back to where it was called."""
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
        """What the handler answers."""
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


@pytest.mark.parametrize("durability", MODES)
@pytest.mark.parametrize("way", ["fork", "os.fork", "spawn"])
def test_a_child_is_told_and_its_parent_goes_on(folder: Path, way: str, durability: str) -> None:
    server = server_of(folder, durability)
    try:
        server.start()
        epoch = publish(server, "c", 1)["epoch"]
        with dial(server, "connection/websocket") as client:
            caller = Caller(client)
            for n, name in enumerate(HANDLERS):
                assert caller.call(name, way) == 0
                check(folder, server, way, name, 6)
                # The next offset, as if nothing had been.
                assert caller.call("c", n + 2) == n + 2
            caller.call("sources", way)
            wait_until(lambda: all((folder / f"{way}-{name}.json").exists() for name in SOURCES))
            caller.call("sources")
            for name in SOURCES:
                check(folder, server, way, name, 4 if name == "feed" else 2)
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


def check(folder: Path, server: Server, way: str, name: str, tries: int) -> None:
    """Whether the child was told each time that it tried something."""
    path = folder / f"{way}-{name}.json"
    wait_until(path.read_text)
    pid, told = json.loads(path.read_text())
    assert pid != server.pid
    if way == "spawn":
        assert len(told) == 2
        assert all(text.startswith("NotRunning: no server runs this application") for text in told)
    else:
        assert len(told) == tries
        assert all("NotRunning: this is a forked process of the server" in text for text in told)
        assert all("pushserver.publish(" in text for text in told)


@pytest.mark.parametrize("durability", MODES)
def test_a_child_that_returns_to_the_server_is_ended(folder: Path, durability: str) -> None:
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
