"""HTTP requests of scripts by the standard library, without redirects, with bounded answers.

By default, urllib turns a redirected POST into a GET, and sends the API key to any target.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Mapping
from contextlib import suppress
from email.message import Message
from functools import cache
from http.client import IncompleteRead
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urljoin, urlsplit
from urllib.request import (
    HTTPRedirectHandler,
    OpenerDirector,
    ProxyHandler,
    Request,
    build_opener,
)

from pushserver.auth.origin import host_name, loopback_address, loopback_host
from pushserver.errors import escaped

MAX_BYTES = 65_536
"""The longest answer."""
TEMPORARY = (502, 503, 504)
"""The statuses of a server that stops, and of a proxy whose server does not answer."""

_EXAMPLE = "http://localhost:8080"
_REDIRECTS = (301, 302, 303, 307, 308)
_MAX_CHARACTERS = 300
_NO_KEY = "; no key was sent: expected --api-key-file or PUSHSERVER_KEY, or api_key= in Python"
_NO_USER = "the URL has a name before an @: give an API key in place of that"
_EXPECTED = f"expected a URL such as {_EXAMPLE}"


class ServerRequest(Request):
    """A request to a server; `path` is the part after the URL of the server."""

    path = ""
    server = ""
    """The host and port of the server; `host` is that of the proxy when there is one."""

    @property
    def place(self) -> str:
        """The server and the proxy, for messages."""
        proxy = "" if self.host == self.server else f" through the proxy {self.host}"
        return f"{self.server}{proxy}"


def make_request(
    url: str,
    path: str,
    headers: Mapping[str, str],
    key: str | None = None,
    body: bytes | None = None,
) -> ServerRequest:
    """Make a GET, or a POST if there is a body, of a path below a URL; raises ValueError."""
    sent = dict(headers)
    if key is not None:
        sent["X-API-Key"] = _checked_key(key)
    try:
        method = "GET" if body is None else "POST"
        request = ServerRequest(f"{url.rstrip('/')}{path}", body, sent, method=method)
        request.path, request.server = path, request.host
        has_port = urlsplit(request.full_url).port != 0
    except ValueError as error:
        # The error may contain a part of a password.
        raise ValueError(
            _NO_USER if "@" in url else f"{printable(url)}: {error}, {_EXPECTED}"
        ) from None
    usable = request.type in ("http", "https") and request.host and has_port
    usable = usable and " " not in url and url.isprintable()
    if "@" in (request.host if usable else url):
        raise ValueError(_NO_USER)
    if not usable:
        raise ValueError(f"{printable(url)}: {_EXPECTED}")
    return request


def send(request: ServerRequest, seconds: float) -> Any:
    """Return the response with its body unread; `seconds` is the time limit of each read.

    Raises HTTPError for any status but 2xx, and OSError, HTTPException and ValueError.
    """
    return _opener(_local(request.server)).open(request, timeout=seconds)


def read_body(response: Any, seconds: float, most: int = MAX_BYTES) -> bytes:
    """Return at most `most` + 1 bytes of the body; raises OSError and HTTPException.

    `seconds` is the time limit of the whole body, in addition to that of each read.
    """
    deadline = time.monotonic() + seconds
    pieces: list[bytes] = []
    left = most + 1
    while left > 0:
        piece = response.read1(left)
        if not piece:
            if response.length:
                raise IncompleteRead(b"".join(pieces), response.length)
            break
        pieces.append(piece)
        left -= len(piece)
        if time.monotonic() > deadline:
            raise TimeoutError("timed out")
    return b"".join(pieces)


def refusal(request: ServerRequest, error: HTTPError, seconds: float) -> str:
    """Return the error message for an HTTPError, and close its answer."""
    with error:
        if error.code in _REDIRECTS:
            return _redirect(request, error.code, error.headers)
        try:
            message = json.loads(read_body(error.fp, seconds))["error"]["message"]
        except Exception:
            # The body is of no use, so the message is the status alone.
            text = f"{error.code} {printable(str(error.reason))}".rstrip()
        else:
            text = f"{error.code}: {printable(str(message))}"
        if "auth.api_keys" in text and not request.has_header("X-api-key"):
            text += _NO_KEY
        url = printable(request.full_url.partition("?")[0])
        if error.code in (405, 501):
            return f"{text} (of {url}: is this the URL of a pushserver?)"
        if error.code != 404:
            return text
        return f"{text} (of {url}; give the URL of the server alone, as {_EXAMPLE})"


def reason_of(error: BaseException) -> str:
    """Return the message of a request that failed, without what urllib puts around it."""
    return printable(str(getattr(error, "reason", None) or error))


def printable(text: str) -> str:
    """Return the text as one line of bounded length, without control characters."""
    more = "..." if len(text) > _MAX_CHARACTERS else ""
    return escaped(text[:_MAX_CHARACTERS]) + more


class _NoRedirects(HTTPRedirectHandler):
    """Makes an HTTPError of each redirect."""

    def http_error_302(self, *_: Any, **__: Any) -> Any:
        return None

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302


@cache
def _opener(direct: bool) -> OpenerDirector:
    """An opener; unless `direct`, it uses the proxies of the environment as urllib does."""
    return build_opener(_NoRedirects, *([ProxyHandler({})] if direct else []))


def _local(host: str) -> bool:
    """Whether this is the machine itself, which a proxy cannot reach or takes for itself."""
    name = host_name(host)
    with suppress(OSError):
        # 127.1 and other forms that the system accepts.
        name = socket.inet_ntoa(socket.inet_aton(name))
    return name in ("0.0.0.0", "::") or loopback_address(name) or loopback_host(host)


def _redirect(request: ServerRequest, status: int, headers: Message) -> str:
    location = headers.get("Location")
    if not location:
        return f"{request.place} answered {status}, a redirect without a Location"
    hint = "give the URL of the server there"
    try:
        target = urljoin(request.full_url, location)
    except ValueError:
        target = ""
    if target.endswith(request.path):
        hint = f"give {printable(target.removesuffix(request.path))} as the URL of the server"
    return (
        f"{request.place} answered {status}, a redirect to {printable(location)},"
        f" which is not followed: {hint}"
    )


def _checked_key(key: str) -> str:
    # The messages do not contain the key, as they end up in logs.
    try:
        encoded = key.encode()
    except UnicodeEncodeError:
        sendable = False
    else:
        sendable = key.isprintable()
    if not sendable:
        raise ValueError("the API key cannot be sent in a header: expected a printable text")
    # http.client sends each character as a byte.
    return encoded.decode("latin-1")
