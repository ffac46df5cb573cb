from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from pushserver.channels.jsontext import encode
from pushserver.errors import InvalidData


@dataclass
class Point:
    x: int


class Odd:
    pass


LOOP: list[Any] = []
LOOP.append(LOOP)


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, b"null"), ({"a": [1, 2.5, "x"]}, b'{"a":[1,2.5,"x"]}'), (Point(1), b'{"x":1}')],
)
def test_what_fits_is_encoded(value: object, text: bytes) -> None:
    assert encode(value) == text


@pytest.mark.parametrize(
    ("value", "kind", "place"),
    [
        (Odd(), "Odd", ""),
        ({"a": [1, {"b": Odd()}]}, "Odd", "['a'][1]['b']"),
        ((0, {1: 3j}), "complex", "[1][1]"),
        ([float("nan")], "float", "[0]"),
        ({"k": {1: 2, "1": 3}}, "dict", "['k']"),
        ({"k": {(1, 2): 3}}, "dict", "['k']"),
        ({"s": "\ud800"}, "str", "['s']"),
        ([[[{Odd()}]]], "Odd", "[0][0][0]{...}"),
        ([frozenset([3j])], "complex", "[0]{...}"),
        ({"p": Point(Odd())}, "Odd", "['p'].x"),  # type: ignore[arg-type]
        ([lambda: 0], "function", "[0]"),
        (LOOP, "list", ""),
    ],
)
def test_what_does_not_is_named_with_its_type_and_its_place(
    value: object, kind: str, place: str
) -> None:
    with pytest.raises(InvalidData) as caught:
        encode(value)
    told = str(caught.value)
    assert told.startswith(f"{kind} does not fit into JSON: "), told
    assert (f"(at {place} of the value)" in told) is bool(place), told


def test_a_place_that_is_deep_or_long_is_told_shortly() -> None:
    value: Any = Odd()
    for _ in range(50):
        value = {"k" * 1_000: value}
    with pytest.raises(InvalidData) as caught:
        encode(value)
    assert len(str(caught.value)) < 600
    assert "..." in str(caught.value)


def test_bytes_are_named_with_their_place_too() -> None:
    with pytest.raises(InvalidData) as caught:
        encode({"a": [1, b"x"]})
    assert str(caught.value) == (
        "bytes does not fit into JSON: bytes have to be decoded first, or encoded as base64 by"
        " yourself (at ['a'][1] of the value)"
    )
