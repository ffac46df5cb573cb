"""A recovery that leaves the server in portions, as each client sees it."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.exchange import publish, serving
from tests.peers.readers import READERS, Readers

CONFIG = """
[store]
path = "s.db"
[limits]
heartbeat_seconds = 0.5
[sources]
"""
COUNT = 60
ROW = "." * 10_000


@pytest.fixture(scope="module")
def received(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Any]]:
    """The publications of each client after it was disconnected, and during its recovery."""
    folder: Path = tmp_path_factory.mktemp("run")
    with serving(folder, CONFIG) as server, closing(Readers(server, "channels/a")) as readers:
        for name in READERS:
            readers.next(name, "begin")
        publish(server, "a", "before")
        for name in READERS:
            readers.until(name, "before")
        server.stop()
        server.start()
        for n in range(COUNT):
            publish(server, "a", [n, ROW])
        for name in READERS:
            readers.next(name, "begin")
        publish(server, "a", "after")
        events = {name: readers.until(name, "after") for name in READERS}
    return {
        name: [content for kind, content in found if kind == "publication"]
        for name, found in events.items()
    }


@pytest.mark.parametrize("client", READERS)
def test_all_missed_publications_come_once_and_in_order(
    received: dict[str, list[Any]], client: str
) -> None:
    rows = received[client]
    assert [row["offset"] for row in rows] == list(range(2, COUNT + 3))
    assert [row["data"][0] for row in rows[:-1]] == list(range(COUNT))
