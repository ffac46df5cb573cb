"""Listens on an endpoint, with clear messages if that fails."""

from __future__ import annotations

import errno
import re
import socket

from twisted.application.service import Service
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IListeningPort, IProtocolFactory, IStreamServerEndpoint
from twisted.python.failure import Failure

from pushserver.errors import StartFailed
from pushserver.usercode.once import Once

BACKLOG = 4096
"""Connections that may wait to be accepted; the kernel's own bound is net.core.somaxconn."""


def with_mode(text: str) -> str:
    """The text of an endpoint; a UNIX socket without a mode gets 600, and not Twisted's 666."""
    kind, *parts = re.split(r"(?<!\\):", text)
    named = [re.split(r"(?<!\\)=", part)[:-1] for part in parts]
    if kind != "unix" or ["mode"] in named or named.count([]) != 1 - named.count(["address"]):
        return text
    return f"{text}:mode=600"


class Listener(Service):
    """One listening port, as a service.

    With Twisted's own, a failure of `listen` becomes a traceback of twistd.
    """

    def __init__(self, endpoint: IStreamServerEndpoint, text: str, factory: IProtocolFactory):
        self._endpoint = endpoint
        self._text = text
        self._factory = factory
        self._port: IListeningPort | None = None
        self._stop = Once()

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

    def url(self) -> str:
        """The URL for a browser on this machine; the endpoint if it is not a TCP port."""
        address: object = None if self._port is None else self._port.getHost()
        if not isinstance(address, (IPv4Address, IPv6Address)):
            return self._text
        scheme = "https" if self._text.startswith("ssl:") else "http"
        host = {"0.0.0.0": "localhost", "::": "localhost"}.get(address.host, address.host)
        return f"{scheme}://{f'[{host}]' if ':' in host else host}:{address.port}/"

    def _problem(self, why: Failure) -> str:
        """The error, and a remedy."""
        message, error = why.getErrorMessage(), getattr(why.value, "socketError", None)
        if getattr(error, "errno", None) != errno.EADDRINUSE or self._text.startswith("unix:"):
            return message
        port = 8082 if "8081" in self._text else 8081
        elsewhere = f"--listen tcp:{port}:interface=127.0.0.1"
        return f"{message.rstrip('.')}; end what listens there, or choose another port: {elsewhere}"

    def _listens(self, port: IListeningPort) -> None:
        self._port = port
        self._stop = Once()
        # Twisted lets 50 connections wait, and keeps the setting of an inherited socket. If a
        # thousand reconnect at once, the kernel drops most of them, and they try again a second
        # later. A second call of `listen` changes the number.
        waiting = getattr(port, "socket", None)
        if isinstance(waiting, socket.socket):
            waiting.listen(BACKLOG)
