"""The type of the reactor."""

from __future__ import annotations

from twisted.internet.interfaces import (
    IReactorCore,
    IReactorFromThreads,
    IReactorProcess,
    IReactorTCP,
    IReactorTime,
)


class Reactor(IReactorCore, IReactorFromThreads, IReactorProcess, IReactorTCP, IReactorTime):
    """The interfaces of Twisted's reactor that the server needs; only a type, never implemented.

    A function that needs one interface has that one as its type. Twisted's type of `reactor`
    lacks IReactorFromThreads.
    """
