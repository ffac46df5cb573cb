"""The site: bounds on each request, and headers on every answer."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IAddress, IReactorTime
from twisted.internet.protocol import Factory
from twisted.web import http
from twisted.web.http_headers import Headers
from twisted.web.resource import IResource
from twisted.web.server import Request, Site

from pushserver.auth.origin import valid_host
from pushserver.auth.proxies import Trust
from pushserver.config.limits import Limits
from pushserver.errors import TooMany
from pushserver.usercode.turns import Turns
from pushserver.web.admission import Admission
from pushserver.web.deadlines import Deadlines
from pushserver.web.first_bytes import FirstBytes, Shortcut
from pushserver.web.peer import host
from pushserver.web.pipeline import DeadlineChannel
from pushserver.web.refusal_log import RefusalLog
from pushserver.web.short_post import Answers
from pushserver.web.sockets import is_secure
from pushserver.web.turned_away import Exits, answer_at_once, retry_after

# Arguments: the status, its name, the message, and the relative URL of the server's root.
ErrorPage = Callable[[int, str, str, str], bytes]

LONG_BODY = 65_536
"""The bytes of a body from which a request waits for its turn."""

_ABSOLUTE = re.compile(rb"https?://([^/?]*)(.*)", re.IGNORECASE | re.DOTALL)
"""A target with scheme and authority, as some clients send it that use a proxy."""
HEADERS = {
    b"server": b"pushserver",
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"same-origin",
    b"content-security-policy": (
        b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
        b"connect-src 'self' ws: wss:; font-src 'self'; base-uri 'none'; "
        b"form-action 'self'; frame-ancestors 'self'"
    ),
}


class Fields(Headers):
    """The headers of a request; a value that is read as text may have any bytes."""

    def getRawHeaders(self, name: Any, default: Any = None) -> Any:
        if isinstance(name, bytes):
            return super().getRawHeaders(name, default)
        values = super().getRawHeaders(name.encode())
        return default if values is None else [value.decode("utf-8", "replace") for value in values]


class PushRequest(Request):
    """A request that is refused before its body is read if it is invalid or too long."""

    channel: DeadlineChannel

    def __init__(self, *args: Any, **kwargs: Any):
        # `curl -d` labels every body as a form; here a form is a body like any other.
        super().__init__(*args, **kwargs, parsePOSTFormSubmission=False)
        self.requestHeaders = Fields()
        self._refused = False

    def gotLength(self, length: int | None) -> None:
        super().gotLength(length)
        self._received = 0
        if length is not None:
            self._check_length(length)

    def handleContentChunk(self, data: bytes) -> None:
        self._received += len(data)
        self._check_length(self._received)
        if not self._refused:
            super().handleContentChunk(data)

    def requestReceived(self, command: bytes, path: bytes, version: bytes) -> None:
        if self._refused:
            return
        if self._received < LONG_BODY:
            self._start(command, path, version)
        else:
            # Of 20 publishers of 1 MB each all may arrive in one turn, and take 0.3 s there.
            self.channel.site.turns.later(lambda: self._start(command, path, version))

    def _start(self, command: bytes, path: bytes, version: bytes) -> None:
        if self._disconnected:
            # The peer left meanwhile.
            return
        absolute = _ABSOLUTE.fullmatch(path)
        if absolute is not None:
            authority, path = absolute.groups()
            path = path if path.startswith(b"/") else b"/" + path
            hosts = self.requestHeaders.getRawHeaders("host", [])
            if len(hosts) == 1 or (not hosts and version == b"HTTP/1.0"):
                # The target has precedence (RFC 9112, 3.2.2).
                self.requestHeaders.setRawHeaders(b"host", [authority])
        super().requestReceived(command, path, version)

    def process(self) -> None:
        for name, value in HEADERS.items():
            self.setHeader(name, value)
        problem = self._problem()
        excess = self.channel.count_request()
        if excess is not None:
            self.channel.site.admission.note(self, excess)
            self._refuse(429, str(excess), {b"retry-after": retry_after(excess).encode()})
        elif problem:
            self._refuse(400, problem)
        else:
            super().process()

    def isSecure(self) -> bool:
        return super().isSecure() or is_secure(getattr(self.channel, "transport", None))

    def setHeader(self, name: bytes | str, value: bytes | str) -> None:
        # twisted.web would send its name and version.
        if name in (b"Server", "Server"):
            value = HEADERS[b"server"]
        super().setHeader(name, value)

    def _problem(self) -> str:
        hosts = self.requestHeaders.getRawHeaders("host", [])
        if len(hosts) > 1 or (not hosts and self.clientproto == b"HTTP/1.1"):
            return f"{len(hosts)} Host headers, expected one"
        if hosts and not valid_host(hosts[0]):
            return f"invalid Host {hosts[0][:80]!r}, expected a name or an address"
        if not self.path.startswith(b"/") and self.path != b"*":
            # twisted.web would ignore the first character.
            target = self.path[:80].decode("ascii", "replace")
            return f"invalid target {target!r}, expected a path such as /channels/numbers, or a URL"
        encodings = self.requestHeaders.getRawHeaders("transfer-encoding", [])
        if len(encodings) > 1 or (encodings and self.clientproto != b"HTTP/1.1"):
            return "one Transfer-Encoding at most, and in HTTP/1.1 only"
        return ""

    def _check_length(self, length: int) -> None:
        limit = self.channel.site.limits.body_bytes
        if length > limit and not self._refused:
            self._refuse(413, f"the body has more than {limit} bytes (body_bytes)")

    def _refuse(self, code: int, message: str, fields: dict[bytes, bytes] | None = None) -> None:
        """Answer and end the connection without reading the rest of the request."""
        self._refused = True
        answer = answer_at_once(code, message, {**HEADERS, **(fields or {})})
        self.channel.writeSequence([answer])
        self.channel.loseConnection()


class PushSite(Site):
    """Serves the tree of resources, and logs no requests."""

    noisy = False
    protocol = DeadlineChannel  # type: ignore[assignment]
    requestFactory = PushRequest

    def __init__(
        self,
        root: IResource,
        limits: Limits,
        error_page: ErrorPage,
        reactor: IReactorTime,
        turns: Turns,
        shortcut: Shortcut | None,
        trust: Trust,
        refusals: RefusalLog,
        admission: Admission,
        accepts_tokens: bool,
    ):
        super().__init__(root, timeout=limits.request_seconds, reactor=reactor)
        self.limits = limits
        self.error_page = error_page
        self.trust = trust
        self.accepts_tokens = accepts_tokens
        self.channels: set[DeadlineChannel | FirstBytes] = set()
        self.turns = turns
        self._shortcut = shortcut
        self._empty: Deferred[None] | None = None
        self.log_refusal = refusals.write
        self._log_refusal_of = refusals.write_command
        self.admission = admission
        self.answers = Answers(HEADERS)
        self._deadlines = self._make_deadlines()
        self.exits = Exits(reactor, turns.monotonic, _turned_away)

    def reconfigure(
        self,
        root: IResource,
        limits: Limits,
        shortcut: Shortcut | None,
        trust: Trust,
        accepts_tokens: bool,
    ) -> None:
        """Change the resources and limits for the next requests, also of open connections."""
        self.resource = root
        self.limits = limits
        self.timeOut = limits.request_seconds
        self._deadlines = self._make_deadlines()
        self.trust = trust
        self.accepts_tokens = accepts_tokens
        self._shortcut = shortcut

    def acceptableProtocols(self) -> list[bytes]:
        # Twisted offers h2 if that is installed; our protocols are of HTTP/1.1.
        return [b"http/1.1"]

    @property
    def has_shortcuts(self) -> bool:
        """Whether requests may take short paths."""
        return self._shortcut is not None

    def buildProtocol(self, addr: IAddress | None) -> Any:
        try:
            counted_as = self.admission.enter(addr)
        except TooMany as error:
            return self.exits.protocol(error)
        return self.make_protocol(addr, counted_as)

    def make_protocol(self, addr: IAddress | None, counted_as: str | None) -> Any:
        """The protocol of an admitted connection, for `counted_as` see `Admission`."""
        if self._shortcut is None:
            return self._web(addr, self.limits.request_seconds, counted_as)
        first = FirstBytes(
            addr,
            self.reactor,
            self.turns.monotonic,
            self._deadlines,
            self._shortcut,
            self._web,
            self.release,
            self.admission.leave,
            counted_as,
        )
        self.channels.add(first)
        return first

    def _web(self, address: IAddress | None, seconds: float, counted_as: str | None) -> Any:
        """twisted.web's protocol for a connection, with `seconds` for the first request."""
        protocol: Any = super().buildProtocol(address)
        protocol.timeOut = seconds
        protocol.counted_as = counted_as
        protocol.is_relayed = counted_as is None
        return protocol

    def _make_deadlines(self) -> Deadlines:
        return Deadlines(self.reactor, self.turns.monotonic, self.limits.request_seconds)

    def release(self, channel: DeadlineChannel | FirstBytes) -> None:
        """Forget a connection that is gone, or is no longer one of HTTP."""
        self.channels.discard(channel)
        if not self.channels and self._empty is not None:
            empty, self._empty = self._empty, None
            empty.callback(None)

    def drain(self) -> Deferred[None]:
        """Close each connection after its present answer; fires after the last."""
        if not self.channels:
            return succeed(None)
        empty = self._empty = Deferred()
        for channel in tuple(self.channels):
            channel.end()
        return empty

    def abort(self) -> None:
        """Drop the remaining connections."""
        for channel in tuple(self.channels):
            channel.abort()

    def note_excess(self, request: Request, error: TooMany) -> None:
        """Count and log a request over a bound."""
        self.admission.note(request, error)

    def log_tls(self, peer: Any) -> None:
        """Log that a peer began TLS on a connection of plain HTTP."""
        problem = "a handshake of TLS (https://) on a port of plain HTTP, expected http://"
        self._log_refusal_of(400, host(peer), problem)

    def log(self, request: http.Request) -> None:
        """No-op: each publication by HTTP would be a line."""


class Uncounted(Factory):
    """Serves a site to connections that another process of the server has counted.

    That one also counts the refused requests of each client's connection, by a mark in the answers.
    """

    noisy = False

    def __init__(self, site: PushSite):
        self._site = site

    def buildProtocol(self, addr: IAddress | None) -> Any:
        return self._site.make_protocol(addr, None)


def _turned_away(error: TooMany) -> bytes:
    headers = {**HEADERS, b"retry-after": retry_after(error).encode()}
    return answer_at_once(error.http_status, str(error), headers)
