"""The listening sockets of a server with workers: its main process opens and holds them.

It never accepts a connection. A worker that dies leaves its sockets behind, with the connections
that wait there, and its successor accepts them.
"""

from __future__ import annotations

import errno
import select
import socket
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from twisted.internet.abstract import isIPv6Address
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IAddress, IListeningPort
from twisted.logger import Logger
from zope.interface import implementer

from pushserver.server.port_owner import left_worker, owner
from pushserver.server.workers import control
from pushserver.usercode.fork import close_in_forks

BACKLOG = 4096
"""Connections that may wait to be accepted; the kernel's own bound is net.core.somaxconn."""

STEP_SECONDS = 0.2
LATE_SECONDS = 5.0
"""The time that a worker may take to end, after the one that it waits for a main process."""


class Holding:
    """The reactor of the ports of a main process: they listen, and nothing reads them.

    A TCP port has one socket for each of the `workers`, among which the kernel distributes the
    connections by SO_REUSEPORT; a port that systemd opened has one for all. `left`: the sockets
    that the workers of an earlier main process still have, by the number of the worker; a worker
    that has other ones than those of the ports does not fit.
    """

    _log = Logger()

    def __init__(
        self, reactor: Any, workers: int, left: Mapping[int, Sequence[socket.socket]] | None = None
    ):
        self.workers = workers
        self._reactor = reactor
        self._left = {number: list(sockets) for number, sockets in (left or {}).items()}
        self._ports = 0
        self._taken: Counter[int] = Counter()

    def fits(self, worker: int) -> bool:
        """Whether a worker of an earlier main process listens on all ports, and on no others.

        Called when all ports have been opened.
        """
        return self._taken[worker] == self._ports and not self._left.get(worker)

    def listenTCP(
        self, port: int, factory: object, backlog: int = 50, interface: str = ""
    ) -> HeldPort:
        """As `IReactorTCP.listenTCP`; raises CannotListenError."""
        opened: list[socket.socket] = []
        self._ports += 1
        try:
            family, address = _resolve(interface, port)
            found = self._take(family, address) if port else {}
            if found:
                address = next(iter(found.values())).getsockname()
            for number in range(1, self.workers + 1):
                one = found.pop(number, None) or self._bind(family, address, bool(opened or found))
                opened.append(one)
                address = one.getsockname()
            for one in opened:
                one.listen(BACKLOG)
        except OSError as error:
            for one in opened:
                one.close()
            raise CannotListenError(interface, port, error) from None
        for one in found.values():
            # Of a worker that is one too many.
            one.close()
        return HeldPort(opened)

    def _bind(self, family: int, address: Any, shares: bool) -> socket.socket:
        """As `_bind`, after the end of the workers of a server that died, if they have the port.

        They were left without a folder in which this process could have found them. This runs
        before the reactor.
        """
        awaited = False
        for _ in range(round((control.ALONE_SECONDS + LATE_SECONDS) / STEP_SECONDS)):
            try:
                return _bind(family, address, shares)
            except OSError as error:
                worker = left_worker(address[1]) if error.errno == errno.EADDRINUSE else None
                # A process that is ending shows no files, and may still have the port.
                if worker is None and not (awaited and not owner(address[1])):
                    raise
                if not awaited:
                    awaited = True
                    self._log.warn(
                        "port {port} is in use by a worker of a server that died (process {pid}),"
                        " which ends by itself within {seconds:g} s: waiting for that",
                        port=address[1],
                        pid=worker,
                        seconds=control.ALONE_SECONDS,
                        event_name="port_awaited",
                    )
            select.select([], [], [], STEP_SECONDS)
        return _bind(family, address, shares)

    def adoptStreamPort(self, descriptor: int, family: int, factory: object) -> HeldPort:
        """As `IReactorSocket.adoptStreamPort`, for all workers."""
        opened = socket.fromfd(descriptor, family, socket.SOCK_STREAM)
        self._ports += 1
        for same in self._take(opened.family, opened.getsockname()).values():
            same.close()
        return HeldPort([opened])

    def take_unix(self, path: str) -> HeldPort | None:
        """The port with the socket at this path that the workers of an earlier process have."""
        self._ports += 1
        found = self._take(socket.AF_UNIX, path)
        sockets = list(found.values())
        for one in sockets[1:]:
            one.close()
        return HeldPort(sockets[:1]) if sockets else None

    def close_left(self) -> None:
        """Close the sockets of earlier workers that no port has taken."""
        for sockets in self._left.values():
            for one in sockets:
                one.close()
        self._left.clear()

    def addReader(self, reader: object) -> None:
        """No-op: nothing is accepted here."""

    def removeReader(self, reader: object) -> None:
        """No-op."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reactor, name)

    def _take(self, family: int, address: Any) -> dict[int, socket.socket]:
        """The sockets of earlier workers with this address, by worker."""
        found = {}
        for number, sockets in self._left.items():
            for one in sockets:
                if one.family == family and one.getsockname() == address:
                    found[number] = one
                    self._taken[number] += 1
                    sockets.remove(one)
                    break
        return found


@implementer(IListeningPort)
class HeldPort:
    """A port whose sockets the workers accept from: one for each, or one for all."""

    def __init__(self, sockets: Sequence[socket.socket]):
        self._sockets = list(sockets)
        self._family = sockets[0].family
        self._address = sockets[0].getsockname()

    def descriptor(self, worker: int) -> int:
        """The socket of a worker; the first has the number 1. Raises OSError.

        One that takes the place of a closed socket listens after `resume`.
        """
        index = (worker - 1) % len(self._sockets)
        if not _is_open(self._sockets[index]):
            self._sockets[index] = one = _bind(self._family, self._address, True)
            close_in_forks(one)
        return self._sockets[index].fileno()

    def suspend(self, worker: int) -> None:
        """Close the socket of a worker that does not run, if there is another open one.

        The kernel would let a part of the connections wait there.
        """
        if sum(map(_is_open, self._sockets)) > 1:
            self._sockets[worker - 1].close()

    def resume(self, worker: int) -> None:
        """Listen for a worker that accepts connections; no-op if its socket listens."""
        self._sockets[(worker - 1) % len(self._sockets)].listen(BACKLOG)

    def close_in_forks(self) -> None:
        """Keep the sockets from the forks of this process, in which nobody accepts from them."""
        for one in self._sockets:
            close_in_forks(one)

    def startListening(self) -> None:
        """No-op: the sockets listen."""

    def stopListening(self) -> None:
        """Close the sockets here; connections that wait are those of the workers."""
        for one in self._sockets:
            one.close()

    def getHost(self) -> IAddress:
        if self._family == socket.AF_UNIX:
            return UNIXAddress(self._address)
        kind = IPv6Address if self._family == socket.AF_INET6 else IPv4Address
        return kind("TCP", *self._address[:2])


def _is_open(one: socket.socket) -> bool:
    return one.fileno() >= 0


def descriptor_of(port: Any, worker: int) -> int:
    """The descriptor of a held port for a worker; one of a Unix socket is for all workers."""
    if isinstance(port, HeldPort):
        return port.descriptor(worker)
    descriptor: int = port.fileno()
    return descriptor


def _resolve(interface: str, port: int) -> tuple[int, Any]:
    """The family and the address of a socket; raises OSError."""
    if isIPv6Address(interface.partition("%")[0]):
        found = socket.getaddrinfo(interface, port, socket.AF_INET6, socket.SOCK_STREAM)
        return socket.AF_INET6, found[0][4]
    host = socket.gethostbyname(interface) if interface else "0.0.0.0"
    return socket.AF_INET, (host, port)


def _bind(family: int, address: Any, shares: bool) -> socket.socket:
    """A socket with this address; unless it `shares` the port, another program's is an error.

    The option is set after the first socket has the port: with it, the socket would share the port
    of another server of this user.
    """
    one = socket.socket(family, socket.SOCK_STREAM)
    try:
        one.setblocking(False)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shares:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        one.bind(address)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    except OSError:
        with suppress(OSError):
            one.close()
        raise
    return one


class Adopting:
    """The reactor of one port of a worker: it listens on a socket of the main process."""

    def __init__(self, reactor: Any, descriptor: int):
        self._reactor = reactor
        self._descriptor = descriptor

    def listenTCP(
        self, port: int, factory: object, backlog: int = 50, interface: str = ""
    ) -> IListeningPort:
        """As `IReactorTCP.listenTCP`."""
        with socket.socket(fileno=self._descriptor) as passed:
            opened: IListeningPort = self._reactor.adoptStreamPort(
                passed.fileno(), passed.family, factory
            )
        return opened

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reactor, name)
