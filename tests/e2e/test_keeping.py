"""Copies of the store of a server that runs, and of one that is stopped."""

from __future__ import annotations

import http.client
import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.e2e.blocks import Block, sections_of
from tests.e2e.documents import Names, Runner, examples, write
from tests.e2e.exchange import data, history, publish, wait_for_commit
from tests.e2e.patience import PATIENCE
from tests.e2e.programs import PUSHSERVER
from tests.e2e.server import Server, environment, running
from tests.e2e.test_documents import no_browser

DOCUMENT = examples(sections_of("docs/store.md"))
STOPPED = ("Restore", "Another version", "The size of the file")
"""The sections of the documents whose server is stopped."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Server]:
    """The server of the document."""
    [file] = DOCUMENT[""]
    with running(Server(folder, "--config", str(write(file, folder)))) as server:
        yield server


def store(folder: Path, *arguments: str) -> None:
    """Run a command, which must succeed."""
    command = [*PUSHSERVER, "store", *arguments, "--store", "history.db"]
    subprocess.run(command, cwd=folder, env=environment(), timeout=PATIENCE, check=True)


def run_examples(document: Mapping[str, list[Block]], server: Server, folder: Path) -> None:
    """Run the examples of all sections; `folder` is that of the server."""
    runner = Runner(Names(""), f"127.0.0.1:{server.port}", folder, no_browser)
    for title in filter(None, document):
        if title in STOPPED:
            server.stop()
        for block in document[title]:
            runner.run(block)
        if not server.running:
            server.start()


def test_the_examples_of_the_store(server: Server, folder: Path) -> None:
    before = [publish(server, "orders", number) for number in range(3)]
    wait_for_commit(server)
    run_examples(DOCUMENT, server, folder)
    assert data(history(server, "orders")) == [0, 1, 2]
    assert publish(server, "orders", 3)["epoch"] != before[0]["epoch"]


def test_the_examples_of_the_operations(tmp_path: Path) -> None:
    document = examples(sections_of("docs/operations.md"))
    [file] = document[""]
    with running(Server(tmp_path, "--config", str(write(file, tmp_path)))) as server:
        before = publish(server, "orders", 1)
        wait_for_commit(server)
        run_examples(document, server, tmp_path)
        assert data(history(server, "orders")) == [1]
        assert history(server, "orders")["epoch"] != before["epoch"]


@contextmanager
def flood(server: Server) -> Iterator[None]:
    """Publications without a pause, until the end of the block; the first 50 are committed."""
    for number in range(1, 51):
        publish(server, "flood", number)
    # Later there is always one that is not.
    wait_for_commit(server)
    ended, begun = threading.Event(), threading.Event()

    def run() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE)
        number = 50
        while not ended.is_set():
            number += 1
            connection.request("POST", "/channels/flood", str(number))
            response = connection.getresponse()
            response.read()
            assert response.status == 201
            begun.set()
        connection.close()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        assert begun.wait(PATIENCE)
        yield
    finally:
        ended.set()
        thread.join()


def missed(server: Server, cursor: str) -> object:
    """The data that a reader with this cursor has missed, or the reason why it is not recovered."""
    answer = history(server, "flood", f"since={cursor}")
    return data(answer) if answer.get("recovered", True) else answer["reason"]


def test_backup_during_a_flood_is_one_state_that_a_server_continues(
    server: Server, folder: Path
) -> None:
    with flood(server):
        store(folder, "backup", "flood.db")
    last = publish(server, "flood", 0)
    server.stop()
    store(folder, "restore", "flood.db")
    server.start()
    rows = history(server, "flood", "last=300")
    newest = rows["offset"]
    assert data(rows) == list(range(newest - len(rows["publications"]) + 1, newest + 1))
    assert 50 <= newest < last["offset"]
    assert missed(server, last["id"]) == "epoch"
    cursor = rows["publications"][-1]["id"]
    assert publish(server, "flood", 1)["epoch"] == rows["epoch"]
    assert missed(server, cursor) == [1]
    server.stop()
    store(folder, "backup", "moved.db")
    store(folder, "restore", "moved.db", "--keep-epoch")
    server.start()
    assert publish(server, "flood", 2)["epoch"] == rows["epoch"]
    assert missed(server, cursor) == [1, 2]
