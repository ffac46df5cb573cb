"""Drops a connection whose bytes do not leave."""

from __future__ import annotations

from typing import Any

from twisted.internet.interfaces import IReactorTime

from pushserver.web.sockets import drop, unsent

STALLS = 2
"""Checks in a row without progress before a connection is dropped. With large segments (64 KB over
loopback) a slow reader takes nothing for a while and then much."""


class Progress:
    """Looks every `seconds` whether bytes left, until `stop`; drops the connection if not."""

    def __init__(self, reactor: IReactorTime, seconds: float, transport: Any):
        self._reactor = reactor
        self._seconds = seconds
        self._transport = transport
        self._unsent = unsent(transport)
        self._stalls = 0
        self._check = reactor.callLater(seconds, self._look)

    def stop(self) -> None:
        """The connection is gone, or everything is sent."""
        if self._check.active():
            self._check.cancel()

    def _look(self) -> None:
        before, self._unsent = self._unsent, unsent(self._transport)
        self._stalls = self._stalls + 1 if self._unsent == before else 0
        if self._stalls >= STALLS:
            drop(self._transport)
        else:
            self._check = self._reactor.callLater(self._seconds, self._look)
