"""Listens on an endpoint, with clear messages if that fails."""

from __future__ import annotations

import errno
import resource
import select
import socket
from collections.abc import Callable
from typing import Any

from twisted.application.service import Service
from twisted.internet import tcp
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort, IProtocolFactory, IStreamServerEndpoint
from twisted.logger import ILogObserver, LogEvent, Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from pushserver.errors import StartFailed
from pushserver.server.certificates import Certificate
from pushserver.server.port_owner import free_port, left_worker, owner
from pushserver.server.workers.control import ALONE_SECONDS
from pushserver.server.workers.holding import BACKLOG, HeldPort, descriptor_of
from pushserver.usercode.fork import close_in_forks
from pushserver.usercode.once import Once
from pushserver.usercode.rate import LogLimiter
from pushserver.usercode.steady import steady

ACCEPTS = 16
"""Connections that a port accepts in one turn of the reactor. Twisted begins with 100, and with 20
more each time that others wait: with connections that are closed at once, others waited 0.35 s."""
SHARED_ACCEPTS = 1
"""The same if other processes accept from the socket: more would leave less for them."""


class Listener(Service):
    """One listening port, as a service.

    With Twisted's own, a failure of `listen` becomes a traceback of twistd.
    """

    def __init__(
        self,
        endpoint: IStreamServerEndpoint,
        text: str,
        factory: IProtocolFactory,
        wrap: Callable[[IProtocolFactory], IProtocolFactory] | None = None,
        certificate: Certificate | None = None,
        setting: str = "--port {port}",
        is_shared: bool = False,
    ):
        """`wrap` puts a factory below all others of the port, also below TLS.

        `is_shared`: other processes accept from the socket too.

        `setting`: the option with another port, for the remedy when one cannot be listened on.
        """
        self._setting = setting
        self._accepts_at_once = SHARED_ACCEPTS if is_shared else ACCEPTS
        self._endpoint = endpoint
        self._text = text
        self._factory = factory
        self._wrap = wrap
        self._certificate = certificate
        self._port: IListeningPort | None = None
        self._stop = Once()
        self._accepts = _Accepts()
        self._accepts_before = -1

    def privilegedStartService(self) -> None:
        """Listen; raises StartFailed."""
        failed: list[Failure] = []
        listening: Deferred[IListeningPort] = self._endpoint.listen(self._factory)
        listening.addCallbacks(self._listens, failed.append)
        if failed:
            raise StartFailed(f"cannot listen on {self._text}: {self._problem(failed[0])}")
        super().privilegedStartService()

    def startService(self) -> None:
        super().startService()
        if self._port is None:
            self.privilegedStartService()

    def stopService(self) -> Deferred[None]:
        super().stopService()
        return self._stop.run(self._close)

    async def _close(self) -> None:
        port, self._port = self._port, None
        if port is not None:
            await maybeDeferred(port.stopListening)

    def read_certificate(self) -> Callable[[], bool]:
        """Read the certificate again; return the call that uses it (see `Certificate.read`).

        Raises StartFailed.
        """
        if self._certificate is None:
            return lambda: False
        try:
            return self._certificate.read()
        except Exception as error:
            raise StartFailed(f"cannot read the certificate of {self._text}: {error}") from None

    def url(self) -> str:
        """The URL for a browser on this machine; the endpoint if it is not a TCP port."""
        address: object = None if self._port is None else self._port.getHost()
        if not isinstance(address, (IPv4Address, IPv6Address)):
            return self._text
        scheme = "http" if self._certificate is None else "https"
        host = {"0.0.0.0": "localhost", "::": "localhost"}.get(address.host, address.host)
        host = host.replace("%", "%25")  # the zone of an IPv6 address (RFC 6874, 2)
        return f"{scheme}://{f'[{host}]' if ':' in host else host}:{address.port}/"

    def descriptor(self, worker: int) -> int:
        """The descriptor of the port for a worker (`workers.holding`)."""
        return descriptor_of(self._port, worker)

    def suspend(self, worker: int) -> None:
        """Let no connection wait for a worker that does not run, if there are others."""
        port: Any = self._port
        if isinstance(port, HeldPort):
            port.suspend(worker)

    def resume(self, worker: int) -> None:
        """Let connections wait for a worker that accepts them."""
        port: Any = self._port
        if isinstance(port, HeldPort):
            port.resume(worker)

    @property
    def is_open(self) -> bool:
        """Whether the port listens."""
        return self._port is not None

    def problem(self) -> str:
        """The reason why the port accepts no connections; empty if it does.

        A connection that waits since the last call, while none was accepted, is such a reason. It
        does not connect to itself: in the network namespace of its unit the server cannot.
        """
        opened = getattr(self._port, "socket", None)
        if not isinstance(opened, socket.socket):
            return "" if self._port is not None else f"{self._text} is closed"
        before, self._accepts_before = self._accepts_before, -1
        try:
            if not opened.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                return f"{self._text} does not listen"
        except OSError as error:
            return f"{self._text} is closed: {error.strerror or error}"
        if not _is_readable(opened):
            return ""
        self._accepts_before = self._accepts.turns
        return f"{self._text} accepts no connections" if before == self._accepts.turns else ""

    def _problem(self, why: Failure) -> str:
        """The error, and a remedy."""
        error = why.value
        if isinstance(error, CannotListenError) and self._text[:5] != "unix:":
            return _tcp_problem(error, self._setting)
        reason = error.socketError if isinstance(error, CannotListenError) else error
        return getattr(reason, "strerror", None) or why.getErrorMessage()

    def _listens(self, port: IListeningPort) -> None:
        self._port = port
        self._stop = Once()
        if isinstance(port, HeldPort):
            port.close_in_forks()
            return
        _bound_accepts(port, self._accepts, self._accepts_at_once)
        if self._wrap is not None:
            opened: Any = port
            opened.factory = self._wrap(opened.factory)
        # Twisted lets 50 connections wait, and keeps the setting of an inherited socket. If a
        # thousand reconnect at once, the kernel drops most of them, and they try again a second
        # later. A second call of `listen` changes the number.
        waiting = getattr(port, "socket", None)
        if isinstance(waiting, socket.socket):
            waiting.listen(BACKLOG)
            # A fork of the server would keep the port open after the server's end.
            close_in_forks(waiting)


def _tcp_problem(error: CannotListenError, setting: str) -> str:
    """The reason why a TCP port cannot be listened on, and a remedy."""
    host, port, reason = error.interface or "0.0.0.0", error.port, error.socketError
    number = getattr(reason, "errno", None)
    if number == errno.EADDRINUSE:
        by, left, free = owner(port), left_worker(port), free_port(port, host)
        used = f"the port is in use by {by}" if by else "the port is in use"
        remedy, what = f": {setting.format(port=free)}" if free else "", "end that"
        if left is not None:
            used = f"the port is in use by a worker of a server that died (process {left})"
            what = f"it ends by itself within {ALONE_SECONDS:g} s: try again then"
        return f"{used}; {what}, or choose another port{remedy}"
    if number == errno.EACCES:
        remedy = "CAP_NET_BIND_SERVICE or a socket of systemd, or choose another: "
        remedy += setting.format(port=8080)
        return f"this user may not listen on port {port}: it needs {remedy}"
    if number == errno.EADDRNOTAVAIL or isinstance(reason, socket.gaierror):
        expected = "127.0.0.1, 0.0.0.0 for all addresses, or one of this machine's addresses"
        return f"{host} is no address of this machine, expected {expected}"
    return str(error)


class _Accepts:
    """Counts the turns in which a port accepted connections."""

    __slots__ = ("turns",)

    def __init__(self) -> None:
        self.turns = 0


def _is_readable(opened: socket.socket) -> bool:
    """Whether a connection waits to be accepted."""
    poll = select.poll()
    poll.register(opened, select.POLLIN)
    return bool(poll.poll(0))


@implementer(ILogObserver)
class _AcceptLog:
    """Twisted's log of the accepts of a port, bounded.

    Where no file is left, Twisted closes each connection, with a line for each.
    """

    _log = Logger()

    def __init__(self, clock: Callable[[], float]):
        self._clock = clock
        self._limiter = LogLimiter()
        self._closed = 0

    def __call__(self, event: LogEvent) -> None:
        """Take an event of twisted.internet.tcp."""
        text, problem = str(event.get("log_format", "")), event.get("acceptError")
        self._closed += "Closed socket" in text
        is_last = "Re-reserving" in text or problem is not None
        if not is_last or self._limiter.suffix(self._clock()) is None:
            return
        n, self._closed = self._closed, 0
        self._log.warn(
            "no file is left for a new connection ({problem}), and {n} were closed: the process may"
            " have {most} open; raise LimitNOFILE= of the unit (ulimit -n) above"
            " limits.connections, or lower that",
            problem=problem or "EMFILE",
            n=n,
            most=resource.getrlimit(resource.RLIMIT_NOFILE)[0],
            event_name="files_exhausted",
        )


def _bound_accepts(port: Any, accepts: _Accepts, at_once: int) -> None:
    """Bound the connections that a port of Twisted's accepts in one turn, and count the turns."""
    accept = getattr(port, "doRead", None)
    if accept is None:
        return
    if isinstance(port, tcp.Port):
        # Twisted has no public way to replace this logger.
        reactor: Any = port.reactor
        port._logger = Logger(tcp.__name__, observer=_AcceptLog(steady(reactor)))

    def accept_few() -> None:
        accepts.turns += 1
        port.numberAccepts = min(port.numberAccepts, at_once)
        accept()

    port.doRead = accept_few
