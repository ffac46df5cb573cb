"""Everything that is kept while the server runs, and why a peer cannot make it grow for ever.

The package is read for caches, and for attributes that hold a container; each has to be in the
table with its bound. Where it is easily filled, a test fills it.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.web.http_headers import _nameEncoder

import pushserver
from pushserver import origin
from pushserver.channel import Receipt
from pushserver.entrance import NAME_BYTES
from pushserver.idempotency import Keys, Remembered, TooManyKeys
from pushserver.limits import Limits
from pushserver.origin import loopback_address
from pushserver.replay import MOST_BYTES, Replays
from pushserver.site import MOST_REFUSALS, REFUSAL_CHARACTERS
from tests.unit.tools import Client, make_node
from tests.unit.web import Line, Server, parse, request

PACKAGE = Path(pushserver.__file__).parent

CONNECTIONS = "one for each open connection, or each of its channels (channels_per_client)"
CONFIGURED = "as the configuration, or the code of the application, says; no peer adds to it"
STARTED = "filled at the start, or while it is put together"
ONCE = "of one call, or one message or document of a bounded size"
HISTORY = "history_size, history_bytes and history_ttl bound each channel's"
WAITING = "what waits for the next commit: the store refuses more than so many bytes"
SYNC = "a publication each whose publisher waits for the commit; not yet bounded in bytes"
COUNTED = "labels are words of the code and close codes below 5,000"
TESTING = "of a test of an application, not of a server"

BOUNDS = {
    "answers.Refusal.headers": ONCE,
    "app.PushServer.sources": CONFIGURED,
    "application.AppHandlers._starting": "connections that came before the start was over",
    "application.AppHandlers._timers": "a call of a handler each, and those are bounded",
    "application.AppHandlers.clients": CONNECTIONS,
    "audience.Audience.groups": "a group for each format, of which there are some ten",
    "audience.Audience.newcomers": CONNECTIONS,
    "audience.Audience.parts": "a part for each format",
    "audience.Audience.queue": "FanOut.room refuses a publication over QUEUE_BYTES",
    "audience.Group.others": CONNECTIONS,
    "audience.Group.ready": CONNECTIONS,
    "calls.Pool._begun": CONFIGURED,
    "calls.Pool._idle": "handler_threads",
    "calls.Pool._waiting": "WAITING for each handler; beyond it no client is let in",
    "calls.Pool._workers": "handler_threads, and one for each handler that must be called",
    "channel.Channel._rows": HISTORY,
    "client.Client.state": "the application's",
    "config.Auth.api_keys": CONFIGURED,
    "config.Config.channels": CONFIGURED,
    "config.Config.namespaces": CONFIGURED,
    "config.Config.sources": CONFIGURED,
    "config.Server.allowed_origins": CONFIGURED,
    "config.Server.listen": CONFIGURED,
    "config.Server.names": CONFIGURED,
    "config.Source.options": CONFIGURED,
    "connection.ConnectionDoors.sessions": CONNECTIONS,
    "conversation.Conversation._audiences": "channels_per_client, or one of several together",
    "entrance.Head.args": ONCE,
    "entrance.Head.prepath": ONCE,
    "events.Events._handlers": CONFIGURED,
    "fanout.FanOut._line": "an audience each, and those are of open connections",
    "fanout.FanOut._resting": "an audience each, and those are of open connections",
    "fanout.FanOut.parts": "of an audience: a part for each format",
    "faults.Faults._busy": CONFIGURED,
    "faults.Faults._last": CONFIGURED,
    "faults.Faults._late": CONFIGURED,
    "faults.Faults._raised": CONFIGURED,
    "files.StaticFiles.contentEncodings": CONFIGURED,
    "files.StaticFiles.indexNames": CONFIGURED,
    "formats.HistoryObject.publications": ONCE,
    "history.History._pinned": "the channels of one commit",
    "history.History.channels": (
        "those that were published to and have rows, and those that are watched; the rows are"
        " bounded by channel, not yet all channels together"
    ),
    "hosts.Hosts._known": "256 entries of 255 characters",
    "hub.Hub._audiences": "dissolved when the last of its subscribers leaves",
    "hub.Hub._by_channel": "dissolved when the last of its subscribers leaves",
    "hub.Hub.on_join": STARTED,
    "hub.Hub.on_leave": STARTED,
    "hub.Following.offsets": ONCE,
    "idempotency.Keys._known": "idempotency_keys, of 128 characters each, for five minutes",
    "lean.LeanProtocol.__dict__": "the attributes of one connection",
    "memory.Memory._untaken": CONFIGURED,
    "memory.Memory._values": CONFIGURED,
    "metrics.Metrics.ended": COUNTED,
    "metrics.Metrics.recoveries": COUNTED,
    "metrics.Metrics.refusals": COUNTED,
    "opener._opener": "one",
    "origin.loopback_address": "256 entries, of 255 characters each",
    "origin._valid_host": "256 entries of 255 characters",
    "outlet.Backlog._pieces": "queue_bytes; a peer that leaves more unread is dropped",
    "peers.Peers._due": CONNECTIONS,
    "peers.Peers._second": CONNECTIONS,
    "peers.Peers._waking": CONNECTIONS,
    "peers.Peers._when_empty": "a call for each stop of the server",
    "pipeline.DeadlineChannel._dataBuffer": "MOST_BEHIND and one read; then the peer is not read",
    "pipeline.DeadlineChannel._pieces": "PIECE",
    "presence.Presence._observers": CONNECTIONS,
    "published.Published._waiting": "those who await one publication: the application's",
    "rehearsal.Stage._waiting": TESTING,
    "replay.Replays._encoded": "MOST_BYTES, names and all",
    "server.PushService._clocks": STARTED,
    "server.PushService._listeners": STARTED,
    "server.PushService._sources": STARTED,
    "service.Options.optFlags": CONFIGURED,
    "service.Options.optParameters": CONFIGURED,
    "session.Session._queue": "queued_commands",
    "session.Session.invited": "the channels that the application puts a client into",
    "signals.Handlers._remarks": STARTED,
    "signals.Handlers._waiting": "the numbers of three signals",
    "site.PushSite._refused": "MOST_REFUSALS, of REFUSAL_CHARACTERS each",
    "site.PushSite.channels": CONNECTIONS,
    "sources.answer._Body._pieces": "max_bytes of a document; then the answer is dropped",
    "sources.command.Options.environment": CONFIGURED,
    "sources.entries._Text.parts": ONCE,
    "sources.events.Parser._data": "the bytes that an event may have",
    "sources.events.Parser._line": "the bytes that an event may have",
    "sources.feed.Contents.entries": ONCE,
    "sources.feed.Options.headers": CONFIGURED,
    "sources.feed._Reader._waiting": ONCE,
    "sources.feed._Reader.output": "what a process writes in its time, of one document",
    "sources.fetch.Fetcher._headers": CONFIGURED,
    "sources.follow.Follower._files": "the files of one name that is rotated",
    "sources.follow.Follower.told": "emptied with each look",
    "sources.functions.Values._taken": "one",
    "sources.kinds.SourceTypes._by_name": STARTED,
    "sources.lines.Splitter._kept": "max_line_bytes",
    "sources.engine.meter.Meter._seconds": "a minute of seconds",
    "sources.place.Watch.on_join": STARTED,
    "sources.place.Watch.on_leave": STARTED,
    "sources.pointer.Pointer._steps": CONFIGURED,
    "sources.poll.Options.headers": CONFIGURED,
    "sources.poll.Poll._of": CONFIGURED,
    "sources.process.Process._chunks": "its pipes are not read while a chunk waits",
    "sources.process.Process._stoppers": "a call for each stop",
    "sources.record.Record._known": "a deque with a maxlen",
    "sources.rounds.Rounds._validators": "two headers of one answer, whose head is bounded",
    "sources.runner.Runner._stopping": "a call for each stop",
    "sources.stream.Options.events": CONFIGURED,
    "sources.stream.Options.headers": CONFIGURED,
    "sources.worker.Worker._jobs": "one call of a source, or of a handler in its turn",
    "sqlite.Batch.forgotten": WAITING,
    "sqlite.Batch.keys": WAITING,
    "sqlite.Batch.memory": WAITING,
    "sqlite.Batch.rows": WAITING,
    "sqlite.Batch.states": WAITING,
    "store.Writer._keys": WAITING,
    "store.Writer._rows": WAITING,
    "store.Writer._touched": WAITING,
    "store.Writer.rows": "of the batch that is being written",
    "sync.Round.answers": SYNC,
    "sync.Round.clears": SYNC,
    "sync.Round.rows": SYNC,
    "sync.Round.touched": SYNC,
    "sync.Round.waiting": SYNC,
    "sync.SyncBroker._clears": SYNC,
    "sync.SyncBroker._idle": SYNC,
    "sync.SyncBroker._pending": SYNC,
    "sync.SyncBroker._touched": SYNC,
    "sync.SyncBroker._waiting": SYNC,
    "sync.SyncBroker.keys": SYNC,
    "sync.Waiting.answers": SYNC,
    "tables.Where.origins": STARTED,
    "testing.TestClient._replies": TESTING,
    "testing.TestClient.joined": TESTING,
    "testing.TestClient.messages": TESTING,
    "testing.TestClient.publications": TESTING,
}
"""Each cache and container by its module, class and name, and why it is bounded.

What others keep for us: `re` has 512 compiled patterns, of which MOST_PATTERN bounds those of the
API; fnmatch's own cache is not used; twisted.web keeps the names of 10,000 headers, which
NAME_BYTES bounds; Jinja keeps the templates that the package has.
"""

MAKERS = {"bytearray", "Counter", "defaultdict", "deque", "dict", "list", "OrderedDict", "set"}
CACHES = {"cache", "cached_property", "lru_cache"}
DISPLAYS = (ast.Dict, ast.List, ast.Set, ast.DictComp, ast.ListComp, ast.SetComp)


def name_of(node: ast.AST | None) -> str:
    """The last part of a name that is called, subscribed or named."""
    while isinstance(node, ast.Call | ast.Subscript):
        node = node.func if isinstance(node, ast.Call) else node.value
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


def is_container(value: ast.AST | None) -> bool:
    """Whether the expression makes one, or is a field whose default does."""
    if isinstance(value, DISPLAYS):
        return True
    if isinstance(value, ast.BoolOp):
        return any(map(is_container, value.values))
    if isinstance(value, ast.IfExp):
        return is_container(value.body) or is_container(value.orelse)
    if isinstance(value, ast.Lambda):
        return is_container(value.body)
    if not isinstance(value, ast.Call):
        return False
    factories = [k.value for k in value.keywords if k.arg == "default_factory"]
    named = bool(MAKERS & {name_of(value), *map(name_of, factories)})
    return named or any(map(is_container, factories))


def kept(node: ast.AST, scope: str, in_class: bool = False) -> Iterator[str]:
    """The caches and containers below a node, by their dotted names."""
    for inner in ast.iter_child_nodes(node):
        if isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef):
            if CACHES & set(map(name_of, inner.decorator_list)):
                yield f"{scope}.{inner.name}"
            yield from kept(inner, scope)
        elif isinstance(inner, ast.ClassDef):
            yield from kept(inner, f"{scope}.{inner.name}", in_class=True)
        else:
            for target in _assigned(inner):
                if isinstance(target, ast.Attribute):
                    yield f"{scope}.{target.attr}"
                elif in_class and isinstance(target, ast.Name):
                    yield f"{scope}.{target.id}"
            yield from kept(inner, scope)


def _assigned(node: ast.AST) -> Iterator[ast.AST]:
    """To what a statement assigns containers; a field without a value holds what its type says."""
    if isinstance(node, ast.Assign):
        for target in node.targets:
            if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                pairs = zip(target.elts, node.value.elts, strict=True)
                yield from (one for one, value in pairs if is_container(value))
            elif is_container(node.value):
                yield target
    elif isinstance(node, ast.AnnAssign):
        by_type = node.value is None and name_of(node.annotation) in MAKERS
        if by_type or is_container(node.value):
            yield node.target


def found() -> set[str]:
    """All of the package, but for the messages of the wire, which are gone when they are read."""
    names: set[str] = set()
    for path in PACKAGE.rglob("*.py"):
        module = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        if module not in ("wire", "api"):
            names |= set(kept(ast.parse(path.read_text()), module))
    return names


def test_each_cache_and_container_has_a_bound() -> None:
    assert found() - BOUNDS.keys() == set(), "say in BOUNDS why it is bounded"
    assert BOUNDS.keys() - found() == set(), "it is no longer there"


SAMPLE = """
class A:
    seen: set[str] = set()
    def __init__(self):
        self.known = {}
        self.waits: dict[str, int] = dict()
        self.a, self.b = [], 1
        self.count = Counter()
        self.one = self.one or []
        self.two = 1 if self.a else {}
    def more(self):
        here = {}
        def f(): self.deep = deque(maxlen=1)

@dataclass
class B:
    rows: list[int] = field(default_factory=list)
    given: dict[str, int]
    made: list[str] = field(default_factory=lambda: ["a"])
    other: int

@lru_cache(8)
def f(): ...
@functools.cache
def g(): ...
"""


def test_what_is_looked_for_is_found() -> None:
    names = {name.removeprefix("m.") for name in kept(ast.parse(SAMPLE), "m")}
    of_a = {"A.seen", "A.known", "A.waits", "A.a", "A.count", "A.deep", "A.one", "A.two"}
    assert names == of_a | {"B.rows", "B.given", "B.made", "f", "g"}


MANY = 3_000


def test_refusals_keep_few_and_short_messages() -> None:
    server = Server()
    for n in range(2 * MOST_REFUSALS):
        server.get("/channels/a", origin=f"http://{n}.{'x' * 10_000}")
    assert len(server.site._refused) == MOST_REFUSALS
    assert max(map(len, server.site._refused)) <= REFUSAL_CHARACTERS


def test_names_of_headers_that_twisted_keeps_are_short() -> None:
    server, cache = Server(), _nameEncoder._canonicalHeaderCache
    before = set(cache)
    for n in range(30):
        line = server.open("/channels/a", **{f"X{n}-{'a' * 10_000}": "1"})
        assert line.take().startswith(b"HTTP/1.1 400 ")
        assert line.lost
    long = f"X-{'a' * (NAME_BYTES - 2)}"
    assert server.get("/channels/a", **{long: "1"}).status == 200
    assert max(map(len, set(cache) - before)) <= NAME_BYTES


def test_hosts_that_are_kept_are_few() -> None:
    server = Server()
    for n in range(300):
        server.get("/channels/a", host=f"h{n}")
    for cached in (origin._valid_host, loopback_address):
        assert cached.cache_info().currsize <= 256


def test_keys_are_as_many_as_may() -> None:
    keys = Keys(100)
    for n in range(MANY):
        try:
            keys.check_room(0.0)
        except TooManyKeys:
            break
        keys.remember(Remembered("a", str(n), Receipt("e", n, n), 0.0), 0.0)
    assert len(keys) == 100


def visit(server: Server, *names: str) -> None:
    """Somebody reads the channels, and goes."""
    path = "/events?" + "&".join(f"channel={name}" for name in names)
    line = server.open(path, accept="text/event-stream")
    assert parse(line.take()).status == 200
    line.vanish()


def test_readers_of_ever_new_channels_leave_nothing() -> None:
    server = Server()
    server.publish("full", "x" * 100)
    for n in range(200):
        long = [f"c{n}-{m}".ljust(120, "x") for m in range(120)]
        visit(server, "full", *long)
        server.get(f"/channels/d{n}")
    hub = server.hub
    assert (hub._audiences, hub._by_channel) == ({}, {})
    assert list(hub.history.channels) == ["full"]
    assert server.is_empty()


def replayed(replays: Replays) -> int:
    """What the entries take, with what Python takes for them."""
    size = sys.getsizeof(replays._encoded)
    for key, text in replays._encoded.items():
        size += sys.getsizeof(key) + sys.getsizeof(text) + sum(map(sys.getsizeof, key[1:]))
    return size


def test_replays_take_no_more_memory_than_they_count() -> None:
    server = Server()
    server.publish("full", "x")
    for n in range(600):
        long = [f"c{n}-{m}".ljust(128, "x") for m in range(110)]
        path = "/events?last=1&" + "&".join(f"channel={name}" for name in ("full", *long))
        line = server.open(path, accept="text/event-stream")
        line.take()
        line.vanish()
    replays = server.node.replays
    assert 0 < replayed(replays) <= MOST_BYTES
    assert replays._bytes >= replayed(replays)


def test_sessions_leave_nothing() -> None:
    server = Server()
    for n in range(50):
        socket = server.session()
        for m in range(20):
            command = {"channel": f"c{n}-{m}", "join_leave": True}
            socket.say({"id": m + 2, "subscribe": command})
        socket.line.vanish()
    assert server.is_empty()
    assert server.node.presence._observers == {}
    assert (server.hub._audiences, server.hub.history.channels) == ({}, {})


def test_commands_wait_for_their_turn_in_a_bounded_queue() -> None:
    client = Client(make_node())
    client.session._working = True
    client.say(b'{"id":1,"ping":{}}\n' * MANY)
    assert len(client.session._queue) <= Limits().queued_commands


def test_metrics_have_few_labels() -> None:
    server = Server()
    metrics = server.hub.metrics
    for n in range(100):
        socket = server.session()
        socket.say(f"no command {n}".encode())
        socket.line.vanish()
        server.get(f"/events?channel=a&since=e{n}:1")
        visit(server, "a")
    labels = [*metrics.ended, *metrics.refusals, *metrics.recoveries]
    assert len(labels) < 10


def buffered(line: Line) -> int:
    """Bytes that came and are neither read nor dropped."""
    channel: Any = line.protocol
    return len(channel._buffer) + sum(map(len, channel._dataBuffer))


@pytest.mark.parametrize("path", ["/channels/a?wait=60", "/channels/a"])
def test_bytes_behind_a_request_are_bounded(path: str) -> None:
    server = Server()
    line = server.open(path, accept="application/json")
    for _ in range(MANY):
        if line.producerState == "producing":
            line.protocol.dataReceived(request("/channels/a?wait=60"))
    assert buffered(line) < 20_000
