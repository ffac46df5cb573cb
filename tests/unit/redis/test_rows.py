"""The entries of the log in Redis, ours and others."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pushserver.channels.publication import ClientInfo, Draft, Publication
from pushserver.hub.follower import Image
from pushserver.redis.rows import (
    Appended,
    Cleared,
    Later,
    NotOurs,
    Ordered,
    encode,
    entry_of,
    image_of,
)

INFO = st.builds(ClientInfo, st.text(), st.text(), st.binary(), st.binary())
DRAFTS = st.builds(
    Draft,
    st.text(),
    st.binary(),
    st.text(),
    st.none() | st.dictionaries(st.text(), st.text()),
    st.none() | INFO,
    skip=st.lists(st.text()).map(tuple),
)


def entry(blob: bytes = encode(Draft("a", b"1")), **changes: bytes) -> list[Any]:
    """An entry of the log; without a field, if that is to be empty."""
    fields = {"c": b"a", "o": b"2", "g": b"0", "t": b"1500", "d": blob, "w": b"n:3"} | changes
    pairs = [(name.encode(), value) for name, value in fields.items() if value]
    return [b"7-0", [part for pair in pairs for part in pair]]


@given(DRAFTS, st.integers(0, 2**53), st.text())
def test_a_draft_comes_back(draft: Draft, number: int, node: str) -> None:
    blob = encode(draft)
    text = b"%d" % number
    parts = {"c": draft.channel.encode() or b"a", "w": f"{node}:{number}".encode()}
    found = entry_of("e", entry(blob, o=text, g=text, t=text, **parts))
    assert isinstance(found, Appended)
    row = found.publication
    assert (row.data, row.event, row.tags, row.info) == (
        draft.data,
        draft.event,
        draft.tags,
        draft.info,
    )
    assert (row.channel, row.offset, row.time) == (draft.channel or "a", number, number / 1000)
    assert row.epoch == (f"e-{number}" if number else "e")
    assert (found.generation, found.skip) == (number, draft.skip)
    assert (found.node, found.counter) == (node, number)


def test_a_clear_comes_back() -> None:
    assert entry_of("e", [b"7-2", [b"k", b"clear", b"c", b"a"]]) == Cleared("a", 7, 2)


def test_an_order_comes_back() -> None:
    entry = [b"7-2", [b"k", b"order", b"n", b"me", b"d", b"\xff"]]
    assert entry_of("e", entry) == Ordered("me", b"\xff")


def test_values_of_later_versions_are_left_out() -> None:
    blob = msgspec.msgpack.encode(["event", b"1", None, None, ["me"], "new"])
    found = entry_of("e", entry(blob))
    assert isinstance(found, Appended)
    assert (found.publication.event, found.skip) == ("event", ("me",))
    name, fields = entry()
    assert entry_of("e", [name, [*fields, b"z", b"new"]]) == entry_of("e", [name, fields])
    assert entry_of("e", [b"7-2", [b"k", b"clear", b"c", b"a", b"z", b"new"]]) == Cleared("a", 7, 2)
    order = [b"7-2", [b"k", b"order", b"n", b"me", b"d", b"\xff", b"z", b"new"]]
    assert entry_of("e", order) == Ordered("me", b"\xff")


def test_kinds_of_later_versions_are_known_as_such() -> None:
    assert entry_of("e", [b"7-1", [b"k", b"joined", b"z", b"new"]]) == Later("joined")


@pytest.mark.parametrize(
    "foreign",
    [
        None,
        b"text",
        [],
        [b"7-0", None],
        [b"7", entry()[1]],
        [b"7-0-0", entry()[1]],
        [b"x-0", entry()[1]],
        [b"7-1", entry()[1]],
        [b"7-0", []],
        [b"7-0", [b"theirs", b"1"]],
        [b"7-0", [b"k", b"clear", b"c", b"a"]],
        [b"7-1", [b"k", b"\xff", b"c", b"a"]],
        [b"7-1", [b"k"]],
        [b"7-1", [b"k", b"clear", b"c", b"\xff"]],
        [b"7-1", [b"k", b"clear", b"x", b"a"]],
        [b"7-1", [b"k", b"order", b"n", b"a"]],
        [b"7-1", [b"k", b"clear", b"c"]],
        [b"7-0", [b"more", b"1", *entry()[1]]],
        entry(c=b"\xff"),
        entry(o=b""),
        entry(o=b"-1"),
        entry(g="\u0663".encode()),
        entry(t=b"1.5"),
        entry(t=b"9" * 17),
        entry(t=b"9" * 4_000),
        entry(w=b"n"),
        entry(w=b"n:"),
        entry(w=b"\xff:1"),
        entry(b"\xc1"),
        entry(b"\x90"),
        entry(b"\xff" * 5),
        entry(msgspec.msgpack.encode(["event", "text", None, None, []])),
        entry(msgspec.msgpack.encode({"event": "a"})),
        entry(b"\x95\xa1\xff" + encode(Draft("a", b"1"))[2:]),
        entry(b"\x91" * 100_000),
        entry(encode(Draft("a", b"1")) + b"\x00"),
    ],
)
def test_an_entry_of_another_program_is_refused(foreign: Any) -> None:
    with pytest.raises(
        NotOurs, match=r"^the log in Redis has .* which no pushserver wrote: "
    ) as no:
        entry_of("e", foreign)
    assert len(str(no.value)) < 600


def test_the_error_has_no_data_of_the_entry() -> None:
    blob = encode(Draft("secret", b'"' + b"correct-horse" * 100_000 + b'"'))
    foreign = [b"7-1", [b"c", b"news", b"d", blob]]
    with pytest.raises(NotOurs) as no:
        entry_of("e", foreign)
    assert f"[b'7-1', [b'c', b'news', b'd', <{len(blob)} bytes>]]" in str(no.value)
    with pytest.raises(NotOurs) as no:
        image([5, 12, "t", blob])
    assert f"<{len(blob)} bytes>" in str(no.value)


def image(*rows: Any, floor: int = 4, top: int = 5, generation: int = 3) -> Image:
    return image_of("e", 2_500, "a", [generation, top, floor, 9, 1, list(rows)])


def test_an_image_has_rows_with_their_ages() -> None:
    blob = encode(Draft("a", b"1", "event"))
    row = Publication("a", "e-3", 12, 5, 1.5, "event", b"1")
    assert image([5, 12, 1_500, blob]) == Image("a", "e-3", 4, 9, [row], [1.0], 1)
    # The clock of Redis was set back.
    assert image([5, 12, 3_000, blob]).ages == [0.0]


@pytest.mark.parametrize("row", [None, [], [5, 12, 1_500, b""], [5, 12, "t", b"1"], [5, 12, 1_500]])
def test_an_image_with_other_rows_is_refused(row: Any) -> None:
    with pytest.raises(NotOurs, match=r"^the history of 'a' in Redis has "):
        image(row)


def test_an_image_with_a_hole_is_refused() -> None:
    with pytest.raises(NotOurs, match="0 rows from 4 to 5"):
        image()
