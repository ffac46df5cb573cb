"""The settings of the server, as dataclasses with their types, defaults and bounds."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, Protocol

from msgspec import Meta

from pushserver.channels.channel import ChannelOptions
from pushserver.channels.names import namespace_of
from pushserver.channels.placement import Placement
from pushserver.config.limits import Limits

Workers = Annotated[
    Annotated[int, Meta(ge=1, le=128)] | Literal["auto"],
    Meta(description="a whole number from 1 to 128, or auto"),
]


@dataclass(frozen=True, slots=True)
class Server:
    """The addresses to listen on (Twisted endpoint strings), the origins, and the pages.

    `names`: names of the server in the Host of requests that a proxy on this machine passes on
    without a forwarding header.
    `front_channel`: the channel at `/`; if empty, that of the first source
    (`server.front.front_channel`).
    `pages`: the folder of the user's pages, which are served beside the server's URLs.
    `templates`: the folder of the user's templates: those of channels, and those in place of the
    server's own. `static`: the folder of files in place of those at `/static`, and beside them.
    `wsgi`: the WSGI application that is served beside them, as MODULE:NAME; empty for that of the
    application, if it has one.
    `compress`: whether WebSocket clients may use permessage-deflate.
    `trusted_proxies`: addresses and networks of proxies, or `unix`; see `auth.proxies.Trust`.
    `metrics_listen`: where `/metrics` and `/health` are served too, without a key; empty for
    nowhere.
    `proxy_protocol`: whether connections of `trusted_proxies` begin with a header of the PROXY
    protocol.
    `foreign_variables`: variables PUSHSERVER_... that belong to other programs.
    `workers`: the number of processes that hold the connections of clients; see
    `server.workers.number`.
    """

    listen: Annotated[list[str], Meta(min_length=1)] = field(
        default_factory=lambda: ["tcp:8080:interface=127.0.0.1"]
    )
    allowed_origins: list[str] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    front_channel: str = ""
    pages: str = ""
    templates: str = ""
    static: str = ""
    wsgi: str = ""
    compress: bool = False
    trusted_proxies: list[str] = field(default_factory=list)
    proxy_protocol: bool = False
    metrics_listen: str = ""
    foreign_variables: list[str] = field(default_factory=list)
    workers: Workers = 1


@dataclass(frozen=True, slots=True)
class KeySettings:
    """A named API key: its secret, the channels on which it counts, and what it may do there.

    The secret is in exactly one of `key` (itself), `hash`, `file` (a path) and `credential` (a name
    below CREDENTIALS_DIRECTORY). The loader puts the text of a file or a credential into `key`.
    """

    key: str = field(default="", repr=False)
    hash: str = field(default="", repr=False)
    file: str = ""
    credential: str = ""
    channels: Annotated[list[str], Meta(min_length=1)] = field(default_factory=lambda: ["*"])
    may: Annotated[list[str], Meta(min_length=1)] = field(
        default_factory=lambda: ["publish", "read"]
    )


Algorithm = Literal["HS256", "RS256", "ES256", "EdDSA"]
Interval = Annotated[float, Meta(ge=1, le=31_536_000)]


@dataclass(frozen=True, slots=True)
class TokenKeySettings:
    """A key that verifies tokens: a secret for HS256, else a public key in PEM.

    It is in exactly one of `key` (itself), `file` (a path) and `credential` (a name below
    CREDENTIALS_DIRECTORY). The loader puts the text of a file or a credential into `key`. `kid` is
    the name of the key in the heads of tokens; a key without it verifies tokens of any name.
    """

    algorithm: Algorithm
    kid: Annotated[str, Meta(max_length=256)] = ""
    key: str = field(default="", repr=False)
    file: str = ""
    credential: str = ""


@dataclass(frozen=True, slots=True)
class Auth:
    """The API keys, for publishing over HTTP, for reading, and for `/api/`; and tokens.

    `api_keys` may do everything, `keys` are by name. `local_without_key`: whether programs on this
    machine need no key although keys are configured. `closed`: whether everything needs a token or
    a key. `token_cookie`: the name of a cookie that may have a token; empty for none.

    `token_secret` is a key for HS256, `token_keys` are keys of all algorithms. `jwks_file` or
    `jwks_url`: a set of public keys, read again every `jwks_refresh_seconds`, and for an unknown
    key every `jwks_retry_seconds` at most; while that fails, its last keys are valid for
    `jwks_stale_seconds`. The others are those of `auth.tokens.TokenRules`.
    """

    api_keys: list[Annotated[str, Meta(min_length=1)]] = field(default_factory=list, repr=False)
    local_without_key: bool = False
    keys: dict[str, KeySettings] = field(default_factory=dict)
    closed: bool = False
    token_cookie: str = ""
    token_secret: str = field(default="", repr=False)
    token_keys: list[TokenKeySettings] = field(default_factory=list)
    token_algorithms: list[Algorithm] = field(default_factory=list)
    token_audience: list[Annotated[str, Meta(min_length=1)]] = field(default_factory=list)
    token_issuer: str = ""
    token_leeway_seconds: Annotated[float, Meta(ge=0, le=3_600)] = 5.0
    token_requires_exp: bool = True
    token_user_claim: Annotated[str, Meta(min_length=1)] = "sub"
    personal_channels: bool = False
    jwks_file: str = ""
    jwks_url: str = ""
    jwks_refresh_seconds: Interval = 300.0
    jwks_retry_seconds: Interval = 10.0
    jwks_stale_seconds: Interval = 86_400.0
    jwks_timeout_seconds: Annotated[float, Meta(gt=0, le=60)] = 5.0


@dataclass(frozen=True, slots=True)
class Store:
    """The file of the history; without a path, the history ends with the process.

    `durability`: `batched` commits every `commit_milliseconds`, `sync` before a publication is
    acknowledged or delivered. `mode`: the permissions of the file and its log, in octal.
    """

    path: str = ""
    durability: Literal["batched", "sync"] = "batched"
    commit_milliseconds: Annotated[int, Meta(ge=1, le=10_000)] = 50
    mode: Annotated[str, Meta(pattern="^0?6[046][046]$")] = "600"


Urls = Annotated[
    str | list[str],
    Meta(description="the URL of a Redis server, or a list of them"),
]


@dataclass(frozen=True, slots=True)
class Broker:
    """The Redis server with the log of several servers; without a URL, the server is alone.

    With several URLs, each server has the log of some channels: it is a shard. `shards`: the number
    of that of a namespace, from 0, in place of the one that `channels.placement` finds.
    `ca`: a file of certificates for TLS, in place of those of the system. `name` is that of this
    server among the others, by default a random one. `prefix`: the beginning of its keys; servers
    with another one have a log of their own.
    """

    url: Urls = field(default="", repr=False)
    shards: dict[str, int] = field(default_factory=dict)
    ca: str = ""
    name: Annotated[str, Meta(pattern=r"^([A-Za-z0-9][A-Za-z0-9._-]*)?$", max_length=64)] = ""
    prefix: Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=64)] = "ps0"

    @property
    def urls(self) -> tuple[str, ...]:
        """The URL of each shard."""
        urls = [self.url] if isinstance(self.url, str) else self.url
        return tuple(filter(None, urls)) if len(urls) < 2 else tuple(urls)

    @property
    def prefixes(self) -> tuple[str, ...]:
        """The beginning of the keys of each shard: `ps0`, `ps1`, ..."""
        stem = self.prefix.removesuffix("0")
        later = [f"{stem}{shard}" for shard in range(1, len(self.urls))]
        return (self.prefix, *later)

    @property
    def placement(self) -> Placement:
        """The shard of each channel."""
        return Placement(len(self.urls), self.shards)


@dataclass(frozen=True, slots=True)
class SocketIO:
    """The clients of Socket.IO.

    `path`: the name at the root of the server's URLs, empty for no Socket.IO. `channel`: the
    channel of the namespace `/`; empty for none. `recovery`: see `sessions.recovery`.
    """

    path: Annotated[str, Meta(pattern=r"^([A-Za-z0-9][A-Za-z0-9._~-]*)?$", max_length=64)] = (
        "socket.io"
    )
    channel: str = ""
    recovery: bool = False


Colour = Annotated[
    str,
    Meta(
        pattern="^(#[0-9A-Fa-f]{3}([0-9A-Fa-f]{3})?)?$",
        max_length=7,
        description="a colour such as #1d5fd1, or nothing",
    ),
]


@dataclass(frozen=True, slots=True)
class Page:
    """The server's pages: the name in their header and titles, and the colour of links.

    `accent_dark`: the colour on dark pages; see `config.colours`.
    """

    title: Annotated[str, Meta(min_length=1, max_length=64)] = "pushserver"
    accent: Colour = ""
    accent_dark: Colour = ""


Level = Literal["debug", "info", "warn", "error", "critical"]

LOG_PARTS = (
    "app",
    "auth",
    "cluster",
    "connections",
    "flask",
    "hub",
    "redis",
    "resources",
    "server",
    "sessions",
    "sources",
    "store",
    "transports",
    "twisted",
    "usercode",
    "web",
    "wsgi",
)
"""The parts of the program that have log levels of their own: folders, and two more."""


@dataclass(frozen=True, slots=True)
class Log:
    """The log: its form, the least level of its lines, and other levels for parts.

    `auto` is text, with priorities where systemd's journal reads it.
    """

    format: Literal["auto", "text", "json"] = "auto"
    level: Level = "info"
    levels: dict[str, Level] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for part in self.levels:
            if part not in LOG_PARTS:
                problem = f"expected {', '.join(LOG_PARTS[:-1])} or {LOG_PARTS[-1]}"
                raise ValueError(f"levels: {problem}, value {part!r:.60}")

    def level_of(self, part: str) -> Level:
        """The least level of the lines of a part."""
        return self.levels.get(part, self.level)


@dataclass(frozen=True, slots=True)
class Source:
    """A source that the server runs, with the `options` of its `type`.

    `on_demand` runs it while its channel has subscribers, and `linger_seconds` longer. `max_rate`
    is in publications per second. A failed source restarts after `retry_seconds`, which double
    with each failure up to `retry_max_seconds`.
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
    """A type of sources; `options` and `make` raise ValueError."""

    @property
    def options(self) -> type:
        """A dataclass: its fields are the keys of this type, besides those of all sources."""

    def make(self, options: Any) -> object:
        """Make a source, which also checks the options; an error names the key."""


Types = Mapping[str, SourceType]
"""The types of sources, by name."""


@dataclass(frozen=True, slots=True)
class Config:
    """All settings.

    The options of a channel are those of `[channels.NAME]`, then those of its namespace
    (`[namespaces.chat]` for `chat:lobby`), then `[defaults]`.
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
    log: Log = field(default_factory=Log)
    socketio: SocketIO = field(default_factory=SocketIO)
    page: Page = field(default_factory=Page)
    broker: Broker = field(default_factory=Broker)

    def channel_options(self) -> Callable[[str], ChannelOptions]:
        """A function that returns the options of a channel by its name."""
        defaults = self.defaults
        namespaces = {n: dataclasses.replace(defaults, **v) for n, v in self.namespaces.items()}
        channels = {
            name: dataclasses.replace(namespaces.get(namespace_of(name), defaults), **values)
            for name, values in self.channels.items()
        }

        def options(name: str) -> ChannelOptions:
            own = channels.get(name)
            return namespaces.get(namespace_of(name), defaults) if own is None else own

        return options

    @property
    def templates(self) -> list[str]:
        """The names of the templates of channels."""
        tables = [*self.namespaces.values(), *self.channels.values()]
        names = [self.defaults.template, *(table.get("template", "") for table in tables)]
        return list(dict.fromkeys(filter(None, names)))
