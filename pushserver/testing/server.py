"""For tests of applications: a server without sockets, a clock, and a client that remembers.

    def test_a_guest_is_greeted():
        with TestServer(app) as server:
            guest = server.connect()
            assert guest.rpc("greet", "Ada") == "hello Ada"

Handlers and sources run in the test's own thread, one after the other, and time passes when
the test says so; everything else is as in the real server. Threads that a test or a handler
begins may publish, and be waited for. Only a generator without `every`, which waits for what it
likes, has a thread and real time here too.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import Any, cast

from pushserver.app.app import App
from pushserver.channels import jsontext
from pushserver.channels.publication import Draft
from pushserver.config.settings import Config
from pushserver.errors import PushServerError
from pushserver.protocols import centrifuge
from pushserver.protocols.formats import SESSION_LINES, SessionFormat
from pushserver.server.build import build
from pushserver.sessions.base import Conversation
from pushserver.sessions.commands import answer
from pushserver.sessions.session import Session
from pushserver.sources.functions.adapt import GeneratorSource, InThread
from pushserver.testing.reactor import Aside, Beside, Inline, Stage
from pushserver.usercode.worker import Caller

__test__ = False


class ServerError(PushServerError):
    """The server answered a command with an error."""

    def __init__(self, code: int, message: str):
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message


class TestServer:
    """A server that runs an application, or none; leave it by `close`, or use it as a context.

    `config` is as for a real one, but nothing is listened to, and the default source does not
    run. Time begins at 1,000 seconds and passes by `advance`. Raises ValueError for a `config`
    with a store, whose thread knows nothing of that time.
    """

    __test__ = False

    def __init__(self, app: App | None = None, config: Config | None = None):
        config = config or Config(sources={})
        if config.store.path:
            raise ValueError("a TestServer has no store: leave [store] out of its configuration")
        self.app = app
        self.reactor = Stage()
        self.reactor.advance(1_000)
        self.service = build(
            replace(config, server=replace(config.server, listen=[])),
            cast(Any, self.reactor),
            app=app,
            threads=Inline(self.reactor.baton),
            clock=self.reactor.seconds,
            is_own=lambda request: True,
        )
        self._node = self.service.node
        with self.reactor.baton:
            self.service.startService()
        if app is not None:
            app._server().in_reactor_thread = self.reactor.baton.held
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
        """Let time pass; whatever becomes due meanwhile happens at its own time.

        What a generator without `every` has yielded is published.
        """
        self.reactor.glance()
        self.reactor.pass_on(seconds)

    def connect(self, data: object = None) -> TestClient:
        """A client that is connected; raises ServerError, or Disconnected, if it is refused."""
        client = TestClient(self)
        client.begin(data)
        return client

    def publish(self, channel: str, data: object, event: str = "message") -> None:
        """Publish, as somebody by HTTP does."""
        draft = Draft(channel, jsontext.encode(data), event)
        with self.reactor.baton:
            self._node.run(_published(self._node.publish(draft)))
        self.settle()

    def history(self, channel: str) -> list[Publication]:
        """What the channel retains."""
        rows = self._node.history.peek(channel).after(0)
        return [
            Publication(row.channel, row.event, json.loads(row.data), row.offset) for row in rows
        ]

    def settle(self) -> None:
        """Let all happen that is due."""
        self.reactor.pass_on(0)

    def close(self) -> None:
        """Stop the server."""
        if self.service.running:
            with self.reactor.baton:
                self.service.stopService()
            try:
                self.advance(10)
            finally:
                for caller, worker in self._workers.items():
                    caller.worker = worker

    def _replace_workers(self, app: App | None) -> dict[InThread, Caller]:
        """Let no source have a thread but a generator that waits as it likes; what they had."""
        before = {}
        for own in [] if app is None else app.sources:
            source, caller = own.source, getattr(own.source, "caller", None)
            if isinstance(caller, InThread):
                before[caller] = caller.worker
                waits = isinstance(source, GeneratorSource) and source.every is None
                caller.worker = (
                    Aside(self.reactor, caller.worker) if waits else Beside(self.reactor.baton)
                )
        return before


async def _published(publishing: Any) -> None:
    await publishing


@dataclass(frozen=True, slots=True)
class Publication:
    """One that a client got, or that a channel retains."""

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
    SESSION_LINES, name="test", frame=lambda text: text + b"\n", says_why=True
)


@dataclass(slots=True)
class _Transport:
    """What a session writes to."""

    client: TestClient
    format: SessionFormat = _TEXTS
    outlet: None = None
    conversation: Conversation[SessionFormat] | None = field(default=None, repr=False)

    def attach(self, conversation: Conversation[SessionFormat]) -> None:
        self.conversation = conversation

    def write(self, frame: bytes) -> None:
        self.client.take(frame)

    def close(self, code: int, reason: str) -> None:
        self.client.end(code, reason)

    def abort(self) -> None:
        self.client.end(1006, "")


class TestClient:
    """A client of the Centrifuge protocol, and all that it was told.

    `publications` came in channels, its own and those that it was put into; `messages` by
    `client.send` and `app.send`; `joined` are the channels that the server put it into and
    has not taken it out of.
    """

    __test__ = False

    def __init__(self, server: TestServer):
        self.publications: list[Publication] = []
        self.messages: list[Any] = []
        self.joined: list[str] = []
        self.answer: Any = None
        """What the `connect` handler answered."""
        self.closed: tuple[int, str] | None = None
        self._server = server
        self._replies: dict[int, Any] = {}
        self._id = 0
        self._session = Session(server.service.node, _Transport(self), answer)

    @property
    def id(self) -> str:
        """Its id, as handlers see it."""
        return self._session.info.client

    def begin(self, data: object = None) -> None:
        """Connect."""
        result = self.command("connect", **({} if data is None else {"data": data}))
        self.answer = result.get("data")
        for channel, sub in result.get("subs", {}).items():
            self.joined.append(channel)
            self._keep(channel, sub)

    def subscribe(self, channel: str, data: object = None) -> None:
        """Subscribe; what the history holds is among the publications."""
        more = {} if data is None else {"data": data}
        self._keep(channel, self.command("subscribe", channel=channel, **more))

    def unsubscribe(self, channel: str) -> None:
        self.command("unsubscribe", channel=channel)

    def publish(self, channel: str, data: object) -> None:
        self.command("publish", channel=channel, data=data)

    def rpc(self, method: str, data: object = None) -> Any:
        """What the handler of this event answers."""
        return self.command("rpc", method=method, data=data).get("data")

    def send(self, data: object, event: str = "") -> None:
        """Say something, to which there is no answer."""
        self._say({"send": {"data": {"event": event, "data": data} if event else data}})

    def command(self, method: str, /, **fields: Any) -> Any:
        """The result of a command; raises ServerError and Disconnected."""
        self._id += 1
        self._say({"id": self._id, method: fields})
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
            with self._server.reactor.baton:
                self._session.closed()
            self._server.settle()

    def take(self, frame: bytes) -> None:
        """What the server sends."""
        for line in frame.split(b"\n"):
            if line:
                self._told(json.loads(line))

    def end(self, code: int, reason: str) -> None:
        """The server has closed the connection."""
        if self.closed is None:
            self.closed = (code, reason)
            self._server.reactor.callLater(0, self._session.closed)

    def _say(self, command: dict[str, Any]) -> None:
        if self.closed is not None:
            raise Disconnected(*self.closed)
        with self._server.reactor.baton:
            self._session.received(json.dumps(command).encode())
        self._server.settle()

    def _told(self, value: Any) -> None:
        if "id" in value:
            self._replies[value["id"]] = value
        elif "push" in value:
            self._pushed(value["push"])
        elif not value:
            self._session.received(centrifuge.PONG)

    def _pushed(self, push: Any) -> None:
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
