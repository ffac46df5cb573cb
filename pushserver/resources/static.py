"""Static files: types, caching, ranges, and the bounds of the folder."""

from __future__ import annotations

import os
import re
import stat
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from twisted.web.http import CACHED, NOT_MODIFIED, stringToDatetime
from twisted.web.resource import IResource, Resource
from twisted.web.server import NOT_DONE_YET, Request

from pushserver.resources.variants import (
    FileVersion,
    VariantCache,
    Variants,
    digest_of,
    version_of,
)
from pushserver.web.accept import coding
from pushserver.web.mount import abort, surroundings, to_folder
from pushserver.web.resource import Answer, LeafResource, NotFound, Refusal, header, refuse

with warnings.catch_warnings():
    # Twisted 26.10's static module calls what it deprecates itself, when it is imported.
    warnings.filterwarnings("ignore", "twisted.web.resource._Unsafe", DeprecationWarning)
    from twisted.web.static import File

INDEX = "index.html"

# Types that Python's table, or that of the machine, may lack or have otherwise.
_TYPES: dict[str, str] = {
    **File.contentTypes,
    ".avif": "image/avif",
    ".bz2": "application/x-bzip2",
    ".css": "text/css",
    ".csv": "text/csv",
    ".geojson": "application/geo+json",
    ".gz": "application/gzip",
    ".htm": "text/html",
    ".html": "text/html",
    ".ico": "image/vnd.microsoft.icon",
    ".js": "text/javascript",
    ".json": "application/json",
    ".map": "application/json",
    ".md": "text/markdown",
    ".mjs": "text/javascript",
    ".mp4": "video/mp4",
    ".otf": "font/otf",
    ".svg": "image/svg+xml",
    ".ttf": "font/ttf",
    ".txt": "text/plain",
    ".wasm": "application/wasm",
    ".webm": "video/webm",
    ".webmanifest": "application/manifest+json",
    ".webp": "image/webp",
    ".woff": "font/woff",
    ".woff2": "font/woff2",
    # No charset: the file declares its encoding.
    ".xml": "application/xml",
    ".xz": "application/x-xz",
}
TYPES = {
    suffix: f"{kind}; charset=utf-8" if kind.startswith("text/") else kind
    for suffix, kind in _TYPES.items()
}

_DOCUMENT_TYPES = {**TYPES, ".md": TYPES[".txt"]}

_POLICY = b"content-security-policy"

COMPRESSED = {".css", ".js", ".svg"}
"""The files of the server that browsers load; they are a quarter of their size with gzip."""


class StaticFiles(File):
    """The files below a folder, without listings and hidden files.

    Files are read from disk on each request. Links that lead out of the folder are not followed.
    The URL of a folder is that of its `index.html`.
    """

    def __init__(self, path: str, root: str = ""):
        super().__init__(path, "application/octet-stream")
        self._root = root or self.path
        self.contentTypes = TYPES
        # No Content-Encoding: a download of a .gz is a .gz.
        self.contentEncodings = {}
        self.indexNames = [INDEX]
        self.childNotFound = NotFound()  # type: ignore[assignment]

    def createSimilarFile(self, path: str) -> StaticFiles:
        return type(self)(path, self._root)

    def getChild(self, path: bytes, request: Request) -> IResource:
        try:
            name = path.decode("utf-8")
            os.fsencode(name)
        except UnicodeError:
            return self.childNotFound
        if name.startswith(".") or any(letter in name for letter in "\0/\\"):
            return self.childNotFound
        child: IResource = super().getChild(path, request)
        return child

    def finds(self, segments: Sequence[bytes]) -> bool:
        """Whether the path below this folder is that of a file which is served."""
        child: Any = self
        for segment in segments:
            child = child.children.get(segment) or child.getChild(segment, None)
            if not isinstance(child, StaticFiles):
                return False
        return os.path.isfile(child.path)

    def directoryListing(self) -> Resource:
        return self.childNotFound

    def render(self, request: Request) -> bytes | int:
        if request.method not in (b"GET", b"HEAD"):
            return refuse(request, Refusal(405, "files are only read", {"allow": "GET, HEAD"}))
        try:
            status = os.stat(self.path)
        except OSError:
            return NotFound().render(request)
        if not within(self.path, self._root):
            reason = f"{self.path} leads out of {self._root}"
            surroundings(request).log_refusal(request, 404, reason)
            return NotFound().render(request)
        if stat.S_ISDIR(status.st_mode) and os.path.isfile(os.path.join(self.path, INDEX)):
            request.setHeader(b"cache-control", b"no-cache")
            return to_folder(request)
        if not stat.S_ISREG(status.st_mode):
            return NotFound().render(request)
        try:
            return self._send(request, status)
        except Refusal as refusal:
            request.etag = None
            return refuse(request, refusal)

    def openForReading(self) -> Any:
        # File answers some of these errors with its own page, and others with a 500.
        try:
            return super().openForReading()
        except OSError as error:
            code = 403 if isinstance(error, PermissionError) else 503
            raise Refusal(code, f"{self.basename()} cannot be read: {error.strerror}") from None

    def makeProducer(self, request: Request, fileForReading: BinaryIO) -> Any:
        file = _BoundedFile(fileForReading, self.getFileSize(), partial(abort, request.channel))
        return super().makeProducer(request, file)

    def _send(self, request: Request, status: os.stat_result) -> bytes | int:
        version = version_of(status)
        variants = self._variants(version)
        for name, value in self._headers(request, variants).items():
            request.setHeader(name, value)
        chosen = _coding(request, variants)
        tag = b'"%b%b"' % (
            b"-".join(b"%x" % part for part in version),
            f"-{chosen}".encode() if chosen else b"",
        )
        _drop_unsafe_conditions(request, tag, status.st_size)
        answer: bytes | int = b""
        if request.setETag(tag) is not CACHED:
            if variants is not None and chosen:
                return self._send_compressed(request, chosen, variants.codings[chosen])
            answer = super().render_GET(request)
        if request.code != NOT_MODIFIED:
            return answer
        # A returned body would set a wrong Content-Length.
        request.finish()
        return NOT_DONE_YET

    def _variants(self, version: FileVersion) -> Variants | None:
        """The compressed forms of the file, if it has them."""
        return None

    def _send_compressed(self, request: Request, coding: str, data: bytes) -> int:
        request.setHeader(b"content-encoding", coding.encode())
        request.setHeader(b"content-type", TYPES[_suffix(self.path)].encode())
        request.setHeader(b"content-length", b"%d" % len(data))
        # twisted.web leaves out the body of an answer to HEAD.
        request.write(data)
        request.finish()
        return NOT_DONE_YET

    def _headers(self, request: Request, variants: Variants | None) -> Mapping[bytes, bytes]:
        # A URL may contain the version of its file. All others are revalidated each time, and
        # mostly answered with 304.
        versions = request.args.get(b"v")
        immutable = variants is not None and versions == [variants.digest.encode()]
        immutable = immutable or self._has_version()
        return {b"cache-control": cache_control(immutable)}

    def _has_version(self) -> bool:
        """Whether the path of the file contains its version, as that of a vendored file."""
        return "vendor" in Path(self.path).relative_to(self._root).parts


class PublicFiles(StaticFiles):
    """The server's own files, which pages of all origins may read.

    A browser fetches an ES module in this way. The files contain no secrets; which pages may
    connect is a matter of `allowed_origins`.
    """

    def _send(self, request: Request, status: os.stat_result) -> bytes | int:
        # A policy is for documents; it has the size of a short script. An SVG is a document, and
        # so is the page of an error.
        policy = request.responseHeaders.getRawHeaders(_POLICY, [])
        if _suffix(self.path) in (".css", ".js"):
            request.responseHeaders.removeHeader(_POLICY)
        try:
            return super()._send(request, status)
        except Refusal:
            request.responseHeaders.setRawHeaders(_POLICY, policy)
            raise

    def _headers(self, request: Request, variants: Variants | None) -> Mapping[bytes, bytes]:
        headers = {**super()._headers(request, variants), b"access-control-allow-origin": b"*"}
        if _suffix(self.path) in COMPRESSED:
            headers[b"vary"] = b"accept-encoding"
        return headers

    def _variants(self, version: FileVersion) -> Variants | None:
        return _cache.get(self.path, version) if _suffix(self.path) in COMPRESSED else None


class Documents(PublicFiles):
    """The server's documents, as text that browsers show."""

    def __init__(self, path: str, root: str = ""):
        super().__init__(path, root)
        self.contentTypes = _DOCUMENT_TYPES


class StyleResource(LeafResource):
    """A style that the server makes."""

    def __init__(self, style: bytes):
        super().__init__()
        self._style = style

    def answer_get(self, request: Request) -> Answer:
        versions = request.args.get(b"v")
        request.setHeader(b"content-type", TYPES[".css"].encode())
        request.setHeader(
            b"cache-control", cache_control(versions == [digest_of(self._style).encode()])
        )
        return self._style


def cache_control(immutable: bool) -> bytes:
    """The Cache-Control of a file, whose URL may contain its version."""
    return b"max-age=31536000, immutable" if immutable else b"no-cache"


class OwnPublicFiles(PublicFiles):
    """The user's files at the URLs of the server's own."""

    def _has_version(self) -> bool:
        return False


class OverlaidFiles(PublicFiles):
    """The server's own files, with those of the user in their place."""

    def __init__(self, path: str, root: str = "", own: OwnPublicFiles | None = None):
        super().__init__(path, root)
        self._own = own

    def createSimilarFile(self, path: str) -> StaticFiles:
        return PublicFiles(path, self._root)

    def finds(self, segments: Sequence[bytes]) -> bool:
        if len(segments) == 1 and segments[0] in self.children:
            return True
        return (self._own is not None and self._own.finds(segments)) or super().finds(segments)

    def getChildWithDefault(self, path: bytes, request: Request) -> Any:
        if self._own is not None and self._own.finds([path, *(request.postpath or ())]):
            return self._own.getChildWithDefault(path, request)
        return super().getChildWithDefault(path, request)


_cache = VariantCache()


def _coding(request: Request, variants: Variants | None) -> str:
    """The coding of the answer; "" for the file as it is, of which a range is one, too."""
    if variants is None or request.getHeader(b"range") is not None:
        return ""
    chosen = coding(header(request, "accept-encoding"), tuple(variants.codings))
    return "" if chosen == "identity" else chosen


def _suffix(path: str) -> str:
    return os.path.splitext(path)[1].lower()


def within(path: str, folder: str) -> bool:
    """Whether the path is the folder or in it, after all links are resolved."""
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))


class _BoundedFile:
    """A file that is read up to the length in the headers.

    `shorter` is called when the file has become shorter than that.
    """

    def __init__(self, file: BinaryIO, size: int, shorter: Callable[[], object]):
        self._file = file
        self._size = size
        self._shorter = shorter
        self.seek = file.seek
        self.close = file.close

    def read(self, size: int) -> bytes:
        wanted = min(size, self._size - self._file.tell())
        data = self._file.read(wanted)
        if wanted and not data:
            self._shorter()
        return data


def _drop_unsafe_conditions(request: Request, tag: bytes, size: int) -> None:
    """Remove the conditions and ranges of a request that twisted.web handles wrongly."""
    headers = request.requestHeaders
    tags = request.getHeader(b"if-none-match")
    if tags is not None:
        # Tags take precedence over the time (RFC 9110, 13.2.2). A proxy that compresses makes
        # them weak.
        headers.removeHeader(b"if-modified-since")
        tags = tags.replace(b"W/", b"").replace(b",", b" ")
        headers.setRawHeaders(b"if-none-match", [tags])
    if not _is_date(request.getHeader(b"if-modified-since") or b""):
        headers.removeHeader(b"if-modified-since")
    if request.getHeader(b"if-range") not in (None, tag) or not _plain_range(request, size):
        headers.removeHeader(b"range")


def _is_date(text: bytes) -> bool:
    """Whether twisted.web can read this as a time; it does not catch all errors of its parser."""
    try:
        stringToDatetime(text.partition(b";")[0])
    except (ArithmeticError, LookupError, ValueError):
        return False
    return True


def _plain_range(request: Request, size: int) -> bool:
    """Whether a Range header asks for a single part of a file of `size` bytes.

    Twisted 26.10 fails for some other ranges: a suffix longer than the file, and several parts
    that are all outside it. It logs a range that it cannot parse.
    """
    match = re.fullmatch(rb"bytes=(\d{1,18})?-(\d{1,18})?", request.getHeader(b"range") or b"")
    if match is None or not any(match.groups()):
        return False
    first, last = match.groups()
    if first is None:
        return int(last) <= size
    return last is None or int(first) <= int(last)
