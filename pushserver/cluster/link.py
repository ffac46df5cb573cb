"""The link between the author and a follower: frames over a stream, in both directions."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from socket import socket
from typing import Any

from twisted.internet import unix
from twisted.internet.interfaces import IConsumer, IPushProducer, ITCPTransport
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from pushserver.cluster.messages import BadMessage, Frames
from pushserver.usercode.fork import close_in_forks

MESSAGE_BYTES = 512 * 2**20
"""The longest message; those that can become longer come in parts."""
UNSENT_BYTES = 64 * 2**20
"""An end that leaves more bytes unread is too slow, and loses the link."""
QUIET_SECONDS = 0.00025
"""A frame is sent at once if none was sent in this time. Others wait for the next turn of the
reactor, and leave together."""

_OWN_SOCKET = (unix.Server, unix.Client)


class _Transport(ITCPTransport, IConsumer, IPushProducer):
    """The transport of a Unix socket has all these methods and attributes."""

    socket: socket


@implementer(IPushProducer)
class Link(Protocol):
    """One end of a link. `types` are those of the messages of the other end.

    `received` is called with each message; if it raises, the link ends. `lost` is called once,
    unless the link was never connected. `made` is called with `send` when there is a connection.
    With `seconds`, a steady clock, it sends past the transport where a frame need not wait for the
    reactor.
    """

    _log = Logger()
    transport: _Transport

    def __init__(
        self,
        types: Any,
        made: Callable[[Link], None],
        received: Callable[[Any], None],
        lost: Callable[[], None],
        seconds: Callable[[], float] | None = None,
    ):
        self._frames = Frames(types, MESSAGE_BYTES)
        self._made = made
        self._received = received
        self._lost = lost
        self._seconds = seconds
        self._direct: Callable[[bytes], int] | None = None
        self._sent_at = 0.0
        self._paused = False
        self._ended = False
        self._ignores = False
        # The messages of the bytes that have come, unless all are handled.
        self._messages: Iterator[Any] | None = None
        self._reading_is_paused = False
        self._queue: deque[tuple[bytes, bool]] = deque()
        self.unsent = 0
        """The bytes that wait because the other end does not read, without answers."""
        self._unsent_answers = 0
        self.drained: Callable[[], None] = _ignore
        """Called when some of the waiting frames have left."""

    def connectionMade(self) -> None:
        if self._seconds is not None and type(self.transport) in _OWN_SOCKET:
            self._direct = self.transport.socket.send
        self.transport.registerProducer(self, True)
        self._made(self)

    def send(self, frame: bytes) -> None:
        """Send a frame; raises nothing. A no-op once the link has ended."""
        if self._ended:
            return
        if not self._paused:
            rest = self._send_at_once(frame)
            if rest:
                self.transport.write(rest)
        elif self.unsent > UNSENT_BYTES:
            self._log.warn(
                "a link between two processes of the server ends: {n} bytes were not read",
                n=self.unsent,
                event_name="link_too_slow",
            )
            self.abort()
        else:
            self._queue.append((frame, False))
            self.unsent += len(frame)

    def answer(self, frame: bytes) -> None:
        """Send an answer to the other end, which has asked for all its bytes; raises nothing.

        The owner bounds how many wait: it reads no further message until `has_room_for_answers`.
        """
        if self._paused and not self._ended:
            self._queue.append((frame, True))
            self._unsent_answers += len(frame)
        else:
            self.send(frame)

    def _send_at_once(self, frame: bytes) -> bytes:
        """Send past the transport if nothing waits there; return the bytes that are for it.

        Errors are left to the transport, which meets them too.
        """
        if self._direct is None or self._seconds is None:
            return frame
        now = self._seconds()
        transport: Any = self.transport
        waiting = transport.dataBuffer or transport._tempDataBuffer
        if waiting or now - self._sent_at <= QUIET_SECONDS:
            return frame
        self._sent_at = now
        try:
            return frame[self._direct(frame) :]
        except OSError:
            return frame

    def has_room(self) -> bool:
        """Whether the other end has read enough to be sent another publication."""
        return self.unsent <= UNSENT_BYTES // 2

    def has_room_for_answers(self) -> bool:
        """Whether the other end has read enough to be given another answer."""
        return self._unsent_answers <= UNSENT_BYTES // 2

    def close_in_forks(self) -> None:
        """Let the other end see the end of this process, though a fork of it lives on."""
        opened = getattr(self.transport, "socket", None)
        if opened is not None:
            close_in_forks(opened)

    def abort(self) -> None:
        """End the link at once."""
        self._ended = True
        self._drop_queue()
        self.transport.abortConnection()

    def dataReceived(self, data: bytes) -> None:
        if not self._ignores:
            self._messages = self._frames.feed(data)
            self._handle()

    def pause_reading(self) -> None:
        """Read no more messages until `resume_reading`; called while one is handled."""
        self._reading_is_paused = True
        self.transport.pauseProducing()

    def ignore(self) -> None:
        """Drop all further bytes of the other end; its messages may have other forms."""
        self._ignores = True

    def resume_reading(self) -> None:
        """Read further messages."""
        if self._reading_is_paused and not self._ended:
            self._reading_is_paused = False
            self._handle()
            if not self._reading_is_paused and not self._ended:
                self.transport.resumeProducing()

    def _handle(self) -> None:
        """Handle the messages that have come, up to one that pauses the reading."""
        try:
            for message in self._messages or ():
                if self._ended:
                    return
                self._received(message)
                if self._reading_is_paused:
                    return
                if self._ignores:
                    break
            self._messages = None
        except BadMessage as error:
            self._log.critical(
                "a link between two processes of the server ends: {problem}",
                problem=str(error),
                event_name="link_failed",
            )
            self.abort()
        except Exception:
            self._log.failure(
                "the handling of a message failed, and its link ends", event_name="message_failed"
            )
            self.abort()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._ended = True
        self._drop_queue()
        self._lost()

    def pauseProducing(self) -> None:
        self._paused = True

    def resumeProducing(self) -> None:
        self._paused = False
        while self._queue and not self._paused:
            frame, is_answer = self._queue.popleft()
            if is_answer:
                self._unsent_answers -= len(frame)
            else:
                self.unsent -= len(frame)
            self.transport.write(frame)
        self.drained()

    def stopProducing(self) -> None:
        """No-op: `connectionLost` follows."""

    def _drop_queue(self) -> None:
        self._queue.clear()
        self.unsent = self._unsent_answers = 0


def _ignore() -> None:
    """No-op: nothing waits for it."""
