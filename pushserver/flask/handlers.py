"""The handlers of a Flask program, by namespace and event."""

from __future__ import annotations

import builtins
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from pushserver.app.client import Client
from pushserver.app.handlers import Handler, HandlerRegistry, full_name, make_handler
from pushserver.channels.names import check_event, check_name
from pushserver.errors import Refused

Function = TypeVar("Function", bound=Callable[..., Any])

ANY = "*"
"""Stands for all events, or for all namespaces."""
CONNECTION = ("connect", "disconnect")


class ConnectionRefusedError(Exception):
    """Raised by a `connect` handler to refuse a client.

    The client gets the first argument as the message of its `connect_error`, and the others as its
    data: one as it is, several as a list.
    """


REFUSALS = (ConnectionRefusedError, builtins.ConnectionRefusedError, Refused)
"""The exceptions by which a `connect` handler refuses a client; they are no failures."""


class Reason:
    """The reasons that a `disconnect` handler gets."""

    CLIENT_DISCONNECT = "client disconnect"
    SERVER_DISCONNECT = "server disconnect"
    TRANSPORT_CLOSE = "transport close"
    TRANSPORT_ERROR = "transport error"
    PING_TIMEOUT = "ping timeout"
    UNKNOWN = "unknown"


_REASONS = {
    "": Reason.TRANSPORT_CLOSE,
    "the client has left": Reason.CLIENT_DISCONNECT,
    "the client has closed the connection": Reason.CLIENT_DISCONNECT,
    "no pong": Reason.PING_TIMEOUT,
}


def reason_of(text: str) -> str:
    """The reason for a text of the server."""
    return _REASONS.get(text, Reason.SERVER_DISCONNECT)


@dataclass(frozen=True, slots=True)
class Found:
    """The handler of an event; `with_event`: whether its first argument is the event's name."""

    function: Callable[..., Any]
    with_event: bool = False


class Table:
    """The functions by namespace and event."""

    def __init__(self) -> None:
        self._functions: dict[tuple[str, str], Callable[..., Any]] = {}

    def add(self, namespace: str, event: str, function: Callable[..., Any]) -> None:
        """Register a function, in place of an earlier one; raises ValueError."""
        check_namespace(namespace)
        check_event(event)
        if not callable(function):
            raise ValueError(f"{function!r:.80} is no handler of {event}: expected a function")
        if inspect.iscoroutinefunction(function):
            raise ValueError(
                f"{function.__qualname__} is async, and a handler of Flask runs in a thread:"
                " expected a plain function"
            )
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            name = getattr(function, "__qualname__", repr(function))
            raise ValueError(
                f"{name} contains yield, so that a call would not run it: expected a function that"
                " returns its result"
            )
        self._functions[namespace, event] = function

    def find(self, namespace: str, event: str) -> Found | None:
        """The function for an event, the more specific one first."""
        for name in (namespace, ANY):
            for key in (event, ANY):
                function = self._functions.get((name, key))
                if function is not None and not (key == ANY and event in CONNECTION):
                    return Found(function, key == ANY)
        return None

    def has_namespace(self, namespace: str) -> bool:
        """Whether any function is for this namespace itself."""
        return any(name == namespace for name, _ in self._functions)


def check_namespace(namespace: str) -> str:
    """Return the name of a namespace if a channel can have it; raise ValueError if not."""
    if namespace == ANY:
        return namespace
    if not str(namespace).startswith("/"):
        raise ValueError(f"the namespace {namespace!r:.80} has to begin with a slash, as /chat")
    if namespace != "/":
        check_name(namespace[1:])
    return namespace


def takes_argument(function: Callable[..., Any]) -> bool:
    """Whether a function can be called with one argument."""
    try:
        inspect.signature(function).bind(None)
    except TypeError:
        return False
    except ValueError:
        # Some functions of C have no signature.
        return True
    return True


def _guard(client: Client, channel: str) -> None:
    """The `connect` handlers of Flask decide about clients of Socket.IO alone."""
    if client.protocol != "socketio":
        raise Refused(
            f"{channel} is for clients of Socket.IO: a program with pushserver.flask opens it to"
            ' others by @socketio.push.on("subscribe")'
        )


_GUARD = make_handler("subscribe", _guard, thread=False)


class Registry(HandlerRegistry):
    """The handlers of the server's own interface, and behind them those of the Flask program.

    `function` is called for an event with the client, the name and the list of arguments. The
    events are kept by name, so that each has its own share of the threads and its own metrics;
    names without a handler have one of all together. Without a `subscribe` handler, only clients of
    Socket.IO may read the channels.
    """

    def __init__(self, function: Callable[..., Any]):
        super().__init__()
        self._function = function
        self._events: dict[str, Handler] = {}
        self.note(ANY)

    def find(self, event: str, namespace: str = "") -> Handler | None:
        own = super().find(event, namespace)
        return _GUARD if own is None and event == "subscribe" else own

    def note(self, event: str) -> None:
        """The program has a handler for the event."""
        name = f"{event!r} of Flask"
        self._events[event] = Handler(name, self._function, 3, True, key=("", event), raw=True)

    def find_event(self, event: str, namespace: str) -> Handler | None:
        own = super().find_event(event, namespace)
        return own or self._events.get(event) or self._events[ANY]

    @property
    def methods(self) -> list[str]:
        return sorted({*super().methods, *self._events} - {ANY})

    def __iter__(self) -> Iterator[str]:
        yield from super().__iter__()
        yield from (full_name("", event) for event in self._events)
