"""The answer to one request, which a thread of the application sends piece by piece."""

from __future__ import annotations

import threading
from collections import deque
from typing import Any

from twisted.internet.interfaces import IPushProducer, IReactorFromThreads
from twisted.logger import Logger
from twisted.web.server import Request
from zope.interface import implementer

from pushserver.errors import PushServerError
from pushserver.web.resource import Refusal, refuse
from pushserver.web.site import HEADERS
from pushserver.wsgi.file_wrapper import FileRest
from pushserver.wsgi.head import Head

PIECE = 65_536
"""The most bytes that are sent at once; the connection asks for a pause at this size."""

AHEAD_BYTES = 1_048_576
"""The most bytes of one answer that wait for its client while the thread works on."""

MEMORY_BYTES = 67_108_864
"""The same for all answers together; above it, the thread of a client that does not read waits."""

ENTRY_BYTES = 100
"""The memory of a piece beside its bytes, roughly."""

FAILED = Refusal(500, "the application failed")


class Disconnected(ConnectionAbortedError):
    """The client has left; nothing more is sent to it."""

    def __init__(self) -> None:
        super().__init__("the client has disconnected")


class Memory:
    """The bytes of all answers that wait for their clients, out of `most`."""

    def __init__(self, most: int = MEMORY_BYTES):
        self.bytes = 0
        self._most = most

    @property
    def is_full(self) -> bool:
        """Whether an answer may not get further ahead of its client."""
        return self.bytes >= self._most


@implementer(IPushProducer)
class Answer:
    """Passes the pieces of one answer from its thread to the reactor's.

    One piece at a time is on its way. While the client does not read, AHEAD_BYTES wait for it
    here; then `send` waits too. So a slow client has the thread only during a long answer, and
    never during a file. All methods except `send`, `send_file` and `gone` are for the reactor's
    thread.
    """

    _log = Logger()

    def __init__(self, request: Request, reactor: IReactorFromThreads, memory: Memory):
        self._request = request
        self._reactor = reactor
        self._memory = memory
        self._changed = threading.Condition()
        self._on_its_way = False
        self._paused = False
        self._gone = False
        self._started = False
        self._complete = False
        self._file: FileRest | None = None
        self._ahead: deque[bytes] = deque()
        self._bytes = 0
        """The memory of `_ahead`."""
        request.notifyFinish().addBoth(lambda _: self.leave())

    @property
    def gone(self) -> bool:
        """Whether the client has left, or the answer has ended."""
        return self._gone

    def send(self, head: Head | None, data: bytes) -> None:
        """Send a piece, the first one with the head; returns before it has left.

        For the thread of the application. Raises Disconnected.
        """
        self._wait_for_room()
        self._reactor.callFromThread(self._take, head, data)

    def send_file(self, head: Head | None, file: FileRest) -> None:
        """Let the reactor's thread send this file, which it also closes; then nothing follows.

        For the thread of the application. Raises Disconnected, and then has not taken the file.
        """
        self._wait_for_room()
        self._reactor.callFromThread(self._take, head, b"", file)

    def _wait_for_room(self) -> None:
        with self._changed:
            while not self._gone and (self._on_its_way or self._is_too_far_ahead):
                self._changed.wait()
            if self._gone:
                raise Disconnected
            self._on_its_way = True

    @property
    def _is_too_far_ahead(self) -> bool:
        return self._paused and (self._bytes >= AHEAD_BYTES or self._memory.is_full)

    def _take(self, head: Head | None, data: bytes, file: FileRest | None = None) -> None:
        if head is not None:
            self._begin(head)
        self._file = file
        if self._gone:
            self._close_file()
        else:
            if data:
                self._count(data, 1)
                self._ahead.append(data)
            self._write()
        with self._changed:
            self._on_its_way = False
            self._changed.notify()

    def _begin(self, head: Head) -> None:
        if self._gone:
            return
        request: Any = self._request
        self._started = True
        # The policies of the server's own pages do not apply to the application.
        for name in HEADERS:
            if name != b"server":
                request.responseHeaders.removeHeader(name)
        request.defaultContentType = None
        request.setResponseCode(head.status, head.reason)
        for name, value in head.headers:
            request.responseHeaders.addRawHeader(name, value)
        request.registerProducer(self, True)

    def _write(self) -> None:
        """Write while the client reads; at the end of the answer, end the request."""
        while not self._paused and not self._gone and (data := self._next()):
            self._request.write(data)
        if self._complete and not self._ahead and self._file is None and not self._gone:
            self._request.unregisterProducer()
            self._request.finish()

    def _next(self) -> bytes:
        """The next piece; empty if there is none yet, or the answer has ended."""
        if self._ahead:
            data = self._ahead.popleft()
            self._count(data, -1)
            return data
        if self._file is not None:
            try:
                if data := self._file.read(PIECE):
                    return data
            except Exception:
                self._log.failure("a file cannot be sent", event_name="wsgi_file_failed")
                self.fail()
            self._close_file()
        return b""

    def _close_file(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            try:
                file.close()
            except Exception:
                self._log.failure("a file cannot be closed", event_name="wsgi_file_failed")

    def _count(self, data: bytes, sign: int) -> None:
        size = len(data) + ENTRY_BYTES
        self._bytes += sign * size
        self._memory.bytes += sign * size

    def finish(self, head: Head | None) -> None:
        """End the answer after its last piece; `head` is for an answer without any."""
        if head is not None:
            self._begin(head)
        self._complete = True
        self._write()

    def fail(self, error: PushServerError = FAILED) -> None:
        """Answer with this error, or close the connection if the head was sent."""
        if self._gone:
            return
        if self._started:
            self.leave()
            self._request.unregisterProducer()
            self._request.loseConnection()
            return
        body = refuse(self._request, error)
        self._request.setHeader(b"content-length", b"%d" % len(body))
        # twisted.web leaves out the body of an answer to HEAD.
        self._request.write(body)
        self._request.finish()

    def leave(self) -> None:
        """Send nothing more."""
        self._memory.bytes -= self._bytes
        self._bytes = 0
        self._ahead.clear()
        self._close_file()
        with self._changed:
            self._gone = True
            self._changed.notify()

    def pauseProducing(self) -> None:
        self._paused = True

    def resumeProducing(self) -> None:
        self._paused = False
        self._write()
        with self._changed:
            self._changed.notify()

    def stopProducing(self) -> None:
        self.leave()
