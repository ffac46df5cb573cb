"""The interface of an application: sources, handlers of events, and publishing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from inspect import isfunction
from os import PathLike, fspath
from typing import Any, TypeVar

from twisted.application.service import Service

from pushserver.app.client import Client, Skip, skipped
from pushserver.app.dispatch import Dispatcher
from pushserver.app.handlers import HandlerRegistry, make_handler
from pushserver.app.link import ServerLink
from pushserver.app.result import Published
from pushserver.auth.issuer import NO_SECRET
from pushserver.channels import jsontext
from pushserver.channels.channel import ChannelOptions
from pushserver.channels.idempotency import check_key
from pushserver.channels.names import check_event, check_name, check_namespace
from pushserver.channels.publication import Draft, check_tags
from pushserver.config.convert import Location, convert_known
from pushserver.config.settings import Config
from pushserver.errors import NotRunning
from pushserver.protocols import centrifuge
from pushserver.resources.fragment_functions import FragmentFunction
from pushserver.sessions.callbacks import USUAL, Broadcast
from pushserver.sessions.orders import End, Subscribe, Tell, Unsubscribe
from pushserver.sources.engine.environment import Plan
from pushserver.sources.functions.adapt import adapt, is_async
from pushserver.wsgi.interface import Application

Function = TypeVar("Function", bound=Callable[..., Any] | type)


@dataclass(frozen=True, slots=True)
class AppSource:
    """A source of an application, with the settings of its runner."""

    source: Any
    plan: Plan
    is_async: bool


class App:
    """`PushServer` without the methods that create a server; those are in `server.embedding`."""

    needs_wsgi = False
    """Whether it serves clients of a WSGI application alone."""

    def __init__(
        self,
        *,
        pages: str | PathLike[str] = "",
        templates: str | PathLike[str] = "",
        static: str | PathLike[str] = "",
        wsgi: Application | None = None,
    ) -> None:
        if wsgi is not None and not callable(wsgi):
            raise ValueError(f"wsgi is {wsgi!r:.80}, expected a WSGI application")
        self.pages = fspath(pages)
        self.templates = fspath(templates)
        self.static = fspath(static)
        self.wsgi = wsgi
        self.sources: list[AppSource] = []
        self.templates_of_channels: dict[str, str] = {}
        self.fragments: dict[str, FragmentFunction] = {}
        self.fragments_of_namespaces: dict[str, FragmentFunction] = {}
        self.handlers = HandlerRegistry()
        self._link: ServerLink | None = None
        self._dispatcher: Dispatcher | None = None
        self._service: Service | None = None
        """The server of this application, if `service()` has made one."""

    def adjust(self, config: Config) -> Config:
        """The configuration of its server, where the application has other defaults."""
        return config

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
        template: str = "",
    ) -> Callable[[Function], Function]:
        """Decorate a source, which publishes to the channel.

        A function is called every `every` seconds, and its result is published. A generator, plain
        or async, publishes each value that it yields. A coroutine function without `every` is
        called once, with a feed to publish by. A class that provides ISource publishes by itself.
        A function or generator that is not async runs in its own thread, unless `thread` is False.
        A value of None is not published.

        `on_demand`: run only while the channel has subscribers, and `linger_seconds` longer.
        `max_rate`: publications a second; a faster source is slowed. A source that fails is
        started again after `retry_seconds`, then after twice that, up to `retry_max_seconds`.
        `template`: the file that makes HTML of each publication of the channel. Raises ValueError
        for an invalid source or setting.
        """
        if not isinstance(channel, str):
            raise ValueError('@app.source needs the channel: @app.source("numbers")')
        check_name(channel)
        check_event(event)

        def decorate(target: Function) -> Function:
            if self._link is not None or self._service is not None:
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
            source = adapt(target, every, thread)
            if template:
                self._set_template(channel, template)
            self.sources.append(AppSource(source, plan, is_async(target)))
            return target

        return decorate

    def _set_template(self, channel: str, template: str) -> None:
        other = self.templates_of_channels.get(channel, template)
        if channel in self.fragments:
            other = self.fragments[channel].name
        if other != template:
            raise ValueError(f"{channel} has fragments of {other} already, expected one template")
        convert_known({"template": template}, ChannelOptions, Location("", channel, {}))
        self.templates_of_channels[channel] = template

    def fragment(self, channel: str = "", *, namespace: str = "") -> Callable[[Function], Function]:
        """Decorate the function that makes HTML of each publication of the channel.

        With `namespace` in its place, of all channels whose names begin with that and a colon,
        except for those that have a function or template of their own.

        It is called with a `PublicationView`, once for each publication that somebody reads as
        HTML, on the thread of the server: it must be fast. It returns a Markup (or another object
        with `__html__`), which is sent as it is; a str, which is escaped; or None to leave the
        publication out. If it fails, readers get no HTML of that publication. Raises ValueError for
        another function, and for a second one or a template of the channel.
        """
        # A function in its place is the decorator without parentheses.
        if callable(channel) or bool(channel) == bool(namespace):
            raise ValueError(
                '@app.fragment needs the channel, or a namespace: @app.fragment("orders"), or'
                ' @app.fragment(namespace="chat")'
            )
        name = check_namespace(namespace) if namespace else check_name(channel)
        functions = self.fragments_of_namespaces if namespace else self.fragments

        def decorate(function: Function) -> Function:
            if self._link is not None or self._service is not None:
                raise RuntimeError(f"the server is made already, without {function!r:.80}")
            fragment = FragmentFunction(function)
            other = self.templates_of_channels.get(channel)
            if name in functions:
                other = functions[name].name
            if other is not None:
                problem = f"{name} has fragments of {other} already"
                raise ValueError(f"{problem}, expected one function")
            functions[name] = fragment
            return function

        return decorate

    def on(
        self, event: str, *, namespace: str = "", thread: bool | None = None
    ) -> Callable[[Function], Function]:
        """Decorate the handler of an event.

        `start` and `stop` are called once, without arguments: before any source runs and any
        client is connected, and before publishing ends. `connect` is called with `(client,
        data)`, `disconnect` with `(client, reason)`, `subscribe` and `publish` with `(client,
        channel, data)`, any other event with `(client, data)`; a function with fewer parameters
        gets the first arguments. A client sends `message` (a text) and `json` (any other value)
        without an answer. It calls any other event by its name, or by `namespace:name`, and gets
        the result of the function as the answer. With a namespace, `subscribe` and `publish` are
        for the channels whose names begin with the namespace and a colon, `connect` and
        `disconnect` for the clients of Socket.IO in a namespace of this name, as are all other
        events.

        A handler of `connect`, `subscribe` or `publish` refuses by raising Refused or returning
        False. A channel with a `subscribe` handler cannot be read by plain HTTP without an API
        key. A function that is not async runs in a thread, unless `thread` is False. Raises
        ValueError for a second handler of the same event, and for a function that needs other
        arguments or contains `yield`.
        """
        if not isinstance(event, str):
            raise ValueError('@app.on needs the event: @app.on("message")')
        check_event(event)

        def decorate(function: Function) -> Function:
            self.handlers.add(namespace, event, make_handler(event, function, thread))
            return function

        return decorate

    def authenticate(self, function: Function | None = None) -> Function:
        """Decorate the function that identifies peers without a token and an API key.

        It is called with a `Visitor` for each `connect` of a client and each request to a channel,
        and returns the user (a text, empty for unknown), an `Identified` with more, or None for
        nobody. It refuses by raising Refused or returning False. As other handlers, it may be
        async, and is called in a thread otherwise.
        """
        if function is None:
            raise ValueError("write @app.authenticate without parentheses")
        return self.on("authenticate")(function)

    def publish(
        self,
        channel: str,
        data: object,
        event: str = "message",
        *,
        tags: Mapping[str, str] | None = None,
        key: str = "",
        skip: Skip = (),
        include_self: bool = True,
    ) -> Published:
        """Publish from any thread, callback or coroutine.

        On return the publication is appended and delivery has begun. With a store that commits
        first, another thread waits for the commit, and a coroutine can await the result. `key`: a
        second call with the same key within five minutes publishes nothing. `skip`: a client or its
        id, or several, to which it is not delivered now; it is in the history for them, too.
        `include_self=False`, in a client's handler, skips that client. Raises InvalidName,
        InvalidData and InvalidKey, and Unavailable or NotRunning if nothing was published.
        """
        draft = Draft(
            check_name(channel),
            jsontext.encode(data),
            check_event(event),
            check_tags(tags),
            key=check_key(key) if key else "",
            skip=skipped(skip, include_self) if skip or not include_self else (),
        )
        return self._server().publish(draft)

    def last(self, channel: str, count: int = 10) -> Any:
        """Read the newest publications of a channel: a list of `PublicationView`, oldest first.

        In a thread, such as that of the `start` handler, it returns the list; in a coroutine, await
        the result. `count`: up to `read_limit`. Raises InvalidName, ValueError for another count,
        Unavailable and NotRunning.
        """
        name, link = check_name(channel), self._server()
        most = link.node.limits.read_limit
        if type(count) is not int or not 0 <= count <= most:
            raise ValueError(f"the count is {count!r:.40}, expected 0 to {most}")
        return link.last(name, count)

    def send(
        self, data: object, event: str = "", *, skip: Skip = (), include_self: bool = True
    ) -> None:
        """Send to every connected client; see `Client.send`, and `publish` for the others."""
        broadcast, link = Broadcast.of(data, event), self._server()
        link.order(Tell(broadcast.data, event, tuple(skipped(skip, include_self))))

    def token(
        self,
        user: str,
        *,
        channels: Iterable[str] | None = None,
        seconds: float = 3600.0,
        info: object = None,
        channel: str | None = None,
    ) -> str:
        """A token with which a client of this server is `user`; see `pushserver.token`.

        It is signed with the `auth.token_secret` of the server, or else the first key for HS256
        in `auth.token_keys`, and has the claims that the server needs. Raises ValueError if there
        is none, and for invalid values, and NotRunning.
        """
        issuer = self._server().issuer
        if not issuer.secret:
            raise ValueError(NO_SECRET)
        return issuer.token(user, channels=channels, seconds=seconds, info=info, channel=channel)

    def disconnect(
        self, user: str, reason: str = "disconnected by the application", code: int = 4500
    ) -> None:
        """End all connections of the user, streams and long-polls included.

        With a code from 4500 to 4999 its clients do not reconnect. Raises ValueError for an empty
        user and for another code than 4000 to 4999.
        """
        if not 4000 <= code <= 4999:
            raise ValueError(f"code {code}: expected 4000 to 4999")
        text = str(reason).encode("utf-8", "replace").decode()
        link = self._server()
        _check_user(user)
        link.order(End(user, None, None, code, text))

    def subscribe(self, user: str, channel: str) -> None:
        """Subscribe all clients of the user to the channel; raises InvalidName, ValueError."""
        check_name(channel)
        link = self._server()
        _check_user(user)
        link.order(Subscribe(user, None, None, channel, USUAL))

    def unsubscribe(self, user: str, channel: str) -> None:
        """Unsubscribe all clients of the user from the channel; raises InvalidName, ValueError.

        Streams and long-polls of the user that have the channel end.
        """
        check_name(channel)
        code, reason = centrifuge.UNSUBSCRIBED, "taken out by the server"
        link = self._server()
        _check_user(user)
        link.order(Unsubscribe(user, None, None, channel, code, reason))

    @property
    def clients(self) -> list[Client]:
        """The clients that are connected over the Centrifuge protocol or Socket.IO now.

        A client is included from its `connect` handler on, and no longer in its `disconnect`
        handler.
        """
        return [] if self._dispatcher is None else list(self._dispatcher.clients.values())

    @property
    def has_coroutines(self) -> bool:
        """Whether a source or handler is a coroutine function or an async generator function."""
        return self.handlers.has_coroutines or any(source.is_async for source in self.sources)

    def attach(self, link: ServerLink, dispatcher: Dispatcher) -> None:
        """A server starts to run this application; raises RuntimeError if another does."""
        if self._link is not None:
            raise RuntimeError("the application is being run by a server already")
        self._link, self._dispatcher = link, dispatcher

    def detach(self) -> None:
        """The server has stopped."""
        link, self._link = self._link, None
        # A service cannot be started again.
        self._service = None
        if link is not None:
            link.stop()

    def _server(self) -> ServerLink:
        link = self._link
        if link is None:
            raise NotRunning(
                "no server runs this application: start it with pushserver serve MODULE:NAME,"
                " twistd pushserver or its run(), or start its service(). The import of its module"
                ' is too early to publish: do so in @app.on("start"), a source or another handler'
            )
        return link


for _method in filter(isfunction, vars(App).values()):
    # Python names them so in its errors, and users know the class by this name.
    _method.__qualname__ = f"PushServer.{_method.__name__}"


class Adapter:
    """The interface of another library, on an application: `push`, which a server runs."""

    @property
    def push(self) -> App:
        """The application."""
        raise NotImplementedError


def _check_user(user: object) -> None:
    if not isinstance(user, str) or not user:
        raise ValueError(f"the user is {user!r:.60}, expected a text that is not empty")
