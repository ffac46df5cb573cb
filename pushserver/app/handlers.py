"""The handlers of an application, and how each is called."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any

from pushserver.channels.names import check_namespace

ARGUMENTS: dict[str, tuple[str, ...]] = {
    "start": (),
    "stop": (),
    "authenticate": ("visitor",),
    "connect": ("client", "data"),
    "disconnect": ("client", "reason"),
    "subscribe": ("client", "channel", "data"),
    "publish": ("client", "channel", "data"),
}
"""The arguments of handlers for events of the server and of connections; no client can send these
events."""
WITHOUT_NAMESPACE = frozenset({"start", "stop", "authenticate"})
"""Those that belong to no client, and so to no namespace."""
OTHER_ARGUMENTS = ("client", "data")
"""The arguments of a handler for any other event."""
ANY_NUMBER = 99
"""The arity of a function that takes any number of arguments."""


@dataclass(frozen=True, slots=True)
class Handler:
    """A function of the application for one event.

    `arity`: the number of arguments that it is called with. `thread`: whether it is called in a
    thread. `is_async`: whether it is a coroutine function. `key`: its namespace and event, once it
    is registered. `raw`: whether it is called with the client, the name of an event of Socket.IO
    and the list of its arguments.
    """

    name: str
    function: Callable[..., Any]
    arity: int
    thread: bool
    is_async: bool = False
    key: tuple[str, str] = ("", "")
    raw: bool = False


def make_handler(event: str, function: Callable[..., Any], thread: bool | None) -> Handler:
    """Return the handler of a function; raise ValueError if it cannot be one.

    A function that is not async is called in a thread unless `thread` is False.
    """
    name = getattr(function, "__qualname__", repr(function))
    if not callable(function):
        raise ValueError(f"{name} is no handler of {event}: expected a function")
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise ValueError(
            f"the handler {name} of {event} contains yield, so that a call would not run it: "
            "expected a function that returns its result"
        )
    is_async = inspect.iscoroutinefunction(function)
    if is_async and thread:
        raise ValueError(f"{name} is async, and runs on the reactor: it takes no thread=True")
    signature, given = inspect.signature(function), ARGUMENTS.get(event, OTHER_ARGUMENTS)
    arity = min(_positional(signature), len(given))
    try:
        signature.bind(*[None] * arity)
    except TypeError as error:
        called = f"with ({', '.join(given)})" if given else "without arguments"
        problem = f"the handler {name} of {event} is called {called}: {error}"
        raise ValueError(problem) from None
    in_thread = not is_async if thread is None else thread
    return Handler(name, function, arity, in_thread, is_async)


def _positional(signature: inspect.Signature) -> int:
    """The number of positional arguments that a function takes."""
    count = 0
    for parameter in signature.parameters.values():
        if parameter.kind is parameter.VAR_POSITIONAL:
            return ANY_NUMBER
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
            count += 1
    return count


class HandlerRegistry:
    """The handlers of an application by namespace and event."""

    def __init__(self) -> None:
        self._handlers: dict[tuple[str, str], Handler] = {}

    def add(self, namespace: str, event: str, handler: Handler) -> None:
        """Register the handler; raises ValueError for a second one, or an impossible event."""
        if namespace:
            check_namespace(namespace)
        prefix, _, last = event.rpartition(":")
        if prefix and last in ARGUMENTS:
            meant = f"on({last!r}, namespace={prefix!r})"
            if last in WITHOUT_NAMESPACE:
                meant = f"on({last!r})"
            raise ValueError(
                f"no client can call {event}, the event of {handler.name}: expected {meant}"
            )
        if namespace and event in WITHOUT_NAMESPACE:
            raise ValueError(f"{event} has no namespace, but {handler.name} is for {namespace}")
        if (namespace, event) in self._handlers:
            where = f" in {namespace}" if namespace else ""
            first = self._handlers[namespace, event].name
            raise ValueError(f"{event}{where} has a handler already: {first}")
        self._handlers[namespace, event] = replace(handler, key=(namespace, event))

    def find(self, event: str, namespace: str = "") -> Handler | None:
        """The handler for the event in the namespace, or else the one without a namespace."""
        return self._handlers.get((namespace, event)) or self._handlers.get(("", event))

    def find_method(self, method: str) -> Handler | None:
        """The handler that a client calls as `event` or `namespace:event`."""
        namespace, _, event = method.rpartition(":")
        if event in ARGUMENTS:
            return None
        return self._handlers.get((namespace, event)) or self._handlers.get(("", method))

    def find_event(self, event: str, namespace: str) -> Handler | None:
        """The handler for an event of a Socket.IO client in this namespace, empty for `/`."""
        if event in ARGUMENTS:
            return None
        return self.find(event, namespace) or self.find_method(event)

    def has(self, event: str) -> bool:
        """Whether the event has a handler, in any namespace."""
        return any(event == known for _, known in self._handlers)

    @property
    def keys(self) -> list[tuple[str, str]]:
        """The namespace and the event of each handler."""
        return sorted(self._handlers)

    def misspelt(self) -> Iterator[tuple[Handler, str]]:
        """The handlers whose events look like misspelt ones of `ARGUMENTS`, each with that one."""
        for (_, event), handler in self._handlers.items():
            near = get_close_matches(event, ARGUMENTS, 1, cutoff=0.84)
            # Not `reconnect` or `published`, which applications have.
            if near and near[0] not in event:
                yield handler, near[0]

    @property
    def has_coroutines(self) -> bool:
        """Whether any handler is a coroutine function."""
        return any(handler.is_async for handler in self._handlers.values())

    @property
    def methods(self) -> list[str]:
        """The events that a client may call, in the order of their names."""
        events = self._handlers
        return sorted(full_name(name, event) for name, event in events if event not in ARGUMENTS)

    def __iter__(self) -> Iterator[str]:
        return (full_name(namespace, event) for namespace, event in self._handlers)


def full_name(namespace: str, event: str) -> str:
    """The name of an event as a client sends it."""
    return f"{namespace}:{event}" if namespace else event
