"""Documents: an HTML page as an answer, and answers that a client knows already."""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from hashlib import blake2b

from twisted.web.http import NOT_MODIFIED
from twisted.web.server import NOT_DONE_YET, Request

from pushserver.web.accept import coding
from pushserver.web.resource import header, vary


@dataclass(frozen=True, slots=True)
class Document:
    """An HTML page, and the files that a browser shall load before it has read the page.

    `preload` is the value of the Link header (RFC 8288); a proxy may send it in advance.
    """

    html: bytes
    preload: str = ""


def answer_page(request: Request, document: Document) -> bytes | int:
    """Answer with an HTML page: compressed if the client accepts it, or 304 if it has the page.

    Compression tells the length of what a page has twice, so an attacker who chooses a part of a
    page and sees its length could guess a secret beside it (BREACH). These pages have no secret:
    the name of the channel from the URL, settings, and whether the caller may publish. Pages of
    errors are not compressed, as their text may be the application's.
    """
    request.setHeader(b"content-type", b"text/html; charset=utf-8")
    request.setHeader(b"cache-control", b"no-cache")
    vary(request, b"Accept-Encoding")
    page = document.html
    if document.preload:
        request.setHeader(b"link", document.preload.encode())
    if is_known(request, blake2b(page, digest_size=8).hexdigest()):
        return not_modified(request)
    if coding(header(request, "accept-encoding"), ("gzip",)) != "gzip":
        return page
    request.setHeader(b"content-encoding", b"gzip")
    return gzip.compress(page, 6, mtime=0)


def is_known(request: Request, version: str) -> bool:
    """Tag the answer with this version, and return whether the client has it.

    The tag is a weak one: another coding of the same version is as good for the client.
    """
    request.setHeader(b"etag", b'W/"%b"' % version.encode())
    known = header(request, "if-none-match")
    return known is not None and f'"{version}"' in known.replace(",", " ").replace("W/", "").split()


def not_modified(request: Request) -> int:
    """Answer 304."""
    request.setResponseCode(NOT_MODIFIED)
    # A returned body would set a Content-Length.
    request.finish()
    return NOT_DONE_YET
