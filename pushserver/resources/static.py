"""The files that are served: those that our pages load, and the pages of the user."""

from __future__ import annotations

import os
import re
import stat
import warnings
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from twisted.logger import Logger
from twisted.web.http import CACHED, NOT_MODIFIED, stringToDatetime
from twisted.web.resource import IResource, Resource
from twisted.web.server import NOT_DONE_YET, Request

from pushserver.errors import StartFailed
from pushserver.web.hosts import Hosts
from pushserver.web.mount import abort, surroundings
from pushserver.web.resource import ContainerResource, NotFound, Refusal, Refusing, refuse

with warnings.catch_warnings():
    # Twisted 26.10's static module calls what it deprecates itself, when it is imported.
    warnings.filterwarnings("ignore", "twisted.web.resource._Unsafe", DeprecationWarning)
    from twisted.web.static import File

INDEX = "index.html"
ICON = b"favicon.ico"
LATER = frozenset({b"health", b"metrics", b"socket.io"})
"""URLs of versions to come, which no page of a user's may have until then."""

# What Python, or the machine's own table, may lack or have otherwise.
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
    # It says itself how it is written.
    ".xml": "application/xml",
    ".xz": "application/x-xz",
}
TYPES = {
    suffix: f"{kind}; charset=utf-8" if kind.startswith("text/") else kind
    for suffix, kind in _TYPES.items()
}


class StaticFiles(File):
    """The files below a folder, and nothing else: no listing, no hidden file, no way out.

    They are read from disk each time. A link is followed as long as it stays in the folder.
    A folder is its `index.html`.
    """

    def __init__(self, path: str, root: str = ""):
        super().__init__(path, "application/octet-stream")
        self._root = root or self.path
        self.contentTypes = TYPES
        # A file is sent as it is: who downloads a .gz gets a .gz.
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

    def directoryListing(self) -> Resource:
        return self.childNotFound

    def render(self, request: Request) -> bytes | int:
        if request.method not in (b"GET", b"HEAD"):
            return refuse(request, Refusal(405, "files are only read", {"allow": "GET, HEAD"}))
        try:
            found = os.stat(self.path)
        except OSError:
            return NotFound().render(request)
        if not within(self.path, self._root):
            surroundings(request).log_refusal(f"{self.path} leads out of {self._root}")
            return NotFound().render(request)
        if stat.S_ISDIR(found.st_mode) and os.path.isfile(os.path.join(self.path, INDEX)):
            return _to_folder(request)
        if not stat.S_ISREG(found.st_mode):
            return NotFound().render(request)
        try:
            return self._send(request, found)
        except Refusal as refusal:
            request.etag = None
            return refuse(request, refusal)

    def openForReading(self) -> Any:
        # File has a page of its own for some of these, and fails at the others.
        try:
            return super().openForReading()
        except OSError as error:
            status = 403 if isinstance(error, PermissionError) else 503
            problem = f"{self.basename()} cannot be read: {error.strerror}"
            raise Refusal(status, problem) from None

    def makeProducer(self, request: Request, fileForReading: BinaryIO) -> Any:
        file = _Measured(fileForReading, self.getFileSize(), partial(abort, request.channel))
        return super().makeProducer(request, file)

    def _send(self, request: Request, found: os.stat_result) -> bytes | int:
        for name, value in self._headers().items():
            request.setHeader(name, value)
        # The time alone would not do: a file may change twice in a second, and a copy may have
        # the time of its original.
        tag = b'"%x-%x-%x"' % (found.st_mtime_ns, found.st_size, found.st_ino)
        _put_right(request, tag, found.st_size)
        cached = request.setETag(tag) is CACHED
        answer: bytes | int = b"" if cached else super().render_GET(request)
        if request.code != NOT_MODIFIED:
            return answer
        # What is returned would be told as the length of the file, which is another.
        request.finish()
        return NOT_DONE_YET

    def _headers(self) -> Mapping[bytes, bytes]:
        # A vendored file's URL has its version in it; ours are asked for again each time,
        # and answered 304.
        vendored = "vendor" in Path(self.path).relative_to(self._root).parts
        return {b"cache-control": b"max-age=31536000, immutable" if vendored else b"no-cache"}


class UserPages(StaticFiles):
    """The pages of the user, and what belongs to them."""

    def _headers(self) -> Mapping[bytes, bytes]:
        # They may have scripts and styles in them, and load what they like; ours may not.
        return {
            b"cache-control": b"no-cache",
            b"content-security-policy": b"frame-ancestors 'self'",
        }

    def has(self, name: str) -> bool:
        """Whether there is anything of this name."""
        return os.path.exists(os.path.join(self.path, name))


class Root(ContainerResource):
    """All URLs of the server, and beside them the pages of the user, if there are any.

    Requests are served where `hosts` allows the host that they name.

    Ours win; the page at `/`, and the icon that browsers ask for when a page names none, are
    the user's if there are such.
    """

    _log = Logger()

    def __init__(
        self,
        children: Mapping[bytes, Resource],
        icon: Resource,
        hosts: Hosts,
        pages: UserPages | None = None,
    ):
        super().__init__(children)
        self._hosts = hosts
        self._icon = icon
        self._pages = pages
        for name in sorted(part.decode() for part in LATER.union(children) if part):
            if pages is not None and pages.has(name):
                self._log.warn(
                    "{name} in {pages} is not served: /{name} is the server's own",
                    name=name,
                    pages=pages.path,
                )

    def getChildWithDefault(self, path: bytes, request: Request) -> Any:
        refusal = self._hosts.refusal(request)
        if refusal is not None:
            return Refusing(refusal)
        if not path and request.postpath:
            return NotFound()
        if not path and self._pages is not None and self._pages.has(INDEX):
            return self._pages.getChild(path, request)
        return super().getChildWithDefault(path, request)

    def getChild(self, path: bytes, request: Request) -> Any:
        if path == ICON and not (self._pages is not None and self._pages.has(ICON.decode())):
            return self._icon
        if self._pages is None or path in LATER:
            return NotFound()
        return self._pages.getChild(path, request)


def pages_folder(given: str, private: Iterable[str]) -> str:
    """The folder of the user's pages, as it was looked for: in the current one if it is relative.

    Raises StartFailed if it is not there, and if one of the files that are `private` is in it;
    those may be empty.
    """
    folder = os.path.abspath(given)
    if not os.path.isdir(folder):
        raise StartFailed(f"pages = {given!r}: there is no folder {folder}", Path(folder))
    for path in filter(None, private):
        if within(path, folder):
            problem = f"everybody could read {os.path.abspath(path)}"
            raise StartFailed(f"pages = {given!r}: {problem}; take a folder with pages only")
    return folder


def within(path: str, folder: str) -> bool:
    """Whether it is in the folder, or the folder itself, when all links are followed."""
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))


class _Measured:
    """A file that is read, no longer than it was when its length was told.

    One that has become shorter cannot be sent as was said: then `shorter` is called.
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


def _put_right(request: Request, tag: bytes, size: int) -> None:
    """Leave of a request's conditions and ranges what twisted.web does as it should."""
    headers = request.requestHeaders
    known = request.getHeader(b"if-none-match")
    if known is not None:
        # It counts more than a time (RFC 9110, 13.2.2). A proxy that compresses weakens tags.
        headers.removeHeader(b"if-modified-since")
        known = known.replace(b"W/", b"").replace(b",", b" ")
        headers.setRawHeaders(b"if-none-match", [known])
    if not _is_date(request.getHeader(b"if-modified-since") or b""):
        headers.removeHeader(b"if-modified-since")
    if request.getHeader(b"if-range") not in (None, tag) or not _plain_range(request, size):
        headers.removeHeader(b"range")


def _is_date(text: bytes) -> bool:
    """Whether twisted.web reads this as a time; what raises another error it does not catch."""
    try:
        stringToDatetime(text.partition(b";")[0])
    except (ArithmeticError, LookupError, ValueError):
        return False
    return True


def _plain_range(request: Request, size: int) -> bool:
    """Whether a Range header asks for one part of a file of so many bytes.

    With Twisted 26.10 some others fail: the last bytes, more of them than there are, and several
    parts of which there is none. What it does not understand it logs.
    """
    given = request.getHeader(b"range") or b""
    found = re.fullmatch(rb"bytes=(\d{1,18})?-(\d{1,18})?", given)
    if found is None or not any(found.groups()):
        return False
    first, last = found.groups()
    if first is None:
        return int(last) <= size
    return last is None or int(first) <= int(last)


def _to_folder(request: Request) -> bytes:
    """Send on to the URL with a slash, to which a page's links are relative."""
    name = request.path.rpartition(b"/")[2]
    _, mark, query = request.uri.partition(b"?")
    request.setHeader(b"cache-control", b"no-cache")
    request.redirect(b"./" + name + b"/" + mark + query)
    return b""
