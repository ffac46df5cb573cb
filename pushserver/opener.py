"""HTTP for scripts, by the standard library: no redirect is followed, and no answer is endless.

urllib on its own makes a GET of a POST that is redirected, and sends the API key along to
wherever that leads.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from email.message import Message
from functools import cache
from http.client import IncompleteRead
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urljoin, urlsplit
from urllib.request import HTTPRedirectHandler, OpenerDirector, Request, build_opener

MOST_BYTES = 65_536
"""The longest answer that is read."""

_REDIRECTS = (301, 302, 303, 307, 308)
_MOST_CHARACTERS = 300


class ServerRequest(Request):
    """A request to a server; `path` is what follows the URL of that server."""

    path = ""


def make_request(
    url: str,
    path: str,
    headers: Mapping[str, str],
    key: str | None = None,
    body: bytes | None = None,
) -> ServerRequest:
    """A GET, or with a body a POST, of a path below the URL of a server; raises ValueError."""
    sent = dict(headers)
    if key is not None:
        sent["X-API-Key"] = _checked_key(key)
    try:
        method = "GET" if body is None else "POST"
        request = ServerRequest(f"{url.rstrip('/')}{path}", body, sent, method=method)
        request.path = path
        has_port = urlsplit(request.full_url).port != 0
    except ValueError as error:
        raise ValueError(f"{url}: {error}") from None
    usable = request.type in ("http", "https") and request.host and has_port
    if not usable or " " in url or not url.isprintable():
        raise ValueError(f"{printable(url)}: expected a URL such as http://localhost:8080")
    if "@" in request.host:
        raise ValueError("the URL has a name before an @: give an API key in place of that")
    return request


def send(request: ServerRequest, seconds: float) -> Any:
    """The response, whose body has not been read; `seconds` is the time limit of each wait.

    Raises HTTPError for any status but 2xx, and OSError, HTTPException and ValueError.
    """
    return _opener().open(request, timeout=seconds)


def read_body(response: Any, seconds: float) -> bytes:
    """The body, cut to one byte more than MOST_BYTES; raises OSError and HTTPException.

    `seconds` is the time limit of the whole of it, beside that of each wait.
    """
    until = time.monotonic() + seconds
    pieces: list[bytes] = []
    left = MOST_BYTES + 1
    while left > 0:
        piece = response.read1(left)
        if not piece:
            if response.length:
                raise IncompleteRead(b"".join(pieces), response.length)
            break
        pieces.append(piece)
        left -= len(piece)
        if time.monotonic() > until:
            raise TimeoutError("timed out")
    return b"".join(pieces)


def refusal(request: ServerRequest, error: HTTPError, seconds: float) -> str:
    """What to say of an answer that was an HTTPError; closes it."""
    with error:
        if error.code in _REDIRECTS:
            return _redirect(request, error.code, error.headers)
        try:
            said = json.loads(read_body(error.fp, seconds))["error"]["message"]
        except Exception:
            # Whatever is wrong with the body: the status is what matters.
            return f"{error.code} {printable(str(error.reason))}".rstrip()
        return f"{error.code}: {printable(str(said))}"


def printable(text: str) -> str:
    """The text on one line of bounded length, without characters that a terminal acts on."""
    more = "..." if len(text) > _MOST_CHARACTERS else ""
    shown = text[:_MOST_CHARACTERS]
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in shown) + more


class _NoRedirects(HTTPRedirectHandler):
    """Leaves each redirect to the handler of errors, which raises HTTPError."""

    def http_error_302(self, *_: Any, **__: Any) -> Any:
        return None

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302


@cache
def _opener() -> OpenerDirector:
    return build_opener(_NoRedirects)


def _redirect(request: ServerRequest, status: int, headers: Message) -> str:
    location = headers.get("Location")
    if not location:
        return f"{request.host} answered {status}, a redirect without a Location"
    hint = "give the URL of the server there"
    try:
        target = urljoin(request.full_url, location)
    except ValueError:
        target = ""
    if target.endswith(request.path):
        hint = f"give {printable(target.removesuffix(request.path))} as the URL of the server"
    return (
        f"{request.host} answered {status}, a redirect to {printable(location)},"
        f" which is not followed: {hint}"
    )


def _checked_key(key: str) -> str:
    # Without the key in the text, which ends up in logs.
    try:
        key.encode("latin-1")
    except UnicodeEncodeError:
        sendable = False
    else:
        sendable = key.isprintable()
    if not sendable:
        raise ValueError("the API key cannot be sent in a header: expected printable ASCII")
    return key
