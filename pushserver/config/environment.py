"""Variables of the environment, put where their keys would stand in the configuration."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pushserver.config.convert import Text, Where, check_known
from pushserver.errors import InvalidConfig

PREFIX = "PUSHSERVER_"
SOURCES = "sources"


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys that there are: of each section, of the tables in a section of names, of a source.

    `of_source` gives those of a source's table, by its type; `of_types` those that the types have.
    """

    sections: Mapping[str, Sequence[str]]
    named: Mapping[str, Sequence[str]]
    common: Sequence[str]
    of_source: Callable[[object, Where], Sequence[str]]
    of_types: Callable[[], Sequence[str]]


def apply(found: dict[str, Any], environment: Mapping[str, str], keys: Keys, top: Where) -> None:
    """Put each variable into the tables of `found`, and note it in the origins of `top`.

    Raises InvalidConfig for one of a section of ours that is no key there.
    """
    sources: list[str] = []
    for variable in sorted(environment):
        section, key = _parts(variable)
        if section in keys.sections:
            path: tuple[str, ...] = (section, _key(key, keys.sections[section], variable))
        elif section in keys.named:
            path = (section, *_split(key, keys.named[section], variable))
        else:
            # What is not ours either: a container's host sets PUSHSERVER_PORT and the like.
            sources += [variable] if section == SOURCES else []
            continue
        _put(found, path, variable, environment[variable], top)
    # The types first, since they say what keys there are; and of those the shortest, since a
    # key of theirs may end in `_type` as well.
    for variable in sorted(sources, key=lambda name: (not name.endswith("_TYPE"), len(name))):
        tables = _inner(found, SOURCES, variable, top)
        path = (SOURCES, *_split_source(_parts(variable)[1], tables, keys, variable))
        _put(found, path, variable, environment[variable], top)


def _parts(variable: str) -> tuple[str, str]:
    if not variable.startswith(PREFIX):
        return "", ""
    section, _, key = variable.removeprefix(PREFIX).lower().partition("_")
    return section, key


def _key(key: str, known: Sequence[str], variable: str) -> str:
    section = _parts(variable)[0]
    if not key:
        raise InvalidConfig(f"{variable}: unknown key, expected {PREFIX}{section.upper()}_KEY")
    check_known([key], known, Where(variable, section, {}))
    return key


def _split(text: str, known: Sequence[str], variable: str) -> tuple[str, str]:
    """The name and the key in `name_key`."""
    found = _found(text, known)
    if found is None:
        expected = f"{PREFIX}{_parts(variable)[0].upper()}_NAME_KEY"
        raise InvalidConfig(f"{variable}: unknown key, expected {expected}")
    return found


def _found(text: str, known: Sequence[str]) -> tuple[str, str] | None:
    for key in sorted(known, key=len, reverse=True):
        name = text.removesuffix(f"_{key}")
        if name and name != text:
            return name, key
    return None


def _split_source(
    text: str, tables: Mapping[str, Any], keys: Keys, variable: str
) -> tuple[str, str]:
    """The same for a source, which has the keys of its type: the longest name that fits."""
    fitting = [name for name in tables if text.startswith(f"{name}_")]
    near: tuple[str, Sequence[str], Where] | None = None
    for name in sorted(fitting, key=len, reverse=True):
        key, where = text.removeprefix(f"{name}_"), Where(variable, f"{SOURCES}.{name}", {})
        known = keys.of_source(tables[name], where)
        if key in known:
            return name, key
        near = near or (key, known, where)
    found = _found(text, keys.common)
    if found is None and (typed := _found(text, keys.of_types())) is not None:
        name = typed[0]
        content = tables.get(name, {})
        if isinstance(content, dict) and "type" not in content:
            setting = f"{PREFIX}{SOURCES}_{name}_type".upper()
            problem = f"{SOURCES}.{name} has no type, which says what keys there are"
            raise InvalidConfig(f"{variable}: {problem}: set {setting} too")
    if near is not None and not text.endswith("_type"):
        check_known([near[0]], near[1], near[2])
    return _split(text, keys.common, variable)


def _put(found: dict[str, Any], path: Sequence[str], variable: str, value: str, top: Where) -> None:
    table = found
    for part in path[:-1]:
        table = _inner(table, part, variable, top)
    table[path[-1]] = Text(value)
    top.origins[".".join(path)] = variable


def _inner(table: dict[str, Any], part: str, variable: str, top: Where) -> dict[str, Any]:
    inner = table.setdefault(part, {})
    if not isinstance(inner, dict):
        problem = f"{part}: expected a table, got {inner!r:.60}"
        raise InvalidConfig(f"{top.place}: {problem} (and {variable} is set)")
    return inner
