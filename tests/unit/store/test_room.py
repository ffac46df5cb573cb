"""The bounds of all histories with a store: in its file too, and at its start."""

from __future__ import annotations

import sqlite3
import tracemalloc
from contextlib import closing
from pathlib import Path

import pytest

from pushserver.channels.channel import CHANNEL_BYTES, ChannelOptions
from pushserver.channels.position import Cursor, Position, Start
from pushserver.channels.room import Room
from tests.unit.fakes.web import Trouble
from tests.unit.store.runs import INTERVAL, THREAD, Run

ROW = 300
"""The memory of a publication of these tests, roughly."""


def publish(run: Run, *channels: str) -> None:
    """Publish one number after the other, and commit."""
    for number, channel in enumerate(channels, run.history.seq + 1):
        run.publish(number, channel)
        run.tick(INTERVAL)
        THREAD.finish()


def rows(path: Path) -> list[tuple[str, int]]:
    """The channel and seq of each publication in the file."""
    with closing(sqlite3.connect(path)) as database:
        return database.execute("SELECT channel, seq FROM publications ORDER BY seq").fetchall()


@pytest.mark.parametrize("durability", ["sync", "batched"])
class TestFile:
    def test_histories_that_made_room_are_not_in_the_file(
        self, durability: str, path: Path
    ) -> None:
        run = Run(path, durability, room=Room(most_channels=2))
        publish(run, "a", "a", "b", "c")
        run.stop()
        assert rows(path) == [("b", 3), ("c", 4)]
        again = Run(path, durability)
        assert again.history.read(("a",), Start(since=Cursor(again.history.epoch, 1))).reason
        assert again.history.peek("a").floor_seq == 2
        again.stop()

    def test_rows_that_a_watched_channel_lost_are_not_in_the_file(
        self, durability: str, path: Path
    ) -> None:
        run = Run(path, durability, room=Room(CHANNEL_BYTES + 8 * ROW))
        run.history.channel("a")
        publish(run, *"a" * 9)
        assert run.metrics.made_room == {"history_total_bytes": 1}
        publish(run, "a")
        run.stop()
        kept = run.data["a"]
        assert kept == list(range(11 - len(kept), 11))
        assert [seq for _, seq in rows(path)] == kept


def test_channel_that_comes_back_before_the_commit_has_only_its_new_rows(path: Path) -> None:
    run = Run(path, "batched", room=Room(most_channels=1))
    publish(run, "a", "a")
    run.publish(3, "b")
    run.publish(4, "a")
    run.tick(INTERVAL)
    THREAD.finish()
    run.stop()
    assert rows(path) == [("a", 4)]
    again = Run(path, "batched")
    assert (again.history.peek("a").epoch, again.history.top("a")) == (
        f"{again.history.epoch}-2",
        1,
    )
    again.stop()


class TestStart:
    def fill(self, path: Path, *channels: str) -> None:
        run = Run(path, "batched")
        publish(run, *channels)
        run.stop()

    def test_newest_publications_are_loaded_while_there_is_room(
        self, path: Path, trouble: Trouble
    ) -> None:
        self.fill(path, *"abcbbb")
        size = CHANNEL_BYTES + 3 * ROW + 50
        run = Run(path, "batched", room=Room(size))
        assert run.data == {"b": [4, 5, 6]}
        assert run.history.room.bytes <= size
        [line] = trouble.take()
        assert "history_total_bytes" in line
        assert "the 3 publications" in line
        epoch = run.history.epoch
        assert run.history.read(("b",), Start(since=Cursor(epoch, 1))).reason == "evicted"
        assert not run.history.read(("b",), Start(since=Cursor(epoch, 2))).reason
        assert run.history.read(("c",), Start(since=Cursor(epoch, 2))).reason == "evicted"
        assert run.history.resume("c", Position(epoch, 1)).reason == "epoch"
        run.stop()
        assert rows(path) == [("b", 4), ("b", 5), ("b", 6)]

    def test_channels_are_loaded_up_to_their_number(self, path: Path, trouble: Trouble) -> None:
        self.fill(path, *"abcd")
        run = Run(path, "batched", room=Room(most_channels=2))
        assert run.data == {"d": [4], "c": [3]}
        assert "the 2 publications" in trouble.take()[0]
        run.stop()

    def test_channels_of_the_configuration_are_loaded_first(
        self, path: Path, trouble: Trouble
    ) -> None:
        self.fill(path, "news", "a", "b")
        run = Run(path, "batched", room=Room(most_channels=2, lasting=frozenset({"news"})))
        assert run.data == {"news": [1], "b": [3]}
        assert trouble.take()
        run.stop()

    def test_channel_that_was_published_to_first_makes_room_first(self, path: Path) -> None:
        self.fill(path, *"abc")
        run = Run(path, "batched", room=Room(most_channels=3))
        publish(run, "d")
        assert set(run.data) == {"b", "c", "d"}
        run.stop()

    def test_history_within_the_bounds_is_loaded_without_a_word(
        self, path: Path, trouble: Trouble
    ) -> None:
        room = Room(3 * CHANNEL_BYTES + 6 * ROW, 3)
        run = Run(path, "batched", room=room)
        publish(run, *"abcabcabcaabbcc")
        before = run.data
        run.stop()
        again = Run(path, "batched", room=Room(room.most_bytes, 3))
        assert again.data == before
        assert again.history.room.bytes == room.bytes
        assert trouble.take() == []
        again.stop()

    def test_start_takes_little_memory_whatever_the_file_has(
        self, path: Path, trouble: Trouble
    ) -> None:
        size = 100_000
        run = Run(path, "batched", ChannelOptions(history_bytes=100_000_000))
        for number in range(200):
            run.publish(int("9" * 4_000) if number else 1, f"c{number % 2}")
            if number % 100 == 99:
                run.tick(INTERVAL)
                THREAD.finish()
        run.stop()
        tracemalloc.start()
        try:
            again = Run(path, "batched", room=Room(size))
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < 5 * size
        assert 10 < sum(len(channel) for channel in again.history.channels.values()) < 30
        assert trouble.take()
        again.stop()
