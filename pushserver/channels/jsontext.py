"""JSON values at the door: what is published is one valid, finite, compact JSON text."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

import msgspec

from pushserver.errors import InvalidData, NotJSON

MAX_DEPTH = 100
_SHOWN_STEPS = 8
MALFORMED = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What msgspec raises for a text that is not of the form that was asked for."""


def encode(value: object) -> bytes:
    """The compact JSON text of a Python value.

    Beside what JSON has, whatever msgspec knows: dataclasses, datetimes, UUIDs, sets.
    Raises InvalidData for what JSON cannot hold, bytes, NaN and Infinity among others; the text
    says where in the value it is.
    """
    try:
        return _encode(value)
    except InvalidData as error:
        raise _located(value, error) from None


def _encode(value: object) -> bytes:
    try:
        if _is_plain(value, MAX_DEPTH):
            return _encode_plain(value)
        # Keys that were no strings may have become the same one.
        return compact(_ENCODER.encode(value).encode())
    except RecursionError:
        raise InvalidData("the value is nested too deeply, or contains itself") from None
    except (TypeError, ValueError) as error:
        raise InvalidData(f"{type(value).__name__} does not fit into JSON: {error}") from None


def compact(text: bytes) -> bytes:
    """The same JSON text without white space; numbers keep their spelling.

    Raises InvalidData for anything but one JSON value in UTF-8 (RFC 8259), and also for what
    browsers and other readers would disagree about: NaN, Infinity, a number beyond a
    double's range, the same key twice in one object, a lone surrogate, and nesting
    deeper than MAX_DEPTH.
    """
    try:
        _checked(text, _STRICT)
        return msgspec.json.format(text, indent=-1)
    except msgspec.DecodeError as error:
        raise InvalidData(str(error)) from None


def decode(text: bytes) -> Any:
    """The Python value of a JSON text that somebody else wrote.

    msgspec takes 8 us to read a number such as 1e308, and so a second and a half for a megabyte
    of them; this takes a tenth of a microsecond. Raises InvalidData as `compact` does, but for a
    key that is in an object twice: the last one counts.
    """
    return _checked(text, _LENIENT)


def _checked(text: bytes, decoders: tuple[json.JSONDecoder, json.JSONDecoder]) -> Any:
    """The value of the text; the second decoder looks at each whole number."""
    try:
        value = decoders[_has_long_number(text)].decode(utf8(text))
        if text.count(b"[") + text.count(b"{") > MAX_DEPTH:
            _check_depth(value)
        if b"\\u" in text:
            _ENCODER.encode(value).encode()
        return value
    except RecursionError:
        raise InvalidData(f"nested deeper than {MAX_DEPTH}") from None
    except UnicodeEncodeError:
        raise InvalidData("a lone surrogate (\\ud800 to \\udfff) is no character") from None
    except json.JSONDecodeError as error:
        raise NotJSON(f"{error.msg} at character {error.pos}") from None
    except InvalidData:
        raise
    except ValueError as error:
        raise InvalidData(str(error).partition(";")[0]) from None


def utf8(text: bytes) -> str:
    """The text as a string; raises InvalidData where it is not UTF-8."""
    try:
        return text.decode()
    except UnicodeDecodeError as error:
        raise InvalidData(f"invalid UTF-8 at byte {error.start}") from None


def _has_long_number(text: bytes) -> bool:
    """Whether a number may be too long for a double, so that each has to be looked at.

    A search by regular expression takes 300 times as long where many numbers are almost so long.
    """
    return len(text) >= len(_LONG) and _LONG in text.translate(_DIGITS)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise InvalidData(f"the key {key[:80]!r} stands twice in one object")
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
    value = int(text)
    if abs(value) > sys.float_info.max:
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
    raise InvalidData(f"nested deeper than {MAX_DEPTH}")


def _containers(values: Iterable[object]) -> list[dict[str, object] | list[object]]:
    return [value for value in values if isinstance(value, (dict, list))]


def _is_plain(value: Any, depth: int) -> bool:
    """Whether msgspec's text of it is what compact would give, at a quarter of the time."""
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
    """What json does not know, of what it does; msgspec would make base64 of bytes."""
    if isinstance(value, _BINARY):
        raise TypeError("bytes have to be decoded first, or encoded as base64 by yourself")
    return msgspec.to_builtins(value, builtin_types=_BINARY)


def _located(value: object, error: InvalidData) -> InvalidData:
    """The same error with the path to the innermost part of the value that does not fit."""
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
    """The step to the first part of a container that does not fit, the part, and its error."""
    for key, part in _parts(value):
        try:
            _encode(part)
        except InvalidData as error:
            return key, part, error
    return None


def _parts(value: object) -> Iterator[tuple[str, object]]:
    """The parts of a container, each with the step that leads to it."""
    if isinstance(value, Mapping):
        yield from ((f"[{key!r:.40}]", part) for key, part in value.items())
    elif isinstance(value, (list, tuple)):
        yield from ((f"[{number}]", part) for number, part in enumerate(value))
    elif isinstance(value, (set, frozenset)):
        # A set has no order: a number would differ from run to run, and the log would take the
        # same failure for a new one.
        yield from (("{...}", part) for part in value)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield f".{field.name}", getattr(value, field.name, None)


_BINARY = (bytes, bytearray, memoryview)
_SAFE = 1 << 63
_encode_plain = msgspec.json.Encoder().encode
# A number has to be this long to be beyond a double, and looking at each takes its time.
_LONG = b"0" * 309
_DIGITS = bytes.maketrans(b"123456789", b"0" * 9)

# Made once: a call of json.dumps or json.loads with options makes a new one each time,
# which takes longer than a small value.
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
