"""httpx and aiohttp in the handlers and sources of an application that knows no reactor."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from tests.e2e.blocks import block_with
from tests.e2e.conditions import wait_until
from tests.e2e.exchange import LINES, Reading, data, history
from tests.e2e.patience import PATIENCE
from tests.e2e.server import Server, environment, running
from tests.e2e.test_serve import SERVE
from tests.e2e.watcher import Commanded
from tests.http_server import HttpServer, Quiet

LIBRARIES = {
    "httpx": """
import httpx

TIMEOUT = httpx.TimeoutException


def make(url):
    return httpx.AsyncClient(base_url=url, trust_env=False)


async def close(client):
    await client.aclose()


async def fetch(client, path, seconds=None):
    return (await client.get(path, timeout=seconds)).json()


async def lines(client, path):
    async with client.stream("GET", path, timeout=None) as response:
        async for line in response.aiter_lines():
            yield line
""",
    "aiohttp": """
import aiohttp

TIMEOUT = TimeoutError


def make(url):
    return aiohttp.ClientSession(url)


async def close(client):
    await client.close()


async def fetch(client, path, seconds=None):
    async with client.get(path, timeout=aiohttp.ClientTimeout(seconds)) as response:
        return await response.json()


async def lines(client, path):
    async with client.get(path, timeout=aiohttp.ClientTimeout(None)) as response:
        async for line in response.content:
            yield line
""",
}
APP = """
import asyncio
import json
import os

from library import TIMEOUT, close, fetch, lines, make
from pushserver import PushServer

app = PushServer()
tasks = set()


@app.on("start")
async def start():
    global client
    client = make(os.environ["UPSTREAM"])


@app.on("stop")
async def stop():
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await close(client)
    await app.publish("life", "stopped")


@app.source("streamed")
async def streamed(feed):
    try:
        async for line in lines(client, "/stream"):
            await feed.publish(json.loads(line))
    except asyncio.CancelledError:
        await app.publish("life", "stream cancelled")
        raise


@app.source("polled", every=0.05)
async def polled():
    return await fetch(client, "/echo/7")


@app.on("ask")
async def ask(who, number):
    return await fetch(client, f"/echo/{number}")


@app.on("together")
async def together(who, most):
    async with asyncio.TaskGroup() as group:
        found = [group.create_task(fetch(client, f"/echo/{n}")) for n in range(most)]
    return [task.result() for task in found]


@app.on("late")
async def late(who):
    try:
        async with asyncio.timeout(0.05):
            await fetch(client, "/never")
    except TimeoutError:
        return "timed out"


@app.on("late in the library")
async def late_in_the_library(who):
    try:
        await fetch(client, "/never", 0.05)
    except TIMEOUT:
        return "timed out"


@app.on("hang")
async def hang(who):
    try:
        await fetch(client, "/never")
    except asyncio.CancelledError:
        await app.publish("life", "handler cancelled")
        raise


async def outlives(path):
    try:
        await app.publish("background", await fetch(client, path))
    except asyncio.CancelledError:
        await app.publish("life", "task cancelled")
        raise


@app.on("background")
async def background(who, path):
    task = asyncio.create_task(outlives(path))
    tasks.add(task)
    task.add_done_callback(tasks.discard)
    return "begun"
"""

EPOLL = """
import os

from library import close, fetch, make
from pushserver import PushServer

app = PushServer()


@app.source("ticks", every=0.05)
async def tick():
    client = make(os.environ["UPSTREAM"])
    try:
        return await fetch(client, "/echo/1")
    finally:
        await close(client)


@app.source("plain", every=0.05)
def plain():
    return 1
"""


class Upstream(HttpServer):
    """Another server: `/echo/N`, `/stream` of lines, `/gate` waits for `gate`, `/never` always."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.over = threading.Event()
        upstream = self

        class Answers(Quiet, BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if self.path == "/never":
                    upstream.over.wait()
                if self.path == "/gate":
                    upstream.gate.wait(PATIENCE)
                number = self.path.rpartition("/")[2]
                body = number.encode() if number.isdigit() else b"1"
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                if self.path != "/stream":
                    self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body if self.path != "/stream" else b"1\n2\n3\n")
                self.wfile.flush()
                if self.path == "/stream":
                    upstream.over.wait()

        super().__init__(Answers)

    def close(self) -> None:
        self.gate.set()
        self.over.set()
        super().close()


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with closing(Upstream()) as upstream:
        yield upstream


class Served(Server):
    """`pushserver serve app.py`."""

    def __init__(self, folder: Path, library: str, upstream: Upstream, *options: str):
        (folder / "app.py").write_text(APP)
        (folder / "library.py").write_text(LIBRARIES[library])
        super().__init__(folder, env=environment(UPSTREAM=upstream.url))
        self._command = [*SERVE[:-1], str(self.port), "app.py", *options]


@pytest.mark.parametrize("library", LIBRARIES)
def test_library_works_in_sources_and_handlers(
    tmp_path: Path, upstream: Upstream, library: str
) -> None:
    with (
        running(Served(tmp_path, library, upstream)) as server,
        closing(Commanded(server)) as client,
        closing(Reading(server, "channels/life?since=oldest", LINES)) as life,
    ):
        client.next("connected")
        assert server.get("channels/streamed?since=oldest&wait=20").status == 200
        assert server.get("channels/polled?since=oldest&wait=20").status == 200
        assert client.ask("rpc", "ask", 5)["data"] == 5
        assert client.ask("rpc", "together", 20)["data"] == list(range(20))
        assert client.ask("rpc", "late", None)["data"] == "timed out"
        assert client.ask("rpc", "late in the library", None)["data"] == "timed out"

        # A task outlives its handler.
        assert client.ask("rpc", "background", "/gate")["data"] == "begun"
        assert data(history(server, "background")) == []
        upstream.gate.set()
        assert server.get("channels/background?since=oldest&wait=20").status == 200
        assert data(history(server, "background")) == [1]

        # The stop cancels the source, and the handler of `stop` its task.
        assert client.ask("rpc", "background", "/never")["data"] == "begun"
        wait_until(lambda: data(history(server, "streamed")) == [1, 2, 3])
        assert set(data(history(server, "polled"))) == {7}
        life.object()
        assert server.stop() == -signal.SIGTERM
        ends = [life.object()["data"] for _ in range(3)]
        assert ends == ["stream cancelled", "task cancelled", "stopped"]


@pytest.mark.parametrize("library", LIBRARIES)
def test_late_handler_is_cancelled_and_the_client_of_the_library_stays_usable(
    tmp_path: Path, upstream: Upstream, library: str
) -> None:
    (tmp_path / "push.toml").write_text("[limits]\nhandler_seconds = 0.3\n")
    with (
        running(Served(tmp_path, library, upstream, "--config", "push.toml")) as server,
        closing(Commanded(server)) as client,
    ):
        client.next("connected")
        assert "did not answer" in client.ask("rpc", "hang", None)["message"]
        assert server.get("channels/life?since=oldest&wait=20").status == 200
        assert data(history(server, "life")) == ["handler cancelled"]
        # On a busy machine this call may be late, too.
        wait_until(lambda: client.ask("rpc", "ask", 5).get("data") == 5)


@pytest.mark.parametrize("library", LIBRARIES)
def test_on_another_reactor_the_log_says_which_one_is_needed(
    tmp_path: Path, upstream: Upstream, library: str
) -> None:
    server = Served(tmp_path, library, upstream, "--reactor", "epoll")
    (tmp_path / "app.py").write_text(EPOLL)
    try:
        server.start()
        wait_until(lambda: "source tick: a tick failed" in server.log)
        wait_until(lambda: "pushserver serve without --reactor" in server.log)
        # The others are not disturbed.
        assert server.get("channels/plain?since=oldest&wait=20").status == 200
        assert server.stop() == -signal.SIGTERM
    finally:
        server.kill()


def test_task_of_the_document_outlives_its_handler_and_is_cancelled_at_the_stop(
    tmp_path: Path, upstream: Upstream
) -> None:
    block = block_with("docs/applications.md", "feeds = PushServer()")
    server = Served(tmp_path, "httpx", upstream)
    (tmp_path / "app.py").write_text(f"from pushserver import PushServer\n{block.text}")
    with running(server), closing(Commanded(server)) as client:
        channel = f"countdown:{client.next('connected')['client']}"
        client.ask("rpc", "count down", 1)
        wait_until(lambda: data(history(server, channel)) == [1, 0])
        client.ask("rpc", "count down", 60)
        wait_until(lambda: data(history(server, channel)) == [1, 0, 60])
