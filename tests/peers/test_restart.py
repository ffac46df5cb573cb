"""A restart of the server, as each client sees it: nothing is lost, or its user is told."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import pytest

from tests.e2e.exchange import publish, serving
from tests.peers.readers import READERS, READERS_OF_FRAMES, Readers

LIMITS = "[sources]\n[limits]\nheartbeat_seconds = 0.5\n"
STORE = f'[store]\npath = "s.db"\n{LIMITS}'
Events = list[tuple[str, Any]]
CENTRIFUGE = [name for name in READERS if name.startswith("centrifuge,")]


def watch_a_restart(readers: Readers, server: Any) -> dict[str, Events]:
    """The events of each client from the end of the first run on; publishes 1, then 2 and 3."""
    for name in READERS:
        readers.next(name, "begin")
    publish(server, "a", 1)
    for name in READERS:
        readers.until(name, 1)
    server.stop()
    server.start()
    publish(server, "a", 2)
    before = {name: readers.all_until(name, "begin", "reset") for name in READERS}
    publish(server, "a", 3)
    return {name: before[name] + readers.until(name, 3) for name in READERS}


def run(folder: Any, config: str) -> dict[str, Events]:
    with serving(folder, config) as server, closing(Readers(server, "channels/a")) as readers:
        return watch_a_restart(readers, server)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Events]]:
    """The events of a run with a store and of one without, both at the same time."""
    folders = [tmp_path_factory.mktemp("run") for _ in range(2)]
    with ThreadPoolExecutor(2) as threads:
        both = threads.map(run, folders, (STORE, LIMITS))
        return dict(zip(("store", "memory"), both, strict=True))


@pytest.fixture(scope="module")
def with_store(runs: dict[str, dict[str, Events]]) -> dict[str, Events]:
    return runs["store"]


@pytest.fixture(scope="module")
def without_store(runs: dict[str, dict[str, Events]]) -> dict[str, Events]:
    return runs["memory"]


def of_kind(events: Events, kind: str) -> list[Any]:
    return [content for name, content in events if name == kind]


@pytest.mark.parametrize("client", READERS)
class TestARestart:
    def test_with_a_store_loses_and_repeats_nothing(
        self, with_store: dict[str, Events], client: str
    ) -> None:
        events = with_store[client]
        assert [(row["data"], row["offset"]) for row in of_kind(events, "publication")] == [
            (2, 2),
            (3, 3),
        ]
        assert of_kind(events, "reset") == []
        assert of_kind(events, "failed") == []

    def test_without_a_store_is_told_to_the_user(
        self, without_store: dict[str, Events], client: str
    ) -> None:
        events = without_store[client]
        assert len(of_kind(events, "reset")) == 1
        # From where the numbers begin again: 3 in any case.
        kinds = [kind for kind, _ in events if kind in ("reset", "publication")]
        assert kinds[0] == "reset"
        assert of_kind(events, "publication")[-1]["offset"] == 2


@pytest.mark.parametrize("client", [name for name in READERS_OF_FRAMES if "loop" not in name])
def test_raw_websocket_gets_1001_at_a_stop(with_store: dict[str, Events], client: str) -> None:
    assert of_kind(with_store[client], "closed")[0] == 1001


@pytest.mark.parametrize("client", CENTRIFUGE)
def test_client_of_the_centrifuge_protocol_gets_3001_at_a_stop(
    with_store: dict[str, Events], client: str
) -> None:
    first = of_kind(with_store[client], "connecting")[0]
    assert (first["code"], first["reason"]) == (3001, "the server is shutting down")
