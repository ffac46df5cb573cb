"""The sizes of what filters, methods and operators in a template make, before they make it.

Their arguments may be data of publications: `{{ data.title|center(data.width) }}` could make a text
of a gigabyte. Each function takes the arguments of a call and returns roughly the characters or
items that the call adds.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Size = Callable[..., int]

COPIES = 64
"""The copies of an item that count as one item that is made."""

_CONVERSION = re.compile(r"%(?:\([^()%]*\))?[-#0 +]*(\d+|\*)?(?:\.(\d+|\*))?")
_FIELD = re.compile(r"\{([^{}]*)")
_NESTED_FIELD = re.compile(r"\{[^{}]*\{")


def _number(value: Any) -> int:
    return abs(value) if isinstance(value, int) else 0


def _text(value: Any) -> str:
    return value if isinstance(value, str) else str(value)


def _width(text: Any, width: Any = 80, *_: Any) -> int:
    return _number(width)


def _indent(text: Any, width: Any = 4, *_: Any) -> int:
    each = len(width) if isinstance(width, str) else _number(width)
    return (_text(text).count("\n") + 1) * each


def _batch(items: Any, linecount: Any, fill_with: Any = None) -> int:
    return 0 if fill_with is None else _number(linecount)


def _slice(items: Any, slices: Any, fill_with: Any = None) -> int:
    # With more lists than items, the others are empty.
    return _number(slices)


def _wordwrap(
    text: Any, width: Any = 79, break_long_words: Any = True, wrapstring: Any = None, *_: Any
) -> int:
    text = _text(text)
    lines = len(text) // max(1, _number(width)) + len(text.split())
    return lines * len(wrapstring) if isinstance(wrapstring, str) else 0


def _replace(text: Any, old: Any, new: Any, *_: Any) -> int:
    return _text(text).count(_text(old)) * len(_text(new))


def _join(items: Sequence[Any], between: Any = "", attribute: Any = None) -> int:
    texts = () if attribute is not None else items
    return sum(len(one) for one in texts if isinstance(one, str)) + len(items) * len(_text(between))


def _sum(items: Sequence[Any], attribute: Any = None, start: Any = 0) -> int:
    if not isinstance(start, list | tuple | str):
        return 0
    # Each sum of lists copies those before it, which takes little for each item.
    return len(items) * sum(len(one) for one in items) // COPIES


def _tojson(value: Any, indent: Any = None) -> int:
    if not _number(indent):
        return 0
    text = json.dumps(value, default=str)
    return sum(map(text.count, ",[{")) * _number(indent)


def _round(value: Any, precision: Any = 0, *_: Any) -> int:
    # It makes a power of ten.
    return _number(precision)


def of_conversions(text: str, *args: Any, **kwargs: Any) -> int:
    """Of `text % args`: the widths and precisions, which may be arguments."""
    widths = [width for found in _CONVERSION.findall(text) for width in found if width]
    # 18 digits of a longer number are too many, too.
    size = sum(int(width[:18]) for width in widths if width != "*")
    return size + (sum(map(_number, args)) if "*" in widths else 0)


def _format(text: str, *args: Any, **kwargs: Any) -> int:
    widths = " ".join(field.partition(":")[2] for field in _FIELD.findall(text))
    size = sum(int(width[:18]) for width in re.findall(r"\d+", widths))
    if _NESTED_FIELD.search(text):
        size += sum(map(_number, (*args, *kwargs.values())))
    return size


def _format_map(text: str, values: Mapping[str, Any]) -> int:
    return _format(text, *values.values())


def _expandtabs(text: str, tabsize: Any = 8) -> int:
    return text.count("\t") * _number(tabsize)


def _join_method(between: str, items: Sequence[Any]) -> int:
    return _join(items, between)


OF_FILTERS: Mapping[str, Size] = {
    "batch": _batch,
    "center": _width,
    "format": lambda text, *args, **_: of_conversions(_text(text), *args),
    "indent": _indent,
    "join": _join,
    "replace": _replace,
    "round": _round,
    "slice": _slice,
    "sum": _sum,
    "tojson": _tojson,
    "wordwrap": _wordwrap,
}

OF_METHODS: Mapping[str, Size] = {
    "center": _width,
    "expandtabs": _expandtabs,
    "format": _format,
    "format_map": _format_map,
    "join": _join_method,
    "ljust": _width,
    "replace": _replace,
    "rjust": _width,
    "zfill": _width,
}
"""Those of texts."""
