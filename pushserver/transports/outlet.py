"""How a ready frame leaves: into the socket at once, or in order behind what waits.

`transport.write` costs three system calls and a trip round the reactor for each peer; one
`send` on the socket costs one. The rules that make it safe to send past the transport:

1. Only past a transport that is the socket's own: exactly Twisted's TCP or Unix server, with
   no TLS. TLS and protocol wrappers hand out the raw socket too, and a send there would
   put plain text into the encrypted stream. Decided once, when the connection opens.
2. Only while nothing waits, here or in the transport's buffer. Everything that is written to
   this peer comes through its outlet (Autobahn's pongs and close frames too), so it knows.
3. What the socket does not take waits here, and everything else behind it; the transport is
   given a portion whenever it asks, which it does when its buffer is empty. A pull producer is
   how it asks; it is registered only while something waits.
4. What waits is shared: a frame that a thousand wait for is there once. So its size is not
   held against anybody, but a peer that leaves more than `queue_bytes` unread for longer than
   `queue_seconds`, or four times as much behind the frame that is on its way, is slow.
5. After `finish` nothing goes past the transport: what Autobahn or twisted.web write to end
   the connection comes last, and no producer keeps a closing transport open.
6. An error of the socket is not ours to handle: the frame goes to the transport, whose own
   write meets the same error and reports the loss, once.

Where rule 1 forbids it, `PlainOutlet` gives the same order and the same bounds.
"""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

from twisted.internet.interfaces import IPullProducer, IPushProducer
from twisted.internet.tcp import Server as TCPServer
from twisted.internet.unix import Server as UnixServer
from zope.interface import implementer

from pushserver.hub.audience import Direct
from pushserver.sessions.base import Conversation

KERNEL_BYTES = 262_144
"""What the kernel may hold for one peer; left alone it takes 4 MB."""

PORTION = 16_384
"""What a transport is given at once: a turn in which a thousand ask is to be a short one."""


class Owner(Protocol):
    """The transport that writes through an outlet."""

    @property
    def conversation(self) -> Conversation[Any] | None:
        """The conversation that it is for; None when the connection is lost."""

    def slow(self, queued: int) -> None:
        """Drop the connection: `queued` bytes wait, which is more than the bounds allow."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much may wait for a peer, and for how many seconds more than that."""

    bytes: int
    seconds: float
    clock: Callable[[], float]


class Backlog:
    """What waits for one peer, in order, and since when it is more than may (rule 4)."""

    __slots__ = ("_begun", "_bounds", "_pieces", "_since", "bytes")

    def __init__(self, bounds: Bounds):
        self.bytes = 0
        self._bounds = bounds
        self._pieces: deque[bytes] = deque()
        self._begun = 0
        self._since: float | None = None

    def __bool__(self) -> bool:
        return bool(self._pieces)

    def add(self, piece: bytes, begun: int = 0) -> bool:
        """Let all but the first `begun` bytes wait as well; False when the peer is slow.

        Only what has nothing in front of it may have begun.
        """
        if self.bytes > self._bounds.bytes and not self._bears_more():
            return False
        if not self._pieces:
            self._begun = begun
        self._pieces.append(piece)
        self.bytes += len(piece) - begun
        return True

    def _bears_more(self) -> bool:
        now = self._bounds.clock()
        if self._since is None:
            self._since = now
        behind = self.bytes - (len(self._pieces[0]) - self._begun)
        return behind <= 4 * self._bounds.bytes and now - self._since <= self._bounds.seconds

    def take(self) -> bytes:
        """The next portion."""
        portion: list[bytes] = []
        left = PORTION
        while self._pieces and left:
            first, begun = self._pieces[0], self._begun
            end = min(len(first), begun + left)
            portion.append(first[begun:end])
            left -= end - begun
            if end < len(first):
                self._begun = end
            else:
                self._pieces.popleft()
                self._begun = 0
        self.bytes -= PORTION - left
        if self.bytes <= self._bounds.bytes:
            self._since = None
        return b"".join(portion)

    def clear(self) -> None:
        """Forget what waits."""
        self._pieces.clear()
        self.bytes = 0


def make_outlet(
    transport: Any, bounds: Bounds, owner: Owner, empty: bool = False
) -> DirectOutlet | PlainOutlet:
    """The outlet for a transport; `empty` if it is known to have nothing in its buffer."""
    own = getattr(transport, "socket", None)
    if own is not None:
        own.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, KERNEL_BYTES)
    if _is_the_sockets_own(transport):
        return DirectOutlet(transport, bounds, owner, empty)
    return PlainOutlet(transport, bounds, owner)


def send_first(transport: Any, data: bytes) -> bool:
    """Send what is the first on a connection; whether the transport's buffer is empty still."""
    taken = 0
    if _is_the_sockets_own(transport):
        with suppress(OSError):
            taken = transport.socket.send(data)
    if taken != len(data):
        transport.write(data[taken:])
    return taken == len(data)


def _is_the_sockets_own(transport: Any) -> bool:
    """Rule 1."""
    return type(transport) in (TCPServer, UnixServer) and not getattr(transport, "TLS", False)


@implementer(IPullProducer)
class DirectOutlet:
    """Into the socket while nothing waits."""

    __slots__ = (
        "_backlog",
        "_bounds",
        "_open",
        "_owner",
        "_send",
        "_transport",
        "blocked_at",
        "direct",
    )

    def __init__(self, transport: Any, bounds: Bounds, owner: Owner, empty: bool):
        self._send: Direct | None = transport.socket.send
        self.direct = self._send if empty else None
        self.blocked_at: float | None = None
        self._transport = transport
        self._bounds = bounds
        self._owner = owner
        # Most never have one.
        self._backlog: Backlog | None = None
        self._open = empty
        if not empty:
            # The answer to the handshake, or the head of the response, is still in the buffer;
            # and the transport asks once at the registration itself.
            transport.registerProducer(self, False)
            self._open = True
            transport.startWriting()

    def write(self, data: bytes) -> None:
        """Send the data, behind all that was written before."""
        if self.direct is None:
            self._wait(data, 0)
            return
        try:
            taken = self.direct(data)
        except OSError:
            taken = 0
        if taken != len(data):
            self._wait(data, taken)

    def send_rest(self, frame: bytes, taken: int) -> None:
        self._wait(frame, taken)

    def finish(self) -> bool:
        """Let only the end of the connection be written from now on.

        False if more bytes wait than the bounds allow: the connection must be aborted.
        """
        if self._send is None:
            return True
        self._send = None
        if self.direct is not None:
            self._block(self.direct)
            return True
        self._transport.unregisterProducer()
        return _hand_over(self._backlog, self._transport, self._bounds)

    def resumeProducing(self) -> None:
        """The transport's buffer is empty."""
        if self._backlog:
            self._transport.write(self._backlog.take())
        elif self._open:
            self._backlog = None
            self._transport.unregisterProducer()
            self.direct = self._send
            self.blocked_at = None
            conversation = self._owner.conversation
            if conversation is not None:
                for audience in conversation.audiences.values():
                    audience.unblock(conversation)
                conversation.drained()

    def _wait(self, data: bytes, taken: int) -> None:
        if self._send is None:
            self._transport.write(data[taken:])
            return
        if self._backlog is None:
            self._backlog = Backlog(self._bounds)
        if not self._backlog.add(data, taken):
            self._owner.slow(self._backlog.bytes)
        elif self.direct is not None:
            self._block(self.direct)
            # It asks at once.
            self._transport.registerProducer(self, False)

    def _block(self, direct: Direct) -> None:
        self.direct = None
        self.blocked_at = self._bounds.clock()
        conversation = self._owner.conversation
        if conversation is not None:
            for audience in conversation.audiences.values():
                audience.block(conversation, direct)

    def stopProducing(self) -> None:
        """The connection is lost; the protocol says so to the owner."""
        self._backlog = None


@implementer(IPushProducer)
class PlainOutlet:
    """By the transport's own buffer, as long as it does not ask for a pause.

    That is advice and bounds nothing: the buffer takes whatever is written (12.8 MB for
    one socket that nobody read, in a trial). The transport says it again with each write
    while it is over its own mark.
    """

    __slots__ = (
        "_backlog",
        "_bounds",
        "_finished",
        "_owner",
        "_paused",
        "_transport",
        "blocked_at",
    )

    direct = None

    def __init__(self, transport: Any, bounds: Bounds, owner: Owner):
        self._transport = transport
        self._bounds = bounds
        self._backlog = Backlog(bounds)
        self._owner = owner
        self._paused = False
        self._finished = False
        self.blocked_at: float | None = None
        transport.registerProducer(self, True)

    def write(self, data: bytes) -> None:
        if self._finished:
            self._transport.write(data)
        elif not self._backlog.add(data):
            self._owner.slow(self._backlog.bytes)
        else:
            self._go_on()

    def send_rest(self, frame: bytes, taken: int) -> None:
        self.write(frame[taken:])

    def finish(self) -> bool:
        if self._finished:
            return True
        self._finished = True
        self._transport.unregisterProducer()
        return _hand_over(self._backlog, self._transport, self._bounds)

    def pauseProducing(self) -> None:
        self._paused = True
        if self.blocked_at is None:
            self.blocked_at = self._bounds.clock()

    def resumeProducing(self) -> None:
        self._paused = False
        self._go_on()
        if self.blocked_at is not None and not self._paused:
            self.blocked_at = None
            if self._owner.conversation is not None:
                self._owner.conversation.drained()

    def _go_on(self) -> None:
        while self._backlog and not self._paused:
            self._transport.write(self._backlog.take())

    def stopProducing(self) -> None:
        """The connection is lost; the protocol says so to the owner."""
        self._backlog.clear()


class Gone:
    """The outlet of a connection that is no more: nothing leaves, and nobody is told."""

    direct = None
    blocked_at = None

    def write(self, data: bytes) -> None: ...

    def send_rest(self, frame: bytes, taken: int) -> None: ...

    def finish(self) -> bool:
        return True


GONE = Gone()
"""In the place of an outlet when the connection is lost: outlet and owner know each other, and
without one of them knowing, both are freed at once."""


Outlet = DirectOutlet | PlainOutlet | Gone


def _hand_over(backlog: Backlog | None, transport: Any, bounds: Bounds) -> bool:
    """Let the transport have all that waits, unless it is too much to be kept once for each."""
    if backlog is None:
        return True
    if backlog.bytes > bounds.bytes:
        backlog.clear()
        return False
    while backlog:
        transport.write(backlog.take())
    return True
