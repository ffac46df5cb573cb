"""A clock, the layers up to a node, and their subscribers and clients; no reactor."""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine, Iterable, Iterator
from dataclasses import replace
from typing import Any, TypeVar

import msgspec
from hypothesis import strategies as st

from pushserver.auth.identity import ANONYMOUS
from pushserver.auth.keys import Keys
from pushserver.auth.wrong_keys import WrongKeys
from pushserver.channels.channel import ChannelOptions
from pushserver.channels.history import History
from pushserver.channels.idempotency import Keys as IdempotencyKeys
from pushserver.channels.publication import ClientInfo, Draft, Publication, Receipt
from pushserver.config.limits import Limits
from pushserver.hub.audience import Audience, Direct, Outlet
from pushserver.hub.broker import Broker, MemoryBroker
from pushserver.hub.hub import Hub
from pushserver.hub.metrics import Metrics
from pushserver.hub.presence import Presence
from pushserver.protocols import centrifuge
from pushserver.protocols.formats import (
    SESSION_WEBSOCKET,
    STREAM_WEBSOCKET,
    End,
    Format,
    Reset,
    SessionFormat,
    StreamFormat,
    Subscribed,
    each,
    publication_object,
)
from pushserver.sessions.base import Conversation
from pushserver.sessions.callbacks import Handlers, NoHandlers
from pushserver.sessions.commands import answer
from pushserver.sessions.directory import Directory
from pushserver.sessions.event_stream import Stream
from pushserver.sessions.identification import Identification, NoTokens, Tokens
from pushserver.sessions.node import Node
from pushserver.sessions.session import Session

Result = TypeVar("Result")
Item = TypeVar("Item")
EPOCH = "e1"


def drive(coroutine: Coroutine[Any, Any, Result]) -> Result:
    """Run the coroutine, which must end in this turn."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        result: Result = stop.value
        return result
    coroutine.close()
    raise AssertionError("the coroutine waits for something; it was to end in this turn")


class Time:
    """A clock that the test moves; `now` in Unix seconds."""

    def __init__(self, now: float = 1_795_000_000.0):
        self.now = now
        self.calls: list[tuple[float, Callable[[], object]]] = []

    def __call__(self) -> float:
        return self.now

    def seconds(self) -> float:
        """The time of a reactor: the same with another zero."""
        return self.now - 1_794_999_000.0

    def callLater(self, delay: float, call: Callable[[], object]) -> None:
        """Call at this time, in `turn`."""
        self.calls.append((self.now + delay, call))

    def turn(self) -> None:
        """Make the due calls."""
        due = sorted((c for c in self.calls if c[0] <= self.now), key=lambda c: c[0])
        self.calls = [c for c in self.calls if c[0] > self.now]
        for _, call in due:
            call()

    def pass_on(self) -> None:
        """Make all calls, at whatever time."""
        while self.calls:
            self.now = max(self.now, min(c[0] for c in self.calls))
            self.turn()


def programs(steps: st.SearchStrategy[Item], most: int = 60) -> st.SearchStrategy[list[Item]]:
    """Sequences of steps, half of them long; those of st.lists have five on average."""
    return st.lists(steps, max_size=most) | st.lists(steps, min_size=most // 3, max_size=most)


def unexpected(what: str) -> None:
    """The failure report of a test in which nothing must fail."""
    raise AssertionError(what)


def make_broker(
    options: ChannelOptions | Callable[[str], ChannelOptions] = ChannelOptions(),
    history: History | None = None,
    time: Time | None = None,
) -> MemoryBroker:
    """A broker with its own history; the options are for all channels, or by name."""
    if history is None:
        by_name = options if callable(options) else (lambda name: options)
        history = History(by_name, EPOCH)
    time = time or Time()
    return MemoryBroker(history, IdempotencyKeys(100), Metrics(), time, time.seconds)


def make_hub(
    options: ChannelOptions | Callable[[str], ChannelOptions] = ChannelOptions(),
    report: Callable[[str], None] = unexpected,
    time: Time | None = None,
) -> Hub:
    """A hub with its own history and without a broker; see `deliver`."""
    time = time or Time()
    by_name = options if callable(options) else (lambda name: options)
    return Hub(History(by_name, EPOCH), Metrics(), time, time.seconds, report)


def make_node(
    options: ChannelOptions | Callable[[str], ChannelOptions] = ChannelOptions(),
    limits: Limits = Limits(),
    time: Time | None = None,
    report: Callable[[str], None] = unexpected,
    broker: Broker | None = None,
    run: Callable[[Coroutine[Any, Any, None]], None] = drive,
    handlers: Handlers | None = None,
    tokens: Tokens | None = None,
    sessions: Directory | None = None,
    make_presence: Callable[[Hub, int], Presence] = Presence,
) -> Node:
    """A node; without `report`, a reported failure fails the test."""
    time = time or Time()
    broker = broker or make_broker(options, time=time)
    identification = Identification(
        Keys(),
        tokens or NoTokens(),
        WrongKeys(100),
        handlers or NoHandlers(),
        broker.metrics,
        time.seconds,
    )
    return Node(
        broker,
        time,
        limits=limits,
        version="pushserver test",
        clock=time,
        monotonic=time.seconds,
        run=run,
        report=report,
        handlers=handlers,
        identification=identification,
        sessions=sessions,
        make_presence=make_presence,
    )


def publish(
    node: Node, channel: str = "numbers", data: object = 1, event: str = "message"
) -> Receipt:
    """Publish one value, in this turn."""
    return drive(node.publish(Draft(channel, json.dumps(data).encode(), event)))


def deliver(
    hub: Hub, channel: str = "numbers", data: object = 1, event: str = "message"
) -> Receipt:
    """Number, retain and deliver one value, as a broker does in one turn."""
    draft = Draft(channel, json.dumps(data).encode(), event)
    publication = hub.history.number(draft, 0.0)
    hub.history.append(publication, 0.0)
    hub.deliver(publication)
    return publication.receipt


def row(offset: int, seq: int | None = None, time: float = 0.0, data: bytes = b"1") -> Publication:
    """A publication in the channel `numbers`."""
    return Publication("numbers", EPOCH, seq or offset, offset, time, "message", data)


class Shape:
    """A format with one publication object a line, which counts the encoded publications."""

    def __init__(self, name: str = "plain"):
        self.calls = 0
        self.format = Format(name, each(self._encode), 1003)

    def _encode(self, publication: Publication) -> bytes:
        self.calls += 1
        return publication_object(publication) + b"\n"


PLAIN = Shape().format


class Watcher:
    """A subscriber that keeps its frames; `on_send` is called after each."""

    def __init__(self, name: str = "w", shape: Format = PLAIN, user: str = ""):
        self.info = ClientInfo(name, user)
        self.identity = ANONYMOUS
        self.audiences: dict[str, Audience] = {}
        self.format = shape
        self.outlet: Outlet | None = None
        self.frames: list[bytes] = []
        self.gaps: list[str] = []
        self.pushes: list[dict[str, Any]] = []
        self.on_send: Callable[[bytes], None] = lambda frame: None

    def send(self, frame: bytes) -> None:
        self.frames.append(frame)
        self.on_send(frame)

    def check_not_ended(self) -> None: ...

    def insufficient(self, channel: str) -> None:
        self.gaps.append(channel)

    def push(self, text: bytes) -> None:
        self.pushes.append(json.loads(text)["push"])

    @property
    def offsets(self) -> list[int]:
        """The offsets of the received publications, without history."""
        return [publication["offset"] for publication in self.publications]

    @property
    def publications(self) -> list[Any]:
        """The received publications, without history."""
        return [json.loads(line) for line in b"".join(self.frames).splitlines()]


TEXT: SessionFormat = replace(
    SESSION_WEBSOCKET,
    publications=each(lambda publication: centrifuge.publication_push(publication) + b"\n"),
    frame=lambda text: text + b"\n",
    ping=centrifuge.PING + b"\n",
)
"""The Centrifuge protocol, one line for each text."""


def _make_opening(channels: Iterable[Subscribed], reset: Reset | None, retry: int) -> bytes:
    notes: list[dict[str, Any]] = [{"subscribed": _fields(channel)} for channel in channels]
    notes += [{"reset": _fields(reset)}] if reset else []
    return b"".join(json.dumps(note).encode() + b"\n" for note in notes)


def _fields(note: Subscribed | Reset | End) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.to_builtins(note)
    return found


LINES: StreamFormat = replace(
    STREAM_WEBSOCKET,
    publications=each(lambda publication: publication_object(publication) + b"\n"),
    make_opening=_make_opening,
    heartbeat=b'"ping"\n',
    make_end=lambda end: json.dumps({"end": _fields(end)}).encode() + b"\n",
)
"""A stream of publication objects, one a line, with answered heartbeats."""


class FakeOutlet:
    """An outlet with this `direct`, which must accept whole frames."""

    def __init__(self, direct: Direct | None = None):
        self.direct = direct
        self.blocked_at: float | None = None

    def send_rest(self, frame: bytes, taken: int) -> None:
        raise AssertionError("a short send")

    def end_replays(self) -> None: ...


class FakeTransport:
    """The transport of a session or stream; fails if it writes after its end."""

    def __init__(self, format: Any):
        self.format = format
        self.frames: list[bytes] = []
        self.closed: tuple[int, str] | None = None
        self.aborted = False
        self.on_write: Callable[[bytes], None] = lambda frame: None
        self.outlet = FakeOutlet()
        self.conversation: Conversation[Any] | None = None

    def attach(self, conversation: Conversation[Any]) -> None:
        self.conversation = conversation

    def write(self, frame: bytes) -> None:
        if self.closed is None and not self.aborted:
            self.frames.append(frame)
            self.on_write(frame)

    def replay(self, frames: Iterator[bytes]) -> None:
        for frame in frames:
            self.write(frame)

    def block(self) -> None:
        """Buffer bytes from now on."""
        assert self.conversation is not None
        self.outlet.blocked_at = self.conversation.node.monotonic()

    def drain(self) -> None:
        """Send the buffered bytes."""
        assert self.conversation is not None
        self.outlet.blocked_at = None
        self.conversation.drained()

    def close(self, code: int, reason: str) -> None:
        assert self.closed is None, "closed twice"
        self.closed = (code, reason)

    def abort(self) -> None:
        self.aborted = True

    def take(self) -> list[Any]:
        """The JSON values of all lines since the last call."""
        lines = b"\n".join(self.frames).split(b"\n")
        self.frames.clear()
        return [json.loads(line) for line in lines if line]


class Client:
    """A client of the Centrifuge protocol, and its session."""

    def __init__(self, node: Node, connect: bool = True):
        self.transport = FakeTransport(TEXT)
        self.session = Session(node, self.transport, answer)
        self.id = 0
        if connect:
            assert "connect" in self.command("connect")

    def say(self, *texts: bytes | dict[str, Any]) -> list[Any]:
        """Send these commands in one frame; returns the values that came back."""
        self.transport.frames.clear()
        lines = [t if isinstance(t, bytes) else json.dumps(t).encode() for t in texts]
        self.session.received(b"\n".join(lines))
        return self.transport.take()

    def command(self, method: str, **fields: Any) -> Any:
        """Send one command; returns its reply, which must come last."""
        self.id += 1
        replies = [r for r in self.say({"id": self.id, method: fields}) if r.get("id") == self.id]
        assert len(replies) == 1, replies
        return replies[0]

    def pushes(self) -> list[Any]:
        """The pushes since the last call."""
        return [value["push"] for value in self.transport.take() if "push" in value]

    @property
    def closed(self) -> tuple[int, str] | None:
        return self.transport.closed


class Reader:
    """A client of a one-way stream, and the stream."""

    def __init__(self, node: Node, shape: StreamFormat = LINES):
        self.transport = FakeTransport(shape)
        self.stream = Stream(node, self.transport)

    def take(self) -> list[Any]:
        """The values since the last call."""
        return self.transport.take()

    @property
    def closed(self) -> tuple[int, str] | None:
        return self.transport.closed
