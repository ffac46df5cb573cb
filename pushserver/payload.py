"""JSON values at the door: what is published is one valid, finite, compact JSON text."""

from __future__ import annotations

import json
import math
from typing import Any

import msgspec

MAX_DEPTH = 100


class InvalidData(ValueError):
    """What was to be published is no JSON value; the text says where and why."""


class NotJSON(InvalidData):
    """It is not even the syntax of JSON."""


def encode(value: object) -> bytes:
    """The compact JSON text of a Python value.

    Beside what JSON has, whatever msgspec knows: dataclasses, datetimes, UUIDs, sets.
    Raises InvalidData for what JSON cannot hold, NaN and Infinity included.
    """
    try:
        return _ENCODER.encode(value).encode()
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
        value = _DECODER.decode(text.decode())
        if text.count(b"[") + text.count(b"{") > MAX_DEPTH:
            _check_depth(value)
        if b"\\u" in text:
            _ENCODER.encode(value).encode()
        return msgspec.json.format(text, indent=-1)
    except RecursionError:
        raise InvalidData(f"nested deeper than {MAX_DEPTH}") from None
    except UnicodeDecodeError as error:
        raise InvalidData(f"invalid UTF-8 at byte {error.start}") from None
    except UnicodeEncodeError:
        raise InvalidData("a lone surrogate (\\ud800 to \\udfff) is no character") from None
    except json.JSONDecodeError as error:
        raise NotJSON(f"{error.msg} at character {error.pos}") from None
    except InvalidData:
        raise
    except (ValueError, msgspec.DecodeError) as error:
        raise InvalidData(str(error).partition(";")[0]) from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        names = [key for key, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise InvalidData(f"the key {twice[:80]!r} stands twice in one object")
    return value


def _no_constant(word: str) -> None:
    raise InvalidData(f"{word} is not JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise InvalidData(f"the number {text[:40]} is beyond the range of a double")
    return value


def _check_depth(value: object) -> None:
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            inner
            for outer in level
            if isinstance(outer, (dict, list))
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
        if not level:
            return
    raise InvalidData(f"nested deeper than {MAX_DEPTH}")


# Made once: a call of json.dumps or json.loads with options makes a new one each time,
# which takes longer than a small value.
_ENCODER = json.JSONEncoder(
    ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=msgspec.to_builtins
)
_DECODER = json.JSONDecoder(
    object_pairs_hook=_unique, parse_constant=_no_constant, parse_float=_finite
)
