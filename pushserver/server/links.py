"""The services of the links between processes: the author's Unix socket, and a follower's link."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IDelayedCall, IListeningPort
from twisted.internet.protocol import ClientFactory, Factory
from twisted.logger import Logger

from pushserver.cluster.author import Author, FollowerLink
from pushserver.cluster.calls import Run
from pushserver.cluster.link import Link
from pushserver.cluster.messages import FromAuthor, FromFollower, Row
from pushserver.cluster.uplink import Uplink
from pushserver.errors import StartFailed
from pushserver.usercode.fork import close_in_forks
from pushserver.usercode.once import Once
from pushserver.usercode.steady import steady

AGAIN_SECONDS = 0.2
"""The pause before the next attempt to connect to the author."""
PAUSE_SECONDS = 0.01
"""The pause before a link is read again, while the fan-out has no room."""
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
        run: Run,
        shortcuts: bool = True,
    ):
        self._path = path
        self._author = author
        self._reactor = reactor
        self._run = run
        self._seconds = steady(reactor) if shortcuts else None
        self._port: IListeningPort | None = None
        self._links: set[Link] = set()
        self._stop = Once()

    def startService(self) -> None:
        super().startService()
        self._stop = Once()
        factory: Any = Factory()
        factory.noisy = False
        factory.buildProtocol = lambda address: self._link()
        try:
            self._port = self._reactor.listenUNIX(self._path, factory, mode=MODE, wantPID=False)
        except CannotListenError as error:
            problem = getattr(error.socketError, "strerror", None) or error.socketError
            raise StartFailed(f"the socket of the workers, {self._path}: {problem}") from None
        opened = getattr(self._port, "socket", None)
        if opened is not None:
            # If this process is killed, followers would connect to a fork of it, which is silent.
            close_in_forks(opened)

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
            link.close_in_forks()
            ends.append(
                FollowerLink(
                    self._author, link.send, link.answer, self._run, link.has_room, link.ignore
                )
            )

        def received(message: FromFollower) -> None:
            ends[0].received(message)
            if not link.has_room_for_answers():
                link.pause_reading()

        def drained() -> None:
            if link.has_room_for_answers():
                link.resume_reading()

        def lost() -> None:
            self._links.discard(link)
            ends[0].lost()

        link = Link(FromFollower, made, received, lost, self._seconds)
        link.drained = drained
        return link


class UplinkService(Service):
    """Links a follower to its author, again and again, from its start to its stop.

    `has_room` tells whether the fan-out can take another publication of a channel. If it cannot,
    the link is not read for a moment; the author then refuses publications when too many wait.
    """

    _log = Logger()

    def __init__(
        self,
        uplink: Uplink,
        path: str,
        reactor: Any,
        has_room: Callable[[str], bool],
        shortcuts: bool = True,
    ):
        self._uplink = uplink
        uplink.link_now = self._link_now
        self._has_room = has_room
        self._path = path
        self._reactor = reactor
        self._seconds = steady(reactor) if shortcuts else None
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

    def _link_now(self) -> None:
        if self._again is not None:
            self._again.cancel()
            self._connect()

    def _connect(self) -> None:
        self._again = None
        factory: Any = ClientFactory()
        factory.noisy = False
        factory.buildProtocol = lambda address: Link(
            FromAuthor, self._made, self._received, self._lost, self._seconds
        )
        factory.clientConnectionFailed = lambda connector, reason: self._later()
        try:
            self._reactor.connectUNIX(self._path, factory)
        except OSError:
            # Twisted makes the socket at once: there may be no file left for it.
            self._later()

    def _made(self, link: Link) -> None:
        if not self.running:
            # The stop came while it connected.
            link.abort()
            return
        self._link = link
        self._log.info("linked to the main process", event_name="worker_linked")
        self._uplink.connected(link.send)

    def _received(self, message: FromAuthor) -> None:
        self._uplink.received(message)
        if isinstance(message, Row) and not self._has_room(message.publication.channel):
            assert self._link is not None, "a message without a link"
            self._link.pause_reading()
            self._resume_later(self._link, message.publication.channel)

    def _resume_later(self, link: Link, channel: str) -> None:
        self._reactor.callLater(PAUSE_SECONDS, self._resume, link, channel)

    def _resume(self, link: Link, channel: str) -> None:
        if link is self._link:
            if self._has_room(channel):
                link.resume_reading()
            else:
                self._resume_later(link, channel)

    def _lost(self) -> None:
        self._link = None
        self._uplink.lost()
        if self.running:
            self._log.warn("the main process is away", event_name="worker_unlinked")
            self._later()

    def _later(self) -> None:
        if self.running:
            self._again = self._reactor.callLater(AGAIN_SECONDS, self._connect)
