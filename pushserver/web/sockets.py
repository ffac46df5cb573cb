"""The socket below a transport: its TLS, sends past the transport, its state and its end."""

from __future__ import annotations

import fcntl
import socket
import sys
import termios
from contextlib import suppress
from typing import Any

from twisted.internet.interfaces import ISSLTransport
from twisted.internet.tcp import Server as TCPServer
from twisted.internet.unix import Server as UnixServer
from twisted.protocols.policies import ProtocolWrapper

OVER_TLS = "pushserver_over_tls"
"""The attribute of a transport without TLS whose client has TLS to the proxy before it."""


def is_secure(transport: Any) -> bool:
    """Whether the client's connection has TLS, here or at the proxy that ends it.

    The transport cannot provide ISSLTransport in the second case: Autobahn would ask it for TLS's.
    """
    return ISSLTransport.providedBy(transport) or getattr(transport, OVER_TLS, False)


def owns_its_socket(transport: Any) -> bool:
    """Whether bytes may be sent past this transport: it has no TLS and wraps no other."""
    return type(transport) in (TCPServer, UnixServer) and not getattr(transport, "TLS", False)


MORE: int = getattr(socket, "MSG_MORE", 0)
"""The flag of a send after which the kernel keeps the data for the next one; Linux has it. To set
TCP_NODELAY sends what it keeps."""


def send_now(transport: Any, data: bytes, flags: int = 0) -> bool:
    """Send the data at once if nothing waits before it; return whether the socket took all of it.

    `transport.write` takes two more system calls and a trip through the reactor. `flags` are those
    of `send()`.
    """
    taken = 0
    waits = getattr(transport, "dataBuffer", b"") or getattr(transport, "_tempDataBuffer", b"")
    if not waits and owns_its_socket(transport):
        with suppress(OSError):
            taken = transport.socket.send(data, flags)
    if taken != len(data):
        transport.write(data[taken:])
    return taken == len(data)


_CLOSE = 7
_CLOSE_WAIT = 8
"""States of Linux's tcp_states.h: reset or closed by both sides, and closed by the peer."""


def drop(transport: Any) -> None:
    """Drop the connection at once, also while a fork of this process has a copy of its socket.

    close(), which is all that Twisted calls to abort, ends a connection only with the last copy.
    """
    connected = getattr(transport, "socket", None)
    if connected is not None:
        with suppress(OSError):
            connected.shutdown(socket.SHUT_RDWR)
    transport.abortConnection()


def is_reset(transport: Any) -> bool:
    """Whether the peer has reset the connection, also while the server does not read it.

    False if the system does not tell, as for Unix sockets.
    """
    return _state(transport) == _CLOSE


def is_closed(transport: Any) -> bool:
    """Whether the peer has reset or closed the connection; it may still read if it closed."""
    return _state(transport) in (_CLOSE, _CLOSE_WAIT)


def _state(transport: Any) -> int:
    """The state of a TCP connection; 0 if it is not known."""
    connected: Any = getattr(transport, "socket", None)
    with suppress(OSError, AttributeError):
        state: int = connected.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]
        return state
    return 0


def has_halves(transport: Any) -> bool:
    """Whether one direction of this transport can be closed alone; not so under TLS."""
    return not isinstance(transport, ProtocolWrapper) and hasattr(transport, "loseWriteConnection")


def unsent(transport: Any) -> int:
    """The number of bytes that wait in a transport and its socket; under TLS, encrypted ones."""
    while isinstance(transport, ProtocolWrapper):
        transport = transport.transport
    waiting: int = len(getattr(transport, "dataBuffer", b"")) - getattr(transport, "offset", 0)
    waiting += getattr(transport, "_tempDataLen", 0)
    return waiting + _in_kernel(getattr(transport, "socket", None))


def _in_kernel(connected: Any) -> int:
    """Bytes in the kernel that the peer has not acknowledged (tcp(7), SIOCOUTQ)."""
    with suppress(OSError, AttributeError, ValueError):
        count = fcntl.ioctl(connected.fileno(), termios.TIOCOUTQ, bytes(4))
        return int.from_bytes(count, sys.byteorder)
    return 0
