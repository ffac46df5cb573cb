"""The server as a part of somebody's own Twisted site."""

from __future__ import annotations

from typing import Any, Protocol, cast

from twisted.internet.interfaces import ITCPTransport
from twisted.web.http import parse_qs
from twisted.web.resource import IResource, Resource
from twisted.web.server import Request

from pushserver.web.site import HEADERS, Fields

CLOSING_SECONDS = 15


class Surroundings(Protocol):
    """The part of its site that a resource needs."""

    allowed_origins: frozenset[str]

    def error_page(self, status: int, title: str, message: str, root: str, /) -> bytes:
        """A page that says what was wrong, with the way from here to the server's root."""

    def log_refusal(self, message: str) -> None:
        """Log why somebody was refused."""


class Mounted(Resource):
    """The root of the server, below whatever path it is put at.

    The bounds on requests are those of the site that it is put into.
    """

    def __init__(self, root: IResource, site: Surroundings):
        super().__init__()
        self._root = root
        self._site = site

    def getChildWithDefault(self, path: bytes, request: Any) -> Any:
        # A site has there the fields of a form too, which are what is published here.
        request.args = parse_qs(request.uri.partition(b"?")[2], True)
        request.requestHeaders = Fields(dict(request.requestHeaders.getAllRawHeaders()))
        for name, value in HEADERS.items():
            if name != b"server":
                request.setHeader(name, value)
        request.surroundings = self._site
        request.above = len(request.prepath) - 1
        return self._root.getChildWithDefault(path, request)

    def render(self, request: Request) -> bytes:
        # The pages' own links are relative to it.
        return cast(bytes, request.redirect(request.path + b"/") or b"")


def surroundings(request: Request) -> Surroundings:
    """Those of this request: where the server is mounted, or else its own site."""
    return cast(Surroundings, getattr(request, "surroundings", None) or request.site)


def depth(request: Request) -> int:
    """How many folders below the server's root this request's path is."""
    return request.path.count(b"/") - 1 - int(getattr(request, "above", 0))


def end(channel: Any) -> None:
    """Close an HTTP connection when all is sent, which is not waited for for ever."""
    channel.setTimeout(CLOSING_SECONDS)
    channel.loseConnection()


def abort(channel: Any) -> None:
    """Drop an HTTP connection at once."""
    cast(ITCPTransport, channel.transport).abortConnection()
