"""The user of the program at the other end of a connection on this machine.

A proxy on this machine looks like any other program on it, but it runs as another user
(`www-data`, `nginx`, `haproxy`).
"""

from __future__ import annotations

import os
import socket
import struct
from contextlib import suppress
from itertools import count
from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.web.server import Request

# linux/netlink.h, linux/sock_diag.h, linux/inet_diag.h
_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_NLM_F_REQUEST = 1
_HEADER = struct.Struct("=IHHII")
_ADDRESSES = struct.Struct("!HH16s16s")
_OWNER = struct.Struct("=II")
_OWNER_AT = _HEADER.size + 4 + 48 + 3 * 4
_ANY = 0xFFFFFFFF
_ANSWER_SECONDS = 1
_KNOWN = "pushserver_own"
"""The attribute of a connection whose owner is known to be the server's user or root."""


def is_own(request: Request) -> bool | None:
    """Whether the request comes from a program of the server's own user, or of root.

    False if it is another user's, or unknown (a proxy of another network namespace); None on
    systems other than Linux, which do not tell.
    """
    if not hasattr(socket, "AF_NETLINK"):
        return None
    connection = getattr(request, "channel", None)
    if getattr(connection, _KNOWN, False):
        return True
    try:
        user = _user(request)
    except (OSError, ValueError, AttributeError, struct.error):
        return False
    own = user in (0, os.geteuid())
    if own and connection is not None:
        # A connection does not change its owner, and each publication asks.
        setattr(connection, _KNOWN, True)
    return own


def _user(request: Request) -> int | None:
    here, there = request.getHost(), request.getClientAddress()
    if isinstance(here, UNIXAddress):
        return _unix_user(request.channel.transport)
    if not isinstance(there, (IPv4Address, IPv6Address)):
        return None
    # The socket of the other end, whose local address is our remote one. The socket of an IPv4
    # client is an IPv4 one, also if ours listens on both.
    mine, theirs = _plain(here.host), _plain(there.host)
    family = socket.AF_INET6 if ":" in theirs else socket.AF_INET
    return tcp_user(family, (theirs, there.port), (mine, here.port))


def _plain(host: str) -> str:
    return host.partition("%")[0].removeprefix("::ffff:")


def _unix_user(transport: Any) -> int:
    credentials = transport.getHandle().getsockopt(
        socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("=3i")
    )
    user: int = struct.unpack("=3i", credentials)[1]
    return user


def tcp_user(family: int, local: tuple[str, int], remote: tuple[str, int]) -> int | None:
    """The user of the TCP socket between these addresses; None if no program has it open.

    Asks the kernel for this one socket (sock_diag(7)) in some 20 microseconds, where
    /proc/net/tcp lists all. Raises OSError if that is not allowed.
    """
    addresses = [socket.inet_pton(family, host).ljust(16, b"\0") for host, _ in (local, remote)]
    body = (
        struct.pack("=BBBBI", family, socket.IPPROTO_TCP, 0, 0, _ANY)
        + _ADDRESSES.pack(local[1], remote[1], *addresses)
        + struct.pack("=III", 0, _ANY, _ANY)
    )
    answer = _kernel.ask(body)
    message_type = _HEADER.unpack_from(answer)[1]
    if message_type != _SOCK_DIAG_BY_FAMILY:
        return None
    user, inode = _OWNER.unpack_from(answer, _OWNER_AT)
    # A closed socket has no inode, and after a while the kernel gives 0 as its user.
    return user if inode else None


class _Kernel:
    """A netlink socket, which stays open: when it is needed, there may be no file left for one."""

    def __init__(self) -> None:
        self._process = 0
        self._file = -1
        self._numbers = count(1)

    def open(self) -> None:
        """Make the socket; no-op if there is one. A fork needs one of its own. Raises OSError."""
        if self._process == os.getpid():
            return
        family, kind = socket.AF_NETLINK, socket.SOCK_DGRAM
        with socket.socket(family, kind, _NETLINK_SOCK_DIAG) as made:
            seconds = struct.pack("ll", _ANSWER_SECONDS, 0)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, seconds)
            self._file = made.detach()
        self._process = os.getpid()

    def ask(self, body: bytes) -> bytes:
        """The answer of the kernel; raises OSError, BlockingIOError after a second."""
        self.open()
        number = next(self._numbers) & _ANY
        length = _HEADER.size + len(body)
        head = _HEADER.pack(length, _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST, number, 0)
        os.write(self._file, head + body)
        while True:
            answer = os.read(self._file, 4096)
            # An earlier answer may have come too late.
            if _HEADER.unpack_from(answer)[3] == number:
                return answer


_kernel = _Kernel()


def prepare() -> None:
    """Have what `is_own` needs while there are files left; no-op where that is not possible."""
    if hasattr(socket, "AF_NETLINK"):
        with suppress(OSError):
            _kernel.open()
