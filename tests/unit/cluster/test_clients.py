"""The application has the same client at a worker as at one process, in all that it may ask."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any, cast

import pytest

from pushserver.app.client import Client
from pushserver.app.link import ServerLink
from pushserver.auth.credentials import Credentials
from pushserver.auth.identity import Identity
from pushserver.auth.keys import Key, Keys, digest
from pushserver.auth.patterns import Patterns
from pushserver.channels.channel import ChannelOptions
from pushserver.sessions.callbacks import ClientSession, Invitation
from pushserver.sessions.commands import answer
from pushserver.sessions.identification import NoTokens
from pushserver.sessions.node import Node
from pushserver.sessions.request_session import RequestSession
from pushserver.sessions.session import Session
from pushserver.sessions.socketio import SocketIO
from pushserver.sessions.visit import Visit
from tests.unit.fakes.cluster import Cluster, result, run
from tests.unit.fakes.socketio import FRAMES
from tests.unit.fakes.tools import TEXT, FakeTransport, Time, make_broker, make_node
from tests.unit.sessions.test_commands import FakeHandlers

OPTIONS = ChannelOptions(history_size=10)
SECRET = "the-key-of-a-moderator"
KEY = Credentials("192.0.2.1", key=SECRET)
NOBODY = Credentials("192.0.2.1")
OTHER = Invitation(data=b"1", info=b"2", initial=1)
VISIT = Visit("192.0.2.1", "websocket", {"cookie": "a=1", "x": "y"}, "http://h/")
EVENTS = [("", name) for name in ("connect", "publish", "rpc", "message", "authenticate")]

FACTS: dict[str, Callable[[Client], object]] = {
    "address": lambda client: client.address,
    "channels": lambda client: client.channels,
    "connected": lambda client: client.connected,
    "cookies": lambda client: client.cookies,
    "expires": lambda client: client.expires,
    "headers": lambda client: client.headers,
    "id": lambda client: bool(client.id),
    "info": lambda client: client.info,
    "key_allows": lambda client: [
        client.key_allows("publish", "said"),
        client.key_allows("admin", "said"),
        client.key_allows("publish", "other"),
    ],
    "namespace": lambda client: client.namespace,
    "protocol": lambda client: client.protocol,
    "state": lambda client: client.state,
    "url": lambda client: client.url,
    "user": lambda client: client.user,
}


async def unanswered(call: Any) -> None:
    """Wait for a call until its time is over."""
    with suppress(TimeoutError):
        await call


ACTIONS: dict[str, Callable[[Client], object]] = {
    "call": lambda client: run(unanswered(client.call("ask", [1]))),
    "disconnect": lambda client: client.disconnect("bye"),
    "invite": lambda client: client.invite("other", OTHER),
    "join": lambda client: client.join("more"),
    "leave": lambda client: client.leave("news"),
    "send": lambda client: client.send({"a": 1}, "event"),
}


class Application(FakeHandlers):
    """An application that keeps its clients, and what it knew of each in the `connect` handler."""

    decides_on_clients = True
    authenticates = True
    link: ServerLink

    def __init__(self) -> None:
        super().__init__()
        self.client: Client
        self.found: dict[str, object] = {}
        self.identity = Identity(
            "anna", b'{"name":"A"}', 2e9, token=True, channels=Patterns.of(["a"])
        )

    async def authenticate(self, visit: Visit, data: bytes) -> Identity:
        return self.identity

    async def connect(self, session: ClientSession, data: bytes) -> bytes:
        self.client = Client(session, self.link)
        self.found = facts(self.client)
        self.client.admitted()
        return b""

    async def publish(self, session: ClientSession, channel: str, data: bytes) -> None:
        self.found = facts(Client(session, self.link))
        await super().publish(session, channel, data)


class Link:
    """The part of `ServerLink` that a client needs, in the thread of the reactor."""

    in_reactor_thread = staticmethod(lambda: True)

    def __init__(self, node: Node):
        self.node = node

    def call_soon(self, function: Callable[[], object]) -> None:
        function()


class World:
    """A server, alone or with workers, and its application; the client is at `node`."""

    def __init__(self, has_workers: bool):
        time = Time()
        self.app = app = Application()
        self.cluster = Cluster(
            make_broker(OPTIONS, time=time), OPTIONS, time, int(has_workers), app, EVENTS
        )
        self.main = self.node = self.cluster.node
        if has_workers:
            self.node = self.cluster.edges[0].node
        else:
            self.node = self.main = make_node(OPTIONS, time=time, run=run, handlers=app)
        app.link = cast(ServerLink, Link(self.main))
        self.use(Key("moderator", Patterns.of(["said"]), frozenset({"publish"})))

    def use(self, *keys: Key) -> None:
        """Load a configuration with these keys, all of the same secret."""
        secret = digest(SECRET)
        for node in (self.node, self.main):
            found = [(Key(k.name, k.channels, k.may, secret), secret) for k in keys]
            node.identification.reconfigure(Keys(found), NoTokens(), 100)

    def connect(self, protocol: str, credentials: Credentials) -> None:
        """Connect a client."""
        if protocol == "socketio":
            visit = replace(VISIT, protocol="socketio")
            self.transport: Any = FakeTransport(replace(FRAMES, name="socketio-websocket"))
            io = SocketIO(self.node, self.transport, visit, credentials, VISIT.address)
            io.received(b"40/said,")
        else:
            self.transport = FakeTransport(TEXT)
            session = Session(
                self.node, self.transport, answer, "", VISIT, credentials, VISIT.address
            )
            session.received(b'{"id":1,"connect":{}}')
        self.sent()

    def replace_author(self) -> None:
        """The main process ends, and another one takes the clients."""
        self.cluster.restart(make_broker(OPTIONS, time=self.cluster.time))
        self.main = self.cluster.node
        self.app.link = cast(ServerLink, Link(self.main))
        self.cluster.edges[0].connect(self.cluster.author)
        self.cluster.settle()

    def sent(self) -> list[bytes]:
        """The frames since the last call, without the id of the client."""
        self.cluster.settle()
        frames = [*self.transport.frames]
        self.transport.frames.clear()
        client = getattr(self.app, "client", None)
        return [frame.replace(client.id.encode() if client else b"-", b"ID") for frame in frames]


def facts(client: Client) -> dict[str, object]:
    return {name: ask(client) for name, ask in FACTS.items()}


def test_all_that_a_client_has_is_compared() -> None:
    world = World(False)
    world.connect("centrifuge", NOBODY)
    names = {*vars(Client), *vars(world.app.client)}
    assert {name for name in names if not name.startswith("_")} == {*FACTS, *ACTIONS, "admitted"}


@pytest.mark.parametrize("protocol", ["centrifuge", "socketio"])
@pytest.mark.parametrize("credentials", [KEY, NOBODY], ids=["key", "authenticate"])
def test_facts_are_those_of_one_process(protocol: str, credentials: Credentials) -> None:
    one, several = World(False), World(True)
    for world in (one, several):
        world.connect(protocol, credentials)
    assert one.app.found == several.app.found
    assert one.app.found["key_allows"] == [credentials is KEY, False, False]
    assert facts(one.app.client) == facts(several.app.client)
    assert several.app.client.connected


@pytest.mark.parametrize("protocol", ["centrifuge", "socketio"])
@pytest.mark.parametrize("action", ACTIONS)
def test_actions_are_those_of_one_process(protocol: str, action: str) -> None:
    effects: list[tuple[object, ...]] = []
    for world in (World(False), World(True)):
        world.connect(protocol, NOBODY)
        client = world.app.client
        client.join("news")
        world.sent()
        before = (client.channels, world.transport.closed)
        try:
            ACTIONS[action](client)
        except RuntimeError as error:
            effects.append((str(error),))
        else:
            effects.append((world.sent(), client.channels, world.transport.closed))
            assert effects[-1] != ([], *before)
    assert effects[0] == effects[1]


def test_key_is_that_of_the_present_configuration() -> None:
    world = World(True)
    world.connect("centrifuge", KEY)
    client = world.app.client
    world.use(Key("moderator", Patterns.of(["other"]), frozenset({"publish"})))
    assert facts(client)["key_allows"] == [False, False, True]
    world.use()
    assert facts(client)["key_allows"] == [False, False, False]


@pytest.mark.parametrize("protocol", ["centrifuge", "socketio"])
def test_facts_are_the_same_after_another_main_process(
    protocol: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Application, "decides_on_clients", False)
    world = World(True)
    world.connect(protocol, NOBODY)
    client, before = world.app.client, facts(world.app.client)
    world.replace_author()
    assert world.app.client is not client
    assert facts(world.app.client) == before
    assert before["address"] == VISIT.address


@pytest.mark.parametrize("has_workers", [False, True], ids=["one process", "workers"])
def test_request_has_its_user_and_key(has_workers: bool) -> None:
    world = World(has_workers)
    key = world.node.identification.of_key(SECRET, None).key
    identity = Identity("anna", b"1", 2e9, key=key)
    session = RequestSession(identity, Visit("192.0.2.1", "http", {"x": "y"}, "http://h/"))
    result(world.cluster, world.node.handlers.publish(session, "said", b"1"))
    found = world.app.found
    assert (found["user"], found["info"], found["expires"], found["id"]) == ("anna", 1, 2e9, False)
    assert (found["protocol"], found["headers"]) == ("http", {"x": "y"})
    assert found["key_allows"] == [True, False, False]
    assert not list(world.main.sessions)
