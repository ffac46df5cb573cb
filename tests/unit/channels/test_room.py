"""The bounds of all channels together: which one makes room, and what its readers are told."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pushserver.channels import history as history_module
from pushserver.channels.channel import CHANNEL_BYTES, ChannelOptions
from pushserver.channels.history import History
from pushserver.channels.position import Cursor, Position, Start
from pushserver.channels.publication import Draft, Publication, memory_bytes
from pushserver.channels.room import CANDIDATES, Room
from pushserver.errors import LimitExceeded
from tests.unit.fakes.tools import EPOCH, programs

ROW = memory_bytes(Publication("a", EPOCH, 1, 1, 0.0, "message", b"1"))
EMPTY = CHANNEL_BYTES + 1
"""The memory of a channel whose name is a letter."""
CHANNEL = EMPTY + ROW
"""With one publication."""


class Bounded:
    """A history with bounds, and a list of all that was evicted for others."""

    def __init__(self, size: int = 10**9, channels: int = 10**9, *lasting: str):
        self.evicted: list[tuple[str, int, str]] = []
        room = self.room = Room(size, channels, frozenset(lasting))
        self.history = History(lambda name: ChannelOptions(), EPOCH, room=room)
        room.on_evict = lambda *evicted: self.evicted.append(evicted)

    def add(self, *channels: str, data: bytes = b"1") -> None:
        for channel in channels:
            self.room.make((channel,))
            self.history.append(self.history.number(Draft(channel, data), 0.0), 0.0)

    def watch(self, *channels: str) -> None:
        self.room.make(channels)
        for channel in channels:
            self.history.channel(channel)

    def leave(self, *channels: str) -> None:
        for channel in channels:
            self.history.release(channel)

    @property
    def kept(self) -> dict[str, list[int]]:
        """The seqs of the retained publications by channel."""
        channels = self.history.channels.items()
        return {name: [row.seq for row in channel.after(0)] for name, channel in channels}

    def reason(self, channel: str, seq: int) -> str:
        """The answer to a reader with this cursor."""
        return self.history.read((channel,), Start(since=Cursor(EPOCH, seq))).reason


def test_least_recently_published_channel_makes_room() -> None:
    world = Bounded(3 * CHANNEL + 100)
    world.add("a", "b", "c", "d")
    assert world.kept == {"b": [2], "c": [3], "d": [4]}
    assert world.evicted == [("a", 1, "history_total_bytes")]


@pytest.mark.parametrize("use", ["publish", "read", "resume", "watch"])
def test_used_channel_outlasts_one_that_was_not(use: str) -> None:
    world = Bounded(size=10**9, channels=3)
    world.add("a", "b", "c")
    if use == "publish":
        world.add("a")
    elif use == "read":
        world.history.read(("a",), Start(last=1))
    elif use == "resume":
        world.history.resume("a", Position(EPOCH, 1))
    else:
        world.watch("a")
        world.leave("a")
    world.add("d", "e")
    assert set(world.kept) == {"a", "d", "e"}
    assert world.evicted == [("b", 1, "channels"), ("c", 1, "channels")]


def test_looking_at_a_channel_is_no_use_of_it() -> None:
    world = Bounded(channels=2)
    world.add("a", "b")
    assert world.history.peek("a").top == 1
    world.add("c")
    assert set(world.kept) == {"b", "c"}


def test_channel_that_makes_room_is_forgotten_as_the_rules_say() -> None:
    world = Bounded(channels=1)
    world.add("a", "a", "b")
    assert world.reason("a", 1) == "evicted"
    assert world.reason("a", 2) == ""
    assert world.history.resume("a", Position(EPOCH, 2)).reason == "epoch"
    assert world.history.resume("a", Position(EPOCH, 0)).reason == "evicted"
    world.add("a")
    [row] = world.history.peek("a").after(0)
    assert (row.epoch, row.offset, row.seq) == (f"{EPOCH}-2", 1, 4)


def test_watched_channel_keeps_its_numbers_and_loses_the_older_half() -> None:
    world = Bounded(EMPTY + 8 * ROW)
    world.watch("a")
    world.add(*"a" * 8)
    assert world.evicted == []
    world.add("a")
    assert world.kept == {"a": [6, 7, 8, 9]}
    assert world.evicted == [("a", 5, "history_total_bytes")]
    assert world.history.resume("a", Position(EPOCH, 4)).reason == "evicted"
    assert len(world.history.resume("a", Position(EPOCH, 5)).publications) == 4


def test_unwatched_channels_make_room_before_watched_ones() -> None:
    world = Bounded(4 * CHANNEL + 100)
    world.watch("old")
    world.add("old", "a", "b", "c", "d", "e")
    assert set(world.kept) == {"old", "c", "d", "e"}


def test_channels_of_the_configuration_make_room_last_and_are_never_refused() -> None:
    world = Bounded(10**9, 2, "news", "sport")
    world.add("news")
    world.watch("a")
    world.add("sport")
    assert set(world.kept) == {"news", "a", "sport"}
    with pytest.raises(LimitExceeded):
        world.add("b")


def test_small_histories_outlast_large_ones() -> None:
    world = Bounded(CANDIDATES * 50_000)
    names = [f"c{n}" for n in range(CANDIDATES)]
    world.watch(*names)
    world.add(names[0])
    for _ in range(20):
        for name in names[1:]:
            world.add(name, data=b"x" * 10_000)
    assert world.kept[names[0]] == [1]
    assert world.room.bytes <= world.room.most_bytes


def test_history_larger_than_the_bound_is_not_retained() -> None:
    world = Bounded(2_000)
    world.add("a", data=b"x" * 3_000)
    assert world.kept == {}
    world.watch("a")
    world.add("a", data=b"x" * 3_000)
    assert world.kept == {"a": []}
    assert world.history.top("a") == 1


def test_new_channel_is_refused_when_all_are_watched() -> None:
    world = Bounded(channels=2)
    world.watch("a", "b")
    with pytest.raises(LimitExceeded, match=r"2 channels are watched.*\(channels\)") as refused:
        world.watch("b", "c")
    assert (refused.value.http_status, refused.value.centrifuge_code) == (503, 106)
    assert refused.value.temporary
    assert set(world.kept) == {"a", "b"}
    world.watch("a", "b")
    world.leave("a")
    world.watch("c")
    assert set(world.kept) == {"b", "c"}


def test_channels_that_a_reader_asks_for_do_not_make_room_for_its_others() -> None:
    world = Bounded(channels=3)
    world.add("a", "b", "c")
    world.watch("a", "d", "b")
    assert set(world.kept) == {"a", "b", "d"}
    with pytest.raises(LimitExceeded):
        world.watch("e", "f", "g", "h")
    assert set(world.kept) == {"a", "b", "d"}


def test_pinned_channels_are_not_forgotten() -> None:
    world = Bounded(channels=1)
    world.add("a")
    world.history.pin("a")
    world.history.pin("b")
    world.history.append(world.history.number(Draft("b", b"1"), 0.0), 0.0)
    assert set(world.kept) == {"a", "b"}
    world.history.unpin()
    assert set(world.kept) == {"b"}


def test_sweep_looks_at_a_bounded_number_of_channels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history_module, "SWEEP", 3)
    world = Bounded()
    world.add(*"abcdefgh")
    old, changed = 10.0**9, []
    for left in (5, 2, 0):
        _, names = world.history.expire(old, lambda name: False)
        changed += names
        assert world.history.unswept == left
        world.add("new")
    assert sorted(changed) == list("abcdefgh")


def test_evicted_rows_are_freed_at_once() -> None:
    world = Bounded(200_000)
    world.watch("a")
    for _ in range(30):
        world.add("a", data=b"x" * 10_000)
    held = sum(len(row.data) for row in world.history.channels["a"]._rows)
    assert held <= 200_000


NAMES = st.sampled_from("abcde")
STEPS = st.one_of(
    st.tuples(st.just("add"), NAMES),
    st.tuples(st.just("add"), NAMES),
    st.tuples(st.just("watch"), NAMES),
    st.tuples(st.just("leave"), NAMES),
    st.tuples(st.just("pin"), NAMES),
    st.tuples(st.just("unpin"), NAMES),
    st.tuples(st.just("clear"), NAMES),
    st.tuples(st.just("expire"), NAMES),
    st.tuples(st.just("skip"), NAMES),
)


@given(programs(STEPS), st.integers(1, 6), st.integers(0, 8))
def test_bounds_hold_and_every_loss_is_told(
    steps: list[tuple[str, str]], channels: int, rows: int
) -> None:
    world = Bounded(4 * EMPTY + rows * ROW, channels, "e")
    history, log = world.history, list[tuple[str, int]]()
    watched: set[str] = set()
    now = 0.0
    for step, name in steps:
        try:
            if step == "add":
                log.append((name, history.seq + 1))
                world.add(name)
            elif step == "watch":
                world.watch(name)
                watched.add(name)
        except LimitExceeded:
            held = {n for n in history.channels if n in watched or n == "e" or n in history._pinned}
            assert len(held) >= channels
            assert name not in history.channels
            if step == "add":
                log.pop()
        if step == "leave" and name in watched:
            watched.discard(name)
            history.release(name)
        elif step == "pin":
            history.pin(name)
        elif step == "unpin":
            history.unpin()
        elif step == "clear":
            history.clear(name)
        elif step == "expire":
            now += 500_000.0
            history.expire(now, watched.__contains__)
        elif step == "skip" and name in history.channels:
            log.append((name, history.seq + 1))
            history.skip(history.number(Draft(name, b"1"), 0.0))
        check(world, watched, channels)
    for name in "abcde":
        own = [seq for channel, seq in log if channel == name]
        for seq in range(history.seq + 1):
            read = history.read((name,), Start(since=Cursor(EPOCH, seq)))
            if not read.reason:
                assert [row.seq for row in read.publications] == [n for n in own if n > seq]


def check(world: Bounded, watched: set[str], channels: int) -> None:
    """The sums are those of what is kept, and the bounds hold unless nothing can be evicted."""
    history, room = world.history, world.room
    kept = [row for channel in history.channels.values() for row in channel.after(0)]
    size = EMPTY * len(history.channels) + sum(map(memory_bytes, kept))
    assert room.bytes == size
    idle = set(history.channels) - watched - set(history._pinned) - {"e"}
    assert set(room._idle) == idle
    held = set(history.channels) - idle
    assert set(room._held) == {name for name in held if len(history.channels[name])}
    if not history._pinned:
        # A sync commit makes its channels without a question; they make room when it has ended.
        assert size <= room.most_bytes or not (kept or idle)
        assert len(history.channels) <= channels or not idle
