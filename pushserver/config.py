"""The configuration: one TOML file, the environment over it, checked to the last key."""

from __future__ import annotations

import dataclasses
import difflib
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta

from pushserver.channel import ChannelOptions, InvalidName, check_event, check_name
from pushserver.limits import Limits, Positive

PREFIX = "PUSHSERVER_"


class InvalidConfig(ValueError):
    """The configuration cannot be used; the text names the place, the key and what is wrong."""


@dataclass(frozen=True, slots=True)
class Server:
    """Where to listen (Twisted endpoint strings), for whom, and what `/` shows.

    `compress`: whether WebSocket clients that offer permessage-deflate get it.
    """

    listen: Annotated[list[str], Meta(min_length=1)] = field(
        default_factory=lambda: ["tcp:8080:interface=127.0.0.1"]
    )
    allowed_origins: list[str] = field(default_factory=list)
    front_channel: str = "numbers"
    compress: bool = False


@dataclass(frozen=True, slots=True)
class Auth:
    """Who may publish from elsewhere, and use `/api/`: whoever has one of these keys."""

    api_keys: list[Annotated[str, Meta(min_length=1)]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Store:
    """Where the history outlives the process; without a path, nowhere.

    `durability`: `batched` commits every `commit_milliseconds`, `sync` before anybody is
    told of a publication.
    """

    path: str = ""
    durability: Literal["batched", "sync"] = "batched"
    commit_milliseconds: Annotated[int, Meta(ge=1, le=10_000)] = 50


@dataclass(frozen=True, slots=True)
class Source:
    """A source that the server runs: `type` says which, `every` in seconds."""

    type: Literal["random"]
    channel: str
    event: str = "message"
    every: Positive = 2.0


@dataclass(frozen=True, slots=True)
class Config:
    """Everything that can be set.

    The options of a channel are those of `[channels.NAME]`, over those of its namespace
    (`[namespaces.chat]` for `chat:lobby`), over `[defaults]`.
    """

    server: Server = field(default_factory=Server)
    limits: Limits = field(default_factory=Limits)
    auth: Auth = field(default_factory=Auth)
    store: Store = field(default_factory=Store)
    defaults: ChannelOptions = field(default_factory=ChannelOptions)
    namespaces: dict[str, dict[str, Any]] = field(default_factory=dict)
    channels: dict[str, dict[str, Any]] = field(default_factory=dict)
    sources: dict[str, Source] = field(
        default_factory=lambda: {"numbers": Source("random", "numbers", "newnumber")}
    )

    def channel_options(self) -> Callable[[str], ChannelOptions]:
        """What each channel keeps and allows, by its name."""
        defaults = self.defaults
        namespaces = {n: dataclasses.replace(defaults, **v) for n, v in self.namespaces.items()}
        channels = {
            name: dataclasses.replace(namespaces.get(namespace(name), defaults), **values)
            for name, values in self.channels.items()
        }

        def options(name: str) -> ChannelOptions:
            found = channels.get(name)
            return namespaces.get(namespace(name), defaults) if found is None else found

        return options


# Sections whose keys are names that the user chooses, and what stands under each.
_NAMED: dict[str, type] = {
    "namespaces": ChannelOptions,
    "channels": ChannelOptions,
    "sources": Source,
}
_SECTIONS: dict[str, type] = {
    "server": Server,
    "limits": Limits,
    "auth": Auth,
    "store": Store,
    "defaults": ChannelOptions,
}


def namespace(channel: str) -> str:
    """The part before the colon, empty if there is none."""
    return channel.partition(":")[0] if ":" in channel else ""


def load(text: str, place: str, environment: Mapping[str, str]) -> Config:
    """The configuration of this TOML text and the environment over it.

    `place` is how errors name the text. Each key is also PUSHSERVER_SECTION_KEY, or
    PUSHSERVER_SECTION_NAME_KEY; a list is separated by white space there. Raises
    InvalidConfig.
    """
    try:
        found = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InvalidConfig(f"{place}: {error}") from None
    _check_known("", found, [*_SECTIONS, *_NAMED], place)
    origins: dict[str, str] = {}
    for variable, value in sorted(environment.items()):
        _apply(found, variable, value, origins, place)
    sections: dict[str, Any] = {}
    for name, content in found.items():
        where = _Where(place, name, origins)
        if name in _SECTIONS:
            sections[name] = _section(content, _SECTIONS[name], where)
        else:
            sections[name] = _named(content, name, where)
    config = Config(**sections)
    _check(config, place)
    return config


@dataclass(frozen=True, slots=True)
class _Where:
    """The place of a section, for errors."""

    place: str
    section: str
    origins: Mapping[str, str]

    def error(self, key: str, problem: str) -> InvalidConfig:
        path = f"{self.section}.{key}" if key else self.section
        place = self.origins.get(path, f"{self.place}: {path}" if self.place else path)
        return InvalidConfig(f"{place}: {problem}")


def _section(content: object, kind: type, where: _Where) -> Any:
    if not isinstance(content, dict):
        raise where.error("", f"expected a table, got {content!r:.60}")
    _check_known(where.section, content, [f.name for f in dataclasses.fields(kind)], where.place)
    hints = get_type_hints(kind, include_extras=True)
    values = {key: _convert(value, hints[key], key, where) for key, value in content.items()}
    try:
        return kind(**values)
    except TypeError:
        missing = [
            f.name
            for f in dataclasses.fields(kind)
            if f.name not in values
            and f.default is dataclasses.MISSING
            and f.default_factory is dataclasses.MISSING
        ]
        raise where.error(missing[0], "must be set") from None


def _named(content: object, section: str, where: _Where) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise where.error("", f"expected a table of tables, got {content!r:.60}")
    result: dict[str, Any] = {}
    for name, values in content.items():
        inner = _Where(where.place, f"{section}.{name}", where.origins)
        made = _section(values, _NAMED[section], inner)
        if section == "sources":
            result[name] = made
        else:
            result[name] = {key: getattr(made, key) for key in values}
            if section == "namespaces" and ":" in name:
                raise inner.error("", "a namespace is what stands before the first colon")
            _check_channel_name(name if section == "channels" else f"{name}:x", inner)
    return result


def _convert(value: object, hint: Any, key: str, where: _Where) -> Any:
    text = isinstance(value, _Text)
    if text and "list[" in str(hint):
        value = str(value).split()
    if get_origin(hint) is Literal and value not in get_args(hint):
        expected = " or ".join(get_args(hint))
        raise where.error(key, f"expected {expected}, got {value!r:.60}")
    try:
        return msgspec.convert(
            str(value) if isinstance(value, _Text) else value, hint, strict=not text
        )
    except msgspec.ValidationError as error:
        problem = re.sub(r" - at `\$.*", "", str(error)).replace("`", "")
        # A key is not to be read in a log.
        shown = "" if where.section == "auth" else f", value {value!r:.60}"
        raise where.error(key, f"{problem[:1].lower()}{problem[1:]}{shown}") from None


def read(path: str, environment: Mapping[str, str]) -> Config:
    """The configuration of this file, or of none (""), and the environment over it.

    Raises InvalidConfig.
    """
    try:
        text = Path(path).read_text() if path else ""
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidConfig(f"{path}: {getattr(error, 'strerror', None) or error}") from None
    return load(text, path, environment)


class _Text(str):
    """A value that came as text, from the environment."""


def _apply(
    found: dict[str, Any], variable: str, value: str, origins: dict[str, str], place: str
) -> None:
    if not variable.startswith(PREFIX):
        return
    section, _, key = variable.removeprefix(PREFIX).lower().partition("_")
    path: tuple[str, ...]
    if section in _SECTIONS:
        path = (section, key)
        known = dataclasses.fields(_SECTIONS[section])
    elif section in _NAMED:
        fields = sorted((f.name for f in dataclasses.fields(_NAMED[section])), key=len)
        last = next((f for f in reversed(fields) if key.endswith("_" + f)), "")
        if not last:
            raise InvalidConfig(
                f"{variable}: unknown key, expected {PREFIX}{section.upper()}_NAME_KEY"
            )
        path = (section, key.removesuffix("_" + last), last)
        known = dataclasses.fields(_NAMED[section])
    else:
        # Not ours: a container's host sets PUSHSERVER_PORT and the like for its service links.
        return
    if not path[-1]:
        raise InvalidConfig(f"{variable}: unknown key, expected {PREFIX}{section.upper()}_KEY")
    _check_known(section, {path[-1]: value}, [f.name for f in known], variable)
    table = found
    for part in path[:-1]:
        table = table.setdefault(part, {})
        if not isinstance(table, dict):
            problem = f"{part}: expected a table, got {table!r:.60}"
            raise InvalidConfig(f"{place}: {problem} (and {variable} is set)")
    table[path[-1]] = _Text(value)
    origins[".".join(path)] = variable


def _check_known(section: str, content: Mapping[str, object], known: list[str], place: str) -> None:
    for key in content:
        if key not in known:
            close = difflib.get_close_matches(key, known, 1)
            hint = f"did you mean {close[0]}?" if close else f"expected one of {', '.join(known)}"
            path = f"{section}.{key}" if section else key
            raise InvalidConfig(f"{place}: {path}: unknown key; {hint}")


def _check_channel_name(name: str, where: _Where) -> None:
    try:
        check_name(name)
    except InvalidName as error:
        raise where.error("", str(error)) from None


def _check(config: Config, place: str) -> None:
    """What no type says."""
    _check_channel_name(config.server.front_channel, _Where(place, "server.front_channel", {}))
    for name, source in config.sources.items():
        where = _Where(place, f"sources.{name}", {})
        _check_channel_name(source.channel, where)
        try:
            check_event(source.event)
        except InvalidName as error:
            raise where.error("event", str(error)) from None
    for origin in config.server.allowed_origins:
        if re.fullmatch(r"[a-z][a-z0-9+.-]*://[^/\s]+", origin) is None:
            problem = f"{origin!r} is no origin, expected such as https://app.example:8443"
            raise _Where(place, "server", {}).error("allowed_origins", problem)
