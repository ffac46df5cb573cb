"""HTTP between the processes of one server: the port of each, and the relays to the others."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, gatherResults

from pushserver.auth.proxies import UNIX as UNIX_PEERS
from pushserver.auth.proxies import Proxies
from pushserver.server.listener import Listener
from pushserver.server.place import MAIN, Place
from pushserver.server.unix_socket import UNIX, UnixEndpoint, endpoint_of
from pushserver.web.gate import IsOwn
from pushserver.web.proxied import ProxiedFactory
from pushserver.web.relay import Relay
from pushserver.web.site import PushSite, Uncounted

ANSWER_SECONDS = 600.0
"""The time for the beginning of another process's answer: a WSGI application may take long, and a
client of Socket.IO that polls waits for its next packet."""

_ID = re.compile(rb"([1-9][0-9]{0,2})\..+")
"""The id of a client whose requests come to any worker: it begins with the number of its own."""


class InnerPort(Listener):
    """Listens from its start on: the folder of its socket is made by the user of the server."""

    def privilegedStartService(self) -> None:
        if self.running:
            super().privilegedStartService()


def inner_port(
    place: Place, site: PushSite, reactor: Any, monotonic: Callable[[], float]
) -> Listener:
    """The port for requests that other processes relay to this one: a Unix socket of its user.

    The process that has accepted the client's connection has counted it, so this one does not; it
    counts clients that poll, and publications, by the address that the relay tells.
    """
    others = Proxies.of([UNIX_PEERS])
    factory = ProxiedFactory(
        Uncounted(site),
        proxies=lambda: others,
        reactor=reactor,
        monotonic=monotonic,
        seconds=lambda: site.limits.request_seconds,
        of_processes=True,
    )
    path = place.http(place.worker)
    return InnerPort(UnixEndpoint(reactor, endpoint_of(path)), UNIX + path, factory)


class Relays:
    """The relays of a worker to the other processes of its server; they outlast reloads.

    `at_once` is the bound of requests that wait for an answer, and that of connections whose
    protocol was changed, for each process: no more than a worker may have connections.
    """

    def __init__(
        self,
        place: Place,
        reactor: Any,
        monotonic: Callable[[], float],
        is_own: IsOwn,
        at_once: int,
    ):
        self._place = place
        self._reactor = reactor
        self._monotonic = monotonic
        self._is_own = is_own
        self._at_once = at_once
        self._workers: dict[int, Relay] = {}
        self.main = self._to(MAIN)

    def of_id(self, id: bytes) -> Relay | None:
        """The relay to the other worker that has this client, if there is one.

        For clients of Socket.IO that poll, and of Centrifuge over a response.
        None for a client of this worker, and for an id that no worker has given.
        """
        match = _ID.fullmatch(id)
        number = MAIN if match is None else int(match[1])
        if number in (MAIN, self._place.worker) or not os.path.exists(self._place.http(number)):
            return None
        relay = self._workers.get(number)
        if relay is None:
            relay = self._workers[number] = self._to(number)
        return relay

    def drain(self) -> Deferred[Any]:
        """Fires when the connections have ended whose protocol was changed.

        Requests end with the connections of their clients.
        """
        return gatherResults([relay.drain() for relay in (self.main, *self._workers.values())])

    def stop(self) -> None:
        """Drop all connections to other processes."""
        for relay in (self.main, *self._workers.values()):
            relay.stop()

    def _to(self, worker: int) -> Relay:
        return Relay(
            self._place.http(worker),
            self._reactor,
            self._monotonic,
            self._at_once,
            self._at_once,
            ANSWER_SECONDS,
            self._is_own,
        )
