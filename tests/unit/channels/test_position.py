from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pushserver.channels.position import (
    MOST_LOGS,
    Cursor,
    Start,
    Vector,
    epoch_of,
    parse_cursor,
    parse_since,
)
from pushserver.errors import InvalidCursor


@pytest.mark.parametrize(
    ("text", "cursor"),
    [
        ("5f3a90c1:1042", Cursor("5f3a90c1", 1042)),
        ("e:0", Cursor("e", 0)),
        ("A-z_9:007", Cursor("A-z_9", 7)),
        ("x" * 64 + ":" + "9" * 18, Cursor("x" * 64, 10**18 - 1)),
    ],
)
def test_cursor_is_an_epoch_and_a_number(text: str, cursor: Cursor) -> None:
    assert parse_cursor(text) == cursor


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        "e",
        "e:",
        ":1",
        "e:-1",
        "e:+1",
        "e: 1",
        " e:1",
        "e:1\n",
        "e:1.0",
        "e:1e3",
        "e:1:2",
        "é:1",
        "e:١",
        "e e:1",
        "x" * 65 + ":1",
        "e:" + "9" * 19,
        "now",
        "null",
        ",",
        "e:1,",
        ",e:1",
        "e:1, f:2",
        "e:1,f",
        "e:1,,f:2",
        "e:1,e:2",
        "e:1,f:2,e:1",
        ",".join(f"e{n}:{n}" for n in range(MOST_LOGS + 1)),
        "e:1," * 100_000,
        "x" * 100_000,
    ],
)
def test_invalid_cursor_is_refused_with_value_and_rule(text: str) -> None:
    with pytest.raises(InvalidCursor) as refused:
        parse_cursor(text)
    assert repr(text[:80]) in str(refused.value)
    assert "expected now, oldest, or the id of a publication" in str(refused.value)
    assert len(str(refused.value)) < 500
    assert (f"{text[:80]!r}..." in str(refused.value)) is (len(text) > 80)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("e:1,f:2,e:3", "'e:1,f:2,e:3': the epoch e is in it twice; expected "),
        (",".join(f"e{n}:{n}" for n in range(9)), "it has 9 parts, and at most 8 are possible"),
        ("e:1," * 100_000, "it has 100001 parts, and at most 8 are possible"),
        ("e:1,f", "the part 'f' is none; expected "),
        ("e:1," + "f" * 1_000, f"the part '{'f' * 80}'... is none; expected "),
        ("f", "invalid cursor 'f': expected "),
        ("f", "such as 5f3a90c1:1042 (with several Redis also 5f3a90c1:1042,0d9e7a44:17)"),
    ],
)
def test_error_says_what_is_wrong_with_a_cursor(text: str, problem: str) -> None:
    with pytest.raises(InvalidCursor) as refused:
        parse_cursor(text)
    assert problem in str(refused.value)


@given(
    st.builds(
        Cursor,
        st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True),
        st.integers(0, 10**18 - 1),
    )
)
def test_text_of_a_cursor_parses_to_the_same_cursor(cursor: Cursor) -> None:
    assert parse_cursor(str(cursor)) == cursor


epochs = st.lists(st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True), unique=True, max_size=8)


@given(epochs.filter(lambda found: len(found) > 1), st.integers(0, 10**18 - 1))
def test_text_of_a_vector_parses_to_the_same_vector(names: list[str], seq: int) -> None:
    vector = Vector(tuple(Cursor(name, seq) for name in names))
    assert parse_cursor(str(vector)) == vector
    assert epoch_of(str(vector)) == vector.epoch == ",".join(names)


def test_since_is_a_cursor_or_now_or_oldest() -> None:
    assert parse_since("now") == Start(last=0)
    assert parse_since("oldest") == Start(oldest=True)
    assert parse_since("e:5") == Start(since=Cursor("e", 5))
    assert parse_since("e:5,f:2") == Start(since=Vector((Cursor("e", 5), Cursor("f", 2))))
    with pytest.raises(InvalidCursor):
        parse_since("Oldest")
