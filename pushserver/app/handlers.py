"""The handlers of an application: which there are, and how each is to be called."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from pushserver.channels.names import check_namespace

ARGUMENTS: dict[str, tuple[str, ...]] = {
    "start": (),
    "stop": (),
    "connect": ("client", "data"),
    "disconnect": ("client", "reason"),
    "subscribe": ("client", "channel", "data"),
    "publish": ("client", "channel", "data"),
}
"""What happens to the server and to a connection, which no client can name as an event, and what
its handler gets."""
OF_ALL = frozenset({"start", "stop", "connect", "disconnect"})
"""Those that have to do with no channel and no namespace."""
OTHERS = ("client", "data")
"""What it gets for an event of the application's own."""


@dataclass(frozen=True, slots=True)
class Handler:
    """A function of the application's for one event.

    `takes`: with how many of the arguments there are it is called. `thread`: where. `place`
    is the namespace and the event that it is for, once it has one.
    """

    name: str
    function: Callable[..., Any]
    takes: int
    thread: bool
    place: tuple[str, str] = ("", "")


def handler(event: str, function: Callable[..., Any], thread: bool | None) -> Handler:
    """The handler that a function is; raises ValueError if it can be none.

    What is not async is called in a thread, unless `thread` is False.
    """
    name = getattr(function, "__qualname__", repr(function))
    if not callable(function):
        raise ValueError(f"{name} is no handler of {event}: expected a function")
    is_async = inspect.iscoroutinefunction(function)
    if is_async and thread:
        raise ValueError(f"{name} is async, and runs on the reactor: it takes no thread=True")
    signature, given = inspect.signature(function), ARGUMENTS.get(event, OTHERS)
    takes = min(_takes(signature), len(given))
    try:
        signature.bind(*[None] * takes)
    except TypeError as error:
        called = f"with ({', '.join(given)})" if given else "without arguments"
        problem = f"the handler {name} of {event} is called {called}: {error}"
        raise ValueError(problem) from None
    return Handler(name, function, takes, not is_async if thread is None else thread)


def _takes(signature: inspect.Signature) -> int:
    positional = 0
    for parameter in signature.parameters.values():
        if parameter.kind is parameter.VAR_POSITIONAL:
            return 99
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
            positional += 1
    return positional


class Events:
    """The handlers by namespace and event, to look up and to call."""

    def __init__(self) -> None:
        self._handlers: dict[tuple[str, str], Handler] = {}

    def add(self, namespace: str, event: str, made: Handler) -> None:
        """Raises ValueError when there is one already, or can be none."""
        if namespace:
            check_namespace(namespace)
        of, _, named = event.rpartition(":")
        if of and named in ARGUMENTS:
            meant = f"on({named!r}, namespace={of!r})" if named not in OF_ALL else f"on({named!r})"
            raise ValueError(f"no client can call {event}, for which {made.name} is: say {meant}")
        if namespace and event in OF_ALL:
            raise ValueError(f"{event} is of no namespace, and {made.name} is for {namespace}")
        if (namespace, event) in self._handlers:
            where = f" in {namespace}" if namespace else ""
            first = self._handlers[namespace, event].name
            raise ValueError(f"{event}{where} has a handler already: {first}")
        self._handlers[namespace, event] = replace(made, place=(namespace, event))

    def find(self, event: str, namespace: str = "") -> Handler | None:
        """The handler of this namespace, or else the one of all."""
        return self._handlers.get((namespace, event)) or self._handlers.get(("", event))

    def named(self, method: str) -> Handler | None:
        """The handler that a client means: `event`, or `namespace:event`."""
        namespace, _, event = method.rpartition(":")
        if event in ARGUMENTS:
            return None
        return self._handlers.get((namespace, event)) or self._handlers.get(("", method))

    @property
    def heard(self) -> bool:
        """Whether there is a handler for anything that a client may send."""
        return any(event not in ARGUMENTS for _, event in self._handlers)

    def __iter__(self) -> Iterator[str]:
        return (full_name(space, event) for space, event in self._handlers)


def full_name(namespace: str, event: str) -> str:
    """As a client names it."""
    return f"{namespace}:{event}" if namespace else event
