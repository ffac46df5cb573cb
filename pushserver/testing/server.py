"""Tests of applications: a server without sockets, a clock, and a client that records.

    def test_a_guest_is_greeted():
        with TestServer(app) as server:
            guest = server.connect()
            assert guest.rpc("greet", "Ada") == "hello Ada"

Handlers and sources run in the thread of the test, one after the other, and time passes when the
test says so; the rest is the real server. Threads of a test or a handler may publish, and a test
may wait for them. Only a generator without `every`, which may block, has a thread and real time.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, cast

from pushserver.app.app import App
from pushserver.channels import jsontext
from pushserver.channels.publication import Draft
from pushserver.config.settings import Config
from pushserver.errors import PushServerError
from pushserver.protocols import centrifuge
from pushserver.protocols.formats import SESSION_LINES, SessionFormat
from pushserver.server.build import build, with_app
from pushserver.sessions.base import Conversation
from pushserver.sessions.commands import answer
from pushserver.sessions.session import Session
from pushserver.sessions.visit import UNKNOWN, Visit
from pushserver.sources.functions.adapt import GeneratorSource
from pushserver.sources.functions.callers import InThread
from pushserver.testing.reactor import InlinePool, InlineWorker, PolledWorker, TestReactor
from pushserver.usercode.worker import Worker

__test__ = False


class ServerError(PushServerError):
    """The server answered a command with an error."""

    def __init__(self, code: int, message: str):
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message


class TestServer:
    """A server, with or without an application; a context manager, or ended by `close`.

    `config` is that of a real server, but the server does not listen, and there is no default
    source. Time starts at 1,000 seconds and passes by `advance`. Raises ValueError for a `config`
    with a store, whose thread would run in real time.
    """

    __test__ = False

    def __init__(self, app: App | None = None, config: Config | None = None):
        config = config or Config(sources={})
        if app is not None:
            config = with_app(config, app)
        if config.store.path:
            raise ValueError("a TestServer has no store: leave [store] out of its configuration")
        self.app = app
        self.reactor = TestReactor()
        self.reactor.advance(1_000)
        self.service = build(
            replace(config, server=replace(config.server, listen=[])),
            cast(Any, self.reactor),
            app=app,
            threads=InlinePool(self.reactor.lock),
            clock=self.reactor.seconds,
            is_own=lambda request: True,
        )
        self._node = self.service.node
        with self.reactor.lock:
            self.service.startService()
        if app is not None:
            app._server().in_reactor_thread = self.reactor.lock.held
        self._closed = False
        self._workers = self._replace_workers(app)
        try:
            self.advance(0)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> TestServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def advance(self, seconds: float) -> None:
        """Let time pass; each delayed call is made at its own time.

        Values that a generator without `every` has yielded are published.
        """
        self.reactor.look_again()
        self.reactor.pass_time(seconds)

    def connect(
        self,
        data: object = None,
        *,
        address: str = "127.0.0.1",
        headers: Mapping[str, str] | None = None,
    ) -> TestClient:
        """Return a connected client; raises ServerError or Disconnected if it is refused.

        `headers` are those of its request, by lower-case name.
        """
        client = TestClient(self, Visit(address, "websocket", headers or {}))
        client.begin(data)
        return client

    def publish(self, channel: str, data: object, event: str = "message") -> None:
        """Publish to the channel, as a client by HTTP would."""
        draft = Draft(channel, jsontext.encode(data), event)
        with self.reactor.lock:
            self._node.run(_published(self._node.publish(draft)))
        self.settle()

    def history(self, channel: str) -> list[Publication]:
        """The publications that the channel retains."""
        rows = self._node.history.peek(channel).after(0)
        return [
            Publication(row.channel, row.event, json.loads(row.data), row.offset) for row in rows
        ]

    def settle(self) -> None:
        """Make all delayed calls that are due."""
        self.reactor.pass_time(0)

    def close(self) -> None:
        """Stop the server; a second call does nothing."""
        if self._closed:
            return
        self._closed = True
        with self.reactor.lock:
            # The test may have called it too.
            self.service.stopService()
        try:
            self.advance(10)
        finally:
            for caller, worker in self._workers.items():
                caller.worker = worker

    def _replace_workers(self, app: App | None) -> dict[InThread, Worker]:
        """Replace all workers but those of generators that may block; return the old ones."""
        before = {}
        for own in [] if app is None else app.sources:
            source, caller = own.source, getattr(own.source, "caller", None)
            if isinstance(caller, InThread):
                before[caller] = caller.worker
                may_block = isinstance(source, GeneratorSource) and source.every is None
                caller.worker = (
                    PolledWorker(self.reactor, caller.worker)
                    if may_block
                    else InlineWorker(self.reactor.lock)
                )
        return before


async def _published(publishing: Any) -> None:
    await publishing


@dataclass(frozen=True, slots=True)
class Publication:
    """A publication that a client received, or that a channel retains."""

    channel: str
    event: str
    data: Any
    offset: int


class Disconnected(PushServerError):
    """The server ended the connection, with this code and reason."""

    def __init__(self, code: int, reason: str):
        super().__init__(f"{code}: {reason}")
        self.code = code
        self.reason = reason


_TEXTS: SessionFormat = replace(
    SESSION_LINES, name="test", frame=lambda text: text + b"\n", has_close_code=True
)


@dataclass(slots=True)
class _Transport:
    """The transport between a session and the test client."""

    client: TestClient
    format: SessionFormat = _TEXTS
    outlet: None = None
    conversation: Conversation[SessionFormat] | None = field(default=None, repr=False)

    def attach(self, conversation: Conversation[SessionFormat]) -> None:
        self.conversation = conversation

    def write(self, frame: bytes) -> None:
        self.client.take(frame)

    def replay(self, frames: Iterator[bytes]) -> None:
        for frame in frames:
            self.client.take(frame)

    def close(self, code: int, reason: str) -> None:
        self.client.end(code, reason)

    def abort(self) -> None:
        self.client.end(1006, "")


class TestClient:
    """A client of the Centrifuge protocol, which records what it receives.

    `publications` are those of its channels, `messages` those of `client.send` and `app.send`,
    `joined` the channels into which the server has put the client and that it is still in.
    """

    __test__ = False

    def __init__(self, server: TestServer, visit: Visit = UNKNOWN):
        self.publications: list[Publication] = []
        self.messages: list[Any] = []
        self.joined: list[str] = []
        self.answer: Any = None
        """The result of the `connect` handler."""
        self.closed: tuple[int, str] | None = None
        self._server = server
        self._replies: dict[int, Any] = {}
        self._id = 0
        self._session = Session(server.service.node, _Transport(self), answer, visit=visit)

    @property
    def id(self) -> str:
        """The id of the client, as `client.id` in a handler."""
        return self._session.info.client

    def begin(self, data: object = None) -> None:
        """Connect."""
        result = self.command("connect", **({} if data is None else {"data": data}))
        self.answer = result.get("data")
        for channel, sub in result.get("subs", {}).items():
            self.joined.append(channel)
            self._keep(channel, sub)

    def subscribe(self, channel: str, data: object = None) -> None:
        """Subscribe; the first publications are those of the history."""
        more = {} if data is None else {"data": data}
        self._keep(channel, self.command("subscribe", channel=channel, **more))

    def unsubscribe(self, channel: str) -> None:
        self.command("unsubscribe", channel=channel)

    def publish(self, channel: str, data: object) -> None:
        self.command("publish", channel=channel, data=data)

    def rpc(self, method: str, data: object = None) -> Any:
        """Return the answer of the handler of this event."""
        return self.command("rpc", method=method, data=data).get("data")

    def send(self, data: object, event: str = "") -> None:
        """Send a message, which gets no answer."""
        self._send({"send": {"data": {"event": event, "data": data} if event else data}})

    def command(self, method: str, /, **fields: Any) -> Any:
        """Return the result of a command; raises ServerError and Disconnected."""
        self._id += 1
        self._send({"id": self._id, method: fields})
        if self._id not in self._replies:
            if self.closed is not None:
                raise Disconnected(*self.closed)
            raise AssertionError(f"{method} is not answered yet: the handler waits for something")
        reply = self._replies.pop(self._id)
        if "error" in reply:
            raise ServerError(reply["error"]["code"], reply["error"]["message"])
        return reply[method]

    def events(self, event: str) -> list[Any]:
        """The data of the publications of this event."""
        return [row.data for row in self.publications if row.event == event]

    def leave(self) -> None:
        """Close the connection."""
        if self.closed is None:
            self.closed = (1000, "")
            with self._server.reactor.lock:
                self._session.closed()
            self._server.settle()

    def take(self, frame: bytes) -> None:
        """Receive a frame of the server."""
        for line in frame.split(b"\n"):
            if line:
                self._receive(json.loads(line))

    def end(self, code: int, reason: str) -> None:
        """The server has closed the connection."""
        if self.closed is None:
            self.closed = (code, reason)
            self._server.reactor.callLater(0, self._session.closed)

    def _send(self, command: dict[str, Any]) -> None:
        if self.closed is not None:
            raise Disconnected(*self.closed)
        with self._server.reactor.lock:
            self._session.received(json.dumps(command).encode())
        self._server.settle()

    def _receive(self, value: Any) -> None:
        if "id" in value:
            self._replies[value["id"]] = value
        elif "push" in value:
            self._receive_push(value["push"])
        elif not value:
            self._session.received(centrifuge.PONG)

    def _receive_push(self, push: Any) -> None:
        channel = push.get("channel", "")
        if "pub" in push:
            self._keep(channel, {"publications": [push["pub"]]})
        elif "message" in push:
            self.messages.append(push["message"]["data"])
        elif "subscribe" in push:
            self.joined.append(channel)
        elif "unsubscribe" in push and channel in self.joined:
            self.joined.remove(channel)

    def _keep(self, channel: str, result: Any) -> None:
        for pub in result.get("publications", ()):
            event = pub["tags"]["event"]
            self.publications.append(Publication(channel, event, pub["data"], pub["offset"]))
