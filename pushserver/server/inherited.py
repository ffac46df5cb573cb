"""Endpoints of sockets that systemd opened and passed: `systemd:name=http`."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from twisted.internet import unix
from twisted.internet.defer import Deferred, execute
from twisted.internet.endpoints import AdoptedStreamServerEndpoint
from twisted.internet.interfaces import IListeningPort, IProtocolFactory, IStreamServerEndpoint
from zope.interface import implementer

from pushserver.server.certificates import Certificate
from pushserver.server.unix_socket import leave_file
from pushserver.server.workers.holding import Holding

PREFIX = "systemd:"
_KEYS = ("domain", "index", "name")
"""The parameters of the endpoint, as in Twisted: `systemd:INET:0` has the first two."""
_TLS_KEYS = ("privateKey", "certKey", "extraCertChain", "sslmethod", "dhParameters")
"""The parameters for TLS, as in Twisted's `ssl:`."""
_FAMILIES = {
    "INET": socket.AF_INET,
    "INET6": socket.AF_INET6,
    "UNIX": socket.AF_UNIX,
}


@dataclass(frozen=True, slots=True)
class Inherited:
    """A listening socket of systemd."""

    descriptor: int
    name: str


@dataclass(frozen=True, slots=True)
class NamedEndpoint:
    """An endpoint, its text in messages, and its certificate if it has one."""

    text: str
    endpoint: IStreamServerEndpoint
    certificate: Certificate | None = None


def passed(environment: Mapping[str, str]) -> list[Inherited]:
    """The sockets that systemd passed to this process; Twisted reads their number when imported."""
    from twisted.plugins.twisted_core import systemdEndpointParser

    descriptors = systemdEndpointParser._sddaemon.inheritedDescriptors()
    names = environment.get("LISTEN_FDNAMES", "").split(":")
    return [Inherited(*pair) for pair in zip(descriptors, names, strict=False)]


def inherited(
    reactor: Any, text: str, sockets: Sequence[Inherited], claim: Callable[[int], bool]
) -> list[NamedEndpoint]:
    """The endpoints that `text` describes: every socket of that name; raises ValueError.

    `claim` returns whether a descriptor is not used by another endpoint yet.
    """
    domain, matches, tls = _select(text, sockets)
    endpoints = []
    for match in matches:
        family, address = _inspect(match.descriptor)
        if domain not in ("", family):
            raise ValueError(
                f"the socket {address} is of the domain {family}, expected {domain};"
                " without domain= the server takes sockets of every domain"
            )
        if not claim(match.descriptor):
            raise ValueError(f"the socket {address} belongs to another --listen already")
        shown = address if family == "UNIX" else text
        endpoints.append(_endpoint(reactor, shown, match.descriptor, family, tls))
    return endpoints


def adopt(reactor: Any, text: str, descriptor: int) -> NamedEndpoint:
    """The endpoint of a listening socket that the main process passed to a worker.

    `text` is the one for which it was opened: `systemd:` with its parameters for TLS, or `unix:`.
    """
    family, address = _inspect(descriptor)
    tls = _parameters(text)[1] if text.startswith(PREFIX) else ""
    return _endpoint(reactor, address if family == "UNIX" else text, descriptor, family, tls)


def _endpoint(reactor: Any, text: str, descriptor: int, family: str, tls: str) -> NamedEndpoint:
    endpoint: IStreamServerEndpoint
    if family == "UNIX":
        endpoint = _Unix(reactor, descriptor)
    else:
        endpoint = AdoptedStreamServerEndpoint(reactor, descriptor, _FAMILIES[family])
    certificate = Certificate(reactor, tls, endpoint) if tls else None
    if certificate is not None:
        endpoint = certificate.endpoint
    return NamedEndpoint(text, endpoint, certificate)


def _select(text: str, sockets: Sequence[Inherited]) -> tuple[str, list[Inherited], str]:
    """The domain, the sockets of the name or index, and an endpoint of Twisted for the certificate.

    The domain and the last are empty if the text has none.
    """
    values, tls = _parameters(text)
    domain = values.get("domain", "")
    if domain and domain not in _FAMILIES:
        raise ValueError(f"unknown domain {domain!r}, expected {', '.join(_FAMILIES)}")
    if "name" in values:
        matches = [one for one in sockets if one.name == values["name"]]
    elif values["index"].isdecimal():
        matches = list(sockets[int(values["index"]) :][:1])
    else:
        raise ValueError(f"index {values['index']!r} is not a number")
    if not matches:
        names = ", ".join(dict.fromkeys(one.name for one in sockets))
        raise ValueError(
            f"systemd passed no such socket, only: {names}"
            if names
            else "systemd passed no socket; expected a start by systemd, with the socket unit"
        )
    return domain, matches, tls


def _parameters(text: str) -> tuple[dict[str, str], str]:
    """The parameters of a text, and an endpoint of Twisted for its certificate, if it has one."""
    values: dict[str, str] = {}
    tls: list[str] = []
    for position, part in enumerate(re.split(r"(?<!\\):", text.removeprefix(PREFIX))):
        left, equals, right = part.partition("=")
        if equals and left in _TLS_KEYS:
            tls.append(part)
            continue
        key = left if equals else dict(enumerate(_KEYS)).get(position, part)
        values[key] = right if equals else left
    unknown = set(values) - set(_KEYS)
    if unknown or ("name" in values) == ("index" in values):
        raise ValueError("expected name= or index=, and perhaps domain=, privateKey=, certKey=")
    if tls and not any(part.startswith("privateKey=") for part in tls):
        raise ValueError(f"{tls[0]} needs privateKey=, the file of the private key")
    return values, ":".join(["ssl:0", *tls]) if tls else ""


def _inspect(descriptor: int) -> tuple[str, str]:
    """The domain and the address of a socket; raises ValueError if it does not listen."""
    try:
        with socket.socket(fileno=os.dup(descriptor)) as opened:
            address, family = opened.getsockname(), opened.family
            listens = opened.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
            stream = opened.type == socket.SOCK_STREAM
    except OSError as error:
        raise ValueError(f"the descriptor {descriptor} of systemd: {error}") from None
    if isinstance(address, bytes):
        shown = "unix:@" + os.fsdecode(address[1:])
    elif isinstance(address, str):
        shown = f"unix:{address}"
    else:
        shown = f"[{address[0]}]:{address[1]}" if ":" in address[0] else "{}:{}".format(*address)
    name = next((name for name, value in _FAMILIES.items() if value == family), "")
    if not (name and stream and listens):
        raise ValueError(f"the socket {shown} is not of ListenStream= with Accept=no")
    return name, shown


@implementer(IStreamServerEndpoint)
class _Unix:
    """A UNIX socket of systemd."""

    def __init__(self, reactor: Any, descriptor: int):
        self._reactor = reactor
        self._descriptor = descriptor

    def listen(self, protocolFactory: IProtocolFactory) -> Deferred[IListeningPort]:
        return execute(self._listen, protocolFactory)

    def _listen(self, factory: IProtocolFactory) -> IListeningPort:
        os.set_blocking(self._descriptor, False)
        port: IListeningPort
        if isinstance(self._reactor, Holding):
            port = self._reactor.adoptStreamPort(self._descriptor, socket.AF_UNIX, factory)
        else:
            port = _UnixPort._fromListeningDescriptor(self._reactor, self._descriptor, factory)
            port.startListening()
        os.close(self._descriptor)
        return port


class _UnixPort(unix.Port):
    """Leaves the socket's file as it is: systemd owns it.

    Twisted's port sets the file's mode, and removes the file at the stop; the next start then
    gets a socket without a file.
    """

    def startListening(self) -> None:
        leave_file(self)
        super().startListening()

    def _closeSocket(self, orderly: bool) -> None:
        # Twisted would shut it down: systemd's socket too, which then refuses every connection.
        self.socket.close()
