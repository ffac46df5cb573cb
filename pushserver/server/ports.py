"""The ports of the server: those of `--listen`, and those for metrics alone."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from twisted.application.service import MultiService
from twisted.internet.defer import Deferred, gatherResults, maybeDeferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.interfaces import IProtocolFactory

from pushserver.errors import StartFailed
from pushserver.server.address import FORMS, endpoint_text
from pushserver.server.certificates import Certificate, has_certificate
from pushserver.server.inherited import PREFIX, NamedEndpoint, adopt, inherited, passed
from pushserver.server.listener import Listener
from pushserver.server.unix_socket import UNIX, UnixEndpoint
from pushserver.server.workers.holding import Adopting, Holding
from pushserver.usercode.reactor import Reactor
from pushserver.web.site import PushSite

LISTEN, METRICS_LISTEN = "server.listen", "server.metrics_listen"
METRICS_PORT = METRICS_LISTEN + ' = "127.0.0.1:{port}"'


def check_endpoints(listen: Iterable[str], metrics_listen: str = "", option: str = LISTEN) -> None:
    """Raise StartFailed for an endpoint that is invalid, or has no valid certificate.

    Nothing listens. The sockets of systemd exist only when it starts the server.
    """
    nothing: Any = None
    ports = Ports(nothing, nothing)
    for text, setting in [*((text, option) for text in listen), (metrics_listen, METRICS_LISTEN)]:
        if text and not text.startswith(PREFIX):
            ports.endpoints(text, setting)


class Ports(MultiService):
    """Listens on all endpoints from its start to its stop."""

    def __init__(
        self,
        reactor: Reactor,
        site: PushSite,
        wrap: Callable[[IProtocolFactory], IProtocolFactory] | None = None,
        holding: Holding | None = None,
    ):
        """`wrap`: see `Listener`. `holding`: the reactor of ports for workers."""
        super().__init__()
        self._reactor = reactor
        self._holding = holding
        self._held: list[tuple[str, list[Listener]]] = []
        self._site = site
        self._wrap = wrap
        self._claimed: set[int] = set()
        self._listeners: list[Listener] = []
        self._metrics_listeners: list[Listener] = []
        self.sites = [site]

    def listen(self, text: str) -> None:
        """Listen on this endpoint from the start; raises StartFailed if it is invalid."""
        if self._wrap is not None and text.startswith("haproxy:"):
            raise StartFailed(
                f"--listen {text}: server.proxy_protocol reads the header of the PROXY protocol;"
                " leave out haproxy:, which would expect a second one"
            )
        found = self.endpoints(text, reactor=self._holding)
        self._held.append((text, [self._add(named) for named in found]))

    def adopt(self, text: str, descriptors: Sequence[int]) -> None:
        """Listen on these sockets, which the main process opened for this endpoint, at once."""
        for descriptor in descriptors:
            if text.startswith((PREFIX, UNIX)):
                self._add(adopt(self._reactor, text, descriptor), is_shared=True)
            else:
                adopting: Any = Adopting(self._reactor, descriptor)
                for named in self.endpoints(text, reactor=adopting):
                    self._add(named)

    def passed_to(self, worker: int) -> list[tuple[str, list[int]]]:
        """The texts of all endpoints, and the descriptors of each for this worker."""
        return [
            (text, [listener.descriptor(worker) for listener in listeners])
            for text, listeners in self._held
        ]

    def suspend(self, worker: int) -> None:
        """Let no connection wait for a worker that does not run, if there are others."""
        for listener in self._listeners:
            listener.suspend(worker)

    def resume(self, worker: int) -> None:
        """Let connections wait for a worker that accepts them."""
        for listener in self._listeners:
            listener.resume(worker)

    def descriptors(self) -> list[int]:
        """The descriptors of the listening sockets of all endpoints."""
        return [listener.descriptor(1) for listener in self._listeners if listener.is_open]

    def _add(self, named: NamedEndpoint, is_shared: bool = False) -> Listener:
        listener = Listener(
            named.endpoint,
            named.text,
            self._site,
            self._wrap,
            named.certificate,
            is_shared=is_shared,
        )
        listener.setServiceParent(self)
        self._listeners.append(listener)
        return listener

    def listen_for_metrics(self, text: str, site: PushSite) -> None:
        """Serve this site, too, on a port of its own; raises StartFailed if it is invalid."""
        for named in self.endpoints(text, METRICS_LISTEN):
            listener = Listener(
                named.endpoint, named.text, site, None, named.certificate, METRICS_PORT
            )
            listener.setServiceParent(self)
            self._metrics_listeners.append(listener)
        self.sites.append(site)

    def endpoints(
        self, text: str, option: str = "--listen", reactor: Any = None
    ) -> list[NamedEndpoint]:
        """The endpoints of this text, which do not listen yet; raises StartFailed."""
        reactor = reactor or self._reactor
        try:
            if text.startswith(PREFIX):
                return inherited(reactor, text, passed(os.environ), self._claim)
            if text.startswith(UNIX):
                unix = UnixEndpoint(reactor, text)
                return [NamedEndpoint(UNIX + unix.path, unix)]
            described = endpoint_text(text)
            if has_certificate(described):
                certificate = Certificate(reactor, described)
                return [NamedEndpoint(text, certificate.endpoint, certificate)]
            return [NamedEndpoint(text, serverFromString(reactor, described))]
        except Exception as error:
            problem = f"{option} {text}: {error}".rstrip(".")
            told = ", expected " in problem or text.startswith((PREFIX, UNIX))
            if not (told or has_certificate(text)):
                problem += f", {FORMS}"
            raise StartFailed(problem) from None

    def _claim(self, descriptor: int) -> bool:
        fresh = descriptor not in self._claimed
        self._claimed.add(descriptor)
        return fresh

    def read_certificates(self) -> Callable[[], bool]:
        """Read the certificates of `ssl:` endpoints; return the call that uses them.

        That one returns whether any has changed. Raises StartFailed.
        """
        listeners = self._listeners + self._metrics_listeners
        uses = [listener.read_certificate() for listener in listeners]
        return lambda: sum(use() for use in uses) > 0

    def closed(self) -> str:
        """The reason why a port accepts no connections; empty if all do, or after the stop.

        Those for workers accept none here.
        """
        if not self.running or self._holding is not None:
            return ""
        return next(filter(None, (listener.problem() for listener in self._listeners)), "")

    def count_closed(self) -> int:
        """The number of ports that accept no connections, without those for metrics."""
        return sum(not listener.is_open for listener in self._listeners)

    def urls(self) -> list[str]:
        """The URL of each port."""
        return [listener.url() for listener in self._listeners]

    def stopService(self) -> Deferred[None]:
        self.running = False
        # The failure of one is that of the stop, unlike in MultiService.
        stops = [maybeDeferred(listener.stopService) for listener in self]
        return gatherResults(stops, consumeErrors=True).addCallback(lambda _: None)
