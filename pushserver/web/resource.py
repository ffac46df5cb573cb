"""The base of all resources: dispatch by method, refusals, JSON answers."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.http import RESPONSES
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request

from pushserver.errors import InvalidToken, PushServerError, Refused, TooMany, WrongKey, escaped
from pushserver.protocols.formats import Format
from pushserver.web.accept import preferred
from pushserver.web.first_bytes import Head
from pushserver.web.mount import REFUSED, depth, is_relayed, refused_too_often, surroundings
from pushserver.web.turned_away import retry_after

MAX_PAGE_DEPTH = 32
"""The most slashes in the path of an error that is answered with a page."""

JSON = "application/json"
HTML = "text/html"
EVENT_STREAM = "text/event-stream"
LINES = "application/x-ndjson"

Answer = bytes | int | Awaitable[bytes | int]

# Takes over a request, and calls the function with the transport; that returns the conversation.
Open = Callable[[Request, Format, Callable[[Any], Any]], int]

# The result of `websocket(request)`, by which a resource accepts a WebSocket handshake: the format
# and what makes the conversation. The method raises Refusal, and has no side effect, as it may be
# called twice (see `first_bytes`).
WebSocket = tuple[Format, Callable[[Any], Any]]


class Refusal(PushServerError):
    """A request is refused, with this status, message and headers of the answer."""

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None):
        super().__init__(message)
        self.http_status = status
        self.headers = headers or {}


class LeafResource(Resource):
    """A resource whose `answer_get`, `answer_post`, ... return the body of the answer.

    They may also return NOT_DONE_YET when they answer themselves, or an awaitable of the body.
    HEAD is GET without the body. An exception with an `http_status`, such as a Refusal, is
    answered with that; any other is logged, and answered with a 500 that says nothing of it.
    """

    isLeaf = True
    _log = Logger()

    def render(self, request: Request) -> bytes | int:
        verb = request.method.decode("ascii", "replace")
        # Methods are case-sensitive (RFC 9110, 9.1).
        name = verb.lower() if verb.isupper() else ""
        method = getattr(self, f"answer_{'get' if name == 'head' else name}", None)
        try:
            if _allow_origin(request) and name == "options":
                return self._preflight(request)
            if method is None:
                allowed = self._allow()
                problem = f"{verb[:20]} is not a method of this URL, expected {allowed}"
                raise Refusal(405, problem, {"allow": allowed})
            answer = method(request)
        except Exception as error:
            answer = self._answer_error(request, error)
        if not isinstance(answer, (bytes, int)):
            return self._wait(request, answer)
        return _without_body(request, answer) if name == "head" else answer

    def _preflight(self, request: Request) -> int:
        """Tell a page of an allowed origin what it may send (the Fetch standard, 3.2)."""
        request.setHeader(b"access-control-allow-methods", self._allow())
        request.setHeader(b"access-control-allow-headers", _CORS_HEADERS)
        request.setHeader(b"access-control-max-age", b"600")
        return no_content(request)

    def _allow(self) -> str:
        methods = ("get", "head", "post", "delete", "options")
        return ", ".join(
            name.upper()
            for name in methods
            if hasattr(self, f"answer_{'get' if name == 'head' else name}")
        )

    def _wait(self, request: Request, answer: Awaitable[bytes | int]) -> int:
        gone: list[Failure] = []
        request.notifyFinish().addErrback(gone.append)

        def failed(failure: Failure) -> Any:
            return self._answer_error(request, failure.value, failure)

        def finish(body: bytes | int) -> None:
            if not gone and isinstance(body, bytes):
                request.setHeader(b"content-length", b"%d" % len(body))
                request.write(body)
                request.finish()

        Deferred.fromCoroutine(_await(answer)).addErrback(failed).addCallback(finish)
        return NOT_DONE_YET

    def _answer_error(
        self, request: Request, error: BaseException | None, failure: Failure | None = None
    ) -> bytes | Deferred[bytes]:
        if isinstance(error, PushServerError) and error.http_status:
            body = refuse(request, error)
            late = isinstance(error, WrongKey) and error.delay
            return _later(request, late, body) if late else body
        self._log.failure("{path} failed", failure, path=request.path, event_name="request_failed")
        return refuse(request, _INTERNAL)


_CORS_HEADERS = (
    b"accept, authorization, cache-control, content-type, idempotency-key, last-event-id,"
    b" x-api-key, x-idempotency-key, x-requested-with"
)


def _allow_origin(request: Request) -> bool:
    """Let the browser give the answer to a page of an origin of `allowed_origins`.

    Also the answer to a request with credentials, which `EventSource` may send and `sendBeacon`
    always sends, if the origin itself is listed. The server uses no cookies, but a proxy in front
    of it may, and others may have names that match a pattern.
    """
    origin = header(request, "origin")
    allowed = surroundings(request).trust.origins
    if origin is None or origin not in allowed:
        return False
    request.setHeader(b"access-control-allow-origin", origin.encode("ascii", "replace"))
    request.setHeader(b"access-control-expose-headers", b"pushserver-cursor, pushserver-reset")
    if allowed.has_exact(origin):
        request.setHeader(b"access-control-allow-credentials", b"true")
    vary(request, b"Origin")
    return True


def vary(request: Request, name: bytes) -> None:
    """Add a name to the Vary header of the answer, unless it is there."""
    if name not in request.responseHeaders.getRawHeaders(b"vary", []):
        request.responseHeaders.addRawHeader(b"vary", name)


def _later(request: Request, seconds: float, body: bytes) -> Deferred[bytes]:
    return deferLater(surroundings(request).reactor, seconds, lambda: body)


async def _await(answer: Awaitable[bytes | int]) -> bytes | int:
    return await answer


class Refusing(LeafResource):
    """Refuses every request."""

    def __init__(self, refusal: Refusal):
        super().__init__()
        self._refusal = refusal

    def render(self, request: Request) -> bytes | int:
        _allow_origin(request)
        body = refuse(request, self._refusal)
        return _without_body(request, body) if request.method == b"HEAD" else body


class NotFound(LeafResource):
    """Answers 404 to every request, with its path and `expected`."""

    def __init__(self, expected: str = ""):
        super().__init__()
        self._expected = expected

    def render(self, request: Request) -> bytes | int:
        return Refusing(not_found(request, self._expected)).render(request)


def not_found(request: Any, expected: str = "") -> Refusal:
    """The refusal of a URL at which nothing is; `expected` is one that was perhaps meant."""
    path = escaped(request.path.decode("latin-1")[:_PATH_CHARACTERS])
    return Refusal(404, f"there is nothing at {path}{expected and f', expected {expected}'}")


class ContainerResource(Resource):
    """A resource with children, which answers 404 itself."""

    def __init__(self, children: Mapping[bytes, Resource] | None = None):
        super().__init__()
        for name, child in (children or {}).items():
            self.putChild(name, child)

    def getChild(self, path: bytes, request: Request) -> Resource:
        return NotFound()

    def render(self, request: Request) -> bytes | int:
        return NotFound().render(request)


_PATH_CHARACTERS = 100
"""Of a path in a message."""
_INTERNAL = Refusal(500, "internal server error")
TOO_MANY = Refusal(
    429,
    "too many refused requests on one connection (refused_requests_per_second)",
    {"retry-after": "10", "connection": "close"},
)
RETRY = {"retry-after": "1"}
_NEEDS_KEY = {"www-authenticate": "ApiKey"}
BEARER = b'Bearer realm="pushserver"'
"""The challenge to a request without a token (RFC 6750, section 3)."""
_HEADERS = {401: _NEEDS_KEY, 429: {"retry-after": "60"}, 503: RETRY}
"""Of the answers to exceptions other than Refusal."""
_TITLES = {**RESPONSES, 426: b"Upgrade Required", 429: b"Too Many Requests"}


def refuse(request: Request, error: PushServerError) -> bytes:
    """The answer for an exception with an `http_status`: a page for a browser, else JSON."""
    if is_relayed(request.channel):
        request.setHeader(REFUSED, b"1")
    elif refused_too_often(request.channel):
        error = TOO_MANY
    status, text = error.http_status, str(error)
    if isinstance(error, TooMany):
        surroundings(request).note_excess(request, error)
    elif status in (401, 403, 429) and not isinstance(error, Refused):
        # A refusal by a handler of the application is no attack: fail2ban reads this log.
        surroundings(request).log_refusal(request, status, text)
    title = _TITLES.get(status, b"Error")
    request.setResponseCode(status, title)
    request.setHeader(b"cache-control", b"no-store")
    headers = error.headers if isinstance(error, Refusal) else _HEADERS.get(status, {})
    if isinstance(error, TooMany):
        headers = {"retry-after": retry_after(error)}
    elif isinstance(error, InvalidToken):
        headers = {"www-authenticate": _bearer_challenge(text)}
    for name, value in headers.items():
        request.setHeader(name, value)
    if headers is _NEEDS_KEY and surroundings(request).accepts_tokens:
        # A field of its own, as not all clients can parse a list of challenges (RFC 9110, 11.6.1).
        request.responseHeaders.addRawHeader(b"www-authenticate", BEARER)
    # A page repeats its way to the root in each link.
    levels = depth(request)
    if wants(request, (JSON, HTML)) == HTML and levels <= MAX_PAGE_DEPTH:
        request.setHeader(b"content-type", b"text/html; charset=utf-8")
        root = "/".join([".."] * levels) or "."
        site = surroundings(request)
        return site.error_page(status, title.decode(), text, root)
    return answer_json(request, {"error": {"code": status, "message": text}})


def _bearer_challenge(problem: str) -> str:
    """The challenge for a token that is not valid (RFC 6750, section 3)."""
    description = _NOT_IN_DESCRIPTION.sub("'", problem)[:_DESCRIPTION_CHARACTERS]
    return f'Bearer error="invalid_token", error_description="{description}"'


_NOT_IN_DESCRIPTION = re.compile(r"[^\x20-\x21\x23-\x5b\x5d-\x7e]")
_DESCRIPTION_CHARACTERS = 300


def no_content(request: Request) -> int:
    """Answer 204, without a body and without a length (RFC 9110, 8.6)."""
    request.setResponseCode(204)
    request.finish()
    return NOT_DONE_YET


def answer_json(request: Request, value: object) -> bytes:
    """Set the headers of a JSON answer, and return its body."""
    request.setHeader(b"content-type", JSON.encode())
    request.setHeader(b"cache-control", b"no-store")
    return encode_json(value)


def encode_json(value: object) -> bytes:
    """The body of a JSON answer."""
    return msgspec.json.encode(value) + b"\n"


def wants(request: Request, offers: tuple[str, ...]) -> str | None:
    """The offer that the Accept header prefers; the answer gets `Vary: Accept`."""
    vary(request, b"Accept")
    return preferred(header(request, "accept") or "", offers)


def header(request: Request, name: str) -> str | None:
    """The value of a header, several joined by commas; None if it is missing.

    `name` is in lower case.
    """
    head: Any = request
    if isinstance(head, Head):
        return head.fields.get(name)
    values = request.requestHeaders.getRawHeaders(name)
    return None if values is None else ", ".join(values)


def is_upgrade(request: Request) -> bool:
    """Whether the request asks for an upgrade to WebSocket."""
    upgrade = (header(request, "upgrade") or "").lower()
    return "websocket" in (part.strip() for part in upgrade.split(","))


def _without_body(request: Request, answer: bytes | int) -> bytes | int:
    if isinstance(answer, bytes):
        request.setHeader(b"content-length", b"%d" % len(answer))
        return b""
    return answer
