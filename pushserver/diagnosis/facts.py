"""The facts about a running server from which its findings are made.

Structs of msgspec: each start makes these classes, in a tenth of the time of frozen dataclasses.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, Protocol

from msgspec import Struct, field

from pushserver.diagnosis.recent_refusals import RecentRefusal


class SourceStatus(Protocol):
    """The status of a source, as far as the findings need it; see `sources.engine.runner`."""

    @property
    def name(self) -> str: ...
    @property
    def channel(self) -> str: ...
    @property
    def last_error(self) -> str: ...
    @property
    def last_failure(self) -> str: ...


class TemplateFailure(Struct, frozen=True):
    """The last failure of a template, or of a function in its place; `time` in Unix seconds.

    `channel`: that of the publication; empty if there was none.
    """

    name: str
    channel: str
    error: str
    time: float


class StoreFacts(Struct, frozen=True):
    """The store: `problem` is the error of the last commit, `waiting` publications wait for one.

    `free_bytes` are those of its disk; None where the system does not say.
    """

    path: str
    problem: str = ""
    waiting: int = 0
    bytes: int = 0
    free_bytes: int | None = None


class BrokerFacts(Struct, frozen=True):
    """The log in Redis: its address, without a password, and the name of this server there.

    `away_seconds`: for how long it has not been attached; None while it is. `problem`: the reason,
    or why Redis refuses publications. `lag`: the publications that have not arrived. `losses`: how
    often it ceased to be attached.
    """

    address: str
    name: str
    away_seconds: float | None = None
    problem: str = ""
    lag: int = 0
    losses: int = 0


class RequestFacts(Struct, frozen=True):
    """A request as it arrived: its HTTP version, its peer, and the headers about its sender.

    `client` is the address that limits and the log use; the addresses are None on a Unix socket.
    `origin` is the server's own origin for this request. `forwarded_by`: see
    `web.checks.forwarded_by`. `trusted`: whether the peer is one of `trusted_proxies`.
    """

    version: str = "HTTP/1.1"
    peer: str | None = "127.0.0.1"
    client: str | None = "127.0.0.1"
    origin: str = "http://localhost:8080"
    headers: Mapping[str, str] = field(default_factory=dict)
    forwarded_by: str = ""
    trusted: bool = False


State = Literal["starting", "ready", "silent", "waiting", "stopping"]
"""`silent`: it does not answer. `waiting`: it has ended, and the next one starts after a pause."""


class WorkerState(Struct, frozen=True):
    """A worker, whose process was replaced `restarts` times; without a process the `pid` is 0."""

    number: int
    pid: int
    state: State
    restarts: int


class WorkerFacts(Struct, frozen=True):
    """A worker, with the numbers that its process told last; they are 0 until then."""

    number: int
    pid: int
    state: str
    restarts: int
    connections: int = 0
    uptime: float = 0.0


class Facts(Struct, frozen=True):
    """A server at one moment; `time` in Unix seconds, `uptime` in seconds.

    `checks`: those of `/health/ready`, each with its problem. `connections`: the open ones;
    `descriptors` and `max_descriptors`: open files of the process, None where the system does not
    say. `limits`: the settings of `[limits]`. `workers`: none if the server is one process.
    `broker`: None if the server is alone. `templates`: the last failures of all processes, the
    newest first.
    """

    time: float
    uptime: float
    versions: Mapping[str, str]
    checks: Mapping[str, str]
    connections: int
    descriptors: int | None
    max_descriptors: int | None
    limits: Mapping[str, object]
    store: StoreFacts | None
    sources: Sequence[SourceStatus]
    refusals: Sequence[RecentRefusal]
    request: RequestFacts
    has_keys: bool = True
    workers: Sequence[WorkerFacts] = ()
    broker: BrokerFacts | None = None
    templates: Sequence[TemplateFailure] = ()
