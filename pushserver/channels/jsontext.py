"""Encodes values as compact JSON text, and checks JSON text of publishers and clients."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import sys
from codecs import BOM_UTF8
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

import msgspec

from pushserver.errors import InvalidData, NotJSON

MAX_DEPTH = 100
"""The deepest nesting of arrays and objects."""

_SHOWN_STEPS = 8
MALFORMED = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""The exceptions of msgspec for a text that does not have the expected type."""


def encode(value: object) -> bytes:
    """Encode a Python value as compact JSON text.

    All types that msgspec encodes are allowed except bytes: dataclasses, datetimes, UUIDs, sets.
    Raises InvalidData, with the path in the value, for other types, NaN and Infinity.
    """
    try:
        return _encode(value)
    except InvalidData as error:
        raise _located(value, error) from None


def _encode(value: object) -> bytes:
    try:
        if _is_plain(value, MAX_DEPTH):
            return _trimmed(_encode_plain(value))
        # Keys such as 1 and "1" have become the same string.
        return compact(_ENCODER.encode(value).encode())
    except RecursionError:
        raise InvalidData("the value is nested too deeply, or contains itself") from None
    except (TypeError, ValueError) as error:
        raise InvalidData(f"{type(value).__name__} does not fit into JSON: {error}") from None


def compact(text: bytes) -> bytes:
    """Remove the white space and the byte order mark of a JSON text; numbers keep their spelling.

    Raises InvalidData unless it is one JSON value in UTF-8 (RFC 8259), and also for values that
    readers interpret differently: NaN, Infinity, a number beyond the range of a double, a
    duplicate key in an object, a lone surrogate, and nesting deeper than MAX_DEPTH.
    """
    text = text.removeprefix(BOM_UTF8)
    try:
        _checked(text, _STRICT)
        return _trimmed(msgspec.json.format(text, indent=-1))
    except msgspec.DecodeError as error:
        raise InvalidData(str(error)) from None


def _trimmed(text: bytes) -> bytes:
    """A copy: a text of msgspec 0.22 keeps its buffer, up to half as much memory more.

    `sys.getsizeof` does not show that. The copy takes 0.1 us, and 2.5 us for 60 KB.
    """
    return text[:1] + text[1:]


def decode(text: bytes, *, unique: bool = False) -> Any:
    """Decode a JSON text from an untrusted source.

    msgspec takes 8 us for a number such as 1e308, and so 1.5 s for a megabyte of them; this takes
    0.1 us. Raises InvalidData like `compact`, but of a duplicate key the last value counts unless
    they are to be `unique`.
    """
    return _checked(text.removeprefix(BOM_UTF8), _STRICT if unique else _LENIENT)


def repaired(text: bytes, *, unique: bool = False) -> Any:
    """Decode a JSON text that a source fetched or read, whose author gets no error message.

    Invalid UTF-8 and lone surrogates become U+FFFD. Else raises InvalidData like `decode`, and for
    a duplicate key if they are to be `unique`.
    """
    text = text.removeprefix(BOM_UTF8)
    return _checked(text, _STRICT if unique else _LENIENT, repairs=True)


def reason(text: bytes, error: Exception) -> str:
    """The reason why msgspec refused the text: it takes a lone surrogate for truncated data."""
    try:
        decode(text)
    except InvalidData as found:
        return str(found)
    return str(error)


def _checked(
    text: bytes, decoders: tuple[json.JSONDecoder, json.JSONDecoder], repairs: bool = False
) -> Any:
    """Decode the text; the second decoder checks the range of integers."""
    try:
        decoded = text.decode(errors="replace") if repairs else utf8(text)
        value = decoders[_has_long_number(text)].decode(decoded)
        if text.count(b"[") + text.count(b"{") > MAX_DEPTH:
            _check_depth(value)
        if b"\\u" in text:
            encoded = _ENCODER.encode(value)
            if repairs and _SURROGATE.search(encoded):
                return json.loads(_SURROGATE.sub("\ufffd", encoded))
            encoded.encode()
        return value
    except RecursionError:
        raise InvalidData(f"nested deeper than {MAX_DEPTH} levels") from None
    except UnicodeEncodeError:
        raise InvalidData("a lone surrogate (\\ud800 to \\udfff) is not a character") from None
    except json.JSONDecodeError as error:
        raise NotJSON(f"{error.msg.removesuffix(' at')} at character {error.pos}") from None


def utf8(text: bytes) -> str:
    """Decode UTF-8; raises InvalidData."""
    try:
        return text.decode()
    except UnicodeDecodeError as error:
        raise InvalidData(f"invalid UTF-8 at byte {error.start}") from None


def _has_long_number(text: bytes) -> bool:
    """Whether an integer may be beyond the range of a double, so that each must be checked.

    A regular expression takes 300 times as long on a text with many numbers of nearly this length.
    """
    return len(text) >= len(_LONG) and _LONG in text.translate(_DIGITS)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise InvalidData(f"the key {key[:80]!r} appears twice in one object")
            seen.add(key)
    return value


def _no_constant(word: str) -> None:
    raise InvalidData(f"{word} is not JSON")


def _not_json(word: str) -> None:
    raise NotJSON(f"{word} is not JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise InvalidData(f"the number {text[:40]} is beyond the range of a double")
    return value


def _integer(text: str) -> int:
    # Python refuses to read more than 4300 digits.
    if len(text) > MAX_DIGITS + 1 or abs(value := int(text)) > sys.float_info.max:
        raise InvalidData(f"the number {text[:40]}... is beyond the range of a double")
    return value


def _check_depth(value: object) -> None:
    level = _containers([value])
    for _ in range(MAX_DEPTH):
        level = _containers(
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        )
        if not level:
            return
    raise InvalidData(f"nested deeper than {MAX_DEPTH} levels")


def _containers(values: Iterable[object]) -> list[dict[str, object] | list[object]]:
    return [value for value in values if isinstance(value, (dict, list))]


def _is_plain(value: Any, depth: int) -> bool:
    """Whether msgspec encodes the value as `compact` would, in a quarter of the time."""
    kind = type(value)
    if kind is str or kind is bool or value is None:
        return True
    if kind is int:
        return bool(-_SAFE <= value < _SAFE)
    if kind is float:
        return math.isfinite(value)
    if not depth:
        return False
    if kind is dict:
        for key, inner in value.items():
            if type(key) is not str or not _is_plain(inner, depth - 1):
                return False
        return True
    if kind is list or kind is tuple:
        for inner in value:  # noqa: SIM110
            if not _is_plain(inner, depth - 1):
                return False
        return True
    return False


def _simpler(value: object) -> Any:
    """Convert a value that json cannot encode; refuse bytes, which msgspec makes base64."""
    if isinstance(value, _BINARY):
        raise TypeError("decode bytes to a string, or encode them as base64")
    return msgspec.to_builtins(value, builtin_types=_BINARY)


def _located(value: object, error: InvalidData) -> InvalidData:
    """The error with the path to the innermost part of the value that cannot be encoded."""
    steps, inner, innermost = list[str](), value, error
    while len(steps) <= MAX_DEPTH and (part := _misfit(inner)) is not None:
        step, inner, innermost = part
        steps.append(step)
    if not steps or len(steps) > MAX_DEPTH:
        return error
    more = "..." if len(steps) > _SHOWN_STEPS else ""
    path = "".join(islice(steps, _SHOWN_STEPS)) + more
    return InvalidData(f"{innermost} (at {path} of the value)")


def _misfit(value: object) -> tuple[str, object, InvalidData] | None:
    """The first part of a container that cannot be encoded: its step, the part, the error."""
    for key, part in _parts(value):
        try:
            _encode(part)
        except InvalidData as error:
            return key, part, error
    return None


def _parts(value: object) -> Iterator[tuple[str, object]]:
    """The parts of a container with their steps in the path."""
    if isinstance(value, Mapping):
        yield from ((f"[{key!r:.40}]", part) for key, part in value.items())
    elif isinstance(value, (list, tuple)):
        yield from ((f"[{number}]", part) for number, part in enumerate(value))
    elif isinstance(value, (set, frozenset)):
        # A set has no order: with a number, the same failure would be logged as another one.
        yield from (("{...}", part) for part in value)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield f".{field.name}", getattr(value, field.name, None)


_BINARY = (bytes, bytearray, memoryview)
_SAFE = 1 << 63
_SURROGATE = re.compile("[\ud800-\udfff]")
_encode_plain = msgspec.json.Encoder().encode
# The shortest integer beyond the range of a double has this length.
MAX_DIGITS = 309
"""The digits of the greatest double."""
_LONG = b"0" * MAX_DIGITS
_DIGITS = bytes.maketrans(b"123456789", b"0" * 9)

# json.dumps and json.loads with options make a new encoder or decoder for each call, which takes
# longer than encoding a small value.
_ENCODER = json.JSONEncoder(
    ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_simpler
)
_STRICT = (
    json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_constant, parse_float=_finite),
    json.JSONDecoder(
        object_pairs_hook=_unique,
        parse_constant=_no_constant,
        parse_float=_finite,
        parse_int=_integer,
    ),
)
_LENIENT = (
    json.JSONDecoder(parse_constant=_not_json, parse_float=_finite),
    json.JSONDecoder(parse_constant=_not_json, parse_float=_finite, parse_int=_integer),
)
