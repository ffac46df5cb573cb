"""Puts variables of the environment into the tables of the configuration."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from pushserver.config.convert import Location, Text, check_known, shown_kind
from pushserver.errors import InvalidConfig

PREFIX = "PUSHSERVER_"
SOURCES = "sources"
OTHERS = ("PUSHSERVER_URL", "PUSHSERVER_KEY", "PUSHSERVER_SHORTCUTS")
"""Variables that are not settings of the configuration."""

_NEAR = {"PORT": ["SERVER_LISTEN"], "HOST": ["SERVER_LISTEN"]}
_OF_A_HOST = re.compile(r"PORT_\d+_(TCP|UDP|SCTP)(_(ADDR|PORT|PROTO))?|SERVICE_(HOST|PORT(_\w+)?)")
"""The variables by which Kubernetes and Docker describe a service to other containers."""


@dataclass(frozen=True, slots=True)
class KnownKeys:
    """The known keys of sections, of named tables, and of sources.

    `of_source` returns those of the table of a source, `of_types` those of all types.
    """

    sections: Mapping[str, Sequence[str]]
    named: Mapping[str, Sequence[str]]
    common: Sequence[str]
    of_source: Callable[[object, Location], Sequence[str]]
    of_types: Callable[[], Sequence[str]]


def apply(
    content: dict[str, Any], environment: Mapping[str, str], keys: KnownKeys, top: Location
) -> None:
    """Put each variable into the tables of `content`, and add it to the origins of `top`.

    Raises InvalidConfig for a variable that has a known section and an unknown key.
    """
    sources: list[str] = []
    for variable in sorted(environment):
        section, key = _parts(variable)
        if section in keys.sections:
            path: tuple[str, ...] = (section, _key(key, keys.sections[section], variable))
        elif section in keys.named:
            path = (section, *_split(key, keys.named[section], variable))
        else:
            # Other variables are ignored: Kubernetes, for one, sets PUSHSERVER_PORT.
            sources += [variable] if section == SOURCES else []
            continue
        _put(content, path, variable, environment[variable], top)
    # The types come first, since they decide which keys are known; the shortest of them first,
    # since other keys may end in `_type` too.
    for variable in sorted(sources, key=lambda name: (not name.endswith("_TYPE"), len(name))):
        tables = _inner(content, SOURCES, variable, top)
        path = (SOURCES, *_split_source(_parts(variable)[1], tables, keys, variable))
        _put(content, path, variable, environment[variable], top)


def unknown(
    environment: Mapping[str, str], keys: KnownKeys, foreign: Sequence[str]
) -> Iterator[str]:
    """A line for each variable that sets nothing, with the nearest one.

    These are the variables that begin with PREFIX, and those that miss it by a letter or two.

    Variables of container hosts are left out, such as PUSHSERVER_PORT=tcp://10.0.0.1:80, and those
    that are listed as `foreign`.
    """
    known = [f"{each}_{key}".upper() for each, names in keys.sections.items() for key in names]
    for variable in sorted(environment):
        section = _parts(variable)[0]
        if not section and not variable.startswith(PREFIX):
            near = _misses_prefix(variable, known)
            if near and variable not in foreign:
                yield f"{variable} is no setting, did you mean {near}?"
            continue
        if section in keys.sections or section in (*keys.named, SOURCES) or variable in OTHERS:
            continue
        if variable in foreign or _is_of_a_host(variable, environment[variable]):
            continue
        yield f"{variable} is no setting, {_nearest(variable, known)}"


def _misses_prefix(variable: str, known: Sequence[str]) -> str:
    """The setting that PUSHSEVER_STORE_PATH, say, misspells; empty for other variables."""
    if not variable.upper().startswith("PU"):
        return ""
    near = get_close_matches(variable.upper(), [PREFIX + each for each in known], 1, cutoff=0.92)
    return near[0] if near else ""


def _is_of_a_host(variable: str, value: str) -> bool:
    """Whether a container host sets the variable for a service of this name."""
    if variable == f"{PREFIX}PORT":
        return value.startswith(("tcp://", "udp://", "sctp://"))
    return _OF_A_HOST.fullmatch(variable.removeprefix(PREFIX)) is not None


def _nearest(variable: str, known: Sequence[str]) -> str:
    """The known variables that have the same key, or a similar name."""
    name = variable.removeprefix(PREFIX)
    key = name.partition("_")[2] or name
    near = (
        _NEAR.get(name)
        or [each for each in known if each.endswith(f"_{name}")]
        or [each for each in known if each.endswith(f"_{key}")]
        or get_close_matches(name, known, 2)
    )
    if near:
        return f"did you mean {' or '.join(PREFIX + each for each in near[:3])}?"
    return f"expected {PREFIX}SECTION_KEY, or list it in [server] foreign_variables"


def _parts(variable: str) -> tuple[str, str]:
    if not variable.startswith(PREFIX):
        return "", ""
    section, _, key = variable.removeprefix(PREFIX).lower().partition("_")
    return section, key


def _key(key: str, known: Sequence[str], variable: str) -> str:
    section = _parts(variable)[0]
    if not key:
        raise InvalidConfig(f"{variable}: unknown key, expected {PREFIX}{section.upper()}_KEY")
    check_known([key], known, Location(variable, section, {}))
    return key


def _split(text: str, known: Sequence[str], variable: str) -> tuple[str, str]:
    """Split `name_key` into the name and a known key."""
    parts = _find_key(text, known)
    if parts is None:
        expected = f"{PREFIX}{_parts(variable)[0].upper()}_NAME_KEY"
        raise InvalidConfig(f"{variable}: unknown key, expected {expected}")
    return parts


def _find_key(text: str, known: Sequence[str]) -> tuple[str, str] | None:
    for key in sorted(known, key=len, reverse=True):
        name = text.removesuffix(f"_{key}")
        if name and name != text:
            return name, key
    return None


def _split_source(
    text: str, tables: Mapping[str, Any], keys: KnownKeys, variable: str
) -> tuple[str, str]:
    """Split `name_key` of a source, whose type decides the known keys; try long names first."""
    names = [name for name in tables if text.startswith(f"{name}_")]
    unknown: tuple[str, Sequence[str], Location] | None = None
    for name in sorted(names, key=len, reverse=True):
        key, location = text.removeprefix(f"{name}_"), Location(variable, f"{SOURCES}.{name}", {})
        known = keys.of_source(tables[name], location)
        if key in known:
            return name, key
        unknown = unknown or (key, known, location)
    common = _find_key(text, keys.common)
    if common is None and (typed := _find_key(text, keys.of_types())) is not None:
        name = typed[0]
        content = tables.get(name, {})
        if isinstance(content, dict) and "type" not in content:
            setting = f"{PREFIX}{SOURCES}_{name}_type".upper()
            problem = f"{SOURCES}.{name} has no type, which decides the known keys"
            raise InvalidConfig(f"{variable}: {problem}: set {setting} too")
    if unknown is not None and not text.endswith("_type"):
        check_known([unknown[0]], unknown[1], unknown[2])
    return _split(text, keys.common, variable)


def _put(
    table: dict[str, Any], path: Sequence[str], variable: str, value: str, top: Location
) -> None:
    for part in path[:-1]:
        table = _inner(table, part, variable, top)
    table[path[-1]] = Text(value)
    top.origins[".".join(path)] = variable


def _inner(table: dict[str, Any], part: str, variable: str, top: Location) -> dict[str, Any]:
    inner = table.setdefault(part, {})
    if not isinstance(inner, dict):
        problem = f"{part}: expected a table, got {shown_kind(inner)}"
        raise InvalidConfig(f"{top.file}: {problem} (and {variable} is set)")
    return inner
