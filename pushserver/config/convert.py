"""Tables of a configuration, checked to the last key and made into dataclasses."""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin, get_type_hints

import msgspec

from pushserver.errors import InvalidConfig

_SECRET = re.compile(r"auth\.|(secret|password|token|key|header)s?$")
"""What is not to be read in a log, of paths of keys."""


class Text(str):
    """A value that came as text, from the environment."""


@dataclass(frozen=True, slots=True)
class Where:
    """The place of a table, for errors; `origins` has the variables behind single keys."""

    place: str
    section: str
    origins: dict[str, str]

    def path(self, key: str) -> str:
        """The dotted name of one of its keys, or of the table itself."""
        return f"{self.section}.{key}" if key and self.section else self.section or key

    def inner(self, key: str) -> Where:
        """The place of a table in it."""
        return Where(self.place, self.path(key), self.origins)

    def error(self, key: str, problem: str) -> InvalidConfig:
        """What to raise for one of its keys, or for the table itself."""
        path = self.path(key)
        of_file = f"{self.place}: {path}" if self.place else path
        behind = "" if key else self._behind()
        return InvalidConfig(f"{self.origins.get(path, of_file)}: {problem}{behind}")

    def missing(self, key: str) -> InvalidConfig:
        """What to raise for a key that is not there."""
        return self.error(key, f"must be set{self._behind()}")

    def _behind(self) -> str:
        """The variables that made the table, or something in it."""
        found = [name for path, name in self.origins.items() if path.startswith(f"{self.section}.")]
        return f" ({', '.join(found)} {'are' if len(found) > 1 else 'is'} set)" if found else ""


def check_table(content: object, where: Where, of: str = "") -> dict[str, Any]:
    """Return the table; raise InvalidConfig if it is none."""
    if not isinstance(content, dict):
        raise where.error("", f"expected a table{of}, got {content!r:.60}")
    return content


def check_known(content: Iterable[str], known: Iterable[str], where: Where) -> None:
    """Raise InvalidConfig for a key that is not known, with what was meant."""
    known = list(known)
    for key in content:
        if key not in known:
            problem = f"{where.path(key)}: unknown key; {suggestion(key, known)}"
            raise InvalidConfig(f"{where.place}: {problem}" if where.place else problem)


def suggestion(word: str, known: Iterable[str]) -> str:
    """What was meant, or what there is."""
    known = list(known)
    close = difflib.get_close_matches(word, known, 1)
    return f"did you mean {close[0]}?" if close else f"expected one of {', '.join(known)}"


def made(content: object, kind: type, where: Where) -> Any:
    """The dataclass `kind` of a table; raises InvalidConfig."""
    content = check_table(content, where)
    check_known(content, [f.name for f in dataclasses.fields(kind)], where)
    return made_of_known(content, kind, where)


def made_of_known(content: Mapping[str, Any], kind: type, where: Where) -> Any:
    """As `made`, of keys that are all known."""
    hints = get_type_hints(kind, include_extras=True)
    values = {key: convert(value, hints[key], key, where) for key, value in content.items()}
    for field in dataclasses.fields(kind):
        has_default = {field.default, field.default_factory} != {dataclasses.MISSING}
        if field.name not in values and not has_default:
            raise where.missing(field.name)
    try:
        return kind(**values)
    except ValueError as error:
        raise where.error("", str(error)) from None


def convert(value: object, hint: Any, key: str, where: Where) -> Any:
    """The value as its type; raises InvalidConfig."""
    text = isinstance(value, Text)
    if text and re.search(r"\b(list|tuple)\[", str(hint)):
        value = str(value).split()
    if get_origin(hint) is Literal and value not in get_args(hint):
        expected = " or ".join(get_args(hint))
        raise where.error(key, f"expected {expected}, got {value!r:.60}")
    try:
        return msgspec.convert(
            str(value) if isinstance(value, Text) else value, hint, strict=not text
        )
    except msgspec.ValidationError as error:
        problem = re.sub(r" - at `\$.*", "", str(error)).replace("`", "")
        shown = "" if _SECRET.search(where.path(key)) else f", value {value!r:.60}"
        raise where.error(key, f"{problem[:1].lower()}{problem[1:]}{shown}") from None
