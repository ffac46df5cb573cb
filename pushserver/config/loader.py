"""Loads the configuration from a TOML file and the environment, and checks every key."""

from __future__ import annotations

import dataclasses
import difflib
import re
import ssl
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from pushserver.auth.allowed_origins import normal_origin
from pushserver.auth.origin import host_name
from pushserver.auth.proxies import Proxies
from pushserver.channels.channel import ChannelOptions
from pushserver.channels.names import check_event, check_name, check_namespace
from pushserver.channels.position import MOST_LOGS
from pushserver.config import environment as variables
from pushserver.config.access import access_warnings
from pushserver.config.colours import colour_warnings
from pushserver.config.convert import (
    Location,
    check_known,
    check_table,
    convert,
    convert_known,
    convert_table,
    has_tables,
    shown,
    suggestion,
    type_hints,
)
from pushserver.config.keys import key_warnings, make_keys, with_secrets
from pushserver.config.limits import Limits
from pushserver.config.redis_url import Address, parse_url, shown_redis
from pushserver.config.settings import (
    Auth,
    Broker,
    Config,
    Log,
    Page,
    Server,
    SocketIO,
    Source,
    SourceType,
    Store,
    Types,
)
from pushserver.config.tokens import (
    check_cookie,
    check_jwks,
    make_verifier,
    token_warnings,
    with_token_keys,
)
from pushserver.errors import InvalidConfig, InvalidName

# The sections of tables whose names the user chooses, and the type of these tables.
_NAMED: dict[str, type] = {"namespaces": ChannelOptions, "channels": ChannelOptions}
_SECTIONS: dict[str, type] = {
    "server": Server,
    "limits": Limits,
    "auth": Auth,
    "store": Store,
    "broker": Broker,
    "socketio": SocketIO,
    "page": Page,
    "log": Log,
    "defaults": ChannelOptions,
}
_AT_LINE = re.compile(r"\(at line ([0-9]+),")
_IN_A_NAME = re.compile(r"Expected '[]=]|key part|Invalid statement")
"""In the errors of tomllib about a table or a key."""
_QUOTES = (
    "; a name with other characters than letters, digits, - and _ needs quotes, as in"
    ' [channels."chat:room"]'
)
_NAMESPACE = "; a namespace is the part before the first colon, as in [namespaces.chat]"
_TOML = '; this is no TOML, which has lines such as [server] and listen = "8080"'
_NO_TOML = re.compile(r"\s*(?:[{}<#]|(?:import|from|def|class)\s|[A-Za-z0-9_-]+\s*:)")
"""The first line of JSON, Python, YAML or XML."""
_BAD_VALUE = re.compile(r"Invalid value|Expected newline or end of document after a statement")
_BARE_VALUE = re.compile(r"[^\"'=#]*=\s*([A-Za-z0-9_./:~@-]+)\s*(?:#.*)?")
"""A line with a value in letters that has no quotes."""
_TABLE_OR_KEY = re.compile(r"\s*(\[{1,2}[A-Za-z][^\"'=,]*\]|[A-Za-z0-9_.-]+(?=\s*=\s*[^=\s]))")
"""In a line of TOML; the end of a text in Base64 is no key."""
_COMMON = [f.name for f in dataclasses.fields(Source) if f.name != "options"]


def load(
    text: str,
    file: str,
    environment: Mapping[str, str],
    types: Types,
    broker: Sequence[str] | None = None,
) -> Config:
    """Load the configuration from a TOML text and the environment; raises InvalidConfig.

    The environment has precedence: PUSHSERVER_SECTION_KEY or PUSHSERVER_SECTION_NAME_KEY sets a
    key; white space separates the items of a list. `file` is the name of the text in errors.
    `types` are the types of sources. `broker`: the URLs of the option `--broker`, which count in
    place of `broker.url`.
    """
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InvalidConfig(f"{file}: {error}{_line_of(error, text)}") from None
    origins: dict[str, str] = {}
    top = Location(file, "", origins)
    check_known(content, [*_SECTIONS, *_NAMED, variables.SOURCES], top, _tables_with)
    variables.apply(content, environment, _known_keys(types), top)
    sections: dict[str, Any] = {}
    for name, section in content.items():
        location = top.inner(name)
        if name in _SECTIONS:
            sections[name] = convert_table(section, _SECTIONS[name], location, _tables_with)
        elif name in _NAMED:
            sections[name] = _named(section, name, location)
        else:
            tables = check_table(section, location, " of tables, [sources.NAME]").items()
            sections[name] = {
                key: _source(value, location.inner(key), types) for key, value in tables
            }
    config = Config(**sections)
    location = top.inner("auth")
    auth = with_secrets(config.auth, environment, location)
    auth = with_token_keys(auth, environment, location)
    config = dataclasses.replace(config, auth=auth)
    if broker is not None:
        url = broker[0] if len(broker) == 1 else list(broker)
        config = dataclasses.replace(config, broker=dataclasses.replace(config.broker, url=url))
        origins["broker.url"] = "--broker"
    _check(config, top)
    return config


def _tables_with(key: str) -> str:
    """The tables that have this key, for an error; empty if there are none."""
    found = [name for name, kind in _SECTIONS.items() if key in _field_names(kind)]
    if found == ["defaults"]:
        found += [f"{name}.NAME" for name in _NAMED]
    return " or ".join(f"[{name}]" for name in found)


def _line_of(error: tomllib.TOMLDecodeError, text: str) -> str:
    """The key or the table in the line of an error, and what may be wrong with it.

    Never a value, which may be a secret.
    """
    found = _AT_LINE.search(str(error))
    line = text.split("\n")[int(found[1]) - 1] if found else ""
    name = _TABLE_OR_KEY.match(line[:200])
    return (f": {name[1]}" if name else "") + _hint(str(error), line, text)


def _hint(problem: str, line: str, text: str) -> str:
    """What may be wrong with a line of a text; empty if that is not known."""
    if _BAD_VALUE.search(problem):
        value = _BARE_VALUE.fullmatch(line[:200])
        if value is None:
            return ""
        if value[1].lower() in ("true", "false", "yes", "no", "on", "off"):
            return "; a yes or no is true or false, in lower case"
        return '; a text needs quotes, as in path = "history.db"'
    if not _IN_A_NAME.search(problem):
        return ""
    first = next((each for each in text.split("\n") if each.strip() and each[0] != "#"), "")
    if _NO_TOML.match(first[:200]):
        return _TOML
    return _NAMESPACE if line.lstrip().startswith("[namespaces.") else _QUOTES


def _named(content: object, section: str, location: Location) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for name, values in check_table(content, location, " of tables").items():
        inner = location.inner(name)
        values = check_table(values, inner, f", such as [{section}.NAME]")
        _check_no_dot(name, values, section, inner)
        options = convert_table(values, _NAMED[section], inner)
        result[name] = {key: getattr(options, key) for key in values}
        if section == "namespaces" and ":" in name:
            problem = "a namespace is the part before the first colon"
            raise inner.error("", f"{problem}, expected {shown(name.partition(':')[0])}")
        if section == "namespaces" and name.startswith("$"):
            # Else its rules would never count: names are looked up without the mark.
            problem = "private channels belong to the namespace without the $"
            raise inner.error("", f"{problem}, expected {shown(name[1:])}")
        _check_channel_name(name if section == "channels" else f"{name}:x", inner)
    return result


def _check_no_dot(name: str, values: Mapping[str, Any], section: str, location: Location) -> None:
    """Raise InvalidConfig for a table in a table: its name has a dot, and no quotes."""
    for key, value in values.items():
        if isinstance(value, dict) and key not in _field_names(_NAMED[section]):
            expected = f'[{section}."{name}.{key}"]'
            raise location.error(key, f"a name with a dot needs quotes, expected {expected:.300}")


def _source(content: object, location: Location, types: Types) -> Source:
    content = check_table(content, location, ", such as [sources.NAME]")
    kind = _kind(content, location, types)
    options_type = _options_type(kind, location)
    keys = _field_names(options_type)
    check_known(content, [*_COMMON, *keys], location)
    own = {key: value for key, value in content.items() if key in keys}
    common = {key: value for key, value in content.items() if key not in own}
    source: Source = convert_known(common, Source, location)
    options = convert_known(own, options_type, location)
    try:
        kind.make(options)
    except ValueError as error:
        raise location.error("", str(error)) from None
    return dataclasses.replace(source, options={key: getattr(options, key) for key in own})


def _kind(content: Mapping[str, Any], location: Location, types: Types) -> SourceType:
    if "type" not in content:
        near = difflib.get_close_matches("type", content.keys() - set(_COMMON), 1)
        if near:
            raise location.error(near[0], "unknown key; did you mean type?")
        raise location.missing("type", types)
    name: str = convert(content["type"], str, "type", location)
    if name not in types:
        raise location.error("type", f"there is no type {name!r:.60}; {suggestion(name, types)}")
    return types[name]


def _options_type(kind: SourceType, location: Location) -> type:
    try:
        return kind.options
    except ValueError as error:
        raise location.error("type", str(error)) from None


def _field_names(kind: type) -> list[str]:
    return [f.name for f in dataclasses.fields(kind)]


def _variable_names(kind: type) -> list[str]:
    """The keys of a section that variables may set: all but tables."""
    hints = type_hints(kind)
    return [name for name in _field_names(kind) if not has_tables(hints[name])]


def _known_keys(types: Types) -> variables.KnownKeys:
    """The keys that variables may set."""

    def of_source(content: object, location: Location) -> list[str]:
        kind = content.get("type") if isinstance(content, dict) else None
        if not isinstance(kind, str) or kind not in types:
            return _COMMON
        return [*_COMMON, *_field_names(_options_type(types[kind], location))]

    def of_types() -> list[str]:
        keys: list[str] = []
        for kind in types.values():
            # The keys of a type are unknown if a library is missing.
            with suppress(ValueError):
                keys += _field_names(kind.options)
        return keys

    return variables.KnownKeys(
        sections={name: _variable_names(kind) for name, kind in _SECTIONS.items()},
        named={name: _field_names(kind) for name, kind in _NAMED.items()},
        common=_COMMON,
        of_source=of_source,
        of_types=of_types,
    )


def read(
    path: str,
    environment: Mapping[str, str],
    types: Types,
    broker: Sequence[str] | None = None,
) -> Config:
    """Load the configuration from a file, unless `path` is "", and from the environment.

    `broker`: see `load`. Raises InvalidConfig.
    """
    try:
        text = Path(path).read_text("utf-8-sig") if path else ""
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        found = f"{error.object[error.start]:#04x}"
        raise InvalidConfig(f"{path}: line {line}: expected UTF-8, got the byte {found}") from None
    except OSError as error:
        raise InvalidConfig(f"{path}: {error.strerror or error}") from None
    return load(text, path, environment, types, broker)


def warnings(
    environment: Mapping[str, str], types: Types, config: Config, application: bool = False
) -> Iterator[str]:
    """A line for each dubious setting of a valid configuration.

    These are variables PUSHSERVER_... that set nothing, weak API keys and secrets, and files of
    them that all users can read; rules that need users or a handler, unless there is an
    `application`; trusted proxies in the public internet; metrics that others may read; and colours
    that are hard to read.
    """
    foreign = config.server.foreign_variables
    yield from variables.unknown(environment, _known_keys(types), foreign)
    yield from key_warnings(config.auth)
    yield from token_warnings(config.auth)
    yield from access_warnings(config, application)
    yield from colour_warnings(config.page)


def _check_broker(config: Config, location: Location) -> None:
    broker = config.broker
    if not broker.urls:
        if broker.url == [] and "broker.url" not in location.origins:
            problem = "expected the URL of a Redis server, or a list of them, got an empty list"
            raise location.error("url", problem)
        if broker.ca or broker.name or broker.shards:
            raise location.error("url", "must be set, as other settings of broker are")
        return
    addresses = _check_urls(broker.urls, location)
    _check_shards(broker, location)
    if broker.ca:
        if not any(address.tls for address in addresses):
            shown_url = shown_redis(broker.urls[0])
            raise location.error(
                "ca", f"is for TLS: expected broker.url rediss://, got {shown_url}"
            )
        check_certificates(broker.ca, location)
    if config.store.path:
        problem = (
            f"store.path is set too ({shown(config.store.path)}): expected one of them, since with"
            " a broker Redis has the histories"
        )
        raise location.error("url", problem)


def _check_urls(urls: Sequence[str], location: Location) -> list[Address]:
    addresses: list[Address] = []
    for url in urls:
        try:
            address = parse_url(url)
        except InvalidConfig as error:
            raise location.error("url", str(error)) from None
        if address in addresses:
            raise location.error(
                "url", f"{address} is there twice, expected another Redis for each"
            )
        addresses.append(address)
    if len(addresses) > MOST_LOGS:
        raise location.error("url", f"expected a list of up to {MOST_LOGS}, got {len(addresses)}")
    return addresses


def _check_shards(broker: Broker, location: Location) -> None:
    shards = location.inner("shards")
    count = len(broker.urls)
    for name, shard in broker.shards.items():
        try:
            check_namespace(name)
        except InvalidName as error:
            raise shards.error("", str(error)) from None
        if count < 2:
            raise shards.error("", "is for several Redis: expected a list of them as broker.url")
        if not 0 <= shard < count:
            problem = f"expected 0 to {count - 1}, as broker.url has {count}, got {shard}"
            raise shards.error(name, problem)


def check_certificates(path: str, location: Location) -> None:
    """Raise InvalidConfig unless the file has certificates."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
    except ssl.SSLError:
        raise location.error("ca", f"{path!r:.300}: expected certificates in PEM") from None
    except OSError as error:
        raise location.error("ca", f"{path!r:.300}: {error.strerror or error}") from None


def _check_channel_name(name: str, location: Location) -> None:
    try:
        check_name(name)
    except InvalidName as error:
        problem = str(error)
        if location.section == f"channels.{name}" and name.endswith((":*", ":")):
            problem = f"expected [namespaces.{name.partition(':')[0]}] for all channels of it"
        raise location.error("", problem) from None


def _check(config: Config, top: Location) -> None:
    """Check the rules that the types of the settings cannot express."""
    server = top.inner("server")
    if config.server.front_channel:
        _check_channel_name(config.server.front_channel, server.inner("front_channel"))
    if config.socketio.channel:
        _check_channel_name(config.socketio.channel, top.inner("socketio").inner("channel"))
    for origin in config.server.allowed_origins:
        if "@" in origin:
            problem = f"{shown(origin)} has a user before an @, expected an origin"
            raise server.error("allowed_origins", problem)
        try:
            normal_origin(origin)
        except ValueError as error:
            raise server.error("allowed_origins", str(error)) from None
    try:
        Proxies.of(config.server.trusted_proxies)
    except ValueError as error:
        raise server.error("trusted_proxies", str(error)) from None
    if config.server.proxy_protocol and not config.server.trusted_proxies:
        problem = "needs server.trusted_proxies, whose headers of the PROXY protocol count"
        raise server.error("proxy_protocol", problem)
    try:
        Proxies.of(config.limits.exempt_networks)
    except ValueError as error:
        raise top.inner("limits").error("exempt_networks", str(error)) from None
    _check_broker(config, top.inner("broker"))
    make_keys(config.auth, top.inner("auth"))
    check_cookie(config.auth, top.inner("auth"))
    check_jwks(config.auth, top.inner("auth"))
    make_verifier(config.auth, config.limits, top.inner("auth"))
    for name in config.server.names:
        if not host_name(name) or host_name(f"{name}:1") == "":
            raise server.error(
                "names", f"{shown(name)} is no host name; expected push.example, without a port"
            )
    for name, source in config.sources.items():
        location = top.inner(variables.SOURCES).inner(name)
        _check_channel_name(source.channel, location.inner("channel"))
        try:
            check_event(source.event)
        except InvalidName as error:
            raise location.error("event", str(error)) from None
