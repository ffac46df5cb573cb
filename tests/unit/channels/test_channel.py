from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pushserver.channels.channel import Channel, ChannelOptions
from pushserver.channels.history import History
from pushserver.channels.names import check_event, check_name
from pushserver.channels.position import Position
from pushserver.channels.publication import Publication, Receipt
from pushserver.errors import InvalidName
from tests.unit.fakes.tools import EPOCH, programs, row


@pytest.mark.parametrize(
    "name",
    [
        *("a", "9", "numbers", "chat:lobby", "a_.:@-", "x" * 128),
        *("$a", "$chat:1", "inbox:#42", "a#42,43", "a#.@-_", "$a:b#c", f"a#{'u' * 126}"),
    ],
)
def test_valid_channel_name_is_returned(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        *("", "-a", ".a", ":a", "a b", "a/b", "a\n", "ä", "a\0", "x" * 129, "x" * 100_000),
        *(
            "$",
            "$$a",
            "a$",
            "$-",
            "#",
            "#1,",
            "$#1",
            "#1:a",
            "a#",
            "a#,",
            "a#1,",
            "a#,1",
            "a#1,,2",
            "a#1#2",
            "a#b:c",
        ),
        *("a#ü", f"a#{'u' * 127}"),
    ],
)
def test_invalid_channel_name_is_refused_with_the_rule(name: str) -> None:
    with pytest.raises(InvalidName) as refused:
        check_name(name)
    assert "expected 1 to 128 characters of A-Z a-z 0-9 _ . : @ -" in str(refused.value)
    assert len(str(refused.value)) < 400


@pytest.mark.parametrize("event", ["message", "new number", "é😀", "x" * 128])
def test_printable_event_name_is_returned(event: str) -> None:
    assert check_event(event) == event


@pytest.mark.parametrize("event", ["", "a\nb", "a\rb", "a\0", "\u2028", "x" * 129])
def test_event_name_that_is_not_printable_is_refused(event: str) -> None:
    with pytest.raises(InvalidName, match="invalid event name"):
        check_event(event)


def test_id_of_a_publication_is_its_cursor_and_its_receipt_has_the_same_numbers() -> None:
    publication = row(4, seq=9)
    assert publication.id == f"{EPOCH}:9"
    assert publication.receipt == Receipt(EPOCH, 9, 4)
    assert publication.receipt.id == publication.id


NAMES = len("numbersmessage")
"""The bytes of a row besides its data."""


def filled(count: int, **options: Any) -> Channel:
    channel = Channel("numbers", ChannelOptions(**options), EPOCH)
    for offset in range(1, count + 1):
        channel.append(row(offset, seq=offset * 10), 0.0)
    return channel


def test_wrong_offset_is_an_error_and_changes_nothing() -> None:
    channel = filled(2)
    for offset in (1, 2, 4):
        with pytest.raises(ValueError, match=f"numbers: offset {offset} after 2"):
            channel.append(row(offset), 0.0)
    assert (channel.top, len(channel), channel.bytes) == (2, 2, 2 * (NAMES + 1))


def test_last_rows_are_in_order() -> None:
    channel = filled(5)
    assert [r.offset for r in channel.last(2)] == [4, 5]
    assert [r.offset for r in channel.last(100)] == [1, 2, 3, 4, 5]
    assert channel.last(0) == channel.last(-1) == []


def test_rows_after_an_offset_or_a_seq_are_in_order() -> None:
    channel = filled(6, history_size=4)
    assert [r.offset for r in channel.after(4)] == [5, 6]
    assert [r.offset for r in channel.after(0)] == [3, 4, 5, 6]
    assert channel.after(6) == channel.after(99) == []
    assert [channel.offset_at(seq) for seq in (0, 45, 50, 60, 99)] == [2, 4, 5, 6, 6]


def test_rows_over_history_bytes_are_evicted_even_the_newest() -> None:
    channel = Channel("numbers", ChannelOptions(history_bytes=2 * (NAMES + 5)), EPOCH)
    assert channel.append(row(1, data=b"12345"), 0.0) == 0
    assert channel.append(row(2, data=b"12345"), 0.0) == 0
    assert channel.append(row(3, data=b"1"), 0.0) == 1
    assert channel.bytes == 2 * NAMES + 6
    assert channel.append(row(4, data=b"x" * (NAMES + 11)), 0.0) == 3
    assert (channel.top, channel.floor, len(channel), channel.bytes) == (4, 4, 0, 0)


def test_channel_without_history_continues_its_numbering() -> None:
    for channel in (filled(3, history_size=0), filled(3, history_bytes=0)):
        assert (channel.top, channel.floor, channel.floor_seq) == (3, 3, 30)


def test_rows_are_evicted_by_age_unless_there_is_no_limit() -> None:
    channel = Channel("numbers", ChannelOptions(history_ttl=10), EPOCH)
    for offset in (1, 2, 3):
        channel.append(row(offset), 100.0 + offset)
    assert channel.expire(110.9) == 0
    assert channel.expire(112.0) == 2
    assert channel.floor == 2
    assert channel.expire(1e9) == 1
    assert channel.expire(1e9) == 0
    assert filled(3, history_ttl=0).expire(1e12) == 0


def test_clearing_drops_the_rows_and_keeps_the_numbering() -> None:
    channel = filled(3)
    assert channel.clear() == 3
    assert channel.clear() == 0
    assert (channel.top, channel.floor, channel.floor_seq, channel.bytes) == (3, 3, 30, 0)
    channel.append(row(4, seq=99), 0.0)
    assert [r.offset for r in channel.last(9)] == [4]


class Model:
    """A channel as plain lists."""

    def __init__(self, options: ChannelOptions):
        self.options = options
        self.all: list[Publication] = []
        self.floor = 0

    @property
    def rows(self) -> list[Publication]:
        return [r for r in self.all if r.offset > self.floor]

    def append(self, publication: Publication) -> None:
        self.all.append(publication)
        while self.rows and (
            len(self.rows) > self.options.history_size
            or sum(NAMES + len(r.data) for r in self.rows) > self.options.history_bytes
        ):
            self.floor += 1

    def expire(self, now: float) -> None:
        while self.options.history_ttl and self.rows:
            if self.rows[0].time + self.options.history_ttl > now:
                return
            self.floor += 1

    def clear(self) -> None:
        self.floor = len(self.all)

    def reason(self, offset: int) -> str:
        if offset > len(self.all):
            return "ahead"
        if offset < self.floor:
            return "evicted"
        return "limit" if len(self.all) - offset > self.options.recovery_limit else ""


options = st.builds(
    ChannelOptions,
    history_size=st.integers(0, 12),
    history_bytes=st.integers(0, 200),
    history_ttl=st.sampled_from([0.0, 3.0, 10.0]),
    recovery_limit=st.integers(0, 8),
)
steps = programs(
    st.tuples(st.just("append"), st.integers(1, 25))
    | st.tuples(st.just("append"), st.integers(1, 3))
    | st.tuples(st.just("expire"), st.integers(0, 5))
    | st.tuples(st.just("clear"), st.just(0)),
    most=150,
)


@given(options, steps)
def test_channel_agrees_with_a_naive_model(
    options: ChannelOptions, steps: list[tuple[str, int]]
) -> None:
    history = History(lambda name: options, EPOCH)
    channel, model, now, seq = history.channel("numbers"), Model(options), 1000.0, 0
    for step, amount in steps:
        before = len(channel)
        if step == "append":
            seq += amount
            publication = row(channel.top + 1, seq, now, b"x" * amount)
            evicted = channel.append(publication, now)
            model.append(publication)
            before += 1
        elif step == "expire":
            now += amount
            evicted = channel.expire(now)
            model.expire(now)
        else:
            evicted = channel.clear()
            model.clear()
        rows = model.rows
        assert channel.after(0) == rows
        assert len(channel) == len(rows) == before - evicted
        assert (channel.top, channel.floor) == (len(model.all), model.floor)
        assert channel.floor_seq == (model.all[model.floor - 1].seq if model.floor else 0)
        assert channel.bytes == sum(NAMES + len(r.data) for r in rows)
    rows = model.rows
    for offset in range(-1, channel.top + 3):
        resumed = history.resume("numbers", Position(EPOCH, offset))
        assert resumed.reason == model.reason(offset)
        missed = [] if resumed.reason else [r for r in model.all if r.offset > offset]
        assert list(resumed.publications) == missed
        assert channel.after(offset) == [r for r in rows if r.offset > offset]
        assert channel.last(offset) == (rows[-offset:] if offset > 0 else [])
    for after in range(-1, seq + 2):
        assert channel.after(channel.offset_at(after)) == [r for r in rows if r.seq > after]


def test_evicted_rows_do_not_stay_in_memory() -> None:
    channel = filled(10_000, history_size=5)
    assert len(channel._rows) <= 2 * 64 + 5
    assert [r.offset for r in channel.last(5)] == [9996, 9997, 9998, 9999, 10000]
