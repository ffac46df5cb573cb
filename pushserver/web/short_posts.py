"""The POSTs of one connection that take the short path, and the one that waits (`short_post`)."""

from __future__ import annotations

from typing import Any, Literal, Protocol

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from pushserver.config.limits import Limits
from pushserver.errors import TooMany
from pushserver.web.short_post import Answers, AtOnce, Post, read_post
from pushserver.web.sockets import send_now

PER_TURN = 16
"""Requests of one connection in one turn of the reactor; each takes a third of the time that
twisted.web takes, which gets the others."""


class Site(Protocol):
    """The site of the connection."""

    limits: Limits
    answers: Answers
    has_shortcuts: bool


class Connection(Protocol):
    """The connection, which gives what it receives to these or to twisted.web."""

    transport: Any
    failure: BaseException | None

    @property
    def site(self) -> Site: ...

    def is_between_requests(self) -> bool:
        """Whether twisted.web has nothing of the connection, and a request may begin."""

    def count_request(self) -> TooMany | None:
        """Count a request; return the error if it is one too many."""

    def receive(self, data: bytes) -> None:
        """Let twisted.web have these bytes."""

    def dataReceived(self, data: bytes) -> None: ...
    def setTimeout(self, period: float | None) -> Any: ...
    def resume_reading(self) -> None: ...
    def end(self) -> None: ...
    def end_if_done(self) -> None: ...
    def loseConnection(self) -> None: ...


class ShortPosts:
    """Answers the POSTs of a connection, and waits for the publication of one of them."""

    __slots__ = ("_connection", "_ends", "_part", "_post", "_waiting", "counted")

    _log = Logger()

    def __init__(self, connection: Connection):
        self._connection = connection
        # The last head, which the next requests often repeat.
        self._post: Post | None = None
        # The beginning of a request.
        self._part = b""
        # The request that waits for its publication, and the bytes behind it.
        self._waiting: bytes | None = None
        self._ends = False
        self.counted: TooMany | Literal[False] | None = False
        """What `count_request` returned for the request that twisted.web gets next; else False."""

    @property
    def waits(self) -> bool:
        """Whether a request waits for its publication."""
        return self._waiting is not None

    @property
    def has_part(self) -> bool:
        """Whether the next bytes belong to a request that has begun."""
        return bool(self._part)

    def end_after_answer(self) -> None:
        """Close the connection after the answer to the request that waits."""
        self._ends = True

    def wait_behind(self, data: bytes) -> int:
        """Keep these bytes until the request that waits is answered; return how many wait."""
        assert self._waiting is not None, "see `waits`"
        self._waiting += data
        return len(self._waiting)

    def lost(self) -> None:
        """The connection is lost."""
        self._waiting = None

    def received(self, data: bytes) -> bytes:
        """Answer the requests in these bytes; return the rest, which is for twisted.web.

        A body often comes after its head, in a packet of its own.
        """
        connection = self._connection
        make, transport = connection.site.answers.make, connection.transport
        data, self._part = self._part + data, b""
        answers: list[bytes] = []
        failed = False
        while data and len(answers) < PER_TURN and (post := self._read(data)) is not None:
            if len(data) < post.size:
                self._part, data = data, b""
                break
            self.counted = connection.count_request()
            if self.counted is not None:
                break
            try:
                answer = post.answer(connection, data[len(post.text) : post.size])
            except Exception:
                self._log.failure("{path} failed", path=post.path, event_name="request_failed")
                answers.append(connection.site.answers.failure)
                failed = True
                break
            if answer is None:
                break
            if isinstance(answer, Deferred):
                if answers:
                    send_now(transport, b"".join(answers))
                self._wait(answer, data, post.size)
                return b""
            self.counted = False
            answers.append(make(*answer))
            data = data[post.size :]
        if answers:
            send_now(transport, b"".join(answers))
            connection.setTimeout(connection.site.limits.request_seconds)
        if failed:
            connection.loseConnection()
            return b""
        return data

    def _read(self, data: bytes) -> Post | None:
        """The head at the beginning of these bytes; None if they are for twisted.web."""
        if not (self._connection.site.has_shortcuts and self._connection.is_between_requests()):
            return None
        post = self._post
        if post is None or not data.startswith(post.text):
            post = self._post = read_post(data)
            if post is None:
                return None
        return None if post.length > self._connection.site.limits.body_bytes else post

    def _wait(self, answer: Deferred[AtOnce], data: bytes, size: int) -> None:
        """Answer the request, the first `size` bytes of `data`, when its publication is made."""
        self._waiting = data
        self._connection.setTimeout(None)
        answer.addCallbacks(self._published, self._not_published, (size,))

    def _published(self, answer: AtOnce, size: int) -> None:
        data, self._waiting = self._waiting, None
        if data is None:
            return
        connection = self._connection
        self.counted = False
        send_now(connection.transport, connection.site.answers.make(*answer))
        self._go_on()
        if self._ends:
            connection.loseConnection()
        elif data[size:]:
            connection.dataReceived(data[size:])
        else:
            connection.end_if_done()

    def _not_published(self, failure: Failure) -> None:
        """Let twisted.web answer the request, whose resource raises the reason."""
        data, self._waiting = self._waiting, None
        if data is None:
            return
        self._connection.failure = failure.value
        self._go_on()
        self._connection.receive(data)
        if self._ends:
            self._connection.end()

    def _go_on(self) -> None:
        self._connection.setTimeout(self._connection.site.limits.request_seconds)
        self._connection.resume_reading()
