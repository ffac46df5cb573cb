"""Fetches a URL for a source: redirects, timeouts and bounds.

Why not treq: it cannot keep the bounds. With treq 26.7 and Twisted 26.10, the first three
measured and the last read in its code:

- Its gzip decoder is always on and inflates each piece as it arrives: 389 KB became one piece
  of 67 MB before a bounded reader was called.
- It bounds the length of a header, not their number: 142 MB of headers were accepted in 1.5 s.
- It follows redirects without reading or closing the response, whose connection stays open as
  long as the server keeps it. A redirect to another host gets all headers but five.
- Its timeout covers the head only. It closes a connection after a body with loseConnection,
  which waits for the peer, and its reader never pauses the peer.

With `agent=` only our own agent could help, so all of `connection` and `response` would stay:
treq (and `multipart`) would replace about 15 lines.
"""

from __future__ import annotations

from collections.abc import Coroutine, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, TypeVar
from urllib.parse import urljoin, urlsplit

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from pushserver import __version__
from pushserver.config.convert import shown_url
from pushserver.sources.http_client.headers import check_header
from pushserver.sources.http_client.response import Response, UnusableResponse, request
from pushserver.sources.interface import SourceFailed
from pushserver.usercode.reactor import Reactor

MAX_REDIRECTS = 5

_REDIRECTS = (301, 302, 303, 307, 308)

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Document:
    """A whole response; `url` is its URL after all redirects."""

    body: bytes
    url: str
    content_type: str
    etag: str
    last_modified: str


class Fetcher:
    """Fetches one URL, any number of times.

    `headers` are sent with each request, but not to another host after a redirect. `seconds`
    bounds the time to the end of the response, or of its head for a stream. Raises ValueError
    that names the key of the configuration.
    """

    def __init__(self, url: str, headers: Mapping[str, str], seconds: float):
        _check_url(url)
        for name, value in headers.items():
            check_header(name, value)
        self.url = url
        self.host = urlsplit(url).netloc
        # Identifies the URL in what sources remember; the URL itself may contain a secret.
        self.url_digest = sha256(url.encode()).hexdigest()
        self._seconds = seconds
        self._headers = {"user-agent": f"pushserver/{__version__}"}
        self._headers |= {name.lower(): value for name, value in headers.items()}

    async def open(self, reactor: Reactor, headers: Mapping[str, str]) -> Response:
        """Return the response to a GET with these headers too; raises SourceFailed."""
        return await self._with_timeout(reactor, self._follow(reactor, headers))

    async def fetch(
        self, reactor: Reactor, headers: Mapping[str, str], max_bytes: int
    ) -> Document | None:
        """Return the document, or None if it was not modified.

        Raises SourceFailed if there is no response, and UnusableResponse if it has no document.
        """
        return await self._with_timeout(reactor, self._document(reactor, headers, max_bytes))

    async def _with_timeout(
        self, reactor: Reactor, coroutine: Coroutine[Any, Any, Result]
    ) -> Result:
        try:
            return await with_timeout(self._seconds, reactor, coroutine)
        except TimeoutError:
            problem = f"{self.host} did not answer within {self._seconds:g} s (timeout_seconds)"
            raise SourceFailed(problem) from None

    async def _document(
        self, reactor: Reactor, headers: Mapping[str, str], max_bytes: int
    ) -> Document | None:
        response = await self._follow(reactor, {**headers, "accept-encoding": "gzip"})
        try:
            if response.status == 304:
                return None
            if response.status != 200:
                raise response.status_error()
            return Document(
                await response.read_all(max_bytes),
                response.url,
                response.header("content-type"),
                response.header("etag"),
                response.header("last-modified"),
            )
        finally:
            response.close()

    async def _follow(self, reactor: Reactor, extra_headers: Mapping[str, str]) -> Response:
        url, own = self.url, self._headers
        for _ in range(MAX_REDIRECTS + 1):
            response = await request(reactor, url, {**own, **extra_headers})
            if response.status not in _REDIRECTS:
                return response
            response.close()
            target = _target(response)
            if _origin(target) != _origin(url):
                # Any of the user's headers may be a secret for the first host only.
                own = {"user-agent": own["user-agent"]}
            url = target
        raise UnusableResponse(f"{self.host} redirects more than {MAX_REDIRECTS} times")


async def with_timeout(
    seconds: float, reactor: Reactor, coroutine: Coroutine[Any, Any, Result]
) -> Result:
    """Return the coroutine's result; after `seconds` cancel it and raise TimeoutError."""

    def timed_out(*_: object) -> Failure:
        return Failure(TimeoutError())

    return await Deferred.fromCoroutine(coroutine).addTimeout(seconds, reactor, timed_out)


def _target(response: Response) -> str:
    try:
        target = urljoin(response.url, response.header("location"))
        _check_url(target)
    except ValueError:
        raise UnusableResponse(f"{response.host} redirects to an invalid URL") from None
    return target


def _check_url(url: str) -> None:
    """Raise ValueError unless the URL can be requested as it is."""
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        usable = False
    if not usable or not url.isascii() or not url.isprintable() or " " in url:
        raise ValueError(
            f"url: {shown_url(url)}, expected a URL in ASCII such as https://example.org/path"
        )
    if "@" in parts.netloc:
        raise ValueError("url: has a user name before an @, expected it in headers.Authorization")


def _origin(url: str) -> tuple[str, str | None, int]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)
