"""The counted memory of histories is the memory that they take."""

from __future__ import annotations

import sys
import tracemalloc
from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec
import pytest

from pushserver.channels import jsontext
from pushserver.channels.channel import Channel, ChannelOptions
from pushserver.channels.history import History
from pushserver.channels.publication import (
    ROW_BYTES,
    ClientInfo,
    Draft,
    Publication,
    Tags,
    memory_bytes,
)
from pushserver.channels.room import Room

LEAST, MOST = 0.55, 1.1
"""The memory that histories take for each counted byte: docs/delivery.md promises this."""

CHARACTERS = {"ASCII": "e", "Latin-1": "\xe9", "wide": "\u0436", "astral": "\U0001f602"}


def data(n: int) -> bytes:
    return b'{"number":%d}' % n


def long(character: str, n: int) -> str:
    """A text of which one character is this one; another text for each number."""
    return f"{character}{n}{'x' * 110}"


def in_tags(character: str, n: int) -> Draft:
    """A publication with 40 tags."""
    tags = {f"{n} {k} {character}": f"{character} {k} {n}" for k in range(40)}
    return Draft("a", data(n), tags=Tags(tags))


SHAPES: dict[str, Callable[[str, int], Draft]] = {
    "data": lambda c, n: Draft("a", f'"{c * 100}{n}"'.encode()),
    "an event": lambda c, n: Draft("a", data(n), event=f"{c * 110}{n}"),
    "one character of an event": lambda c, n: Draft("a", data(n), event=long(c, n)),
    "a short event": lambda c, n: Draft("a", data(n), event=f"{c}{n}"),
    "a tag": lambda c, n: Draft("a", data(n), tags=Tags({f"t{n}": long(c, n)})),
    "the name of a tag": lambda c, n: Draft("a", data(n), tags=Tags({long(c, n): str(n)})),
    "40 tags": in_tags,
    "a tag of 20 KB": lambda c, n: Draft("a", data(n), tags=Tags({f"t{n}": long(c, n) * 180})),
    "a user": lambda c, n: Draft("a", data(n), info=ClientInfo(f"c{n}", long(c, n))),
    "conn_info": lambda c, n: Draft(
        "a", data(n), info=ClientInfo(f"c{n}", str(n), f'"{c * 100}{n}"'.encode())
    ),
}

NAMES: dict[str, Callable[[int], str]] = {
    "one channel": lambda n: "a",
    "a long name": lambda n: "a" * 128,
    "a channel each": lambda n: f"channel{n}",
    "a channel with a long name each": lambda n: f"channel{n}".ljust(128, "x"),
    "trimmed to the last one": lambda n: f"last one{n % 50}",
    "trimmed to the last 20": lambda n: f"last 20{n % 5}",
}


def make_history(bound: int = sys.maxsize) -> History:
    def options(name: str) -> ChannelOptions:
        size = 1 if name.startswith("last one") else 20 if name.startswith("last 20") else 10_000
        return ChannelOptions(history_size=size, history_bytes=10**9)

    # Python has the small numbers only once.
    return History(options, "epoch", seq=10**6, room=Room(bound))


def fill(history: History, count: int, draft: Callable[[int], Draft]) -> None:
    for n in range(count):
        row = history.number(draft(n), 1e9 + n)
        keep_utf8(row)
        history.append(row, float(n))


def keep_utf8(row: Publication) -> None:
    """Encode the texts as for a subscriber: Python keeps the UTF-8 beside them."""
    msgspec.json.encode((row.event, row.tags, row.info and row.info.user))


def ratio(history: History, action: Callable[[], None]) -> float:
    """The memory that the histories take after `action` for each counted byte."""
    tracemalloc.start()
    try:
        action()
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    return taken / history.room.bytes


@pytest.mark.parametrize("character", CHARACTERS)
@pytest.mark.parametrize("shape", SHAPES)
def test_publications_take_the_memory_that_they_count(shape: str, character: str) -> None:
    history = make_history()
    draft = partial(SHAPES[shape], CHARACTERS[character])
    count = 30 if shape.startswith(("40", "a tag of")) else 300
    assert LEAST <= ratio(history, lambda: fill(history, count, draft)) <= MOST


@pytest.mark.parametrize("name", NAMES)
def test_channels_take_the_memory_that_they_count(name: str) -> None:
    history = make_history()

    def draft(n: int) -> Draft:
        return Draft(NAMES[name](n), data(n))

    assert LEAST <= ratio(history, lambda: fill(history, 3_150, draft)) <= MOST


@pytest.mark.parametrize("size", [1, 60_000])
def test_many_tiny_and_few_huge_publications_take_the_memory_that_they_count(size: int) -> None:
    history = make_history()

    def draft(n: int) -> Draft:
        return Draft("a", b'"%d%b"' % (n, b"x" * size))

    assert LEAST <= ratio(history, lambda: fill(history, 3_000 // size or 50, draft)) <= MOST


@pytest.mark.parametrize("watched", [False, True], ids=["forgotten", "halved"])
@pytest.mark.parametrize("character", CHARACTERS)
def test_histories_take_the_bound_after_thousands_made_room(character: str, watched: bool) -> None:
    bound = 200_000
    history = make_history(bound)
    gone = list[int]()
    history.room.on_evict = lambda channel, rows, setting: gone.append(rows)

    def draft(n: int) -> Draft:
        name = f"channel{n % 20}" if watched else f"channel{n // 3}"
        return Draft(name, data(n), "e" * (n % 80) + CHARACTERS[character])

    def act() -> None:
        for n in range(20 if watched else 0):
            history.channel(f"channel{n}")
        fill(history, 4_000, draft)
        gone.clear()

    assert LEAST <= ratio(history, act) <= MOST
    assert bound * 0.8 <= history.room.bytes <= bound


@pytest.mark.parametrize("character", CHARACTERS)
@pytest.mark.parametrize("shape", SHAPES)
def test_what_was_counted_is_subtracted(shape: str, character: str) -> None:
    history = make_history()
    empty = history.channel("a").memory
    assert history.room.bytes == empty
    # The size of a text that was encoded after it was counted is another one.
    for n in range(3):
        row = history.number(SHAPES[shape](CHARACTERS[character], n), 1e9)
        history.append(row, 0.0)
        keep_utf8(row)
    channel: Channel = history.channels["a"]
    assert channel.memory == empty + sum(memory_bytes(row) for row in channel.after(0))
    history.clear("a")
    assert history.room.bytes == channel.memory == empty


@pytest.mark.parametrize("make", [jsontext.encode, lambda text: jsontext.compact(b'"%b"' % text)])
@pytest.mark.parametrize("size", [1, 20, 350, 1_000, 20_000, 60_000])
def test_data_takes_no_more_memory_than_its_text(make: Callable[[Any], bytes], size: int) -> None:
    value: Any = "x" * size if make is jsontext.encode else b"x" * size
    make(value)
    tracemalloc.start()
    try:
        kept = [make(value) for _ in range(10)]
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert taken <= sum(map(sys.getsizeof, kept)) + 1_000


@pytest.mark.parametrize("length", [1, 2, 100, 5_000])
@pytest.mark.parametrize("character", CHARACTERS)
def test_text_counts_as_python_stores_it(character: str, length: int) -> None:
    text = CHARACTERS[character] + "x" * length
    row = Publication("a", "epoch", 1, 1, 0.0, text, b"")
    keep_utf8(row)
    assert memory_bytes(row) - ROW_BYTES == pytest.approx(
        sys.getsizeof(text) - sys.getsizeof(""), abs=4
    )
