"""A server with sync durability that is stopped while its disk is slow: publishers get answers."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from signal import Signals

import pytest

from tests.e2e.conditions import wait_until
from tests.e2e.exchange import data, history, publish
from tests.e2e.server import TWISTD, Server, running

CONFIG = """
[store]
path = "s.db"
durability = "sync"
[limits]
drain_seconds = 60
"""
APP = """
import asyncio
import threading
import time
from pathlib import Path

from twisted.internet import reactor
from twisted.internet.defer import Deferred

from pushserver import PushServer
from pushserver.store.sqlite import SqliteFile
from pushserver.store.sync_broker import SyncBroker

app = PushServer()
asked = []
write, accept = SqliteFile.commit, SyncBroker.publish


def commit(self, batch):
    while batch.rows and Path("slow").exists():
        time.sleep(0.01)
    write(self, batch)


def publish(self, draft):
    asked.append(draft.channel)
    Path("asked").write_text(" ".join(asked))
    return accept(self, draft)


SqliteFile.commit, SyncBroker.publish = commit, publish


def in_a_thread():
    Path("thread").write_text(str(app.publish("thread", 1).offset))


async def in_a_coroutine():
    Path("coroutine").write_text(str((await app.publish("coroutine", 1)).offset))


@app.on("start")
async def start():
    if not Path("slow").exists():
        return
    thread = threading.Thread(target=in_a_thread, daemon=True)
    thread.start()
    # Its answer has come by then, but it may not have run since.
    reactor.addSystemEventTrigger("after", "shutdown", thread.join, 30)
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        Deferred.fromCoroutine(in_a_coroutine())
    else:
        start.task = asyncio.create_task(in_a_coroutine())
"""


@pytest.mark.parametrize("reactor", ["epoll", "asyncio"])
def test_publishers_of_a_running_commit_are_answered(tmp_path: Path, reactor: str) -> None:
    (tmp_path / "pushserver.toml").write_text(CONFIG)
    (tmp_path / "slow.py").write_text(APP)
    slow, asked = tmp_path / "slow", tmp_path / "asked"
    slow.touch()
    twistd = (*TWISTD, "--reactor", reactor)
    options = "--config", "pushserver.toml", "--app", "slow:app"
    with running(Server(tmp_path, *options, twistd=twistd)) as server, ThreadPoolExecutor() as pool:
        posts = [pool.submit(publish, server, "a", n) for n in range(3)]
        wait_until(lambda: asked.exists() and len(asked.read_text().split()) == 5)
        server.send(Signals.SIGTERM)
        wait_until(lambda: "received SIGTERM" in server.log)
        slow.unlink()
        assert sorted(post.result()["offset"] for post in posts) == [1, 2, 3]
        assert server.wait() == -Signals.SIGTERM
        assert [(tmp_path / n).read_text() for n in ("thread", "coroutine")] == ["1", "1"]
        server.start()
        assert sorted(data(history(server, "a"))) == [0, 1, 2]
