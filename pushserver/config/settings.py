"""The configuration: one TOML file, the environment over it, checked to the last key."""

from __future__ import annotations

import dataclasses
import re
import tomllib
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

from msgspec import Meta

from pushserver.auth.origin import host_name
from pushserver.channels.channel import ChannelOptions
from pushserver.channels.names import check_event, check_name, namespace_of
from pushserver.config import environment as variables
from pushserver.config.convert import (
    Where,
    check_known,
    check_table,
    convert,
    made,
    made_of_known,
    suggestion,
)
from pushserver.config.limits import Limits
from pushserver.errors import InvalidConfig, InvalidName

__all__ = ["Config", "InvalidConfig", "load", "read"]


@dataclass(frozen=True, slots=True)
class Server:
    """Where to listen (Twisted endpoint strings), for whom, and what `/` shows.

    `names`: what the server is called in the Host of requests that a proxy on this machine passes
    on without a forwarding header.
    `front_channel`: empty for that of the first source (`server.build.front_channel`).
    `pages`: the folder of the user's own pages, if there is one, beside the server's URLs.
    `compress`: whether WebSocket clients that offer permessage-deflate get it.
    """

    listen: Annotated[list[str], Meta(min_length=1)] = field(
        default_factory=lambda: ["tcp:8080:interface=127.0.0.1"]
    )
    allowed_origins: list[str] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    front_channel: str = ""
    pages: str = ""
    compress: bool = False


@dataclass(frozen=True, slots=True)
class Auth:
    """The keys for publishing by HTTP and for `/api/`.

    `local_without_key`: whether programs on this machine need none although there are keys.
    """

    api_keys: list[Annotated[str, Meta(min_length=1)]] = field(default_factory=list)
    local_without_key: bool = False


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
    """A source that the server runs: `type` says which, with `options` of its own.

    `on_demand` runs it only while somebody watches its channel, and `linger_seconds` longer.
    `max_rate` is in publications a second. A source that failed is started again after
    `retry_seconds`, later twice that and so on, up to `retry_max_seconds`.
    """

    type: str
    channel: str
    event: str = "message"
    on_demand: bool = False
    linger_seconds: Annotated[float, Meta(ge=0, le=31_536_000)] = 30.0
    max_rate: Annotated[float, Meta(gt=0, le=1_000_000)] = 100.0
    retry_seconds: Annotated[float, Meta(ge=0.01, le=31_536_000)] = 1.0
    retry_max_seconds: Annotated[float, Meta(ge=0.01, le=31_536_000)] = 60.0
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        least, most = self.retry_seconds, self.retry_max_seconds
        if most < least:
            problem = f"expected retry_seconds ({least:g}) or more"
            raise ValueError(f"retry_max_seconds: {problem}, value {most:g}")


class SourceType(Protocol):
    """What is to be known of a type of sources.

    `options` is a dataclass, and `make` checks what no type says; both raise ValueError.
    """

    @property
    def options(self) -> type:
        """A dataclass: its fields are the keys beside those of every source."""

    def make(self, options: Any) -> object:
        """Raise ValueError, with the key in its text, if these cannot be."""


Types = Mapping[str, SourceType]
"""The types of sources, by name."""


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
        default_factory=lambda: {
            "numbers": Source("random", "numbers", "newnumber", options={"every": 2.0})
        }
    )

    def channel_options(self) -> Callable[[str], ChannelOptions]:
        """What each channel keeps and allows, by its name."""
        defaults = self.defaults
        namespaces = {n: dataclasses.replace(defaults, **v) for n, v in self.namespaces.items()}
        channels = {
            name: dataclasses.replace(namespaces.get(namespace_of(name), defaults), **values)
            for name, values in self.channels.items()
        }

        def options(name: str) -> ChannelOptions:
            found = channels.get(name)
            return namespaces.get(namespace_of(name), defaults) if found is None else found

        return options


# Sections whose keys are names that the user chooses, and what stands under each.
_NAMED: dict[str, type] = {"namespaces": ChannelOptions, "channels": ChannelOptions}
_SECTIONS: dict[str, type] = {
    "server": Server,
    "limits": Limits,
    "auth": Auth,
    "store": Store,
    "defaults": ChannelOptions,
}
_COMMON = [f.name for f in dataclasses.fields(Source) if f.name != "options"]


def load(text: str, place: str, environment: Mapping[str, str], types: Types) -> Config:
    """The configuration of this TOML text and the environment over it.

    `place` is how errors name the text. Each key is also PUSHSERVER_SECTION_KEY, or
    PUSHSERVER_SECTION_NAME_KEY; a list is separated by white space there. `types` are those
    that a source may have. Raises InvalidConfig.
    """
    try:
        found = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InvalidConfig(f"{place}: {error}") from None
    origins: dict[str, str] = {}
    top = Where(place, "", origins)
    check_known(found, [*_SECTIONS, *_NAMED, variables.SOURCES], top)
    variables.apply(found, environment, _keys(types), top)
    sections: dict[str, Any] = {}
    for name, content in found.items():
        where = top.inner(name)
        if name in _SECTIONS:
            sections[name] = made(content, _SECTIONS[name], where)
        elif name in _NAMED:
            sections[name] = _named(content, name, where)
        else:
            tables = check_table(content, where, " of tables").items()
            sections[name] = {key: _source(value, where.inner(key), types) for key, value in tables}
    config = Config(**sections)
    _check(config, top)
    return config


def _named(content: object, section: str, where: Where) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for name, values in check_table(content, where, " of tables").items():
        inner = where.inner(name)
        options = made(values, _NAMED[section], inner)
        result[name] = {key: getattr(options, key) for key in values}
        if section == "namespaces" and ":" in name:
            raise inner.error("", "a namespace is what stands before the first colon")
        _check_channel_name(name if section == "channels" else f"{name}:x", inner)
    return result


def _source(content: object, where: Where, types: Types) -> Source:
    content = check_table(content, where)
    kind = _kind(content, where, types)
    options_type = _options_type(kind, where)
    keys = _field_names(options_type)
    check_known(content, [*_COMMON, *keys], where)
    own = {key: value for key, value in content.items() if key in keys}
    common = {key: value for key, value in content.items() if key not in own}
    source: Source = made_of_known(common, Source, where)
    options = made_of_known(own, options_type, where)
    try:
        kind.make(options)
    except ValueError as error:
        raise where.error("", str(error)) from None
    return dataclasses.replace(source, options={key: getattr(options, key) for key in own})


def _kind(content: Mapping[str, Any], where: Where, types: Types) -> SourceType:
    if "type" not in content:
        raise where.missing("type")
    name: str = convert(content["type"], str, "type", where)
    if name not in types:
        raise where.error("type", f"there is no type {name!r:.60}; {suggestion(name, types)}")
    return types[name]


def _options_type(kind: SourceType, where: Where) -> type:
    try:
        return kind.options
    except ValueError as error:
        raise where.error("type", str(error)) from None


def _field_names(kind: type) -> list[str]:
    return [f.name for f in dataclasses.fields(kind)]


def _keys(types: Types) -> variables.Keys:
    """Which keys there are, for the environment."""

    def of_source(content: object, where: Where) -> list[str]:
        kind = content.get("type") if isinstance(content, dict) else None
        if not isinstance(kind, str) or kind not in types:
            return _COMMON
        return [*_COMMON, *_field_names(_options_type(types[kind], where))]

    def of_types() -> list[str]:
        found: list[str] = []
        for kind in types.values():
            # One that lacks a library has keys that nobody knows.
            with suppress(ValueError):
                found += _field_names(kind.options)
        return found

    return variables.Keys(
        sections={name: _field_names(kind) for name, kind in _SECTIONS.items()},
        named={name: _field_names(kind) for name, kind in _NAMED.items()},
        common=_COMMON,
        of_source=of_source,
        of_types=of_types,
    )


def read(path: str, environment: Mapping[str, str], types: Types) -> Config:
    """The configuration of this file, or of none (""), and the environment over it.

    Raises InvalidConfig.
    """
    try:
        text = Path(path).read_text() if path else ""
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidConfig(f"{path}: {getattr(error, 'strerror', None) or error}") from None
    return load(text, path, environment, types)


def _check_channel_name(name: str, where: Where) -> None:
    try:
        check_name(name)
    except InvalidName as error:
        raise where.error("", str(error)) from None


def _check(config: Config, top: Where) -> None:
    """What no type says."""
    server = top.inner("server")
    if config.server.front_channel:
        _check_channel_name(config.server.front_channel, server.inner("front_channel"))
    for origin in config.server.allowed_origins:
        if problem := _no_origin(origin):
            raise server.error("allowed_origins", problem)
    for name in config.server.names:
        if not host_name(name) or host_name(f"{name}:1") == "":
            raise server.error(
                "names", f"{name!r:.80} is no host name, expected such as push.example, no port"
            )
    for name, source in config.sources.items():
        where = top.inner(variables.SOURCES).inner(name)
        _check_channel_name(source.channel, where.inner("channel"))
        try:
            check_event(source.event)
        except InvalidName as error:
            raise where.error("event", str(error)) from None


def _no_origin(text: str) -> str:
    """Why it is none; empty if it is one."""
    if re.fullmatch(_ORIGIN, text):
        return ""
    if text == "*":
        return f"{text!r} would be every page there is: name each origin, such as {_EXAMPLE}"
    if text.endswith("/") and re.fullmatch(_ORIGIN, text.rstrip("/")):
        return f"{text!r} is no origin, which ends without a slash: {text.rstrip('/')}"
    return f"{text!r} is no origin, expected such as {_EXAMPLE}"


_ORIGIN = r"[a-z][a-z0-9+.-]*://[^/\s]+"
_EXAMPLE = "https://app.example:8443"
