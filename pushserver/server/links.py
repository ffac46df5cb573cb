"""The services of the links between processes: the author's Unix socket, and a follower's link."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IDelayedCall, IListeningPort
from twisted.internet.protocol import ClientFactory, Factory
from twisted.logger import Logger

from pushserver.cluster.author import Author, FollowerLink
from pushserver.cluster.link import Link
from pushserver.cluster.messages import FromAuthor, FromFollower
from pushserver.cluster.uplink import Uplink
from pushserver.usercode.once import Once

AGAIN_SECONDS = 0.2
"""The pause before the next attempt to connect to the author."""
MODE = 0o600
"""Only the server's own user connects."""


class AuthorPort(Service):
    """Accepts the links of followers on a Unix socket, from its start to its stop.

    `run` runs a coroutine that nothing awaits.
    """

    def __init__(
        self,
        author: Author,
        path: str,
        reactor: Any,
        run: Callable[[Coroutine[Any, Any, None]], None],
    ):
        self._path = path
        self._author = author
        self._reactor = reactor
        self._run = run
        self._port: IListeningPort | None = None
        self._links: set[Link] = set()
        self._stop = Once()

    def startService(self) -> None:
        super().startService()
        self._stop = Once()
        factory: Any = Factory()
        factory.noisy = False
        factory.buildProtocol = lambda address: self._link()
        self._port = self._reactor.listenUNIX(self._path, factory, mode=MODE, wantPID=False)

    def stopService(self) -> Deferred[None]:
        super().stopService()
        return self._stop.run(self._close)

    async def _close(self) -> None:
        port, self._port = self._port, None
        for link in tuple(self._links):
            link.abort()
        if port is not None:
            await maybeDeferred(port.stopListening)

    def __len__(self) -> int:
        """The number of linked followers."""
        return len(self._links)

    def _link(self) -> Link:
        ends: list[FollowerLink] = []

        def made(link: Link) -> None:
            self._links.add(link)
            ends.append(FollowerLink(self._author, link.send, self._run))

        def lost() -> None:
            self._links.discard(link)
            ends[0].lost()

        link = Link(FromFollower, made, lambda message: ends[0].received(message), lost)
        return link


class UplinkService(Service):
    """Links a follower to its author, again and again, from its start to its stop."""

    _log = Logger()

    def __init__(self, uplink: Uplink, path: str, reactor: Any):
        self._uplink = uplink
        self._path = path
        self._reactor = reactor
        self._link: Link | None = None
        self._again: IDelayedCall | None = None

    def startService(self) -> None:
        super().startService()
        self._connect()

    def stopService(self) -> None:
        super().stopService()
        if self._again is not None:
            self._again.cancel()
            self._again = None
        if self._link is not None:
            self._link.abort()

    def _connect(self) -> None:
        self._again = None
        factory: Any = ClientFactory()
        factory.noisy = False
        factory.buildProtocol = lambda address: Link(
            FromAuthor, self._made, self._uplink.received, self._lost
        )
        factory.clientConnectionFailed = lambda connector, reason: self._later()
        self._reactor.connectUNIX(self._path, factory)

    def _made(self, link: Link) -> None:
        self._link = link
        self._log.info("linked to the main process", event_name="worker_linked")
        self._uplink.connected(link.send)

    def _lost(self) -> None:
        self._link = None
        self._uplink.lost()
        if self.running:
            self._log.warn("the main process is away", event_name="worker_unlinked")
            self._later()

    def _later(self) -> None:
        if self.running:
            self._again = self._reactor.callLater(AGAIN_SECONDS, self._connect)
