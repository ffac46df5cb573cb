"""Fetches a URL for a source: redirects, timeouts and bounds.

Why not treq: it cannot keep the bounds. Measured with treq 26.7 and Twisted 26.10:

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
from pushserver.sources.http_client.headers import check_header
from pushserver.sources.http_client.response import Answer, Unusable, ask
from pushserver.sources.interface import SourceFailed
from pushserver.usercode.reactor import Reactor

MOST_REDIRECTS = 5

_REDIRECTS = (301, 302, 303, 307, 308)

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Document:
    """A whole answer; `url` is where it was at last, after all redirects."""

    body: bytes
    url: str
    content_type: str
    etag: str
    last_modified: str


class Fetcher:
    """One URL, to be asked once or often.

    `headers` go with each request, but not to another host that it is redirected to.
    `seconds` is how long an answer may take, for a stream its head. Raises ValueError that
    names the key, as `make` of a source type does.
    """

    def __init__(self, url: str, headers: Mapping[str, str], seconds: float):
        _check_url(url)
        for name, value in headers.items():
            check_header(name, value)
        self.url = url
        self.host = urlsplit(url).netloc
        # To know it again by; the URL itself may have a secret in it.
        self.mark = sha256(url.encode()).hexdigest()
        self._seconds = seconds
        self._headers = {"user-agent": f"pushserver/{__version__}"}
        self._headers |= {name.lower(): value for name, value in headers.items()}

    async def open(self, reactor: Reactor, headers: Mapping[str, str]) -> Answer:
        """The answer to a GET with these headers too; raises SourceFailed if there is none."""
        return await self._in_time(reactor, self._follow(reactor, headers))

    async def fetch(
        self, reactor: Reactor, headers: Mapping[str, str], max_bytes: int
    ) -> Document | None:
        """The document, or None if it was not modified.

        Raises SourceFailed if there is no answer, and Unusable for what is no document.
        """
        return await self._in_time(reactor, self._document(reactor, headers, max_bytes))

    async def _in_time(self, reactor: Reactor, work: Coroutine[Any, Any, Result]) -> Result:
        try:
            return await within(self._seconds, reactor, work)
        except TimeoutError:
            problem = f"{self.host} did not answer within {self._seconds:g} s (timeout_seconds)"
            raise SourceFailed(problem) from None

    async def _document(
        self, reactor: Reactor, headers: Mapping[str, str], max_bytes: int
    ) -> Document | None:
        answer = await self._follow(reactor, {**headers, "accept-encoding": "gzip"})
        try:
            if answer.status == 304:
                return None
            if answer.status != 200:
                raise answer.unusable()
            return Document(
                await answer.read_all(max_bytes),
                answer.url,
                answer.header("content-type"),
                answer.header("etag"),
                answer.header("last-modified"),
            )
        finally:
            answer.close()

    async def _follow(self, reactor: Reactor, more: Mapping[str, str]) -> Answer:
        url, own = self.url, self._headers
        for _ in range(MOST_REDIRECTS + 1):
            answer = await ask(reactor, url, {**own, **more})
            if answer.status not in _REDIRECTS:
                return answer
            answer.close()
            target = _target(answer)
            if _origin(target) != _origin(url):
                # Whoever is there was not meant to know any of the others.
                own = {"user-agent": own["user-agent"]}
            url = target
        raise Unusable(f"{self.host} redirects more than {MOST_REDIRECTS} times")


async def within(seconds: float, reactor: Reactor, work: Coroutine[Any, Any, Result]) -> Result:
    """What the coroutine gives; when that takes longer, it is cancelled: TimeoutError."""

    def late(*_: object) -> Failure:
        return Failure(TimeoutError())

    return await Deferred.fromCoroutine(work).addTimeout(seconds, reactor, late)


def _target(answer: Answer) -> str:
    try:
        target = urljoin(answer.url, answer.header("location"))
        _check_url(target)
    except ValueError:
        raise Unusable(f"{answer.host} redirects to what is no URL of HTTP") from None
    return target


def _check_url(url: str) -> None:
    """Raise ValueError unless it is one that can be asked for as it stands."""
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        usable = False
    if not usable or not url.isascii() or not url.isprintable() or " " in url:
        raise ValueError(f"url: {url!r:.80}, expected such as https://example.org/path (in ASCII)")
    if "@" in parts.netloc:
        raise ValueError("url: has a name before an @, expected that in headers.Authorization")


def _origin(url: str) -> tuple[str, str | None, int]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)
