"""What users write against: sources, handlers of events, and publishing from anywhere."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from os import PathLike, fspath
from typing import Any, TypeVar

from twisted.application.service import Service

from pushserver.app.client import Client, encoded
from pushserver.app.dispatch import AppHandlers
from pushserver.app.handlers import Events, handler
from pushserver.app.result import Published
from pushserver.app.service import Running
from pushserver.channels import jsontext
from pushserver.channels.idempotency import check_key
from pushserver.channels.names import check_event, check_name
from pushserver.channels.publication import Draft, check_tags
from pushserver.config.convert import Location, convert_known
from pushserver.errors import NotRunning
from pushserver.protocols.centrifuge import message_push
from pushserver.protocols.formats import SessionFormat
from pushserver.sources.engine.environment import Plan
from pushserver.sources.functions.adapt import adapt

Function = TypeVar("Function", bound=Callable[..., Any] | type)


@dataclass(frozen=True, slots=True)
class AppSource:
    """A source of an application, and how it is to be run."""

    source: Any
    plan: Plan


class App:
    """All of `PushServer` but what makes a server of it, which is in `server.embedding`."""

    def __init__(self, *, pages: str | PathLike[str] = "") -> None:
        self.pages = fspath(pages)
        self.sources: list[AppSource] = []
        self.events = Events()
        self._running: Running | None = None
        self._handlers: AppHandlers | None = None
        self._service: Service | None = None
        """The server that was made for this application, if it has a server of its own."""

    def source(
        self,
        channel: str,
        *,
        every: float | None = None,
        event: str = "message",
        name: str = "",
        thread: bool | None = None,
        on_demand: bool = False,
        linger_seconds: float = 30.0,
        max_rate: float = 100.0,
        retry_seconds: float = 1.0,
        retry_max_seconds: float = 60.0,
    ) -> Callable[[Function], Function]:
        """Let what is decorated publish to the channel.

        A function is called every so many seconds, and what it returns is published; a
        generator, plain or async, publishes what it yields; a coroutine function without
        `every` is called once, with a feed to publish by; a class that provides ISource does it
        all by itself. What is not async runs in a thread of its own, unless `thread` is False.
        None publishes nothing.

        `on_demand`: only while somebody watches the channel, and `linger_seconds` longer.
        `max_rate`: publications a second, beyond which it is slowed. One that fails is started
        again after `retry_seconds`, later twice that, and so on up to `retry_max_seconds`.
        Raises ValueError for what can be no source.
        """
        if not isinstance(channel, str):
            raise ValueError('@app.source needs the channel: @app.source("numbers")')
        check_name(channel)
        check_event(event)

        def decorate(target: Function) -> Function:
            if self._running is not None or self._service is not None:
                raise RuntimeError(f"the server is made already, without {target!r:.80}")
            called = name or getattr(target, "__name__", type(target).__name__)
            if any(called == other.plan.name for other in self.sources):
                raise ValueError(f"there is a source {called!r} already: give this one a name=")
            settings = {
                "name": called,
                "type": "app",
                "channel": channel,
                "event": event,
                "on_demand": on_demand,
                "linger_seconds": linger_seconds,
                "max_rate": max_rate,
                "retry_seconds": retry_seconds,
                "retry_max_seconds": retry_max_seconds,
            }
            plan = convert_known(settings, Plan, Location("", f"sources.{called}", {}))
            self.sources.append(AppSource(adapt(target, every, thread), plan))
            return target

        return decorate

    def on(
        self, event: str, *, namespace: str = "", thread: bool | None = None
    ) -> Callable[[Function], Function]:
        """Let what is decorated answer an event of a client's, or of the server's.

        `start` and `stop` are called without arguments, once: before any source runs and any
        client is connected, and before publishing ends. `connect` is called with `(client,
        data)`, `disconnect` with `(client, reason)`, `subscribe` and `publish` with `(client,
        channel, data)`, everything else with `(client, data)`; a function that takes fewer gets
        the first ones. A client sends `message` (a text) and `json` (anything else) without an
        answer; it calls any other event by name, or by `namespace:name`, and what the function
        returns is the answer that it gets. With a namespace, `subscribe` and `publish` are for
        the channels whose names begin with it and a colon.

        `connect`, `subscribe` and `publish` say no by raising Refused, or by returning False. A
        channel that has a handler of `subscribe` is not read by plain HTTP without an API key.
        What is not async runs in a thread, unless `thread` is False. Raises ValueError for a
        second handler of the same event.
        """
        if not isinstance(event, str):
            raise ValueError('@app.on needs the event: @app.on("message")')
        check_event(event)

        def decorate(function: Function) -> Function:
            self.events.add(namespace, event, handler(event, function, thread))
            return function

        return decorate

    def publish(
        self,
        channel: str,
        data: object,
        event: str = "message",
        *,
        tags: Mapping[str, str] | None = None,
        key: str = "",
    ) -> Published:
        """Publish from any thread, any callback and any coroutine.

        When it returns the publication is appended and on its way; with a store that commits
        first, another thread waits for that, and a coroutine may await it. `key`: the same again
        within five minutes is no new publication. Raises InvalidName, InvalidData, InvalidKey, and
        Unavailable or NotRunning when nothing was published.
        """
        draft = Draft(
            check_name(channel),
            jsontext.encode(data),
            check_event(event),
            check_tags(tags),
            key=check_key(key) if key else "",
        )
        return self._server().publish(draft)

    def send(self, data: object, event: str = "") -> None:
        """Tell every connected client; see `Client.send`."""
        text, running = message_push(encoded(data, event)), self._server()

        def send() -> None:
            frames: dict[SessionFormat, bytes] = {}
            for session in running.node.sessions:
                if session.connected:
                    session.broadcast(text, frames)

        running.soon(send)

    @property
    def clients(self) -> list[Client]:
        """Those who are connected over the Centrifuge protocol, now.

        In its `connect` handler a client is among them already, in that of `disconnect` no more.
        """
        return [] if self._handlers is None else list(self._handlers.clients.values())

    def begin(self, running: Running, handlers: AppHandlers) -> None:
        """A server runs this application from now on; raises RuntimeError if another does."""
        if self._running is not None:
            raise RuntimeError("the application is being run by a server already")
        self._running, self._handlers = running, handlers

    def end(self) -> None:
        """The server has stopped."""
        running, self._running = self._running, None
        # It does not start again.
        self._service = None
        if running is not None:
            running.stop()

    def _server(self) -> Running:
        running = self._running
        if running is None:
            raise NotRunning(
                "no server runs this application: start it with twistd pushserver --app"
                " MODULE:NAME, or start its service()"
            )
        return running
