"""Connects to a Redis server or to a Sentinel."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.endpoints import HostnameEndpoint, UNIXClientEndpoint, wrapClientTLS
from twisted.internet.error import ConnectError, ConnectionClosed, DNSLookupError
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.protocol import Factory
from twisted.internet.ssl import Certificate, optionsForClientTLS, trustRootFromCertificates

from pushserver.config.redis_url import Address
from pushserver.redis.commands import Send

ANSWER_SECONDS = 5.0
"""A server that does not answer for this time is away."""

CANNOT_CONNECT = (ConnectError, ConnectionClosed, DNSLookupError, OSError)
"""The errors of `dial`, besides those of a cancelled call."""

_BLOCK = re.compile(rb"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----\n?", re.DOTALL)


def endpoint_of(address: Address, reactor: Any) -> IStreamClientEndpoint:
    """The endpoint of the server; raises OSError and ValueError if its certificates are wrong."""
    if address.path:
        return UNIXClientEndpoint(reactor, address.path, timeout=ANSWER_SECONDS)
    endpoint = HostnameEndpoint(reactor, address.host, address.port, timeout=ANSWER_SECONDS)
    if not address.tls:
        return endpoint
    roots = None
    if address.ca:
        with open(address.ca, "rb") as file:
            roots = trustRootFromCertificates(map(Certificate.loadPEM, _BLOCK.findall(file.read())))
    return wrapClientTLS(optionsForClientTLS(address.host, roots), endpoint)


async def dial(
    address: Address, reactor: Any, lost: Callable[[Any], None], scripts: Sequence[bytes] = ()
) -> Any:
    """A new connection, a `wire.Wire`; raises one of CANNOT_CONNECT."""
    from pushserver.redis.wire import Wire

    factory: Any = Factory()
    factory.noisy = False
    factory.buildProtocol = lambda _: Wire(lost, scripts)
    return await endpoint_of(address, reactor).connect(factory)


async def authenticate(send: Send, address: Address) -> None:
    """Give the password, if the address has one; raises ErrorReply and Gone."""
    if address.password:
        user = (address.user,) if address.user else ()
        await send([b"AUTH", *(part.encode() for part in (*user, address.password))])


def reason_of(wire: Any, address: Address) -> str:
    """Why a connection ended, or was ended, before the expected answer."""
    reason: str = wire.ended or "it did not answer"
    if wire.heard or address.path or "certificate" in reason:
        return reason
    if address.tls:
        return f"{reason} (if it has no TLS, write redis in place of rediss in broker.url)"
    return f"{reason} (if it expects TLS, write rediss in place of redis in broker.url)"
