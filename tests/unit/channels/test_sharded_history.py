"""Cursors of channels of several logs; streams over them: tests/unit/hub/test_shards_model.py."""

from __future__ import annotations

import pytest

from pushserver.channels.channel import ChannelOptions
from pushserver.channels.history import Resumption
from pushserver.channels.position import Cursor, Position, Start, parse_cursor
from pushserver.channels.publication import Publication
from pushserver.channels.sharded_history import ShardedHistory

LOGS = {"a": 0, "b": 1, "c": 2, "A": 0}


@pytest.fixture
def history() -> ShardedHistory:
    """The publications a1 b1 b2 a2 in the order of their times; the log of `c` is empty."""
    options = ChannelOptions(history_size=2)
    made = ShardedHistory(lambda name: options, LOGS.__getitem__, 3)
    for shard, seq in enumerate((40, 7, 0)):
        made.reach(shard, Cursor(f"e{shard}", seq))
    for time, (channel, offset, seq) in enumerate([("a", 1, 50), ("b", 1, 8)]):
        add(made, channel, offset, seq, time)
    add(made, "b", 2, 9, 2)
    add(made, "a", 2, 52, 3)
    return made


def add(history: ShardedHistory, channel: str, offset: int, seq: int, time: float) -> None:
    epoch = history.run(channel)
    row = Publication(channel, epoch, seq, offset, time, "message", b"1")
    history.follow(row, time)


def ids(resumed: Resumption) -> list[str]:
    return [row.id for row in resumed.publications]


def since(text: str) -> Start:
    return Start(since=parse_cursor(text))


def test_cursor_names_the_logs_of_its_channels_alone(history: ShardedHistory) -> None:
    assert str(history.cursor(["a"])) == str(history.cursor(["A", "a"])) == "e0:52"
    assert str(history.cursor(["b", "a"])) == str(history.cursor(["a", "b"])) == "e0:52,e1:9"
    assert str(history.cursor(["c", "a"])) == "e0:52,e2:0"


def test_stream_over_two_logs_has_the_position_in_both(history: ShardedHistory) -> None:
    whole = history.read(["a", "b"], Start(oldest=True))
    assert ids(whole) == ["e0:50,e1:7", "e0:50,e1:8", "e0:50,e1:9", "e0:52,e1:9"]
    assert str(history.start(["a", "b"], whole.publications)) == "e0:49,e1:7"
    assert ids(history.read(["a", "b"], Start(last=2))) == ["e0:51,e1:9", "e0:52,e1:9"]
    assert ids(history.read(["a", "c"], since("e2:0,e0:50"))) == ["e0:52,e2:0"]
    assert ids(history.read(["a", "b"], Start())) == []


def test_channels_of_one_log_have_the_cursors_of_one_log(history: ShardedHistory) -> None:
    assert ids(history.read(["b"], Start(oldest=True))) == ["e1:8", "e1:9"]
    assert ids(history.read(["a"], since("e1:3,e0:50"))) == ["e0:52"]
    assert history.read(["a"], since("e1:3")) == Resumption(reason="epoch")
    assert [row.seq for row in history.resume("b", Position("", 0)).publications] == [8, 9]
    assert [row.seq for row in history.resume("b", Position("e1", 1)).publications] == [9]
    assert history.resume("b", Position("e0", 1)).reason == "epoch"


def test_resumes_in_each_log_by_itself(history: ShardedHistory) -> None:
    found = history.read(["a", "b", "A"], since("e0:50,old:7"))
    assert (ids(found), found.reason, found.lost) == (["e0:52,e1:9"], "epoch", ["b"])
    found = history.read(["a", "b", "A"], since("e0:99,e1:8"))
    assert (ids(found), found.reason, found.lost) == (["e0:52,e1:9"], "ahead", ["a", "A"])
    add(history, "a", 3, 60, 4)
    found = history.read(["a", "b"], since("e0:49,e1:9"))
    assert (ids(found), found.reason, found.lost) == ([], "evicted", ["a"])
    assert history.read(["a", "b"], since("old:1,e2:4")) == Resumption(reason="epoch")


def test_cursor_is_ahead_only_of_its_own_logs(history: ShardedHistory) -> None:
    names = ["a", "b"]
    assert not history.is_ahead(names, Cursor("e0", 52))
    assert history.is_ahead(names, parse_cursor("e0:52,e1:10"))
    assert not history.is_ahead(names, parse_cursor("e2:5,e1:9"))
