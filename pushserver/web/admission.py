"""Admits new connections, and counts each until its end by the address of the client."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IAddress
from twisted.web.server import Request

from pushserver.auth.excess import Excesses
from pushserver.auth.quotas import Addresses, Connections
from pushserver.errors import TooMany
from pushserver.web.peer import host


class Admission:
    """The door of one server; `address` gives the client's of a request, None on a Unix socket.

    A connection has the name under which it is counted in `counted_as` of its protocol; a protocol
    that takes it over takes the name too, and the last one calls `leave`.
    """

    def __init__(
        self,
        addresses: Addresses,
        connections: Connections,
        excesses: Excesses,
        clock: Callable[[], float],
        address: Callable[[Request], str | None],
    ):
        self._addresses = addresses
        self._connections = connections
        self._excesses = excesses
        self._clock = clock
        self.address = address

    def enter(self, peer: IAddress | None) -> str:
        """Count a new connection, and return its name; raises TooMany, which is noted."""
        address = host(peer)
        name = self._addresses.name(address)
        try:
            self._connections.enter(name, self._clock())
        except TooMany as error:
            self._excesses.note(error, address)
            raise
        return name

    def claim(self, request: Request) -> None:
        """Count a connection that becomes a WebSocket or a stream for the client of a proxy.

        Raises TooMany. A connection of another site, in which the server is mounted, is not
        counted.
        """
        channel: Any = request.channel
        counted_as: Any = getattr(channel, "counted_as", None)
        if counted_as == "":
            # Exempt so far, as a proxy's connection is.
            name = self._addresses.name(self.address(request))
            if name:
                self._connections.rename("", name, self._clock())
                channel.counted_as = name

    def enter_polling(self, request: Request) -> str:
        """Count a client that polls as a connection, until `leave` of its name; raises TooMany."""
        name = self._addresses.name(self.address(request))
        self._connections.enter(name, self._clock())
        return name

    def note(self, request: Request, error: TooMany) -> None:
        """Count and log a request over a bound."""
        self._excesses.note(error, self.address(request))

    def leave(self, name: str | None) -> None:
        """Forget a connection that is gone; None is the name of one that was not counted."""
        if name is not None:
            self._connections.leave(name)
