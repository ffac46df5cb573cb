"""How a ready frame leaves: into the socket at once, or in order behind what waits.

`transport.write` costs three system calls and a trip round the reactor for each peer; one
`send` on the socket costs one. The rules that make it safe to send past the transport:

1. Only past a transport that is the socket's own: exactly Twisted's TCP or Unix server, with
   no TLS. TLS and protocol wrappers hand out the raw socket too, and a send there would
   put plain text into the encrypted stream. Decided once, when the connection opens.
2. Only while nothing waits in the transport's buffer. Everything that is written to this
   peer comes through its outlet (Autobahn's pongs and close frames too), so the outlet knows.
3. What the socket does not take goes to `transport.write`, and from then on everything else
   behind it, until the transport asks for more: then its buffer is empty. A pull producer
   is how it asks; it is registered only while something waits, and asks once too often, at
   the registration itself.
4. What waits is bounded: a peer that leaves more than `queue_bytes` unread for longer than
   `queue_seconds`, or four times as much at once, is slow. What is written in one piece (a
   long recovery) is not asked for its size; but who is over the bound gets nothing more.
5. After `finish` nothing goes past the transport: what Autobahn or twisted.web write to end
   the connection comes last, and no producer keeps a closing transport open.
6. An error of the socket is not ours to handle: the frame goes to the transport, whose own
   write meets the same error and reports the loss, once.

Where rule 1 forbids it, `PlainOutlet` gives the same order and the same bounds.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from twisted.internet.interfaces import IPullProducer, IPushProducer
from twisted.internet.tcp import Server as TCPServer
from twisted.internet.unix import Server as UnixServer
from zope.interface import implementer

from pushserver.audience import Direct

# What the kernel may hold for one peer beside `queue_bytes`; left alone it takes 4 MB.
KERNEL_BYTES = 262_144


class Owner(Protocol):
    """Whose outlet it is."""

    def blocked(self, direct: Direct | None) -> None:
        """The peer has something to read first; nothing may be sent past it by `direct`."""

    def drained(self) -> None:
        """Nothing waits any more."""

    def slow(self, queued: int) -> None:
        """So many bytes wait, more than may: end it at once."""


class Outlet(Protocol):
    """One peer's way out."""

    @property
    def direct(self) -> Direct | None:
        """The socket's send, as long as the rules above allow it, and only to who obeys them."""

    def write(self, data: bytes) -> None:
        """Send the data, behind all that was written before."""

    def hold(self, rest: bytes) -> None:
        """Send what a direct send did not take."""

    def finish(self) -> None:
        """The connection is being closed: what comes now is the end of it."""


class Backlog:
    """What waits for one peer, and since when it is more than may (rule 4).

    What was written since the buffer was empty is counted; only when that is too much is
    looked how much of it is still there. A peer may always be a little behind.
    """

    __slots__ = ("_bounds", "_since", "_transport", "bytes")

    def __init__(self, bounds: Bounds, transport: Any):
        self.bytes = 0
        self._bounds = bounds
        self._transport = transport
        self._since: float | None = None

    def add(self, size: int) -> bool:
        """Count what is about to wait as well; False when the peer is slow."""
        before = self.bytes
        if before > self._bounds.bytes:
            before = min(before, unsent(self._transport, before))
        self.bytes = before + size
        if before <= self._bounds.bytes:
            self._since = None
            return True
        now = self._bounds.clock()
        if self._since is None:
            self._since = now
        return before <= 4 * self._bounds.bytes and now - self._since <= self._bounds.seconds

    def clear(self) -> None:
        """Everything was read."""
        self.bytes = 0
        self._since = None


def unsent(transport: Any, default: int) -> int:
    """How many bytes wait in a transport's buffer, or `default` where that cannot be seen.

    Twisted has no public word for it; these are the names in `abstract.FileDescriptor`.
    Under TLS the buffer is that of the transport below.
    """
    while not hasattr(transport, "dataBuffer"):
        transport = getattr(transport, "transport", None)
        if transport is None:
            return default
    waiting: int = len(transport.dataBuffer) - transport.offset
    return waiting + getattr(transport, "_tempDataLen", default)


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much may wait for a peer, and for how many seconds more than that."""

    bytes: int
    seconds: float
    clock: Callable[[], float]


def outlet(transport: Any, bounds: Bounds, owner: Owner) -> Outlet:
    """The outlet for a transport."""
    if type(transport) in (TCPServer, UnixServer) and not getattr(transport, "TLS", False):
        transport.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, KERNEL_BYTES)
        return DirectOutlet(transport, bounds, owner)
    return PlainOutlet(transport, bounds, owner)


@implementer(IPullProducer)
class DirectOutlet:
    """Into the socket while nothing waits."""

    __slots__ = ("_backlog", "_owner", "_registering", "_send", "_transport", "direct")

    def __init__(self, transport: Any, bounds: Bounds, owner: Owner):
        self.direct: Direct | None = None
        self._send: Direct | None = transport.socket.send
        self._transport = transport
        self._backlog = Backlog(bounds, transport)
        self._owner = owner
        self._registering = False
        # The answer to the handshake, or the head of the response, is still in the buffer.
        self._register()
        transport.startWriting()

    def write(self, data: bytes) -> None:
        if self.direct is None:
            self.hold(data)
            return
        try:
            taken = self.direct(data)
        except OSError:
            taken = 0
        if taken != len(data):
            self.hold(data[taken:])

    def hold(self, rest: bytes) -> None:
        if self._send is not None and not self._backlog.add(len(rest)):
            self._owner.slow(self._backlog.bytes)
            return
        self._transport.write(rest)
        if self.direct is not None:
            self._block(self.direct)
            self._register()

    def finish(self) -> None:
        if self._send is None:
            return
        self._send = None
        if self.direct is not None:
            self._block(self.direct)
        else:
            self._transport.unregisterProducer()

    def resumeProducing(self) -> None:
        """The transport's buffer is empty."""
        if not self._registering:
            self._backlog.clear()
            self._transport.unregisterProducer()
            self.direct = self._send
            self._owner.drained()

    def _register(self) -> None:
        self._registering = True
        self._transport.registerProducer(self, False)
        self._registering = False

    def _block(self, direct: Direct) -> None:
        self.direct = None
        self._owner.blocked(direct)

    def stopProducing(self) -> None:
        """The connection is lost; the protocol says so to the owner."""


@implementer(IPushProducer)
class PlainOutlet:
    """By the transport's own buffer.

    A pause is advice and bounds nothing: the buffer takes whatever is written (12.8 MB for
    one socket that nobody read, in a trial). So what is written from the pause on is
    counted. The transport says it again with each write while it is over its own mark.
    """

    __slots__ = ("_backlog", "_finished", "_owner", "_paused", "_transport")

    direct = None

    def __init__(self, transport: Any, bounds: Bounds, owner: Owner):
        self._transport = transport
        self._backlog = Backlog(bounds, transport)
        self._owner = owner
        self._paused = False
        self._finished = False
        transport.registerProducer(self, True)

    def write(self, data: bytes) -> None:
        if self._paused and not self._finished and not self._backlog.add(len(data)):
            self._owner.slow(self._backlog.bytes)
            return
        self._transport.write(data)

    def hold(self, rest: bytes) -> None:
        self.write(rest)

    def finish(self) -> None:
        if not self._finished:
            self._finished = True
            self._transport.unregisterProducer()

    def pauseProducing(self) -> None:
        if not self._paused:
            self._paused = True
            self._owner.blocked(None)

    def resumeProducing(self) -> None:
        if self._paused:
            self._paused = False
            self._backlog.clear()
            self._owner.drained()

    def stopProducing(self) -> None:
        """The connection is lost; the protocol says so to the owner."""
