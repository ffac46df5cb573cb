"""The short path of a POST: a small request that has arrived whole, and only waits for its effect.

Two thirds of the time of such a request are twisted.web's. The short path accepts only a head that
is certainly valid, with no header that proxies, pages or codings add, and asks the same resources,
by `answer_at_once`. Everything else, and each request that is refused, goes to twisted.web from its
first byte. PUSHSERVER_SHORTCUTS=off omits the short path.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from time import time
from typing import Any, cast

from twisted.internet.defer import Deferred
from twisted.web.http import RESPONSES, datetimeToString
from twisted.web.resource import IResource, getChildForRequest
from twisted.web.server import Request

from pushserver.auth.origin import valid_host
from pushserver.web.first_bytes import Head, parse_args
from pushserver.web.turned_away import answer_at_once

CURSOR = b"pushserver-cursor"
"""The header with the position of an answer: `since=` of a stream that continues it."""
MAX_HEAD_BYTES = 4_096
"""The longest head; a connection keeps its last one."""
MAX_BODY_BYTES = 16_384
"""The longest body; a longer one takes more time than its head."""

_HEAD = re.compile(
    rb"POST (/[A-Za-z0-9_./:@~-]*)(?:\?([!-~]*))? HTTP/1\.1\r\n"
    rb"((?:[A-Za-z-]{1,64}:[\t -~]*\r\n){1,32})\r\n"
)
_CURSOR = CURSOR.title()
_JSON = b"Content-Type: application/json\r\nCache-Control: no-store\r\nContent-Length: "
_LENGTH = re.compile(r"[0-9]{1,5}")
_FIELDS = frozenset(
    {
        *("host", "content-length", "content-type", "connection", "authorization", "x-api-key"),
        *("user-agent", "accept", "accept-encoding", "accept-language", "idempotency-key"),
        *("x-idempotency-key", "cache-control", "pragma"),
    }
)
"""The headers of programs. One of a proxy, of a page or of another coding is for twisted.web."""

AtOnce = tuple[int, bytes, bytes]
"""The status and the JSON text of an answer, and its cursor, or nothing."""

Soon = AtOnce | Deferred[AtOnce]
"""An answer, perhaps a later one. If that fails, twisted.web answers the request, whose resource
calls `raise_failure` before all else."""

AnswerAtOnce = Callable[[Any, bytes], Soon | None]
"""The method `answer_at_once` of a resource: the answer to a request and its body.

None, for a request that twisted.web must answer, comes before any effect.
"""


def raise_failure(request: Request) -> None:
    """Raise the reason why the publication of this request was not made on the short path."""
    channel: Any = request.channel
    failure = getattr(channel, "failure", None)
    if failure is not None:
        channel.failure = None
        raise failure


class Post(Head):
    """The head of a POST, for all requests of its connection that repeat it.

    `text`: its bytes; `length`: those of a body; `size`: those of both.
    """

    method = b"POST"

    def __init__(self, match: re.Match[bytes], fields: dict[str, str]):
        super().__init__(match[1], parse_args(match[2]), fields, {}, None)
        self.text = match[0]
        self.length = int(fields["content-length"])
        self.size = len(self.text) + self.length
        self._root: IResource | None = None
        self._ask: AnswerAtOnce | None = None

    def answer(self, channel: Any, body: bytes) -> Soon | None:
        """The answer to this head and body on a connection, from the resources of its site."""
        self.channel, self._transport = channel, channel.transport
        try:
            ask = self._find(channel.site.resource)
            return None if ask is None else ask(self, body)
        finally:
            # The connection keeps the head: a cycle would outlast it.
            self.channel = self._transport = None

    def _find(self, root: IResource) -> AnswerAtOnce | None:
        """The `answer_at_once` of the resource below `root`; None if it has none."""
        if root is not self._root:
            self._root = root
            self.prepath, self.postpath = [], self.path[1:].split(b"/")
            try:
                resource = getChildForRequest(root, cast(Request, self))
            except Exception:
                # The long path raises it again, and answers it.
                resource = None
            self._ask = getattr(resource, "answer_at_once", None)
        return self._ask


def read_post(data: bytes) -> Post | None:
    """The head of a POST at the beginning of these bytes; None for one of the long path."""
    match = _HEAD.match(data, 0, MAX_HEAD_BYTES)
    if match is None:
        return None
    lines = match[3].decode().split("\r\n")[:-1]
    pairs = [line.split(":", 1) for line in lines]
    fields = {name.lower(): value.strip(" \t") for name, value in pairs}
    length = fields.get("content-length", "")
    if (
        len(lines) != len(fields)
        or not fields.keys() <= _FIELDS
        or fields.get("connection", "keep-alive").lower() != "keep-alive"
        or not valid_host(fields.get("host", ""))
        or not _LENGTH.fullmatch(length)
        or int(length) > MAX_BODY_BYTES
    ):
        return None
    return Post(match, fields)


class Answers:
    """Makes the bytes of answers as twisted.web does, with these headers; a date each second.

    `failure` is the last answer of a connection, for an unexpected exception.
    """

    def __init__(self, headers: Mapping[bytes, bytes]):
        named = ((name.title(), value) for name, value in headers.items())
        self._headers = b"".join(b"%b: %b\r\n" % pair for pair in named)
        self.failure = answer_at_once(500, "internal server error", dict(headers))
        self._second = 0
        self._heads: dict[int, bytes] = {}

    def make(self, status: int, text: bytes, cursor: bytes = b"") -> bytes:
        """An answer in JSON, with 200 or 201; with the header of a cursor, unless it is empty."""
        now = int(time())
        if now != self._second:
            self._second = now
            self._heads = {
                code: b"HTTP/1.1 %d %b\r\n%bDate: %b\r\n"
                % (code, RESPONSES[code], self._headers, datetimeToString(now))
                for code in (200, 201)
            }
        named = b"%b: %b\r\n" % (_CURSOR, cursor) if cursor else b""
        return b"%b%b%b%d\r\n\r\n%b" % (self._heads[status], named, _JSON, len(text), text)
