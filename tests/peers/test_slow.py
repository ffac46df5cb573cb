"""Clients that stop reading, as a suspended laptop does: dropped, and told what they missed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from tests.e2e.exchange import publish, serving
from tests.peers.readers import READERS, Readers

CONFIG = """
[sources]

[limits]
queue_bytes = 100_000
queue_seconds = 60
heartbeat_seconds = 0.5

[channels.a]
history_size = 3
"""
PUBLICATIONS, BYTES = 60, 300_000
"""More than the buffers of sockets hold for one of them: about 6 MB on loopback."""


@pytest.fixture(scope="module")
def woken(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, list[tuple[str, Any]]]]:
    """The events of each client after it slept."""
    with (
        serving(tmp_path_factory.mktemp("slow"), CONFIG) as server,
        closing(Readers(server, "channels/a")) as readers,
    ):
        for name in READERS:
            readers.next(name, "begin")
        publish(server, "a", "before")
        for name in READERS:
            readers.until(name, "before")
        with readers.suspended():
            for _ in range(PUBLICATIONS):
                publish(server, "a", "x" * BYTES)
        events = {name: readers.all_until(name, "reset") for name in READERS}
        publish(server, "a", "after")
        yield {name: events[name] + readers.until(name, "after") for name in READERS}


@pytest.mark.parametrize("client", READERS)
def test_client_that_slept_is_told_of_the_gap(
    woken: dict[str, list[tuple[str, Any]]], client: str
) -> None:
    """It gets what its socket held, then the reason, then new publications; each once, in order."""
    kinds = [kind for kind, _ in woken[client] if kind in ("reset", "publication")]
    assert kinds.count("reset") == 1
    assert kinds[-1] == "publication"
    offsets = [content["offset"] for kind, content in woken[client] if kind == "publication"]
    assert offsets == sorted(set(offsets))
    assert offsets[-1] == PUBLICATIONS + 2
    assert len(offsets) < PUBLICATIONS
