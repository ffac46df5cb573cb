"""The interface of the reactor that serves."""

from __future__ import annotations

from twisted.internet.interfaces import (
    IReactorCore,
    IReactorFromThreads,
    IReactorProcess,
    IReactorTCP,
    IReactorTime,
)


class Reactor(IReactorCore, IReactorFromThreads, IReactorProcess, IReactorTCP, IReactorTime):
    """What the server as a whole needs of Twisted's reactor, and nobody implements by this name.

    A function that needs one of these interfaces asks for that one. Twisted's own type of
    `reactor` leaves out IReactorFromThreads.
    """
