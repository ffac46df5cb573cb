"""The server as a part of another Twisted site."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, cast

from twisted.internet.interfaces import IReactorTime
from twisted.web.http import parse_qs
from twisted.web.resource import IResource, Resource
from twisted.web.server import Request

from pushserver.auth.proxies import Trust
from pushserver.errors import TooMany
from pushserver.web.pipeline import DeadlineChannel
from pushserver.web.site import HEADERS, Fields
from pushserver.web.sockets import drop

CLOSING_SECONDS = 15


class Surroundings(Protocol):
    """The site of a resource, as the resource needs it."""

    trust: Trust
    accepts_tokens: bool
    """Whether a token would do in place of an API key."""

    def error_page(self, status: int, title: str, message: str, root: str, /) -> bytes:
        """The page of an error; `root` is the relative URL of the server's root."""

    @property
    def log_refusal(self) -> Callable[[Request, int, str], None]:
        """Logs a refusal: its request, its status and its reason."""

    def note_excess(self, request: Request, error: TooMany, /) -> None:
        """Count and log a request over a bound."""

    @property
    def reactor(self) -> IReactorTime:
        """The reactor of the server."""


class Mounted(Resource):
    """The root of the server at any path of another site, whose bounds on requests apply.

    That site may outlive the server: while `is_closed()`, `closed` answers all requests.
    """

    def __init__(
        self,
        root: IResource,
        site: Surroundings,
        closed: Resource,
        is_closed: Callable[[], bool],
    ):
        super().__init__()
        self._root = root
        self._site = site
        self._closed = closed
        self._is_closed = is_closed

    def getChildWithDefault(self, path: bytes, request: Any) -> Any:
        # Another site also puts the fields of a form there, which are a body to publish here.
        plain, _, query = request.uri.partition(b"?")
        request.args = parse_qs(query, True)
        if b"cf_connect" in request.args or b"token" in request.args:
            # A connect command and a token are secrets, and that site may log the URL.
            request.uri = plain
        request.requestHeaders = Fields(dict(request.requestHeaders.getAllRawHeaders()))
        for name, value in HEADERS.items():
            if name != b"server":
                request.setHeader(name, value)
        request.surroundings = self._site
        request.above = len(request.prepath) - 1
        if self._is_closed():
            return self._closed
        return self._root.getChildWithDefault(path, request)

    def render(self, request: Request) -> bytes:
        return to_folder(request)


def surroundings(request: Request) -> Surroundings:
    """The server's site, also if the server is mounted in another."""
    return cast(Surroundings, getattr(request, "surroundings", None) or request.site)


def to_folder(request: Request) -> bytes:
    """Redirect to the URL with a slash, to which a page's links are relative.

    The Location is relative too, since a proxy may serve this URL below another path.
    """
    name = request.path.rpartition(b"/")[2]
    _, mark, query = request.uri.partition(b"?")
    request.redirect(b"./" + name + b"/" + mark + query)
    return b""


def depth(request: Request) -> int:
    """The number of slashes between the server's root and this request's path."""
    return request.path.count(b"/") - 1 - int(getattr(request, "above", 0))


REFUSED = b"pushserver-refused"
"""The field by which another process of the server knows that its answer is a refusal."""


def is_relayed(channel: Any) -> bool:
    """Whether another process of the server counts the refused requests of the client."""
    return isinstance(channel, DeadlineChannel) and channel.is_relayed


def refused_too_often(channel: Any) -> bool:
    """Count a refused request of an HTTP connection; whether it is one too many.

    Another site has bounds of its own.
    """
    return isinstance(channel, DeadlineChannel) and channel.refused_too_often()


def mark_open_ended(channel: Any) -> None:
    """Note that the present answer may take any time; see `DeadlineChannel.is_open_ended`.

    The connections of another site end when the client closes its side.
    """
    if isinstance(channel, DeadlineChannel):
        channel.mark_open_ended()


def end(channel: Any) -> None:
    """Close an HTTP connection when everything is sent, or after CLOSING_SECONDS."""
    channel.setTimeout(CLOSING_SECONDS)
    channel.loseConnection()


def abort(channel: Any) -> None:
    """Drop an HTTP connection at once."""
    drop(channel.transport)
