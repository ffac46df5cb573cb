"""An application under twistd, with the official client in Node and Chromium."""

from __future__ import annotations

import signal
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from tests.e2e.conditions import wait_until
from tests.e2e.exchange import data, history, publish
from tests.e2e.server import TWISTD, Server, run_twistd
from tests.e2e.visits import Visits
from tests.e2e.watcher import Commanded

CHAT = """
from pushserver import PushServer, Refused

app = PushServer()


@app.on("connect")
def connect(client, data):
    name = data.get("name") if isinstance(data, dict) else None
    if not name:
        raise Refused("a name, please")
    client.state["name"] = name
    client.join("chat:lobby")
    client.send("welcome", event="note")
    return {"hello": name}


@app.on("disconnect")
def disconnect(client, reason):
    app.publish("gone", [client.state["name"], reason])


@app.on("say", namespace="chat")
async def say(client, text):
    receipt = await app.publish("chat:lobby", [client.state["name"], text], event="said")
    return receipt.offset


@app.on("enter", namespace="chat")
def enter(client, room):
    client.join(f"chat:{room}")
    return room


@app.on("exit", namespace="chat")
def leave(client, room):
    client.leave(f"chat:{room}")


@app.on("message")
def message(client, text):
    client.send(text.upper())


@app.on("json")
def everybody(client, value):
    app.send(value, event="all")


@app.on("subscribe", namespace="secret")
async def subscribe(client, channel):
    raise Refused("members only", 1403)


@app.on("fail")
def fail(client):
    raise LookupError("of the application")


@app.on("odd", thread=False)
def odd(client):
    return object()


@app.on("out")
def out(client):
    client.disconnect("enough", 4501)
"""
STORE = '[store]\npath = "s.db"\n'
LIBRARY = "/static/vendor/centrifuge-5.8.0/centrifuge.js"


@contextmanager
def running(folder: Path, app: str, *options: str, **more: Any) -> Iterator[Server]:
    """A server in a folder with the application in `chat.py`."""
    (folder / "chat.py").write_text(app)
    server = Server(folder, "--app", "chat:app", *options, **more)
    try:
        yield server.start()
        if server.running:
            assert server.stop() == -signal.SIGTERM
    finally:
        server.kill()


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One chat for all tests of the module."""
    with running(tmp_path_factory.mktemp("chat"), CHAT) as server:
        yield server


class TestInNode:
    def test_a_client_connects_and_gets_answers_and_messages(self, chat: Server) -> None:
        with closing(Commanded(chat, {"name": "Ada"})) as ada:
            connected = ada.next("connected")
            assert connected["data"] == {"hello": "Ada"}
            assert ada.next("message")["data"] == {"event": "note", "data": "welcome"}
            with closing(Commanded(chat, {"name": "Bob"})) as bob:
                bob.next("subscribed")
                ada.do("rpc", "chat:say", "hi")
                said = bob.next("publication")
                assert (said["channel"], said["data"], said["tags"]) == (
                    "chat:lobby",
                    ["Ada", "hi"],
                    {"event": "said"},
                )
                assert ada.next("answer")["data"] == said["offset"]
                ada.do("send", "x")
                assert ada.next("message")["data"] == "X"
                ada.do("send", {"a": 1})
                for client in (ada, bob):
                    told = client.next("message")["data"]
                    while told == {"event": "note", "data": "welcome"}:
                        told = client.next("message")["data"]
                    assert told == {"event": "all", "data": {"a": 1}}

    def test_the_application_puts_a_client_into_a_room_and_removes_it(self, chat: Server) -> None:
        for n in range(3):
            publish(chat, "chat:den", n)
        with closing(Commanded(chat, {"name": "Ada"})) as ada:
            ada.next("subscribed")
            ada.do("rpc", "chat:enter", "den")
            assert ada.next("subscribed")["channel"] == "chat:den"
            assert [ada.next("publication")["data"] for _ in range(3)] == [0, 1, 2]
            assert ada.next("answer")["data"] == "den"
            publish(chat, "chat:den", 3)
            assert ada.next("publication")["data"] == 3
            ada.do("rpc", "chat:exit", "den")
            assert ada.next("unsubscribed")["channel"] == "chat:den"

    def test_a_refusal_has_its_reason(self, chat: Server) -> None:
        with closing(Commanded(chat)) as nobody:
            assert nobody.next("disconnected") == {"code": 4500, "reason": "a name, please"}
        with closing(Commanded(chat, {"name": "Ada"})) as ada:
            ada.next("subscribed")
            ada.do("subscribe", "secret:plans")
            assert ada.next("own unsubscribed") == {
                "channel": "secret:plans",
                "code": 1403,
                "reason": "members only",
            }
            # Programs on this machine cannot read around the application either.
            assert chat.get("channels/secret:plans").status == 403
            assert chat.get("channels/secret:plans", "text/event-stream").status == 403
            assert chat.get("channels/secret:plans", "text/html").status == 200
            assert chat.get("channels/chat:lobby").status == 200
            assert ada.ask("rpc", "nothing", None)["code"] == 108
            failed = {"code": 100, "message": "the application failed"}
            assert ada.ask("rpc", "fail", None) == failed
            assert ada.ask("rpc", "odd", None)["code"] == 100
            assert ada.ask("rpc", "chat:enter", "open")["data"] == "open"
            ada.do("rpc", "out", None)
            assert ada.next("disconnected") == {"code": 4501, "reason": "enough"}
        # The handler of `disconnect` is called in a thread.
        wait_until(lambda: ["Ada", "enough"] in data(history(chat, "gone")))
        assert None not in [name for name, _ in data(history(chat, "gone"))]
        # The traceback has frames of the application only.
        _, _, told = chat.log.partition("the handler fail failed\n")
        lines = [line.removeprefix("|").strip() for line in told.splitlines()[:5]]
        assert lines[0] == "Traceback (most recent call last):"
        assert lines[1].endswith('chat.py", line 57, in fail')
        assert lines[2:4] == [
            'raise LookupError("of the application")',
            "builtins.LookupError: of the application",
        ]

    def test_a_client_recovers_its_room_after_a_restart(self, tmp_path: Path) -> None:
        (tmp_path / "push.toml").write_text(STORE)
        with (
            running(tmp_path, CHAT, "--config", "push.toml") as server,
            closing(Commanded(server, {"name": "Ada"})) as ada,
        ):
            ada.next("subscribed")
            publish(server, "chat:lobby", 1)
            assert ada.next("publication")["data"] == 1
            server.stop()
            server.start()
            for n in (2, 3):
                publish(server, "chat:lobby", n)
            again = ada.next("subscribed")
            assert (again["wasRecovering"], again["recovered"]) == (True, True)
            publish(server, "chat:lobby", 4)
            rows = [ada.next("publication") for _ in range(3)]
            assert [(row["offset"], row["data"]) for row in rows] == [(2, 2), (3, 3), (4, 4)]
            server.stop()
            # A stop makes no handler fail, and each handler was called.
            assert server.problems == []
            assert server.log.count("the server is shutting down") == 2


class TestInChromium:
    @pytest.fixture
    @staticmethod
    def page(chat: Server, browser: Browser) -> Iterator[Page]:
        visits = Visits(browser, chat.url)
        page = visits.open("channels/chat:lobby")
        yield page
        visits.close()
        assert visits.problems == []

    def test_a_page_of_the_server_is_one_of_its_clients(self, chat: Server, page: Page) -> None:
        heard = page.evaluate(
            """
            async () => {
                const url = `ws://${location.host}/connection/websocket`;
                const client = new Centrifuge(url, { data: { name: 'Eve' } });
                const heard = [];
                for (const event of ['connected', 'message', 'subscribed', 'publication']) {
                    client.on(event, ({ channel = '', data = null }) =>
                        heard.push([event, channel, data]));
                }
                client.connect();
                await client.ready();
                const { data: offset } = await client.rpc('chat:say', 'from a browser');
                client.send('x');
                const refused = await client.rpc('fail', null).catch(error => error.message);
                await client.rpc('chat:enter', 'attic');
                client.disconnect();
                return { heard, offset, refused };
            }
            """
        )
        found = [tuple(one) for one in heard["heard"] if one[0] != "publication"]
        assert found == [
            ("connected", "", {"hello": "Eve"}),
            ("subscribed", "chat:lobby", None),
            ("message", "", {"event": "note", "data": "welcome"}),
            ("message", "", "X"),
            ("subscribed", "chat:attic", None),
        ]
        assert ["publication", "chat:lobby", ["Eve", "from a browser"]] in heard["heard"]
        assert heard["offset"] > 0
        assert heard["refused"] == "the application failed"

    def test_the_page_of_a_channel_is_refused_too(self, page: Page) -> None:
        # It sends no data when it connects.
        page.wait_for_function("() => document.querySelector('#state').dataset.state === 'closed'")
        assert "a name, please" in page.inner_text("body")


THREADS = """
import threading
from concurrent.futures import ThreadPoolExecutor
from pushserver import PushServer, Unavailable

app = PushServer()
COUNT = 50


class Library:
    '''Calls back on a thread of its own, as MQTT or GPIO libraries do.'''

    def __init__(self, callback):
        self.callback = callback

    def start(self):
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def stop(self):
        self.thread.join()

    def _run(self):
        for n in range(COUNT):
            self.callback(n)


def work(name):
    for n in range(COUNT):
        app.publish("all", [name, n])


def wrong():
    found = []
    for channel, value in (("a b", 1), ("all", object()), ("all", float("nan"))):
        try:
            app.publish(channel, value)
        except ValueError as error:
            found.append(type(error).__name__)
    app.publish("wrong", found)


@app.on("connect")
def begin():
    threads = [threading.Thread(target=work, args=(f"thread {n}",)) for n in range(3)]
    threads.append(threading.Thread(target=wrong))
    for thread in threads:
        thread.start()
    library = Library(lambda n: app.publish("all", ["library", n]))
    library.start()
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(work, [f"pool {n}" for n in range(6)]))
    for thread in threads:
        thread.join()
    library.stop()
    return "done"


@app.on("for ever")
def for_ever():
    # Not a daemon: the thread runs until publishing fails.
    def publish():
        try:
            while True:
                app.publish("for-ever", 1)
        except (Unavailable, RuntimeError):
            pass

    threading.Thread(target=publish).start()
"""
NAMES = ["library", *(f"thread {n}" for n in range(3)), *(f"pool {n}" for n in range(6))]


def test_publications_of_threads_are_complete_and_in_order(tmp_path: Path) -> None:
    # The stop ends within the limit of the test only if it does not wait for the publisher.
    config = "[defaults]\nhistory_size = 1000\n[limits]\ndrain_seconds = 600\n"
    (tmp_path / "push.toml").write_text(config)
    with (
        running(tmp_path, THREADS, "--config", "push.toml") as server,
        closing(Commanded(server)) as client,
    ):
        assert client.next("connected")["data"] == "done"
        came: dict[str, list[int]] = defaultdict(list)
        for name, n in data(history(server, "all")):
            came[name].append(n)
        assert came == {name: list(range(50)) for name in NAMES}
        assert data(history(server, "wrong")) == [["InvalidName", "InvalidData", "InvalidData"]]
        client.ask("rpc", "for ever", None)
        server.stop()
        assert server.problems == []


ASYNCIO = """
import asyncio
import threading
from pushserver import PushServer
from twisted.internet.defer import Deferred

app = PushServer()


@app.on("count")
async def count(client, most):
    async def one(n):
        await asyncio.sleep(0.001 * (most - n))
        return (await app.publish("counted", n)).offset

    offsets = await asyncio.gather(*(asyncio.create_task(one(n)) for n in range(most)))
    offsets.append((await asyncio.to_thread(app.publish, "counted", most)).offset)
    return offsets


@app.on("wrong")
async def wrong(client):
    async def publish():
        await app.publish("counted", object())

    try:
        await asyncio.create_task(publish())
    except ValueError as error:
        return str(error)


@app.on("in a task")
async def in_a_task(client):
    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        one = group.create_task(asyncio.sleep(0.001, 1))
    offset = (await app.publish("grouped", one.result())).offset
    try:
        async with asyncio.timeout(0.001):
            await Deferred()
    except TimeoutError:
        return offset


@app.source("grouped_source")
async def grouped(feed):
    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        one = group.create_task(asyncio.sleep(0.001, 1))
    await feed.publish(one.result())


@app.source("grouped_values", every=0.05)
async def grouped_values():
    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        one = group.create_task(asyncio.sleep(0.001, 1))
    yield one.result()
    app.publish("waits", 1)
    try:
        await asyncio.sleep(60)
    finally:
        async with asyncio.timeout(5):
            await asyncio.sleep(0)
        app.publish("life", "closed")


@app.on("start")
async def start():
    global lock
    lock = asyncio.Lock()
    await asyncio.sleep(0.05)
    await app.publish("life", "start")


@app.on("stop")
async def stop():
    await asyncio.sleep(0.05)
    await app.publish("life", "stop")


@app.source("ticks", every=0.05)
async def tick():
    async with lock:
        await asyncio.sleep(0.001)
    return threading.current_thread().name


@app.source("values")
async def values():
    await asyncio.sleep(0)
    yield 1


@app.on("cancelled")
async def cancelled():
    task = asyncio.current_task()
    raise asyncio.CancelledError
"""


ON_ASYNCIO = (*TWISTD, "--reactor", "asyncio")


def first(server: Server, channel: str) -> list[Any]:
    """The publications of a channel; waits for the first one."""
    return data(history(server, channel, "since=oldest&wait=60"))


def test_all_of_asyncio_works_on_the_asyncio_reactor(tmp_path: Path) -> None:
    (tmp_path / "push.toml").write_text('[store]\npath = "s.db"\ndurability = "sync"\n')
    with (
        running(tmp_path, ASYNCIO, "--config", "push.toml", twistd=ON_ASYNCIO) as server,
        closing(Commanded(server)) as client,
    ):
        client.next("connected")
        offsets = client.ask("rpc", "count", 5)["data"]
        assert sorted(offsets) == [1, 2, 3, 4, 5, 6]
        assert offsets[-1] == 6
        assert sorted(data(history(server, "counted"))) == [0, 1, 2, 3, 4, 5]
        assert "does not fit into JSON" in client.ask("rpc", "wrong", None)["data"]
        assert first(server, "values") == [1]
        assert client.ask("rpc", "in a task", None)["data"] == 1
        assert first(server, "grouped_source") == [1]
        assert first(server, "grouped_values") == [1]
        # Also at the first tick.
        assert server.problems == []
        assert client.ask("rpc", "cancelled", None)["message"] == "the application failed"
        assert set(first(server, "ticks")) == {"MainThread"}
        # The generator is at its second tick.
        assert server.get("channels/waits?since=oldest&wait=20").status == 200
        server.stop()
        server.start()
        assert data(history(server, "life"))[:3] == ["start", "closed", "stop"]


class TestAnApplicationThatCannotBeLoaded:
    """The start ends with status 1 and an explanation."""

    def told(self, folder: Path, app: str, code: str | None = None) -> Sequence[str]:
        if code is not None:
            (folder / "mine.py").write_text(code)
        ended = run_twistd(folder, "-n", "--pidfile=", "pushserver", "--app", app)
        assert ended.returncode == 1
        for ours in ("/pushserver/", "site-packages", "Unhandled", "importlib"):
            assert ours not in ended.stdout
        return ended.stdout.splitlines()

    @pytest.mark.parametrize(
        ("code", "lines"),
        [
            pytest.param(
                "x = 1\ndef f(:\n", ["mine.py", "line 2", "SyntaxError: "], id="its syntax"
            ),
            pytest.param("import nothing_at_all\n", ["line 1", "'nothing_at_all'"], id="an import"),
            pytest.param("\n\n1 / 0\n", ["line 3", "ZeroDivisionError"], id="what it does"),
        ],
    )
    def test_because_of(self, tmp_path: Path, code: str, lines: list[str]) -> None:
        told = self.told(tmp_path, "mine:app", code)
        assert "pushserver: mine:app cannot be imported:" in told
        text = "\n".join(told)
        assert f'File "{tmp_path}/mine.py"' in text
        for line in lines:
            assert line in text

    def test_because_there_is_none(self, tmp_path: Path) -> None:
        [line] = self.told(tmp_path, "mine:app")
        assert "there is no module mine" in line

    def test_because_of_its_name(self, tmp_path: Path) -> None:
        code = "from pushserver import PushServer\nserver = PushServer()\napp = 80\n"
        [line] = self.told(tmp_path, "mine:app", code)
        assert line.endswith("mine:app is 80, expected a PushServer; there is mine:server")
