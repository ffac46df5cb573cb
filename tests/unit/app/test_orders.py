"""Clients and handlers in any order: each is notified once, and leaves no state."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.logger import LogLevel

from pushserver import Client as AppClient
from pushserver import PushServer, Refused
from pushserver.app.dispatch import Dispatcher
from pushserver.config.limits import Limits
from pushserver.config.settings import Config
from pushserver.sessions.base import CLOSING
from pushserver.testing import TestServer
from tests.unit.fakes.tools import Client, programs
from tests.unit.fakes.web import Log, Trouble


@pytest.fixture(autouse=True)
def what_handlers_raise(trouble: Trouble) -> Iterator[None]:
    """An exception, logged each time."""
    yield
    trouble.clear()


LIMITS = Limits(ping_seconds=10_000.0, connect_seconds=5.0, handler_seconds=20.0)
CHANNELS = ("a", "b")
WHICH = st.integers(0, 3)
CHANNEL = st.sampled_from(CHANNELS)


@dataclass
class Page:
    """A client with the state that it knows; checks each frame that it gets."""

    client: Client
    at: dict[str, int] = field(default_factory=dict)
    invited: set[str] = field(default_factory=set)
    asked: dict[int, tuple[str, str]] = field(default_factory=dict)
    connected: bool = False

    def say(self, method: str, /, **fields: Any) -> None:
        self.client.id += 1
        self.asked[self.client.id] = (method, fields.get("channel", ""))
        if self.client.closed is None:
            self.hear(self.client.say({"id": self.client.id, method: fields}))

    def hear(self, frames: list[Any] | None = None) -> None:
        for value in self.client.transport.take() if frames is None else frames:
            if "push" in value:
                self._pushed(value["push"])
            else:
                self._answered(value)

    def _answered(self, value: Any) -> None:
        method, channel = self.asked.pop(value["id"])
        if "error" in value:
            assert value["error"]["code"] in (100, 103, 105, 403)
        elif method == "connect":
            assert not self.connected
            self.connected = True
            self.at = {
                name: sub.get("offset", 0) for name, sub in value[method].get("subs", {}).items()
            }
            self.invited = set(self.at)
        elif method == "subscribe":
            # A client may subscribe to a channel that the application has joined for it.
            assert channel not in self.at or channel in self.invited
            self.invited.discard(channel)
            self.at[channel] = value[method].get("offset", 0)
        elif method == "unsubscribe":
            self.invited.discard(channel)
            self.at.pop(channel, None)

    def _pushed(self, push: Any) -> None:
        assert self.connected, "before the reply to connect"
        channel = push.get("channel", "")
        if "pub" in push:
            assert push["pub"]["offset"] == self.at[channel] + 1
            self.at[channel] += 1
        elif "subscribe" in push:
            assert channel not in self.at
            self.invited.add(channel)
            self.at[channel] = push["subscribe"].get("offset", 0)
        elif "unsubscribe" in push:
            assert channel in self.at
            self.invited.discard(channel)
            del self.at[channel]


class Stage:
    """An application whose handlers answer when the test says so, and its clients."""

    def __init__(self) -> None:
        self.app = PushServer()
        self.asked: list[Deferred[None]] = []
        self.known: list[AppClient] = []
        self.let_in: Counter[AppClient] = Counter()
        self.gone: Counter[AppClient] = Counter()
        self.app.on("connect")(self.connect)
        self.app.on("disconnect")(self.disconnect)
        for event in ("subscribe", "publish", "ask", "message"):
            self.app.on(event)(self.wait)
        self.server = TestServer(self.app, Config(sources={}, limits=LIMITS))
        self.node = self.server.service.node
        self.handlers: Any = self.node.handlers
        assert isinstance(self.handlers, Dispatcher)
        self.pages: list[Page] = []

    async def connect(self, client: AppClient) -> None:
        self.known.append(client)
        client.join(CHANNELS[len(self.known) % 2])
        await self.wait()
        self.let_in[client] += 1

    async def disconnect(self, client: AppClient) -> None:
        self.gone[client] += 1
        assert not client.connected

    async def wait(self) -> None:
        let: Deferred[None] = Deferred()
        self.asked.append(let)
        await let

    def do(self, step: tuple[Any, ...]) -> None:
        """One step; a step without a client does nothing."""
        name, *arguments = step
        getattr(self, f"do_{name}")(*arguments)
        self.server.advance(0)
        for page in self.pages:
            page.hear()

    def do_come(self) -> None:
        page = Page(Client(self.node, connect=False))
        self.pages.append(page)
        page.say("connect")

    def do_answer(self, which: int, error: Callable[[], Exception] | None) -> None:
        if self.asked:
            let = self.asked.pop(which % len(self.asked))
            if not let.called:
                let.errback(error()) if error else let.callback(None)

    def do_say(self, which: int, method: str, channel: str) -> None:
        if self.pages:
            page = self.pages[which % len(self.pages)]
            if page.connected:
                fields = {"channel": channel, "data": 1, "method": "ask"}
                page.say(method, **fields)

    def do_app(self, which: int, what: str, channel: str) -> None:
        if self.known:
            client = self.known[which % len(self.known)]
            if what == "join":
                client.join(channel)
            elif what == "leave":
                client.leave(channel)
            elif what == "send":
                client.send(channel)
            else:
                client.disconnect()

    def do_publish(self, channel: str) -> None:
        self.app.publish(channel, 1)

    def do_close(self, which: int) -> None:
        if self.pages:
            self.pages[which % len(self.pages)].client.session.closed()

    def do_pass(self, seconds: int) -> None:
        self.server.advance(seconds)

    def check(self) -> None:
        """The invariants after each step."""
        inside: Counter[str] = Counter()
        for page in self.pages:
            channels = page.client.session.channels
            inside.update(channels)
            if page.connected and page.client.session.state < CLOSING:
                assert page.at.keys() == channels
        assert dict(inside) == self.node.hub.channels()
        assert set(self.let_in.values()) <= {1}
        assert not self.gone - self.let_in, "gone, and was never let in"

    def end(self) -> None:
        """All handlers return, and all clients leave."""
        for page in self.pages:
            page.client.session.closed()
        while self.asked:
            self.do_answer(0, None)
        self.server.advance(60)
        assert (self.node.hub.channels(), len(self.node.peers)) == ({}, 0)
        assert (self.handlers.clients, self.app.clients) == ({}, [])
        assert self.gone == self.let_in
        assert set(self.gone.values()) <= {1}
        self.server.close()


STEPS = st.one_of(
    st.just(("come",)),
    st.tuples(
        st.just("answer"),
        WHICH,
        st.sampled_from([None, None, None, Refused, partial(Refused, "no", 403), LookupError]),
    ),
    st.tuples(
        st.just("say"),
        WHICH,
        st.sampled_from(["subscribe", "unsubscribe", "publish", "rpc", "send", "ping"]),
        CHANNEL,
    ),
    st.tuples(
        st.just("app"), WHICH, st.sampled_from(["join", "join", "leave", "send", "out"]), CHANNEL
    ),
    st.tuples(st.just("publish"), CHANNEL),
    st.tuples(st.just("close"), WHICH),
    st.tuples(st.just("pass"), st.sampled_from([1, 6, 21])),
)


@given(steps=programs(STEPS))
def test_any_order_of_events_notifies_each_client_once_and_leaves_nothing(
    steps: list[tuple[Any, ...]],
) -> None:
    with Log(LogLevel.warn) as log:
        stage = Stage()
        for step in steps:
            stage.do(step)
            stage.check()
        stage.end()
    ours = ("a command failed", "a conversation failed", "a subscriber failed", "a peer could not")
    assert not [text for text in log.take() if text.startswith(ours)]
