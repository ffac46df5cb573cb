"""The official JavaScript client at the beginning of a channel, which may be a forgotten one."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.e2e.exchange import history, publish, serving
from tests.e2e.server import Server
from tests.e2e.watcher import Commanded

FORGOTTEN = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE channels (
    name TEXT PRIMARY KEY, top INTEGER, floor INTEGER, floor_seq INTEGER
) WITHOUT ROWID;
CREATE TABLE publications (
    channel TEXT, offset INTEGER, seq INTEGER, time REAL, event TEXT,
    data BLOB, tags BLOB, info BLOB,
    PRIMARY KEY (channel, offset)
) WITHOUT ROWID;
CREATE TABLE keys (
    channel TEXT, key TEXT, epoch TEXT, seq INTEGER, offset INTEGER, time REAL,
    PRIMARY KEY (channel, key)
) WITHOUT ROWID;
CREATE TABLE memory (source TEXT PRIMARY KEY, value BLOB) WITHOUT ROWID;
INSERT INTO meta VALUES ('format', 2), ('epoch', '7c2e94d1'), ('running', ''), ('seq', 3);
INSERT INTO meta VALUES ('forgotten_top', 3), ('forgotten_seq', 3);
"""
"""The store of an earlier version, after three publications to a channel that was forgotten."""


@pytest.fixture
def forgetful(tmp_path: Path) -> Iterator[Server]:
    """A server that has forgotten a channel; a sweep of its own would take a minute."""
    with closing(sqlite3.connect(tmp_path / "s.db")) as database:
        database.executescript(FORGOTTEN)
    with serving(tmp_path, '[store]\npath = "s.db"\n[sources]\n') as server:
        yield server


@pytest.mark.parametrize("option", ["state", "since"])
@pytest.mark.parametrize("published", [0, 3])
def test_it_starts_at_the_zero_position_in_one_attempt(
    forgetful: Server, option: str, published: int
) -> None:
    for n in range(published):
        assert publish(forgetful, "fresh", n)["offset"] == n + 1
    with closing(Commanded(forgetful)) as client:
        client.do("subscribe", "fresh", {option: {"offset": 0, "epoch": ""}})
        if option == "state":
            assert client.next("asked for the state", "own error") == "fresh"
        first = client.next("asked for the state", "own error", "own subscribed")
        assert (first["wasRecovering"], first["recovered"]) == (True, True)
        publish(forgetful, "fresh", "live")
        got = [client.next("own publication", "own error") for _ in range(published + 1)]
        assert [row["data"] for row in got] == [*range(published), "live"]
        # It keeps its place over a reconnect.
        client.do("disconnect")
        client.next("disconnected")
        publish(forgetful, "fresh", "missed")
        client.do("connect")
        again = client.next("asked for the state", "own error", "own subscribed")
        assert again["recovered"]
        assert client.next("own publication")["data"] == "missed"


def test_it_loads_the_state_of_an_empty_channel_once(forgetful: Server) -> None:
    position = history(forgetful, "fresh")
    state = {"offset": position["offset"], "epoch": position["epoch"]}
    publish(forgetful, "fresh", "in between")
    with closing(Commanded(forgetful)) as client:
        client.do("subscribe", "fresh", {"state": state})
        assert client.next("asked for the state", "own error") == "fresh"
        assert client.next("asked for the state", "own error", "own subscribed")["recovered"]
        assert client.next("own publication")["data"] == "in between"
