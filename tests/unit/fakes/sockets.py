"""Sockets that take as much as a test says, under Twisted's own TCP transport."""

from __future__ import annotations

import errno
from collections.abc import Callable
from socket import IPPROTO_TCP, MSG_MORE, TCP_NODELAY
from typing import Any, cast

from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.tcp import Server as TCPServer
from twisted.internet.testing import MemoryReactorClock
from twisted.internet.unix import Server as UnixServer
from twisted.python.failure import Failure

from pushserver.hub.audience import Direct
from pushserver.transports.backlog import Bounds
from pushserver.transports.outlet import Outlet, make_outlet

PLENTY = 1 << 40


class FakeSocket:
    """`taken` has the bytes for the peer to read; `room` more bytes fit.

    One call takes at most `bite` bytes. `on_send` is called first, with all that is sent. `kept`
    are bytes that were sent with MSG_MORE; `on_release` is called with those that leave together.
    """

    def __init__(self, room: int = PLENTY, bite: int = PLENTY):
        self.taken = bytearray()
        self.kept = b""
        self.room = room
        self.bite = bite
        self.error = 0
        self.closed = False
        self.options: list[tuple[int, int, Any]] = []
        self.halves: list[int] = []
        self.on_send: Callable[[bytes], None] = lambda data: None
        self.on_release: Callable[[bytes], None] = lambda data: None

    def send(self, data: bytes, flags: int = 0) -> int:
        self.on_send(data)
        if self.closed:
            raise OSError(errno.EBADF, "closed")
        if self.error:
            raise OSError(self.error, "the peer is gone")
        if data and not self.room:
            raise BlockingIOError(errno.EAGAIN, "full")
        size = min(len(data), self.room, self.bite)
        self.kept += data[:size]
        if not flags & MSG_MORE:
            self._release()
        self.room -= size
        return size

    def setsockopt(self, level: int, option: int, value: Any) -> None:
        self.options.append((level, option, value))
        if (level, option, value) == (IPPROTO_TCP, TCP_NODELAY, 1):
            self._release()

    def _release(self) -> None:
        if self.kept:
            self.on_release(self.kept)
        self.taken += self.kept
        self.kept = b""

    def getsockname(self) -> tuple[str, int]:
        return "127.0.0.1", 8080

    def fileno(self) -> int:
        return 7

    def setblocking(self, blocking: bool) -> None:
        assert not blocking

    def shutdown(self, how: int) -> None:
        self.halves.append(how)

    def close(self) -> None:
        self.closed = True


class DerivedServer(TCPServer):
    """A transport of a subclass, which an outlet must not send past."""


class Ending(Protocol):
    """Keeps the reasons for which its connection was lost."""

    def __init__(self) -> None:
        self.reasons: list[type[BaseException]] = []

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.reasons.append(reason.type)  # type: ignore[arg-type]


def make_transport(
    sock: FakeSocket, reactor: Any, protocol: Any, kind: type[TCPServer] = TCPServer
) -> Any:
    """Twisted's server transport on this socket, as if just accepted."""
    peer: Any = "" if issubclass(kind, UnixServer) else ("127.0.0.1", 50000)
    return kind(cast(Any, sock), protocol, peer, cast(Any, None), 1, reactor)


def turn(reactor: MemoryReactorClock) -> None:
    """One turn of the reactor: transports write, and due calls are made."""
    for descriptor in list(reactor.writers):
        why = cast(Any, descriptor).doWrite()
        if why is not None:
            reactor.removeWriter(descriptor)
            cast(Any, descriptor).connectionLost(Failure(why))
    reactor.advance(0)


def buffered(transport: Any) -> int:
    """Bytes in the transport's own buffer."""
    return int(len(transport.dataBuffer) - transport.offset + transport._tempDataLen)


def backlog(outlet: Any) -> int:
    """Bytes that wait in an outlet."""
    return 0 if outlet._backlog is None else int(outlet._backlog.bytes)


class Peer:
    """One connection over a fake socket, with its outlet.

    It is the outlet's owner, and its conversation unless another is set. `on_slow` is called
    when it is dropped.
    """

    def __init__(
        self,
        make: Callable[..., Outlet] = make_outlet,
        bounds: tuple[int, float] = (PLENTY, 10.0),
        head: bytes = b"",
        sock: FakeSocket | None = None,
        slow: int = 16_384,
    ):
        self.reactor = MemoryReactorClock()
        self.socket = FakeSocket() if sock is None else sock
        self.protocol = Ending()
        self.transport = make_transport(self.socket, self.reactor, self.protocol)
        # Small, so that a few bytes fill it; Twisted's are 64 and 128 KB.
        self.transport.bufferSize = 64
        self.transport.SEND_LIMIT = 48
        self.max_queued = bounds[0]
        self.slowness: list[int] = []
        self.on_slow: Callable[[], None] = lambda: None
        self.conversation: Any = self
        if head:
            self.transport.write(head)
        self.outlet = make(self.transport, Bounds(*bounds, self.reactor.seconds, True, slow), self)

    def block(self, direct: Direct) -> None: ...

    def unblock(self) -> None: ...

    def drained(self) -> None:
        assert self.outlet.blocked_at is None
        assert backlog(self.outlet) == 0

    def slow(self, queued: int, setting: str = "queue_bytes") -> None:
        assert queued == backlog(self.outlet) > self.max_queued
        self.slowness.append(queued)
        self.on_slow()
        self.outlet.finish()
        self.transport.abortConnection()

    def turn(self) -> None:
        turn(self.reactor)

    def drain(self) -> None:
        """Let the peer read everything."""
        self.socket.room = self.socket.bite = PLENTY
        for _ in range(10_000):
            if not self.reactor.writers:
                break
            self.turn()
        assert not self.reactor.writers, "the transport writes for ever"
        self.turn()
