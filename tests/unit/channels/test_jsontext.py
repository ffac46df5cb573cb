from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pushserver.channels.jsontext import MAX_DEPTH, compact, decode, encode, repaired
from pushserver.errors import InvalidData, NotJSON

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**80), 2**80)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20)
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=20,
)


def same(a: Any, b: Any) -> bool:
    """Whether values are equal with the same types: 1, 1.0 and True differ."""
    return repr(a) == repr(b)


@given(values, st.sampled_from([None, 1, "\t"]), st.booleans())
def test_every_json_text_keeps_its_value(value: Any, indent: Any, ascii_only: bool) -> None:
    text = json.dumps(value, indent=indent, ensure_ascii=ascii_only).encode()
    assert same(json.loads(compact(text)), value)


@given(values)
def test_encoded_text_has_the_same_value_and_is_compact(value: Any) -> None:
    text = encode(value)
    assert same(json.loads(text), value)
    assert compact(text) == text


@pytest.mark.parametrize(
    ("text", "compacted"),
    [
        (b'{"number": 4.821}', b'{"number":4.821}'),
        (b" [ 1 ,\r\n\t2 ] ", b"[1,2]"),
        (b"1.50", b"1.50"),
        (b"-0", b"-0"),
        (b"1E5", b"1E5"),
        (b"12345678901234567890", b"12345678901234567890"),
        (b'"a b\\n"', b'"a b\\n"'),
        (b'"\\ud83d\\ude00"', b'"\\ud83d\\ude00"'),
        ('"😀 ü"'.encode(), '"😀 ü"'.encode()),
        (b'{"a":1,"b":{"a":1}}', b'{"a":1,"b":{"a":1}}'),
        (b"null", b"null"),
        (b'""', b'""'),
    ],
)
def test_compact_removes_white_space_and_keeps_the_spelling(text: bytes, compacted: bytes) -> None:
    assert compact(text) == compacted


REFUSED = [
    (b"", "Expecting value at character 0"),
    (b"   ", "Expecting value"),
    (b"nothing", "Expecting value"),
    (b"{'a': 1}", "property name"),
    # Python 3.13 has another message.
    (b"[1,]", "at character"),
    (b'"a\n"', "Invalid control character at character 2"),
    (b'{"a":1,}', "at character"),
    (b'{"a":1} {"a":2}', "Extra data at character 8"),
    (b"[1", "delimiter"),
    (b'"open', "Unterminated string"),
    (b'"\x01"', "control character"),
    (b'"a\nb"', "control character"),
    (b'"\\x41"', "escape"),
    (b"01", "Extra data"),
    (b".5", "Expecting value"),
    (b"+1", "Expecting value"),
    (b"0x10", "Extra data"),
    (b"// no\n1", "Expecting value"),
    (b"\xef\xbb\xbf\xef\xbb\xbf1", "Expecting value"),
    (b"NaN", "NaN is not JSON"),
    (b"[1,NaN]", "NaN is not JSON"),
    (b'{"a":Infinity}', "Infinity is not JSON"),
    (b"-Infinity", "-Infinity is not JSON"),
    (b"1e999", "the number 1e999 is beyond the range of a double"),
    (b"-1E+999", "the number -1E+999 is beyond"),
    (b'{"a":1,"a":2}', "the key 'a' appears twice in one object"),
    (b'[{"x":{"b":1,"\\u0062":2}}]', "the key 'b' appears twice"),
    (b'"\\ud800"', "lone surrogate"),
    (b'{"\\udfff":1}', "lone surrogate"),
    (b'"\\ude00\\ud83d"', "lone surrogate"),
    (b'"\xff"', "invalid UTF-8 at byte 1"),
    (b'["\xed\xa0\x80"]', "invalid UTF-8 at byte 2"),
    (b'"\xc0\xaf"', "invalid UTF-8 at byte 1"),
    (b"\xff\xfe1\x00", "invalid UTF-8 at byte 0"),
    (b"[" * 101 + b"]" * 101, "nested deeper than 100"),
    (b'{"a":' * 101 + b"1" + b"}" * 101, "nested deeper than 100"),
    (b"[" * 1_000_000, "nested deeper than 100"),
    (b"1" * 5_000, "beyond the range of a double"),
]


@pytest.mark.parametrize(("text", "why"), REFUSED, ids=[repr(text[:20]) for text, _ in REFUSED])
def test_compact_refuses_invalid_text_with_the_reason(text: bytes, why: str) -> None:
    with pytest.raises(InvalidData) as refused:
        compact(text)
    assert why in str(refused.value)
    assert len(str(refused.value)) < 200


def test_compact_refuses_an_integer_beyond_a_double() -> None:
    for digits in (400, 4_301, 100_000):
        for sign in (b"", b"-"):
            with pytest.raises(InvalidData, match=r"^the number -?10+\.\.\. is beyond the range"):
                compact(sign + b"1" + b"0" * digits)


def test_compact_keeps_the_digits_of_a_long_number_within_a_double() -> None:
    assert compact(b"[1, %b]" % (b"1" * 309)) == b"[1,%b]" % (b"1" * 309)


def nested(depth: int, inner: bytes) -> bytes:
    return b"[" * depth + inner + b"]" * depth


def test_nesting_up_to_the_limit_is_allowed() -> None:
    assert compact(nested(MAX_DEPTH, b"1")) == nested(MAX_DEPTH, b"1")
    assert compact(nested(MAX_DEPTH, b"")) == nested(MAX_DEPTH, b"")
    with pytest.raises(InvalidData):
        compact(nested(MAX_DEPTH + 1, b""))
    with pytest.raises(InvalidData):
        compact(nested(MAX_DEPTH + 1, b"1"))


def test_brackets_in_strings_and_in_siblings_do_not_count_as_nesting() -> None:
    assert compact(nested(MAX_DEPTH, b'"["')) == nested(MAX_DEPTH, b'"["')
    text = nested(MAX_DEPTH - 1, b"[],1,[]")
    assert compact(text) == text


def test_many_siblings_do_not_count_as_nesting() -> None:
    text = b"[" + b",".join([b"[[1]]"] * 200) + b"]"
    assert compact(text) == text
    text = b'{"a":"' + b"[{" * 200 + b'"}'
    assert compact(text) == text


@given(st.binary(max_size=60) | st.text('[]{}",:0123456789eE.-+\\u dtrueNaN', max_size=60))
@example("[" * 30_000)
@example(b'"\\ud800\\u0041"')
def test_any_bytes_are_refused_or_compacted_to_strict_json(
    text: bytes | str,
) -> None:
    body = text if isinstance(text, bytes) else text.encode()
    try:
        text_out = compact(body)
    except InvalidData:
        return

    def refuse(word: str) -> None:
        raise AssertionError(word)

    json.loads(text_out.decode(), parse_constant=refuse)
    assert same(json.loads(text_out), json.loads(body))
    assert compact(text_out) == text_out
    assert b"\n" not in text_out


@dataclass
class Reading:
    number: float
    at: datetime


def test_python_values_that_msgspec_knows_are_encoded() -> None:
    reading = Reading(1.5, datetime(2026, 11, 22, tzinfo=UTC))
    assert encode(reading) == b'{"number":1.5,"at":"2026-11-22T00:00:00Z"}'
    assert encode(UUID(int=1)) == b'"00000000-0000-0000-0000-000000000001"'
    assert encode({"set": {1}}) == b'{"set":[1]}'
    assert encode({(1, 2)}) == b"[[1,2]]"
    assert encode((1, "ü")) == '[1,"ü"]'.encode()
    assert encode({1: None}) == b'{"1":null}'


def cycle() -> object:
    value: list[object] = []
    value.append(value)
    return value


@dataclass
class Ring:
    inner: Ring | None


def ring() -> Ring:
    value = Ring(None)
    value.inner = value
    return value


def deep(depth: int) -> object:
    value: object = 1
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    "value",
    [
        float("nan"),
        [float("inf")],
        {"a": float("-inf")},
        {float("nan"): 1},
        Reading(float("nan"), datetime(2026, 11, 22, tzinfo=UTC)),
        object(),
        {"a": object()},
        {(1, 2): 3},
        "\ud800",
        {"\udfff": 1},
        lambda: 1,
        cycle(),
        ring(),
        deep(100_000),
    ],
    ids=lambda value: type(value).__name__,
)
def test_python_values_that_json_cannot_hold_are_refused(value: object) -> None:
    with pytest.raises(InvalidData) as refused:
        encode(value)
    assert str(refused.value)


@pytest.mark.parametrize("value", [{1: "a", "1": "b"}, deep(MAX_DEPTH + 1)], ids=["key", "depth"])
def test_compact_accepts_the_result_of_encode(value: object) -> None:
    try:
        text = encode(value)
    except InvalidData:
        return
    assert compact(text) == text


@dataclass
class Picture:
    name: str
    body: object


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_bytes_are_refused_and_not_encoded_as_base64(kind: Any) -> None:
    body = kind(b"x")
    for value in (body, {"a": body}, [1, (body,)], Picture("a", body), {"p": [Picture("a", body)]}):
        with pytest.raises(InvalidData) as refused:
            encode(value)
        advice = "decode bytes to a string, or encode them as base64"
        expected = f"{kind.__name__} does not fit into JSON: {advice}"
        assert str(refused.value).startswith(expected)


class TestDecode:
    @given(values)
    def test_returns_the_value_of_any_json_text(self, value: Any) -> None:
        assert same(decode(json.dumps(value).encode()), value)

    def test_returns_the_last_value_of_a_duplicate_key(self) -> None:
        assert decode(b'{"a":1,"b":2,"a":3}') == {"a": 3, "b": 2}

    @pytest.mark.parametrize(
        "text", [b"", b"x", b"NaN", b"-Infinity", b"[1,]", b'"open', b'{"a":NaN}']
    )
    def test_refuses_invalid_json(self, text: bytes) -> None:
        with pytest.raises(NotJSON):
            decode(text)

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            (b'"\xff"', "invalid UTF-8 at byte 1"),
            (b'"\\ud83d"', "lone surrogate"),
            (b"1e999", "beyond the range of a double"),
            (b"9" * 309, "beyond the range of a double"),
            (b"-" + b"9" * 309, "beyond the range of a double"),
            (b"[" * 101 + b"]" * 101, "nested deeper than 100"),
            (b"[" * 100_000, "nested deeper than 100"),
        ],
    )
    def test_refuses_json_that_cannot_be_published_with_the_reason(
        self, text: bytes, words: str
    ) -> None:
        with pytest.raises(InvalidData, match=words) as caught:
            decode(text)
        assert not isinstance(caught.value, NotJSON)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (b'"cut emoji \\ud83d"', "cut emoji \ufffd"),
        (b'{"\\ude00": ["\\uD83D\\ud83d\\ude00", 1e5, 5]}', {"\ufffd": ["\ufffd😀", 1e5, 5]}),
        (b'"\\\\ud83d"', "\\ud83d"),
        (b'"a\xff"', "a\ufffd"),
        (b'"\xed\xa0\xbd"', "\ufffd" * 3),
        (b'\xef\xbb\xbf{"a": "\\udfff"}', {"a": "\ufffd"}),
    ],
)
def test_repaired_text_has_replacement_characters(text: bytes, value: object) -> None:
    assert repaired(text) == repaired(text, unique=True) == value
    assert json.loads(encode(repaired(text))) == value


@pytest.mark.parametrize("text", [b"", b"\xff", b"\\ud83d", b"NaN", b"[" * 101 + b"]" * 101])
def test_repaired_text_has_to_be_json(text: bytes) -> None:
    with pytest.raises(InvalidData):
        repaired(text)


def test_duplicate_key_is_refused_in_a_repaired_text_if_keys_are_unique() -> None:
    assert repaired(b'{"a":1,"a":2}') == {"a": 2}
    with pytest.raises(InvalidData, match="twice"):
        repaired(b'{"a":1,"a":2}', unique=True)


def test_byte_order_mark_is_left_out() -> None:
    assert compact(b'\xef\xbb\xbf{"a": 1}') == b'{"a":1}'
    assert decode(b"\xef\xbb\xbf[1]") == [1]


@pytest.mark.parametrize("number", ["9" * 309, "1" + "0" * 308, "9" * 308])
@pytest.mark.parametrize("around", ["%s", "[1,%s]", '{"a":"' + "7" * 308 + '","b":%s}', "[-%s]"])
def test_long_number_is_checked_at_any_position(number: str, around: str) -> None:
    text = (around % number).encode()
    if int(number) > 10**308 * 1.7:
        with pytest.raises(InvalidData, match="beyond the range of a double"):
            compact(text)
    else:
        assert compact(text) == text


# -- the path in an error --


@dataclass
class Point:
    x: int


class Odd:
    pass


LOOP: list[Any] = []
LOOP.append(LOOP)


@pytest.mark.parametrize(
    ("value", "kind", "path"),
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
def test_invalid_part_is_refused_with_its_type_and_path(
    value: object, kind: str, path: str
) -> None:
    with pytest.raises(InvalidData) as caught:
        encode(value)
    message = str(caught.value)
    assert message.startswith(f"{kind} does not fit into JSON: "), message
    assert (f"(at {path} of the value)" in message) is bool(path), message


def test_long_path_is_shortened() -> None:
    value: Any = Odd()
    for _ in range(50):
        value = {"k" * 1_000: value}
    with pytest.raises(InvalidData) as caught:
        encode(value)
    assert len(str(caught.value)) < 600
    assert "..." in str(caught.value)


def test_bytes_are_refused_with_their_path() -> None:
    with pytest.raises(InvalidData) as caught:
        encode({"a": [1, b"x"]})
    assert str(caught.value) == (
        "bytes does not fit into JSON: decode bytes to a string, or encode them as base64"
        " (at ['a'][1] of the value)"
    )
