"""Outlets send frames to a socket at once, or in order behind waiting bytes, and cut slow readers.

`transport.write` costs three system calls and a trip through the reactor for each peer; one
`send` on the socket costs one. These rules make it safe to send past the transport:

1. Only past a transport that owns its socket: exactly Twisted's TCP or Unix server, with no TLS.
   TLS and protocol wrappers hand out the raw socket too, and a send there would put plain text
   into the encrypted stream. Decided once, when the connection opens, by `owns_its_socket`.
2. Only while nothing waits, here or in the transport's buffer. The outlet knows that, because all
   writes to the peer go through it (Autobahn's pongs and close frames too).
3. Bytes that the socket does not take wait here, with all later ones behind them. The transport
   pulls a portion when its buffer is empty; the outlet is its producer only while bytes wait.
4. Waiting frames are shared: a frame that a thousand peers wait for is in memory once. A long
   replay is made in portions, each when the last one has left. So neither makes a peer slow. A
   peer is slow when it leaves more than `queue_bytes` behind the frame or the replay that is being
   sent and makes no progress for `queue_seconds`, or four times as much. Progress is a rate of
   `slow_bytes_per_second`; at half of it, the time is twice as long. All peers together may leave
   `unsent_bytes` (`unsent`).
5. After `finish` nothing goes past the transport: the bytes with which Autobahn or twisted.web
   end the connection come last, and no producer keeps a closing transport open.
6. Errors of the socket are left to the transport: it gets the frame, its own write meets the
   same error, and it reports the loss, once.

Where rule 1 forbids it, `PlainOutlet` gives the same order and the same bounds.
"""

from __future__ import annotations

import socket
from typing import Any

from twisted.internet.interfaces import IPullProducer, IPushProducer
from zope.interface import implementer

from pushserver.hub.audience import Direct
from pushserver.transports.backlog import Backlog, Bounds, Replay
from pushserver.transports.unsent import Owner
from pushserver.web.sockets import owns_its_socket

KERNEL_BYTES = 262_144
"""The kernel's buffer for one peer; by default it grows to 4 MB."""


SLOW = "{peer} is dropped: it left {queued} bytes unread ({setting})"
"""The line in the log."""


def make_outlet(
    transport: Any, bounds: Bounds, owner: Owner, empty: bool = False
) -> DirectOutlet | PlainOutlet:
    """The outlet for a transport; `empty` if its buffer is known to be empty."""
    raw_socket = getattr(transport, "socket", None)
    if raw_socket is not None:
        raw_socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, KERNEL_BYTES)
    if bounds.direct and owns_its_socket(transport):
        return DirectOutlet(transport, bounds, owner, empty)
    return PlainOutlet(transport, bounds, owner)


@implementer(IPullProducer)
class DirectOutlet:
    """Sends into the socket while nothing waits."""

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
        # Made when bytes have to wait, which never happens on most connections.
        self._backlog: Backlog | None = None
        self._open = empty
        if not empty:
            # The answer to the handshake, or the head of the response, is still in the buffer.
            # The registration itself calls resumeProducing, which must not count: hence _open.
            transport.registerProducer(self, False)
            self._open = True
            transport.startWriting()

    def write(self, data: bytes) -> None:
        """Send the data, behind all that was written before."""
        if self.direct is None:
            self.send_rest(data, 0)
            return
        try:
            taken = self.direct(data)
        except OSError:
            taken = 0
        if taken != len(data):
            self.send_rest(data, taken)

    def finish(self) -> bool:
        """Hand over to the transport, which now writes the end of the connection.

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

    def replay(self, replay: Replay) -> None:
        """Send these frames, behind all that was written before; each when the last has left."""
        if self._send is None:
            return
        if self._backlog is None:
            self._backlog = Backlog(self._bounds, self._owner)
        self._backlog.add_replay(replay)
        if self.direct is not None:
            self._block(self.direct)
            # This calls resumeProducing at once.
            self._transport.registerProducer(self, False)

    def end_replays(self) -> None:
        """Drop the rest of each replay, and all frames behind the first one."""
        if self._backlog is not None:
            self._backlog.end_replays()

    def resumeProducing(self) -> None:
        # The transport's buffer is empty.
        if self._backlog and (portion := self._backlog.take()):
            self.blocked_at = _progress(self.blocked_at, self._backlog, portion, self._bounds)
            self._transport.write(portion)
        elif self._open:
            self._backlog = None
            self._transport.unregisterProducer()
            self.direct = self._send
            self.blocked_at = None
            conversation = self._owner.conversation
            if conversation is not None:
                conversation.unblock()
                conversation.drained()

    def send_rest(self, frame: bytes, taken: int) -> None:
        if self._send is None:
            self._transport.write(frame[taken:])
            return
        if self._backlog is None:
            self._backlog = Backlog(self._bounds, self._owner)
        if not self._backlog.add(frame, taken):
            self._owner.slow(self._backlog.bytes)
        elif self.direct is not None:
            self._block(self.direct)
            # This calls resumeProducing at once.
            self._transport.registerProducer(self, False)

    def _block(self, direct: Direct) -> None:
        self.direct = None
        self.blocked_at = self._bounds.clock()
        conversation = self._owner.conversation
        if conversation is not None:
            conversation.block(direct)

    def stopProducing(self) -> None:
        """The connection is lost; the owner learns it from the protocol."""
        self.clear()

    def clear(self) -> None:
        """Drop all that waits."""
        if self._backlog is not None:
            self._backlog.clear()
            self._backlog = None


@implementer(IPushProducer)
class PlainOutlet:
    """Writes to the transport while it does not ask for a pause.

    A pause bounds nothing: the transport's buffer takes all writes (12.8 MB for one unread socket,
    in a trial). The transport asks for a pause again at each write while its buffer is over its
    own mark.
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
        self._backlog = Backlog(bounds, owner)
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
            self._flush()

    def send_rest(self, frame: bytes, taken: int) -> None:
        self.write(frame[taken:])

    def replay(self, replay: Replay) -> None:
        if not self._finished:
            self._backlog.add_replay(replay)
            self._flush()

    def end_replays(self) -> None:
        self._backlog.end_replays()

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
        self._flush()
        if self.blocked_at is not None and not self._paused:
            self.blocked_at = None
            if self._owner.conversation is not None:
                self._owner.conversation.drained()

    def _flush(self) -> None:
        while self._backlog and not self._paused:
            portion = self._backlog.take()
            if self.blocked_at is not None:
                self.blocked_at = _progress(self.blocked_at, self._backlog, portion, self._bounds)
            self._transport.write(portion)

    def stopProducing(self) -> None:
        """The connection is lost; the owner learns it from the protocol."""
        self.clear()

    def clear(self) -> None:
        """Drop all that waits."""
        self._backlog.clear()


class LostOutlet:
    """The outlet of a lost connection: sends nothing."""

    direct = None
    blocked_at = None

    def write(self, data: bytes) -> None: ...

    def send_rest(self, frame: bytes, taken: int) -> None: ...

    def replay(self, replay: Replay) -> None: ...

    def end_replays(self) -> None: ...

    def clear(self) -> None: ...

    def finish(self) -> bool:
        return True


LOST_OUTLET = LostOutlet()
"""Replaces an outlet when the connection is lost. Outlet and owner refer to each other: without one
of the references both are freed at once, with no collection."""


Outlet = DirectOutlet | PlainOutlet | LostOutlet


def _progress(since: float | None, backlog: Backlog, portion: bytes, bounds: Bounds) -> float:
    """The time since which a peer makes no progress, after it was sent this portion."""
    if since is None or not backlog.is_long:
        return bounds.clock()
    return bounds.progress(since, len(portion))


def _hand_over(backlog: Backlog | None, transport: Any, bounds: Bounds) -> bool:
    """Write all waiting bytes to the transport, which copies them; False if over the bound."""
    if backlog is None:
        return True
    backlog.end_replays()
    if backlog.bytes > bounds.bytes:
        backlog.clear()
        return False
    while backlog:
        transport.write(backlog.take())
    return True
