"""The service that runs an application within a server."""

from __future__ import annotations

from typing import Protocol

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorFromThreads

from pushserver.app.dispatch import Dispatcher
from pushserver.app.link import ServerLink
from pushserver.auth.issuer import Issuer
from pushserver.sessions.node import Node
from pushserver.usercode.once import Once

STOP_SECONDS = 2.0
"""The time limit for the `stop` handler, and for the `disconnect` handlers of a stopping server."""


class Application(Protocol):
    """Is attached to the server that runs it."""

    def attach(self, link: ServerLink, dispatcher: Dispatcher) -> None:
        """The server starts."""

    def detach(self) -> None:
        """The server has stopped."""


class AppService(Service):
    """Attaches an application to its server, and calls its `start` and `stop` handlers."""

    def __init__(
        self,
        app: Application,
        dispatcher: Dispatcher,
        node: Node,
        reactor: IReactorFromThreads,
    ):
        self._app = app
        self._dispatcher = dispatcher
        self._node = node
        self._reactor = reactor
        self._issuer = Issuer()
        self._link: ServerLink | None = None
        self._stop = Once()

    def startService(self) -> None:
        super().startService()
        link = self._link = ServerLink(self._node, self._reactor, self._issuer)
        self._app.attach(link, self._dispatcher)
        self._dispatcher.attach(link)

    def reconfigure(self, issuer: Issuer, handler_seconds: float) -> None:
        """Change the maker of tokens, and the time limit of handlers called from now on."""
        self._issuer = issuer
        if self._link is not None:
            self._link.issuer = issuer
        self._dispatcher.seconds = handler_seconds

    async def call_start_handler(self) -> None:
        """Call the `start` handler, once the reactor runs, and wait for it."""
        await self._dispatcher.start()

    async def call_stop_handler(self) -> None:
        """Call the `stop` handler while the server can still publish, and wait for it."""
        await self._dispatcher.stop(STOP_SECONDS)

    def stopService(self) -> Deferred[None]:
        super().stopService()
        return self._stop.run(lambda: self._dispatcher.end(STOP_SECONDS))

    def detach(self) -> None:
        """Everything has stopped: fail the threads that still wait for a commit."""
        self._app.detach()
