"""Checks tables of a configuration and converts them to dataclasses."""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from numbers import Real
from typing import Any, Literal, get_args, get_origin, get_type_hints

import msgspec

from pushserver.errors import InvalidConfig

_SECRET = re.compile(
    r"(^|[._-])(auth|authorization|secret|password|passphrase|passwd|pass|pwd|token|key|header"
    r"|credential|cookie|dsn|environment)s?([._-]|$)"
)
"""The paths of keys whose values must not be logged."""

_OTHER_NAMES = {
    **dict.fromkeys(("address", "bind", "host", "port"), "listen"),
    **dict.fromkeys(("database", "db", "file", "filename"), "path"),
    **dict.fromkeys(("cors", "cors_origins", "origins"), "allowed_origins"),
    **dict.fromkeys(("interval", "intervall", "period", "seconds"), "every"),
    **dict.fromkeys(("rss", "atom"), "feed"),
}
"""Names that other programs give to a setting, and its name here."""

_ITEM = re.compile(r" - at `\$\[([0-9]+)\]`\Z")
"""The index of an item of a list, in an error of msgspec."""

_WORDS = {
    "array": "a list",
    "object": "a table",
    "str": "a text",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
}


class Text(str):
    """A value of the environment, which is always text."""


@dataclass(frozen=True, slots=True)
class Location:
    """The location of a table, for errors; `origins` maps paths of keys to their variables."""

    file: str
    section: str
    origins: dict[str, str]

    def path(self, key: str) -> str:
        """The dotted path of a key of the table, or of the table."""
        return f"{self.section}.{key}" if key and self.section else self.section or key

    def inner(self, key: str) -> Location:
        """The location of a table in this one."""
        return Location(self.file, self.path(key), self.origins)

    def error(self, key: str, problem: str) -> InvalidConfig:
        """The exception for a key of the table, or for the table."""
        path = self.path(key)
        of_file = f"{self.file}: {path}" if self.file else path
        variables = "" if key else self._variables()
        return InvalidConfig(f"{self.origins.get(path, of_file)}: {problem}{variables}")

    def missing(self, key: str, choices: Iterable[str] = ()) -> InvalidConfig:
        """The exception for a missing key; `choices`: its possible values, if there are few."""
        words = ", ".join(choices)
        return self.error(
            key, f"must be set{' to one of ' * bool(words)}{words}{self._variables()}"
        )

    def _variables(self) -> str:
        """The variables that set keys of the table, as a remark."""
        names = [name for path, name in self.origins.items() if path.startswith(f"{self.section}.")]
        return f" ({', '.join(names)} {'are' if len(names) > 1 else 'is'} set)" if names else ""


def shown(value: object) -> str:
    """The value for an error, which may end up in a log: no content of tables and lists."""
    if isinstance(value, dict | list) and value:
        return "a table" if isinstance(value, dict) else "a list"
    if isinstance(value, bool):
        return str(value).lower()
    is_url = isinstance(value, str) and re.search("@|://", value)
    return shown_url(str(value)) if is_url else f"{value!r:.60}"


def shown_url(url: str) -> str:
    """The URL for an error: without user and password, and without the path, which may be a key.

    The URL may be invalid.
    """
    before, mark, rest = url.rpartition("@") if "@" in url else url.rpartition("://")
    host = re.split(r"[/?#\\\s]", rest, maxsplit=1)[0]
    before = "..." if mark == "@" else before
    more = "/..." if rest[len(host) :].strip("/") else rest[len(host) :]
    return f"{before + mark + host + more!r:.80}"


def shown_kind(value: object) -> str:
    """The value where a table was expected; a text may be a secret."""
    return "a text" if isinstance(value, str) and value else shown(value)


def check_table(content: object, location: Location, of: str = "") -> dict[str, Any]:
    """Return `content` if it is a table; raise InvalidConfig if not."""
    if not isinstance(content, dict):
        raise location.error("", f"expected a table{of}, got {shown_kind(content)}")
    return content


def check_known(
    content: Iterable[str],
    known: Iterable[str],
    location: Location,
    elsewhere: Callable[[str], str] = lambda key: "",
) -> None:
    """Raise InvalidConfig for an unknown key, with a suggestion.

    `elsewhere` returns the tables that have the key; empty for none.
    """
    known = list(known)
    for key in content:
        if key not in known:
            advice, place = suggestion(key, known), elsewhere(key)
            if place and not advice.startswith("did you mean"):
                advice = f"it belongs to {place}"
            problem = f"{location.path(key)}: unknown key; {advice}"
            raise InvalidConfig(f"{location.file}: {problem}" if location.file else problem)


def suggestion(word: str, known: Iterable[str]) -> str:
    """The word that was probably meant, or the list of known words."""
    known = list(known)
    close = [_OTHER_NAMES.get(word, "")]
    if close[0] not in known:
        close = difflib.get_close_matches(word, known, 1)
    return f"did you mean {close[0]}?" if close else f"expected one of {', '.join(known)}"


def convert_table(
    content: object,
    kind: type,
    location: Location,
    elsewhere: Callable[[str], str] = lambda key: "",
) -> Any:
    """Convert a table to the dataclass `kind`; raises InvalidConfig, with `elsewhere` as above."""
    content = check_table(content, location)
    check_known(content, [f.name for f in dataclasses.fields(kind)], location, elsewhere)
    return convert_known(content, kind, location)


def convert_known(content: Mapping[str, Any], kind: type, location: Location) -> Any:
    """Convert a table that has only known keys; raises InvalidConfig."""
    hints = type_hints(kind)
    values = {
        key: (_convert_tables if has_tables(hints[key]) else convert)(
            value, hints[key], key, location
        )
        for key, value in content.items()
    }
    for field in dataclasses.fields(kind):
        has_default = {field.default, field.default_factory} != {dataclasses.MISSING}
        if field.name not in values and not has_default:
            raise location.missing(field.name)
    try:
        return kind(**values)
    except ValueError as error:
        raise location.error("", str(error)) from None


@cache
def type_hints(kind: type) -> Mapping[str, Any]:
    """The types of the fields of a dataclass, with their metadata."""
    return get_type_hints(kind, include_extras=True)


def has_tables(hint: Any) -> bool:
    """Whether a setting is a table or a list of tables, each of them a dataclass."""
    arguments = get_args(hint)
    return bool(arguments) and dataclasses.is_dataclass(arguments[-1])


def _convert_tables(value: object, hint: Any, key: str, location: Location) -> Any:
    kind = get_args(hint)[-1]
    inner = location.inner(key)
    if get_origin(hint) is dict:
        tables = check_table(value, inner, " of tables")
        return {
            name: convert_table(table, kind, inner.inner(name)) for name, table in tables.items()
        }
    if not isinstance(value, list):
        expected = f"expected a list of tables, [[{inner.section}]]"
        raise inner.error("", f"{expected}, got {shown_kind(value)}")
    return [convert_table(table, kind, inner.inner(str(n))) for n, table in enumerate(value, 1)]


def convert(value: object, hint: Any, key: str, location: Location) -> Any:
    """Convert a value to its type; raises InvalidConfig."""
    is_text = isinstance(value, Text)
    if is_text and re.search(r"\b(list|tuple)\[", str(hint)):
        value = str(value).split()
    if get_origin(hint) is Literal and value not in get_args(hint):
        # The empty text is the default of a rule, which nobody needs to write.
        choices = [*filter(None, get_args(hint))]
        near = difflib.get_close_matches(str(value), choices, 1) if value else []
        problem = f"expected {' or '.join(choices)}, got {shown(value)}"
        raise location.error(key, f"{problem}; did you mean {near[0]}?" if near else problem)
    if isinstance(value, list) and get_origin(hint) in (list, tuple):
        element = get_args(hint)[0]
        for each in value if get_origin(element) is Literal else ():
            convert(each, element, key, location)
    if not isinstance(value, int) and isinstance(value, Real):
        # msgspec refuses subclasses of float, such as NumPy's float64, and fractions.
        value = float(value)
    try:
        return msgspec.convert(
            str(value) if isinstance(value, Text) else value, hint, strict=not is_text
        )
    except msgspec.ValidationError as error:
        if expected := _description(hint):
            raise location.error(key, f"expected {expected}, got {shown(value)}") from None
        problem = _in_words(re.sub(r" - at `\$.*", "", str(error)))
        path = key
        if isinstance(value, dict) and value and "dict[" in str(hint):
            # The error does not name the key inside.
            for name, item in value.items() if len(value) > 1 else ():
                convert({name: item}, hint, key, location)
            path = f"{key}.{next(iter(value))}"
        item = _ITEM.search(str(error))
        if item is not None and isinstance(value, list) and int(item[1]) < len(value):
            problem = f"item {int(item[1]) + 1}: {problem[:1].lower()}{problem[1:]}"
            value = value[int(item[1])]
        suffix = "" if _SECRET.search(location.path(path)) else f", value {shown(value)}"
        raise location.error(path, f"{problem[:1].lower()}{problem[1:]}{suffix}") from None


def _in_words(problem: str) -> str:
    """The error of msgspec with the types in words of TOML."""
    words = re.sub(f"`({'|'.join(_WORDS)})`", lambda match: _WORDS[match[1]], problem)
    example = 'a list, such as ["..."], got a text'
    return words.replace("a list, got a text", example).replace("`", "")


def _description(hint: Any) -> str:
    """What a type says of its values, if it is one for which msgspec has no words."""
    metas = getattr(hint, "__metadata__", ())
    return next((meta.description for meta in metas if meta.description), "")
